//! The last step: values that have passed the checks become a [`Config`], zeros replaced by what they
//! stand for.

use std::time::Duration;

use super::bootstrap;
use super::goflag::{Nanoseconds, format_duration};
use super::listeners;
use super::logline::{LogLevel, LogLine};
use super::not_yet;
use super::raw::{DEFAULT_INITIAL_CLUSTER, Raw};
use super::settings::{
    AuthToken, AutoCompaction, ClusterState, Config, Discovery, TlsSettings, Tracing, duration,
    duration_or_never, path,
};
use super::validate::{self, Complaint, Logging};

/// Makes a configuration of values that have passed [`validate::check`]; warnings go to `log`.
pub(super) fn resolve(
    raw: &Raw,
    logging: &Logging,
    log: &mut Vec<LogLine>,
) -> Result<Config, Complaint> {
    let tls = listeners::check(raw, log)?;
    let auto_compaction = validate::auto_compaction(raw)?;
    let auth_token = validate::auth_token(&raw.auth_token)?;
    not_yet::check(raw)?;
    warn_of_sizes(raw, log);
    Ok(assemble(raw, logging.clone(), tls, auto_compaction, auth_token, log))
}

/// The shortest deadline between members.
const PEER_TIMEOUT_MIN: Nanoseconds = 5_000_000_000;

/// Raises the deadlines between members to their floor.
pub(super) fn raise_peer_timeouts(raw: &mut Raw, log: &mut Vec<LogLine>) {
    let timeouts = [
        ("raft-read-timeout", &mut raw.raft_read_timeout),
        ("raft-write-timeout", &mut raw.raft_write_timeout),
    ];
    for (flag, timeout) in timeouts {
        if *timeout < PEER_TIMEOUT_MIN {
            *timeout = PEER_TIMEOUT_MIN;
            let floor = format_duration(PEER_TIMEOUT_MIN);
            let text = format!("{flag} increased to minimum value: {floor}");
            log.push(LogLine::new(LogLevel::Info, &text, Vec::new()).early());
        }
    }
}

