//! What the page shows of each shard: the gateway's own counters, sampled once a second.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;

use super::chat::{Command, STATS_TOPIC, json};
use crate::metrics::Metrics;

pub(super) struct Counters {
    driver: String,
    shards: Vec<(Arc<Metrics>, Sample)>,
}

/// Counts since the start.
#[derive(Clone, Copy)]
struct Sample {
    taken: u64,
    sent: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "stats")]
struct Stats<'a> {
    driver: &'a str,
    shards: Vec<Figures>,
}

/// Messages are per second, and count both sides: clients and logic services.
#[derive(Serialize)]
struct Figures {
    shard: u16,
    connections: u64,
    #[serde(rename = "in")]
    taken: u64,
    out: u64,
    /// Messages that went to another shard, since the start. Sockets that moved to their shard are not among them.
    crossings: u64,
}

impl Counters {
    pub(super) fn new(driver: String, shards: Vec<Arc<Metrics>>) -> Self {
        let sampled = shards.into_iter().map(|metrics| {
            let sample = Sample::of(&metrics);
            (metrics, sample)
        });
        Self {
            driver,
            shards: sampled.collect(),
        }
    }

    /// The newest figures for everyone who watches.
    pub(super) fn publish(&mut self, elapsed: Duration) -> Command {
        Command::Publish {
            topic: STATS_TOPIC.to_owned(),
            payload: self.sample(elapsed),
            latest: Some(STATS_TOPIC),
        }
    }

    fn sample(&mut self, elapsed: Duration) -> Bytes {
        let rate = |now: u64, before: u64| {
            let count = now.wrapping_sub(before) as f64;
            (count / elapsed.as_secs_f64().max(0.001)).round() as u64
        };
        let figures = self.shards.iter_mut().map(|(metrics, before)| {
            let now = Sample::of(metrics);
            let figures = Figures {
                shard: metrics.shard,
                connections: metrics.connections.get(),
                taken: rate(now.taken, before.taken),
                out: rate(now.sent, before.sent),
                crossings: crossings(metrics),
            };
            *before = now;
            figures
        });
        let shards = figures.collect();
        json(&Stats {
            driver: &self.driver,
            shards,
        })
    }
}

impl Sample {
    fn of(metrics: &Metrics) -> Self {
        Self {
            taken: metrics.messages_in_client.get() + metrics.messages_in_logic.get(),
            sent: metrics.messages_out_client.get() + metrics.messages_out_logic.get(),
        }
    }
}

fn crossings(metrics: &Metrics) -> u64 {
    let messages = metrics
        .crossings
        .iter()
        .filter(|(kind, _)| *kind != "socket");
    messages.map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_and_crossings_are_totals() {
        let metrics = Arc::new(Metrics::new(1));
        metrics.messages_in_client.add(1_000);
        let mut counters = Counters::new("epoll".into(), vec![metrics.clone()]);
        metrics.connections.add(3);
        metrics.messages_in_client.add(10);
        metrics.messages_out_client.add(30);
        metrics.messages_out_logic.add(10);
        metrics.crossings.add("push", 2);
        metrics.crossings.add("socket", 5);
        for (taken, out) in [(5, 20), (0, 0)] {
            let stats: serde_json::Value =
                serde_json::from_slice(&counters.sample(Duration::from_secs(2))).unwrap();
            let shard = serde_json::json!({"shard": 1, "connections": 3, "in": taken, "out": out, "crossings": 2});
            assert_eq!(
                stats,
                serde_json::json!({"type": "stats", "driver": "epoll", "shards": [shard]})
            );
        }
    }
}
