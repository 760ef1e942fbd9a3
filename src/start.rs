//! A member put together: from a configuration and a runtime to a server that serves.
//!
//! This is the one entrance: the production binary and the simulator both come in by [`start`], with the
//! same configuration type, over the same LMDB, speaking the same bytes. The order is etcd's: listen
//! first (a port in use is found out before the disk is touched), then the disk, then peers, and
//! clients only once this member has published itself through the log; by then it has applied
//! everything that a quorum had committed before, so a restart never serves from the past.
//!
//! NB: this module is above `server`, since it also knows the services.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tonic::Status;
use tracing::{info, warn};

use crate::api::{Api, METHODS};
use crate::cluster::Version;
use crate::command::{Op, Refusal};
use crate::config::{Config, TlsSettings, TlsVersion, Url, texts};
use crate::http;
use crate::lease::ClockOptions;
use crate::metrics::Metrics;
use crate::net::grpc::{Grpc, Split};
use crate::net::shortcut::Shortcut;
use crate::net::tls::{
    self, ClientTls, ClientTlsOptions, Platform, Protocol, ServerTls, ServerTlsOptions, TlsError,
};
use crate::net::{Endpoint, Options, Security, Serving, serve};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::raft;
use crate::runtime::{Address, Instant, Lane, Listener, Process, Runtime, latest};
use crate::server::bootstrap::{self, BootError, Booted, Places};
use crate::server::{
    BoxFuture, Clock, Driver, Event, Handle, Limits, NodeStatus, PeerCalls, Room, ServeError,
    Settings, Shared, StopReason, room,
};
use crate::storage::log::LogOptions;
use crate::transport::grpc::GrpcTransport;
use crate::transport::{Hello, Inbox, REMOVED, Transport};
use crate::types::{ClusterId, LeaseId, NodeId, Revision};
use crate::watch::{Hub, HubOptions, catch_up};

use self::founding::founding;

mod founding;

/// How long running requests may take to end at a stop.
const DRAIN: Duration = Duration::from_secs(2);

/// How many bytes beyond the largest command a client's message may have; etcd's.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

/// The version that a cluster of this release speaks.
const CLUSTER_VERSION: Version = Version::new(3, 7, 0);

/// How many proposals may wait for Raft; etcd's limit on entries between commit and apply.
const PROPOSALS_MAX: usize = 5000;

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The flags do not describe a cluster that this member can be part of.
    #[error("{0}")]
    Bootstrap(String),
    /// A port cannot be listened on.
    #[error("listen tcp {address}: bind: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        error: String,
    },
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The disk cannot be used.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Log and store do not belong together.
    #[error(transparent)]
    Restore(#[from] raft::RestoreError),
    /// The directory's member is in the cluster no more.
    #[error(
        "server is stopping: member {0:x} has been permanently removed from the cluster; \
         the data directory must be removed"
    )]
    Removed(u64),
    /// The member stopped before it could serve.
    #[error("the member stopped before it could serve: {0}")]
    Stopped(StopReason),
}

impl StartError {
    /// The message of the fatal log line under which etcd reports such an error.
    pub fn log_message(&self) -> &'static str {
        match self {
            Self::Stopped(_) | Self::Removed(_) => "listener failed",
            _ => "discovery failed",
        }
    }
}

/// A member that serves. Dropping it without [`Server::stop`] is like a crash.
pub struct Server<R: Runtime> {
    handle: Handle,
    events: mpsc::UnboundedSender<Event>,
    stopped: latest::Receiver<NodeStatus>,
    peers: Vec<Serving<R>>,
    clients: Vec<Serving<R>>,
    _lock: Arc<crate::runtime::Lock>,
}

impl<R: Runtime> Server<R> {
    /// Returns the door to the member.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns the addresses that clients are served on.
    pub fn client_addresses(&self) -> Vec<Address> {
        self.clients.iter().map(|serving| serving.address().clone()).collect()
    }

    /// Waits until the member has stopped by itself, and says why.
    pub async fn stopped(&mut self) -> StopReason {
        loop {
            if let Some(reason) = self.stopped.borrow_and_update().stopped.clone() {
                return reason;
            }
            if self.stopped.changed().await.is_err() {
                return StopReason::Stopped;
            }
        }
    }

