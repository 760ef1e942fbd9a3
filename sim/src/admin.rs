//! The operator's hand: what the nemesis and the final demands ask of members, over the same gRPC as
//! everybody, from a machine whose links are never cut.

use std::time::Duration;

use mainstay::proto::etcdserverpb as pb;
use tonic::Status;

use crate::time::within;
use crate::workload::endpoint::{Endpoint, PROBE_PORT};

/// An operator at a terminal.
#[derive(Clone)]
pub struct Admin {
    endpoint: Endpoint,
    patience: Duration,
}

/// What went wrong; the text is for people and for telling refusals apart.
pub type Outcome<T> = Result<T, String>;

fn flat<T>(answer: Option<Result<tonic::Response<T>, Status>>) -> Outcome<T> {
    match answer {
        Some(Ok(reply)) => Ok(reply.into_inner()),
        Some(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        None => Err("no answer in time".to_owned()),
    }
}

impl Admin {
    /// Sits down at a machine.
    pub fn new(endpoint: Endpoint, patience: Duration) -> Self {
        Self { endpoint, patience }
    }

    /// Changes how long an answer is waited for.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks a member how it is.
    pub async fn status(&mut self, member: &str) -> Outcome<pb::StatusResponse> {
        let mut client = self.endpoint.maintenance(member);
        flat(within(self.patience, client.status(pb::StatusRequest {})).await)
    }

    /// Asks a member for the hash of its keys at a revision.
    pub async fn hash_kv(&mut self, member: &str, revision: i64) -> Outcome<pb::HashKvResponse> {
        let mut client = self.endpoint.maintenance(member);
        flat(within(self.patience, client.hash_kv(pb::HashKvRequest { revision })).await)
    }

    /// Reads all keys of a member at a revision from its own state.
    pub async fn all_keys(&mut self, member: &str, revision: i64) -> Outcome<pb::RangeResponse> {
        let request = pb::RangeRequest {
            key: bytes::Bytes::from_static(b"\0"),
            range_end: bytes::Bytes::from_static(b"\0"),
            revision,
            serializable: true,
            ..pb::RangeRequest::default()
        };
        let mut client = self.endpoint.kv(member);
        flat(within(self.patience, client.range(request)).await)
    }

    /// Lists the members, as one member knows them.
    pub async fn member_list(&mut self, member: &str) -> Outcome<Vec<pb::Member>> {
        let mut client = self.endpoint.cluster(member);
        let request = pb::MemberListRequest { linearizable: true };
        flat(within(self.patience, client.member_list(request)).await).map(|reply| reply.members)
    }

    /// Adds a member.
    pub async fn member_add(
        &mut self,
        member: &str,
        url: &str,
        learner: bool,
    ) -> Outcome<pb::MemberAddResponse> {
        let mut client = self.endpoint.cluster(member);
        let request = pb::MemberAddRequest { peer_urls: vec![url.to_owned()], is_learner: learner };
        flat(within(self.patience, client.member_add(request)).await)
    }

    /// Removes a member.
    pub async fn member_remove(&mut self, member: &str, id: u64) -> Outcome<()> {
        let mut client = self.endpoint.cluster(member);
        flat(within(self.patience, client.member_remove(pb::MemberRemoveRequest { id })).await)
            .map(drop)
    }

    /// Makes a voter of a learner.
    pub async fn member_promote(&mut self, member: &str, id: u64) -> Outcome<()> {
        let mut client = self.endpoint.cluster(member);
        flat(within(self.patience, client.member_promote(pb::MemberPromoteRequest { id })).await)
            .map(drop)
    }

    /// Gives a member another peer URL, or the same again.
    pub async fn member_update(&mut self, member: &str, id: u64, url: &str) -> Outcome<()> {
        let mut client = self.endpoint.cluster(member);
        let request = pb::MemberUpdateRequest { id, peer_urls: vec![url.to_owned()] };
        flat(within(self.patience, client.member_update(request)).await).map(drop)
    }

    /// Moves leadership away from a member that has it.
    pub async fn move_leader(&mut self, member: &str, target: u64) -> Outcome<()> {
        let mut client = self.endpoint.maintenance(member);
        let request = pb::MoveLeaderRequest { target_id: target };
        flat(within(self.patience, client.move_leader(request)).await).map(drop)
    }

    /// Probes a member over HTTP/1.1; returns the answer's status and body.
    pub async fn probe(&self, member: &str, target: &str) -> Outcome<(u16, String)> {
        match within(self.patience, self.endpoint.get(member, PROBE_PORT, target)).await {
            Some(answer) => answer.map_err(|error| error.to_string()),
            None => Err("no answer in time".to_owned()),
        }
    }

    /// Puts a key.
    pub async fn put(&mut self, member: &str, key: &str, value: &str) -> Outcome<pb::PutResponse> {
        let request = pb::PutRequest {
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            value: bytes::Bytes::copy_from_slice(value.as_bytes()),
            ..pb::PutRequest::default()
        };
        self.send_put(member, request).await
    }

    /// Puts a key with the value that it has: refused if there is none, after it was looked whether puts are let in.
    pub async fn put_again(&mut self, member: &str, key: &str) -> Outcome<pb::PutResponse> {
        let request = pb::PutRequest {
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            ignore_value: true,
            ..pb::PutRequest::default()
        };
        self.send_put(member, request).await
    }

    async fn send_put(
        &mut self,
        member: &str,
        request: pb::PutRequest,
    ) -> Outcome<pb::PutResponse> {
        let mut client = self.endpoint.kv(member);
        flat(within(self.patience, client.put(request)).await)
    }

    /// Deletes a key.
    pub async fn delete(&mut self, member: &str, key: &str) -> Outcome<pb::DeleteRangeResponse> {
        let request = pb::DeleteRangeRequest {
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            ..pb::DeleteRangeRequest::default()
        };
        let mut client = self.endpoint.kv(member);
        flat(within(self.patience, client.delete_range(request)).await)
    }

    /// Compacts.
    pub async fn compact(&mut self, member: &str, revision: i64) -> Outcome<()> {
        let mut client = self.endpoint.kv(member);
        let request = pb::CompactionRequest { revision, physical: false };
        flat(within(self.patience, client.compact(request)).await).map(drop)
    }

    /// Raises an alarm or takes it back.
    pub async fn alarm(
        &mut self,
        member: &str,
        action: pb::alarm_request::AlarmAction,
        on: pb::AlarmMember,
    ) -> Outcome<Vec<pb::AlarmMember>> {
        let (member_id, alarm) = (on.member_id, on.alarm);
        let request = pb::AlarmRequest { action: action.into(), member_id, alarm };
        let mut client = self.endpoint.maintenance(member);
        flat(within(self.patience, client.alarm(request)).await).map(|reply| reply.alarms)
    }

    /// Returns which of some members leads, as it says itself.
    pub async fn leader(&mut self, members: &[String]) -> Option<String> {
        let mut best: Option<(u64, String)> = None;
        for member in members {
            let Ok(status) = self.status(member).await else { continue };
            let own = status.header.as_ref().map_or(0, |h| h.member_id);
            if status.leader == own
                && own != 0
                && best.as_ref().is_none_or(|(term, _)| *term < status.raft_term)
            {
                best = Some((status.raft_term, member.clone()));
            }
        }
        best.map(|(_, member)| member)
    }
}
