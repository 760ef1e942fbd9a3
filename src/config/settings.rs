//! What the server runs on: every setting resolved to the type its user needs, defaults filled in.
//!
//! A [`Config`] is plain data. [`super::parse`] makes one from flags, tests and the simulator from
//! [`Config::default`] with some fields changed. Numbers that follow from others (ticks, lease floor,
//! request timeout) are methods, so that they cannot disagree with their source.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::features::FeatureGates;
use super::goflag::Nanoseconds;
use super::logline::{LogFormat, LogLevel, LogOutput};
use super::raw::Raw;
use super::url::Url;
use super::validate::Logging;

/// All settings of one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The member's name.
    pub name: String,
    /// The directory of everything the member keeps.
    pub data_dir: PathBuf,
    /// The log's directory, where it is apart.
    pub wal_dir: Option<PathBuf>,
    /// The length of a file of the log in bytes, if not etcd's 64 MiB. No flag sets it; the simulator does, for
    /// which a file must end within a run of seconds.
    pub log_segment_bytes: Option<u64>,

    /// Where to listen for members.
    pub listen_peer_urls: Vec<Url>,
    /// Where to listen for clients.
    pub listen_client_urls: Vec<Url>,
    /// Where to listen for HTTP clients apart from gRPC.
    pub listen_client_http_urls: Vec<Url>,
    /// Where to listen for metrics and health only.
    pub listen_metrics_urls: Vec<Url>,
    /// Where members find this one; sorted, as member ids want it.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Where clients find this one.
    pub advertise_client_urls: Vec<Url>,

    /// The members at bootstrap, by name, URLs sorted. Without meaning once there is a log.
    pub initial_cluster: Vec<(String, Vec<Url>)>,
    /// Why `--initial-cluster` could not be read. It is no error before bootstrap needs it, since a
    /// restarted member does not look at that flag.
    pub initial_cluster_error: Option<String>,
    /// Whether `initial_cluster` still follows from the name and the advertised URLs.
    pub initial_cluster_follows: bool,
    /// Whether to found a cluster or to join one.
    pub initial_cluster_state: ClusterState,
    /// The salt of the ids.
    pub initial_cluster_token: String,

    /// TLS towards clients.
    pub client_tls: TlsSettings,
    /// TLS among members.
    pub peer_tls: TlsSettings,

    /// A Raft tick, and the leader's heartbeat.
    pub heartbeat_interval: Duration,
    /// The time without a leader before a campaign, as given (see [`Config::election_ticks`]).
    pub election_timeout: Duration,
    /// Whether to shorten the wait for the first election.
    pub initial_election_tick_advance: bool,
    /// Whether to ask before campaigning.
    pub pre_vote: bool,
    /// Applied entries between snapshots.
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot.
    pub snapshot_catchup_entries: u64,
    /// Old snapshot files to keep; 0 is all.
    pub max_snapshots: u64,
    /// Old log files to keep; 0 is all.
    pub max_wals: u64,
    /// Read deadline between members.
    pub raft_read_timeout: Duration,
    /// Write deadline between members.
    pub raft_write_timeout: Duration,
    /// Whether risky membership changes are refused.
    pub strict_reconfig_check: bool,
    /// Learners allowed in the cluster.
    pub max_learners: usize,
    /// Whether to restart as the only member.
    pub force_new_cluster: bool,

    /// The database's size limit; `None` is no limit.
    pub quota_backend_bytes: Option<u64>,
    /// Whether the member takes back its own alarm for lack of space.
    pub auto_disarm_nospace: bool,
    /// The longest wait before applied writes reach the database file.
    pub backend_batch_interval: Duration,
    /// The most writes in one commit.
    pub backend_batch_limit: usize,
    /// Whether to lock the database's pages in memory.
    pub memory_mlock: bool,
    /// Whether files are left unsynced.
    pub unsafe_no_fsync: bool,
    /// Free bytes in the database from which a start defragments; `None` is never.
    pub bootstrap_defrag_threshold_bytes: Option<u64>,

    /// Operations in one transaction.
    pub max_txn_ops: usize,
    /// Bytes in one proposal.
    pub max_request_bytes: usize,
    /// HTTP/2 streams a client may open on a connection.
    pub max_concurrent_streams: u32,
    /// The shortest interval between a client's pings.
    pub grpc_keepalive_min_time: Duration,
    /// The interval of the server's pings on a quiet connection.
    pub grpc_keepalive_interval: Duration,
    /// The wait for a ping's answer.
    pub grpc_keepalive_timeout: Duration,
    /// Whether listeners set SO_REUSEPORT.
    pub socket_reuse_port: bool,
    /// Whether listeners set SO_REUSEADDR.
    pub socket_reuse_address: bool,
    /// Whether the JSON gateway is served.
    pub enable_grpc_gateway: bool,
    /// Origins that browsers may send requests from; `*` is all.
    pub cors: BTreeSet<String>,
    /// Host names that requests without TLS may name; `*` is all.
    pub host_whitelist: BTreeSet<String>,

    /// Automatic compaction.
    pub auto_compaction: AutoCompaction,
    /// Revisions removed in one step of a compaction.
    pub compaction_batch_limit: usize,
    /// The pause between two steps.
    pub compaction_sleep_interval: Duration,
    /// The interval of progress reports to quiet watchers.
    pub watch_progress_notify_interval: Duration,
    /// The interval of comparing data with the peers; `None` is never.
    pub corrupt_check_time: Option<Duration>,
    /// The interval of comparing hashes of compactions.
    pub compact_hash_check_time: Duration,
    /// The interval of looking after a downgrade.
    pub downgrade_check_time: Duration,
    /// From which duration an applied entry is logged as slow.
    pub warning_apply_duration: Duration,
    /// From which duration a unary request is logged as slow.
    pub warning_unary_request_duration: Duration,
    /// The feature gates.
    pub feature_gates: FeatureGates,

    /// The kind of authentication token.
    pub auth_token: AuthToken,
    /// The cost of hashing a password.
    pub bcrypt_cost: u32,
    /// How long a simple token lives.
    pub auth_token_ttl: Duration,

    /// Whether profiles are served.
    pub enable_pprof: bool,
    /// Whether gRPC calls are measured in a histogram.
    pub metrics_extensive: bool,
    /// From which level on the server logs.
    pub log_level: LogLevel,
    /// The shape of the log.
    pub log_format: LogFormat,
    /// Where the log goes.
    pub log_outputs: Vec<LogOutput>,
    /// How to rotate the log file, as lumberjack's JSON; `None` is not at all.
    pub log_rotation: Option<String>,
    /// Where traces go; `None` is nowhere.
    pub tracing: Option<Tracing>,
    /// How to find the first members through others; `None` is not at all.
    pub discovery: Option<Discovery>,
}

