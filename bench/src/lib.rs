//! What the gateway costs, measured: gateways to start, clients to connect, payloads that prove themselves.
//!
//! The binary `ringway-bench` puts these together; the end-to-end tests in `tests/` use them too.

pub mod clients;
pub mod cpu;
pub mod gateway;
pub mod metrics;
pub mod report;
pub mod unicast;
pub mod verify;
mod wire;
