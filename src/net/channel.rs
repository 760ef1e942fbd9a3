//! A client's connection to one server: HTTP/2 over a runtime's stream, TLS where asked for.
//!
//! A [`Channel`] is what tonic's generated clients run on. It connects when first used, and again when
//! used after a loss, but not more often than its backoff allows; in between, requests fail at once
//! (code `Unavailable`), so that nobody waits for a dead peer. Requests made while a connection is
//! being made wait for it.
//!
//! Clones share the connection. It ends when the last of them is dropped. Its state is reported to
//! [`ChannelOptions::on_change`] as it happens: a closed connection is the earliest sign of a dead
//! process, long before any timeout.
//!
//! NB: a request that fails with `Unavailable` may have been carried out; the connection can break
//! between request and answer. Nothing is sent twice.
//!
//! Left out: several addresses and balancing, proxies, compression.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::cork::{Cork, cork};
use super::glue::{Clock, Tasks};
use super::options::{Http2, WINDOW_MIN};
use super::tls::ClientTls;
use crate::runtime::{Address, Instant, Lane, Runtime, latest, timeout};

/// Whom a channel connects to, and how.
#[derive(Clone)]
pub struct ChannelOptions {
    /// Where the server listens.
    pub address: Address,
    /// TLS, if the server speaks it.
    pub tls: Option<Arc<ClientTls>>,
    /// HTTP/2's settings. Pings are sent on idle connections too.
    pub http2: Http2,
    /// The limit for connecting, TLS and HTTP/2's first settings included.
    pub connect_timeout: Duration,
    /// The pause after a first failure; each further failure doubles it.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Told of each change. Called from a serving task: it must not block.
    pub on_change: Option<OnChange>,
}

impl ChannelOptions {
    /// Returns sensible options for a server without TLS.
    pub fn new(address: Address) -> Self {
        let keepalive_interval = Duration::from_secs(30);
        Self {
            address,
            tls: None,
            http2: Http2 { keepalive_interval, ..Http2::default() },
            connect_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            on_change: None,
        }
    }
}

/// Hears of a channel's changes.
pub type OnChange = Arc<dyn Fn(&Change) + Send + Sync>;

/// A change of a channel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A connection stands.
    Connected,
    /// A connection was not made; with the reason.
    Failed(String),
    /// A connection that stood is gone; with the reason.
    Lost(String),
}

/// A connection to one server, made when needed.
pub struct Channel<R: Runtime> {
    shared: Arc<Shared<R>>,
}

impl<R: Runtime> Clone for Channel<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<R> {
    runtime: R,
    clock: Clock<R>,
    options: ChannelOptions,
    scheme: Scheme,
    authority: Authority,
    state: Mutex<State>,
}

enum State {
    /// There is no connection, and before `retry_at` none is tried.
    Idle {
        retry_at: Instant,
        failures: u32,
        reason: Arc<str>,
    },
    /// A task is at it; the receiver learns when it is done.
    Connecting {
        done: latest::Receiver<()>,
        failures: u32,
    },
    Ready {
        sender: http2::SendRequest<Body>,
    },
}

impl<R: Runtime> Channel<R> {
    /// Makes a channel. Nothing is sent yet.
    pub fn new(runtime: &R, options: ChannelOptions) -> Self {
        let text = match &options.address {
            Address::Unix(_) => "localhost".to_owned(),
            tcp => tcp.to_string(),
        };
        let authority = text.parse().unwrap_or_else(|_| Authority::from_static("localhost"));
        let scheme = if options.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let idle =
            State::Idle { retry_at: Instant::default(), failures: 0, reason: "not tried".into() };
        Self {
            shared: Arc::new(Shared {
                runtime: runtime.clone(),
                clock: Clock::new(runtime.clone()),
                options,
                scheme,
                authority,
                state: Mutex::new(idle),
            }),
        }
    }

    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        &self.shared.options.address
    }

    /// Says whether a connection stands, as far as is known.
    pub fn is_connected(&self) -> bool {
        matches!(&*self.shared.lock(), State::Ready { sender } if !sender.is_closed())
    }

    /// Begins to connect, if there is no connection and the backoff allows it. Does not wait.
    pub fn connect(&self) {
        // The error is for those who have a request.
        let _ = self.shared.clone().sender_or_wait();
    }
}

