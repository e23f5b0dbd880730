//! Going away, as the operator sees it: at which pace, for how many, how far.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Life, State, Subject};
use crate::{config, metrics::Metrics, shard::DRAIN_TAIL};

/// How a drain would go, or goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whom it is for.
    #[serde(flatten)]
    pub load: Load,
    /// Closing the connections is spread over this time.
    pub spread_ms: u64,
    /// What has decided that: a setting, or the call.
    pub pace: String,
    /// When everything is over at the latest.
    pub at_most_ms: u64,
}

/// What a gateway has at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Open client connections.
    pub connections: u64,
    /// HTTP/2 connections of logic services.
    pub links: u64,
    /// gRPC streams on them.
    pub streams: u64,
}

/// What `GET /drain` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where the gateway is in its life.
    pub life: Life,
    /// Its name.
    pub gateway: String,
    /// Which run of it, in decimal: another one is a gateway that was started since.
    pub epoch: String,
    /// What is left.
    #[serde(flatten)]
    pub load: Load,
    /// The drain, if it has begun.
    pub drain: Option<Begun>,
}

/// A drain that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// As it was when it began.
    pub plan: Plan,
    /// How long ago that was.
    pub elapsed_ms: u64,
}

/// What a call may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    /// Spread over this time instead of what the settings say.
    pub(super) spread_ms: Option<u64>,
    /// Only tell.
    pub(super) dry_run: bool,
}

/// Why a gateway does not begin to drain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("spread_ms = {asked} is refused; allowed: 0 to {most} (drain.max_spread_ms)")]
    TooSlow { asked: u64, most: u64 },
    #[error("the gateway is still starting; ask again when /readyz says yes")]
    Starting,
    #[error(
        "the gateway drains already: GET /drain tells how far it is; SIGTERM, twice if none came yet, ends it at once"
    )]
    Draining,
}

/// The drain of this gateway, once it has begun.
#[derive(Debug)]
pub(super) struct Start {
    plan: Plan,
    /// On the clock of the shards.
    at: Duration,
}

impl Plan {
    /// How a drain of `load` goes by these settings, or over `asked` milliseconds.
    pub(super) fn new(
        config: &config::Drain,
        load: Load,
        asked: Option<u64>,
    ) -> Result<Self, Refused> {
        let most = config.max_spread_ms;
        let rate = u64::from(config.connections_per_second);
        let (spread_ms, pace) = match asked {
            Some(asked) if asked > most => return Err(Refused::TooSlow { asked, most }),
            Some(asked) => (asked, "spread_ms of the call"),
            None if rate == 0 => (config.spread_ms, "drain.spread_ms"),
            None => {
                let wanted = load.connections.saturating_mul(1000).div_ceil(rate);
                match wanted > most {
                    true => (most, "drain.max_spread_ms"),
                    false => (wanted, "drain.connections_per_second"),
                }
            }
        };
        let tail_ms = DRAIN_TAIL.as_millis() as u64;
        Ok(Self {
            load,
            spread_ms,
            pace: pace.to_owned(),
            at_most_ms: spread_ms + config.grace_ms + tail_ms,
        })
    }
}

impl State {
    /// Begins to drain, or only tells how that would go.
    pub(super) fn drain(&self, wish: Wish) -> Result<Plan, Refused> {
        let Some(subject) = self.subject.get().filter(|_| self.life() != Life::Starting) else {
            return Err(Refused::Starting);
        };
        if self.life() > Life::Ready {
            return Err(Refused::Draining);
        }
        let plan = Plan::new(&subject.drain_settings, subject.load(), wish.spread_ms)?;
        if wish.dry_run {
            return Ok(plan);
        }
        let start = Start {
            plan: plan.clone(),
            at: (subject.clock)(),
        };
        // Of two calls at a time one begins it.
        self.start.set(start).map_err(|_| Refused::Draining)?;
        self.course.advance(Life::Draining);
        tracing::info!(
            connections = plan.load.connections,
            streams = plan.load.streams,
            spread_ms = plan.spread_ms,
            pace = plan.pace,
            at_most_ms = plan.at_most_ms,
            "draining"
        );
        (subject.drain)(Duration::from_millis(plan.spread_ms));
        Ok(plan)
    }

    /// How far the gateway is. `None` while it starts.
    pub(super) fn progress(&self) -> Option<Progress> {
        let subject = self.subject.get()?;
        let begun = |start: &Start| Begun {
            plan: start.plan.clone(),
            elapsed_ms: (subject.clock)().saturating_sub(start.at).as_millis() as u64,
        };
        Some(Progress {
            life: self.life(),
            gateway: subject.id.clone(),
            epoch: subject.epoch.to_string(),
            load: subject.load(),
            drain: self.start.get().map(begun),
        })
    }
}

impl Subject {
    fn load(&self) -> Load {
        let sum = |count: fn(&Metrics) -> u64| self.metrics.iter().map(|m| count(m)).sum();
        Load {
            connections: sum(|m| m.connections.get()),
            links: sum(|m| m.links.get()),
            streams: sum(|m| m.streams.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> config::Drain {
        config::Drain {
            spread_ms: 10_000,
            grace_ms: 5_000,
            ..Default::default()
        }
    }

    fn load(connections: u64) -> Load {
        Load {
            connections,
            ..Load::default()
        }
    }

    fn pace(config: &config::Drain, connections: u64, asked: Option<u64>) -> (u64, String) {
        let plan = Plan::new(config, load(connections), asked).unwrap();
        assert_eq!(plan.at_most_ms, plan.spread_ms + 6_500);
        (plan.spread_ms, plan.pace)
    }

    #[test]
    fn a_spread_is_the_same_for_all_and_a_rate_depends_on_how_many_there_are() {
        let fixed = config();
        assert_eq!(pace(&fixed, 1, None).0, 10_000);
        assert_eq!(pace(&fixed, 1_000_000, None).0, 10_000);
        let rate = config::Drain {
            connections_per_second: 500,
            ..config()
        };
        let by_rate = "drain.connections_per_second".to_owned();
        assert_eq!(pace(&rate, 0, None), (0, by_rate.clone()));
        assert_eq!(pace(&rate, 1, None), (2, by_rate.clone()));
        assert_eq!(pace(&rate, 100_000, None), (200_000, by_rate));
    }

    #[test]
    fn no_pace_is_slower_than_the_bound() {
        let rate = config::Drain {
            connections_per_second: 1,
            max_spread_ms: 60_000,
            ..config()
        };
        let bound = (60_000, "drain.max_spread_ms".to_owned());
        assert_eq!(pace(&rate, u64::MAX, None), bound);
        assert_eq!(pace(&rate, 60, None).0, 60_000);
        let refused = Plan::new(&rate, load(1), Some(60_001)).unwrap_err();
        let text = "spread_ms = 60001 is refused; allowed: 0 to 60000 (drain.max_spread_ms)";
        assert_eq!(refused.to_string(), text);
        let asked = (0, "spread_ms of the call".to_owned());
        assert_eq!(pace(&rate, 1_000, Some(0)), asked);
    }
}
