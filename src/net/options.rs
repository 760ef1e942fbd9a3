//! What can be chosen about a listener and about HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use super::tls::ServerTls;

/// How a listener serves.
#[derive(Clone)]
pub struct Options {
    /// Who connects here; it chooses the words of the log.
    pub endpoint: Endpoint,
    /// Plain, TLS, or either on one port.
    pub security: Security,
    /// Which HTTP versions are spoken.
    pub protocols: Protocols,
    /// HTTP/2's settings.
    pub http2: Http2,
    /// The shortest interval between a client's pings; see `pings.rs`.
    pub ping_interval_min: Duration,
    /// Connections served at a time.
    pub connections_max: usize,
    /// The limit for a TLS handshake.
    pub handshake_timeout: Duration,
    /// The limit for a request's head, and for the first bytes on a connection.
    pub head_timeout: Duration,
}

impl Options {
    /// Returns etcd's settings for a listener.
    pub fn new(endpoint: Endpoint, security: Security) -> Self {
        Self {
            endpoint,
            security,
            protocols: Protocols::Both,
            http2: Http2::default(),
            ping_interval_min: Duration::from_secs(5),
            connections_max: usize::MAX,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(300),
        }
    }
}

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Clients.
    Client,
    /// Other members.
    Peer,
    /// Whoever reads metrics and health.
    Metrics,
}

/// Whether TLS is spoken on a port.
#[derive(Clone)]
pub enum Security {
    /// No TLS.
    Plain,
    /// TLS only; anything else is closed without a word.
    Tls(Arc<ServerTls>),
    /// Told apart by the first byte.
    Either(Arc<ServerTls>),
}

/// Which HTTP versions a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1 and HTTP/2, told apart by ALPN or the preface.
    Both,
    /// HTTP/1 only; an HTTP/2 preface is closed.
    Http1,
    /// HTTP/2 only; it begins with our settings whatever the client says.
    Http2,
}

/// The window that a stream has until settings are known (RFC 9113, section 6.9.2).
///
/// NB: h2 0.4 must not be told a smaller one. When the other side takes it up, a stream's window falls below
/// what was read already; that is given back only when more is read, and nothing more can come.
pub(super) const WINDOW_MIN: u32 = 65_535;

/// HTTP/2 as we speak it, on both sides of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Bytes a stream may receive before we acknowledge; not less than [`WINDOW_MIN`].
    pub stream_window: u32,
    /// Bytes all streams of a connection may receive together.
    pub connection_window: u32,
    /// The largest frame we take.
    pub frame_max: u32,
    /// Streams a client may have open; `u32::MAX` sends no limit.
    pub streams_max: u32,
    /// Bytes of headers in a request.
    pub header_list_max: u32,
    /// Bytes a stream may have queued towards a peer whose window is closed.
    pub send_buffer_max: usize,
    /// Silence after which the other side is pinged.
    pub keepalive_interval: Duration,
    /// How long that ping may go unanswered.
    pub keepalive_timeout: Duration,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            frame_max: 16 << 10,
            streams_max: u32::MAX,
            header_list_max: 1 << 20,
            send_buffer_max: 256 << 10,
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}
