//! A client of the API: a list of endpoints, plain or over TLS, used as one.
//!
//! A [`Client`] holds a [`Channel`] to each endpoint and sends a request over any that is connected; while
//! none is, it tries them all until the call's deadline. That wait is free of doubt: nothing was sent yet.
//! Once a request is on its way the rule is the one of etcd's client: what only reads is sent again, to the
//! next endpoint, when the answer is `Unavailable`; a write is not, because it may have been carried out
//! and only the caller knows whether twice would be wrong.
//!
//! - [`Client`] has a method for each unary call, [`watch`](Client::watch) for a watch that survives its
//!   connection ([`Watcher`]) and [`keep_alive`](Client::keep_alive) for a lease.
//! - [`Error`] prints as etcd's Go client prints errors, because scripts match on them.
//!
//! Left out: balancing (a call takes the first connection that stands), service discovery, retries of
//! writes that provably were not sent but had a connection, tokens (the server has no authentication yet).

mod calls;
mod endpoint;
mod error;
mod lease;
mod watch;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch as latest;
use tonic::{Code, Response, Status};

pub use self::endpoint::{BadEndpoint, Endpoint};
pub use self::error::Error;
pub use self::lease::KeepAlive;
pub use self::watch::{WatchSpec, Watcher};
use crate::net::tls::{ClientTls, ClientTlsOptions, Platform, TlsError};
use crate::net::{Change, Channel, ChannelOptions, Http2};
use crate::runtime::{Instant, Runtime, timeout};

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the servers are; see [`Endpoint`] for the forms.
    pub endpoints: Vec<String>,
    /// How TLS is spoken where it is.
    pub tls: ClientTlsOptions,
    /// Whether an endpoint that names no scheme speaks TLS.
    pub tls_by_default: bool,
    /// The limit for one attempt to connect.
    pub dial_timeout: Duration,
    /// Silence on a connection after which the server is pinged.
    pub keepalive_time: Duration,
    /// How long that ping may go unanswered.
    pub keepalive_timeout: Duration,
    /// The largest request that is sent.
    pub send_bytes_max: usize,
    /// The largest answer that is taken.
    pub receive_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            tls: ClientTlsOptions::default(),
            tls_by_default: false,
            dial_timeout: Duration::from_secs(2),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            send_bytes_max: 2 << 20,
            receive_bytes_max: i32::MAX as usize,
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An endpoint cannot be read.
    #[error(transparent)]
    Endpoint(#[from] BadEndpoint),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The list is empty.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
}

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changes nothing; it may.
    Reads,
    /// It may change something; it may not.
    Writes,
}

/// The pause before a read is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// How often a read is sent again.
const RETRIES_MAX: u32 = 100;

/// How often a client without a connection asks its channels to try again; their backoff decides.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// A client of one cluster. Clones share the connections.
pub struct Client<R: Runtime> {
    shared: Arc<Shared<R>>,
}

impl<R: Runtime> Clone for Client<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<R: Runtime> {
    runtime: R,
    channels: Vec<Channel<R>>,
    /// The channel that is looked at first; moves on when it fails.
    first: AtomicUsize,
    /// Counts the channels' changes, to wake those who wait for a connection.
    changes: latest::Receiver<u64>,
    /// Why the last attempt to connect failed.
    failure: Arc<Mutex<Option<String>>>,
    send_bytes_max: usize,
    receive_bytes_max: usize,
}

impl<R: Runtime> Client<R> {
    /// Makes a client. Files are read, and nothing is sent yet.
    ///
    /// # Errors
    /// When an endpoint or a TLS file cannot be used.
    pub fn new(runtime: &R, options: &Options) -> Result<Self, ConnectError> {
        let endpoints: Vec<Endpoint> =
            options.endpoints.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let speaks_tls = |it: &Endpoint| it.tls.unwrap_or(options.tls_by_default);
        let tls = if endpoints.iter().any(speaks_tls) {
            Some(Arc::new(ClientTls::load(options.tls.clone(), Platform::of(runtime))?))
        } else {
            None
        };
        let (tell, changes) = latest::channel(0);
        let tell = Arc::new(tell);
        let failure = Arc::new(Mutex::new(None));
        let channels = endpoints.into_iter().map(|endpoint| {
            let (tell, failure) = (tell.clone(), failure.clone());
            let tls = tls.clone().filter(|_| speaks_tls(&endpoint));
            let channel_options = ChannelOptions {
                tls,
                http2: Http2 {
                    keepalive_interval: options.keepalive_time,
                    keepalive_timeout: options.keepalive_timeout,
                    ..Http2::default()
                },
                connect_timeout: options.dial_timeout,
                on_change: Some(Arc::new(move |change| {
                    if let Change::Failed(reason) | Change::Lost(reason) = change {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(reason.clone());
                    }
                    tell.send_modify(|count: &mut u64| *count = count.wrapping_add(1));
                })),
                ..ChannelOptions::new(endpoint.address)
            };
            Channel::new(runtime, channel_options)
        });
        Ok(Self {
            shared: Arc::new(Shared {
                runtime: runtime.clone(),
                channels: channels.collect(),
                first: AtomicUsize::new(0),
                changes,
                failure,
                send_bytes_max: options.send_bytes_max,
                receive_bytes_max: options.receive_bytes_max,
            }),
        })
    }

    /// Returns the runtime the client lives on.
    pub fn runtime(&self) -> &R {
        &self.shared.runtime
    }

    /// Waits until one of the channels is connected, and returns it.
    async fn connected(&self) -> Channel<R> {
        let shared = &self.shared;
        let mut changes = shared.changes.clone();
        loop {
            changes.mark_unchanged();
            let count = shared.channels.len();
            let first = shared.first.load(Ordering::Relaxed) % count;
            let in_order = || (0..count).map(|i| &shared.channels[(first + i) % count]);
            if let Some(channel) = in_order().find(|channel| channel.is_connected()) {
                return channel.clone();
            }
            in_order().for_each(Channel::connect);
            tokio::select! {
                biased;
                // The sender lives as long as the channels, so this is a change.
                _ = changes.changed() => {}
                () = shared.runtime.sleep(CONNECT_PAUSE) => {}
            }
        }
    }

    /// Lets the next call begin with the next endpoint.
    fn move_on(&self) {
        self.shared.first.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs one call to its end: an answer, an error that stays, or the deadline.
    async fn run<T, F, A>(
        &self,
        effect: Effect,
        limit: Option<Duration>,
        mut call: F,
    ) -> Result<T, Error>
    where
        F: FnMut(Channel<R>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let runtime = &self.shared.runtime;
        let deadline = limit.map(|limit| runtime.now() + limit);
        let mut attempts = 0;
        loop {
            let channel = self.until(deadline, self.connected()).await?;
            let status = match self.until(deadline, call(channel)).await? {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            attempts += 1;
            let again = effect == Effect::Reads
                && status.code() == Code::Unavailable
                && attempts < RETRIES_MAX;
            if !again {
                return Err(Error::of(status));
            }
            self.move_on();
            self.until(deadline, runtime.sleep(RETRY_PAUSE)).await?;
        }
    }

    /// Bounds a future by a deadline.
    async fn until<T>(
        &self,
        deadline: Option<Instant>,
        future: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let Some(deadline) = deadline else { return Ok(future.await) };
        let runtime = &self.shared.runtime;
        let left = deadline.saturating_since(runtime.now());
        timeout(runtime, left, future).await.map_err(|_| Error::Deadline(self.last_failure()))
    }

    fn last_failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(all(test, feature = "real"))]
mod tests;
