//! The accept loop: connections in, requests to a service.
//!
//! Each connection is a task of the serving lane. It finds out what is spoken (TLS or not, then
//! HTTP/2 or HTTP/1), and then polls hyper's connection in turns over a [corked](super::cork) socket.
//! hyper spawns one task a request through our executor, so nothing here knows tokio's own.
//!
//! A life in three phases, broadcast to all connections: *serve*; *drain*, in which the listener is
//! closed, clients are told to go (GOAWAY, `Connection: close`) and running requests end by
//! themselves; *abort*, in which everything is dropped. [`Serving::shutdown`] walks through them;
//! dropping [`Serving`] aborts.
//!
//! Invariants:
//! - A slow or silent client holds one task and bounded memory, and no other client up: handshake and
//!   sniffing happen in the connection's task, under a time limit.
//! - With [`Options::connections_max`] reached, nothing is accepted until a connection has ended; the
//!   kernel's queue holds the rest.
//! - An error of `accept` never ends the loop.
//!
//! What is left out: HTTP/2 by `Upgrade: h2c` (served as HTTP/1, as etcd does), HTTP/3.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::server::TlsStream;
use tower_service::Service;

use super::cork::{Cork, cork};
use super::glue::{Clock, Tasks};
use super::sniff::{Rewound, begins_http2, begins_tls};
use super::tls::{PeerIdentity, ServerTls};
use crate::runtime::{Address, Lane, Listener, Runtime, Stream, timeout};

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

/// HTTP/2 as we speak it, on both sides of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Bytes a stream may receive before we acknowledge.
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

/// Streams a client may have reset before we took them up, and the like. A client that cancels a
/// hundred watches at once is no attacker; one that does nothing else runs into this.
const RESET_STREAMS_MAX: usize = 1024;

/// The pause after a failed `accept`: it mostly means that descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long aborted connections may take to be gone.
const ABORT_WAIT: Duration = Duration::from_secs(2);

/// Who sent a request. An `Arc` of it is an extension of every request; [`PeerIdentity`] is one of
/// its own where the client showed a certificate.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The other end's `host:port`; empty for a Unix socket.
    pub address: String,
    /// Whether TLS is spoken.
    pub secure: bool,
    /// The certificate shown and verified, if any.
    pub identity: Option<PeerIdentity>,
}

/// Figures about a listener.
#[derive(Debug, Default)]
pub struct Stats {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    ended: Notify,
}

impl Stats {
    /// Returns the connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns the connections given up in the TLS handshake or for their certificate.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serve,
    Drain,
    Abort,
}

/// A listener at work. Dropping it drops its connections.
pub struct Serving<R> {
    runtime: R,
    address: Address,
    stats: Arc<Stats>,
    phase: watch::Sender<Phase>,
    /// Closed when the accept loop and all connections are gone.
    gone: mpsc::Receiver<Infallible>,
}

impl<R: Runtime> Serving<R> {
    /// Returns the address bound.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the listener's figures.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Stops accepting, lets running requests end for up to `drain`, then drops the rest. Returns
    /// whether all ended by themselves.
    pub async fn shutdown(mut self, drain: Duration) -> bool {
        self.phase.send_replace(Phase::Drain);
        let drained = timeout(&self.runtime, drain, self.gone.recv()).await.is_ok();
        self.phase.send_replace(Phase::Abort);
        if !drained && timeout(&self.runtime, ABORT_WAIT, self.gone.recv()).await.is_err() {
            tracing::warn!("connections did not end when told to");
        }
        drained
    }
}

/// Serves a listener's connections with clones of `service`.
pub fn serve<R, S, B>(
    runtime: &R,
    listener: R::Listener,
    options: Options,
    service: S,
) -> Serving<R>
where
    R: Runtime,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stats = Arc::new(Stats::default());
    let (phase, phases) = watch::channel(Phase::Serve);
    let (alive, gone) = mpsc::channel(1);
    let address = listener.local_addr();
    let shared = Arc::new(Shared {
        runtime: runtime.clone(),
        clock: Clock::new(runtime.clone()),
        options,
        stats: stats.clone(),
    });
    runtime.spawn(Lane::Serve, "accept", accept(shared, listener, service, phases, alive));
    Serving { runtime: runtime.clone(), address, stats, phase, gone }
}

/// What the accept loop and its connections share.
struct Shared<R> {
    runtime: R,
    clock: Clock<R>,
    options: Options,
    stats: Arc<Stats>,
}

