//! How gateways are found through a registry: the [`Record`] that a gateway registers, and, with
//! the feature `etcd`, both sides of a registry in etcd: [`etcd::Registration`] keeps a record there,
//! [`etcd::Watcher`] tells which there are.
//!
//! This crate knows neither the gateway nor its clients; both use it.

#[cfg(feature = "etcd")]
pub mod etcd;
mod record;

pub use record::{FORMAT, Record, RecordError, State};
