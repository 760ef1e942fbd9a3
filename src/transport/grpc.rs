//! The transport between members: `mainstay.internal.Peer` over HTTP/2.
//!
//! Each member dials each other one and sends on its own stream; the other direction of that stream
//! carries nothing and only shows that the connection lives. So each pair has two connections, and
//! neither side's trouble with dialling hides the other's.
//!
//! ```text
//!   send() → queue of the peer → its task: dial, hello, batches ──────→ Exchange handler → Inbox
//! ```
//!
//! Invariants:
//! - [`send`](Transport::send) never waits: a full queue loses the message and says so to the inbox;
//! - nothing of a stream is read before its hello was admitted ([`Inbox::admit`]), and it is asked again when
//!   the members have changed;
//! - a broken stream is reported to the inbox once, by each side that had it;
//! - messages that were queued for a lost connection are dropped, not sent on the next one: Raft has
//!   moved on, and a proposal must not be delivered twice.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::chunks::encode_chunk;
use super::{Hello, Inbox, PeerAddress, REMOVED, Transport, codec};
use crate::buggify;
use crate::config::Url;
use crate::machine::snapshot::Chunk;
use crate::metrics::{Metrics, PeerFigures};
use crate::net::tls::ClientTls;
use crate::net::{Channel, ChannelOptions};
use crate::proto::internal as wire;
use crate::proto::internal::peer_client::PeerClient;
use crate::raft::Envelope;
use crate::runtime::{Address, Instant, Lane, Runtime, TaskHandle, timeout};
use crate::server::BoxFuture;
use crate::types::{ClusterId, NodeId};

/// How many messages wait for one peer before more are lost.
const QUEUE_MESSAGES_MAX: usize = 4096;

/// How many messages go into one batch.
const BATCH_MESSAGES_MAX: usize = 256;

/// How many batches wait in one connection.
const CONNECTION_BATCHES_MAX: usize = 16;

/// The pause before a lost connection is dialled again: first, and at the most.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a call to another member may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the way to a peer and back is timed.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// How many bytes one message of the protocol may have: an append's entries, with room.
pub(crate) const PEER_MESSAGE_BYTES_MAX: usize = 512 << 20;

/// See the module's text. Clones share the connections.
#[derive(Clone)]
pub struct GrpcTransport<R: Runtime> {
    inner: Arc<Inner<R>>,
}

struct Inner<R: Runtime> {
    runtime: R,
    own: Hello,
    tls: Option<Arc<ClientTls>>,
    metrics: Arc<Metrics>,
    /// How often it was said who may be sent to: whoever was admitted before may not be any more.
    changes: AtomicU64,
    inbox: Arc<dyn Inbox>,
    peers: Mutex<BTreeMap<NodeId, Peer<R>>>,
    /// Members that introduced themselves and are in no configuration that is known here yet.
    introduced: Mutex<BTreeMap<NodeId, PeerAddress>>,
}

struct Peer<R: Runtime> {
    address: PeerAddress,
    queue: mpsc::Sender<Envelope>,
    link: Arc<Mutex<Link<R>>>,
    figures: Arc<PeerFigures>,
    task: TaskHandle,
}

impl<R: Runtime> Drop for Peer<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection as it is now.
struct Link<R: Runtime> {
    since: Option<Instant>,
    channel: Option<Channel<R>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic with this lock held ends the process")
}

impl<R: Runtime> GrpcTransport<R> {
    /// Makes a transport without peers.
    pub fn new(
        runtime: R,
        own: Hello,
        tls: Option<Arc<ClientTls>>,
        metrics: Arc<Metrics>,
        inbox: Arc<dyn Inbox>,
    ) -> Self {
        let (peers, introduced) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
        Self {
            inner: Arc::new(Inner {
                runtime,
                own,
                tls,
                metrics,
                changes: AtomicU64::new(0),
                inbox,
                peers,
                introduced,
            }),
        }
    }

    /// Takes the address of a member that was admitted, if it is not known. A member that joins has an
    /// empty configuration: it could not answer its leader, not even to say that it needs a snapshot.
    fn introduce(&self, id: NodeId, urls: Vec<String>) {
        let mut peers = lock(&self.inner.peers);
        if urls.is_empty() || peers.contains_key(&id) {
            return;
        }
        let address = PeerAddress { urls };
        lock(&self.inner.introduced).insert(id, address.clone());
        peers.insert(id, self.start_peer(id, address));
    }

