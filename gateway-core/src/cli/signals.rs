//! SIGTERM and SIGINT.

use std::io;

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Signals that no longer end the process by themselves.
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on signals wait for [`watch`](Self::watch).
    pub(super) fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(inside);
        Ok(Self {
            runtime,
            terminate,
            interrupt,
        })
    }

    /// Calls `first` at the first signal and `second` at the next, until `over` is dropped at its other end.
    pub(super) fn watch(
        self,
        first: impl FnOnce(),
        second: impl FnOnce(),
        mut over: oneshot::Receiver<()>,
    ) {
        let (mut terminate, mut interrupt) = (self.terminate, self.interrupt);
        let mut came = async || {
            tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = &mut over => false,
            }
        };
        self.runtime.block_on(async {
            if came().await {
                first();
                if came().await {
                    second();
                }
            }
        });
    }
}
