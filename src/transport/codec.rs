//! Raft's data as protobuf: entries and configurations in etcd's own schema (`raftpb`), messages in
//! ours (`internal`).
//!
//! Invariants:
//! - what is encoded decodes to an equal value;
//! - decoding bytes of a peer or a disk never panics: what makes no sense is an error.
//!
//! A membership change of one item is written as etcd's `ConfChange`, one of several (or none) as
//! `ConfChangeV2`, so that tools which read etcd's log find what they expect.

use bytes::Bytes;
use prost::Message as _;

use crate::proto::internal as wire;
use crate::proto::internal::append_response::Outcome;
use crate::proto::raftpb;
use crate::raft::{
    AppendResponse, ConfChange, ConfChangeItem, ConfChangeKind, ConfState, Entry, Envelope,
    Message, Payload, Proposal, ProposalId, Refusal, SnapshotMeta,
};
use crate::types::{Index, LogPosition, NodeId, Term};

/// Bytes that are no Raft data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not protobuf of the expected message.
    #[error("malformed protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A field that cannot be missing.
    #[error("missing field {0}")]
    Missing(&'static str),
    /// A number that nobody defined, or not in this place.
    #[error("unknown value in {0}")]
    Unknown(&'static str),
}

/// An entry's type in `raftpb`.
const NORMAL: i32 = raftpb::EntryType::EntryNormal as i32;
const CONF_CHANGE: i32 = raftpb::EntryType::EntryConfChange as i32;
const CONF_CHANGE_V2: i32 = raftpb::EntryType::EntryConfChangeV2 as i32;

/// Encodes what an entry carries: its type in `raftpb`, and its data.
pub fn encode_payload(payload: &Payload) -> (i32, Bytes) {
    match payload {
        Payload::Empty => (NORMAL, Bytes::new()),
        Payload::Command(data) => (NORMAL, data.clone()),
        Payload::ConfChange(change) => encode_change(change),
    }
}

/// Decodes what [`encode_payload`] made.
pub fn decode_payload(kind: i32, data: Bytes) -> Result<Payload, CodecError> {
    match kind {
        NORMAL if data.is_empty() => Ok(Payload::Empty),
        NORMAL => Ok(Payload::Command(data)),
        CONF_CHANGE => decode_single(data).map(Payload::ConfChange),
        CONF_CHANGE_V2 => decode_joint(data).map(Payload::ConfChange),
        _ => Err(CodecError::Unknown("entry type")),
    }
}

fn encode_change(change: &ConfChange) -> (i32, Bytes) {
    use raftpb::ConfChangeType as Type;
    let single = |kind: Type, node: u64| {
        let message = raftpb::ConfChange {
            id: None,
            r#type: Some(kind as i32),
            node_id: Some(node),
            context: Some(change.context.clone()),
        };
        (CONF_CHANGE, Bytes::from(message.encode_to_vec()))
    };
    match &change.kind {
        ConfChangeKind::Update => single(Type::ConfChangeUpdateNode, 0),
        ConfChangeKind::Members(items) if items.len() == 1 => {
            let (kind, node) = item_type(items[0]);
            single(kind, node.0)
        }
        ConfChangeKind::Members(items) => {
            let changes = items.iter().map(|item| {
                let (kind, node) = item_type(*item);
                raftpb::ConfChangeSingle { r#type: Some(kind as i32), node_id: Some(node.0) }
            });
            joint(changes.collect(), change)
        }
        ConfChangeKind::LeaveJoint => joint(Vec::new(), change),
    }
}

fn joint(changes: Vec<raftpb::ConfChangeSingle>, change: &ConfChange) -> (i32, Bytes) {
    let message =
        raftpb::ConfChangeV2 { transition: None, changes, context: Some(change.context.clone()) };
    (CONF_CHANGE_V2, Bytes::from(message.encode_to_vec()))
}

fn item_type(item: ConfChangeItem) -> (raftpb::ConfChangeType, NodeId) {
    use raftpb::ConfChangeType as Type;
    match item {
        ConfChangeItem::AddVoter(id) => (Type::ConfChangeAddNode, id),
        ConfChangeItem::AddLearner(id) => (Type::ConfChangeAddLearnerNode, id),
        ConfChangeItem::Remove(id) => (Type::ConfChangeRemoveNode, id),
    }
}

fn item(kind: Option<i32>, node: Option<u64>) -> Result<Option<ConfChangeItem>, CodecError> {
    use raftpb::ConfChangeType as Type;
    let kind = Type::try_from(kind.unwrap_or(0)).map_err(|_| CodecError::Unknown("change"))?;
    let id = NodeId(node.unwrap_or(0));
    Ok(match kind {
        Type::ConfChangeAddNode => Some(ConfChangeItem::AddVoter(id)),
        Type::ConfChangeAddLearnerNode => Some(ConfChangeItem::AddLearner(id)),
        Type::ConfChangeRemoveNode => Some(ConfChangeItem::Remove(id)),
        Type::ConfChangeUpdateNode => None,
    })
}

fn decode_single(data: Bytes) -> Result<ConfChange, CodecError> {
    let message = raftpb::ConfChange::decode(data)?;
    let context = message.context.unwrap_or_default();
    Ok(match item(message.r#type, message.node_id)? {
        Some(item) => ConfChange::members(vec![item], context),
        None => ConfChange::update(context),
    })
}

fn decode_joint(data: Bytes) -> Result<ConfChange, CodecError> {
    let message = raftpb::ConfChangeV2::decode(data)?;
    let context = message.context.unwrap_or_default();
    if message.changes.is_empty() {
        return Ok(ConfChange { kind: ConfChangeKind::LeaveJoint, context });
    }
    let mut items = Vec::with_capacity(message.changes.len());
    for change in message.changes {
        let item = item(change.r#type, change.node_id)?;
        items.push(item.ok_or(CodecError::Unknown("joint change"))?);
    }
    Ok(ConfChange::members(items, context))
}

/// Encodes a configuration.
pub fn encode_conf_state(conf: &ConfState) -> raftpb::ConfState {
    let list = |ids: &std::collections::BTreeSet<NodeId>| ids.iter().map(|id| id.0).collect();
    raftpb::ConfState {
        voters: list(&conf.voters),
        learners: list(&conf.learners),
        voters_outgoing: list(&conf.voters_outgoing),
        learners_next: list(&conf.learners_next),
        auto_leave: conf.auto_leave.then_some(true),
    }
}

/// Decodes a configuration.
pub fn decode_conf_state(conf: raftpb::ConfState) -> ConfState {
    let set = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    ConfState {
        voters: set(conf.voters),
        voters_outgoing: set(conf.voters_outgoing),
        learners: set(conf.learners),
        learners_next: set(conf.learners_next),
        auto_leave: conf.auto_leave.unwrap_or(false),
    }
}

fn encode_entry(entry: &Entry) -> raftpb::Entry {
    let (kind, data) = encode_payload(&entry.payload);
    raftpb::Entry {
        r#type: Some(kind),
        term: Some(entry.term.0),
        index: Some(entry.index.0),
        data: Some(data),
    }
}

fn decode_entry(entry: raftpb::Entry) -> Result<Entry, CodecError> {
    Ok(Entry {
        term: Term(entry.term.unwrap_or(0)),
        index: Index(entry.index.unwrap_or(0)),
        payload: decode_payload(entry.r#type.unwrap_or(NORMAL), entry.data.unwrap_or_default())?,
    })
}

fn position(at: LogPosition) -> Option<wire::Position> {
    Some(wire::Position { index: at.index.0, term: at.term.0 })
}

fn read_position(at: Option<wire::Position>) -> Result<LogPosition, CodecError> {
    let at = at.ok_or(CodecError::Missing("position"))?;
    Ok(LogPosition::new(Index(at.index), Term(at.term)))
}

const REFUSALS: [(Refusal, i32); 7] = [
    (Refusal::NoLeader, 1),
    (Refusal::NotLeader, 2),
    (Refusal::TransferInProgress, 3),
    (Refusal::Overloaded, 4),
    (Refusal::ConfChangePending, 5),
    (Refusal::LeaderNotReady, 6),
    (Refusal::ConfChangeInvalid, 7),
];

/// Encodes a message.
pub fn encode(envelope: &Envelope) -> wire::RaftEnvelope {
    use wire::raft_envelope::Kind;
    let kind = match &envelope.message {
        Message::PreVote { next_term, last, commit } => Kind::PreVote(wire::PreVote {
            next_term: next_term.0,
            last: position(*last),
            commit: position(*commit),
        }),
        Message::PreVoteResponse { next_term, granted, commit } => {
            Kind::PreVoteResponse(wire::PreVoteResponse {
                next_term: next_term.0,
                granted: *granted,
                commit: position(*commit),
            })
        }
        Message::Vote { last, commit, transfer } => Kind::Vote(wire::Vote {
            last: position(*last),
            transfer: *transfer,
            commit: position(*commit),
        }),
        Message::VoteResponse { granted } => {
            Kind::VoteResponse(wire::VoteResponse { granted: *granted })
        }
        Message::Append { prev, entries, commit } => Kind::Append(wire::Append {
            prev: position(*prev),
            entries: entries.iter().map(encode_entry).collect(),
            commit: commit.0,
        }),
        Message::AppendResponse(response) => {
            let outcome = match response {
                AppendResponse::Accept { matched } => Outcome::Matched(matched.0),
                AppendResponse::Reject { prev, hint } => Outcome::Reject(wire::AppendReject {
                    prev_index: prev.0,
                    hint: position(*hint),
                }),
            };
            Kind::AppendResponse(wire::AppendResponse { outcome: Some(outcome) })
        }
        Message::Heartbeat { commit, round } => {
            Kind::Heartbeat(wire::Heartbeat { commit: commit.0, round: *round })
        }
        Message::HeartbeatResponse { round } => {
            Kind::HeartbeatResponse(wire::HeartbeatResponse { round: *round })
        }
        Message::InstallSnapshot { meta } => Kind::InstallSnapshot(wire::InstallSnapshot {
            position: position(meta.position),
            conf_state: Some(encode_conf_state(&meta.conf_state)),
        }),
        Message::Propose { proposals } => Kind::Propose(wire::Propose {
            proposals: proposals.iter().map(encode_proposal).collect(),
        }),
        Message::ProposeRefused { id, reason } => {
            let reason = REFUSALS.iter().find(|(r, _)| r == reason).map_or(0, |(_, n)| *n);
            Kind::ProposeRefused(wire::ProposeRefused { id: id.0, reason })
        }
        Message::ReadIndex { forward } => Kind::ReadIndex(wire::ReadIndex { forward: *forward }),
        Message::ReadIndexResponse { forward, index } => {
            Kind::ReadIndexResponse(wire::ReadIndexResponse {
                forward: *forward,
                index: index.map(Index::get),
            })
        }
        Message::TimeoutNow => Kind::TimeoutNow(wire::TimeoutNow {}),
        Message::NewerTerm => Kind::NewerTerm(wire::NewerTerm {}),
    };
    wire::RaftEnvelope {
        from: envelope.from.0,
        to: envelope.to.0,
        term: envelope.term.0,
        kind: Some(kind),
    }
}

fn encode_proposal(proposal: &Proposal) -> wire::Proposal {
    let (kind, data) = encode_payload(&proposal.payload);
    let entry = raftpb::Entry { r#type: Some(kind), term: None, index: None, data: Some(data) };
    wire::Proposal { id: proposal.id.0, entry: Some(entry) }
}

fn decode_proposal(proposal: wire::Proposal) -> Result<Proposal, CodecError> {
    let entry = proposal.entry.ok_or(CodecError::Missing("entry"))?;
    let payload = decode_payload(entry.r#type.unwrap_or(NORMAL), entry.data.unwrap_or_default())?;
    Ok(Proposal { id: ProposalId(proposal.id), payload })
}

/// Decodes a message of a peer.
pub fn decode(envelope: wire::RaftEnvelope) -> Result<Envelope, CodecError> {
    use wire::raft_envelope::Kind;
    let message = match envelope.kind.ok_or(CodecError::Missing("kind"))? {
        Kind::PreVote(m) => Message::PreVote {
            next_term: Term(m.next_term),
            last: read_position(m.last)?,
            commit: read_position(m.commit)?,
        },
        Kind::PreVoteResponse(m) => Message::PreVoteResponse {
            next_term: Term(m.next_term),
            granted: m.granted,
            commit: read_position(m.commit)?,
        },
        Kind::Vote(m) => Message::Vote {
            last: read_position(m.last)?,
            commit: read_position(m.commit)?,
            transfer: m.transfer,
        },
        Kind::VoteResponse(m) => Message::VoteResponse { granted: m.granted },
        Kind::Append(m) => Message::Append {
            prev: read_position(m.prev)?,
            entries: m.entries.into_iter().map(decode_entry).collect::<Result<_, _>>()?,
            commit: Index(m.commit),
        },
        Kind::AppendResponse(m) => {
            Message::AppendResponse(match m.outcome.ok_or(CodecError::Missing("outcome"))? {
                Outcome::Matched(matched) => AppendResponse::Accept { matched: Index(matched) },
                Outcome::Reject(reject) => AppendResponse::Reject {
                    prev: Index(reject.prev_index),
                    hint: read_position(reject.hint)?,
                },
            })
        }
        Kind::Heartbeat(m) => Message::Heartbeat { commit: Index(m.commit), round: m.round },
        Kind::HeartbeatResponse(m) => Message::HeartbeatResponse { round: m.round },
        Kind::ReadIndex(m) => Message::ReadIndex { forward: m.forward },
        Kind::ReadIndexResponse(m) => {
            Message::ReadIndexResponse { forward: m.forward, index: m.index.map(Index) }
        }
        Kind::Propose(m) => Message::Propose {
            proposals: m.proposals.into_iter().map(decode_proposal).collect::<Result<_, _>>()?,
        },
        Kind::ProposeRefused(m) => {
            let reason = REFUSALS.iter().find(|(_, n)| *n == m.reason);
            let (reason, _) = reason.ok_or(CodecError::Unknown("refusal"))?;
            Message::ProposeRefused { id: ProposalId(m.id), reason: *reason }
        }
        Kind::TimeoutNow(_) => Message::TimeoutNow,
        Kind::NewerTerm(_) => Message::NewerTerm,
        Kind::InstallSnapshot(m) => Message::InstallSnapshot {
            meta: SnapshotMeta {
                position: read_position(m.position)?,
                conf_state: decode_conf_state(
                    m.conf_state.ok_or(CodecError::Missing("configuration"))?,
                ),
            },
        },
    };
    Ok(Envelope {
        from: NodeId(envelope.from),
        to: NodeId(envelope.to),
        term: Term(envelope.term),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    fn entry(index: u64, payload: Payload) -> Entry {
        Entry { term: Term(3), index: Index(index), payload }
    }

    fn every_message() -> Vec<Message> {
        use ConfChangeItem::{AddLearner, AddVoter, Remove};
        let context = Bytes::from_static(b"{}");
        let single = ConfChange::members(vec![AddLearner(NodeId(7))], context.clone());
        let joint = ConfChange::members(
            vec![AddVoter(NodeId(4)), Remove(NodeId(1)), AddLearner(NodeId(2))],
            context.clone(),
        );
        let entries = vec![
            entry(1, Payload::Empty),
            entry(2, Payload::Command(Bytes::from_static(b"put"))),
            entry(3, Payload::ConfChange(single)),
            entry(4, Payload::ConfChange(joint)),
            entry(5, Payload::ConfChange(ConfChange::leave_joint())),
            entry(6, Payload::ConfChange(ConfChange::update(context))),
        ];
        let mut conf_state = ConfState::of_voters([NodeId(3), NodeId(4)]);
        conf_state.voters_outgoing = [NodeId(1), NodeId(2)].into();
        conf_state.learners_next = [NodeId(2)].into();
        conf_state.auto_leave = true;
        let proposals = entries
            .iter()
            .zip(1..)
            .map(|(e, id)| Proposal { id: ProposalId(id), payload: e.payload.clone() })
            .collect();
        let mut all = vec![
            Message::PreVote { next_term: Term(4), last: at(6, 3), commit: at(5, 2) },
            Message::PreVoteResponse { next_term: Term(4), granted: true, commit: at(3, 2) },
            Message::Vote { last: at(6, 3), commit: at(5, 2), transfer: true },
            Message::VoteResponse { granted: false },
            Message::Append { prev: at(0, 0), entries, commit: Index(2) },
            Message::AppendResponse(AppendResponse::Accept { matched: Index(9) }),
            Message::AppendResponse(AppendResponse::Reject { prev: Index(9), hint: at(4, 2) }),
            Message::Heartbeat { commit: Index(5), round: 77 },
            Message::HeartbeatResponse { round: 77 },
            Message::InstallSnapshot { meta: SnapshotMeta { position: at(8, 2), conf_state } },
            Message::Propose { proposals },
            Message::ReadIndex { forward: 12 },
            Message::ReadIndexResponse { forward: 12, index: Some(Index(0)) },
            Message::ReadIndexResponse { forward: 12, index: None },
            Message::TimeoutNow,
            Message::NewerTerm,
        ];
        for (reason, _) in REFUSALS {
            all.push(Message::ProposeRefused { id: ProposalId(5), reason });
        }
        all
    }

    #[test]
    fn every_message_survives_the_wire() {
        for message in every_message() {
            let sent = Envelope { from: NodeId(1), to: NodeId(2), term: Term(9), message };
            let bytes = encode(&sent).encode_to_vec();
            let read = wire::RaftEnvelope::decode(bytes.as_slice()).expect("it was just encoded");
            assert_eq!(decode(read), Ok(sent));
        }
    }

    #[test]
    fn a_message_without_its_parts_is_refused() {
        use wire::raft_envelope::Kind;
        let with = |kind| wire::RaftEnvelope { from: 1, to: 2, term: 3, kind };
        assert_eq!(decode(with(None)), Err(CodecError::Missing("kind")));
        let vote = Kind::Vote(wire::Vote { last: None, transfer: false, commit: None });
        assert_eq!(decode(with(Some(vote))), Err(CodecError::Missing("position")));
        let refused = Kind::ProposeRefused(wire::ProposeRefused { id: 1, reason: 99 });
        assert_eq!(decode(with(Some(refused))), Err(CodecError::Unknown("refusal")));
        assert_eq!(decode_payload(77, Bytes::new()), Err(CodecError::Unknown("entry type")));
    }
}