    fn start_peer(&self, id: NodeId, address: PeerAddress) -> Peer<R> {
        let (queue, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let link = Arc::new(Mutex::new(Link { since: None, channel: None }));
        let figures = self.inner.metrics.peer(id);
        let dialer = Dialer {
            inner: self.inner.clone(),
            id,
            urls: address.urls.clone(),
            link: link.clone(),
            figures: figures.clone(),
            messages,
        };
        let task = self.inner.runtime.spawn(Lane::Serve, "peer", dialer.run());
        Peer { address, queue, link, figures, task }
    }

    /// Returns a client for calls to a peer that is connected at the moment.
    pub(crate) fn client(&self, id: NodeId) -> Option<PeerClient<Channel<R>>> {
        let peers = lock(&self.inner.peers);
        let channel = lock(&peers.get(&id)?.link).channel.clone()?;
        Some(limited(PeerClient::new(channel)))
    }

    /// Returns the cluster's id.
    pub(crate) fn cluster_id(&self) -> ClusterId {
        self.inner.own.cluster_id
    }

    /// Returns the runtime.
    pub(crate) fn runtime(&self) -> &R {
        &self.inner.runtime
    }

    /// Runs a call with the time limit of calls between members.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        match timeout(&self.inner.runtime, CALL_TIMEOUT, call).await {
            Ok(outcome) => outcome.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        }
    }
}

/// Makes a channel to a URL; it connects when first used.
fn dial<R: Runtime>(
    runtime: &R,
    url: &str,
    tls: Option<&Arc<ClientTls>>,
) -> Result<Channel<R>, Status> {
    let url = Url::parse(url).map_err(Status::invalid_argument)?;
    let address = match url.socket_path() {
        Some(path) => Address::Unix(path.into()),
        None => Address::tcp(url.host(), url.port().unwrap_or(0)),
    };
    let tls = if url.is_tls() { tls.cloned() } else { None };
    Ok(Channel::new(runtime, ChannelOptions { tls, ..ChannelOptions::new(address) }))
}