/// What a request finds: a connection, or one being made.
enum Found {
    Sender(http2::SendRequest<Body>),
    Wait(latest::Receiver<()>),
}

impl<R: Runtime> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sender_or_wait(self: Arc<Self>) -> Result<Found, Status> {
        let now = self.runtime.now();
        let mut state = self.lock();
        if let State::Ready { sender } = &*state
            && sender.is_closed()
        {
            *state = State::Idle { retry_at: now, failures: 0, reason: "closed".into() };
        }
        match &*state {
            State::Ready { sender } => Ok(Found::Sender(sender.clone())),
            State::Connecting { done, .. } => Ok(Found::Wait(done.clone())),
            State::Idle { retry_at, reason, .. } if now < *retry_at => Err(unavailable(reason)),
            State::Idle { failures, .. } => {
                let (tell, done) = latest::channel(());
                *state = State::Connecting { done: done.clone(), failures: *failures };
                drop(state);
                let shared = self.clone();
                self.runtime.spawn(Lane::Serve, "connect", async move {
                    shared.make_connection().await;
                    drop(tell);
                });
                Ok(Found::Wait(done))
            }
        }
    }

    async fn sender(self: &Arc<Self>) -> Result<http2::SendRequest<Body>, Status> {
        match self.clone().sender_or_wait()? {
            Found::Sender(sender) => return Ok(sender),
            // The sender of this channel sends nothing: it is dropped when the attempt is over.
            Found::Wait(mut done) => drop(done.changed().await),
        }
        match &*self.lock() {
            State::Ready { sender } => Ok(sender.clone()),
            State::Idle { reason, .. } => Err(unavailable(reason)),
            State::Connecting { .. } => Err(unavailable("connection lost at once")),
        }
    }

    /// Makes one attempt, and leaves its result in the state.
    async fn make_connection(self: Arc<Self>) {
        let attempt = timeout(&self.runtime, self.options.connect_timeout, self.handshake());
        let result = match attempt.await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let change = {
            let mut state = self.lock();
            let failures = match &*state {
                State::Connecting { failures, .. } => *failures,
                State::Idle { .. } | State::Ready { .. } => 0,
            };
            match result {
                Ok(sender) => {
                    *state = State::Ready { sender };
                    Change::Connected
                }
                Err(error) => {
                    let reason = format!("dial {}: {error}", self.options.address);
                    let retry_at = self.runtime.now() + self.backoff(failures);
                    let failures = failures.saturating_add(1);
                    *state = State::Idle { retry_at, failures, reason: reason.as_str().into() };
                    Change::Failed(reason)
                }
            }
        };
        self.report(&change);
    }

    /// Doubles the pause with each failure, and shortens it by chance by up to a quarter, so that
    /// clients that lost one server do not all come back in the same instant.
    fn backoff(&self, failures: u32) -> Duration {
        let ChannelOptions { backoff_min, backoff_max, .. } = self.options;
        let full = backoff_min.saturating_mul(1 << failures.min(16)).min(backoff_max);
        let full = crate::buggify!("channel_waits_long", backoff_max, full);
        let parts = u32::try_from(self.runtime.random_u64() % 256).unwrap_or(0);
        full - full / 1024 * parts
    }

    async fn handshake(self: &Arc<Self>) -> io::Result<http2::SendRequest<Body>> {
        if crate::buggify!("channel_does_not_connect") {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let stream = self.runtime.connect(&self.options.address).await?;
        match &self.options.tls {
            None => self.speak_http2(stream).await,
            Some(tls) => {
                let host = match &self.options.address {
                    Address::Tcp { host, .. } => host.as_str(),
                    Address::Unix(_) => "localhost",
                };
                self.speak_http2(tls.connect(host, stream).await?).await
            }
        }
    }

    async fn speak_http2<S>(self: &Arc<Self>, socket: S) -> io::Result<http2::SendRequest<Body>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (cork, corked) = cork(socket, Bytes::new());
        let tasks = TurnTasks {
            tasks: Arc::new(Tasks(self.runtime.clone())),
            cork: Arc::new(cork),
            begun: Arc::new(AtomicBool::new(false)),
        };
        let (sender, connection) =
            self.http2_builder(tasks).handshake(corked).await.map_err(io::Error::other)?;
        let watching = Arc::downgrade(self);
        self.runtime.spawn(Lane::Serve, "channel", async move {
            let reason = match connection.await {
                Ok(()) => "connection closed".to_owned(),
                Err(error) => explain(&error),
            };
            // No channel left means that nobody wants to know.
            if let Some(shared) = watching.upgrade() {
                shared.lost(reason);
            }
        });
        Ok(sender)
    }

    fn http2_builder<S>(&self, tasks: TurnTasks<R, S>) -> http2::Builder<TurnTasks<R, S>> {
        let settings = &self.options.http2;
        let mut builder = http2::Builder::new(tasks);
        builder
            .timer(self.clock.clone())
            .initial_stream_window_size(crate::buggify!(
                "channel_small_streams",
                WINDOW_MIN,
                settings.stream_window
            ))
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.frame_max)
            .max_header_list_size(settings.header_list_max)
            .max_send_buf_size(settings.send_buffer_max)
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            .keep_alive_while_idle(true);
        builder
    }

    fn lost(&self, reason: String) {
        {
            let mut state = self.lock();
            // A newer attempt may have begun, if a request saw the loss first.
            if matches!(&*state, State::Ready { sender } if sender.is_closed()) {
                let retry_at = self.runtime.now();
                *state = State::Idle { retry_at, failures: 0, reason: reason.as_str().into() };
            }
        }
        self.report(&Change::Lost(reason));
    }

    fn report(&self, change: &Change) {
        if let Some(on_change) = &self.options.on_change {
            on_change(change);
        }
    }

    /// Puts scheme and authority on a request that has a path only.
    fn address_request(&self, request: &mut Request<Body>) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).expect("all three parts are there");
    }
}

