//! Read barriers: who waits until this member has applied what was committed when they asked.
//!
//! All that wait at one turn of the driver's loop share one question to Raft ([`ReadId`]). Its answer is
//! an index; the read may go on once the machine has applied it (Ongaro 2014, §6.4).
//!
//! Invariants:
//! - a barrier opens only with an index confirmed for a question asked *after* the barrier was set;
//! - every waiter is answered exactly once.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::answers::Answers;
use super::error::ServeError;
use crate::raft::ReadId;
use crate::runtime::Instant;
use crate::types::Index;

/// What a reader waits on.
pub(crate) type Reply = oneshot::Sender<Result<(), ServeError>>;

struct Waiter {
    reply: Reply,
    deadline: Instant,
}

/// The barriers of one member.
#[derive(Default)]
pub(crate) struct Reads {
    next: u64,
    /// Not asked yet.
    new: Vec<Waiter>,
    asked: BTreeMap<ReadId, Vec<Waiter>>,
    confirmed: BTreeMap<Index, Vec<Waiter>>,
    /// Their question failed; to be asked again at this time.
    again: Vec<(Instant, Waiter)>,
}

impl Reads {
    /// Sets a barrier.
    pub(crate) fn add(&mut self, reply: Reply, deadline: Instant) {
        self.new.push(Waiter { reply, deadline });
    }

    /// Returns the question that all new barriers share, if there are any.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<ReadId> {
        if !self.again.is_empty() {
            let (due, later) =
                std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
            self.again = later;
            let due: Vec<(Instant, Waiter)> = due;
            self.new.extend(due.into_iter().map(|(_, waiter)| waiter));
        }
        if self.new.is_empty() {
            return None;
        }
        self.next += 1;
        let id = ReadId(self.next);
        let mut asking = std::mem::take(&mut self.new);
        if crate::buggify!("reads_share_no_question") {
            self.new = asking.split_off(1);
        }
        self.asked.insert(id, asking);
        Some(id)
    }

    /// Raft answered: these may go on once `index` is applied.
    pub(crate) fn confirm(&mut self, id: ReadId, index: Index) {
        if let Some(waiters) = self.asked.remove(&id) {
            self.confirmed.entry(index).or_default().extend(waiters);
        }
    }

    /// Raft gave up: for good with an error, or to be asked again at a later time.
    pub(crate) fn failed(&mut self, id: ReadId, outcome: Result<Instant, ServeError>) {
        for waiter in self.asked.remove(&id).unwrap_or_default() {
            match &outcome {
                Ok(again) => self.again.push((*again, waiter)),
                Err(error) => drop(waiter.reply.send(Err(error.clone()))),
            }
        }
    }

    /// Opens the barriers that `applied` satisfies.
    pub(crate) fn applied(&mut self, applied: Index, answers: &mut Answers) {
        while let Some(first) = self.confirmed.first_entry() {
            if *first.key() > applied && !crate::mutant!("M05") {
                break;
            }
            first.remove().into_iter().for_each(|waiter| answers.read(waiter.reply));
        }
    }

    /// Answers those whose time is up.
    pub(crate) fn expire(&mut self, now: Instant) {
        let late = |waiters: &mut Vec<Waiter>| {
            for waiter in waiters.extract_if(.., |waiter| waiter.deadline <= now) {
                let _ = waiter.reply.send(Err(ServeError::Timeout));
            }
        };
        self.asked.values_mut().for_each(late);
        self.confirmed.values_mut().for_each(late);
        self.asked.retain(|_, waiters| !waiters.is_empty());
        self.confirmed.retain(|_, waiters| !waiters.is_empty());
        for (_, waiter) in self.again.extract_if(.., |(_, waiter)| waiter.deadline <= now) {
            let _ = waiter.reply.send(Err(ServeError::Timeout));
        }
    }

    /// Answers everybody: the member stops.
    pub(crate) fn stop(&mut self) {
        let all = std::mem::take(self);
        let waiters = all.new.into_iter();
        let waiters = waiters.chain(all.asked.into_values().flatten());
        let waiters = waiters.chain(all.confirmed.into_values().flatten());
        for waiter in waiters.chain(all.again.into_iter().map(|(_, waiter)| waiter)) {
            let _ = waiter.reply.send(Err(ServeError::Stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant(Duration::from_secs(seconds))
    }

    fn applied(reads: &mut Reads, index: u64) {
        let mut answers = Answers::on_the_spot();
        reads.applied(Index(index), &mut answers);
        answers.give_here();
    }

    fn add(reads: &mut Reads) -> oneshot::Receiver<Result<(), ServeError>> {
        let (reply, answer) = oneshot::channel();
        reads.add(reply, at(7));
        answer
    }

    #[test]
    fn a_barrier_set_after_the_question_is_not_opened_by_its_answer() {
        let mut reads = Reads::default();
        let mut early = add(&mut reads);
        let first = reads.ask(at(0)).expect("somebody waits");
        let mut late = add(&mut reads);
        reads.confirm(first, Index(5));
        applied(&mut reads, 4);
        assert!(early.try_recv().is_err(), "index 5 is not applied");
        applied(&mut reads, 5);
        assert_eq!(early.try_recv(), Ok(Ok(())));
        assert!(late.try_recv().is_err(), "its question was not asked yet");
        let second = reads.ask(at(0)).expect("somebody waits");
        assert!(second > first);
        reads.confirm(second, Index(5));
        applied(&mut reads, 5);
        assert_eq!(late.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_failed_question_is_asked_again_until_the_deadline() {
        let mut reads = Reads::default();
        let mut answer = add(&mut reads);
        let first = reads.ask(at(0)).expect("somebody waits");
        reads.failed(first, Ok(at(1)));
        assert_eq!(reads.ask(at(0)), None, "not before its time");
        let second = reads.ask(at(1)).expect("its time has come");
        reads.failed(second, Ok(at(2)));
        reads.expire(at(7));
        assert_eq!(answer.try_recv(), Ok(Err(ServeError::Timeout)));
        assert_eq!(reads.ask(at(8)), None);
    }
}
