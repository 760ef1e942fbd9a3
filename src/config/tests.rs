//! Tests of the whole way, from a command line and an environment to a configuration or a refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;

/// Every flag that etcd 3.7 has, by the contract; those ignored follow.
const FLAGS: &str = "name data-dir wal-dir snapshot-count heartbeat-interval election-timeout \
    initial-election-tick-advance listen-peer-urls listen-client-urls listen-client-http-urls \
    listen-metrics-urls max-snapshots max-wals memory-mlock quota-backend-bytes \
    backend-bbolt-freelist-type backend-batch-interval backend-batch-limit max-txn-ops \
    max-request-bytes max-concurrent-streams grpc-keepalive-min-time grpc-keepalive-interval \
    grpc-keepalive-timeout socket-reuse-port socket-reuse-address enable-grpc-gateway \
    raft-read-timeout raft-write-timeout feature-gates initial-advertise-peer-urls \
    initial-cluster initial-cluster-state initial-cluster-token advertise-client-urls \
    discovery-token discovery-endpoints discovery-dial-timeout discovery-request-timeout \
    discovery-keepalive-time discovery-keepalive-timeout discovery-insecure-transport \
    discovery-insecure-skip-tls-verify discovery-cert discovery-key discovery-cacert \
    discovery-user discovery-password discovery-fallback discovery-srv discovery-srv-name \
    strict-reconfig-check pre-vote auto-compaction-retention auto-compaction-mode \
    v2-deprecation cert-file key-file client-cert-file client-key-file client-cert-auth \
    client-crl-file client-cert-allowed-hostname trusted-ca-file auto-tls peer-cert-file \
    peer-key-file peer-client-cert-file peer-client-key-file peer-client-cert-auth \
    peer-trusted-ca-file peer-auto-tls self-signed-cert-validity peer-crl-file \
    peer-cert-allowed-cn peer-cert-allowed-hostname peer-skip-client-san-verification \
    cipher-suites tls-min-version tls-max-version cors host-whitelist auth-token bcrypt-cost \
    auth-token-ttl enable-pprof metrics logger log-outputs log-level log-format \
    enable-log-rotation log-rotation-config-json warning-unary-request-duration \
    warning-apply-duration enable-distributed-tracing distributed-tracing-address \
    distributed-tracing-service-name distributed-tracing-instance-id \
    distributed-tracing-sampling-rate corrupt-check-time compact-hash-check-time \
    compaction-batch-limit compaction-sleep-interval watch-progress-notify-interval \
    downgrade-check-time bootstrap-defrag-threshold-megabytes max-learners \
    snapshot-catchup-entries unsafe-no-fsync force-new-cluster config-file version";
/// Flags of our own, where etcd has no way to choose.
const OURS: &str = "auto-disarm-nospace";
const IGNORED: &str = "cluster-active-size cluster-remove-delay cluster-sync-interval config \
    force max-result-buffer max-retry-attempts peer-heartbeat-interval peer-election-timeout \
    retry-interval snapshot v vv test.coverprofile test.outputdir";

/// Parses a command line, its words apart by blanks, with variables.
fn run_in(env: &[(&str, &str)], line: &str) -> Result<Parsed, Exit> {
    let args: Vec<String> =
        std::iter::once("mainstay").chain(line.split_whitespace()).map(str::to_owned).collect();
    let env: BTreeMap<String, String> =
        env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    parse(&args, &env)
}

fn run(line: &str) -> Result<Parsed, Exit> {
    run_in(&[], line)
}

#[track_caller]
fn config(line: &str) -> Config {
    match run(line) {
        Ok(parsed) => parsed.config,
        Err(exit) => panic!("{line}: {exit:?}"),
    }
}

#[track_caller]
fn refusal(line: &str) -> Exit {
    match run(line) {
        Ok(_) => panic!("{line} was accepted"),
        Err(exit) => exit,
    }
}

/// Prints a line short: `level message key=value`.
fn short(line: &LogLine) -> String {
    let mut text = format!("{} {}", line.level.as_str(), line.message);
    for (key, value) in &line.fields {
        text.push_str(&format!(" {key}={value}"));
    }
    text
}

/// The line of log that says why, with its message: `failed to verify flags: why`.
fn reason(exit: &Exit) -> String {
    let why = |line: &LogLine| {
        let (_, error) = line.fields.iter().find(|(key, _)| *key == "error")?;
        let error = error.as_str().expect("an error is text");
        Some(format!("{} {}: {error}", line.level.as_str(), line.message))
    };
    exit.log.iter().find_map(why).unwrap_or_default()
}

fn urls(texts: &[&str]) -> Vec<Url> {
    Url::parse_list(texts.iter().copied()).expect("the URLs are well formed")
}

