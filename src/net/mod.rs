//! Byte streams made usable: an accept loop, corked sockets, TLS, HTTP/1 and HTTP/2 on one port, and
//! the client's half of HTTP/2. All of it runs on a [`Runtime`](crate::runtime::Runtime), so the
//! bytes that production sends are the bytes the simulation carries.
//!
//! - [`serve()`] takes a listener and a service and runs them until told to stop ([`Serving`]).
//! - [`Channel`] is what generated clients send their requests over.
//! - [`tls`] makes both sides' TLS from files; [`Caller`] and [`PeerIdentity`] say who sent a request.
//! - [`grpc`] is what surrounds gRPC services: deadlines, size limits, unknown methods, 415.
//!
//! What a request means is no concern of this module's, and neither is what goes to whom.

mod authority;
pub mod calls;
mod channel;
mod connection;
mod cork;
mod frames;
mod glue;
pub mod grpc;
mod hpack;
mod options;
mod pings;
mod serve;
pub mod shortcut;
mod sniff;
pub mod tls;

pub use channel::{Answer, Change, Channel, ChannelOptions, OnChange};
pub use connection::Caller;
pub use options::{Endpoint, Http2, Options, Protocols, Security};
pub use serve::{Serving, Stats, serve};
pub use tls::PeerIdentity;

#[cfg(all(test, feature = "real"))]
mod tests;
