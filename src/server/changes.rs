//! Membership changes that were asked for at this member and wait to be applied.
//!
//! An entry of this kind carries no request id (its form is etcd's), so a waiter is found by the change
//! itself. Two equal changes at once are answered by whichever is applied first: both callers asked for
//! the same thing.
//!
//! Invariant: every waiter is answered exactly once: with the members after the change, with the
//! machine's refusal, or at its deadline in doubt.

use super::error::ServeError;
use super::event::MembersReply;
use crate::cluster::{ChangeKind, Change};
use crate::command::{Refusal, RequestId};
use crate::machine::Machine;
use crate::raft::{
    ConfChange, ConfChangeItem, Payload, Proposal, ProposalId, Refusal as RaftRefusal,
};
use crate::runtime::Instant;

struct Waiter {
    id: ProposalId,
    change: ConfChange,
    reply: MembersReply,
    deadline: Instant,
    /// Raft said that it is certainly in no log: to be proposed again.
    again: bool,
}

/// The waiters.
#[derive(Default)]
pub(crate) struct Changes {
    waiting: Vec<Waiter>,
}

/// Returns the change as Raft carries it.
fn conf_change(change: &Change) -> ConfChange {
    let item = match change.kind() {
        ChangeKind::AddVoter => ConfChangeItem::AddVoter(change.id()),
        ChangeKind::AddLearner => ConfChangeItem::AddLearner(change.id()),
        ChangeKind::Remove => ConfChangeItem::Remove(change.id()),
        ChangeKind::Update => return ConfChange::update(change.context()),
    };
    ConfChange::members(vec![item], change.context())
}

impl Changes {
    /// Takes a new waiter and returns what to propose.
    pub(crate) fn add(
        &mut self,
        id: RequestId,
        change: &Change,
        reply: MembersReply,
        deadline: Instant,
    ) -> Proposal {
        let (id, change) = (ProposalId(id.0), conf_change(change));
        let proposal = Proposal { id, payload: Payload::ConfChange(change.clone()) };
        self.waiting.push(Waiter { id, change, reply, deadline, again: false });
        proposal
    }

    /// Raft did not take it. Says whether it was one of ours.
    pub(crate) fn refused(&mut self, id: ProposalId, reason: RaftRefusal) -> bool {
        let Some(at) = self.waiting.iter().position(|waiter| waiter.id == id) else {
            return false;
        };
        match reason {
            RaftRefusal::ConfChangeInvalid => {
                let waiter = self.waiting.remove(at);
                let _ = waiter.reply.send(Err(ServeError::Deadline));
            }
            _ => self.waiting[at].again = true,
        }
        true
    }

    /// Returns what is to be proposed again.
    pub(crate) fn retry(&mut self) -> Vec<Proposal> {
        let mut proposals = Vec::new();
        for waiter in &mut self.waiting {
            if std::mem::take(&mut waiter.again) {
                let payload = Payload::ConfChange(waiter.change.clone());
                proposals.push(Proposal { id: waiter.id, payload });
            }
        }
        proposals
    }

    /// An entry was applied.
    pub(crate) fn applied(
        &mut self,
        change: &ConfChange,
        refusal: Option<Refusal>,
        machine: &Machine,
    ) {
        let revision = machine.reader().store().revision();
        for waiter in self.waiting.extract_if(.., |waiter| waiter.change == *change) {
            let answer = match refusal.clone() {
                Some(refusal) => Err(ServeError::Refused(refusal, revision)),
                None => Ok(machine.reader().members().members().cloned().collect()),
            };
            let _ = waiter.reply.send(answer);
        }
    }

    /// Answers those whose time is up, in doubt.
    pub(crate) fn expire(&mut self, now: Instant) {
        for waiter in self.waiting.extract_if(.., |waiter| waiter.deadline <= now) {
            let _ = waiter.reply.send(Err(ServeError::Timeout));
        }
    }

    /// Answers everybody: the member stops.
    pub(crate) fn stop(&mut self) {
        for waiter in self.waiting.drain(..) {
            let _ = waiter.reply.send(Err(ServeError::Stopped));
        }
    }
}

