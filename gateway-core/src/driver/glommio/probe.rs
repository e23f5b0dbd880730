//! Whether this host can do what glommio needs, and what is missing if not.

use std::{io, thread};

use rustix::process::{Resource, getrlimit};
use uring::{IoUring, Probe, opcode};

/// Bytes that glommio wants to be allowed to lock.
const MEMLOCK: u64 = 512 << 10;

/// What glommio asks of the kernel, all of it there since Linux 5.8; where it is not, glommio ends the process.
const NEEDED: [(u8, &str); 8] = [
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::Statx::CODE, "STATX"),
    (opcode::Send::CODE, "SEND"),
    (opcode::Recv::CODE, "RECV"),
];

/// Whether glommio works here: makes an executor as a shard would, and runs a task on it. (Some sandboxes create rings that
/// then cannot be entered.)
///
/// On a thread of its own: the kernel takes rings down by and by, and interrupts system calls of the thread they were used on.
///
/// # Errors
/// What the kernel lacks, that too little memory may be locked, or that a sysctl, seccomp filter or sandbox forbids io_uring.
pub fn probe() -> io::Result<()> {
    let thread = thread::Builder::new()
        .name("probe".into())
        .spawn(try_executor)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

fn try_executor() -> io::Result<()> {
    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    if limit < MEMLOCK {
        let limit = limit >> 10;
        return Err(io::Error::other(format!(
            "the process may lock {limit} KiB of memory, glommio wants 512 (memlock, tuning/limits.conf)"
        )));
    }
    let ring: IoUring = IoUring::new(8)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    let lacking = NEEDED
        .into_iter()
        .find(|(code, _)| !known.is_supported(*code));
    if let Some((_, name)) = lacking {
        let message = format!("the kernel's io_uring lacks {name} (Linux 5.8)");
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    super::executor()?.run(async {
        // Goes through a ring.
        glommio::timer::sleep(std::time::Duration::from_nanos(1)).await;
    });
    Ok(())
}
