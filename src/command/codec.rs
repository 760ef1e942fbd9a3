//! The stored form of commands: etcd's `InternalRaftRequest`, and inside its extension field what etcd
//! does not have.
//!
//! A log entry written by etcd reads as the same command here, as far as we know the command. What we do
//! not know, or what cannot be meant (no operation, two operations, an empty operation in a
//! transaction), is an error, never a guess: the other members may have understood it.
//!
//! Left out so far: authentication and downgrades. Requests that etcd proposes but that change nothing
//! by themselves (a range) never get into our log.

use bytes::Bytes;
use prost::Message;

use super::{
    AlarmAction, Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseMark,
    LeaseRemaining, Op, Operand, Put, Range, RequestId, SortOrder, SortTarget, Txn, TxnOp,
};
use crate::proto::etcdserverpb as pb;
use crate::proto::internal::{self, extension};
use crate::proto::membershippb;
use crate::types::{LeaseId, NodeId, Term};

/// Why an entry's payload is not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not the message they should be.
    #[error("not an encoded command: {0}")]
    Malformed(String),
    /// There is no operation in it.
    #[error("a command without an operation")]
    Empty,
    /// There are several operations in it.
    #[error("a command with both {0} and {1}")]
    Several(&'static str, &'static str),
    /// An operation that this program does not know.
    #[error("a command of an unknown kind: {0}")]
    Unknown(&'static str),
    /// An operation in a transaction says nothing.
    #[error("an empty operation in a transaction")]
    EmptyTxnOp,
    /// A sort order or target that does not exist.
    #[error("an unknown sort order or target")]
    Sort,
}

/// How deep transactions may be nested so that a command with them still reads back: the decoder of
/// protobuf goes about a hundred messages deep, and each level is two. The API refuses deeper ones.
pub const TXN_DEPTH_MAX: usize = 40;

impl Txn {
    /// How deep transactions are nested in this one; 1 for none.
    pub fn depth(&self) -> usize {
        let inner = self.success.iter().chain(&self.failure).map(|op| match op {
            TxnOp::Txn(txn) => txn.depth(),
            _ => 0,
        });
        1 + inner.max().unwrap_or(0)
    }
}

impl Command {
    /// Makes the stored form.
    pub fn encode(&self) -> Bytes {
        let header = pb::RequestHeader {
            id: self.id.0,
            username: self.user.clone(),
            auth_revision: self.auth_revision,
            ..Default::default()
        };
        let mut request = pb::InternalRaftRequest { header: Some(header), ..Default::default() };
        self.op.to_wire(&mut request);
        request.encode_to_vec().into()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If it is not exactly one command that this program knows.
    pub fn decode(stored: &Bytes) -> Result<Self, DecodeError> {
        let request = pb::InternalRaftRequest::decode(stored.clone())
            .map_err(|error| DecodeError::Malformed(error.to_string()))?;
        let header = request.header.clone().unwrap_or_default();
        // etcd's older entries carry the id outside the header.
        let id = if request.id == 0 { header.id } else { request.id };
        Ok(Self {
            id: RequestId(id),
            user: header.username,
            auth_revision: header.auth_revision,
            op: Op::from_wire(request)?,
        })
    }
}

impl Op {
    fn to_wire(&self, request: &mut pb::InternalRaftRequest) {
        match self {
            Self::Put(put) => request.put = Some(put.to_wire()),
            Self::DeleteRange(delete) => request.delete_range = Some(delete.to_wire()),
            Self::Txn(txn) => request.txn = Some(txn.to_wire()),
            Self::Compact { revision, physical } => {
                let (revision, physical) = (*revision, *physical);
                request.compaction = Some(pb::CompactionRequest { revision, physical });
            }
            Self::LeaseGrant { id, ttl } => {
                request.lease_grant = Some(pb::LeaseGrantRequest { id: id.0, ttl: *ttl });
            }
            Self::LeaseRevoke { id } => {
                request.lease_revoke = Some(pb::LeaseRevokeRequest { id: id.0 });
            }
            Self::Alarm { action, member, alarm } => {
                let action = match action {
                    AlarmAction::Get => 0,
                    AlarmAction::Activate => 1,
                    AlarmAction::Deactivate => 2,
                    AlarmAction::Unknown(number) => *number,
                };
                let alarm = pb::AlarmRequest { action, member_id: *member, alarm: *alarm };
                request.alarm = Some(alarm);
            }
            Self::ClusterVersionSet { version } => {
                let set = membershippb::ClusterVersionSetRequest { ver: version.clone() };
                request.cluster_version_set = Some(set);
            }
            Self::MemberAttributes { member, name, client_urls } => {
                let attributes = membershippb::Attributes {
                    name: name.clone(),
                    client_urls: client_urls.clone(),
                };
                request.cluster_member_attr_set = Some(membershippb::ClusterMemberAttrSetRequest {
                    member_id: member.0,
                    member_attributes: Some(attributes),
                });
            }
            Self::LeaseExpire { .. }
            | Self::LeaseCheckpoint { .. }
            | Self::MemberStoreSet { .. }
            | Self::KeyspaceHashAsk { .. }
            | Self::KeyspaceHashReport { .. } => {
                let command = self.to_extension();
                let command_number = command_number(&command);
                request.mainstay = Some(internal::Extension {
                    origin: None,
                    command_number,
                    command: Some(command),
                });
            }
        }
    }

