//! `etcdserverpb.Maintenance`: status, hashes, alarms, leadership.
//!
//! Defragment, Snapshot, Hash and Downgrade answer `Unimplemented`: their work has not landed.

use std::pin::Pin;

use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::status::{refused, unimplemented};
use super::{Api, Kind, fail};
use crate::command::{AlarmAction, Op, Outcome};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::types::NodeId;

/// The version that this server speaks as.
pub const SERVER_VERSION: &str = crate::config::ETCD_VERSION;

/// The quota that etcd reports when none is configured.
const DEFAULT_QUOTA_BYTES: i64 = 2_147_483_648;

fn alarm_text(member: u64, alarm: i32) -> String {
    let name = pb::AlarmType::try_from(alarm).map_or("NONE", |alarm| alarm.as_str_name());
    format!("memberID:{member} alarm:{name}")
}

#[tonic::async_trait]
impl Maintenance for Api {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        let action = match request.action {
            0 => AlarmAction::Get,
            1 => AlarmAction::Activate,
            2 => AlarmAction::Deactivate,
            // NB: etcd's member crashes on this.
            other => {
                return Err(Status::invalid_argument(format!(
                    "etcdserver: unknown alarm action {other}"
                )));
            }
        };
        let op = Op::Alarm { action, member: request.member_id, alarm: request.alarm };
        match self.handle.propose(op).await.map_err(fail)? {
            Outcome::Alarm { alarms, revision } => Ok(Response::new(pb::AlarmResponse {
                header: self.header(revision),
                alarms: alarms
                    .into_iter()
                    .map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm })
                    .collect(),
            })),
            other => Err(Status::internal(format!("mainstay: {other:?}"))),
        }
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.admit(&request, Kind::Anyone)?;
        let (reader, status) = (self.handle.reader(), self.handle.status());
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(reader.alarms().into_iter().map(|a| alarm_text(a.member, a.kind)));
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let quota = self.handle.limits().quota_configured;
        let version = reader.members().version();
        Ok(Response::new(pb::StatusResponse {
            header: self.header_now(),
            version: SERVER_VERSION.to_owned(),
            db_size: bytes(reader.store().storage().file_bytes()),
            leader: status.leader.map_or(0, |leader| leader.0),
            raft_index: status.commit.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied.index.0,
            errors,
            db_size_in_use: bytes(reader.store().storage().used_bytes()),
            is_learner: status.is_learner,
            storage_version: version.map(|v| v.to_string()).unwrap_or_default(),
            db_size_quota: if quota == 0 { DEFAULT_QUOTA_BYTES } else { quota },
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        Err(unimplemented("Defragment"))
    }

    async fn hash(
        &self,
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        Err(unimplemented("Hash"))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let revision = request.into_inner().revision;
        let hash = self.handle.reader().store().hash_kv(revision).map_err(|r| refused(&r))?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header_now(),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.admit(&request, Kind::Anyone)?;
        Err(unimplemented("Snapshot"))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let to = NodeId(request.into_inner().target_id);
        self.handle.transfer_leader(to).await.map_err(fail)?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        Err(unimplemented("Downgrade"))
    }
}
