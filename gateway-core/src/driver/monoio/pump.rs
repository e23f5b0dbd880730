//! Going on without parking, and without starving the sockets.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// A task whose only purpose is to be runnable.
///
/// A tick with work left over must let completions in before it goes on. If it woke itself, monoio would poll it again at
/// once, forever, without a look at the ring. With another task runnable instead, monoio submits and takes completions without
/// waiting (one `io_uring_enter`, or one `epoll_wait` of no duration), then runs that task, which wakes the tick. The task
/// never wakes itself: monoio would put it in front of all others.
pub(super) struct Pump {
    task: Rc<Cell<Option<Waker>>>,
}

impl Pump {
    /// Starts the task, which wakes `tick`.
    pub(super) fn start(tick: Waker) -> Self {
        let task = Rc::new(Cell::new(None));
        let own = Rc::clone(&task);
        // Detached: it ends with the runtime.
        drop(monoio::spawn(poll_fn(move |cx| {
            own.set(Some(cx.waker().clone()));
            tick.wake_by_ref();
            Poll::<()>::Pending
        })));
        Self { task }
    }

    /// Has the tick polled again after a look at the completions.
    pub(super) fn again(&self) {
        // Not there before its first run, after which it wakes the tick by itself.
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}
