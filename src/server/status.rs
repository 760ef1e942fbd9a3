//! What a member knows about itself, published after each turn of the driver for everyone who asks.

use std::collections::BTreeMap;

use super::StopReason;
use crate::raft::{Role, Status};
use crate::types::{Index, LogPosition, NodeId, Term};

/// A member's state at the end of some turn of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The current term.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// What this member is.
    pub role: Role,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// The last index known to be committed.
    pub commit: Index,
    /// The last entry applied, with its term (the term that response headers carry).
    pub applied: LogPosition,
    /// How many times the leader changed since the start.
    pub leader_changes: u64,
    /// How far each member's log agrees with this leader's; empty elsewhere.
    pub matched: BTreeMap<NodeId, Index>,
    /// Why the member has stopped, if it has.
    pub stopped: Option<StopReason>,
}

impl NodeStatus {
    /// Makes the status before the first turn.
    pub(crate) fn new(applied: LogPosition) -> Self {
        Self {
            term: Term(0),
            leader: None,
            role: Role::Follower,
            is_learner: false,
            commit: applied.index,
            applied,
            leader_changes: 0,
            matched: BTreeMap::new(),
            stopped: None,
        }
    }

    /// Takes over what the node says; tells whether anything changed.
    pub(crate) fn update(&mut self, node: &Status, applied: LogPosition, learner: bool) -> bool {
        let mut next = self.clone();
        next.term = node.term;
        next.leader = node.leader;
        next.role = node.role;
        next.is_learner = learner;
        next.commit = node.commit;
        next.applied = applied;
        next.matched = node.peers.iter().map(|(id, peer)| (*id, peer.matched)).collect();
        if next.leader != self.leader && next.leader.is_some() {
            next.leader_changes += 1;
        }
        let changed = next != *self;
        *self = next;
        changed
    }
}
