//! Wakers that only take notes: nothing runs when `h2` wakes us, we look later.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// Remembers that the connection wants to be polled.
#[derive(Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The streams that were woken since the last look.
///
/// `h2` forgets a waker when it uses it, so a stream stands here at most once per poll.
#[derive(Default)]
pub(crate) struct ReadyList(Mutex<Vec<u32>>);

impl ReadyList {
    /// A waker that puts `stream` on the list.
    pub(crate) fn waker(self: &Arc<Self>, stream: u32) -> Waker {
        let list = Arc::clone(self);
        Waker::from(Arc::new(StreamWaker { stream, list }))
    }

    /// Swaps the list with an empty `other`.
    pub(crate) fn take_into(&self, other: &mut Vec<u32>) {
        debug_assert!(other.is_empty());
        mem::swap(&mut *self.lock(), other);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    // One thread at a time uses a connection: the lock is never contended.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StreamWaker {
    stream: u32,
    list: Arc<ReadyList>,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.list.lock().push(self.stream);
    }
}
