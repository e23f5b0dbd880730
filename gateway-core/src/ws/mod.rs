//! WebSocket (RFC 6455), sans-io: from the first byte of a client to its messages.
//!
//! 1. [`upgrade`] reads the HTTP request and answers it, or refuses it for a [`refusal`] with a name.
//! 2. [`identify`] says whose connection it is.
//! 3. [`session`] turns received bytes into events, by way of [`frames`].
//! 4. [`frames::encode`] and [`close::encode_close`] write what goes back.
//!
//! Nothing here owns a socket or reads a clock; all of it takes and gives bytes.

pub mod close;
pub mod frames;
pub mod identify;
pub mod refusal;
pub mod session;
pub mod upgrade;

pub use close::{CloseCode, encode_close, encode_close_reply};
pub use frames::Opcode;
pub use identify::{Identify, Identity, QueryUser};
pub use refusal::{Refusal, RefusalReason, RefuseMode, refuse, write_refusal};
pub use session::{Event, Session, SessionLimits, Violation};
pub use upgrade::{Page, Progress, UpgradeConfig, UpgradeRequest, parse, write_accept};