    /// Makes the form of the operations that etcd does not have.
    fn to_extension(&self) -> extension::Command {
        use extension::Command as Ours;
        match self {
            Self::LeaseExpire { term, leases } => {
                let mark = |lease: &LeaseMark| internal::LeaseMark {
                    id: lease.id.0,
                    granted_index: lease.mark,
                };
                Ours::LeaseRevokeIf(internal::LeaseRevokeIf {
                    term: term.0,
                    leases: leases.iter().map(mark).collect(),
                })
            }
            Self::LeaseCheckpoint { term, time_millis, leases } => {
                let rest = |lease: &LeaseRemaining| internal::LeaseRemaining {
                    id: lease.id.0,
                    granted_index: lease.mark,
                    remaining_millis: lease.remaining_millis,
                };
                Ours::LeaseCheckpointIf(internal::LeaseCheckpointIf {
                    term: term.0,
                    time_millis: *time_millis,
                    leases: leases.iter().map(rest).collect(),
                })
            }
            Self::MemberStoreSet { member, store_id } => {
                let (member, store_id) = (member.0, *store_id);
                Ours::MemberStoreSet(internal::MemberStoreSet { member, store_id })
            }
            Self::KeyspaceHashAsk { round, revision } => {
                let (round, revision) = (*round, *revision);
                Ours::KeyspaceHashAsk(internal::KeyspaceHashAsk { round, revision })
            }
            Self::KeyspaceHashReport { round, member, revision, compact_revision, hash } => {
                Ours::KeyspaceHashReport(internal::KeyspaceHashReport {
                    round: *round,
                    member: member.0,
                    revision: *revision,
                    compact_revision: *compact_revision,
                    hash: *hash,
                })
            }
            _ => unreachable!("etcd has this operation"),
        }
    }

