//! Who waits for which proposal.
//!
//! A waiter is found by the [`RequestId`] that its command carries through the log. Ids hold the member,
//! its boot counter and a sequence number, so that an entry replayed after a restart cannot answer a new
//! caller.
//!
//! Invariants:
//! - every waiter is answered exactly once: with an outcome, or an error at its deadline or at the stop;
//! - a proposal is put to Raft again only after Raft said that it is *certainly* in no log;
//! - deadlines are in the order of arrival, so expiring looks at the oldest only.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::answers::Answers;
use super::error::ServeError;
use crate::command::{Outcome, RequestId};
use crate::raft::{Payload, Proposal, ProposalId};
use crate::runtime::Instant;
use crate::types::NodeId;

/// What a proposer gets.
pub(crate) type Reply = oneshot::Sender<Result<Outcome, ServeError>>;

/// Makes request ids: 16 bits of member, 16 of boot counter, 32 of sequence.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: u64,
    next: std::sync::atomic::AtomicU64,
}

impl RequestIds {
    /// Starts the ids of one life of a member.
    pub(crate) fn new(member: NodeId, boot: u64) -> Self {
        let prefix = (member.0 & 0xffff) << 48 | (boot & 0xffff) << 32;
        Self { prefix, next: std::sync::atomic::AtomicU64::new(1) }
    }

    /// Returns an id that this life has not used (until 2³² were drawn).
    pub(crate) fn next(&self) -> RequestId {
        let n = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        RequestId(self.prefix | n & 0xffff_ffff)
    }
}

struct Waiter {
    reply: Reply,
    data: Bytes,
    /// Raft has it: a timeout leaves it in doubt.
    taken: bool,
}

/// The waiters of one member.
#[derive(Default)]
pub(crate) struct Proposals {
    waiting: BTreeMap<RequestId, Waiter>,
    deadlines: VecDeque<(Instant, RequestId)>,
    /// Certainly in no log; to be proposed again.
    again: Vec<RequestId>,
}

impl Proposals {
    /// Returns how many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a new waiter and returns what to propose.
    pub(crate) fn add(
        &mut self,
        id: RequestId,
        data: Bytes,
        reply: Reply,
        deadline: Instant,
    ) -> Proposal {
        let waiter = Waiter { reply, data: data.clone(), taken: true };
        self.waiting.insert(id, waiter);
        self.deadlines.push_back((deadline, id));
        Proposal { id: ProposalId(id.0), payload: Payload::Command(data) }
    }

    /// Answers the waiter, if it is one of ours and still there.
    pub(crate) fn resolve(&mut self, id: RequestId, outcome: Outcome, answers: &mut Answers) {
        if let Some(waiter) = self.waiting.remove(&id) {
            let answer = match outcome {
                Outcome::Refused(refusal, at) => Err(ServeError::Refused(refusal, at)),
                outcome => Ok(outcome),
            };
            answers.outcome(waiter.reply, answer);
        }
    }

    /// Raft did not take it, for good or for now.
    pub(crate) fn refused(&mut self, id: RequestId, for_good: Option<ServeError>) {
        match for_good {
            Some(error) => {
                if let Some(waiter) = self.waiting.remove(&id) {
                    let _ = waiter.reply.send(Err(error));
                }
            }
            None => {
                // One that is refused already goes again once, however often that is said.
                if let Some(waiter) = self.waiting.get_mut(&id).filter(|waiter| waiter.taken) {
                    waiter.taken = false;
                    self.again.push(id);
                }
            }
        }
    }

    /// Returns what is to be proposed again.
    pub(crate) fn retry(&mut self) -> Vec<Proposal> {
        let mut proposals = Vec::new();
        let mut again = std::mem::take(&mut self.again);
        if crate::buggify!("proposals_go_again_one_by_one") && again.len() > 1 {
            self.again = again.split_off(1);
        }
        for id in again {
            if let Some(waiter) = self.waiting.get_mut(&id) {
                waiter.taken = true;
                let payload = Payload::Command(waiter.data.clone());
                proposals.push(Proposal { id: ProposalId(id.0), payload });
            }
        }
        proposals
    }

    /// Answers those whose time is up; says how many they were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while self.deadlines.front().is_some_and(|(deadline, _)| *deadline <= now) {
            let (_, id) = self.deadlines.pop_front().expect("it was just looked at");
            if let Some(waiter) = self.waiting.remove(&id) {
                let error = if waiter.taken { ServeError::Timeout } else { ServeError::Deadline };
                let _ = waiter.reply.send(Err(error));
                expired += 1;
            }
        }
        expired
    }

    /// Answers everybody: the member stops.
    pub(crate) fn stop(&mut self) {
        for (_, waiter) in std::mem::take(&mut self.waiting) {
            let _ = waiter.reply.send(Err(ServeError::Stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Revision;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant(Duration::from_secs(seconds))
    }

    fn add(p: &mut Proposals, id: u64) -> oneshot::Receiver<Result<Outcome, ServeError>> {
        let (reply, answer) = oneshot::channel();
        p.add(RequestId(id), Bytes::from_static(b"x"), reply, at(7));
        answer
    }

    #[test]
    fn ids_of_two_boots_differ() {
        let (one, two) = (RequestIds::new(NodeId(0x12345), 1), RequestIds::new(NodeId(0x12345), 2));
        assert_eq!(one.next().0, 0x2345_0001_0000_0001);
        assert_eq!(two.next().0, 0x2345_0002_0000_0001);
    }

    #[test]
    fn a_taken_proposal_times_out_in_doubt_and_a_refused_one_does_not() {
        let mut p = Proposals::default();
        let (mut taken, mut refused) = (add(&mut p, 1), add(&mut p, 2));
        p.refused(RequestId(2), None);
        assert_eq!(p.expire(at(6)), 0);
        assert!(taken.try_recv().is_err() && refused.try_recv().is_err(), "their time is not up");
        assert_eq!(p.expire(at(7)), 2);
        assert_eq!(taken.try_recv(), Ok(Err(ServeError::Timeout)));
        assert_eq!(refused.try_recv(), Ok(Err(ServeError::Deadline)));
        assert!(p.retry().is_empty(), "nobody waits for it any more");
    }

    #[test]
    fn a_refused_proposal_is_put_again_once_and_answered_once() {
        let mut p = Proposals::default();
        let mut answer = add(&mut p, 1);
        p.refused(RequestId(1), None);
        assert_eq!(p.retry().len(), 1);
        assert!(p.retry().is_empty());
        let mut answers = Answers::on_the_spot();
        p.resolve(RequestId(1), Outcome::Compact { revision: Revision(4) }, &mut answers);
        p.resolve(RequestId(1), Outcome::Compact { revision: Revision(5) }, &mut answers);
        answers.give_here();
        assert_eq!(answer.try_recv(), Ok(Ok(Outcome::Compact { revision: Revision(4) })));
        assert_eq!(p.len(), 0);
    }
}