impl<R: Runtime> Service<Request<Body>> for Channel<R> {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.shared.address_request(&mut request);
        let shared = self.shared.clone();
        Box::pin(async move {
            let mut sender = shared.sender().await?;
            let answer = sender.send_request(request).await;
            Ok(answer.map_err(|error| unavailable(&explain(&error)))?.map(Answer))
        })
    }
}

/// The body of an answer. What goes wrong while it is read is a [`Status`] of code `Unavailable`.
pub struct Answer(Incoming);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().0).poll_frame(cx).map_err(|error| {
            unavailable(&format!("error reading from server: {}", explain(&error)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

fn unavailable(reason: &str) -> Status {
    Status::unavailable(format!("connection error: desc = \"transport: {reason}\""))
}

/// Tells an error with its causes; hyper's own words alone do not say what happened.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Runs hyper's client tasks, and ends a turn of the socket after each poll of the first.
///
/// NB: hyper hands over the task that reads and writes the socket during the handshake, before any
/// other. The rest only fill streams and wake it; ended turns of theirs would steal its wake-ups.
struct TurnTasks<R, S> {
    tasks: Arc<Tasks<R>>,
    cork: Arc<Cork<S>>,
    begun: Arc<AtomicBool>,
}

impl<R, S> Clone for TurnTasks<R, S> {
    fn clone(&self) -> Self {
        Self { tasks: self.tasks.clone(), cork: self.cork.clone(), begun: self.begun.clone() }
    }
}

impl<R, S, F> Executor<F> for TurnTasks<R, S>
where
    R: Runtime,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return self.tasks.execute(future);
        }
        let cork = self.cork.clone();
        self.tasks.execute(async move {
            let mut future = std::pin::pin!(future);
            let turns = std::future::poll_fn(|cx| {
                let done = future.as_mut().poll(cx).map(drop);
                match cork.end_turn(cx) {
                    // Dropping the task ends the connection, and hyper tells those who wait.
                    Err(_) => Poll::Ready(()),
                    Ok(()) => done,
                }
            });
            turns.await;
            // What was written last, a GOAWAY perhaps, is worth an attempt and no error.
            let _ = cork.emptied().await;
        });
    }
}