    fn from_wire(request: pb::InternalRaftRequest) -> Result<Self, DecodeError> {
        if let Some(name) = unknown(&request) {
            return Err(DecodeError::Unknown(name));
        }
        let mut found: Option<(&'static str, Self)> = None;
        let mut add = |name, op| match found.replace((name, op)) {
            None => Ok(()),
            Some((before, _)) => Err(DecodeError::Several(before, name)),
        };
        if let Some(put) = request.put {
            add("put", Self::Put(Put::from_wire(put)))?;
        }
        if let Some(delete) = request.delete_range {
            add("delete_range", Self::DeleteRange(DeleteRange::from_wire(delete)))?;
        }
        if let Some(txn) = request.txn {
            add("txn", Self::Txn(Txn::from_wire(txn)?))?;
        }
        if let Some(pb::CompactionRequest { revision, physical }) = request.compaction {
            add("compaction", Self::Compact { revision, physical })?;
        }
        if let Some(grant) = request.lease_grant {
            add("lease_grant", Self::LeaseGrant { id: LeaseId(grant.id), ttl: grant.ttl })?;
        }
        if let Some(revoke) = request.lease_revoke {
            add("lease_revoke", Self::LeaseRevoke { id: LeaseId(revoke.id) })?;
        }
        if let Some(pb::AlarmRequest { action, member_id: member, alarm }) = request.alarm {
            let action = match action {
                0 => AlarmAction::Get,
                1 => AlarmAction::Activate,
                2 => AlarmAction::Deactivate,
                number => AlarmAction::Unknown(number),
            };
            add("alarm", Self::Alarm { action, member, alarm })?;
        }
        if let Some(set) = request.cluster_version_set {
            add("cluster_version_set", Self::ClusterVersionSet { version: set.ver })?;
        }
        if let Some(set) = request.cluster_member_attr_set {
            let attributes = set.member_attributes.unwrap_or_default();
            let (name, client_urls) = (attributes.name, attributes.client_urls);
            let member = NodeId(set.member_id);
            add("cluster_member_attr_set", Self::MemberAttributes { member, name, client_urls })?;
        }
        if let Some(command) = request.mainstay.and_then(|extension| extension.command) {
            add("mainstay", Self::from_extension(command))?;
        }
        found.map(|(_, op)| op).ok_or(DecodeError::Empty)
    }

    fn from_extension(command: extension::Command) -> Self {
        use extension::Command as Ours;
        match command {
            Ours::LeaseRevokeIf(expire) => {
                let leases = expire
                    .leases
                    .into_iter()
                    .map(|lease| LeaseMark { id: LeaseId(lease.id), mark: lease.granted_index });
                Self::LeaseExpire { term: Term(expire.term), leases: leases.collect() }
            }
            Ours::LeaseCheckpointIf(checkpoint) => {
                let leases = checkpoint.leases.into_iter().map(|lease| LeaseRemaining {
                    id: LeaseId(lease.id),
                    mark: lease.granted_index,
                    remaining_millis: lease.remaining_millis,
                });
                Self::LeaseCheckpoint {
                    term: Term(checkpoint.term),
                    time_millis: checkpoint.time_millis,
                    leases: leases.collect(),
                }
            }
            Ours::MemberStoreSet(internal::MemberStoreSet { member, store_id }) => {
                Self::MemberStoreSet { member: NodeId(member), store_id }
            }
            Ours::KeyspaceHashAsk(internal::KeyspaceHashAsk { round, revision }) => {
                Self::KeyspaceHashAsk { round, revision }
            }
            Ours::KeyspaceHashReport(report) => Self::KeyspaceHashReport {
                round: report.round,
                member: NodeId(report.member),
                revision: report.revision,
                compact_revision: report.compact_revision,
                hash: report.hash,
            },
        }
    }
}

/// Returns the field that carries a command: beside it, so that a reader who does not know the field
/// notices that there is one.
fn command_number(command: &extension::Command) -> u32 {
    use extension::Command as Ours;
    match command {
        Ours::LeaseRevokeIf(_) => 10,
        Ours::LeaseCheckpointIf(_) => 11,
        Ours::KeyspaceHashAsk(_) => 12,
        Ours::KeyspaceHashReport(_) => 13,
        Ours::MemberStoreSet(_) => 14,
    }
}

/// Names the first operation of a request that is known to etcd and not to us.
fn unknown(request: &pb::InternalRaftRequest) -> Option<&'static str> {
    let pb::InternalRaftRequest {
        id: _,
        range,
        put: _,
        delete_range: _,
        txn: _,
        compaction: _,
        lease_grant: _,
        lease_revoke: _,
        alarm: _,
        lease_checkpoint,
        header: _,
        auth_enable,
        auth_disable,
        authenticate,
        auth_status,
        auth_user_add,
        auth_user_delete,
        auth_user_get,
        auth_user_change_password,
        auth_user_grant_role,
        auth_user_revoke_role,
        auth_user_list,
        auth_role_list,
        auth_role_add,
        auth_role_delete,
        auth_role_get,
        auth_role_grant_permission,
        auth_role_revoke_permission,
        cluster_version_set: _,
        cluster_member_attr_set: _,
        downgrade_info_set,
        downgrade_version_test,
        mainstay: _,
    } = request;
    [
        (range.is_some(), "range"),
        (lease_checkpoint.is_some(), "lease_checkpoint"),
        (auth_enable.is_some(), "auth_enable"),
        (auth_disable.is_some(), "auth_disable"),
        (authenticate.is_some(), "authenticate"),
        (auth_status.is_some(), "auth_status"),
        (auth_user_add.is_some(), "auth_user_add"),
        (auth_user_delete.is_some(), "auth_user_delete"),
        (auth_user_get.is_some(), "auth_user_get"),
        (auth_user_change_password.is_some(), "auth_user_change_password"),
        (auth_user_grant_role.is_some(), "auth_user_grant_role"),
        (auth_user_revoke_role.is_some(), "auth_user_revoke_role"),
        (auth_user_list.is_some(), "auth_user_list"),
        (auth_role_list.is_some(), "auth_role_list"),
        (auth_role_add.is_some(), "auth_role_add"),
        (auth_role_delete.is_some(), "auth_role_delete"),
        (auth_role_get.is_some(), "auth_role_get"),
        (auth_role_grant_permission.is_some(), "auth_role_grant_permission"),
        (auth_role_revoke_permission.is_some(), "auth_role_revoke_permission"),
        (downgrade_info_set.is_some(), "downgrade_info_set"),
        (downgrade_version_test.is_some(), "downgrade_version_test"),
    ]
    .into_iter()
    .find_map(|(there, name)| there.then_some(name))
}

impl Put {
    fn to_wire(&self) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key.clone(),
            value: self.value.clone(),
            lease: self.lease.0,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        }
    }

    /// Converts etcd's message; every one has a meaning.
    pub fn from_wire(put: pb::PutRequest) -> Self {
        Self {
            key: put.key,
            value: put.value,
            lease: LeaseId(put.lease),
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl DeleteRange {
    fn to_wire(&self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.range.to_wire();
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.prev_kv }
    }

    /// Converts etcd's message; every one has a meaning.
    pub fn from_wire(delete: pb::DeleteRangeRequest) -> Self {
        let range = KeyRange::from_wire(delete.key, delete.range_end);
        Self { range, prev_kv: delete.prev_kv }
    }
}

impl Range {
    fn to_wire(&self) -> pb::RangeRequest {
        let (key, range_end) = self.range.to_wire();
        let (order, target) = self.sort;
        pb::RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.revision,
            sort_order: match order {
                SortOrder::None => 0,
                SortOrder::Ascend => 1,
                SortOrder::Descend => 2,
            },
            sort_target: match target {
                SortTarget::Key => 0,
                SortTarget::Version => 1,
                SortTarget::Create => 2,
                SortTarget::Mod => 3,
                SortTarget::Value => 4,
            },
            serializable: false,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod,
            max_mod_revision: self.max_mod,
            min_create_revision: self.min_create,
            max_create_revision: self.max_create,
        }
    }

    /// Converts etcd's message. How fresh the answer must be is not part of what is read.
    ///
    /// # Errors
    /// [`DecodeError::Sort`] for an order or target that does not exist.
    pub fn from_wire(range: pb::RangeRequest) -> Result<Self, DecodeError> {
        let order = match range.sort_order {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => return Err(DecodeError::Sort),
        };
        let target = match range.sort_target {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            _ => return Err(DecodeError::Sort),
        };
        Ok(Self {
            range: KeyRange::from_wire(range.key, range.range_end),
            revision: range.revision,
            limit: range.limit,
            sort: (order, target),
            keys_only: range.keys_only,
            count_only: range.count_only,
            min_mod: range.min_mod_revision,
            max_mod: range.max_mod_revision,
            min_create: range.min_create_revision,
            max_create: range.max_create_revision,
        })
    }
}

