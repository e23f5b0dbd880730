//! What the gateway costs, measured: gateways to start, clients to connect, payloads that prove themselves.
//!
//! The binary `ringway-bench` puts these together; the end-to-end tests in `tests/` use them too.

pub mod adr;
pub mod benchmarks;
pub mod clients;
pub mod clock;
pub mod cpu;
pub mod crossing;
pub mod crowd;
pub mod debian;
pub mod fanout;
pub mod figures;
pub mod fleet;
pub mod gateway;
pub mod handshakes;
pub mod hol;
pub mod idle;
pub mod latency;
pub mod load;
pub mod machine;
pub mod memory;
pub mod mesh;
pub mod metrics;
pub mod pace;
pub mod peers;
pub mod process;
pub mod receive;
pub mod report;
pub mod scaling;
pub mod service;
pub mod setup;
pub mod simulate;
pub mod storm;
pub mod throng;
pub mod unicast;
pub mod upstream;
pub mod verify;
mod wire;
pub mod witness;
