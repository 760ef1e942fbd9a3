//! The values of the flags as they were given, typed but not yet made sense of together.

use std::collections::BTreeSet;

use super::features::FeatureGates;
use super::goflag::Nanoseconds;
use super::url::Url;

/// A second, in the unit of durations.
const SECOND: Nanoseconds = 1_000_000_000;
/// A millisecond, in the unit of durations.
const MILLISECOND: Nanoseconds = 1_000_000;

/// A flag that holds URLs, each once, and perhaps a word that is none (`*`, or nothing at all).
///
/// Giving it a text that it holds already, or its word, adds to what is there; everything else
/// replaces it. That is why `--listen-client-urls=` keeps the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UniqueUrls {
    /// The URLs in order, without the word.
    pub urls: Vec<Url>,
    /// The texts, the word included.
    pub texts: BTreeSet<String>,
    word: &'static str,
}

impl UniqueUrls {
    fn new(default: &str, word: &'static str) -> UniqueUrls {
        let mut this = UniqueUrls { word, ..UniqueUrls::default() };
        if !default.is_empty() {
            this.set(default).expect("the default is well formed");
        }
        this
    }

    /// Takes a comma-separated list.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        if self.texts.contains(text) {
            return Ok(());
        }
        if text == self.word {
            self.texts.insert(text.to_owned());
            return Ok(());
        }
        let mut urls = Url::parse_list(text.split(','))?;
        urls.dedup();
        self.texts = urls.iter().map(Url::to_string).collect();
        self.urls = urls;
        Ok(())
    }
}

/// Declares [`Raw`] with the defaults beside the fields.
macro_rules! raw {
    ($($field:ident: $kind:ty = $default:expr,)*) => {
        /// The value of each flag.
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct Raw {
            /// The names of the flags that the command line or the environment gave.
            pub given: BTreeSet<&'static str>,
            $(pub $field: $kind,)*
        }

        impl Default for Raw {
            fn default() -> Raw {
                Raw { given: BTreeSet::new(), $($field: $default.into(),)* }
            }
        }
    };
}