impl Txn {
    fn to_wire(&self) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: self.compares.iter().map(Compare::to_wire).collect(),
            success: self.success.iter().map(TxnOp::to_wire).collect(),
            failure: self.failure.iter().map(TxnOp::to_wire).collect(),
        }
    }

    /// Converts etcd's message.
    ///
    /// # Errors
    /// For an empty operation and for a range with an unknown sort.
    pub fn from_wire(txn: pb::TxnRequest) -> Result<Self, DecodeError> {
        let ops = |ops: Vec<pb::RequestOp>| {
            ops.into_iter().map(TxnOp::from_wire).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            compares: txn.compare.into_iter().map(Compare::from_wire).collect(),
            success: ops(txn.success)?,
            failure: ops(txn.failure)?,
        })
    }
}

impl TxnOp {
    fn to_wire(&self) -> pb::RequestOp {
        use pb::request_op::Request;
        pb::RequestOp {
            request: Some(match self {
                Self::Range(range) => Request::RequestRange(range.to_wire()),
                Self::Put(put) => Request::RequestPut(put.to_wire()),
                Self::DeleteRange(delete) => Request::RequestDeleteRange(delete.to_wire()),
                Self::Txn(txn) => Request::RequestTxn(txn.to_wire()),
            }),
        }
    }

