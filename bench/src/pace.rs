//! Messages at a rate that does not depend on how whoever gets them is doing.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

/// What is due is sent in bursts, one for each of these.
pub const BURST: Duration = Duration::from_millis(1);
/// A timer may be as late as this by itself. What is later than that is somebody's fault, and is counted.
pub const TIMER: Duration = Duration::from_millis(2);

/// Calls `burst` once a millisecond for `length`, with the number of messages that are due and the time from which their
/// latency counts: when the timer rang, or, if that was late because an earlier burst had to wait, when they were due. What
/// is too much for the machine or for whoever takes it is not made up for after `length`. Gives the time it took.
///
/// # Errors
/// What `burst` says.
pub async fn pace(
    rate: f64,
    length: Duration,
    mut burst: impl AsyncFnMut(Instant, u64) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let (mut due, mut sent) = (began, 0);
    while due < began + length {
        sleep_until(due.into()).await;
        let woke = Instant::now();
        if woke > began + length + TIMER {
            break;
        }
        let late = woke - due > TIMER;
        let stamp = if late { due } else { woke };
        due += BURST;
        let quota = ((due - began).as_secs_f64() * rate) as u64;
        burst(stamp, quota - sent).await?;
        sent = quota;
        // A burst that never had to wait has given nobody a turn.
        tokio::task::yield_now().await;
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_bursts_count_from_when_they_were_due() {
        // The first burst blocks for 50 ms: those that were due meanwhile waited for it, and must say so.
        let (mut waited, mut sent) = (Duration::ZERO, 0);
        let began = Instant::now();
        pace(1_000.0, Duration::from_millis(200), async |stamp, due| {
            if sent == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            sent += due;
            waited = waited.max(stamp.elapsed());
            Ok(())
        })
        .await
        .unwrap();
        assert!(waited > Duration::from_millis(45), "{waited:?}");
        assert_eq!(sent, 200);
        assert!(began.elapsed() > Duration::from_millis(195));
    }
}
