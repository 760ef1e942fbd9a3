//! The table of flags: name, kind, group and one line of help each. It is the one list from which
//! the command line, the environment and `--help` are served.
//!
//! Invariant: a flag that the table does not name does not exist, in any of the three.

use std::collections::BTreeSet;

use super::features::FeatureGates;
use super::goflag::{self, Flags, Nanoseconds, NotANumber};
use super::raw::{Raw, UniqueUrls};

/// One flag.
pub(super) struct Flag {
    /// The name, without dashes.
    pub name: &'static str,
    /// The headline under which `--help` lists it; empty for those it does not list.
    pub group: &'static str,
    /// The kind of value, and where it is kept.
    pub slot: Slot,
    /// One line of help.
    pub help: &'static str,
}

/// The kind of a flag's value with its place in [`Raw`].
#[derive(Clone, Copy)]
pub(super) enum Slot {
    /// Text as it comes.
    Text(fn(&mut Raw) -> &mut String),
    /// A boolean; as an argument it needs `=` for its value.
    Bool(fn(&mut Raw) -> &mut bool),
    /// 64 bits without sign.
    Uint(fn(&mut Raw) -> &mut u64),
    /// 32 bits without sign, with longer words of refusal.
    Uint32(fn(&mut Raw) -> &mut u32),
    /// 64 bits with sign.
    Int(fn(&mut Raw) -> &mut i64),
    /// A duration with unit.
    Duration(fn(&mut Raw) -> &mut Nanoseconds),
    /// A list of URLs.
    Urls(fn(&mut Raw) -> &mut UniqueUrls),
    /// A list of texts in order.
    List(fn(&mut Raw) -> &mut Vec<String>),
    /// A set of texts.
    Set(fn(&mut Raw) -> &mut BTreeSet<String>),
    /// One of these texts.
    Choice(fn(&mut Raw) -> &mut String, &'static [&'static str]),
    /// Some of these texts, in order; a second mention adds to the first.
    Choices(fn(&mut Raw) -> &mut Vec<String>, &'static [&'static str]),
    /// Feature gates.
    Gates(fn(&mut Raw) -> &mut FeatureGates),
    /// Anything; it is forgotten.
    Ignored,
}

impl Slot {
    fn is_boolean(self) -> bool {
        matches!(self, Slot::Bool(_) | Slot::Ignored)
    }

    /// Gives a value; the error is Go's reason.
    fn set(self, raw: &mut Raw, text: &str) -> Result<(), String> {
        let parse_error = || "parse error".to_owned();
        let number_error = |why: NotANumber| match why {
            NotANumber::Syntax => parse_error(),
            NotANumber::Range => why.to_string(),
        };
        match self {
            Slot::Text(at) => text.clone_into(at(raw)),
            Slot::Bool(at) => *at(raw) = goflag::parse_bool(text).ok_or_else(parse_error)?,
            Slot::Uint(at) => *at(raw) = goflag::parse_uint(text).map_err(number_error)?,
            Slot::Int(at) => *at(raw) = goflag::parse_int(text).map_err(number_error)?,
            Slot::Uint32(at) => {
                let value = goflag::parse_uint(text)
                    .and_then(|value| u32::try_from(value).map_err(|_| NotANumber::Range));
                *at(raw) = value.map_err(|why| {
                    format!("strconv.ParseUint: parsing {}: {why}", goflag::quote(text))
                })?;
            }
            Slot::Duration(at) => {
                *at(raw) = goflag::parse_duration(text).map_err(|_| parse_error())?;
            }
            Slot::Urls(at) => at(raw).set(text)?,
            Slot::List(at) => *at(raw) = text.split(',').map(str::to_owned).collect(),
            Slot::Set(at) => *at(raw) = text.split(',').map(str::to_owned).collect(),
            Slot::Choice(at, valid) => {
                if !valid.contains(&text) {
                    return Err("invalid value".to_owned());
                }
                text.clone_into(at(raw));
            }
            Slot::Choices(at, valid) => {
                for part in text.split(',') {
                    if !valid.contains(&part) {
                        return Err(format!("invalid value {}", goflag::quote(part)));
                    }
                    at(raw).push(part.to_owned());
                }
                at(raw).sort_unstable();
            }
            Slot::Gates(at) => at(raw).set(text)?,
            Slot::Ignored => {}
        }
        Ok(())
    }

