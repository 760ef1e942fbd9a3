//! One connection: finding out what is spoken, and polling it in turns.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tower_service::Service;

use super::cork::{Cork, cork};
use super::glue::Tasks;
use super::options::{Endpoint, Http2, Options, Protocols, Security, WINDOW_MIN};
use super::pings::Pings;
use super::serve::{Phase, Shared, reached};
use super::sniff::{Rewound, begins_http2, begins_tls};
use super::tls::PeerIdentity;
use crate::buggify;
use crate::runtime::{Elapsed, Runtime, Stream, latest, timeout};

/// Streams a client may have reset before we took them up, and the like. A client that cancels a
/// hundred watches at once is no attacker; one that does nothing else runs into this.
const RESET_STREAMS_MAX: usize = 1024;

/// Room for the first bytes of a connection.
const SNIFF_BUFFER: usize = 1024;

/// How long, and for how many reads, a refused connection is read before it is closed.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

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

/// Serves one connection from its first byte to its last.
pub(super) async fn connection<R, S, B>(
    shared: &Shared<R>,
    stream: R::Stream,
    service: S,
    phases: &mut latest::Receiver<Phase>,
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
    let secure = caller.secure;
    let (cork, corked) = cork(socket, ahead);
    let service = Tagged { service, caller: Arc::new(caller) };
    let result = match version {
        http::Version::HTTP_2 => {
            cork.correct_authorities();
            if !secure {
                let runtime = shared.runtime.clone();
                cork.count(Pings::new(move || runtime.now(), shared.options.ping_interval_min));
            }
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
        .initial_stream_window_size(buggify!("connection_small_streams", WINDOW_MIN, stream_window))
        .initial_connection_window_size(connection_window)
        .max_frame_size(frame_max)
        .max_concurrent_streams((streams_max != u32::MAX).then_some(streams_max))
        .max_header_list_size(header_list_max)
        .max_send_buf_size(buggify!("connection_buffers_little", 1024, send_buffer_max))
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
    let (tls, limit) = match security {
        Security::Plain => return Some(Socket::Plain(Rewound::new(Bytes::new(), stream))),
        Security::Tls(tls) => (tls, handshake_timeout),
        Security::Either(tls) => (tls, head_timeout),
    };
    let mut read = BytesMut::with_capacity(SNIFF_BUFFER);
    let begins = timeout(&shared.runtime, *limit, begins_tls(&mut stream, &mut read)).await;
    let begins = begins.ok()?.ok()?;
    let stream = Rewound::new(read.freeze(), stream);
    if !begins {
        if matches!(security, Security::Either(_)) {
            return Some(Socket::Plain(stream));
        }
        linger(&shared.runtime, stream).await;
        return None;
    }
    let accepted = timeout(&shared.runtime, *handshake_timeout, tls.accept(stream)).await;
    let (error, stream) = match accepted.unwrap_or_else(|late| Err((timed_out(late), None))) {
        Ok(accepted) => {
            let remote = remote_ip(&caller.address);
            let shown = accepted.get_ref().1.peer_certificates().unwrap_or_default();
            let checked = tls.check_peer(&shared.runtime, shown, remote);
            match timeout(&shared.runtime, *handshake_timeout, checked).await {
                Ok(Ok(identity)) => {
                    caller.secure = true;
                    caller.identity = identity;
                    return Some(Socket::Tls(Box::new(accepted)));
                }
                Ok(Err(error)) => (error, None),
                Err(late) => (timed_out(late), None),
            }
        }
        Err(failure) => failure,
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
    if let Some(stream) = stream {
        linger(&shared.runtime, stream).await;
    }
    None
}

fn timed_out(late: Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, late)
}

/// Reads the address out of `host:port`.
fn remote_ip(address: &str) -> Option<IpAddr> {
    let (host, _) = address.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

/// Closes a stream so that what was written last arrives. To close with bytes unread would reset the
/// connection, and the other side might lose the alert that says why.
async fn linger<R: Runtime, S: AsyncRead + AsyncWrite + Unpin>(runtime: &R, mut stream: S) {
    let closed = timeout(runtime, LINGER_TIME, async {
        stream.shutdown().await?;
        let mut unread = [0; SNIFF_BUFFER];
        for _ in 0..LINGER_READS {
            if stream.read(&mut unread).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    });
    // However it ends, it ends here.
    let _ = closed.await;
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
    phases: &mut latest::Receiver<Phase>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    C: Future<Output = hyper::Result<()>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut draining = false;
    loop {
        let turn = std::future::poll_fn(|cx| {
            if buggify!("connection_goes_away") {
                go_away(connection.as_mut());
            }
            let done = connection.as_mut().poll(cx).map_err(Into::into);
            if done.is_pending() && cork.pinged_too_often() {
                return Poll::Ready(Err("got too many pings from the client".into()));
            }
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
    service: S,
    caller: Arc<Caller>,
}

/// NB: the service is called without being asked whether it is ready, which all of ours always are. To ask
/// first would keep service and request in one more future, which is moved about for each request.
impl<S> hyper::service::Service<Request<Incoming>> for Tagged<S>
where
    S: Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(identity) = &self.caller.identity {
            request.extensions_mut().insert(identity.clone());
        }
        request.extensions_mut().insert(self.caller.clone());
        self.service.clone().call(request)
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
