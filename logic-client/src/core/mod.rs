//! The client's protocol, without a runtime: commands, bytes and the time in; frames, events and
//! the next deadline out. It opens no socket, reads no clock and spawns no task.
//!
//! - [`router`] says which streams a command goes to, [`reroute`] moves what was not sent when
//!   a gateway has changed;
//! - [`buffer`] holds what one stream has not sent;
//! - [`stream`] is the life of one stream across its connections: numbers, acks, events, backoff;
//! - [`link`] is one connection of a stream: bytes to frames and back;
//! - [`returned`] says what is handed back, and why, [`again`] where it goes when it is pushed again;
//! - [`receipts`] puts the answers of several streams together;
//! - [`mesh`] is what all streams share, [`gateways`] how it follows what gateways become,
//!   [`common_port`] how it reaches one whose shards' ports are closed;
//! - [`directory`] knows which users are where, [`locate`] routes by it, [`query`] puts answers of
//!   several streams together, [`presence`] is what the mesh keeps of all that;
//! - [`queue`] is what callers and the runner of one stream share, [`inbox`] what clients did, on
//!   its way to the application;
//! - [`runner`] keeps one stream alive, [`seeker`] looks for a gateway that was never reached: both
//!   say what they wish for, and a driver carries it out.

pub(crate) mod again;
pub(crate) mod backoff;
pub(crate) mod buffer;
pub(crate) mod check;
pub(crate) mod common_port;
pub(crate) mod description;
pub(crate) mod directory;
pub(crate) mod gateways;
pub(crate) mod inbox;
pub(crate) mod link;
pub(crate) mod locate;
pub(crate) mod many;
pub(crate) mod mesh;
pub(crate) mod presence;
pub(crate) mod query;
pub(crate) mod queue;
pub(crate) mod receipts;
pub(crate) mod reroute;
pub(crate) mod returned;
pub(crate) mod router;
pub(crate) mod runner;
pub(crate) mod seeker;
pub(crate) mod stream;
#[cfg(test)]
pub(crate) mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; the state behind is sound even if another thread panicked, for nothing in it is left
/// half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