#[test]
fn every_flag_of_the_contract_exists_and_no_other() {
    let known: BTreeSet<&str> = flags::FLAGS.iter().map(|flag| flag.name).collect();
    let contract: BTreeSet<&str> =
        [FLAGS, OURS, IGNORED].into_iter().flat_map(str::split_whitespace).collect();
    assert_eq!(known, contract);
    assert_eq!(flags::FLAGS.len(), contract.len(), "a flag is there twice");
    for name in IGNORED.split_whitespace() {
        config(&format!("--{name} --{name}=x"));
    }
    for (flag, _) in not_yet::NOT_YET {
        assert!(known.contains(flag), "{flag}");
    }
    let help = refusal("--help").stdout;
    for name in FLAGS.split_whitespace().chain(OURS.split_whitespace()) {
        assert!(help.contains(&format!("  --{name} '")), "{name}");
    }
}

#[test]
fn defaults_are_etcds() {
    let parsed = run("").expect("no flags are needed");
    let c = parsed.config;
    assert_eq!(c, Config::default());
    assert_eq!((c.name.as_str(), c.data_dir.to_str()), ("default", Some("default.etcd")));
    assert_eq!(c.wal_dir, None);
    assert_eq!(c.listen_peer_urls, urls(&["http://localhost:2380"]));
    assert_eq!(c.listen_client_urls, urls(&["http://localhost:2379"]));
    assert_eq!(c.initial_advertise_peer_urls, urls(&["http://localhost:2380"]));
    assert_eq!(c.advertise_client_urls, urls(&["http://localhost:2379"]));
    assert_eq!(c.listen_metrics_urls, []);
    let member = ("default".to_owned(), urls(&["http://localhost:2380"]));
    assert_eq!(c.initial_cluster, [member]);
    assert_eq!(c.initial_cluster_state, ClusterState::New);
    assert_eq!(c.initial_cluster_token, "etcd-cluster");
    assert_eq!(c.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(c.election_timeout, Duration::from_millis(1000));
    assert_eq!((c.snapshot_count, c.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!(c.quota_backend_bytes, Some(2 << 30));
    assert_eq!((c.max_request_bytes, c.max_txn_ops), (1_572_864, 128));
    assert_eq!((c.max_concurrent_streams, c.max_learners), (u32::MAX, 1));
    assert_eq!(c.grpc_keepalive_min_time, Duration::from_secs(5));
    assert_eq!(c.grpc_keepalive_interval, Duration::from_secs(7200));
    assert_eq!(c.grpc_keepalive_timeout, Duration::from_secs(20));
    assert_eq!(c.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!((c.compaction_batch_limit, c.backend_batch_limit), (1_000, 10_000));
    assert_eq!(c.compaction_sleep_interval, Duration::from_millis(10));
    assert_eq!(c.warning_apply_duration, Duration::from_millis(100));
    assert_eq!(c.warning_unary_request_duration, Duration::from_millis(300));
    assert_eq!(c.compact_hash_check_time, Duration::from_secs(60));
    assert_eq!(c.downgrade_check_time, Duration::from_secs(5));
    assert_eq!((c.corrupt_check_time, c.auto_compaction), (None, AutoCompaction::Off));
    assert_eq!((c.auth_token, c.bcrypt_cost), (AuthToken::Simple, 10));
    assert_eq!(c.auth_token_ttl, Duration::from_secs(300));
    assert_eq!((c.log_level, c.log_format), (LogLevel::Info, LogFormat::Json));
    assert_eq!(c.log_outputs, [LogOutput::Stderr]);
    assert_eq!((c.cors, c.host_whitelist), (["*".to_owned()].into(), ["*".to_owned()].into()));
    assert_eq!((c.tracing, c.discovery, c.log_rotation), (None, None, None));
    assert!(c.pre_vote && c.strict_reconfig_check && c.initial_election_tick_advance);
    assert!(c.enable_grpc_gateway);
    assert!(!c.unsafe_no_fsync && !c.force_new_cluster && !c.memory_mlock && !c.enable_pprof);
    assert!(!c.client_tls.is_enabled() && !c.peer_tls.is_enabled());
    assert_eq!(c.client_tls.min_version, Some(TlsVersion::Tls12));
    assert_eq!(c.client_tls.max_version, None);
    let lines: Vec<String> = parsed.log.iter().map(short).collect();
    assert_eq!(
        lines,
        [
            "warn Running http and grpc server on single port. This is not recommended for \
             production.",
            "warn it isn't recommended to use default name, please set a value for --name. Note \
             that etcd might run into issue when multiple members have the same default name \
             name=\"default\"",
            "info Running:  args=[\"mainstay\"]",
            "warn 'data-dir' was empty; using default data-dir=\"default.etcd\"",
        ]
    );
}

#[test]
fn flags_reach_the_configuration() {
    let c = config(
        "-name m1 --data-dir=/d -wal-dir /w --listen-client-urls http://10.0.0.1:1,https://[::1]:2 \
         --advertise-client-urls https://h:3 --cert-file c --key-file k --trusted-ca-file ca \
         --client-cert-auth --peer-cert-file pc --peer-key-file pk --peer-trusted-ca-file pca \
         --peer-client-cert-auth=T --heartbeat-interval 20 --election-timeout 0x64 \
         --quota-backend-bytes -1 --max-request-bytes=10_000 --max-txn-ops 1024 \
         --max-concurrent-streams 7 --snapshot-count 5 --snapshot-catchup-entries 6 \
         --log-level DEBUG --log-format console --log-outputs stdout --initial-cluster-token t \
         --initial-cluster-state existing --initial-cluster m2=http://b:1,m1=http://a:1,m1=http://a:0 \
         --grpc-keepalive-min-time 1s --grpc-keepalive-interval 1m --grpc-keepalive-timeout 3s \
         --watch-progress-notify-interval 5s --compaction-batch-limit 10 --max-learners 3 \
         --compaction-sleep-interval 1ms --warning-apply-duration 1s --unsafe-no-fsync \
         --warning-unary-request-duration 2s --socket-reuse-port --socket-reuse-address \
         --initial-election-tick-advance=false --strict-reconfig-check=0 \
         --listen-metrics-urls http://127.0.0.1:9 --backend-batch-limit 3 --max-wals 9 \
         --backend-batch-interval 5ms --enable-grpc-gateway=false --metrics basic \
         --feature-gates LeaseCheckpoint=true,LeaseCheckpointPersist=true",
    );
    assert_eq!((c.name.as_str(), c.data_dir.to_str()), ("m1", Some("/d")));
    assert_eq!(c.wal_dir.as_deref(), Some("/w".as_ref()));
    assert_eq!(c.listen_client_urls, urls(&["http://10.0.0.1:1", "https://[::1]:2"]));
    assert_eq!(c.advertise_client_urls, urls(&["https://h:3"]));
    assert_eq!(c.listen_metrics_urls, urls(&["http://127.0.0.1:9"]));
    assert_eq!(c.client_tls.cert_file.as_deref(), Some("c".as_ref()));
    assert_eq!(c.client_tls.key_file.as_deref(), Some("k".as_ref()));
    assert_eq!(c.client_tls.trusted_ca_file.as_deref(), Some("ca".as_ref()));
    assert!(c.client_tls.client_cert_auth && c.client_tls.wants_client_certificate());
    assert_eq!(c.peer_tls.cert_file.as_deref(), Some("pc".as_ref()));
    assert_eq!(c.peer_tls.key_file.as_deref(), Some("pk".as_ref()));
    assert_eq!(c.peer_tls.trusted_ca_file.as_deref(), Some("pca".as_ref()));
    assert!(c.peer_tls.client_cert_auth);
    assert_eq!(c.heartbeat_interval, Duration::from_millis(20));
    assert_eq!(c.election_timeout, Duration::from_millis(100));
    assert_eq!((c.quota_backend_bytes, c.max_request_bytes), (None, 10_000));
    assert_eq!((c.max_txn_ops, c.max_concurrent_streams, c.max_learners), (1024, 7, 3));
    assert_eq!((c.snapshot_count, c.snapshot_catchup_entries, c.max_wals), (5, 6, 9));
    assert_eq!((c.log_level, c.log_format), (LogLevel::Debug, LogFormat::Console));
    assert_eq!(c.log_outputs, [LogOutput::Stdout]);
    assert_eq!(c.initial_cluster_token, "t");
    assert_eq!(c.initial_cluster_state, ClusterState::Existing);
    let m1 = ("m1".to_owned(), urls(&["http://a:0", "http://a:1"]));
    assert_eq!(c.initial_cluster, [m1, ("m2".to_owned(), urls(&["http://b:1"]))]);
    assert_eq!(c.grpc_keepalive_min_time, Duration::from_secs(1));
    assert_eq!(c.grpc_keepalive_interval, Duration::from_secs(60));
    assert_eq!(c.grpc_keepalive_timeout, Duration::from_secs(3));
    assert_eq!(c.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(c.compaction_batch_limit, 10);
    assert_eq!(c.compaction_sleep_interval, Duration::from_millis(1));
    assert_eq!(c.warning_apply_duration, Duration::from_secs(1));
    assert_eq!(c.warning_unary_request_duration, Duration::from_secs(2));
    assert_eq!(c.backend_batch_limit, 3);
    assert_eq!(c.backend_batch_interval, Duration::from_millis(5));
    assert!(c.unsafe_no_fsync && c.socket_reuse_port && c.socket_reuse_address);
    assert!(!c.initial_election_tick_advance && !c.strict_reconfig_check);
    assert!(!c.enable_grpc_gateway);
    assert!(c.feature_gates.enabled(Feature::LeaseCheckpointPersist));
}

#[test]
fn refused_flags_end_with_usage_and_exit_2() {
    for (line, message) in [
        ("-x", "flag provided but not defined: -x"),
        ("--discovery http://x", "flag provided but not defined: -discovery"),
        ("--enable-v2", "flag provided but not defined: -enable-v2"),
        ("--name", "flag needs an argument: -name"),
        ("---name", "bad flag syntax: ---name"),
        ("--auto-tls=maybe", "invalid boolean value \"maybe\" for -auto-tls: parse error"),
        ("--snapshot-count=-1", "invalid value \"-1\" for flag -snapshot-count: parse error"),
        (
            "--max-txn-ops 18446744073709551616",
            "invalid value \"18446744073709551616\" for flag -max-txn-ops: value out of range",
        ),
        (
            "--max-concurrent-streams 4294967296",
            "invalid value \"4294967296\" for flag -max-concurrent-streams: strconv.ParseUint: \
             parsing \"4294967296\": value out of range",
        ),
        (
            "--max-concurrent-streams x",
            "invalid value \"x\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \
             \"x\": invalid syntax",
        ),
        ("--corrupt-check-time 5", "invalid value \"5\" for flag -corrupt-check-time: parse error"),
        (
            "--listen-peer-urls http://h",
            "invalid value \"http://h\" for flag -listen-peer-urls: URL address does not have \
             the form \"host:port\": http://h",
        ),
        (
            "--listen-client-urls http://h:1/p",
            "invalid value \"http://h:1/p\" for flag -listen-client-urls: URL must not contain a \
             path: http://h:1/p",
        ),
        (
            "--advertise-client-urls h:1",
            "invalid value \"h:1\" for flag -advertise-client-urls: URL scheme must be http, \
             https, unix, or unixs: h:1",
        ),
        (
            "--cors=",
            "invalid value \"\" for flag -cors: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            "--initial-cluster-state old",
            "invalid value \"old\" for flag -initial-cluster-state: invalid value",
        ),
        (
            "--discovery-fallback x",
            "invalid value \"x\" for flag -discovery-fallback: invalid value",
        ),
        (
            "--v2-deprecation not-yet",
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        (
            "--feature-gates X=true",
            "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
        ),
    ] {
        let exit = refusal(line);
        assert_eq!(exit.code, 2, "{line}");
        assert_eq!(exit.stderr, format!("{message}\n{USAGE}\n"), "{line}");
        assert!(exit.stdout.is_empty() && exit.log.is_empty(), "{line}");
    }
}

#[test]
fn complaints_are_etcds_with_exit_1() {
    for (line, message) in [
        ("word", "\"word\" is not a valid flag"),
        ("--auto-tls false", "\"false\" is not a valid flag"),
        ("--version word", "\"word\" is not a valid flag"),
        ("--logger x", "unknown logger option \"x\""),
        ("--logger capnslog", "--logger=capnslog is removed in v3.5"),
        ("--log-format x", "unknown log format: x, supported values json, console"),
        ("--log-outputs default,stdout", "multi logoutput for \"default\" is not supported yet"),
        (
            "--enable-log-rotation",
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            "--enable-log-rotation --log-outputs a,b",
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        ("--listen-peer-urls http://h:1", "expected IP in URL for binding (http://h:1)"),
        (
            "--listen-client-urls http://:1 --advertise-client-urls http://h:1",
            "expected IP in URL for binding (http://:1)",
        ),
        ("--listen-metrics-urls http://h:1", "expected IP in URL for binding (http://h:1)"),
        (
            "--initial-advertise-peer-urls http://:1",
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty \
             host (http://:1))",
        ),
        (
            "--advertise-client-urls http://:1",
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \
             \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host \
             (http://:1))",
        ),
        (
            "--discovery-srv x --initial-cluster a=http://h:1",
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (
            "--discovery-srv x --discovery-endpoints e --discovery-token t",
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        ("--discovery-token t", "both --discovery-token and --discovery-endpoints must be set"),
        ("--discovery-endpoints e", "both --discovery-token and --discovery-endpoints must be set"),
        (
            "--discovery-endpoints e, --discovery-token t",
            "--discovery-endpoints must not contain empty endpoints",
        ),
        ("--heartbeat-interval 0", "--heartbeat-interval must be >0 (set to 0ms)"),
        ("--election-timeout 0", "--election-timeout must be >0 (set to 0ms)"),
        (
            "--heartbeat-interval 201",
            "--election-timeout[1000ms] should be at least as 5 times as \
             --heartbeat-interval[201ms]",
        ),
        (
            "--election-timeout 50001",
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        ("--auto-compaction-mode=", "undefined auto-compaction-mode"),
        ("--auto-compaction-mode x", "unknown auto-compaction-mode \"x\""),
        (
            "--enable-distributed-tracing --distributed-tracing-sampling-rate=-1",
            "distributed tracing configurition is not valid: (tracing sampling rate must be \
             positive)",
        ),
        (
            "--enable-distributed-tracing --distributed-tracing-sampling-rate=1000001",
            "distributed tracing configurition is not valid: (tracing sampling rate must be less \
             than 1000000)",
        ),
        (
            "--feature-gates LeaseCheckpointPersist=true",
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint",
        ),
        ("--compact-hash-check-time 0", "--compact-hash-check-time must be >0 (set to 0s)"),
        ("--compact-hash-check-time -90s", "--compact-hash-check-time must be >0 (set to -1m30s)"),
        (
            "--tls-min-version TLS1.1",
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        ("--tls-max-version x", "unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)"),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            "--tls-min-version TLS1.3 --cipher-suites TLS_AES_128_GCM_SHA256",
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            "--discovery-fallback proxy --logger x",
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
    ] {
        let exit = refusal(line);
        assert_eq!(exit.code, 1, "{line}");
        assert_eq!(reason(&exit), format!("warn failed to verify flags: {message}"), "{line}");
        assert!(exit.stdout.is_empty() && exit.stderr.is_empty(), "{line}");
    }
}

#[test]
fn complaints_of_the_listeners_are_fatal() {
    for (line, message) in [
        ("--cipher-suites X", "unexpected TLS cipher suite \"X\""),
        (
            "--listen-peer-urls https://127.0.0.1:1",
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:1 --peer-cert-file c",
            "KeyFile and CertFile must both be present[key: , cert: c]",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:1 --peer-auto-tls --peer-client-key-file k",
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: k, cert: ]",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:1 --peer-auto-tls --peer-cert-allowed-cn a \
             --peer-cert-allowed-hostname b,c",
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], \
             hostnames=[\"b\" \"c\"])",
        ),
        (
            "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls http://h:1",
            "TLS key/cert (--cert-file, --key-file) must be provided for client url \
             https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            "--listen-client-http-urls http://localhost:2379",
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             http://localhost:2379",
        ),
        (
            "--listen-metrics-urls https://127.0.0.1:1",
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            "--auto-compaction-retention 5x",
            "error parsing CompactionRetention: time: unknown unit \"x\" in duration \"5x\"",
        ),
        (
            "--auto-compaction-mode revision --auto-compaction-retention x",
            "error parsing CompactionRetention: time: invalid duration \"x\"",
        ),
        ("--auth-token x", "auth: invalid auth options"),
        ("--auth-token jwt,a", "auth: invalid auth options"),
        ("--auth-token jwt,a=1,a=2", "auth: invalid auth options"),
    ] {
        let exit = refusal(line);
        assert_eq!(exit.code, 1, "{line}");
        assert_eq!(reason(&exit), format!("fatal discovery failed: {message}"), "{line}");
    }
}

#[test]
fn mutual_exclusion_counts_only_where_tls_is_spoken() {
    let exit = refusal("--peer-cert-allowed-cn a --peer-cert-allowed-hostname b");
    assert!(reason(&exit).contains("--peer-cert-allowed-cn is not supported yet"));
}

#[test]
fn an_unknown_level_ends_like_a_panic() {
    let exit = refusal("--log-level loud");
    assert_eq!(exit.code, 2);
    assert_eq!(exit.stderr, "panic: unrecognized level: \"loud\"\n");
}

#[test]
fn listening_without_advertising_is_told_twice() {
    let exit = refusal("--listen-client-urls http://127.0.0.1:1");
    let lines: Vec<String> = exit.log.iter().map(short).collect();
    let error =
        "error=\"--advertise-client-urls is required when --listen-client-urls is set explicitly\"";
    assert_eq!(exit.code, 1);
    assert_eq!(
        lines[1..],
        [
            "info Running:  args=[\"mainstay\",\"--listen-client-urls\",\"http://127.0.0.1:1\"]"
                .to_owned(),
            format!("warn failed to verify flags {error}"),
            format!("warn advertise client URLs are not set {error}"),
        ]
    );
    let env = [("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")];
    let exit = run_in(&env, "").expect_err("it counts from the environment");
    assert!(short(exit.log.last().expect("it is told")).ends_with(error));
    let both = "--listen-client-urls= --advertise-client-urls=";
    assert_eq!(config(both).listen_client_urls, Config::default().listen_client_urls);
}

#[test]
fn flags_without_a_feature_are_refused_by_name() {
    let values = [
        ("config-file", "c.yaml"),
        ("listen-client-http-urls", "http://127.0.0.1:1"),
        ("raft-read-timeout", "6s"),
        ("raft-write-timeout", "6s"),
        ("discovery-token", "t --discovery-endpoints e"),
        ("discovery-endpoints", "e --discovery-token t"),
        ("auto-compaction-retention", "1h"),
        ("self-signed-cert-validity", "2"),
        ("cipher-suites", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"),
        ("tls-min-version", "TLS1.3"),
        ("tls-max-version", "TLS1.2"),
        ("cors", "http://h:1"),
        ("auth-token", "jwt,sign-method=RS256"),
        ("bcrypt-cost", "12"),
        ("auth-token-ttl", "60"),
        ("enable-log-rotation", "true --log-outputs f"),
        ("corrupt-check-time", "1m"),
        ("downgrade-check-time", "1m"),
        ("bootstrap-defrag-threshold-megabytes", "1"),
        ("feature-gates", "CompactHashCheck=true"),
    ];
    for (flag, why) in not_yet::NOT_YET {
        let known = values.iter().find(|(name, _)| name == flag);
        let value = known.map_or("true", |(_, value)| value);
        let said = reason(&refusal(&format!("--{flag}={value}")));
        // Some need a second one of their kind, which may be named first.
        let kin =
            [("discovery-endpoints", "discovery-token"), ("enable-log-rotation", "log-outputs")];
        let named = kin.iter().find(|(name, _)| name == flag).map_or(*flag, |(_, kin)| kin);
        let start = format!("warn failed to verify flags: --{named} is not supported yet: ");
        assert!(said.starts_with(&start), "{flag}: {said}");
        assert!(flag != &named || said.ends_with(why), "{flag}: {said}");
    }
    // What asks for nothing is let pass.
    config(
        "--pre-vote=false --auto-compaction-retention=0h --cors=* --metrics=none --tls-max-version=",
    );
    config("--auto-compaction-mode=revision --raft-read-timeout=1s --log-outputs=stderr,stdout");
    config("--feature-gates=AllBeta=true,FastLeaseKeepAlive=false,PriorityRequest=false");
}

#[test]
fn variables_stand_for_flags() {
    let env = [
        ("ETCD_NAME", "m1"),
        ("ETCD_DATA_DIR", ""),
        ("ETCD_HEARTBEAT_INTERVAL", "0x10"),
        ("ETCD_AUTO_TLS", "true"),
        ("ETCD_VERSION", "v3.4.0"),
        ("ETCD_FOO", "1"),
        ("ETCDCTL_API", "3"),
        ("HOME", "/root"),
    ];
    let parsed = run_in(&env, "--log-level=error").expect("the variables are fine");
    assert_eq!(parsed.config.name, "m1");
    assert_eq!(parsed.config.data_dir.to_str(), Some("m1.etcd"));
    assert_eq!(parsed.config.heartbeat_interval, Duration::from_millis(16));
    assert!(parsed.config.client_tls.auto_tls);
    let lines: Vec<String> = parsed.log.iter().map(short).collect();
    assert_eq!(
        lines,
        [
            "warn cannot set special environment variable key=\"ETCD_VERSION\" value=\"v3.4.0\"",
            "info recognized and used environment variable variable-name=\"ETCD_AUTO_TLS\" \
             variable-value=\"true\"",
            "info recognized and used environment variable \
             variable-name=\"ETCD_HEARTBEAT_INTERVAL\" variable-value=\"0x10\"",
            "info recognized and used environment variable variable-name=\"ETCD_NAME\" \
             variable-value=\"m1\"",
            "warn unrecognized environment variable environment-variable=\"ETCD_DATA_DIR=\"",
            "warn unrecognized environment variable environment-variable=\"ETCD_FOO=1\"",
        ]
    );
    let names: BTreeSet<String> =
        flags::FLAGS.iter().map(|flag| environment::variable(flag.name)).collect();
    assert!(names.contains("ETCD_PEER_SKIP_CLIENT_SAN_VERIFICATION"));
    assert_eq!(names.len(), flags::FLAGS.len());
}

#[test]
fn a_setting_given_twice_is_a_conflict_even_where_it_agrees() {
    for value in ["m1", "m2", ""] {
        let exit = run_in(&[("ETCD_NAME", value)], "--name=m1").expect_err("they conflict");
        assert_eq!((exit.code, exit.stderr.as_str()), (1, ""));
        assert_eq!(
            short(exit.log.last().expect("the conflict is told")),
            "fatal conflicting environment variable is shadowed by corresponding command-line \
             flag (either unset environment variable or disable flag)) \
             environment-variable=\"ETCD_NAME\""
        );
    }
}

#[test]
fn a_bad_variable_ends_with_exit_1_and_the_last_one_is_told() {
    let env = [("ETCD_AUTO_TLS", "yes"), ("ETCD_SNAPSHOT_COUNT", "x")];
    let exit = run_in(&env, "").expect_err("both are bad");
    assert_eq!(exit.code, 1);
    let told = "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error";
    assert_eq!(reason(&exit), format!("warn failed to verify flags: {told}"));
    let exit = run_in(&[("ETCD_FEATURE_GATES", "X=true")], "").expect_err("it is unknown");
    let told = "invalid value \"X=true\" for ETCD_FEATURE_GATES: unrecognized feature gate: X";
    assert_eq!(reason(&exit), format!("warn failed to verify flags: {told}"));
}

#[test]
fn a_configuration_file_is_refused_from_both_sources() {
    for (env, line) in [(vec![("ETCD_CONFIG_FILE", "f")], ""), (vec![], "--config-file f")] {
        let exit = run_in(&env, line).expect_err("files are not read");
        let told = "--config-file is not supported yet: configuration files are not read yet";
        assert_eq!(reason(&exit), format!("warn failed to verify flags: {told}"));
    }
}

#[test]
fn help_and_version_exit_0() {
    for line in ["--help", "-h", "-name x --help"] {
        let exit = refusal(line);
        assert_eq!((exit.code, exit.stderr), (0, format!("{USAGE}\n")), "{line}");
        assert!(exit.stdout.starts_with("\nMember:\n  --name 'default'\n"), "{line}");
    }
    let exit = run_in(&[("ETCD_FOO", "1")], "--version").expect_err("it is no start");
    assert_eq!((exit.code, exit.stderr.as_str(), exit.log.len()), (0, "", 0));
    let keys: Vec<&str> =
        exit.stdout.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert_eq!(keys, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    assert!(exit.stdout.starts_with("etcd Version: 3.7.1\n"));
}

#[test]
fn a_refusal_is_rendered_where_and_how_the_log_flags_say() {
    let exit = refusal("--log-format=console --log-outputs=stdout --heartbeat-interval=0");
    let (stdout, stderr) = exit.render("T");
    assert_eq!(stderr, "");
    let last = stdout.lines().last().expect("there is a line");
    assert!(last.starts_with("T\twarn\tconfig/mod.rs:"), "{last}");
    assert!(
        last.ends_with("{\"error\":\"--heartbeat-interval must be >0 (set to 0ms)\"}"),
        "{last}"
    );

    let (stdout, stderr) = refusal("word").render("T");
    assert_eq!(stdout, "");
    let last = stderr.lines().last().expect("there is a line");
    assert!(last.starts_with("{\"level\":\"warn\",\"ts\":\"T\",\"caller\":\""), "{last}");

    // The level hides the refusal itself, as it does in etcd.
    assert_eq!(refusal("--log-level=error --heartbeat-interval=0").log, []);
}

#[test]
fn the_default_cluster_follows_the_name_but_not_the_default_name() {
    let cluster = |line: &str| config(line).cluster_for_test();
    assert_eq!(cluster("--name m1"), "m1=http://localhost:2380");
    let advertise = "--initial-advertise-peer-urls http://b:1,http://a:1";
    assert_eq!(cluster(&format!("--name m1 {advertise}")), "m1=http://a:1,m1=http://b:1");
    assert_eq!(cluster(advertise), "default=http://localhost:2380");
    assert_eq!(cluster("--name m1 --initial-cluster x=http://a:1"), "x=http://a:1");
    assert_eq!(cluster("--initial-cluster="), "");
}

impl Config {
    /// The initial cluster as its flag is written.
    fn cluster_for_test(&self) -> String {
        let pairs = self
            .initial_cluster
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        pairs.collect::<Vec<_>>().join(",")
    }
}

#[test]
fn a_default_url_gives_way_where_the_listener_takes_all_addresses() {
    let all = "--name m1 --listen-peer-urls http://0.0.0.0:5 --listen-client-urls \
               http://0.0.0.0:6 --advertise-client-urls http://localhost:2379";
    let mut c = config(all);
    assert!(c.needs_default_host());
    c.use_default_host("10.1.2.3");
    assert_eq!(c.initial_advertise_peer_urls, urls(&["http://10.1.2.3:5"]));
    assert_eq!(c.advertise_client_urls, urls(&["http://10.1.2.3:6"]));
    assert_eq!(c.cluster_for_test(), "m1=http://10.1.2.3:5");
    assert!(!c.needs_default_host());

    let mut c = config("--name m1 --listen-peer-urls http://0.0.0.0:5");
    c.use_default_host("fe80::1");
    assert_eq!(c.initial_advertise_peer_urls, urls(&["http://[fe80::1]:5"]));

    let named = "--listen-peer-urls http://0.0.0.0:5 --initial-advertise-peer-urls http://h:5";
    assert!(!config(named).needs_default_host());
    assert!(!config("").needs_default_host());
}

#[test]
fn bootstrap_checks_are_etcds() {
    let check = |line: &str, found: &[(&str, Result<&str, &str>)]| {
        let resolved = found
            .iter()
            .map(|(address, answer)| {
                let answer = answer.map(str::to_owned).map_err(str::to_owned);
                ((*address).to_owned(), answer)
            })
            .collect();
        config(line).check_bootstrap(&resolved)
    };
    let say = |text: &str| Err(text.to_owned());
    let own = "--name n --initial-advertise-peer-urls";
    assert_eq!(check("", &[]), Ok(()));
    assert_eq!(check("--name n", &[]), Ok(()));
    assert_eq!(
        check("--name n --initial-cluster m=http://a:1", &[]),
        say("couldn't find local name \"n\" in the initial cluster configuration")
    );
    assert_eq!(
        check("--initial-cluster=", &[]),
        say("couldn't find local name \"default\" in the initial cluster configuration")
    );
    assert_eq!(
        check("--initial-cluster default=h", &[]),
        say("error setting up initial cluster: URL scheme must be http, https, unix, or unixs: h")
    );
    assert_eq!(
        check(&format!("{own} http://a:1 --initial-cluster m=http://a:1,n=http://a:1"), &[]),
        say("initial cluster m=http://a:1,n=http://a:1 has duplicate url")
    );
    assert_eq!(
        check(&format!("{own} http://a:1 --initial-cluster n=http://b:1"), &[]),
        say("--initial-cluster has n=http://b:1 but missing from \
             --initial-advertise-peer-urls=http://a:1 (resolved urls: \"http://a:1\" != \
             \"http://b:1\")")
    );
    assert_eq!(
        check(&format!("{own} http://a:1,http://b:1 --initial-cluster n=http://a:1"), &[]),
        say("--initial-advertise-peer-urls has http://b:1 but missing from \
             --initial-cluster=n=http://a:1,n=http://b:1")
    );
    assert_eq!(
        check(&format!("{own} http://a:1 --initial-cluster n=http://a:1,n=http://b:1"), &[]),
        say("--initial-cluster has n=http://b:1 but missing from \
             --initial-advertise-peer-urls=http://a:1 (len([\"http://a:1\"]) != \
             len([\"http://a:1\" \"http://b:1\"]))")
    );
    let names = format!("{own} http://a:1 --initial-cluster n=http://10.0.0.1:1");
    assert_eq!(config(&names).addresses_to_resolve(), ["10.0.0.1:1", "a:1"]);
    let same = [("a:1", Ok("10.0.0.1:1")), ("10.0.0.1:1", Ok("10.0.0.1:1"))];
    assert_eq!(check(&names, &same), Ok(()));
    let other = [("a:1", Ok("10.0.0.2:1")), ("10.0.0.1:1", Ok("10.0.0.1:1"))];
    assert_eq!(
        check(&names, &other),
        say("--initial-cluster has n=http://10.0.0.1:1 but missing from \
             --initial-advertise-peer-urls=http://a:1 (resolved urls: \"http://10.0.0.2:1\" != \
             \"http://10.0.0.1:1\")")
    );
    assert_eq!(
        check(&names, &[("a:1", Err("no such host"))]),
        say("--initial-cluster has n=http://10.0.0.1:1 but missing from \
             --initial-advertise-peer-urls=http://a:1 (failed to resolve \"http://a:1\" (no such \
             host))")
    );
    // One that joins was announced by its URLs before; only its name is looked for.
    let join = format!("{own} http://a:1 --initial-cluster-state existing --initial-cluster");
    assert_eq!(check(&format!("{join} n=http://b:1"), &[]), Ok(()));
    assert!(check(&format!("{join} m=http://b:1"), &[]).is_err());
}

#[test]
fn initial_ids_are_those_of_a_running_etcd() {
    let (members, cluster) = Config::default().initial_ids();
    assert_eq!(members, [crate::types::NodeId(0x8e9e_05c5_2164_694d)]);
    assert_eq!(cluster, crate::types::ClusterId(0xcdf8_1819_4e3a_8c32));
}

#[test]
fn timing_follows_from_ticks() {
    let timing = |line: &str| {
        let c = config(line);
        let millis = |d: Duration| d.as_millis();
        let election = millis(c.effective_election_timeout());
        let request = millis(c.request_timeout());
        (c.election_ticks(), election, c.min_lease_ttl_seconds(), request)
    };
    assert_eq!(timing(""), (10, 1000, 2, 7000));
    assert_eq!(timing("--heartbeat-interval 300 --election-timeout 1700"), (5, 1500, 3, 8000));
    assert_eq!(timing("--heartbeat-interval 10 --election-timeout 50"), (5, 50, 1, 5100));
    assert_eq!(
        timing("--heartbeat-interval 1 --election-timeout 50000"),
        (50_000, 50_000, 75, 105_000)
    );
    assert_eq!(timing("--heartbeat-interval 200 --election-timeout 2000"), (10, 2000, 3, 9000));
}

#[test]
fn zeros_and_extremes_stand_for_defaults() {
    let c = config(
        "--snapshot-count 0 --snapshot-catchup-entries 0 --quota-backend-bytes 0 --name m \
         --warning-unary-request-duration 0 --grpc-keepalive-interval 0 \
         --grpc-keepalive-timeout 1s --grpc-keepalive-min-time 0 --compaction-batch-limit -5",
    );
    assert_eq!((c.snapshot_count, c.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!(c.quota_backend_bytes, Some(2 << 30));
    assert_eq!(c.warning_unary_request_duration, Duration::from_millis(300));
    assert_eq!(c.grpc_keepalive_interval, Duration::from_secs(7200));
    assert_eq!(c.grpc_keepalive_timeout, Duration::from_secs(20));
    assert_eq!(c.grpc_keepalive_min_time, Duration::from_secs(300));
    assert_eq!(c.compaction_batch_limit, 1000);
    let parsed = run("--watch-progress-notify-interval 1ms").expect("it is raised");
    assert_eq!(parsed.config.watch_progress_notify_interval, Duration::from_millis(100));
    let told = "warn adjusting watch progress notify interval to minimum period \
                min-watch-progress-notify-interval=\"100ms\"";
    assert!(parsed.log.iter().any(|line| short(line) == told));
    let parsed = run("--quota-backend-bytes 8589934593 --max-request-bytes 10485761");
    let log = parsed.expect("it is only warned about").log;
    for told in ["quota exceeds the maximum value", "exceeded recommended request limit"] {
        assert!(log.iter().any(|line| line.message == told), "{told}");
    }
}

#[test]
fn certificates_that_no_listener_shows_are_warned_about() {
    let warnings = |line: &str| -> Vec<String> {
        let log = run(line).expect("it is only warned about").log;
        log.into_iter().map(|line| line.message).filter(|m| m.contains("gnoring")).collect()
    };
    assert_eq!(warnings("--auto-tls").len(), 1);
    assert_eq!(warnings("--cert-file c --key-file k --client-cert-auth").len(), 2);
    assert_eq!(warnings("--peer-cert-file c --peer-key-file k --peer-auto-tls").len(), 2);
    let auto = config("--peer-cert-file c --peer-key-file k --peer-auto-tls").peer_tls;
    assert!(auto.is_enabled() && !auto.makes_certificate());
    assert!(config("--auto-tls").client_tls.makes_certificate());
    assert_eq!(warnings("--max-snapshots 3 --v2-deprecation gone").len(), 1);
}
