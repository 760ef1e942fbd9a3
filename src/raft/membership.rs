//! Who takes part. A [`ConfState`] is a configuration; a [`ConfChange`] leads from one to the next.
//!
//! *Voters* count towards elections and commits; *learners* receive the log and count for nothing.
//! One item is a *simple* change: old and new voters differ by at most one member, so every majority
//! of the one meets every majority of the other. Several items go through a *joint* configuration
//! (Ongaro 2014, §4.3), in which both the outgoing and the incoming voters must agree; the leader
//! leaves it by itself once it is applied.
//!
//! A change is in force when it is *applied*, not when it is appended, as in etcd. That is safe only
//! with two rules kept elsewhere (`node/membership.rs`, `node/election.rs`): a leader proposes no
//! change while an earlier one may be unapplied, and no node campaigns over a committed change that
//! it has not applied.
//!
//! - No member is voter and learner at once, except that a voter of the outgoing half may wait in
//!   `learners_next`.
//! - `voters_outgoing`, `learners_next` and `auto_leave` are empty outside a joint configuration.
//! - A change never leaves a configuration without voters.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::types::NodeId;

/// A membership change as the log carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfChange {
    /// What changes.
    pub kind: ConfChangeKind,
    /// The state machine's part (the member's record, the request's id). The core never looks.
    pub context: Bytes,
}

/// What a membership change does to the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// Adds, promotes, demotes or removes: one item is a simple change, several go through joint
    /// consensus.
    Members(Vec<ConfChangeItem>),
    /// Leaves the joint configuration.
    LeaveJoint,
    /// Changes only what the state machine knows of a member (etcd's `UpdateNode`).
    Update,
}

/// One member's part of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeItem {
    /// Adds a voter, or promotes a learner.
    AddVoter(NodeId),
    /// Adds a learner, or demotes a voter.
    AddLearner(NodeId),
    /// Removes a member, voter or learner.
    Remove(NodeId),
}

impl ConfChange {
    /// Makes a change of members: one item is simple, several are joint.
    pub fn members(items: Vec<ConfChangeItem>, context: Bytes) -> Self {
        Self { kind: ConfChangeKind::Members(items), context }
    }

    /// Makes the change that leaves a joint configuration.
    pub fn leave_joint() -> Self {
        Self { kind: ConfChangeKind::LeaveJoint, context: Bytes::new() }
    }

    /// Makes a change of the state machine's record only.
    pub fn update(context: Bytes) -> Self {
        Self { kind: ConfChangeKind::Update, context }
    }
}

/// Why a change does not fit the configuration it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// A change of no members.
    #[error("the change names no member")]
    Nothing,
    /// It would leave nobody to vote.
    #[error("the change would remove the last voter")]
    NoVoters,
    /// A joint configuration must be left first.
    #[error("the configuration is joint; only leaving it is possible")]
    Joint,
    /// There is no joint configuration to leave.
    #[error("the configuration is not joint")]
    NotJoint,
}