    fn from_wire(op: pb::RequestOp) -> Result<Self, DecodeError> {
        use pb::request_op::Request;
        Ok(match op.request.ok_or(DecodeError::EmptyTxnOp)? {
            Request::RequestRange(range) => Self::Range(Range::from_wire(range)?),
            Request::RequestPut(put) => Self::Put(Put::from_wire(put)),
            Request::RequestDeleteRange(delete) => {
                Self::DeleteRange(DeleteRange::from_wire(delete))
            }
            Request::RequestTxn(txn) => Self::Txn(Txn::from_wire(txn)?),
        })
    }
}

impl Compare {
    fn to_wire(&self) -> pb::Compare {
        use pb::compare::TargetUnion;
        let (key, range_end) = self.range.to_wire();
        pb::Compare {
            result: match self.result {
                CompareResult::Equal => 0,
                CompareResult::Greater => 1,
                CompareResult::Less => 2,
                CompareResult::NotEqual => 3,
                CompareResult::Unknown(number) => number,
            },
            target: match self.target {
                CompareTarget::Version => 0,
                CompareTarget::Create => 1,
                CompareTarget::Mod => 2,
                CompareTarget::Value => 3,
                CompareTarget::Lease => 4,
                CompareTarget::Unknown(number) => number,
            },
            key,
            range_end,
            target_union: match &self.operand {
                Operand::Nothing => None,
                Operand::Version(number) => Some(TargetUnion::Version(*number)),
                Operand::Create(number) => Some(TargetUnion::CreateRevision(*number)),
                Operand::Mod(number) => Some(TargetUnion::ModRevision(*number)),
                Operand::Value(value) => Some(TargetUnion::Value(value.clone())),
                Operand::Lease(number) => Some(TargetUnion::Lease(*number)),
            },
        }
    }

    /// Converts etcd's message; every one has a meaning.
    pub fn from_wire(compare: pb::Compare) -> Self {
        use pb::compare::TargetUnion;
        Self {
            range: KeyRange::from_wire(compare.key, compare.range_end),
            result: match compare.result {
                0 => CompareResult::Equal,
                1 => CompareResult::Greater,
                2 => CompareResult::Less,
                3 => CompareResult::NotEqual,
                number => CompareResult::Unknown(number),
            },
            target: match compare.target {
                0 => CompareTarget::Version,
                1 => CompareTarget::Create,
                2 => CompareTarget::Mod,
                3 => CompareTarget::Value,
                4 => CompareTarget::Lease,
                number => CompareTarget::Unknown(number),
            },
            operand: match compare.target_union {
                None => Operand::Nothing,
                Some(TargetUnion::Version(number)) => Operand::Version(number),
                Some(TargetUnion::CreateRevision(number)) => Operand::Create(number),
                Some(TargetUnion::ModRevision(number)) => Operand::Mod(number),
                Some(TargetUnion::Value(value)) => Operand::Value(value),
                Some(TargetUnion::Lease(number)) => Operand::Lease(number),
            },
        }
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
