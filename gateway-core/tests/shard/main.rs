//! Shards, links and clients without a kernel: what goes in on one side comes out on the other.

mod world;

mod answers;
mod clients;
mod directory;
mod drain;
mod push;
mod queries;
mod sessions;
mod upstream;
mod upstream_random;
