//! Between Raft's membership changes and the cluster's: kinds, ids and contexts.
//!
//! An entry's context is JSON: for one item the member's record as etcd writes it, for several (a joint
//! change) an object with the records under `changes`. A field of ours, `requestID`, names the proposal,
//! so that its waiter finds the outcome.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::cluster::{Change, ChangeKind, MembershipError, membership};
use crate::command::{Refusal, RequestId};
use crate::raft::{ConfChange, ConfChangeItem, ConfChangeKind, ConfState, Entry, Payload};
use crate::types::{ClusterId, Index, NodeId, Term};

const REQUEST: &str = "requestID";
const CHANGES: &str = "changes";

/// Makes the Raft change for one change of the membership. `request` names the waiter.
pub fn conf_change(change: &Change, request: Option<RequestId>) -> ConfChange {
    let mut context = change.context();
    if let Some(request) = request {
        let mut object: Map<String, Value> = serde_json::from_slice(&context).unwrap_or_default();
        object.insert(REQUEST.to_owned(), request.0.into());
        context = json(&Value::Object(object));
    }
    match item(change) {
        Some(item) => ConfChange::members(vec![item], context),
        None => ConfChange::update(context),
    }
}

/// Makes the Raft change for several changes in one step, through joint consensus. Updates of addresses
/// are no part of it. Nobody asks for such a step yet; whoever reads a log must understand it.
#[cfg(test)]
pub(super) fn joint_change(changes: &[Change], request: Option<RequestId>) -> Option<ConfChange> {
    let items: Option<Vec<ConfChangeItem>> = changes.iter().map(item).collect();
    let records = changes
        .iter()
        .map(|change| serde_json::from_slice(&change.context()).unwrap_or(Value::Null));
    let mut object = Map::new();
    object.insert(CHANGES.to_owned(), records.collect());
    if let Some(request) = request {
        object.insert(REQUEST.to_owned(), request.0.into());
    }
    items.map(|items| ConfChange::members(items, json(&Value::Object(object))))
}

/// The entries that every member of a new cluster begins its log with: one for each first member, from
/// index 1 on, in term 1, equal at all of them since they follow from the same flags. They count as
/// committed. Returns the cluster's id and the configuration that they lead to as well.
///
/// # Errors
/// Names a member that cannot be told from another (see [`membership::bootstrap`]).
pub fn bootstrap_entries(
    members: &[(String, Vec<String>)],
    token: &str,
) -> Result<(ClusterId, ConfState, Vec<Entry>), String> {
    let (cluster_id, changes) = membership::bootstrap(members, token)?;
    let voters = ConfState::of_voters(changes.iter().map(Change::id));
    let entries = (1..).zip(&changes).map(|(index, change)| {
        let Change::Add { member, .. } = change else { unreachable!("first members are added") };
        let item = ConfChangeItem::AddVoter(member.id);
        let payload =
            Payload::ConfChange(ConfChange::members(vec![item], Bytes::from(member.to_json())));
        Entry { term: Term(1), index: Index(index), payload }
    });
    Ok((cluster_id, voters, entries.collect()))
}

/// What an entry wants of the membership. Leaving a joint configuration wants nothing.
pub(super) fn read(change: &ConfChange) -> Result<Vec<Change>, Refusal> {
    let parse = |kind, id, context: &[u8]| {
        Change::parse(kind, id, context).map_err(|error| {
            tracing::error!(%error, "a membership entry makes no sense and is passed over");
            Refusal::MemberNotFound
        })
    };
    match &change.kind {
        ConfChangeKind::LeaveJoint => Ok(Vec::new()),
        ConfChangeKind::Update => {
            let id = serde_json::from_slice::<Value>(&change.context).ok();
            let id = id.and_then(|record| record.get("id")?.as_u64()).unwrap_or_default();
            Ok(vec![parse(ChangeKind::Update, NodeId(id), &change.context)?])
        }
        ConfChangeKind::Members(items) if items.len() == 1 => {
            let (kind, id) = kind(&items[0]);
            Ok(vec![parse(kind, id, &change.context)?])
        }
        ConfChangeKind::Members(items) => {
            let context = serde_json::from_slice::<Value>(&change.context).unwrap_or_default();
            let records = context.get(CHANGES).and_then(Value::as_array);
            let none = Value::Null;
            let parsed = items.iter().enumerate().map(|(at, item)| {
                let record = records.and_then(|records| records.get(at)).unwrap_or(&none);
                let (kind, id) = kind(item);
                parse(kind, id, &json(record))
            });
            parsed.collect()
        }
    }
}

/// Who waits for the outcome of an entry, if it says so.
pub(super) fn request(change: &ConfChange) -> Option<RequestId> {
    let context: Value = serde_json::from_slice(&change.context).ok()?;
    context.get(REQUEST)?.as_u64().map(RequestId)
}

/// The client's view of a rule of the membership.
pub(super) fn refusal(error: MembershipError, change: &Change) -> Refusal {
    match error {
        MembershipError::IdRemoved if matches!(change, Change::Add { .. }) => {
            Refusal::MemberIdExists
        }
        MembershipError::IdRemoved | MembershipError::IdUnknown => Refusal::MemberNotFound,
        MembershipError::IdExists => Refusal::MemberIdExists,
        MembershipError::PeerUrlExists => Refusal::PeerUrlsExist,
        MembershipError::TooManyLearners => Refusal::TooManyLearners,
        MembershipError::NotLearner => Refusal::NotLearner,
        MembershipError::LastVoter => Refusal::NotEnoughStarted,
    }
}

fn item(change: &Change) -> Option<ConfChangeItem> {
    let id = change.id();
    match change.kind() {
        ChangeKind::AddVoter => Some(ConfChangeItem::AddVoter(id)),
        ChangeKind::AddLearner => Some(ConfChangeItem::AddLearner(id)),
        ChangeKind::Remove => Some(ConfChangeItem::Remove(id)),
        ChangeKind::Update => None,
    }
}

fn kind(item: &ConfChangeItem) -> (ChangeKind, NodeId) {
    match item {
        ConfChangeItem::AddVoter(id) => (ChangeKind::AddVoter, *id),
        ConfChangeItem::AddLearner(id) => (ChangeKind::AddLearner, *id),
        ConfChangeItem::Remove(id) => (ChangeKind::Remove, *id),
    }
}

fn json(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("JSON values always serialise"))
}
