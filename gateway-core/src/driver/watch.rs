//! What a driver lends its shard's timesheet: the clock, and what the scheduler says of this thread.

use std::{fs::File, os::unix::fs::FileExt, rc::Rc, time::Duration};

use crate::{
    driver::Clock,
    shard::Shard,
    timesheet::{Timesheet, Watch},
};

/// The clock, and the scheduler's figures of the thread that made it.
struct ThreadWatch {
    clock: Clock,
    /// `/proc/thread-self/schedstat`, kept open: read anew at each look. `None`: there is none here.
    schedstat: Option<File>,
}

/// Starts the timesheet of a shard that this thread runs. Gives the driver's end of it.
pub fn start(shard: &Shard, clock: Clock) -> Rc<Timesheet> {
    let sheet = shard.timesheet();
    let schedstat = File::open("/proc/thread-self/schedstat").ok();
    sheet.start(ThreadWatch { clock, schedstat });
    sheet
}

impl Watch for ThreadWatch {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn run_delay(&self) -> Option<Duration> {
        let mut text = [0; 96];
        let file = self.schedstat.as_ref()?;
        let length = file.read_at(&mut text, 0).ok()?;
        run_delay(&text[..length])
    }
}

/// The second figure of a `schedstat`: nanoseconds spent waiting on a run queue (kernel documentation, `sched-stats`).
fn run_delay(schedstat: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(schedstat).ok()?;
    let nanos = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_delay_is_the_second_figure() {
        let delay = run_delay(b"956333 654396 1\n");
        assert_eq!(delay, Some(Duration::from_nanos(654_396)));
        assert_eq!(run_delay(b""), None);
    }
}
