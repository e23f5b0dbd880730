//! What scenarios have in common: what is measured, against whom, how often.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::bail;
use serde_json::Value;

use crate::{
    cpu::{self, Places},
    figures::{Findings, Sample},
    gateway::Launch,
    peers::{self, Audience, Kind, Peer, Stage},
    verify::MIN_PAYLOAD,
};

/// Which gateway is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Subject {
    /// Shards of the gateway
    #[arg(long, default_value_t = 1)]
    pub shards: u32,
    /// What moves the gateway's bytes, as `ringway --driver` has it
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// Start this `ringway` instead of the gateway built in here
    #[arg(long, value_name = "PATH")]
    pub ringway: Option<PathBuf>,
}

impl Default for Subject {
    fn default() -> Self {
        Self {
            shards: 1,
            driver: None,
            ringway: None,
        }
    }
}

impl Subject {
    /// How to start it, but for its shards; `launch` starts the gateway built in here.
    #[must_use]
    pub fn launch(&self, launch: &Launch) -> Launch {
        let launch = match &self.ringway {
            Some(program) => Launch {
                program: program.clone(),
                first: Vec::new(),
                ..launch.clone()
            },
            None => launch.clone(),
        };
        match &self.driver {
            Some(driver) => launch.setting("RINGWAY_SHARDS_DRIVER", driver),
            None => launch,
        }
    }

    /// For the report.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, Value> {
        let mut settings = BTreeMap::from([("shards".into(), self.shards.into())]);
        if let Some(driver) = &self.driver {
            settings.insert("driver".into(), driver.as_str().into());
        }
        settings
    }
}

/// Options of every scenario that measures a gateway.
#[derive(Clone, Debug, clap::Args)]
pub struct Setup {
    /// Which gateway
    #[command(flatten)]
    pub subject: Subject,
    /// WebSocket clients, a user each
    #[arg(long, default_value_t = 1000)]
    pub connections: usize,
    /// Bytes of a message, at least 24
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Compare with these, by turns
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEERS")]
    pub against: Vec<Kind>,
    /// How often each is measured; what is told are medians
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            subject: Subject::default(),
            connections: 1000,
            payload: 128,
            against: Vec::new(),
            rounds: 1,
            json: false,
        }
    }
}

impl Setup {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// The option that cannot work.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.payload < MIN_PAYLOAD || self.connections == 0 || self.rounds == 0 {
            bail!(
                "needed: --payload of at least {MIN_PAYLOAD}, --connections and --rounds of at least 1"
            );
        }
        Ok(())
    }

    /// What peers are started for; each message is for `members` users. `launch` starts `ringway-bench`.
    ///
    /// # Errors
    /// What the kernel says of our CPUs.
    pub fn stage(&self, launch: &Launch, members: usize) -> anyhow::Result<Stage> {
        Ok(Stage {
            program: launch.program.clone(),
            launch: self.subject.launch(launch),
            places: Places::here()?,
            shards: self.subject.shards,
            audience: Audience::of(self.connections, members),
            payload: self.payload,
            joined: 1,
        })
    }

    /// The options that every scenario has, for the report.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, Value> {
        let mut settings = self.subject.settings();
        settings.extend([
            ("connections".into(), self.connections.into()),
            ("payload".into(), self.payload.into()),
            ("rounds".into(), self.rounds.into()),
        ]);
        settings
    }

    /// Measures the gateway and its peers by turns, each started anew for every round: nobody meets what another has left.
    ///
    /// # Errors
    /// A peer that does not start, or what `measure` says.
    pub fn contest(
        &self,
        scenario: &str,
        mut stage: Stage,
        settings: BTreeMap<String, Value>,
        mut measure: impl FnMut(&mut dyn Peer) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Findings> {
        cpu::pin(&stage.places.load)?;
        let kinds = self.kinds();
        let mut samples = vec![Vec::new(); kinds.len()];
        for round in 0..self.rounds {
            for at in order(kinds.len(), round) {
                let mut peer = peers::start(kinds[at], &stage)?;
                let sample = measure(peer.as_mut())?;
                drop(peer);
                if kinds[at] == Kind::Ringway {
                    let joined = sample.figures.get("messages_per_send");
                    stage.joined = joined.map_or(1, |joined| joined.round().max(1.0) as usize);
                }
                samples[at].push(sample);
            }
        }
        let sides = kinds.iter().map(|kind| kind.name()).zip(samples);
        Ok(Findings::of(scenario, settings, sides.collect()))
    }

    /// The gateway, then whom it is compared with, each once.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![Kind::Ringway];
        for kind in &self.against {
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        kinds
    }
}

/// The gateway is first in every round, as others ask what it joined; of those nobody is always next.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    let others = count - 1;
    std::iter::once(0).chain((0..others).map(move |turn| 1 + (round + turn) % others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_every_round() {
        assert_eq!(order(1, 3).collect::<Vec<_>>(), [0]);
        assert_eq!(order(4, 0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(order(4, 1).collect::<Vec<_>>(), [0, 2, 3, 1]);
    }

    #[test]
    fn nobody_is_measured_twice() {
        let setup = Setup {
            against: vec![Kind::Tonic, Kind::Ringway, Kind::Tonic],
            ..Setup::default()
        };
        assert_eq!(setup.kinds(), [Kind::Ringway, Kind::Tonic]);
    }
}