fn limited<R: Runtime>(client: PeerClient<Channel<R>>) -> PeerClient<Channel<R>> {
    client
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

/// Asks the member at a URL who the cluster is; used by a member that is about to start.
pub async fn describe<R: Runtime>(
    runtime: &R,
    url: &str,
    tls: Option<&Arc<ClientTls>>,
    cluster_id: Option<ClusterId>,
) -> Result<wire::DescribeResponse, Status> {
    let call = async {
        let channel = dial(runtime, url, tls)?;
        let request = wire::DescribeRequest { cluster_id: cluster_id.map_or(0, |id| id.0) };
        limited(PeerClient::new(channel)).describe(request).await
    };
    match timeout(runtime, CALL_TIMEOUT, call).await {
        Ok(outcome) => outcome.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}

impl<R: Runtime> Transport for GrpcTransport<R> {
    fn send(&self, messages: Vec<Envelope>) {
        let peers = lock(&self.inner.peers);
        for message in messages {
            let (to, peer) = (message.to, peers.get(&message.to));
            let peer = peer.filter(|_| !buggify!("transport_queue_is_full"));
            let sent = peer.map(|peer| peer.queue.try_send(message));
            if !matches!(sent, Some(Ok(()))) {
                if let Some(peer) = peer {
                    peer.figures.sent_failures.inc();
                }
                self.inner.inbox.unreachable(to);
            }
        }
    }

    fn set_peers(&self, mut addresses: BTreeMap<NodeId, PeerAddress>) {
        self.inner.changes.fetch_add(1, Ordering::Relaxed);
        let mut introduced = lock(&self.inner.introduced);
        introduced.retain(|id, _| !addresses.contains_key(id));
        addresses.extend(introduced.iter().map(|(id, address)| (*id, address.clone())));
        drop(introduced);
        let mut peers = lock(&self.inner.peers);
        peers.retain(|id, peer| addresses.get(id) == Some(&peer.address));
        for (id, address) in addresses {
            peers.entry(id).or_insert_with(|| self.start_peer(id, address));
        }
    }

    fn send_snapshot(
        &self,
        envelope: Envelope,
        mut chunks: mpsc::Receiver<Chunk>,
    ) -> impl Future<Output = bool> + Send + 'static {
        let client = self.client(envelope.to);
        let figures = self.inner.metrics.peer(envelope.to);
        async move {
            let Some(mut client) = client else { return false };
            let (pieces, stream) = mpsc::channel(2);
            let feed = async {
                while let Some(chunk) = chunks.recv().await {
                    if pieces.send(encode_chunk(chunk, &envelope)).await.is_err() {
                        break;
                    }
                }
                drop(pieces);
            };
            let answer = tokio::join!(biased; client.install_snapshot(Batches(stream)), feed).0;
            let [taken, refused] = &figures.snapshots;
            match answer {
                Ok(_) => {
                    taken.inc();
                    true
                }
                Err(status) => {
                    refused.inc();
                    warn!(peer = hex(envelope.to), error = status.message(), "snapshot refused");
                    false
                }
            }
        }
    }

    fn connected(&self) -> BTreeMap<NodeId, Instant> {
        let peers = lock(&self.inner.peers);
        peers.iter().filter_map(|(id, peer)| Some((*id, lock(&peer.link).since?))).collect()
    }
}

/// Keeps one outgoing connection alive.
struct Dialer<R: Runtime> {
    inner: Arc<Inner<R>>,
    id: NodeId,
    urls: Vec<String>,
    link: Arc<Mutex<Link<R>>>,
    figures: Arc<PeerFigures>,
    messages: mpsc::Receiver<Envelope>,
}

impl<R: Runtime> Dialer<R> {
    async fn run(mut self) {
        let (mut pause, mut attempt) = (REDIAL.0, 0);
        while !self.urls.is_empty() {
            let url = self.urls[attempt % self.urls.len()].clone();
            attempt += 1;
            match self.exchange(&url).await {
                Ok(()) => {
                    pause = REDIAL.0;
                    self.figures.disconnected.inc();
                    self.inner.inbox.connection_lost(self.id);
                }
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    debug!(
                        peer = hex(self.id),
                        url,
                        error = status.message(),
                        "peer is not reachable"
                    );
                }
                Err(status) => {
                    warn!(
                        peer = hex(self.id),
                        url,
                        error = status.message(),
                        "peer refused the stream"
                    );
                    if status.code() == tonic::Code::FailedPrecondition
                        && status.message() == REMOVED
                    {
                        self.inner.inbox.removed();
                    }
                }
            }
            *lock(&self.link) = Link { since: None, channel: None };
            // What waited for the lost connection is stale.
            while self.messages.try_recv().is_ok() {}
            self.inner.runtime.sleep(pause).await;
            pause = buggify!("transport_dials_late", REDIAL.1, (pause * 2).min(REDIAL.1));
        }
    }

    /// Dials and sends until the connection breaks; an error if it never came to a stream.
    async fn exchange(&mut self, url: &str) -> Result<(), Status> {
        let runtime = self.inner.runtime.clone();
        let channel = dial(&runtime, url, self.inner.tls.as_ref())?;
        let room = buggify!("transport_waits_for_each_batch", 1, CONNECTION_BATCHES_MAX);
        let (batches, stream) = mpsc::channel(room);
        let hello = wire::PeerBatch { hello: Some(self.hello()), messages: Vec::new() };
        batches.try_send(hello).expect("the channel is new");
        let mut client = limited(PeerClient::new(channel.clone()));
        let opened = timeout(&runtime, CALL_TIMEOUT, client.exchange(Batches(stream))).await;
        let mut back = opened
            .map_err(|_| Status::unavailable("the stream was not opened in time"))??
            .into_inner();
        info!(peer = hex(self.id), url, "established the stream to a peer");
        *lock(&self.link) = Link { since: Some(runtime.now()), channel: Some(channel) };
        let mut waiting = Vec::new();
        let mut probing: Option<Probe> = None;
        let mut probe_at = Box::pin(runtime.sleep(PROBE_INTERVAL));
        loop {
            tokio::select! {
                biased;
                // Nothing is ever sent back: an answer here is the end of the stream.
                end = back.message() => {
                    let reason = end.err().map(|status| status.message().to_owned());
                    info!(peer = hex(self.id), url, error = reason, "lost the stream to a peer");
                    return Ok(());
                }
                n = self.messages.recv_many(
                    &mut waiting,
                    buggify!("transport_sends_one_by_one", 1, BATCH_MESSAGES_MAX),
                ) => {
                    if n == 0 || buggify!("transport_hangs_up") {
                        return Ok(());
                    }
                    let messages = waiting.drain(..).map(|message| codec::encode(&message)).collect();
                    let batch = wire::PeerBatch { hello: None, messages };
                    self.figures.sent_bytes.add_len(batch.encoded_len());
                    // A stream that takes nothing more either drains or ends; its end is seen here too.
                    tokio::select! {
                        biased;
                        sent = batches.send(batch) => if sent.is_err() { return Ok(()) },
                        _ = back.message() => return Ok(()),
                    }
                }
                took = async { probing.as_mut().expect("the arm's condition").await },
                    if probing.is_some() =>
                {
                    if let Some(took) = took {
                        self.figures.round_trip.observe(took);
                    }
                    probing = None;
                    let pause = Duration::from_millis(20);
                    let pause = buggify!("transport_probes_early", pause, PROBE_INTERVAL);
                    probe_at = Box::pin(runtime.sleep(pause));
                }
                () = &mut probe_at, if probing.is_none() => {
                    probing = Some(probe(&runtime, client.clone(), self.inner.own.cluster_id));
                }
            }
        }
    }

    fn hello(&self) -> wire::PeerHello {
        let own = &self.inner.own;
        wire::PeerHello {
            cluster_id: own.cluster_id.0,
            member_id: own.member_id.0,
            to_member_id: self.id.0,
            name: own.name.clone(),
            peer_urls: own.peer_urls.clone(),
            version: crate::config::ETCD_VERSION.to_owned(),
            min_version: "3.7.0".to_owned(),
            store_id: own.store_id,
            boot: own.boot,
        }
    }
}

