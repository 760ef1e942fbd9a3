//! Flags that are understood, and refused: no code does yet what they ask for.
//!
//! A setting that is taken and ignored is worse than one that is refused, most of all where it was to
//! protect something. So a flag in [`NOT_YET`] given a value other than its default ends the start with
//! an error that names it. A feature that lands removes its row.
//!
//! Flags in no row either work or have nothing to do here: hints about etcd's own storage
//! (`backend-*`, `max-wals`, `max-snapshots`), details of something refused (`discovery-dial-timeout`
//! without discovery), timers of something refused, and switches whose "off" is what we do.

use super::features::{Feature, FeatureGates};
use super::flags;
use super::raw::Raw;
use super::settings::AutoCompaction;
use super::validate::auto_compaction;

/// The flags with the reason for each.
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("config-file", "configuration files are not read yet"),
    ("listen-client-http-urls", "HTTP and gRPC are served on the same listeners only"),
    ("memory-mlock", "the database's pages are not locked in memory"),
    ("raft-read-timeout", "connections between members have fixed deadlines"),
    ("raft-write-timeout", "connections between members have fixed deadlines"),
    ("discovery-token", "discovery is not available"),
    ("discovery-endpoints", "discovery is not available"),
    ("discovery-srv", "discovery is not available"),
    ("discovery-srv-name", "discovery is not available"),
    ("auto-compaction-retention", "compaction has to be requested"),
    ("client-cert-file", "the server certificate is used where a client's is needed"),
    ("client-key-file", "the server certificate is used where a client's is needed"),
    ("client-crl-file", "revocation lists are not looked at"),
    ("client-cert-allowed-hostname", "host names in certificates are not looked at"),
    ("peer-client-cert-file", "the peer certificate is used for dialling, too"),
    ("peer-client-key-file", "the peer certificate is used for dialling, too"),
    ("peer-crl-file", "revocation lists are not looked at"),
    ("peer-cert-allowed-cn", "common names in certificates are not looked at"),
    ("peer-cert-allowed-hostname", "host names in certificates are not looked at"),
    ("self-signed-cert-validity", "certificates made on the spot have a fixed validity"),
    ("cipher-suites", "the TLS library's own choice is used"),
    ("tls-min-version", "TLS 1.2 and TLS 1.3 are both spoken"),
    ("tls-max-version", "TLS 1.2 and TLS 1.3 are both spoken"),
    ("cors", "requests are taken from every origin"),
    ("host-whitelist", "requests are taken for every host name"),
    ("auth-token", "authentication is not available"),
    ("bcrypt-cost", "authentication is not available"),
    ("auth-token-ttl", "authentication is not available"),
    ("enable-pprof", "profiles are not served"),
    ("log-outputs", "the log goes to stderr or stdout"),
    ("enable-log-rotation", "log files are not written"),
    ("enable-distributed-tracing", "traces are not sent"),
    ("corrupt-check-time", "data is not compared with the peers"),
    ("downgrade-check-time", "downgrades are not available"),
    ("bootstrap-defrag-threshold-megabytes", "the database is not defragmented at start"),
    ("force-new-cluster", "a cluster cannot be reduced to one member yet"),
    ("feature-gates", "the feature is not available"),
];

/// Gates that change nothing here in either position: etcd's own internals, and what is always done
/// (the remaining time of leases is always kept).
const NEUTRAL_GATES: [Feature; 4] = [
    Feature::TxnModeWriteWithSharedBuffer,
    Feature::LeaseCheckpoint,
    Feature::LeaseCheckpointPersist,
    Feature::FastLeaseKeepAlive,
];

/// Refuses the first flag that asks for what is not there.
pub(super) fn check(raw: &Raw) -> Result<(), String> {
    let defaults = Raw::default();
    let asked = |flag: &str| match flag {
        "log-outputs" => {
            let known = ["default", "stderr", "stdout"];
            raw.log_outputs.iter().any(|output| !known.contains(&output.as_str()))
        }
        "auto-compaction-retention" => auto_compaction(raw) != Ok(AutoCompaction::Off),
        "feature-gates" => asks_for_feature(&raw.feature_gates),
        _ => flags::find(flag).is_some_and(|f| f.slot.print(raw) != f.slot.print(&defaults)),
    };
    match NOT_YET.iter().find(|(flag, _)| asked(flag)) {
        Some((flag, reason)) => Err(format!("--{flag} is not supported yet: {reason}")),
        None => Ok(()),
    }
}

fn asks_for_feature(gates: &FeatureGates) -> bool {
    let counts = |feature: &Feature| !NEUTRAL_GATES.contains(feature);
    let changed = |feature: Feature| gates.enabled(feature) != feature.default_on();
    Feature::ALL.into_iter().filter(counts).any(changed)
}