/// Whether a member without a log founds a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Founds.
    New,
    /// Joins.
    Existing,
}

/// One side's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate to show.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The certificate to show when dialling; the other one if absent.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// The CA that vouches for the other side.
    pub trusted_ca_file: Option<PathBuf>,
    /// Revoked certificates of the other side.
    pub crl_file: Option<PathBuf>,
    /// Whether the other side must show a certificate (so it must with a trusted CA alone).
    pub client_cert_auth: bool,
    /// Common names of which the other side's certificate must carry one; empty is any.
    pub allowed_cns: Vec<String>,
    /// Host names of which the other side's certificate must carry one; empty is any.
    pub allowed_hostnames: Vec<String>,
    /// Whether the other side's address is left uncompared with its certificate.
    pub skip_client_san_verification: bool,
    /// Whether to make a certificate on the spot, if none is given.
    pub auto_tls: bool,
    /// Years for which that one is valid.
    pub self_signed_cert_validity_years: u64,
    /// The oldest version to speak; `None` leaves it to the library.
    pub min_version: Option<TlsVersion>,
    /// The newest version to speak; `None` is the newest known.
    pub max_version: Option<TlsVersion>,
    /// Names of cipher suites (IANA) in order of preference; empty is the default.
    pub cipher_suites: Vec<String>,
}

impl TlsSettings {
    /// Tells whether certificate files are named.
    pub fn has_files(&self) -> bool {
        self.cert_file.is_some() || self.key_file.is_some()
    }

    /// Tells whether a certificate is to be made on the spot: named files win over that wish.
    pub fn makes_certificate(&self) -> bool {
        self.auto_tls && !self.has_files()
    }

    /// Tells whether TLS can be spoken.
    pub fn is_enabled(&self) -> bool {
        self.has_files() || self.auto_tls
    }

    /// Tells whether the other side must show a certificate.
    pub fn wants_client_certificate(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

/// What is compacted without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// What is more revisions back than this.
    Revision(i64),
}

/// How tokens are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// Random ones, known to the member that made them.
    Simple,
    /// Signed ones, with the provider's options.
    Jwt(Vec<(String, String)>),
    /// None.
    Disabled,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector.
    pub address: String,
    /// The service's name in traces.
    pub service_name: String,
    /// The instance's id in traces.
    pub instance_id: String,
    /// Spans sampled of a million.
    pub samples_per_million: u32,
}