/// Warns of flags that are on their way out.
pub(super) fn warn_of_deprecated(raw: &Raw, log: &mut Vec<LogLine>) {
    let deprecated = [
        (
            "max-snapshots",
            "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        ),
        (
            "v2-deprecation",
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value \
             is enforced, ignoring user input.",
        ),
    ];
    for (flag, text) in deprecated {
        if raw.given.contains(flag) {
            log.push(LogLine::warn(text, Vec::new()));
        }
    }
}

/// The limits above which etcd warns.
const REQUEST_BYTES_RECOMMENDED: u64 = 10 * 1024 * 1024;
const QUOTA_BYTES_RECOMMENDED: i64 = 8 * 1024 * 1024 * 1024;

fn warn_of_sizes(raw: &Raw, log: &mut Vec<LogLine>) {
    if raw.max_request_bytes > REQUEST_BYTES_RECOMMENDED {
        log.push(LogLine::warn(
            "exceeded recommended request limit",
            vec![
                ("max-request-bytes", raw.max_request_bytes.into()),
                ("recommended-request-bytes", REQUEST_BYTES_RECOMMENDED.into()),
            ],
        ));
    }
    if raw.quota_backend_bytes > QUOTA_BYTES_RECOMMENDED {
        log.push(LogLine::warn(
            "quota exceeds the maximum value",
            vec![
                ("quota-size-bytes", raw.quota_backend_bytes.into()),
                ("quota-maximum-size-bytes", QUOTA_BYTES_RECOMMENDED.into()),
            ],
        ));
    }
}

/// The size limit where none is given.
const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// Where `--bcrypt-cost` is out of bounds, this is taken.
const BCRYPT_COST_DEFAULT: u32 = 10;
/// The bounds of `--bcrypt-cost`.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// The shortest interval of progress reports, in nanoseconds.
const PROGRESS_INTERVAL_MIN: Nanoseconds = 100_000_000;

/// Fills the configuration in, zeros replaced by what they stand for.
fn assemble(
    raw: &Raw,
    logging: Logging,
    [client_tls, peer_tls]: [TlsSettings; 2],
    auto_compaction: AutoCompaction,
    auth_token: AuthToken,
    log: &mut Vec<LogLine>,
) -> Config {
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let or_default = |value: i64, default: usize| match usize::try_from(value) {
        Ok(0) | Err(_) => default,
        Ok(value) => value,
    };
    let or_millis = |nanoseconds: Nanoseconds, default: u64| {
        duration_or_never(nanoseconds).unwrap_or(Duration::from_millis(default))
    };
    let data_dir =
        if raw.data_dir.is_empty() { format!("{}.etcd", raw.name) } else { raw.data_dir.clone() };
    if raw.data_dir.is_empty() {
        let fields = vec![("data-dir", data_dir.as_str().into())];
        log.push(LogLine::warn("'data-dir' was empty; using default", fields));
    }
    let peer_urls = raw.initial_advertise_peer_urls.urls.clone();
    let follows = raw.name != "default" && raw.initial_cluster == DEFAULT_INITIAL_CLUSTER;
    let (initial_cluster, initial_cluster_error) = if follows {
        let name = if raw.name.is_empty() { "default" } else { raw.name.as_str() };
        (vec![(name.to_owned(), peer_urls.clone())], None)
    } else {
        match bootstrap::parse_initial_cluster(&raw.initial_cluster) {
            Ok(members) => (members, None),
            Err(why) => (Vec::new(), Some(format!("error setting up initial cluster: {why}"))),
        }
    };
    let given_cost = u32::try_from(raw.bcrypt_cost).unwrap_or(u32::MAX);
    let bcrypt_cost =
        if BCRYPT_COSTS.contains(&given_cost) { given_cost } else { BCRYPT_COST_DEFAULT };
    if bcrypt_cost != given_cost {
        log.push(LogLine::warn(
            "use default bcrypt cost instead of the invalid given cost",
            vec![
                ("min-cost", (*BCRYPT_COSTS.start()).into()),
                ("max-cost", (*BCRYPT_COSTS.end()).into()),
                ("default-cost", BCRYPT_COST_DEFAULT.into()),
                ("given-cost", raw.bcrypt_cost.into()),
            ],
        ));
    }
    let mut progress = raw.watch_progress_notify_interval;
    if progress > 0 && progress < PROGRESS_INTERVAL_MIN {
        progress = PROGRESS_INTERVAL_MIN;
        log.push(LogLine::warn(
            "adjusting watch progress notify interval to minimum period",
            vec![("min-watch-progress-notify-interval", format_duration(progress).into())],
        ));
    }
    // NB: either being zero gives up both, and then the library's own values hold, not silence.
    let keepalive = [raw.grpc_keepalive_interval, raw.grpc_keepalive_timeout];
    let keepalive = if keepalive.iter().all(|part| *part > 0) {
        keepalive.map(duration)
    } else {
        [Duration::from_secs(7200), Duration::from_secs(20)]
    };
    Config {
        name: raw.name.clone(),
        data_dir: data_dir.into(),
        wal_dir: path(&raw.wal_dir),
        log_segment_bytes: None,
        listen_peer_urls: raw.listen_peer_urls.urls.clone(),
        listen_client_urls: raw.listen_client_urls.urls.clone(),
        listen_client_http_urls: raw.listen_client_http_urls.urls.clone(),
        listen_metrics_urls: raw.listen_metrics_urls.urls.clone(),
        initial_advertise_peer_urls: peer_urls,
        advertise_client_urls: raw.advertise_client_urls.urls.clone(),
        initial_cluster,
        initial_cluster_error,
        initial_cluster_follows: follows,
        initial_cluster_state: match raw.initial_cluster_state.as_str() {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        initial_cluster_token: raw.initial_cluster_token.clone(),
        client_tls,
        peer_tls,
        heartbeat_interval: Duration::from_millis(raw.heartbeat_interval),
        election_timeout: Duration::from_millis(raw.election_timeout),
        initial_election_tick_advance: raw.initial_election_tick_advance,
        pre_vote: raw.pre_vote,
        snapshot_count: if raw.snapshot_count == 0 { 10_000 } else { raw.snapshot_count },
        snapshot_catchup_entries: match raw.snapshot_catchup_entries {
            0 => 5_000,
            entries => entries,
        },
        max_snapshots: raw.max_snapshots,
        max_wals: raw.max_wals,
        raft_read_timeout: duration(raw.raft_read_timeout),
        raft_write_timeout: duration(raw.raft_write_timeout),
        strict_reconfig_check: raw.strict_reconfig_check,
        max_learners: usize::try_from(raw.max_learners).unwrap_or(0),
        force_new_cluster: raw.force_new_cluster,
        quota_backend_bytes: match u64::try_from(raw.quota_backend_bytes) {
            Ok(0) => Some(QUOTA_BYTES_DEFAULT),
            Ok(bytes) => Some(bytes),
            Err(_) => None,
        },
        auto_disarm_nospace: raw.auto_disarm_nospace,
        backend_batch_interval: or_millis(raw.backend_batch_interval, 100),
        backend_batch_limit: or_default(raw.backend_batch_limit, 10_000),
        memory_mlock: raw.memory_mlock,
        unsafe_no_fsync: raw.unsafe_no_fsync,
        bootstrap_defrag_threshold_bytes: match raw.bootstrap_defrag_threshold_megabytes {
            0 => None,
            megabytes => Some(megabytes.saturating_mul(1024 * 1024)),
        },
        max_txn_ops: size(raw.max_txn_ops),
        max_request_bytes: size(raw.max_request_bytes),
        max_concurrent_streams: raw.max_concurrent_streams,
        grpc_keepalive_min_time: or_millis(raw.grpc_keepalive_min_time, 300_000),
        grpc_keepalive_interval: keepalive[0],
        grpc_keepalive_timeout: keepalive[1],
        socket_reuse_port: raw.socket_reuse_port,
        socket_reuse_address: raw.socket_reuse_address,
        enable_grpc_gateway: raw.enable_grpc_gateway,
        cors: raw.cors.texts.clone(),
        host_whitelist: raw.host_whitelist.clone(),
        auto_compaction,
        compaction_batch_limit: or_default(raw.compaction_batch_limit, 1_000),
        compaction_sleep_interval: or_millis(raw.compaction_sleep_interval, 10),
        watch_progress_notify_interval: or_millis(progress, 600_000),
        corrupt_check_time: duration_or_never(raw.corrupt_check_time),
        compact_hash_check_time: duration(raw.compact_hash_check_time),
        downgrade_check_time: duration(raw.downgrade_check_time),
        warning_apply_duration: duration(raw.warning_apply_duration),
        warning_unary_request_duration: match raw.warning_unary_request_duration {
            0 => Duration::from_millis(300),
            given => duration(given),
        },
        feature_gates: raw.feature_gates.clone(),
        auth_token,
        bcrypt_cost,
        auth_token_ttl: Duration::from_secs(raw.auth_token_ttl),
        enable_pprof: raw.enable_pprof,
        metrics_extensive: raw.metrics == "extensive",
        log_level: logging.level,
        log_format: logging.format,
        log_outputs: logging.outputs,
        log_rotation: raw.enable_log_rotation.then(|| raw.log_rotation_config_json.clone()),
        tracing: tracing(raw),
        discovery: discovery(raw),
    }
}

fn tracing(raw: &Raw) -> Option<Tracing> {
    raw.enable_distributed_tracing.then(|| Tracing {
        address: raw.distributed_tracing_address.clone(),
        service_name: raw.distributed_tracing_service_name.clone(),
        instance_id: raw.distributed_tracing_instance_id.clone(),
        samples_per_million: u32::try_from(raw.distributed_tracing_sampling_rate).unwrap_or(0),
    })
}

fn discovery(raw: &Raw) -> Option<Discovery> {
    let endpoints = Vec::from_iter(raw.discovery_endpoints.iter().cloned());
    let srv = (!raw.discovery_srv.is_empty()).then(|| raw.discovery_srv.clone());
    if endpoints.is_empty() && srv.is_none() {
        return None;
    }
    Some(Discovery {
        token: raw.discovery_token.clone(),
        endpoints,
        srv,
        srv_name: raw.discovery_srv_name.clone(),
        dial_timeout: duration(raw.discovery_dial_timeout),
        request_timeout: duration(raw.discovery_request_timeout),
        keepalive_time: duration(raw.discovery_keepalive_time),
        keepalive_timeout: duration(raw.discovery_keepalive_timeout),
        insecure_transport: raw.discovery_insecure_transport,
        insecure_skip_tls_verify: raw.discovery_insecure_skip_tls_verify,
        cert_file: path(&raw.discovery_cert),
        key_file: path(&raw.discovery_key),
        trusted_ca_file: path(&raw.discovery_cacert),
        user: raw.discovery_user.clone(),
        password: raw.discovery_password.clone(),
    })
}
