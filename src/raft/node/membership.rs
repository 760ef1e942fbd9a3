//! When a membership change may be proposed, and what its application does.
//!
//! The leader takes a change only if no earlier one can be unapplied *here* and it has committed an
//! entry of its term. The second half looks redundant and is not: a new leader's log may end in a
//! change whose fate it does not know (Ongaro, raft-dev, July 2015). A change comes into force when
//! the driver reports it applied; the machine may have refused it, and then it is void on every node,
//! since every node's machine refuses it alike.
//!
//! A leader that its configuration no longer names goes on leading, without a vote and without taking
//! proposals, until it has handed over. Were it to stop at once, the rest might not know that the
//! change is committed: of two members the one that stays would need the vote of the one that is gone,
//! whose log is longer (script `removed_leader`).

use super::Node;
use crate::raft::entry::Payload;
use crate::raft::membership::{ConfChange, ConfChangeKind, ConfState};
use crate::raft::progress::Progress;
use crate::raft::ready::{Refusal, Role};
use crate::types::Index;

impl Node {
    pub(super) fn admit_change(&self, change: &ConfChange) -> Result<(), Refusal> {
        if !self.has_committed_in_term() && !crate::mutant!("R19") {
            return Err(Refusal::LeaderNotReady);
        }
        if self.conf_pending > self.applied && !crate::mutant!("R20") {
            return Err(Refusal::ConfChangePending);
        }
        match self.conf.changed(change) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::ConfChangeInvalid),
        }
    }

    pub(super) fn on_applied(&mut self, index: Index) {
        if index <= self.applied {
            return; // From before a snapshot was installed.
        }
        assert!(index <= self.delivered, "{index} applied before it was delivered");
        let skipped = self.log.first_conf_after(self.applied).filter(|conf| *conf <= index);
        assert!(skipped.is_none(), "the change at {skipped:?} was not reported as applied");
        self.applied = index;
        self.leave_joint_if_due();
    }

    pub(super) fn on_conf_applied(&mut self, index: Index, accepted: bool) {
        if index <= self.applied {
            return; // From before a snapshot was installed.
        }
        assert!(index <= self.delivered, "{index} applied before it was delivered");
        let due = self.log.first_conf_after(self.applied);
        assert_eq!(due, Some(index), "changes are applied in order");
        let entry = self.log.get(index).expect("unapplied entries are in memory");
        let Payload::ConfChange(change) = &entry.payload else {
            unreachable!("the log lists {index} as a change");
        };
        let next = if accepted { self.conf.changed(change).ok() } else { None };
        self.applied = index;
        if let Some(next) = next
            && !matches!(change.kind, ConfChangeKind::Update)
        {
            self.adopt(next);
        }
        self.leave_joint_if_due();
    }

    /// Lives by a new configuration from now on.
    pub(super) fn adopt(&mut self, conf: ConfState) {
        self.conf = conf;
        let id = self.config.id;
        match self.role {
            Role::Leader => {
                self.adopt_as_leader();
                if !self.conf.is_voter(id) && self.transfer.is_none() {
                    self.find_successor();
                }
            }
            Role::PreCandidate | Role::Candidate if !self.conf.is_voter(id) => {
                self.become_follower(self.term, None);
            }
            _ => {}
        }
    }

    fn adopt_as_leader(&mut self) {
        let mut members = self.conf.members();
        members.remove(&self.config.id);
        self.peers.retain(|id, _| members.contains(id));
        let next = self.log.last().index.next();
        for id in members {
            self.peers.entry(id).or_insert_with(|| {
                let mut peer = Progress::new(next);
                // It has had no time to be heard; the next quorum check must not count that against us.
                peer.active = true;
                peer
            });
        }
        let target = self.transfer.as_ref().map(|transfer| transfer.target);
        if target.is_some_and(|target| !self.conf.voters.contains(&target)) {
            self.transfer = None;
        }
        // A smaller quorum may already hold what the larger one did not.
        self.maybe_commit();
        self.confirm_reads();
    }

    /// Proposes to leave a joint configuration as soon as that may be proposed.
    fn leave_joint_if_due(&mut self) {
        let due = self.role == Role::Leader && self.conf.is_joint() && self.conf.auto_leave;
        if due && self.conf_pending <= self.applied && self.has_committed_in_term() {
            self.append_own(Payload::ConfChange(ConfChange::leave_joint()));
        }
    }
}
