//! Membership changes that were asked for at this member and wait to be applied.
//!
//! The entry's form is etcd's; the waiter is found by the request id that the machine adds to its context.
//!
//! Invariant: every waiter is answered exactly once: with the members after the change, with the
//! machine's refusal, or at its deadline in doubt.
//!
//! A leader that removed itself is perhaps the only one to know that this is committed. Whoever hears its yes
//! may throw its disk away, and what is left of a cluster of two would wait for its vote for ever. So that yes
//! is held back until somebody else leads, or for [`Changes::release`].

use super::error::ServeError;
use super::event::{MembersAnswer, MembersReply};
use crate::cluster::Change;
use crate::command::{Outcome, RequestId};
use crate::machine::{Machine, conf_change};
use crate::raft::{ConfChange, Payload, Proposal, ProposalId, Refusal as RaftRefusal};
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
    /// Answers that are held back.
    held: Vec<(MembersReply, MembersAnswer)>,
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
        let (id, change) = (ProposalId(id.0), conf_change(change, Some(id)));
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

    /// An entry was applied; answers its waiter, if it is one of ours, now or, with `hold`, later.
    pub(crate) fn applied(
        &mut self,
        id: RequestId,
        outcome: &Outcome,
        machine: &Machine,
        hold: bool,
    ) {
        let Some(at) = self.waiting.iter().position(|waiter| waiter.id.0 == id.0) else { return };
        let answer = match outcome {
            Outcome::Refused(refusal, at) => Err(ServeError::Refused(refusal.clone(), *at)),
            _ => Ok(machine.reader().members().members().cloned().collect()),
        };
        let reply = self.waiting.remove(at).reply;
        if hold {
            self.held.push((reply, answer));
        } else {
            let _ = reply.send(answer);
        }
    }

    /// Tells whether answers are held back.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives the answers that were held back.
    pub(crate) fn release(&mut self) {
        for (reply, answer) in self.held.drain(..) {
            let _ = reply.send(answer);
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
        let waiting = self.waiting.drain(..).map(|waiter| waiter.reply);
        for reply in waiting.chain(self.held.drain(..).map(|(reply, _)| reply)) {
            let _ = reply.send(Err(ServeError::Stopped));
        }
    }
}
