//! Gateways that have registered in etcd.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use gateway_discovery::etcd::{Password, Registry, RegistryError, Watcher};
use gateway_discovery::{Record, State};

use super::{Endpoint, Resolver, SetupError, Updates, is_address, not_an_address};

/// The gateways that have registered in etcd, followed as they come, drain and go.
///
/// While etcd is out of reach, the gateways found last stay, and the client says what is wrong. When
/// etcd is back, a gateway that is not registered any more has a while ([`Etcd::settle`]) to
/// return before it counts as gone: even an etcd that has lost its data takes no gateway away.
#[derive(Clone, Debug)]
pub struct Etcd {
    registry: Registry,
    settle: Duration,
}

impl Etcd {
    /// The gateways below the key `prefix`, by default "/ringway/gateways/" on the gateways' side, of
    /// the cluster whose members listen for clients at `endpoints`: "http://host:port". One of them
    /// is used at a time.
    ///
    /// # Errors
    /// There is no endpoint, one is none, or the prefix is empty.
    pub fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        prefix: &str,
    ) -> Result<Self, SetupError> {
        let wrong = |error: RegistryError| SetupError(error.to_string());
        Ok(Self {
            registry: Registry::new(endpoints, prefix).map_err(wrong)?,
            settle: Duration::from_secs(15),
        })
    }

    /// Logs in. Without it no password is sent.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let password = Password::Given(password.into());
        self.registry = self.registry.user(name, password);
        self
    }

    /// How long a member may take for each answer. Default: 3 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.registry = self.registry.timeout(timeout);
        self
    }

    /// How long a gateway may take to register again after etcd was away. Should be somewhat longer
    /// than the gateways' `registry.lease_ttl_s`. Default: 15 s.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }
}

impl Resolver for Etcd {
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let watcher = Watcher::new(self.registry).settle(self.settle);
            let tell = move |records, trouble| tell(&updates, records, trouble);
            match watcher.run(tell).await {}
        })
    }
}

fn tell(updates: &Updates, records: Option<Vec<Record>>, trouble: Option<String>) {
    let records = records.map(|records| {
        let usable = |record: &Record| is_address(&record.address);
        records.into_iter().partition::<Vec<_>, _>(usable)
    });
    let Some((records, unusable)) = records else {
        return updates.tell(None, trouble);
    };
    let wrong = unusable.iter().map(|record| {
        let problem = not_an_address(&record.address);
        format!("gateway {} has registered an address: {problem}", record.id)
    });
    let troubles: Vec<_> = trouble.into_iter().chain(wrong).collect();
    let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
    updates.tell(Some(records.into_iter().map(endpoint).collect()), trouble);
}

fn endpoint(record: Record) -> Endpoint {
    Endpoint {
        address: record.address,
        id: Some(record.id),
        epoch: Some(record.epoch),
        zone: record.zone,
        draining: record.state == State::Draining,
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel;
    use super::*;

    fn record(id: &str, address: &str, epoch: u64) -> Record {
        Record {
            id: id.into(),
            epoch,
            shards: 1,
            address: address.into(),
            shard_addresses: Vec::new(),
            zone: Some("a".into()),
            version: String::new(),
            state: State::Draining,
        }
    }

    #[test]
    fn records_become_endpoints_and_the_newest_at_an_address_stands() {
        let (updates, updated) = channel();
        let records = vec![record("gw", "a:1", 9), record("gw", "a:1", 5)];
        tell(&updates, Some(records), None);
        let expected = Endpoint {
            address: "a:1".into(),
            id: Some("gw".into()),
            epoch: Some(5),
            zone: Some("a".into()),
            draining: true,
        };
        assert_eq!(updated.known().endpoints, Some(vec![expected]));
        assert_eq!(updated.known().trouble, None);
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        let (updates, updated) = channel();
        let records = vec![record("good", "a:1", 1), record("bad", "10.0.0.7", 1)];
        tell(&updates, Some(records), Some("etcd is slow".into()));
        let known = updated.known();
        assert_eq!(known.endpoints.unwrap().len(), 1);
        assert_eq!(
            known.trouble.unwrap(),
            "etcd is slow; gateway bad has registered an address: \"10.0.0.7\" is not \"host:port\""
        );
        tell(&updates, None, Some("etcd is away".into()));
        assert_eq!(updated.known().endpoints.unwrap().len(), 1);
    }
}
