//! From single values to a configuration: what contradicts what, in the order in which etcd looks,
//! so that the first complaint about a command line is the same one.
//!
//! Complaints surface in three ways. Most are told as `failed to verify flags`; some that etcd finds
//! only while it sets up listeners are told as `discovery failed` (its words, whatever the cause);
//! an unknown log level ends like a Go panic. See [`Complaint`].

use serde_json::Value;

use super::features::Feature;
use super::goflag::{self, format_duration, quote};
use super::logline::{LogFormat, LogLevel, LogLine, LogOutput};
use super::raw::Raw;
use super::settings::{AuthToken, AutoCompaction, TlsVersion, duration};
use super::url::{self, Url};

/// Why the settings make no configuration, by the way it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// A warning `failed to verify flags`, exit 1.
    Verify(String),
    /// The same, and `advertise client URLs are not set` after it.
    NoAdvertisedClientUrls,
    /// A fatal line `discovery failed`, exit 1.
    Start(String),
    /// Go's panic on standard error, exit 2.
    Panic(String),
}

impl From<String> for Complaint {
    fn from(text: String) -> Complaint {
        Complaint::Verify(text)
    }
}

/// The level, shape and goal of the log, which decide about the first lines already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logging {
    pub level: LogLevel,
    pub format: LogFormat,
    pub outputs: Vec<LogOutput>,
}

impl Default for Logging {
    fn default() -> Logging {
        let outputs = vec![LogOutput::Stderr];
        Logging { level: LogLevel::Info, format: LogFormat::Json, outputs }
    }
}

/// Refuses the one fallback that is gone.
pub(super) fn fallback(raw: &Raw) -> Result<(), Complaint> {
    if raw.discovery_fallback == "proxy" {
        let text = "v2 proxy is deprecated, and --discovery-fallback can't be configured as";
        return Err(format!("{text} \"proxy\"").into());
    }
    Ok(())
}

/// Reads the settings of the log, before anything else: they decide how the rest is told.
pub(super) fn logging(raw: &Raw) -> Result<Logging, Complaint> {
    match raw.logger.as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned().into()),
        other => return Err(format!("unknown logger option {}", quote(other)).into()),
    }
    if raw.log_outputs.len() > 1 && raw.log_outputs.contains("default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned().into());
    }
    let outputs: Vec<LogOutput> = raw
        .log_outputs
        .iter()
        .map(|output| match output.as_str() {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => LogOutput::Journal,
            file => LogOutput::File(file.to_owned()),
        })
        .collect();
    if raw.enable_log_rotation {
        let standard =
            |output: &&LogOutput| matches!(output, LogOutput::Stderr | LogOutput::Stdout);
        let files = outputs.len() - outputs.iter().filter(standard).count();
        if files > 1 || (files == 0 && outputs.len() == 1) {
            let wants = "requires a single file path when --log-rotate-config-json is defined";
            return Err(format!("--log-outputs {wants}").into());
        }
        if let Err(why) = serde_json::from_str::<Value>(&raw.log_rotation_config_json) {
            return Err(format!("improperly formatted log rotation config: {why}").into());
        }
    }
    let level = LogLevel::parse(&raw.log_level).ok_or_else(|| {
        Complaint::Panic(format!("unrecognized level: {}", quote(&raw.log_level)))
    })?;
    let format = match raw.log_format.as_str() {
        "json" | "" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => {
            let supported = "supported values json, console";
            return Err(format!("unknown log format: {other}, {supported}").into());
        }
    };
    Ok(Logging { level, format, outputs })
}

