//! PING after silence, and the end of a connection whose peer stays silent.

use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};

use crate::config::Config;

/// Watches for silence. Any byte of the peer counts as a sign of life.
pub(crate) struct Keepalive {
    interval: Option<Duration>,
    timeout: Duration,
    heard: Duration,
    /// When the PING that is on its way was sent.
    asked: Option<Duration>,
    pings: Option<PingPong>,
}

/// What [`Keepalive::handle`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Lost,
}

impl Keepalive {
    pub(crate) fn new(config: &Config, now: Duration) -> Self {
        Self {
            interval: config.keepalive_interval,
            timeout: config.keepalive_timeout,
            heard: now,
            asked: None,
            pings: None,
        }
    }

    /// The connection is open and can send PINGs from now on.
    pub(crate) fn start(&mut self, pings: Option<PingPong>) {
        self.pings = pings;
    }

    pub(crate) fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.asked = None;
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.pings.as_ref()?;
        let interval = self.interval?;
        Some(match self.asked {
            Some(asked) => asked.saturating_add(self.timeout),
            None => self.heard.saturating_add(interval),
        })
    }

    /// Does what is due. While we do not read ourselves (`reading` is false) nobody can be
    /// heard, so the silence is not the peer's.
    pub(crate) fn handle(&mut self, now: Duration, reading: bool, cx: &mut Context<'_>) -> Verdict {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return Verdict::Alive;
        }
        if !reading {
            self.heard(now);
            return Verdict::Alive;
        }
        if self.asked.is_some() {
            return Verdict::Lost;
        }
        if let Some(pings) = &mut self.pings {
            // A pong that came in the meantime makes room for the next ping.
            let _ = pings.poll_pong(cx);
            // Refused only while another ping is out, which then serves as well.
            let _ = pings.send_ping(Ping::opaque());
        }
        self.asked = Some(now);
        Verdict::Alive
    }
}
