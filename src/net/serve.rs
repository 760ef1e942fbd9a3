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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};
use tower_service::Service;

use super::connection::connection;
use super::glue::Clock;
use super::options::Options;
use crate::runtime::{Address, Lane, Listener, Runtime, latest, timeout};

/// The pause after a failed `accept`: it mostly means that descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long aborted connections may take to be gone.
const ABORT_WAIT: Duration = Duration::from_secs(2);

/// Figures about a listener.
#[derive(Debug, Default)]
pub struct Stats {
    open: AtomicUsize,
    accepted: AtomicU64,
    pub(super) refused: AtomicU64,
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
pub(super) enum Phase {
    Serve,
    Drain,
    Abort,
}

/// A listener at work. Dropping it drops its connections.
pub struct Serving<R> {
    runtime: R,
    address: Address,
    stats: Arc<Stats>,
    phase: latest::Sender<Phase>,
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
        self.phase.send_modify(|phase| *phase = Phase::Drain);
        let drained = timeout(&self.runtime, drain, self.gone.recv()).await.is_ok();
        self.phase.send_modify(|phase| *phase = Phase::Abort);
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
    let (phase, phases) = latest::channel(Phase::Serve);
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
pub(super) struct Shared<R> {
    pub(super) runtime: R,
    pub(super) clock: Clock<R>,
    pub(super) options: Options,
    pub(super) stats: Arc<Stats>,
}

async fn accept<R, S, B>(
    shared: Arc<Shared<R>>,
    mut listener: R::Listener,
    service: S,
    mut phases: latest::Receiver<Phase>,
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
        if crate::buggify!("accept_hangs_up") {
            continue;
        }
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

/// Waits for a phase, or a later one. That `Serving` was dropped is as good as the last.
pub(super) async fn reached(phases: &mut latest::Receiver<Phase>, phase: Phase) {
    let _ = phases.wait_for(|now| *now >= phase).await;
}