/// How to find the first members through others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The token of the cluster to found.
    pub token: String,
    /// The discovery service.
    pub endpoints: Vec<String>,
    /// The DNS domain, for SRV records.
    pub srv: Option<String>,
    /// The SRV service's suffix.
    pub srv_name: String,
    /// The limit for connecting.
    pub dial_timeout: Duration,
    /// The limit for one request.
    pub request_timeout: Duration,
    /// The interval of pings.
    pub keepalive_time: Duration,
    /// The limit for a ping's answer.
    pub keepalive_timeout: Duration,
    /// Whether to speak without TLS.
    pub insecure_transport: bool,
    /// Whether to leave the server's certificate unchecked.
    pub insecure_skip_tls_verify: bool,
    /// The certificate to show.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The trusted CA.
    pub trusted_ca_file: Option<PathBuf>,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Default for Config {
    fn default() -> Config {
        super::resolve::resolve(&Raw::default(), &Logging::default(), &mut Vec::new())
            .expect("the defaults make a configuration")
    }
}

impl Config {
    /// The election timeout in ticks.
    pub fn election_ticks(&self) -> u32 {
        let ticks = self.election_timeout.as_millis() / self.heartbeat_interval.as_millis().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// The election timeout that the ticks make: a multiple of the heartbeat.
    pub fn effective_election_timeout(&self) -> Duration {
        self.heartbeat_interval.saturating_mul(self.election_ticks())
    }

    /// The shortest lease in seconds: one and a half election timeouts, rounded up, so that a lease
    /// outlives a change of leader.
    pub fn min_lease_ttl_seconds(&self) -> i64 {
        let ticks = self.election_ticks().saturating_mul(3) / 2;
        let floor = self.heartbeat_interval.saturating_mul(ticks);
        i64::try_from(floor.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// How long a request may take in all: five seconds of queue and disk, and two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + self.effective_election_timeout().saturating_mul(2)
    }

    /// Tells whether a URL advertised by default has to give way to an address of this machine,
    /// because the listener is bound to all of them. If so, find that address (the source of the
    /// default route) and call [`Config::use_default_host`].
    pub fn needs_default_host(&self) -> bool {
        self.peer_needs_host() || self.client_needs_host()
    }

    /// Puts `host` into the URLs advertised by default where the listener is bound to `0.0.0.0`.
    pub fn use_default_host(&mut self, host: &str) {
        let address = |listen: &[Url]| {
            let port = listen.first().map_or("", Url::port_text);
            super::url::join_host_port(host, port)
        };
        if self.peer_needs_host() {
            let scheme = self.initial_advertise_peer_urls[0].scheme();
            let address = address(&self.listen_peer_urls);
            self.initial_advertise_peer_urls = vec![Url::from_parts(scheme, &address)];
            // NB: with the default name, the default cluster stays what it is and does not match the
            // new URL: etcd refuses to bootstrap so, and members agree on the refusal.
            if self.initial_cluster_follows {
                let urls = self.initial_advertise_peer_urls.clone();
                self.initial_cluster = vec![(self.name.clone(), urls)];
            }
        }
        if self.client_needs_host() {
            let scheme = self.advertise_client_urls[0].scheme();
            let address = address(&self.listen_client_urls);
            self.advertise_client_urls = vec![Url::from_parts(scheme, &address)];
        }
    }

    fn peer_needs_host(&self) -> bool {
        let default = "http://localhost:2380";
        bound_to_all(&self.listen_peer_urls) && is_only(&self.initial_advertise_peer_urls, default)
    }

    fn client_needs_host(&self) -> bool {
        let default = "http://localhost:2379";
        bound_to_all(&self.listen_client_urls) && is_only(&self.advertise_client_urls, default)
    }
}

fn bound_to_all(listen: &[Url]) -> bool {
    listen.first().is_some_and(|url| url.host() == "0.0.0.0")
}

fn is_only(urls: &[Url], text: &str) -> bool {
    matches!(urls, [url] if url.as_str() == text)
}

/// Turns a flag's duration into one that cannot be negative; what is negative becomes nothing.
pub(super) fn duration(nanoseconds: Nanoseconds) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// Turns a flag's duration into one where nothing and less stand for "never".
pub(super) fn duration_or_never(nanoseconds: Nanoseconds) -> Option<Duration> {
    Some(duration(nanoseconds)).filter(|duration| !duration.is_zero())
}

/// Turns a flag's path into one that may be absent.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}
