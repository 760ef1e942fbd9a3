#![doc = include_str!("../ARCHITECTURE.md")]
#![deny(unsafe_code)]

pub mod api;
pub mod client;
pub mod cluster;
pub mod command;
pub mod config;
#[cfg(feature = "real")]
pub mod ctl;
pub mod http;
pub mod lease;
pub mod machine;
pub mod metrics;
pub mod mutants;
pub mod mvcc;
pub mod net;
pub mod proto;
pub mod raft;
pub mod runtime;
pub mod server;
pub mod start;
pub mod storage;
#[cfg(test)]
mod tidy;
pub mod transport;
pub mod types;
#[cfg(feature = "real")]
pub mod utl;
pub mod watch;
