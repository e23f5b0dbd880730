//! What worlds have come by: a promise that is never put to the test is not kept by passing.

use std::{collections::BTreeMap, fmt};

use gateway_core::metrics::{Family, Metrics};

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<(&'static str, String), u64>);

impl Coverage {
    /// It happened.
    pub fn hit(&mut self, group: &'static str, what: &str) {
        self.add(group, what, 1);
    }

    /// It happened so many times.
    pub fn add(&mut self, group: &'static str, what: &str, times: u64) {
        if times > 0 {
            *self.0.entry((group, what.to_owned())).or_default() += times;
        }
    }

    /// A gateway has closed a client.
    pub fn close_code(&mut self, code: u16) {
        self.hit("closed by gateways with", &code.to_string());
    }

    /// The counts of a shard whose process is over.
    pub fn harvest(&mut self, metrics: &Metrics) {
        let families: [(&'static str, &Family); 6] = [
            ("gateway drops", &metrics.drops),
            ("gateway rejections", &metrics.rejected),
            ("gateway refusals", &metrics.refused_handshakes),
            ("gateway client errors", &metrics.client_errors),
            ("gateway stream errors", &metrics.stream_errors),
            ("gateway crossings", &metrics.crossings),
        ];
        for (group, family) in families {
            for (label, count) in family.iter() {
                self.add(group, label, count);
            }
        }
        let gateway = [
            ("ticks", &metrics.ticks),
            ("pushes taken", &metrics.messages_in_logic),
            ("messages to clients", &metrics.messages_out_client),
            ("messages from clients", &metrics.messages_in_client),
            ("events to services", &metrics.messages_out_logic),
            ("duplicates without effect", &metrics.duplicates),
            ("takeovers", &metrics.takeovers),
            ("session clashes", &metrics.session_clashes),
            ("sessions evicted", &metrics.sessions_evicted),
            ("directory snapshots", &metrics.directory_snapshots),
            ("directory restarts", &metrics.directory_restarts),
            ("queries", &metrics.queries),
        ];
        for (what, counter) in gateway {
            self.add("gateway", what, counter.get());
        }
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, group: &'static str, what: &str) -> u64 {
        let key = (group, what.to_owned());
        self.0.get(&key).copied().unwrap_or(0)
    }

    /// Adds what another world has come by.
    pub fn merge(&mut self, other: Self) {
        for (key, times) in other.0 {
            *self.0.entry(key).or_default() += times;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((group, what), times) in &self.0 {
            if *group != last {
                writeln!(f, "{group}")?;
                last = group;
            }
            writeln!(f, "  {times:>12}  {what}")?;
        }
        Ok(())
    }
}
