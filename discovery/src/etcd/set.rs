//! Which records there are, as far as a watcher knows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rpc::event::EventType;
use super::rpc::{Event, KeyValue};
use crate::Record;

/// The records below a prefix. Time is whatever clock the caller uses.
#[derive(Debug, Default)]
pub(super) struct Set {
    entries: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Debug)]
struct Entry {
    record: Result<Record, String>,
    created: i64,
    /// It was gone when the registry came back, and has until then to return.
    missing_until: Option<Duration>,
}

impl Set {
    /// The registry was read anew. What was known and is not there any more stays for `settle`: an
    /// etcd that was away, or has lost its data, is back before the gateways have registered again.
    pub(super) fn replace(&mut self, found: Vec<KeyValue>, now: Duration, settle: Duration) {
        for entry in self.entries.values_mut() {
            entry.missing_until.get_or_insert(now + settle);
        }
        for kv in found {
            self.put(kv);
        }
    }

    /// Something has changed while the registry was watched: that counts at once.
    pub(super) fn apply(&mut self, event: Event) {
        let kind = event.r#type();
        let Some(kv) = event.kv else {
            return;
        };
        match kind {
            EventType::Put => self.put(kv),
            EventType::Delete => drop(self.entries.remove(&kv.key)),
        }
    }

    /// What has not returned in time goes; says whether there was any.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let before = self.entries.len();
        let stays = |until: Option<Duration>| until.is_none_or(|until| now < until);
        self.entries.retain(|_, entry| stays(entry.missing_until));
        self.entries.len() < before
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let missing = self
            .entries
            .values()
            .filter_map(|entry| entry.missing_until);
        missing.min()
    }

    /// The records, the newest last: of several gateways at one address it is the one that is there.
    pub(super) fn records(&self) -> Vec<Record> {
        let good = |entry: &Entry| {
            let record = entry.record.clone().ok()?;
            Some((entry.missing_until.is_none(), entry.created, record))
        };
        let mut found: Vec<_> = self.entries.values().filter_map(good).collect();
        found.sort_by_key(|(there, created, _)| (*there, *created));
        found.into_iter().map(|(_, _, record)| record).collect()
    }

    /// What is wrong with the entries that are no records.
    pub(super) fn trouble(&self) -> Option<String> {
        let wrong = self.entries.iter().filter_map(|(key, entry)| {
            let error = entry.record.as_ref().err()?;
            Some(format!(
                "etcd key {}: {error}",
                String::from_utf8_lossy(key)
            ))
        });
        let wrong: Vec<_> = wrong.collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    fn put(&mut self, kv: KeyValue) {
        let record = Record::from_json(&kv.value).map_err(|error| error.to_string());
        let entry = Entry {
            record,
            created: kv.create_revision,
            missing_until: None,
        };
        self.entries.insert(kv.key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    const SETTLE: Duration = Duration::from_secs(15);

    fn kv(id: &str, created: i64) -> KeyValue {
        let record = Record {
            id: id.into(),
            epoch: 1,
            shards: 1,
            address: format!("{id}:1"),
            shard_addresses: Vec::new(),
            zone: None,
            version: String::new(),
            state: State::Ready,
        };
        KeyValue {
            key: record.key("/").into_bytes(),
            value: record.to_json().into_bytes(),
            create_revision: created,
            ..KeyValue::default()
        }
    }

    fn event(kind: EventType, kv: KeyValue) -> Event {
        Event {
            r#type: kind.into(),
            kv: Some(kv),
        }
    }

    fn ids(set: &Set) -> Vec<String> {
        set.records().into_iter().map(|record| record.id).collect()
    }

    #[test]
    fn what_is_deleted_while_watched_goes_at_once() {
        let mut set = Set::default();
        set.replace(vec![kv("a", 1), kv("b", 2)], Duration::ZERO, SETTLE);
        set.apply(event(
            EventType::Delete,
            KeyValue {
                value: Vec::new(),
                ..kv("a", 0)
            },
        ));
        set.apply(event(EventType::Put, kv("c", 3)));
        assert_eq!(ids(&set), ["b", "c"]);
        assert_eq!(set.next_deadline(), None);
    }

    // An etcd whose data is lost comes back empty, although all gateways are well.
    #[test]
    fn what_an_outage_took_has_time_to_return() {
        let mut set = Set::default();
        set.replace(vec![kv("a", 8), kv("b", 9)], Duration::ZERO, SETTLE);
        let back = Duration::from_secs(100);
        set.replace(Vec::new(), back, SETTLE);
        assert_eq!(ids(&set), ["a", "b"]);
        set.apply(event(EventType::Put, kv("b", 2)));
        // A second outage does not give more time.
        set.replace(vec![kv("b", 2)], back + SETTLE / 2, SETTLE);
        assert_eq!(set.next_deadline(), Some(back + SETTLE));
        assert!(!set.expire(back + SETTLE / 2));
        assert!(set.expire(back + SETTLE));
        assert_eq!(ids(&set), ["b"]);
    }

    #[test]
    fn the_newest_stands_last_and_what_is_missing_first() {
        let mut set = Set::default();
        set.replace(vec![kv("a", 9), kv("b", 3)], Duration::ZERO, SETTLE);
        assert_eq!(ids(&set), ["b", "a"]);
        set.replace(vec![kv("b", 3)], Duration::ZERO, SETTLE);
        assert_eq!(ids(&set), ["a", "b"]);
    }

    #[test]
    fn a_broken_entry_costs_only_itself() {
        let mut set = Set::default();
        let broken = KeyValue {
            value: b"{".to_vec(),
            ..kv("a", 1)
        };
        set.replace(vec![broken, kv("b", 2)], Duration::ZERO, SETTLE);
        assert_eq!(ids(&set), ["b"]);
        let trouble = set.trouble().unwrap();
        assert!(
            trouble.starts_with("etcd key /a/1: not a gateway's record: "),
            "{trouble}"
        );
        set.apply(event(EventType::Delete, kv("a", 1)));
        assert_eq!(set.trouble(), None);
    }
}
