//! The client over real sockets, against gateways that do as they are told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

mod answers;
mod directory;
mod gateways;
mod pressure;
mod reconnect;
mod resume;
mod retry;
mod routing;
mod throughput;