/// A question to a peer under way, and how long its answer took, if one came.
type Probe = Pin<Box<dyn Future<Output = Option<Duration>> + Send>>;

/// Asks a peer something small over the connection that carries the messages.
fn probe<R: Runtime>(
    runtime: &R,
    mut client: PeerClient<Channel<R>>,
    cluster_id: ClusterId,
) -> Probe {
    let runtime = runtime.clone();
    Box::pin(async move {
        let began = runtime.now();
        let request = wire::DescribeRequest { cluster_id: cluster_id.0 };
        client.describe(request).await.ok().map(|_| runtime.now() - began)
    })
}

fn hex(id: NodeId) -> String {
    format!("{:x}", id.0)
}

/// A channel's receiver as the stream that tonic asks for.
struct Batches<T>(mpsc::Receiver<T>);

impl<T> Stream for Batches<T> {
    type Item = T;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// What a serving member gives a peer that dialled: a stream that says nothing and ends with the other.
pub(crate) type Back = Pin<Box<dyn Stream<Item = Result<wire::PeerBatch, Status>> + Send>>;

/// Serves one incoming stream: checks its hello, then passes everything on to the inbox.
pub(crate) async fn serve_exchange<R: Runtime>(
    transport: &GrpcTransport<R>,
    inbox: &Arc<dyn Inbox>,
    request: Request<Streaming<wire::PeerBatch>>,
) -> Result<Response<Back>, Status> {
    let mut batches = request.into_inner();
    let first = batches.message().await?;
    let hello = first.as_ref().and_then(|batch| batch.hello.as_ref());
    let hello =
        hello.ok_or_else(|| Status::invalid_argument("the stream begins without a hello"))?;
    let from = NodeId(hello.member_id);
    let hello = Hello {
        cluster_id: ClusterId(hello.cluster_id),
        member_id: from,
        to: NodeId(hello.to_member_id),
        name: hello.name.clone(),
        peer_urls: hello.peer_urls.clone(),
        store_id: hello.store_id,
        boot: hello.boot,
    };
    inbox.admit(&hello)?;
    transport.introduce(from, hello.peer_urls.clone());
    let figures = transport.inner.metrics.peer(from);
    let (alive, back) = mpsc::channel(1);
    let (inbox, inner) = (inbox.clone(), transport.inner.clone());
    let reader: BoxFuture<()> = Box::pin(async move {
        let mut changes = inner.changes.load(Ordering::Relaxed);
        loop {
            let batch = tokio::select! {
                biased;
                () = alive.closed() => break,
                batch = batches.message() => batch,
            };
            let Ok(Some(batch)) = batch else { break };
            if buggify!("transport_stops_listening") {
                break;
            }
            // NB: a member that was removed behind its back goes on speaking on the stream it has, and is
            // answered by nobody. Only when it dials again is it told (scenario removed-while-away).
            let now = inner.changes.load(Ordering::Relaxed);
            if std::mem::replace(&mut changes, now) != now && inbox.admit(&hello).is_err() {
                break;
            }
            figures.received_bytes.add_len(batch.encoded_len());
            let mut messages = Vec::with_capacity(batch.messages.len());
            for message in batch.messages {
                match codec::decode(message) {
                    // A peer speaks for itself only.
                    Ok(message) if message.from == from => messages.push(message),
                    Ok(message) => {
                        warn!(peer = hex(from), claimed = hex(message.from), "false sender")
                    }
                    // Of a newer release, perhaps: it counts as lost.
                    Err(error) => warn!(peer = hex(from), %error, "unreadable message"),
                }
            }
            if !buggify!("transport_loses_a_batch") {
                inbox.messages(messages);
            }
        }
        inbox.connection_lost(from);
        drop(alive);
    });
    drop(transport.runtime().spawn(Lane::Serve, "peer stream", reader));
    Ok(Response::new(Box::pin(Batches(back))))
}
