//! Both sides of the registry, with what they told.

use std::time::Duration;

use gateway_discovery::etcd::{Registration, Registry, Status, Watcher};
use gateway_discovery::{Record, State};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::etcd_server::{Etcd, PATIENCE};

pub const PREFIX: &str = "/ringway/gateways/";

pub fn registry(etcd: &Etcd) -> Registry {
    Registry::new([&*etcd.endpoint], PREFIX).unwrap()
}

pub fn record(id: &str, epoch: u64) -> Record {
    Record {
        id: id.into(),
        epoch,
        shards: 2,
        address: format!("{id}:9000"),
        shard_addresses: vec![":9001".into(), ":9002".into()],
        zone: Some("a".into()),
        version: "0.1.0".into(),
        state: State::Ready,
    }
}

/// A gateway that keeps itself registered.
pub struct Gateway {
    record: watch::Sender<Record>,
    statuses: mpsc::UnboundedReceiver<Status>,
    task: JoinHandle<()>,
}

impl Gateway {
    pub fn register(registry: Registry, record: Record, ttl_s: u32) -> Self {
        let (record, follow) = watch::channel(record);
        let (tell, statuses) = mpsc::unbounded_channel();
        let registration = Registration::new(registry, ttl_s);
        let task = tokio::spawn(registration.run(follow, move |status| {
            // The test may have seen enough.
            let _ = tell.send(status);
        }));
        Self {
            record,
            statuses,
            task,
        }
    }

    /// One that was there and left without a word.
    pub async fn register_and_kill(registry: Registry, record: Record, ttl_s: u32) {
        let mut gateway = Self::register(registry, record, ttl_s);
        let registered = |status: &Status| matches!(status, Status::Registered { .. });
        gateway.until(registered).await;
        gateway.kill();
    }

    pub fn change(&self, change: impl FnOnce(&mut Record)) {
        self.record.send_modify(change);
    }

    /// It says good-bye.
    pub fn withdraw(&mut self) {
        let (gone, _) = watch::channel(self.record.borrow().clone());
        drop(std::mem::replace(&mut self.record, gone));
    }

    /// It does not.
    pub fn kill(self) {
        self.task.abort();
    }

    pub async fn until(&mut self, wanted: impl Fn(&Status) -> bool) {
        let seen = async { while !wanted(&self.statuses.recv().await.unwrap()) {} };
        timeout(PATIENCE, seen).await.expect("the status in time");
    }

    pub async fn until_at(&mut self, member: &str) {
        let there = |status: &Status| match status {
            Status::Registered { endpoint } => endpoint == member,
            _ => false,
        };
        self.until(there).await;
    }
}

type News = (Option<Vec<Record>>, Option<String>);

/// A client that follows the registry.
pub struct Watch {
    pub records: Option<Vec<Record>>,
    pub troubles: Vec<String>,
    /// The smallest set since there was one gateway, or more.
    pub fewest: usize,
    news: mpsc::UnboundedReceiver<News>,
}

impl Watch {
    pub fn start(registry: Registry) -> Self {
        Self::start_with(registry, Duration::from_secs(15))
    }

    pub fn start_with(registry: Registry, settle: Duration) -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        let watcher = Watcher::new(registry).settle(settle);
        tokio::spawn(watcher.run(move |records, trouble| {
            let _ = tell.send((records, trouble));
        }));
        Self {
            records: None,
            troubles: Vec::new(),
            fewest: usize::MAX,
            news,
        }
    }

    /// The ids of the next set that is told, sorted.
    pub async fn next_ids(&mut self) -> Vec<String> {
        let told = async { while !self.take().await {} };
        timeout(PATIENCE, told).await.expect("a set in time");
        self.ids()
    }

    pub async fn until(&mut self, wanted: impl Fn(&[String]) -> bool) {
        let seen = async {
            while self.records.is_none() || !wanted(&self.ids()) {
                self.take().await;
            }
        };
        let found = timeout(PATIENCE, seen).await;
        found.unwrap_or_else(|_| panic!("{:?}, {:?}", self.ids(), self.troubles));
    }

    pub async fn until_trouble(&mut self) {
        let before = self.troubles.len();
        let told = async {
            while self.troubles.len() == before {
                self.take().await;
            }
        };
        timeout(PATIENCE, told).await.expect("trouble in time");
    }

    /// For so long nothing else is told.
    pub async fn stays(&mut self, time: Duration, ids: &[&str]) {
        let other = async {
            while {
                self.take().await;
                self.ids() == ids
            } {}
        };
        assert!(timeout(time, other).await.is_err(), "{:?}", self.ids());
        assert_eq!(self.ids(), ids);
    }

    /// Takes a piece of news; says whether it was a set.
    async fn take(&mut self) -> bool {
        let (records, trouble) = self.news.recv().await.unwrap();
        self.troubles.extend(trouble);
        let Some(records) = records else {
            return false;
        };
        if self.fewest < usize::MAX || !records.is_empty() {
            self.fewest = self.fewest.min(records.len());
        }
        self.records = Some(records);
        true
    }

    fn ids(&self) -> Vec<String> {
        let records = self.records.iter().flatten();
        let mut ids: Vec<_> = records.map(|record| record.id.clone()).collect();
        ids.sort();
        ids
    }
}
