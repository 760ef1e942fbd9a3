//! The generated servers answer exactly etcd's method paths, each with etcd's kind of streaming, plus
//! the health and peer services.
//!
//! Read off the generated source: dispatching real calls would compile every server a second time.

use std::collections::BTreeMap;

const GENERATED: [&str; 5] = [
    include_str!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs")),
    include_str!(concat!(env!("OUT_DIR"), "/v3electionpb.rs")),
    include_str!(concat!(env!("OUT_DIR"), "/v3lockpb.rs")),
    include_str!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs")),
    include_str!(concat!(env!("OUT_DIR"), "/mainstay.internal.rs")),
];

/// Services with their unary methods, methods that stream answers, and methods that stream both ways.
const EXPECTED: [(&str, &[&str], &[&str], &[&str]); 10] = [
    ("etcdserverpb.KV", &["Range", "Put", "DeleteRange", "Txn", "Compact"], &["RangeStream"], &[]),
    ("etcdserverpb.Watch", &[], &[], &["Watch"]),
    (
        "etcdserverpb.Lease",
        &["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"],
        &[],
        &["LeaseKeepAlive"],
    ),
    (
        "etcdserverpb.Cluster",
        &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"],
        &[],
        &[],
    ),
    (
        "etcdserverpb.Maintenance",
        &["Alarm", "Status", "Defragment", "Hash", "HashKV", "MoveLeader", "Downgrade"],
        &["Snapshot"],
        &[],
    ),
    (
        "etcdserverpb.Auth",
        &[
            "AuthEnable",
            "AuthDisable",
            "AuthStatus",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
        &[],
        &[],
    ),
    ("v3electionpb.Election", &["Campaign", "Proclaim", "Leader", "Resign"], &["Observe"], &[]),
    ("v3lockpb.Lock", &["Lock", "Unlock"], &[], &[]),
    ("grpc.health.v1.Health", &["Check", "List"], &["Watch"], &[]),
    (
        "mainstay.internal.Peer",
        &["Describe", "ForwardLeaseKeepAlive", "ForwardLeaseTimeToLive", "ForwardMemberPromote"],
        &[],
        &["Exchange"],
    ),
];

#[test]
fn servers_answer_exactly_the_known_methods() {
    let mut expected = BTreeMap::new();
    for (service, unary, answers_stream, both_stream) in EXPECTED {
        let kinds = [
            (unary, "UnaryService"),
            (answers_stream, "ServerStreamingService"),
            (both_stream, "StreamingService"),
        ];
        for (methods, kind) in kinds {
            expected.extend(methods.iter().map(|method| (format!("/{service}/{method}"), kind)));
        }
    }
    expected.insert("/mainstay.internal.Peer/InstallSnapshot".into(), "ClientStreamingService");

    let found: BTreeMap<_, _> = GENERATED.into_iter().flat_map(methods).collect();
    assert_eq!(found, expected);
}

/// Finds the arms of the servers' dispatch: a path, then the trait that says how it streams.
fn methods(generated: &'static str) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let mut path = None;
    for line in generated.lines().map(str::trim) {
        if let Some(arm) = line.strip_prefix('"').and_then(|rest| rest.strip_suffix("\" => {")) {
            path = Some(arm.to_owned());
        } else if let Some((_, rest)) = line.split_once("tonic::server::")
            && let Some((kind, _)) = rest.split_once('<')
        {
            found.extend(path.take().map(|path| (path, kind)));
        }
    }
    assert_eq!(path, None, "an arm without its kind");
    found
}

#[test]
fn services_have_the_names_that_clients_dial() {
    use super::super::{etcdserverpb as pb, health, internal, v3electionpb, v3lockpb};
    let names = [
        pb::kv_server::SERVICE_NAME,
        pb::watch_server::SERVICE_NAME,
        pb::lease_server::SERVICE_NAME,
        pb::cluster_server::SERVICE_NAME,
        pb::maintenance_server::SERVICE_NAME,
        pb::auth_server::SERVICE_NAME,
        v3electionpb::election_server::SERVICE_NAME,
        v3lockpb::lock_server::SERVICE_NAME,
        health::health_server::SERVICE_NAME,
        internal::peer_server::SERVICE_NAME,
    ];
    assert_eq!(names, EXPECTED.map(|(service, ..)| service));
}
