//! Reads without writing (Ongaro 2014, §6.4). A leader that has committed in its term knows every
//! committed index; if a quorum still follows it *after* the read began, nobody has committed behind
//! its back, and a machine that has applied that index may answer.
//!
//! All reads that wait when the driver asks for work share one *round*: a number that the heartbeats
//! carry and their answers return. Answering a round answers every earlier one.
//!
//! - A round's number is used once in a node's life, and answers of another term are dropped before
//!   they get here, so no answer can confirm a round begun after it.
//! - A follower's questions to its leader are named by numbers that begin at a random place: a late
//!   answer to a question of the node's last life, or of the last leader, matches nothing.
//! - Rounds in waiting are ordered by number, and their indexes never fall.

use std::collections::{BTreeMap, VecDeque};

use super::input::ReadId;
use crate::types::{Index, NodeId};

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Someone at this node.
    Local(ReadId),
    /// A follower, in the question it named so.
    Peer {
        /// The follower.
        from: NodeId,
        /// Its name for the question.
        forward: u64,
    },
}

#[derive(Clone, Debug)]
struct Round {
    number: u64,
    index: Index,
    askers: Vec<Asker>,
}

#[derive(Clone, Debug)]
struct Forward {
    reads: Vec<ReadId>,
    age_ticks: u32,
}

/// The reads a node is busy with, as leader or as follower.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    /// As leader: came since the last round began.
    waiting: Vec<Asker>,
    rounds: VecDeque<Round>,
    round: u64,
    /// As follower: came since the leader was last asked.
    unasked: Vec<ReadId>,
    asked: BTreeMap<u64, Forward>,
    next_forward: u64,
}

impl Reads {
    /// Starts with nothing; `first_forward` must be random.
    pub(crate) fn new(first_forward: u64) -> Self {
        Self {
            waiting: Vec::new(),
            rounds: VecDeque::new(),
            round: 0,
            unasked: Vec::new(),
            asked: BTreeMap::new(),
            next_forward: first_forward,
        }
    }

    /// Returns the number of the latest round.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Leader: takes a read that waits for the next round.
    pub(crate) fn wait(&mut self, asker: Asker) {
        self.waiting.push(asker);
    }

    /// Leader: begins a round for all that wait. `None` if nobody does.
    pub(crate) fn begin_round(&mut self, commit: Index) -> Option<u64> {
        if self.waiting.is_empty() {
            return None;
        }
        self.round += 1;
        let askers = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { number: self.round, index: commit, askers });
        Some(self.round)
    }

    /// Leader: takes the rounds that a quorum has answered.
    pub(crate) fn confirmed(&mut self, upto: u64) -> Vec<(Index, Asker)> {
        let mut answers = Vec::new();
        while self.rounds.front().is_some_and(|round| round.number <= upto) {
            let round = self.rounds.pop_front().expect("there is a first one");
            answers.extend(round.askers.into_iter().map(|asker| (round.index, asker)));
        }
        answers
    }

    /// Leader: tells whether a round waits for answers.
    pub(crate) fn has_rounds(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Follower: takes a read to ask the leader about.
    pub(crate) fn ask(&mut self, id: ReadId) {
        self.unasked.push(id);
    }

    /// Follower: takes the name of one question for all reads that came since the last.
    pub(crate) fn begin_forward(&mut self) -> Option<u64> {
        if self.unasked.is_empty() {
            return None;
        }
        let forward = self.next_forward;
        if !crate::mutant!("E26") {
            self.next_forward = self.next_forward.wrapping_add(1);
        }
        let reads = std::mem::take(&mut self.unasked);
        self.asked.insert(forward, Forward { reads, age_ticks: 0 });
        Some(forward)
    }

    /// Follower: takes the reads of an answered question.
    pub(crate) fn answered(&mut self, forward: u64) -> Vec<ReadId> {
        self.asked.remove(&forward).map_or_else(Vec::new, |forward| forward.reads)
    }

    /// Follower: counts time and takes the reads whose question was not answered within `limit`.
    pub(crate) fn tick(&mut self, limit: u32) -> Vec<ReadId> {
        let mut expired = Vec::new();
        self.asked.retain(|_, forward| {
            forward.age_ticks += 1;
            let keep = forward.age_ticks < limit;
            if !keep {
                expired.append(&mut forward.reads);
            }
            keep
        });
        expired
    }

    /// Gives everything up, since the leader changed. Round numbers go on.
    pub(crate) fn abandon(&mut self) -> Vec<Asker> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(self.rounds.drain(..).flat_map(|round| round.askers));
        let asked = std::mem::take(&mut self.asked).into_values().flat_map(|f| f.reads);
        all.extend(asked.map(Asker::Local));
        all.extend(self.unasked.drain(..).map(Asker::Local));
        all
    }

    /// Asserts the invariants in the module's doc.
    pub(crate) fn check(&self) {
        for (a, b) in self.rounds.iter().zip(self.rounds.iter().skip(1)) {
            assert!(a.number < b.number && a.index <= b.index, "rounds out of order");
        }
        assert!(self.rounds.back().is_none_or(|last| last.number <= self.round), "a round to come");
    }
}