    /// Hands leadership over, lets running requests end, and stops.
    pub async fn stop(self) {
        info!("closing etcd server");
        let (done, is_done) = oneshot::channel();
        if self.events.send(Event::Stop { done }).is_ok() {
            // An error means that the driver has stopped by itself.
            let _ = is_done.await;
        }
        for serving in self.clients {
            serving.shutdown(DRAIN).await;
        }
        info!("stopping serving peer traffic");
        for serving in self.peers {
            serving.shutdown(Duration::ZERO).await;
        }
        info!("closed etcd server");
    }
}

/// Starts a member and returns once it serves clients.
///
/// # Errors
/// When the flags, the certificates, the ports or the disk do not allow it; nothing is lost by that.
pub async fn start<R: Runtime>(config: Config, runtime: R) -> Result<Server<R>, StartError> {
    let tls = Certificates::load(&config, &runtime)?;
    info!(
        listen_peer_urls = ?texts(&config.listen_peer_urls),
        "configuring peer listeners"
    );
    let mut peer_listeners = listen(&runtime, &config.listen_peer_urls).await?;
    info!(
        listen_client_urls = ?texts(&config.listen_client_urls),
        "configuring client listeners"
    );
    let client_listeners = listen(&runtime, &config.listen_client_urls).await?;
    let metrics_listeners = listen(&runtime, &config.listen_metrics_urls).await?;

    let places = Places::new(&config.data_dir, config.wal_dir.as_deref());
    let booted = tokio::select! {
        biased;
        booted = boot(&config, &runtime, &places, &tls) => booted?,
        () = turn_away(&mut peer_listeners) => unreachable!("it has no end"),
    };
    info!(
        cluster_id = hex(booted.cluster_id.0),
        local_member_id = hex(booted.id.0),
        commit_index = booted.restored.hard_state.commit.0,
        "starting etcd server"
    );
    let store_id = booted.store_id;
    let (member, driver) = assemble(&config, &runtime, booted, &tls, places.stores.clone())?;
    let handle = member.handle.clone();
    drop(runtime.spawn(Lane::Engine, "driver", async move {
        driver.run().await;
    }));
    let dirs = [places.log.clone(), places.stores.clone()];
    let watch = room::watch(runtime.clone(), handle.clone(), dirs, config.auto_disarm_nospace);
    drop(runtime.spawn(Lane::Serve, "room", watch));

    let mut peers = Vec::new();
    for (url, listener) in config.listen_peer_urls.iter().zip(peer_listeners) {
        let options = Options::new(Endpoint::Peer, tls.peer_security(url));
        let service = peer_service(&runtime, &handle, &member);
        info!(address = url.address(), "serving peer traffic");
        peers.push(serve(&runtime, listener, options, service));
    }
    let mut metrics = Vec::new();
    for (url, listener) in config.listen_metrics_urls.iter().zip(metrics_listeners) {
        let options = Options::new(Endpoint::Metrics, tls.client_security(url));
        let grpc = Grpc::new(&runtime, &[], axum::Router::new());
        let service = Split::new(grpc, http::routes(handle.clone()));
        info!(address = url.address(), "serving metrics");
        metrics.push(serve(&runtime, listener, options, service));
    }
    let mut stopped = member.status.clone();
    tokio::select! {
        biased;
        reason = stop_of(&mut stopped) => return Err(match reason {
            StopReason::Removed => StartError::Removed(handle.id().0),
            reason => StartError::Stopped(reason),
        }),
        () = publish(&config, &handle, store_id) => {}
    }
    let mut clients = Vec::new();
    for (url, listener) in config.listen_client_urls.iter().zip(client_listeners) {
        let mut options = Options::new(Endpoint::Client, tls.client_security(url));
        options.http2.streams_max = config.max_concurrent_streams;
        options.http2.keepalive_interval = config.grpc_keepalive_interval;
        options.http2.keepalive_timeout = config.grpc_keepalive_timeout;
        let service = client_service(&runtime, &config, &handle);
        info!("ready to serve client requests");
        let secure = matches!(options.security, Security::Tls(_));
        if secure {
            info!(
                traffic = "grpc+http",
                address = url.address(),
                "serving client traffic securely"
            );
        } else {
            info!(
                traffic = "grpc+http",
                address = url.address(),
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        clients.push(serve(&runtime, listener, options, service));
    }
    clients.extend(metrics);
    let Assembled { events, status, lock, .. } = member;
    Ok(Server { handle, events, stopped: status, peers, clients, _lock: Arc::new(lock) })
}

/// Closes every connection that peers make, while this member does not know yet what it is. Founders
/// that start together ask one another whether the cluster exists; left waiting, each would wait for
/// the others' patience to end.
async fn turn_away<L: Listener>(listeners: &mut [L]) {
    let mut all: Vec<_> = listeners
        .iter_mut()
        .map(|listener| {
            Box::pin(async move {
                while let Ok(stream) = listener.accept().await {
                    drop(stream);
                }
            })
        })
        .collect();
    std::future::poll_fn(|cx| {
        // A listener in trouble turns nobody away any more; whoever serves it will see it again.
        all.retain_mut(|each| each.as_mut().poll(cx).is_pending());
        std::task::Poll::<()>::Pending
    })
    .await;
}

async fn stop_of(status: &mut latest::Receiver<NodeStatus>) -> StopReason {
    loop {
        if let Some(reason) = status.borrow_and_update().stopped.clone() {
            return reason;
        }
        if status.changed().await.is_err() {
            return StopReason::Stopped;
        }
    }
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

async fn listen<R: Runtime>(runtime: &R, urls: &[Url]) -> Result<Vec<R::Listener>, StartError> {
    let mut listeners = Vec::new();
    for url in urls {
        let at = match url.socket_path() {
            Some(path) => Address::Unix(path.into()),
            None => Address::tcp(url.host(), url.port().unwrap_or(0)),
        };
        let listener = runtime.listen(&at).await.map_err(|error| StartError::Listen {
            address: at.to_string(),
            error: match error.kind() {
                std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                std::io::ErrorKind::AddrNotAvailable => {
                    "cannot assign requested address".to_owned()
                }
                _ => error.to_string(),
            },
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// TLS for each side.
struct Certificates {
    client: Option<Arc<ServerTls>>,
    peer: Option<Arc<ServerTls>>,
    dial: Option<Arc<ClientTls>>,
}

impl Certificates {
    fn load<R: Runtime>(config: &Config, runtime: &R) -> Result<Self, StartError> {
        let platform = Platform::of(runtime);
        let wall = runtime.wall();
        let fixtures = config.data_dir.join("fixtures");
        let client = server_tls(
            &config.client_tls,
            &config.listen_client_urls,
            &fixtures.join("client"),
            wall,
            false,
            &platform,
        )?;
        let peer = server_tls(
            &config.peer_tls,
            &config.listen_peer_urls,
            &fixtures.join("peer"),
            wall,
            true,
            &platform,
        )?;
        let dial = match &peer {
            None => None,
            Some((_, files)) => {
                let options = ClientTlsOptions {
                    trusted_ca_file: config.peer_tls.trusted_ca_file.clone(),
                    cert_and_key_files: Some(files.clone()),
                    server_name: None,
                    insecure_skip_verify: config.peer_tls.makes_certificate(),
                    protocol: protocol(&config.peer_tls),
                };
                Some(Arc::new(ClientTls::load(options, platform)?))
            }
        };
        Ok(Self { client: client.map(|(tls, _)| tls), peer: peer.map(|(tls, _)| tls), dial })
    }

    fn client_security(&self, url: &Url) -> Security {
        security(self.client.as_ref(), url)
    }

    fn peer_security(&self, url: &Url) -> Security {
        security(self.peer.as_ref(), url)
    }
}

fn security(tls: Option<&Arc<ServerTls>>, url: &Url) -> Security {
    match tls {
        Some(tls) if url.is_tls() => Security::Tls(tls.clone()),
        _ => Security::Plain,
    }
}

fn protocol(settings: &TlsSettings) -> Protocol {
    let version = |version: TlsVersion| match version {
        TlsVersion::Tls12 => tls::Version::Tls12,
        TlsVersion::Tls13 => tls::Version::Tls13,
    };
    Protocol {
        version_min: settings.min_version.map_or(tls::Version::Tls12, version),
        version_max: settings.max_version.map(version),
        cipher_suites: settings.cipher_suites.clone(),
    }
}

type Files = (std::path::PathBuf, std::path::PathBuf);

fn server_tls(
    settings: &TlsSettings,
    urls: &[Url],
    fixtures: &Path,
    wall: Duration,
    check_address: bool,
    platform: &Platform,
) -> Result<Option<(Arc<ServerTls>, Files)>, StartError> {
    if !urls.iter().any(Url::is_tls) {
        return Ok(None);
    }
    let files = match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        _ if settings.makes_certificate() => {
            let hosts: Vec<String> = urls.iter().map(|url| url.host().to_owned()).collect();
            let years = u32::try_from(settings.self_signed_cert_validity_years).unwrap_or(u32::MAX);
            let made = tls::generate(fixtures, &hosts, years, wall)?;
            (made.cert_file, made.key_file)
        }
        _ => {
            let url = urls.iter().find(|url| url.is_tls()).map_or("", Url::address);
            return Err(StartError::Bootstrap(format!(
                "cannot listen on TLS for {url}: KeyFile and CertFile are not presented"
            )));
        }
    };
    let options = ServerTlsOptions {
        cert_file: files.0.clone(),
        key_file: files.1.clone(),
        trusted_ca_file: settings.trusted_ca_file.clone(),
        client_cert_auth: settings.client_cert_auth,
        crl_file: settings.crl_file.clone(),
        allowed_cns: settings.allowed_cns.clone(),
        allowed_hostnames: settings.allowed_hostnames.clone(),
        check_address: check_address && !settings.skip_client_san_verification,
        protocol: protocol(settings),
    };
    Ok(Some((Arc::new(ServerTls::load(options, platform.clone())?), files)))
}

/// Reads the member from the disk, after making it if there is none.
async fn boot<R: Runtime>(
    config: &Config,
    runtime: &R,
    places: &Places,
    tls: &Certificates,
) -> Result<Booted<R::Disk>, StartError> {
    let disk = runtime.disk();
    let log_options = config
        .log_segment_bytes
        .map_or_else(LogOptions::default, |segment_bytes| LogOptions { segment_bytes });
    let lock = bootstrap::take(&disk, places)?;
    if bootstrap::exists(&disk, places) {
        info!("server has already been initialized");
    } else {
        bootstrap::check_fresh(&disk, places)?;
        info!("Initialize and start etcd server");
        let founding = founding(config, runtime, tls).await?;
        let random = || runtime.random_u64();
        let crash_point = |name| runtime.crash_point(name);
        bootstrap::found(&disk, places, &founding, log_options, random, crash_point)?;
        info!(
            cluster_id = hex(founding.cluster_id.0),
            local_member_id = hex(founding.id.0),
            "starting local member"
        );
    }
    let booted = bootstrap::boot(&disk, places, lock, log_options, runtime.random_u64())?;
    let membership = booted.machine.reader().members();
    if membership.is_removed(booted.id) {
        return Err(StartError::Removed(booted.id.0));
    }
    let given = texts(&config.initial_advertise_peer_urls);
    bootstrap::check_owner(places, &membership, booted.id, (&config.name, &given))?;
    Ok(booted)
}

/// What [`assemble`] made, beside the driver.
struct Assembled<R: Runtime> {
    handle: Handle,
    events: mpsc::UnboundedSender<Event>,
    status: latest::Receiver<NodeStatus>,
    transport: GrpcTransport<R>,
    inbox: Arc<dyn Inbox>,
    lock: crate::runtime::Lock,
    stores: std::path::PathBuf,
}

fn assemble<R: Runtime>(
    config: &Config,
    runtime: &R,
    booted: Booted<R::Disk>,
    tls: &Certificates,
    stores: std::path::PathBuf,
) -> Result<(Assembled<R>, Driver<R, GrpcTransport<R>>), StartError> {
    let Booted { id, cluster_id, boot, store_id, log, machine, restored, lock } = booted;
    let (events, mailbox) = mpsc::unbounded_channel();
    let reader = machine.reader();
    let inbox: Arc<dyn Inbox> =
        Arc::new(Mailbox { id, cluster_id, events: events.clone(), reader: reader.clone() });
    let own = Hello {
        cluster_id,
        member_id: id,
        to: id,
        name: config.name.clone(),
        peer_urls: texts(&config.initial_advertise_peer_urls),
        store_id,
        boot,
    };
    let metrics = Arc::new(Metrics::new(METHODS, config.metrics_extensive));
    let transport =
        GrpcTransport::new(runtime.clone(), own, tls.dial.clone(), metrics.clone(), inbox.clone());
    transport.set_peers(crate::server::peer_addresses(&reader.members(), id));
    let behind = Arc::new(Notify::new());
    let hub = Hub::new(reader.store().revision(), HubOptions::default(), behind.clone());
    let hub = Arc::new(Mutex::new(hub));
    start_catching_up(runtime, &hub, &reader, behind);
    let (status, published) = latest::channel(NodeStatus::new(machine.applied()));
    let ahead = restored.entries.iter().filter(|entry| entry.index > restored.applied);
    let alarm = room::found(id, &reader.alarms(), ahead.map(|entry| &entry.payload));
    let room = Arc::new(Room::new(alarm));
    let limits = Limits {
        request_bytes_max: config.max_request_bytes,
        txn_ops_max: config.max_txn_ops,
        learners_max: u32::try_from(config.max_learners).unwrap_or(u32::MAX),
        strict_reconfig: config.strict_reconfig_check,
        quota_bytes: config.quota_backend_bytes,
        quota_configured: config
            .quota_backend_bytes
            .map_or(-1, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
        election_timeout: config.effective_election_timeout(),
        request_timeout: config.request_timeout(),
        lease_ttl_min: config.min_lease_ttl_seconds(),
        watch_progress_interval: config.watch_progress_notify_interval,
    };
    let driver = Driver::new(
        runtime,
        Settings {
            id,
            heartbeat_interval: config.heartbeat_interval,
            request_timeout: config.request_timeout(),
            catchup_entries: config.snapshot_catchup_entries,
            proposals_max: PROPOSALS_MAX,
            election_ticks: config.election_ticks(),
            pre_vote: config.pre_vote,
            hasty_start: config.initial_election_tick_advance,
            scrub_rows: config.compaction_batch_limit,
            scrub_pause: config.compaction_sleep_interval,
            boot,
            lease_clock: ClockOptions::default(),
            room: room.clone(),
            metrics: metrics.clone(),
        },
        transport.clone(),
        machine,
        restored,
        (log, stores.clone()),
        hub.clone(),
        (events.clone(), mailbox),
        status,
    )?;
    let shared = Shared {
        id,
        cluster_id,
        events: events.clone(),
        ids: driver.ids(),
        reader,
        hub,
        status: published.clone(),
        limits,
        peers: Arc::new(Peers { transport: transport.clone() }),
        clock: Arc::new(RuntimeClock(runtime.clone())),
        room,
        metrics,
    };
    let handle = Handle { shared: Arc::new(shared) };
    let member = Assembled { handle, events, status: published, transport, inbox, lock, stores };
    Ok((member, driver))
}

/// Keeps bringing watchers that are behind up to date.
fn start_catching_up<R: Runtime>(
    runtime: &R,
    hub: &Arc<Mutex<Hub>>,
    reader: &crate::machine::Reader,
    behind: Arc<Notify>,
) {
    let (hub, reader, clock) = (Arc::downgrade(hub), reader.clone(), runtime.clone());
    let task = async move {
        loop {
            behind.notified().await;
            if crate::buggify!("watchers_catch_up_late") {
                clock.sleep(Duration::from_millis(50)).await;
            }
            loop {
                // The hub is gone with the member.
                let Some(hub) = hub.upgrade() else { return };
                if !catch_up(&hub, |from| read_past(&reader, from)) {
                    break;
                }
                // Others have their turn between two pieces of history.
                clock.sleep(Duration::ZERO).await;
            }
        }
    };
    drop(runtime.spawn(Lane::Serve, "watch catch-up", task));
}

fn read_past(
    reader: &crate::machine::Reader,
    from: Revision,
) -> Result<crate::watch::Past, Revision> {
    match reader.store().history(from, crate::mvcc::Budget::default()) {
        Ok(batch) => Ok(crate::watch::Past { revisions: batch.revisions, next: batch.next }),
        Err(Refusal::Compacted(revision)) => Err(revision),
        // Damage: the store has told the driver, and the member is stopping.
        Err(_) => Ok(crate::watch::Past { revisions: Vec::new(), next: from.next() }),
    }
}

/// Publishes this member's name, URLs and store through the log, and the cluster's version once.
async fn publish(config: &Config, handle: &Handle, store_id: u64) {
    let member = handle.id();
    let ops = [
        Op::MemberStoreSet { member, store_id },
        Op::MemberAttributes {
            member,
            name: config.name.clone(),
            client_urls: texts(&config.advertise_client_urls),
        },
    ];
    for op in ops {
        loop {
            match handle.propose(op.clone()).await {
                Ok(_) => break,
                Err(ServeError::Stopped) => return std::future::pending().await,
                Err(error) => {
                    warn!(%error, "failed to publish local member to cluster through raft");
                    handle.clock().sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    info!(local_member_id = hex(member.0), "published local member to cluster through raft");
    if handle.reader().members().version().is_none() {
        let version = CLUSTER_VERSION.to_string();
        // Another member may have been first; the version is the same.
        if handle.propose(Op::ClusterVersionSet { version: version.clone() }).await.is_ok() {
            info!(cluster_version = version, "set initial cluster version");
        }
    }
    // Also without anything to publish, what a quorum has committed must be applied before serving.
    while let Err(error) = handle.read_barrier().await {
        if error == ServeError::Stopped {
            return std::future::pending().await;
        }
    }
}

const CLIENT_SERVICES: [&str; 6] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "grpc.health.v1.Health",
];

fn client_service<R: Runtime>(
    runtime: &R,
    config: &Config,
    handle: &Handle,
) -> Split<Grpc<R, Shortcut<KvServer<Api>>>, axum::Router> {
    let api = Api::new(handle.clone());
    let most = config.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
    let kv = KvServer::new(api.clone())
        .max_decoding_message_size(most)
        .max_encoding_message_size(usize::MAX);
    let watch = pb::watch_server::WatchServer::new(api.clone())
        .max_decoding_message_size(most)
        .max_encoding_message_size(usize::MAX);
    let lease = pb::lease_server::LeaseServer::new(api.clone()).max_decoding_message_size(most);
    let cluster =
        pb::cluster_server::ClusterServer::new(api.clone()).max_decoding_message_size(most);
    let maintenance =
        pb::maintenance_server::MaintenanceServer::new(api.clone()).max_decoding_message_size(most);
    let health = crate::proto::health::health_server::HealthServer::new(api);
    let routes = tonic::service::Routes::new(watch)
        .add_service(lease)
        .add_service(cluster)
        .add_service(maintenance)
        .add_service(health)
        .prepare()
        .into_axum_router();
    let routes = Shortcut::new("etcdserverpb.KV", kv, routes);
    let grpc = Grpc::new(runtime, &CLIENT_SERVICES, routes);
    Split::new(grpc.counted_by(handle.metrics().calls.clone()), http::routes(handle.clone()))
}

fn peer_service<R: Runtime>(
    runtime: &R,
    handle: &Handle,
    member: &Assembled<R>,
) -> Split<Grpc<R, axum::Router>, axum::Router> {
    let service = crate::api::peer::PeerApi::new(
        handle.clone(),
        member.transport.clone(),
        member.inbox.clone(),
        member.events.clone(),
        member.stores.clone(),
    );
    let peer = crate::proto::internal::peer_server::PeerServer::new(service)
        .max_decoding_message_size(crate::transport::grpc::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(crate::transport::grpc::PEER_MESSAGE_BYTES_MAX);
    let routes = tonic::service::Routes::new(peer).prepare().into_axum_router();
    Split::new(
        Grpc::new(runtime, &["mainstay.internal.Peer"], routes),
        http::peer_routes(handle.clone()),
    )
}

/// The driver's door for the transport.
struct Mailbox {
    id: NodeId,
    cluster_id: ClusterId,
    events: mpsc::UnboundedSender<Event>,
    reader: crate::machine::Reader,
}

impl Inbox for Mailbox {
    fn admit(&self, hello: &Hello) -> Result<(), Status> {
        let refuse = |text: &str| Err(Status::failed_precondition(text));
        if hello.cluster_id != self.cluster_id {
            warn!(
                local_cluster_id = hex(self.cluster_id.0),
                remote_cluster_id = hex(hello.cluster_id.0),
                "request cluster ID mismatch"
            );
            return refuse("cluster ID mismatch");
        }
        if hello.to != self.id {
            return refuse("the stream was meant for another member");
        }
        let members = self.reader.members();
        if members.is_removed(hello.member_id) {
            return refuse(REMOVED);
        }
        if members.store_of(hello.member_id).is_some_and(|known| known != hello.store_id) {
            warn!(
                remote_peer_id = hex(hello.member_id.0),
                "refused a member whose data directory is not the one it started with: \
                 its votes are forgotten; remove it and add it anew"
            );
            return refuse(
                "the member lost its data directory and must be replaced: remove it, then add it anew",
            );
        }
        Ok(())
    }

    fn messages(&self, messages: Vec<raft::Envelope>) {
        // A driver that is gone reads nothing any more; the same holds below.
        let _ = self.events.send(Event::Messages(messages));
    }

    fn unreachable(&self, peer: NodeId) {
        let _ = self.events.send(Event::Unreachable(peer));
    }

    fn connection_lost(&self, peer: NodeId) {
        let _ = self.events.send(Event::ConnectionLost(peer));
    }

    fn removed(&self) {
        let _ = self.events.send(Event::ToldRemoved);
    }
}

/// Calls that are passed on to the leader.
struct Peers<R: Runtime> {
    transport: GrpcTransport<R>,
}

fn forwarded(status: &Status) -> ServeError {
    match status.code() {
        tonic::Code::FailedPrecondition => ServeError::NotLeader,
        tonic::Code::DeadlineExceeded => ServeError::Timeout,
        _ => ServeError::NoLeader,
    }
}

impl<R: Runtime> PeerCalls for Peers<R> {
    fn lease_keep_alive(&self, leader: NodeId, id: LeaseId) -> BoxFuture<Result<i64, ServeError>> {
        let transport = self.transport.clone();
        Box::pin(async move {
            let mut client = transport.client(leader).ok_or(ServeError::NoLeader)?;
            let request = crate::proto::internal::ForwardLeaseKeepAliveRequest {
                cluster_id: transport.cluster_id().0,
                id: id.0,
            };
            let call = client.forward_lease_keep_alive(request);
            transport.call(call).await.map(|answer| answer.ttl).map_err(|s| forwarded(&s))
        })
    }

    fn lease_remaining(
        &self,
        leader: NodeId,
        id: LeaseId,
    ) -> BoxFuture<Result<Option<u64>, ServeError>> {
        let transport = self.transport.clone();
        Box::pin(async move {
            let mut client = transport.client(leader).ok_or(ServeError::NoLeader)?;
            let request = crate::proto::internal::ForwardLeaseTimeToLiveRequest {
                cluster_id: transport.cluster_id().0,
                id: id.0,
                keys: false,
            };
            let call = client.forward_lease_time_to_live(request);
            let answer = transport.call(call).await.map_err(|status| forwarded(&status))?;
            Ok(u64::try_from(answer.ttl).ok().map(|seconds| seconds * 1000))
        })
    }

    fn promote(&self, leader: NodeId, id: NodeId) -> BoxFuture<Result<(), ServeError>> {
        let transport = self.transport.clone();
        Box::pin(async move {
            let mut client = transport.client(leader).ok_or(ServeError::NoLeader)?;
            let request = crate::proto::internal::ForwardMemberPromoteRequest {
                cluster_id: transport.cluster_id().0,
                id: id.0,
            };
            let call = client.forward_member_promote(request);
            transport.call(call).await.map(drop).map_err(|status| {
                crate::api::status::read_back(&status).unwrap_or_else(|| forwarded(&status))
            })
        })
    }

    fn connected(&self) -> BTreeMap<NodeId, Instant> {
        self.transport.connected()
    }
}

/// A runtime's clock without its type.
struct RuntimeClock<R: Runtime>(R);

impl<R: Runtime> Clock for RuntimeClock<R> {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> Duration {
        self.0.wall()
    }

    fn sleep(&self, d: Duration) -> BoxFuture<()> {
        Box::pin(self.0.sleep(d))
    }

    fn random_u64(&self) -> u64 {
        self.0.random_u64()
    }

    fn process(&self) -> Option<Process> {
        self.0.process()
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) {
        drop(self.0.spawn(Lane::Serve, name, task));
    }
}