raw! {
    name: String = "default",
    data_dir: String = "",
    wal_dir: String = "",
    snapshot_count: u64 = 10_000_u64,
    heartbeat_interval: u64 = 100_u64,
    election_timeout: u64 = 1000_u64,
    initial_election_tick_advance: bool = true,
    listen_peer_urls: UniqueUrls = UniqueUrls::new("http://localhost:2380", ""),
    listen_client_urls: UniqueUrls = UniqueUrls::new("http://localhost:2379", ""),
    listen_client_http_urls: UniqueUrls = UniqueUrls::new("", ""),
    listen_metrics_urls: UniqueUrls = UniqueUrls::new("", ""),
    max_snapshots: u64 = 5_u64,
    max_wals: u64 = 5_u64,
    memory_mlock: bool = false,
    quota_backend_bytes: i64 = 0,
    auto_disarm_nospace: bool = true,
    backend_bbolt_freelist_type: String = "",
    backend_batch_interval: Nanoseconds = 0,
    backend_batch_limit: i64 = 0,
    max_txn_ops: u64 = 128_u64,
    max_request_bytes: u64 = 1_572_864_u64,
    max_concurrent_streams: u32 = u32::MAX,
    grpc_keepalive_min_time: Nanoseconds = 5 * SECOND,
    grpc_keepalive_interval: Nanoseconds = 7200 * SECOND,
    grpc_keepalive_timeout: Nanoseconds = 20 * SECOND,
    socket_reuse_port: bool = false,
    socket_reuse_address: bool = false,
    enable_grpc_gateway: bool = true,
    raft_read_timeout: Nanoseconds = 5 * SECOND,
    raft_write_timeout: Nanoseconds = 5 * SECOND,
    feature_gates: FeatureGates = FeatureGates::default(),
    initial_advertise_peer_urls: UniqueUrls = UniqueUrls::new("http://localhost:2380", ""),
    initial_cluster: String = DEFAULT_INITIAL_CLUSTER,
    initial_cluster_state: String = "new",
    initial_cluster_token: String = "etcd-cluster",
    advertise_client_urls: UniqueUrls = UniqueUrls::new("http://localhost:2379", ""),
    discovery_token: String = "",
    discovery_endpoints: BTreeSet<String> = BTreeSet::new(),
    discovery_dial_timeout: Nanoseconds = 2 * SECOND,
    discovery_request_timeout: Nanoseconds = 5 * SECOND,
    discovery_keepalive_time: Nanoseconds = 2 * SECOND,
    discovery_keepalive_timeout: Nanoseconds = 6 * SECOND,
    discovery_insecure_transport: bool = true,
    discovery_insecure_skip_tls_verify: bool = false,
    discovery_cert: String = "",
    discovery_key: String = "",
    discovery_cacert: String = "",
    discovery_user: String = "",
    discovery_password: String = "",
    discovery_fallback: String = "exit",
    discovery_srv: String = "",
    discovery_srv_name: String = "",
    strict_reconfig_check: bool = true,
    pre_vote: bool = true,
    auto_compaction_retention: String = "0",
    auto_compaction_mode: String = "periodic",
    v2_deprecation: Vec<String> = Vec::new(),
    cert_file: String = "",
    key_file: String = "",
    client_cert_file: String = "",
    client_key_file: String = "",
    client_cert_auth: bool = false,
    client_crl_file: String = "",
    client_cert_allowed_hostname: Vec<String> = Vec::new(),
    trusted_ca_file: String = "",
    auto_tls: bool = false,
    peer_cert_file: String = "",
    peer_key_file: String = "",
    peer_client_cert_file: String = "",
    peer_client_key_file: String = "",
    peer_client_cert_auth: bool = false,
    peer_trusted_ca_file: String = "",
    peer_auto_tls: bool = false,
    self_signed_cert_validity: u64 = 1_u64,
    peer_crl_file: String = "",
    peer_cert_allowed_cn: Vec<String> = Vec::new(),
    peer_cert_allowed_hostname: Vec<String> = Vec::new(),
    peer_skip_client_san_verification: bool = false,
    cipher_suites: Vec<String> = Vec::new(),
    tls_min_version: String = "TLS1.2",
    tls_max_version: String = "",
    cors: UniqueUrls = UniqueUrls::new("*", "*"),
    host_whitelist: BTreeSet<String> = BTreeSet::from(["*".to_owned()]),
    auth_token: String = "simple",
    bcrypt_cost: u64 = 10_u64,
    auth_token_ttl: u64 = 300_u64,
    enable_pprof: bool = false,
    metrics: String = "basic",
    logger: String = "zap",
    log_outputs: BTreeSet<String> = BTreeSet::from(["default".to_owned()]),
    log_level: String = "info",
    log_format: String = "json",
    enable_log_rotation: bool = false,
    log_rotation_config_json: String = DEFAULT_LOG_ROTATION,
    warning_unary_request_duration: Nanoseconds = 300 * MILLISECOND,
    warning_apply_duration: Nanoseconds = 100 * MILLISECOND,
    enable_distributed_tracing: bool = false,
    distributed_tracing_address: String = "localhost:4317",
    distributed_tracing_service_name: String = "etcd",
    distributed_tracing_instance_id: String = "",
    distributed_tracing_sampling_rate: i64 = 0,
    corrupt_check_time: Nanoseconds = 0,
    compact_hash_check_time: Nanoseconds = 60 * SECOND,
    compaction_batch_limit: i64 = 0,
    compaction_sleep_interval: Nanoseconds = 0,
    watch_progress_notify_interval: Nanoseconds = 0,
    downgrade_check_time: Nanoseconds = 5 * SECOND,
    bootstrap_defrag_threshold_megabytes: u64 = 0_u64,
    max_learners: i64 = 1,
    snapshot_catchup_entries: u64 = 5000_u64,
    unsafe_no_fsync: bool = false,
    force_new_cluster: bool = false,
    config_file: String = "",
    version: bool = false,
}

/// What `--initial-cluster` says when nobody says anything.
pub(super) const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";

/// What `--log-rotation-config-json` says when nobody says anything.
pub(super) const DEFAULT_LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