async fn accept<R, S, B>(
    shared: Arc<Shared<R>>,
    mut listener: R::Listener,
    service: S,
    mut phases: watch::Receiver<Phase>,
    alive: mpsc::Sender<Infallible>,
) where
    R: Runtime,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut phases, Phase::Drain) => return,
            accepted = async {
                while shared.stats.open() >= shared.options.connections_max {
                    shared.stats.ended.notified().await;
                }
                listener.accept().await
            } => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                shared.runtime.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let open = Open::new(&shared.stats, &alive);
        let (shared, service, mut phases) = (shared.clone(), service.clone(), phases.clone());
        let runtime = shared.runtime.clone();
        runtime.spawn(Lane::Serve, "connection", async move {
            let _open = open;
            let mut aborts = phases.clone();
            tokio::select! {
                biased;
                () = reached(&mut aborts, Phase::Abort) => {}
                () = connection(&shared, stream, service, &mut phases) => {}
            }
        });
    }
}

/// Counts a connection while it lasts.
struct Open {
    stats: Arc<Stats>,
    _alive: mpsc::Sender<Infallible>,
}

impl Open {
    fn new(stats: &Arc<Stats>, alive: &mpsc::Sender<Infallible>) -> Self {
        stats.open.fetch_add(1, Ordering::Relaxed);
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        Self { stats: stats.clone(), _alive: alive.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        self.stats.ended.notify_one();
    }
}

/// Serves one connection from its first byte to its last.
async fn connection<R, S, B>(
    shared: &Shared<R>,
    stream: R::Stream,
    service: S,
    phases: &mut watch::Receiver<Phase>,
) where
    R: Runtime,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut caller = Caller { address: stream.peer_addr(), ..Caller::default() };
    let opened = tokio::select! {
        biased;
        // Nothing was asked yet, so nothing is owed.
        () = reached(phases, Phase::Drain) => return,
        opened = opened(shared, stream, &mut caller) => opened,
    };
    let Some((socket, version, ahead)) = opened else { return };
    let (cork, corked) = cork(socket, ahead);
    let service = Tagged { service: TowerToHyperService::new(service), caller: Arc::new(caller) };
    let result = match version {
        http::Version::HTTP_2 => {
            let connection = http2_builder(shared).serve_connection(corked, service);
            turns(&cork, pin!(connection), http2::Connection::graceful_shutdown, phases).await
        }
        _ => {
            let mut builder = http1::Builder::new();
            builder.timer(shared.clock.clone());
            builder.header_read_timeout(shared.options.head_timeout).auto_date_header(false);
            let connection = builder.serve_connection(corked, service).with_upgrades();
            turns(&cork, pin!(connection), http1::UpgradeableConnection::graceful_shutdown, phases)
                .await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Waits for a phase, or a later one. That `Serving` was dropped is as good as the last.
async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = phases.wait_for(|now| *now >= phase).await;
}

/// Does all that comes before the first request: TLS, and finding the version of HTTP.
async fn opened<R: Runtime>(
    shared: &Shared<R>,
    stream: R::Stream,
    caller: &mut Caller,
) -> Option<(Socket<R::Stream>, http::Version, Bytes)> {
    let mut socket = secured(shared, stream, caller).await?;
    let limit = shared.options.head_timeout;
    let spoken = timeout(&shared.runtime, limit, spoken(shared, &mut socket)).await;
    let (version, ahead) = spoken.ok()?.ok()?;
    Some((socket, version?, ahead))
}

fn http2_builder<R: Runtime>(shared: &Shared<R>) -> http2::Builder<Tasks<R>> {
    let Http2 {
        stream_window,
        connection_window,
        frame_max,
        streams_max,
        header_list_max,
        send_buffer_max,
        keepalive_interval,
        keepalive_timeout,
    } = shared.options.http2;
    let mut builder = http2::Builder::new(Tasks(shared.runtime.clone()));
    builder
        .timer(shared.clock.clone())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(frame_max)
        .max_concurrent_streams((streams_max != u32::MAX).then_some(streams_max))
        .max_header_list_size(header_list_max)
        .max_send_buf_size(send_buffer_max)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .keep_alive_interval(keepalive_interval)
        .keep_alive_timeout(keepalive_timeout)
        .auto_date_header(false);
    builder
}

/// Does the TLS handshake, where there is one. `None` ends the connection; why is in the log.
async fn secured<R: Runtime>(
    shared: &Shared<R>,
    mut stream: R::Stream,
    caller: &mut Caller,
) -> Option<Socket<R::Stream>> {
    let Options { security, handshake_timeout, head_timeout, endpoint, .. } = &shared.options;
    let mut read = BytesMut::new();
    let (tls, limit) = match security {
        Security::Plain => return Some(Socket::Plain(Rewound::new(Bytes::new(), stream))),
        Security::Tls(tls) => (tls, handshake_timeout),
        Security::Either(tls) => (tls, head_timeout),
    };
    let begins = timeout(&shared.runtime, *limit, begins_tls(&mut stream, &mut read)).await;
    let is_tls = matches!(begins, Ok(Ok(true)));
    let stream = Rewound::new(read.freeze(), stream);
    if !is_tls {
        let plain_too = matches!(security, Security::Either(_)) && matches!(begins, Ok(Ok(_)));
        return plain_too.then_some(Socket::Plain(stream));
    }
    let accepted = timeout(&shared.runtime, *handshake_timeout, async {
        let accepted = tls.accept(stream).await?;
        let remote = caller.address.rsplit_once(':').map(|(host, _)| host);
        let remote = remote.and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        let shown = accepted.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = tls.check_peer(&shared.runtime, shown, remote).await?;
        Ok((accepted, identity))
    });
    let error = match accepted.await {
        Ok(Ok((accepted, identity))) => {
            caller.secure = true;
            caller.identity = identity;
            return Some(Socket::Tls(Box::new(accepted)));
        }
        Ok(Err(error)) => error,
        Err(elapsed) => io::Error::new(io::ErrorKind::TimedOut, elapsed),
    };
    shared.stats.refused.fetch_add(1, Ordering::Relaxed);
    let remote_addr = caller.address.as_str();
    match endpoint {
        // A port probe is nothing to tell anybody.
        _ if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(remote_addr, %error, "rejected connection");
        }
        Endpoint::Client | Endpoint::Metrics => {
            tracing::warn!(remote_addr, %error, "rejected connection on client endpoint");
        }
        Endpoint::Peer => {
            tracing::warn!(remote_addr, %error, "rejected connection on peer endpoint");
        }
    }
    None
}

/// Finds the HTTP version, and returns the bytes read on the way. `None` if it is not spoken here.
async fn spoken<R: Runtime>(
    shared: &Shared<R>,
    socket: &mut Socket<R::Stream>,
) -> io::Result<(Option<http::Version>, Bytes)> {
    let mut read = BytesMut::new();
    let protocols = shared.options.protocols;
    let http2 = match socket {
        _ if protocols == Protocols::Http2 => true,
        Socket::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => true,
        _ => begins_http2(socket, &mut read).await?,
    };
    let version = match (http2, protocols) {
        (true, Protocols::Http1) => None,
        (true, _) => Some(http::Version::HTTP_2),
        (false, _) => Some(http::Version::HTTP_11),
    };
    Ok((version, read.freeze()))
}

/// Polls a connection to its end, writing its socket once a turn.
async fn turns<C, S>(
    cork: &Cork<S>,
    mut connection: Pin<&mut C>,
    go_away: fn(Pin<&mut C>),
    phases: &mut watch::Receiver<Phase>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    C: Future<Output = hyper::Result<()>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut draining = false;
    loop {
        let turn = std::future::poll_fn(|cx| {
            let done = connection.as_mut().poll(cx).map_err(Into::into);
            match cork.end_turn(cx) {
                Err(error) if done.is_pending() => Poll::Ready(Err(error.into())),
                _ => done,
            }
        });
        tokio::select! {
            biased;
            () = reached(phases, Phase::Drain), if !draining => {
                go_away(connection.as_mut());
                draining = true;
            }
            ended = turn => {
                // An upgraded connection lives on in its handler, which knows no turns.
                cork.release();
                cork.emptied().await?;
                return ended;
            }
        }
    }
}

/// Puts the caller on each request.
#[derive(Clone)]
struct Tagged<S> {
    service: TowerToHyperService<S>,
    caller: Arc<Caller>,
}

impl<S> hyper::service::Service<Request<Incoming>> for Tagged<S>
where
    S: Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = <TowerToHyperService<S> as hyper::service::Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(identity) = &self.caller.identity {
            request.extensions_mut().insert(identity.clone());
        }
        request.extensions_mut().insert(self.caller.clone());
        self.service.call(request)
    }
}

/// A connection's socket under HTTP.
enum Socket<S> {
    Plain(Rewound<S>),
    Tls(Box<TlsStream<Rewound<S>>>),
}

impl<S: Stream> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: Stream> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