    /// Prints the value that is kept.
    pub fn print(self, raw: &Raw) -> String {
        let raw = &mut raw.clone();
        let join = |texts: &BTreeSet<String>| Vec::from_iter(texts.iter().cloned()).join(",");
        match self {
            Slot::Text(at) | Slot::Choice(at, _) => at(raw).clone(),
            Slot::Bool(at) => at(raw).to_string(),
            Slot::Uint(at) => at(raw).to_string(),
            Slot::Uint32(at) => at(raw).to_string(),
            Slot::Int(at) => at(raw).to_string(),
            Slot::Duration(at) => goflag::format_duration(*at(raw)),
            Slot::Urls(at) => join(&at(raw).texts),
            Slot::List(at) | Slot::Choices(at, _) => at(raw).join(","),
            Slot::Set(at) => join(at(raw)),
            Slot::Gates(at) => at(raw).to_string(),
            Slot::Ignored => String::new(),
        }
    }
}

/// Finds a flag by name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

impl Flags for Raw {
    fn is_boolean(&self, name: &str) -> Option<bool> {
        find(name).map(|flag| flag.slot.is_boolean())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let flag = find(name).ok_or_else(|| format!("no such flag -{name}"))?;
        flag.slot.set(self, value)?;
        self.given.insert(flag.name);
        Ok(())
    }
}

/// Lists every flag with its default, in groups, as `--help` prints it.
pub(super) fn help() -> String {
    let defaults = Raw::default();
    let (mut text, mut group) = (String::new(), "");
    for flag in FLAGS.iter().filter(|flag| !flag.group.is_empty()) {
        if flag.group != group {
            group = flag.group;
            text.push_str(&format!("\n{group}:\n"));
        }
        let default = match flag.name {
            "data-dir" => "${name}.etcd".to_owned(),
            _ => flag.slot.print(&defaults),
        };
        text.push_str(&format!("  --{} '{default}'\n    {}\n", flag.name, flag.help));
    }
    text.push('\n');
    text
}

use Slot::{
    Bool, Choice, Choices, Duration, Gates, Ignored, Int, List, Set, Text, Uint, Uint32, Urls,
};

const MEMBER: &str = "Member";
const CLUSTERING: &str = "Clustering";
const SECURITY: &str = "Security";
const AUTH: &str = "Auth";
const MONITORING: &str = "Profiling and monitoring";
const LOGGING: &str = "Logging";
const TRACING: &str = "Distributed tracing";
const UPKEEP: &str = "Checks and compaction";
const UNSAFE: &str = "Unsafe";
const OTHER: &str = "Other";

/// Declares one flag.
const fn flag(name: &'static str, group: &'static str, slot: Slot, help: &'static str) -> Flag {
    Flag { name, group, slot, help }
}

/// Declares a flag of old times, whose value is forgotten.
const fn ignored(name: &'static str) -> Flag {
    Flag { name, group: "", slot: Ignored, help: "" }
}

