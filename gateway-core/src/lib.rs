//! The Ringway gateway: shards, the drivers that move their bytes, and what surrounds them.
//!
//! A shard is a pure state machine; a driver moves its bytes. The modules stand here in the order in which data flows;
//! each imports only from those below it (a test reads the sources and checks that).

// The command line.
pub mod cli;

// Settings → lanes, listeners, pinned threads → join.
pub mod bootstrap;

// Health, metrics and pushes of scripts, on a thread of its own; never on a data path.
pub mod control;

// Moves bytes between sockets and shards. Sockets, clock and timers live here and above, not below.
pub mod driver;

// The state machine: connections, users, topics, outboxes, deadlines.
pub mod shard;

// A logic service's session: commands in; acks, receipts, client events out.
pub mod link;

// What all shards share, fixed at start.
pub mod gateway;

// WebSocket: handshake, frames, messages.
pub mod ws;

// Queues between shards.
pub mod lanes;

// What logic services ask for, in our own terms.
pub mod command;

// Where a shard's time goes, and who takes it.
pub mod timesheet;

// What is counted.
pub mod metrics;

// Names of things, and which shard owns them.
pub mod identity;

// Every setting and limit, its default and its check.
pub mod config;

// Rules that a test of the tests can switch off.
pub mod mutation;
