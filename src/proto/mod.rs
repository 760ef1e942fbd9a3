//! Everything that is spoken or stored as protobuf, generated from `proto/` at build time.
//!
//! - `etcd/` declares etcd's packages: [`etcdserverpb`] (the services and the log's
//!   [`InternalRaftRequest`](etcdserverpb::InternalRaftRequest)), [`mvccpb`], [`authpb`],
//!   [`membershippb`], [`v3electionpb`], [`v3lockpb`], and what its files hold: [`raftpb`], [`walpb`],
//!   [`snappb`], [`leasepb`]. Names, numbers and types are the contract with every client.
//! - `internal/` ([`internal`]) declares what only our members send or store: the peer service, and the
//!   one extension field of `InternalRaftRequest`.
//! - `grpc/` declares the [`health`] service.
//!
//! Invariants:
//! - Encoding is canonical: fields in number order, proto3 zeros left out, maps sorted. HashKV covers
//!   encoded bytes, so two members never encode one value differently.
//! - `bytes` fields are [`bytes::Bytes`]: decoded from `Bytes` or from a request they share the buffer
//!   they came in. NB: a small key kept for long pins that whole buffer; copy what is to stay.
//! - An enum field is an `i32`, so a number that we do not know survives; `try_from` or the getter
//!   (`compare.result()`, which makes the default of an unknown one) gives the Rust enum. Code that
//!   must tell unknown from default reads the `i32`.
//! - Fields that we do not know are dropped by decoding; what may not be missed has a number beside it
//!   that tells (`Extension::command_number`).
//! - A number that was sent or stored once is never used again.
//!
//! Left out: descriptors and reflection (etcd serves none), JSON names (the gateway's own business).
//! These types stop in `api`, `http`, `client`, `transport/grpc.rs` and `command`'s codec.

mod codec;

#[cfg(test)]
mod tests;

pub use codec::Codec;

/// Makes modules of the generated packages. The code is not ours to lint.
macro_rules! packages {
    ($($(#[$doc:meta])* $module:ident = $file:literal;)*) => {$(
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    )*};
}

packages! {
    /// etcd's services and their messages, and the payload of log entries.
    etcdserverpb = "etcdserverpb";
    /// Keys and events.
    mvccpb = "mvccpb";
    /// Users, roles, permissions.
    authpb = "authpb";
    /// Membership facts in the log.
    membershippb = "membershippb";
    /// The election service.
    v3electionpb = "v3electionpb";
    /// The lock service.
    v3lockpb = "v3lockpb";
    /// Raft's data in etcd's schema; proto2, so scalars are `Option`.
    raftpb = "raftpb";
    /// Stored leases.
    leasepb = "leasepb";
    /// Records of etcd's write-ahead log.
    walpb = "walpb";
    /// The envelope of etcd's .snap files.
    snappb = "snappb";
}

/// Packages of our own, nested as their names are (generated code refers to them by path).
pub mod mainstay {
    packages! {
        /// Peer protocol and log extensions.
        internal = "mainstay.internal";
    }
}

/// Packages of gRPC itself.
pub mod grpc {
    /// The health checking protocol.
    pub mod health {
        packages! {
            /// Its only version.
            v1 = "grpc.health.v1";
        }
    }
}

pub use grpc::health::v1 as health;
pub use mainstay::internal;