/// Every flag of the server.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    flag("name", MEMBER, Text(|r| &mut r.name), "This member's name, for people and for --initial-cluster."),
    flag("data-dir", MEMBER, Text(|r| &mut r.data_dir), "Directory of everything this member keeps."),
    flag("wal-dir", MEMBER, Text(|r| &mut r.wal_dir), "Directory of the log, where it is not to share the data directory's disk."),
    flag("snapshot-count", MEMBER, Uint(|r| &mut r.snapshot_count), "Applied entries after which a snapshot is taken and the log trimmed."),
    flag("heartbeat-interval", MEMBER, Uint(|r| &mut r.heartbeat_interval), "Milliseconds between two heartbeats of the leader."),
    flag("election-timeout", MEMBER, Uint(|r| &mut r.election_timeout), "Milliseconds without a leader before a member campaigns."),
    flag("initial-election-tick-advance", MEMBER, Bool(|r| &mut r.initial_election_tick_advance), "Shorten the wait for the first election after a start."),
    flag("listen-peer-urls", MEMBER, Urls(|r| &mut r.listen_peer_urls), "Where to listen for the other members."),
    flag("listen-client-urls", MEMBER, Urls(|r| &mut r.listen_client_urls), "Where to listen for clients; HTTP too unless --listen-client-http-urls is given."),
    flag("listen-client-http-urls", MEMBER, Urls(|r| &mut r.listen_client_http_urls), "Where to listen for HTTP clients apart from gRPC."),
    flag("max-snapshots", MEMBER, Uint(|r| &mut r.max_snapshots), "Snapshot files to keep, 0 for all (deprecated)."),
    flag("max-wals", MEMBER, Uint(|r| &mut r.max_wals), "Log files to keep, 0 for all."),
    flag("memory-mlock", MEMBER, Bool(|r| &mut r.memory_mlock), "Keep the database's pages in memory."),
    flag("quota-backend-bytes", MEMBER, Int(|r| &mut r.quota_backend_bytes), "Size of the database beyond which writes are refused; 0 for 2 GiB, below 0 for no limit."),
    flag("auto-disarm-nospace", MEMBER, Bool(|r| &mut r.auto_disarm_nospace), "Take back the member's own NOSPACE alarm once there is room again; false to wait for 'alarm disarm', as etcd does."),
    flag("backend-bbolt-freelist-type", MEMBER, Text(|r| &mut r.backend_bbolt_freelist_type), "How etcd's database tracks free pages; without meaning here."),
    flag("backend-batch-interval", MEMBER, Duration(|r| &mut r.backend_batch_interval), "Longest wait before applied writes reach the database file; 0 for the default."),
    flag("backend-batch-limit", MEMBER, Int(|r| &mut r.backend_batch_limit), "Most writes in one commit of the database; 0 for the default."),
    flag("max-txn-ops", MEMBER, Uint(|r| &mut r.max_txn_ops), "Operations allowed in one transaction."),
    flag("max-request-bytes", MEMBER, Uint(|r| &mut r.max_request_bytes), "Largest request, in bytes."),
    flag("max-concurrent-streams", MEMBER, Uint32(|r| &mut r.max_concurrent_streams), "Streams a client may have open on one connection."),
    flag("grpc-keepalive-min-time", MEMBER, Duration(|r| &mut r.grpc_keepalive_min_time), "Shortest allowed interval between a client's pings."),
    flag("grpc-keepalive-interval", MEMBER, Duration(|r| &mut r.grpc_keepalive_interval), "Interval of the server's pings; 0 for the default."),
    flag("grpc-keepalive-timeout", MEMBER, Duration(|r| &mut r.grpc_keepalive_timeout), "Wait for a ping's answer before the connection is closed; 0 for the default."),
    flag("socket-reuse-port", MEMBER, Bool(|r| &mut r.socket_reuse_port), "Set SO_REUSEPORT on listeners."),
    flag("socket-reuse-address", MEMBER, Bool(|r| &mut r.socket_reuse_address), "Set SO_REUSEADDR on listeners."),
    flag("enable-grpc-gateway", MEMBER, Bool(|r| &mut r.enable_grpc_gateway), "Serve the gRPC API as JSON over HTTP, too."),
    flag("raft-read-timeout", MEMBER, Duration(|r| &mut r.raft_read_timeout), "Read deadline on connections between members (at least 5s)."),
    flag("raft-write-timeout", MEMBER, Duration(|r| &mut r.raft_write_timeout), "Write deadline on connections between members (at least 5s)."),
    flag("feature-gates", MEMBER, Gates(|r| &mut r.feature_gates), "Switches for features, as Gate=true,Other=false; AllAlpha and AllBeta name a whole stage."),
    flag("initial-advertise-peer-urls", CLUSTERING, Urls(|r| &mut r.initial_advertise_peer_urls), "Where the other members find this one."),
    flag("initial-cluster", CLUSTERING, Text(|r| &mut r.initial_cluster), "The members at bootstrap, as name=url,name=url."),
    flag("initial-cluster-state", CLUSTERING, Choice(|r| &mut r.initial_cluster_state, &["new", "existing"]), "'new' to found a cluster, 'existing' to join one; without meaning on a restart."),
    flag("initial-cluster-token", CLUSTERING, Text(|r| &mut r.initial_cluster_token), "Tells clusters founded with the same URLs apart."),
    flag("advertise-client-urls", CLUSTERING, Urls(|r| &mut r.advertise_client_urls), "Where clients find this member."),
    flag("discovery-token", CLUSTERING, Text(|r| &mut r.discovery_token), "Discovery: the token of the cluster to found."),
    flag("discovery-endpoints", CLUSTERING, Set(|r| &mut r.discovery_endpoints), "Discovery: endpoints of the service."),
    flag("discovery-dial-timeout", CLUSTERING, Duration(|r| &mut r.discovery_dial_timeout), "Discovery: limit for connecting."),
    flag("discovery-request-timeout", CLUSTERING, Duration(|r| &mut r.discovery_request_timeout), "Discovery: limit for one request."),
    flag("discovery-keepalive-time", CLUSTERING, Duration(|r| &mut r.discovery_keepalive_time), "Discovery: interval of pings."),
    flag("discovery-keepalive-timeout", CLUSTERING, Duration(|r| &mut r.discovery_keepalive_timeout), "Discovery: limit for a ping's answer."),
    flag("discovery-insecure-transport", CLUSTERING, Bool(|r| &mut r.discovery_insecure_transport), "Discovery: speak without TLS."),
    flag("discovery-insecure-skip-tls-verify", CLUSTERING, Bool(|r| &mut r.discovery_insecure_skip_tls_verify), "Discovery: do not check the server's certificate."),
    flag("discovery-cert", CLUSTERING, Text(|r| &mut r.discovery_cert), "Discovery: certificate file to show."),
    flag("discovery-key", CLUSTERING, Text(|r| &mut r.discovery_key), "Discovery: its key file."),
    flag("discovery-cacert", CLUSTERING, Text(|r| &mut r.discovery_cacert), "Discovery: file of the trusted CA."),
    flag("discovery-user", CLUSTERING, Text(|r| &mut r.discovery_user), "Discovery: user, or user:password."),
    flag("discovery-password", CLUSTERING, Text(|r| &mut r.discovery_password), "Discovery: password."),
    flag("discovery-fallback", CLUSTERING, Choice(|r| &mut r.discovery_fallback, &["exit", "proxy"]), "What to do when discovery fails; only 'exit' is left."),
    flag("discovery-srv", CLUSTERING, Text(|r| &mut r.discovery_srv), "DNS domain whose SRV records name the members."),
    flag("discovery-srv-name", CLUSTERING, Text(|r| &mut r.discovery_srv_name), "Suffix of the SRV service's name."),
    flag("strict-reconfig-check", CLUSTERING, Bool(|r| &mut r.strict_reconfig_check), "Refuse membership changes that could cost the quorum."),
    flag("pre-vote", CLUSTERING, Bool(|r| &mut r.pre_vote), "Ask whether a campaign could be won before starting it."),
    flag("auto-compaction-retention", CLUSTERING, Text(|r| &mut r.auto_compaction_retention), "How much history automatic compaction leaves; 0 for no automatic compaction."),
    flag("auto-compaction-mode", CLUSTERING, Text(|r| &mut r.auto_compaction_mode), "'periodic' to retain a duration (hours without unit), 'revision' to retain revisions."),
    flag("v2-deprecation", CLUSTERING, Choices(|r| &mut r.v2_deprecation, &["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "Without meaning (deprecated)."),
    flag("cert-file", SECURITY, Text(|r| &mut r.cert_file), "Certificate shown to clients."),
    flag("key-file", SECURITY, Text(|r| &mut r.key_file), "Key of --cert-file."),
    flag("client-cert-file", SECURITY, Text(|r| &mut r.client_cert_file), "Certificate shown when this server itself is the client of its client port."),
    flag("client-key-file", SECURITY, Text(|r| &mut r.client_key_file), "Key of --client-cert-file."),
    flag("client-cert-auth", SECURITY, Bool(|r| &mut r.client_cert_auth), "Ask clients for a certificate, and take its CN as the user's name."),
    flag("client-crl-file", SECURITY, Text(|r| &mut r.client_crl_file), "Revoked client certificates."),
    flag("client-cert-allowed-hostname", SECURITY, List(|r| &mut r.client_cert_allowed_hostname), "Host names of which a client's certificate must carry one."),
    flag("trusted-ca-file", SECURITY, Text(|r| &mut r.trusted_ca_file), "CA that vouches for clients."),
    flag("auto-tls", SECURITY, Bool(|r| &mut r.auto_tls), "Serve clients with a certificate made on the spot."),
    flag("peer-cert-file", SECURITY, Text(|r| &mut r.peer_cert_file), "Certificate shown to members."),
    flag("peer-key-file", SECURITY, Text(|r| &mut r.peer_key_file), "Key of --peer-cert-file."),
    flag("peer-client-cert-file", SECURITY, Text(|r| &mut r.peer_client_cert_file), "Certificate shown when dialling members, if not --peer-cert-file."),
    flag("peer-client-key-file", SECURITY, Text(|r| &mut r.peer_client_key_file), "Key of --peer-client-cert-file."),
    flag("peer-client-cert-auth", SECURITY, Bool(|r| &mut r.peer_client_cert_auth), "Ask members for a certificate."),
    flag("peer-trusted-ca-file", SECURITY, Text(|r| &mut r.peer_trusted_ca_file), "CA that vouches for members."),
    flag("peer-auto-tls", SECURITY, Bool(|r| &mut r.peer_auto_tls), "Speak among members with certificates made on the spot."),
    flag("self-signed-cert-validity", SECURITY, Uint(|r| &mut r.self_signed_cert_validity), "Years for which certificates made on the spot are valid."),
    flag("peer-crl-file", SECURITY, Text(|r| &mut r.peer_crl_file), "Revoked member certificates."),
    flag("peer-cert-allowed-cn", SECURITY, List(|r| &mut r.peer_cert_allowed_cn), "Common names of which a member's certificate must carry one."),
    flag("peer-cert-allowed-hostname", SECURITY, List(|r| &mut r.peer_cert_allowed_hostname), "Host names of which a member's certificate must carry one."),
    flag("peer-skip-client-san-verification", SECURITY, Bool(|r| &mut r.peer_skip_client_san_verification), "Do not compare a member's address with its certificate."),
    flag("cipher-suites", SECURITY, List(|r| &mut r.cipher_suites), "Cipher suites for TLS 1.2; empty for the default ones."),
    flag("tls-min-version", SECURITY, Text(|r| &mut r.tls_min_version), "Oldest TLS: TLS1.2 or TLS1.3."),
    flag("tls-max-version", SECURITY, Text(|r| &mut r.tls_max_version), "Newest TLS: TLS1.2, TLS1.3, or empty for the newest known."),
    flag("cors", SECURITY, Urls(|r| &mut r.cors), "Origins that browsers may send requests from; * for all."),
    flag("host-whitelist", SECURITY, Set(|r| &mut r.host_whitelist), "Host names that requests without TLS may name; * for all."),
    flag("auth-token", AUTH, Text(|r| &mut r.auth_token), "Kind of token: simple, or jwt with its options."),
    flag("bcrypt-cost", AUTH, Uint(|r| &mut r.bcrypt_cost), "Cost of hashing a password, 4 to 31."),
    flag("auth-token-ttl", AUTH, Uint(|r| &mut r.auth_token_ttl), "Seconds that a simple token lives."),
    flag("enable-pprof", MONITORING, Bool(|r| &mut r.enable_pprof), "Serve profiles under /debug/pprof/."),
    flag("metrics", MONITORING, Text(|r| &mut r.metrics), "'basic', or 'extensive' for a histogram of gRPC calls."),
    flag("listen-metrics-urls", MONITORING, Urls(|r| &mut r.listen_metrics_urls), "More listeners for metrics and health."),
    flag("logger", LOGGING, Text(|r| &mut r.logger), "Only 'zap'."),
    flag("log-outputs", LOGGING, Set(|r| &mut r.log_outputs), "Where the log goes: default, stderr, stdout, systemd/journal, or files."),
    flag("log-level", LOGGING, Text(|r| &mut r.log_level), "debug, info, warn, error, panic or fatal."),
    flag("log-format", LOGGING, Text(|r| &mut r.log_format), "json or console."),
    flag("enable-log-rotation", LOGGING, Bool(|r| &mut r.enable_log_rotation), "Rotate the one file of --log-outputs."),
    flag("log-rotation-config-json", LOGGING, Text(|r| &mut r.log_rotation_config_json), "How to rotate it."),
    flag("warning-unary-request-duration", LOGGING, Duration(|r| &mut r.warning_unary_request_duration), "A request slower than this is logged; 0 for the default."),
    flag("warning-apply-duration", LOGGING, Duration(|r| &mut r.warning_apply_duration), "An entry applied slower than this is logged."),
    flag("enable-distributed-tracing", TRACING, Bool(|r| &mut r.enable_distributed_tracing), "Send traces to an OpenTelemetry collector."),
    flag("distributed-tracing-address", TRACING, Text(|r| &mut r.distributed_tracing_address), "The collector's address."),
    flag("distributed-tracing-service-name", TRACING, Text(|r| &mut r.distributed_tracing_service_name), "Service name in traces."),
    flag("distributed-tracing-instance-id", TRACING, Text(|r| &mut r.distributed_tracing_instance_id), "This instance's id in traces."),
    flag("distributed-tracing-sampling-rate", TRACING, Int(|r| &mut r.distributed_tracing_sampling_rate), "Spans sampled of a million."),
    flag("corrupt-check-time", UPKEEP, Duration(|r| &mut r.corrupt_check_time), "Interval of comparing data with the peers; 0 for never."),
    flag("compact-hash-check-time", UPKEEP, Duration(|r| &mut r.compact_hash_check_time), "Interval of comparing the hashes of compactions."),
    flag("compaction-batch-limit", UPKEEP, Int(|r| &mut r.compaction_batch_limit), "Revisions removed in one step of a compaction; 0 for the default."),
    flag("compaction-sleep-interval", UPKEEP, Duration(|r| &mut r.compaction_sleep_interval), "Pause between two steps of a compaction; 0 for the default."),
    flag("watch-progress-notify-interval", UPKEEP, Duration(|r| &mut r.watch_progress_notify_interval), "Interval of progress reports to quiet watchers; 0 for the default."),
    flag("downgrade-check-time", UPKEEP, Duration(|r| &mut r.downgrade_check_time), "Interval of looking after a downgrade."),
    flag("bootstrap-defrag-threshold-megabytes", UPKEEP, Uint(|r| &mut r.bootstrap_defrag_threshold_megabytes), "Free megabytes from which a start defragments; 0 for never."),
    flag("max-learners", UPKEEP, Int(|r| &mut r.max_learners), "Learners allowed in the cluster."),
    flag("snapshot-catchup-entries", UPKEEP, Uint(|r| &mut r.snapshot_catchup_entries), "Log entries kept behind a snapshot for slow followers."),
    flag("unsafe-no-fsync", UNSAFE, Bool(|r| &mut r.unsafe_no_fsync), "Do not sync files: a power loss loses data."),
    flag("force-new-cluster", UNSAFE, Bool(|r| &mut r.force_new_cluster), "Make this member the only one of its cluster."),
    flag("config-file", OTHER, Text(|r| &mut r.config_file), "File to read all settings from; other flags and the environment do not count then."),
    flag("version", OTHER, Bool(|r| &mut r.version), "Print the version and exit."),
    ignored("cluster-active-size"),
    ignored("cluster-remove-delay"),
    ignored("cluster-sync-interval"),
    ignored("config"),
    ignored("force"),
    ignored("max-result-buffer"),
    ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"),
    ignored("peer-election-timeout"),
    ignored("retry-interval"),
    ignored("snapshot"),
    ignored("v"),
    ignored("vv"),
    ignored("test.coverprofile"),
    ignored("test.outputdir"),
];
