//! What is durable, and what is on its way to be. Disks are slow; the core goes on meanwhile, and
//! [`Input::Persisted`](super::Input::Persisted) tells it later.
//!
//! - Hand-overs are durable in order: one counts only when all before it do, whatever order the
//!   reports come in.
//! - `durable` never passes the end of the log *as it is now*. A truncation takes it back, and cuts
//!   every hand-over still on its way down to what the truncation left. Comparing index and term at
//!   the report would not be enough: an entry truncated and later re-appended *unchanged* (by the
//!   third leader) would be acknowledged by its first write, which the second one has undone.

use std::collections::VecDeque;

use super::input::Ticket;
use crate::types::{Index, LogPosition, NodeId, Term};

/// The state of the disk, as far as it was reported.
#[derive(Clone, Debug)]
pub(crate) struct Persist {
    pending: VecDeque<Pending>,
    next: u64,
    durable: Index,
    vote: (Term, Option<NodeId>),
    stalled_ticks: u32,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: Ticket,
    upto: Index,
    vote: (Term, Option<NodeId>),
    done: bool,
}

impl Persist {
    /// Starts with everything that was read back from disk.
    pub(crate) fn new(durable: Index, vote: (Term, Option<NodeId>)) -> Self {
        Self { pending: VecDeque::new(), next: 1, durable, vote, stalled_ticks: 0 }
    }

    /// Returns the last index durable here.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// Returns the term and vote that are durable.
    pub(crate) fn vote(&self) -> (Term, Option<NodeId>) {
        self.vote
    }

    /// Tells whether a hand-over is still on its way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Names a new hand-over.
    pub(crate) fn hand_over(&mut self, last: LogPosition, vote: (Term, Option<NodeId>)) -> Ticket {
        let ticket = Ticket { number: self.next, last };
        self.next += 1;
        self.pending.push_back(Pending { ticket, upto: last.index, vote, done: false });
        ticket
    }

    /// Takes a report. Tells whether anything became durable.
    pub(crate) fn on_persisted(&mut self, ticket: Ticket) -> bool {
        let Some(found) = self.pending.iter_mut().find(|pending| pending.ticket == ticket) else {
            return false;
        };
        found.done = true;
        let mut news = false;
        while self.pending.front().is_some_and(|first| first.done) {
            let first = self.pending.pop_front().expect("there is a first one");
            self.durable = self.durable.max(first.upto);
            self.vote = first.vote;
            self.stalled_ticks = 0;
            news = true;
        }
        news
    }

    /// Takes note that the log was cut from `from` on.
    pub(crate) fn truncated(&mut self, from: Index) {
        let left = from.prev().expect("the base is before every entry");
        self.durable = self.durable.min(left);
        if crate::mutant!("R34") {
            return;
        }
        for pending in &mut self.pending {
            pending.upto = pending.upto.min(left);
        }
    }

    /// Takes note that the log was replaced by a durable snapshot.
    pub(crate) fn reset(&mut self, base: Index) {
        self.durable = base;
        for pending in &mut self.pending {
            pending.upto = base;
        }
    }

    /// Counts time and returns for how long the oldest hand-over has been on its way.
    pub(crate) fn tick(&mut self) -> u32 {
        if self.pending.is_empty() {
            self.stalled_ticks = 0;
        } else {
            self.stalled_ticks = self.stalled_ticks.saturating_add(1);
        }
        self.stalled_ticks
    }

    /// Asserts the invariants in the module's doc.
    pub(crate) fn check(&self, last: Index) {
        if !crate::mutant!("R34") {
            assert!(self.durable <= last, "durable {} beyond the log's end {last}", self.durable);
            let stray = self.pending.iter().find(|pending| pending.upto > last);
            assert!(stray.is_none(), "{stray:?} beyond the log's end {last}");
        }
        let front = self.pending.front();
        assert!(
            front.is_none_or(|first| !first.done),
            "a durable hand-over still waits: {front:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition::new(Index(index), Term(term))
    }

    const NO_VOTE: (Term, Option<NodeId>) = (Term(1), None);

    #[test]
    fn reports_out_of_order_count_in_order() {
        let mut persist = Persist::new(Index(1), NO_VOTE);
        let first = persist.hand_over(at(2, 1), NO_VOTE);
        let second = persist.hand_over(at(3, 1), NO_VOTE);
        assert!(!persist.on_persisted(second));
        assert_eq!(persist.durable(), Index(1));
        assert!(persist.on_persisted(first));
        assert_eq!(persist.durable(), Index(3));
        assert!(!persist.on_persisted(first), "a repeated report is no news");
        persist.check(Index(3));
    }

    #[test]
    fn an_entry_truncated_and_appended_again_unchanged_waits_for_its_second_write() {
        let mut persist = Persist::new(Index(1), NO_VOTE);
        let first = persist.hand_over(at(2, 1), NO_VOTE);
        persist.truncated(Index(2));
        let other = persist.hand_over(at(2, 2), NO_VOTE);
        persist.truncated(Index(2));
        let again = persist.hand_over(at(2, 1), NO_VOTE);
        persist.on_persisted(first);
        assert_eq!(persist.durable(), Index(1));
        persist.on_persisted(other);
        assert_eq!(persist.durable(), Index(1));
        persist.on_persisted(again);
        assert_eq!(persist.durable(), Index(2));
    }
}
