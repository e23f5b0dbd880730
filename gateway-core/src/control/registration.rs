//! The gateway's entry in the registry, on the control thread: there while it lives, marked while it drains, gone at its end.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use gateway_discovery::{
    Record, State,
    etcd::{Password, Registration, Registry, RegistryError, Status},
};
use tokio::sync::watch;

use super::{
    Life,
    text::{Kind, Page},
};
use crate::{
    config,
    gateway::{Gateway, host_and_port},
};

/// A gateway that registers itself.
#[derive(Debug)]
pub struct Registrant {
    registration: Registration,
    record: Record,
}

/// How a registration fares.
#[derive(Debug, Default)]
pub(super) struct Health {
    registered: AtomicBool,
    failures: AtomicU64,
}

impl Registrant {
    /// `grpc` is where the common gRPC port is bound. `None`: the settings name no registry.
    ///
    /// # Errors
    /// The settings name one that cannot be. The operator must act.
    pub fn of(gateway: &Gateway, grpc: SocketAddr) -> Result<Option<Self>, RegistryError> {
        let config = &gateway.config.registry;
        if config.etcd.is_empty() {
            return Ok(None);
        }
        let mut registry = Registry::new(config.etcd.clone(), config.prefix.clone())?;
        if !config.username.is_empty() {
            let password = Password::File(PathBuf::from(&config.password_file));
            registry = registry.user(config.username.clone(), password);
        }
        let zone = Some(config.zone.clone()).filter(|zone| !zone.is_empty());
        Ok(Some(Self {
            registration: Registration::new(registry, config.lease_ttl_s),
            record: Record {
                id: gateway.id.clone(),
                epoch: gateway.epoch,
                shards: gateway.shard_addresses.len() as u32,
                address: advertised(&gateway.config, grpc),
                shard_addresses: gateway.shard_addresses.clone(),
                zone,
                version: gateway.version.to_owned(),
                state: State::Ready,
            },
        }))
    }

    /// Registers once the gateway is ready, and follows its life to the end.
    pub(super) async fn follow(self, mut life: watch::Receiver<Life>, health: Arc<Health>) {
        let begun = life.wait_for(|life| *life >= Life::Ready).await;
        // It ended before it was ready: there is nothing to find.
        if begun.map_or(Life::Ended, |life| *life) == Life::Ended {
            return;
        }
        let address = self.record.address.clone();
        let (record, entry) = watch::channel(self.record);
        let tell = |status| health.note(&address, status);
        let mark = async {
            loop {
                match *life.borrow_and_update() {
                    Life::Draining => record.send_modify(|record| record.state = State::Draining),
                    Life::Ended => break,
                    Life::Starting | Life::Ready => {}
                }
                if life.changed().await.is_err() {
                    break;
                }
            }
            // It withdraws.
            drop(record);
        };
        tokio::join!(self.registration.run(entry, tell), mark);
    }
}

impl Health {
    fn note(&self, address: &str, status: Status) {
        match status {
            Status::Registered { endpoint } => {
                self.registered.store(true, Relaxed);
                tracing::info!(endpoint, address, "registered");
            }
            Status::Lost(error) => {
                let first = self.failures.fetch_add(1, Relaxed) == 0;
                let was = self.registered.swap(false, Relaxed);
                if first || was {
                    tracing::warn!(%error, "not registered; it is tried again, everything else goes on");
                } else {
                    tracing::debug!(%error, "still not registered");
                }
            }
            Status::Withdrawn => {
                self.registered.store(false, Relaxed);
                tracing::info!("withdrawn from the registry");
            }
        }
    }

    pub(super) fn report(&self, page: &mut Page) {
        let name = "ringway_registered";
        page.metric(
            name,
            Kind::Gauge,
            "Whether the gateway's record is in the registry, as far as is known.",
        );
        page.sample(name, &[], u8::from(self.registered.load(Relaxed)));
        let name = "ringway_registry_failures_total";
        page.metric(
            name,
            Kind::Counter,
            "How often the registry failed, refused or did not answer.",
        );
        page.sample(name, &[], self.failures.load(Relaxed));
    }
}

/// "host:port" where logic services reach the common port.
fn advertised(config: &config::Config, grpc: SocketAddr) -> String {
    let host = match (&*config.registry.advertise, &*config.grpc.advertise_host) {
        ("", "") => return grpc.to_string(),
        ("", host) => host,
        (host, _) => host,
    };
    let is_ip6 = host
        .trim_matches(['[', ']'])
        .parse::<std::net::Ipv6Addr>()
        .is_ok();
    match host.contains(':') && !is_ip6 {
        true => host.to_owned(),
        false => host_and_port(host, grpc.port()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn registrant(endpoint: &str) -> Registrant {
        Registrant {
            registration: Registration::new(Registry::new([endpoint], "/test/").unwrap(), 10),
            record: Record {
                id: "gw".into(),
                epoch: 1,
                shards: 1,
                address: "gw:9000".into(),
                shard_addresses: Vec::new(),
                zone: None,
                version: String::new(),
                state: State::Ready,
            },
        }
    }

    #[test]
    fn what_is_advertised_may_differ_from_what_is_bound() {
        let bound = "10.0.0.7:9000".parse().unwrap();
        for (advertise, advertise_host, expected) in [
            ("", "", "10.0.0.7:9000"),
            ("", "gw-1.ringway", "gw-1.ringway:9000"),
            ("", "fd00::7", "[fd00::7]:9000"),
            ("gw-1", "gw-2", "gw-1:9000"),
            ("gw-1:19000", "gw-2", "gw-1:19000"),
            ("fd00::7", "", "[fd00::7]:9000"),
            ("[fd00::7]", "", "[fd00::7]:9000"),
            ("[fd00::7]:19000", "", "[fd00::7]:19000"),
        ] {
            let mut config = config::Config::default();
            config.registry.advertise = advertise.into();
            config.grpc.advertise_host = advertise_host.into();
            assert_eq!(advertised(&config, bound), expected);
        }
    }
}