/// A configuration: who votes, who only listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// The voters, or the incoming half of a joint configuration.
    pub voters: BTreeSet<NodeId>,
    /// The outgoing half of a joint configuration; otherwise empty.
    pub voters_outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: BTreeSet<NodeId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Makes a configuration of voters only.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Tells whether both halves of a joint configuration must agree.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Tells whether `id` votes, in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Tells whether `id` receives the log without voting.
    pub fn is_learner(&self, id: NodeId) -> bool {
        !self.is_voter(id) && self.learners.contains(&id)
    }

    /// Tells whether `id` takes part at all.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Returns everyone who receives the log, each once, in order.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let mut all = self.voters.clone();
        all.extend(&self.voters_outgoing);
        all.extend(&self.learners);
        all
    }

    /// Returns the configuration after `change`, the same on every node.
    pub fn changed(&self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        match &change.kind {
            ConfChangeKind::Update => Ok(self.clone()),
            ConfChangeKind::LeaveJoint => self.left_joint(),
            ConfChangeKind::Members(items) => self.with_items(items),
        }
    }

    fn left_joint(&self) -> Result<ConfState, ConfChangeError> {
        if !self.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let mut learners = self.learners.clone();
        learners.extend(&self.learners_next);
        Ok(ConfState { voters: self.voters.clone(), learners, ..ConfState::default() })
    }

    fn with_items(&self, items: &[ConfChangeItem]) -> Result<ConfState, ConfChangeError> {
        if items.is_empty() {
            return Err(ConfChangeError::Nothing);
        }
        if self.is_joint() {
            return Err(ConfChangeError::Joint);
        }
        let mut next = self.clone();
        if items.len() > 1 {
            next.voters_outgoing = self.voters.clone();
            next.auto_leave = true;
        }
        for item in items {
            next.take(*item);
        }
        if next.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        Ok(next)
    }

    fn take(&mut self, item: ConfChangeItem) {
        let (ConfChangeItem::AddVoter(id)
        | ConfChangeItem::AddLearner(id)
        | ConfChangeItem::Remove(id)) = item;
        self.voters.remove(&id);
        self.learners.remove(&id);
        self.learners_next.remove(&id);
        match item {
            ConfChangeItem::AddVoter(_) => self.voters.insert(id),
            // Still a voter of the outgoing half: it must not count as learner before that half is gone.
            ConfChangeItem::AddLearner(_) if self.voters_outgoing.contains(&id) => {
                self.learners_next.insert(id)
            }
            ConfChangeItem::AddLearner(_) => self.learners.insert(id),
            ConfChangeItem::Remove(_) => false,
        };
    }

    /// Asserts the invariants in the module's doc.
    pub fn check(&self) {
        assert!(self.voters.is_disjoint(&self.learners), "voter and learner at once: {self:?}");
        assert!(
            self.voters_outgoing.is_disjoint(&self.learners),
            "outgoing voter and learner at once: {self:?}"
        );
        assert!(
            self.learners_next.is_subset(&self.voters_outgoing)
                && self.learners_next.is_disjoint(&self.voters),
            "a learner-to-be must be an outgoing voter only: {self:?}"
        );
        assert!(
            self.is_joint() || (self.learners_next.is_empty() && !self.auto_leave),
            "joint leftovers: {self:?}"
        );
        assert!(!self.is_joint() || !self.voters.is_empty(), "joint without voters: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn change(conf: &ConfState, items: &[ConfChangeItem]) -> Result<ConfState, ConfChangeError> {
        let next = conf.changed(&ConfChange::members(items.to_vec(), Bytes::new()));
        if let Ok(next) = &next {
            next.check();
        }
        next
    }

    use ConfChangeItem::{AddLearner, AddVoter, Remove};

    #[test]
    fn promotion_moves_a_learner_to_the_voters() {
        let conf = ConfState::of_voters([NodeId(1)]);
        let conf = change(&conf, &[AddLearner(NodeId(2))]).expect("a learner may join");
        assert_eq!(conf.learners, ids(&[2]));
        let conf = change(&conf, &[AddVoter(NodeId(2))]).expect("a learner may be promoted");
        assert_eq!((conf.voters, conf.learners), (ids(&[1, 2]), ids(&[])));
    }

    #[test]
    fn the_last_voter_cannot_leave() {
        let conf = ConfState::of_voters([NodeId(1)]);
        assert_eq!(change(&conf, &[Remove(NodeId(1))]), Err(ConfChangeError::NoVoters));
        assert_eq!(change(&conf, &[AddLearner(NodeId(1))]), Err(ConfChangeError::NoVoters));
        assert_eq!(change(&conf, &[]), Err(ConfChangeError::Nothing));
    }

    #[test]
    fn joint_change_keeps_both_halves_until_it_is_left() {
        let conf = ConfState::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
        let items = [AddVoter(NodeId(4)), Remove(NodeId(1)), AddLearner(NodeId(2))];
        let joint = change(&conf, &items).expect("several items make a joint configuration");
        assert_eq!(joint.voters, ids(&[3, 4]));
        assert_eq!(joint.voters_outgoing, ids(&[1, 2, 3]));
        assert_eq!(joint.learners_next, ids(&[2]));
        assert!(joint.auto_leave && joint.is_voter(NodeId(1)) && !joint.is_learner(NodeId(2)));
        assert_eq!(change(&joint, &[AddVoter(NodeId(5))]), Err(ConfChangeError::Joint));
        let left = joint.changed(&ConfChange::leave_joint()).expect("a joint configuration ends");
        left.check();
        assert_eq!((left.voters.clone(), left.learners.clone()), (ids(&[3, 4]), ids(&[2])));
        assert_eq!(left.changed(&ConfChange::leave_joint()), Err(ConfChangeError::NotJoint));
    }

    #[test]
    fn update_changes_no_member() {
        let conf = ConfState::of_voters([NodeId(1)]);
        assert_eq!(conf.changed(&ConfChange::update(Bytes::from_static(b"x"))), Ok(conf.clone()));
    }
}