/// Makes the checks told as `failed to verify flags`, in order.
pub(super) fn check(raw: &Raw, log: &mut Vec<LogLine>) -> Result<(), Complaint> {
    check_bound_hosts(&raw.listen_peer_urls.urls)?;
    check_bound_hosts(&raw.listen_client_urls.urls)?;
    check_bound_hosts(&raw.listen_client_http_urls.urls)?;
    if raw.listen_client_http_urls.urls.is_empty() {
        let text = "Running http and grpc server on single port. This is not recommended for \
                    production.";
        log.push(LogLine::warn(text, Vec::new()));
    }
    check_bound_hosts(&raw.listen_metrics_urls.urls)?;
    check_advertised(raw)?;
    check_bootstrap_flags(raw)?;
    check_timing(raw)?;
    if lacks_advertised_client_urls(raw) {
        return Err(Complaint::NoAdvertisedClientUrls);
    }
    match raw.auto_compaction_mode.as_str() {
        "periodic" | "revision" => {}
        "" => return Err("undefined auto-compaction-mode".to_owned().into()),
        other => return Err(format!("unknown auto-compaction-mode {}", quote(other)).into()),
    }
    check_tracing(raw)?;
    let (checkpoint, persist) = (Feature::LeaseCheckpoint, Feature::LeaseCheckpointPersist);
    match (raw.feature_gates.enabled(checkpoint), raw.feature_gates.enabled(persist)) {
        (true, false) => {
            let text = "Detected that checkpointing is enabled without persistence. Consider \
                        enabling feature gate LeaseCheckpointPersist";
            log.push(LogLine::warn(text, Vec::new()));
        }
        (false, true) => {
            let text = "enabling feature gate LeaseCheckpointPersist requires enabling feature \
                        gate LeaseCheckpoint";
            return Err(text.to_owned().into());
        }
        _ => {}
    }
    if raw.compact_hash_check_time <= 0 {
        let given = format_duration(raw.compact_hash_check_time);
        return Err(format!("--compact-hash-check-time must be >0 (set to {given})").into());
    }
    if raw.name == "default" {
        let text = "it isn't recommended to use default name, please set a value for --name. \
                    Note that etcd might run into issue when multiple members have the same \
                    default name";
        log.push(LogLine::warn(text, vec![("name", raw.name.as_str().into())]));
    }
    check_tls_versions(raw)?;
    Ok(())
}

/// Listeners are bound to addresses, so a name would have to be looked up; only `localhost` is.
fn check_bound_hosts(urls: &[Url]) -> Result<(), String> {
    let bound = |url: &Url| {
        let host = url.host();
        url.is_unix() || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
    };
    match urls.iter().find(|url| !bound(url)) {
        Some(url) => Err(format!("expected IP in URL for binding ({url})")),
        None => Ok(()),
    }
}

fn check_advertised(raw: &Raw) -> Result<(), String> {
    let check = |flag: &str, urls: &[Url], form: &str| match urls
        .iter()
        .find(|url| !url.is_unix() && url.host().is_empty())
    {
        Some(url) => Err(format!(
            "--{flag} {} must be {form} (unexpected empty host ({url}))",
            quote(&url::texts(urls).join(","))
        )),
        None => Ok(()),
    };
    let peer = &raw.initial_advertise_peer_urls.urls;
    check("initial-advertise-peer-urls", peer, "\"host:port\"")?;
    if lacks_advertised_client_urls(raw) {
        return Ok(());
    }
    let form = "in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"";
    check("advertise-client-urls", &raw.advertise_client_urls.urls, form)
}

fn check_bootstrap_flags(raw: &Raw) -> Result<(), String> {
    let endpoints = !raw.discovery_endpoints.is_empty();
    // Named discovery empties the default cluster, so the default counts only where it stands alone.
    let discovers =
        endpoints || !raw.discovery_srv.is_empty() || !raw.discovery_srv_name.is_empty();
    let cluster = if discovers && !raw.given.contains("initial-cluster") {
        false
    } else {
        !raw.initial_cluster.is_empty()
    };
    let ways = [cluster, !raw.discovery_srv.is_empty(), endpoints];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        let choice = "\"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"";
        let text = "multiple discovery or bootstrap flags are set.";
        return Err(format!("{text} Choose one of {choice}"));
    }
    if endpoints == raw.discovery_token.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
    }
    if raw.discovery_endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
    }
    Ok(())
}

