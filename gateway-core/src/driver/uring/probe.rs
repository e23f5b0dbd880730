//! Whether this host can do what the bare ring needs, and what is missing if not.

use std::{io, thread, time::Duration};

use uring::{IoUring, Probe, opcode};

use super::ring::{Ring, Shape, Sleep};
use super::{buffers::BufferShape, token::Token};

/// What is asked of the kernel, by name, and since when it has it.
const NEEDED: [(u8, &str, &str); 12] = [
    (opcode::PollAdd::CODE, "POLL_ADD", "5.1"),
    (opcode::Timeout::CODE, "TIMEOUT", "5.4"),
    (opcode::Accept::CODE, "ACCEPT", "5.5"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL", "5.5"),
    (opcode::TimeoutUpdate::CODE, "TIMEOUT_REMOVE", "5.5"),
    (opcode::FilesUpdate::CODE, "FILES_UPDATE", "5.6"),
    (opcode::Send::CODE, "SEND", "5.6"),
    (opcode::Recv::CODE, "RECV", "5.6"),
    (opcode::Close::CODE, "CLOSE", "5.6"),
    (opcode::Shutdown::CODE, "SHUTDOWN", "5.11"),
    // Not used, but of the kernel that has multishot receives, which no probe tells.
    (opcode::SendZc::CODE, "multishot RECV", "6.0"),
    (opcode::FixedFdInstall::CODE, "FIXED_FD_INSTALL", "6.8"),
];

/// How long a request may take to come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the bare ring works here: builds one as a shard would, and passes a request through it. (Some sandboxes create rings
/// that then cannot be entered.)
///
/// On a thread of its own: the kernel takes a ring down by and by, and interrupts system calls of the thread it was used on.
///
/// # Errors
/// What the kernel lacks, or that a sysctl, seccomp filter or sandbox forbids io_uring.
pub fn probe() -> io::Result<()> {
    let thread = thread::Builder::new()
        .name("probe".into())
        .spawn(try_ring)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

fn try_ring() -> io::Result<()> {
    let plain: IoUring = IoUring::new(8)?;
    let mut known = Probe::new();
    plain.submitter().register_probe(&mut known)?;
    let lacking = NEEDED
        .into_iter()
        .find(|(code, ..)| !known.is_supported(*code));
    if let Some((_, name, since)) = lacking {
        return Err(lacks(&format!("{name} (Linux {since})")));
    }
    let parameters = plain.params();
    if !parameters.is_feature_skip_cqe_on_success() {
        return Err(lacks("CQE_SKIP (Linux 5.17)"));
    }
    let mut ring = Ring::new(Shape {
        descriptors: 8,
        buffers: BufferShape {
            count: 1,
            bytes: 4096,
        },
    })?;
    // There is nobody in the place, so it completes at once.
    ring.receive(0, false, Token::Bell);
    ring.enter(Some(Sleep {
        now: Duration::ZERO,
        until: PATIENCE,
    }))?;
    match ring.next() {
        Some(_) => Ok(()),
        None => Err(io::Error::other(
            "a request did not come back from the ring",
        )),
    }
}

fn lacks(what: &str) -> io::Error {
    let message = format!("the kernel's io_uring lacks {what}");
    io::Error::new(io::ErrorKind::Unsupported, message)
}
