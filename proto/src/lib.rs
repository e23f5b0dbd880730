//! The wire of Ringway: the messages of `ringway.v1`, and the one formula every client needs.
//!
//! The schema, with the meaning of every field, is `proto/ringway/v1/gateway.proto`. It is compiled by protox: no
//! protoc is needed to build.

pub mod names;
pub mod plain;
mod shard_of;
mod users;

pub use shard_of::shard_of;
pub use users::UserId;

/// Messages and enums of package `ringway.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    pub use crate::users::Users;

    include!(concat!(env!("OUT_DIR"), "/ringway.v1.rs"));
}

/// The standard health service, `grpc.health.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// The standard reflection service, `grpc.reflection.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod reflection {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

/// The encoded `FileDescriptorSet` of everything above, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