/// The longest election timeout, in milliseconds.
const ELECTION_TIMEOUT_MAX: u64 = 50_000;

fn check_timing(raw: &Raw) -> Result<(), String> {
    let (heartbeat, election) = (raw.heartbeat_interval, raw.election_timeout);
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_TIMEOUT_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_TIMEOUT_MAX}ms"
        ));
    }
    Ok(())
}

/// Whoever says where to listen has to say where to be found.
fn lacks_advertised_client_urls(raw: &Raw) -> bool {
    raw.given.contains("listen-client-urls") && !raw.given.contains("advertise-client-urls")
}

fn check_tracing(raw: &Raw) -> Result<(), String> {
    let why = match raw.distributed_tracing_sampling_rate {
        _ if !raw.enable_distributed_tracing => return Ok(()),
        ..0 => "tracing sampling rate must be positive",
        0..=1_000_000 => return Ok(()),
        _ => "tracing sampling rate must be less than 1000000",
    };
    Err(format!("distributed tracing configurition is not valid: ({why})"))
}

pub(super) fn tls_version(text: &str) -> Result<Option<TlsVersion>, String> {
    match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::Tls12)),
        "TLS1.3" => Ok(Some(TlsVersion::Tls13)),
        other => {
            let known = "must be one of: TLS1.2, TLS1.3";
            Err(format!("unexpected TLS version {} ({known})", quote(other)))
        }
    }
}

fn check_tls_versions(raw: &Raw) -> Result<(), String> {
    let (oldest, newest) = (tls_version(&raw.tls_min_version)?, tls_version(&raw.tls_max_version)?);
    if newest.is_some() && oldest > newest {
        let (oldest, newest) = (&raw.tls_min_version, &raw.tls_max_version);
        return Err(format!("min version ({oldest}) is greater than max version ({newest})"));
    }
    if oldest == Some(TlsVersion::Tls13) && !raw.cipher_suites.is_empty() {
        let text = "cipher suites cannot be configured when only TLS1.3 is enabled";
        return Err(text.to_owned());
    }
    Ok(())
}

/// Reads the retention: a count of revisions, a count of hours, or a duration.
pub(super) fn auto_compaction(raw: &Raw) -> Result<AutoCompaction, Complaint> {
    let text = if raw.auto_compaction_retention.is_empty() {
        "0"
    } else {
        raw.auto_compaction_retention.as_str()
    };
    let periodic = raw.auto_compaction_mode == "periodic";
    let amount = match text.parse::<i64>() {
        Ok(hours) if hours >= 0 && periodic => hours.saturating_mul(3_600_000_000_000),
        Ok(revisions) if revisions >= 0 => revisions,
        // NB: with mode `revision`, etcd takes the nanoseconds of a duration for revisions.
        _ => goflag::parse_duration(text)
            .map_err(|why| Complaint::Start(format!("error parsing CompactionRetention: {why}")))?,
    };
    Ok(match (amount, periodic) {
        (..=0, _) => AutoCompaction::Off,
        (_, true) => AutoCompaction::Periodic(duration(amount)),
        (_, false) => AutoCompaction::Revision(amount),
    })
}

/// Reads the kind of token with its options.
pub(super) fn auth_token(text: &str) -> Result<AuthToken, Complaint> {
    let invalid = || Complaint::Start("auth: invalid auth options".to_owned());
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options: Vec<(String, String)> = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(invalid)?;
        if value.contains('=') || options.iter().any(|(known, _)| known == key) {
            return Err(invalid());
        }
        options.push((key.to_owned(), value.to_owned()));
    }
    match kind {
        "simple" => Ok(AuthToken::Simple),
        "jwt" => Ok(AuthToken::Jwt(options)),
        "" => Ok(AuthToken::Disabled),
        _ => Err(invalid()),
    }
}
