//! The ring: its size, its flags, and whether this host allows it.

use std::{io, thread};

use io_uring::{Builder, IoUring, Probe, opcode};

/// Submissions that fit before they must be handed over: one tick arms at most a few thousand polls.
pub(super) const ENTRIES: u32 = 4096;
/// Completions that fit: more polls than this may fire at once (the kernel then keeps the rest), but not often.
const COMPLETIONS: u32 = 16_384;

/// How the ring is set up: found out once per process by [`probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFlags {
    /// `SINGLE_ISSUER | COOP_TASKRUN | TASKRUN_FLAG`: completions wait for the thread's next system call instead of
    /// interrupting it. Linux 6.0.
    ///
    /// Never `DEFER_TASKRUN`: monoio's submit asks for no completions, so a busy shard would see none.
    pub cooperative: bool,
}

impl RingFlags {
    /// For monoio.
    pub(super) fn builder(self) -> Builder {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        if self.cooperative {
            builder
                .setup_single_issuer()
                .setup_coop_taskrun()
                .setup_taskrun_flag();
        }
        builder
    }
}

/// Whether rings work here, and with which flags: builds one, asks for the operations we need, and passes a no-op through
/// it. (Some sandboxes create rings that then cannot be entered.)
///
/// On a thread of its own: the kernel takes a ring down by and by, and interrupts system calls of the thread it was used on.
///
/// # Errors
/// The kernel is too old, or a sysctl, seccomp filter or sandbox forbids io_uring.
pub fn probe() -> io::Result<RingFlags> {
    let modern = RingFlags { cooperative: true };
    let plain = RingFlags { cooperative: false };
    let thread = thread::Builder::new()
        .name("probe".into())
        .spawn(move || try_ring(modern).or_else(|_| try_ring(plain)))?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

fn try_ring(flags: RingFlags) -> io::Result<RingFlags> {
    let mut ring = flags.builder().build(ENTRIES)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    for (code, name) in [
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::Close::CODE, "CLOSE"),
        (opcode::Timeout::CODE, "TIMEOUT"),
    ] {
        if !known.is_supported(code) {
            let message = format!("the kernel's io_uring lacks {name}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    }
    let nop = opcode::Nop::new().build();
    // SAFETY: a no-op refers to no memory.
    #[allow(unsafe_code)]
    unsafe {
        ring.submission().push(&nop).map_err(io::Error::other)?;
    }
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(done) if done.result() >= 0 => Ok(flags),
        Some(done) => Err(io::Error::from_raw_os_error(-done.result())),
        None => Err(io::Error::other("a no-op did not come back from the ring")),
    }
}
