//! The gRPC services: validation, conversion, error mapping. What a request means is decided behind
//! [`crate::server::Handle`]; how bytes travel, in `net`.
//!
//! - [`convert`] turns requests into commands and outcomes into replies;
//! - [`status`] holds every error code and text;
//! - one file a service: [`kv`], [`watch`], [`lease`], [`cluster`], [`maintenance`], [`health`].
//!
//! Absent on purpose: the auth, lock and election services, and the maintenance methods whose work has
//! not landed. They answer `Unimplemented`, never something made up. There is no server reflection,
//! as in etcd.

pub mod cluster;
pub mod convert;
pub mod health;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub(crate) mod peer;
pub mod status;
pub mod watch;

use tonic::{Request, Status};

use crate::metrics::Streams;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::server::{Handle, ServeError};
use crate::types::Revision;

/// Every method of the client port, for counting. Those of services that have not landed are among them: etcd's
/// metrics name them from the start, and a call of one is counted as what it is, `Unimplemented`.
pub const METHODS: &[(&str, &str, Streams)] = &[
    ("etcdserverpb.KV", "Range", Streams::Unary),
    ("etcdserverpb.KV", "RangeStream", Streams::Server),
    ("etcdserverpb.KV", "Put", Streams::Unary),
    ("etcdserverpb.KV", "DeleteRange", Streams::Unary),
    ("etcdserverpb.KV", "Txn", Streams::Unary),
    ("etcdserverpb.KV", "Compact", Streams::Unary),
    ("etcdserverpb.Watch", "Watch", Streams::Both),
    ("etcdserverpb.Lease", "LeaseGrant", Streams::Unary),
    ("etcdserverpb.Lease", "LeaseRevoke", Streams::Unary),
    ("etcdserverpb.Lease", "LeaseKeepAlive", Streams::Both),
    ("etcdserverpb.Lease", "LeaseTimeToLive", Streams::Unary),
    ("etcdserverpb.Lease", "LeaseLeases", Streams::Unary),
    ("etcdserverpb.Cluster", "MemberAdd", Streams::Unary),
    ("etcdserverpb.Cluster", "MemberRemove", Streams::Unary),
    ("etcdserverpb.Cluster", "MemberUpdate", Streams::Unary),
    ("etcdserverpb.Cluster", "MemberList", Streams::Unary),
    ("etcdserverpb.Cluster", "MemberPromote", Streams::Unary),
    ("etcdserverpb.Maintenance", "Alarm", Streams::Unary),
    ("etcdserverpb.Maintenance", "Status", Streams::Unary),
    ("etcdserverpb.Maintenance", "Defragment", Streams::Unary),
    ("etcdserverpb.Maintenance", "Hash", Streams::Unary),
    ("etcdserverpb.Maintenance", "HashKV", Streams::Unary),
    ("etcdserverpb.Maintenance", "Snapshot", Streams::Server),
    ("etcdserverpb.Maintenance", "MoveLeader", Streams::Unary),
    ("etcdserverpb.Maintenance", "Downgrade", Streams::Unary),
    ("etcdserverpb.Auth", "AuthEnable", Streams::Unary),
    ("etcdserverpb.Auth", "AuthDisable", Streams::Unary),
    ("etcdserverpb.Auth", "AuthStatus", Streams::Unary),
    ("etcdserverpb.Auth", "Authenticate", Streams::Unary),
    ("etcdserverpb.Auth", "UserAdd", Streams::Unary),
    ("etcdserverpb.Auth", "UserGet", Streams::Unary),
    ("etcdserverpb.Auth", "UserList", Streams::Unary),
    ("etcdserverpb.Auth", "UserDelete", Streams::Unary),
    ("etcdserverpb.Auth", "UserChangePassword", Streams::Unary),
    ("etcdserverpb.Auth", "UserGrantRole", Streams::Unary),
    ("etcdserverpb.Auth", "UserRevokeRole", Streams::Unary),
    ("etcdserverpb.Auth", "RoleAdd", Streams::Unary),
    ("etcdserverpb.Auth", "RoleGet", Streams::Unary),
    ("etcdserverpb.Auth", "RoleList", Streams::Unary),
    ("etcdserverpb.Auth", "RoleDelete", Streams::Unary),
    ("etcdserverpb.Auth", "RoleGrantPermission", Streams::Unary),
    ("etcdserverpb.Auth", "RoleRevokePermission", Streams::Unary),
    ("grpc.health.v1.Health", "Check", Streams::Unary),
    ("grpc.health.v1.Health", "Watch", Streams::Server),
];

/// What all services share.
#[derive(Clone)]
pub struct Api {
    handle: Handle,
}

/// What a method is, for the checks that come before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Served by voters only.
    Voter,
    /// Served by learners too.
    Anyone,
}

impl Api {
    /// Makes the services' common part.
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.handle.cluster_id().0,
            member_id: self.handle.id().0,
            revision: revision.0,
            raft_term: self.handle.applied_term().0,
        })
    }

    fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.handle.reader().store().revision())
    }

    /// The checks before every request, in etcd's order: learner, client version, leader.
    fn admit<T>(&self, request: &Request<T>, kind: Kind) -> Result<(), Status> {
        let (stopped, is_learner, has_leader) = self.handle.admission();
        if stopped {
            return Err(status::status(&ServeError::Stopped));
        }
        if kind == Kind::Voter && is_learner {
            return Err(status::not_for_learner());
        }
        let metadata = request.metadata();
        if let Some(version) = metadata.get("client-api-version")
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(Status::invalid_argument("etcdserver: invalid client api version"));
        }
        if !has_leader && wants_leader(request) {
            return Err(status::status(&ServeError::NoLeader));
        }
        Ok(())
    }
}

/// Tells whether the caller asked to be refused rather than served by a member without a leader.
fn wants_leader<T>(request: &Request<T>) -> bool {
    request.metadata().get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

fn fail(error: ServeError) -> Status {
    status::status(&error)
}
