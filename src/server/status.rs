//! What a member knows about itself, published after each turn of the driver for everyone who asks.

use std::collections::BTreeMap;

use super::StopReason;
use crate::raft::{Node, Role, Status};
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

    /// Takes over what the node says; tells whether those who wait for a change are to be woken: for
    /// another leader or role, not for every entry. Runs once a turn of the driver, so it allocates
    /// nothing.
    pub(crate) fn update(&mut self, node: &Node, applied: LogPosition, own: NodeId) -> bool {
        let now = (node.term(), node.leader(), node.role(), node.commit(), applied);
        let before = (self.term, self.leader, self.role, self.commit, self.applied);
        let is_learner = node.conf_state().is_learner(own);
        if now == before && is_learner == self.is_learner {
            return false;
        }
        if self.leader != node.leader() && node.leader().is_some() {
            self.leader_changes += 1;
        }
        let wake =
            (self.leader, self.role, self.is_learner) != (node.leader(), node.role(), is_learner);
        (self.term, self.leader, self.role, self.commit, self.applied) = now;
        self.is_learner = is_learner;
        wake
    }

    /// Takes over how far the others have come; once a tick, and nobody is woken.
    pub(crate) fn update_peers(&mut self, status: &Status) {
        self.matched = status.peers.iter().map(|(id, peer)| (*id, peer.matched)).collect();
    }
}
