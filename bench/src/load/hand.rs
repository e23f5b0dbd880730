//! Whoever pushes.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{BURST, Flow, Plan, Until};
use crate::{
    clock,
    peers::{Peer, Pusher},
    receive::{Receiving, Taken},
    verify::{Faults, Issuer},
};

/// Unmeasured time at a rate.
const SETTLE: Duration = Duration::from_millis(300);

pub(super) struct Hand {
    pub(super) receiving: Receiving,
    pusher: Box<dyn Pusher>,
    issuer: Issuer,
    targets: u64,
    members: u64,
    users: u64,
    in_a_row: u64,
    window: u64,
    /// Messages pushed.
    pushed: u64,
    /// The deliveries they make.
    awaited: u64,
}

impl Hand {
    pub(super) fn new(
        peer: &dyn Peer,
        plan: &Plan,
        pusher: Box<dyn Pusher>,
        issuer: Issuer,
        receiving: Receiving,
    ) -> Self {
        let window = match plan.flow {
            Flow::Window(window) => window,
            // Paths are warmed up with a window, too.
            Flow::Rate(_) => 64 * BURST,
        };
        Self {
            receiving,
            pusher,
            issuer,
            targets: plan.audience.targets() as u64,
            members: plan.audience.members as u64,
            users: plan.audience.users() as u64,
            in_a_row: peer.in_a_row() as u64,
            window,
            pushed: 0,
            awaited: 0,
        }
    }

    /// Every target: all paths are warm, and everybody is reached.
    pub(super) async fn warm_up(&mut self) -> Result<()> {
        let warm = self.targets * self.in_a_row;
        self.in_window(Instant::now(), Until::Messages(warm))
            .await?;
        self.all_arrived().await
    }

    pub(super) async fn in_window(&mut self, began: Instant, until: Until) -> Result<()> {
        let before = self.pushed;
        // A part of the window: what is on its way meanwhile keeps the peer busy.
        let burst = BURST.min(self.window / self.members / 4).max(1);
        loop {
            let burst = match until {
                Until::Time(length) if began.elapsed() >= length => return Ok(()),
                Until::Time(_) => burst,
                Until::Messages(all) if self.pushed - before == all => return Ok(()),
                Until::Messages(all) => burst.min(all - (self.pushed - before)),
            };
            self.room(burst * self.members).await?;
            let now = clock::now();
            for _ in 0..burst {
                self.push(now).await?;
            }
            self.pusher.flush().await?;
            tokio::task::yield_now().await;
        }
    }

    /// Never sleeps, so that no timer makes messages late. Gives the time in which there was nothing to do: no message due, none come.
    pub(super) async fn at_rate(&mut self, rate: f64, until: Until) -> Result<Duration> {
        let (began, mut sent, mut settled) = (clock::now(), 0, false);
        let (mut turn, mut seen, mut idle) = (began, (0, 0), 0);
        let length = match until {
            Until::Time(length) => length + SETTLE,
            Until::Messages(messages) => Duration::from_secs_f64(messages as f64 / rate) + SETTLE,
        };
        loop {
            let now = clock::now();
            let done = (sent, self.receiving.delivered());
            if done == std::mem::replace(&mut seen, done) {
                idle += now - turn;
            }
            turn = now;
            let elapsed = now - began;
            if elapsed >= length.as_nanos() as u64 {
                return Ok(Duration::from_nanos(idle));
            }
            if !settled && elapsed >= SETTLE.as_nanos() as u64 {
                settled = true;
                self.receiving.begin().await?;
            }
            let due = (elapsed as f64 * rate / 1e9) as u64;
            if sent < due {
                while sent < due {
                    sent += 1;
                    self.push(began + (sent as f64 * 1e9 / rate) as u64).await?;
                }
                self.pusher.flush().await?;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn all_arrived(&mut self) -> Result<()> {
        self.receiving.until(self.awaited, self.awaited).await
    }

    /// Ends it: what has arrived, and what went wrong.
    pub(super) async fn finish(mut self) -> Result<(Taken, Faults)> {
        // What comes meanwhile was not to come.
        self.pusher.finish().await?;
        let taken = self.receiving.taken().await?;
        let faults = taken.faults(self.awaited);
        Ok((taken, faults))
    }

    async fn push(&mut self, stamp: u64) -> Result<()> {
        let target = self.pushed / self.in_a_row % self.targets;
        let payload = self.issuer.issue(target as usize, stamp);
        self.pushed += 1;
        self.awaited += self.members.min(self.users - target * self.members);
        if !self.pusher.push(target as usize, payload) {
            self.pusher.flush().await?;
        }
        Ok(())
    }

    /// Waits until `more` deliveries are within the window.
    async fn room(&mut self, more: u64) -> Result<()> {
        let needed = (self.awaited + more).saturating_sub(self.window.max(more));
        self.receiving.until(needed, self.awaited).await
    }
}
