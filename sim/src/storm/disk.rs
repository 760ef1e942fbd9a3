//! A disk that takes its time and forgets. Hand-overs queue, are written in order and become durable
//! together with those queued when the write began (group commit). A power loss keeps any prefix of
//! what was on its way, and may tear the first hand-over that it loses: any of its parts may be there.

use std::collections::VecDeque;

use mainstay::raft::{Entry, Envelope, HardState, Random, SnapshotMeta, Ticket};
use mainstay::types::{Index, LogPosition, Term};

use super::machine::Machine;
use super::plan::Draw;

/// What is durable on one node's disk, and what is on its way there.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// The position before the first entry.
    pub(super) base: LogPosition,
    /// The log after it.
    pub(super) entries: VecDeque<Entry>,
    /// Term, vote, commit.
    pub(super) hard: HardState,
    /// The machine's last checkpoint or installed snapshot.
    pub(super) machine: Machine,
    queue: VecDeque<Write>,
    writing: usize,
}

/// One thing to be written.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// A hand-over of the core.
    Log {
        ticket: Ticket,
        hard: Option<HardState>,
        truncate_from: Option<Index>,
        entries: Vec<Entry>,
        promises: Vec<Envelope>,
    },
    /// A staged snapshot that replaces machine and log.
    Install { meta: SnapshotMeta, machine: Machine },
}

impl Disk {
    pub(super) fn new(base: LogPosition, hard: HardState, machine: Machine) -> Self {
        Self { base, entries: VecDeque::new(), hard, machine, queue: VecDeque::new(), writing: 0 }
    }

    pub(super) fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.base, Entry::position)
    }

    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let slot = index.get().checked_sub(self.base.index.get() + 1)?;
        self.entries.get(usize::try_from(slot).ok()?).map(|entry| entry.term)
    }

    /// Tells whether the entry is here, in the log or, being older than it, in the machine's state.
    pub(super) fn holds(&self, position: LogPosition) -> bool {
        position.index < self.base.index || self.term_at(position.index) == Some(position.term)
    }

    pub(super) fn push(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    /// Begins to write what is queued. False if a write is under way or there is nothing to do.
    pub(super) fn begin(&mut self) -> bool {
        if self.writing > 0 || self.queue.is_empty() {
            return false;
        }
        // Group commit, but an installation is a write of its own.
        let installs = |write: &Write| matches!(write, Write::Install { .. });
        self.writing = self.queue.iter().position(installs).unwrap_or(self.queue.len()).max(1);
        true
    }

    /// Ends the write under way and returns what has become durable.
    pub(super) fn finish(&mut self) -> Vec<Write> {
        let done: Vec<Write> = self.queue.drain(..self.writing).collect();
        self.writing = 0;
        for write in &done {
            self.make_durable(write);
        }
        done
    }

    fn make_durable(&mut self, write: &Write) {
        match write {
            Write::Log { hard, truncate_from, entries, .. } => {
                self.cut(*truncate_from);
                self.append(entries);
                self.hard = hard.unwrap_or(self.hard);
            }
            Write::Install { meta, machine } => {
                self.machine = machine.clone();
                self.drop_log(meta.position);
            }
        }
    }

    fn cut(&mut self, from: Option<Index>) {
        let Some(from) = from else { return };
        while self.entries.back().is_some_and(|entry| entry.index >= from) {
            self.entries.pop_back();
        }
    }

    fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert_eq!(entry.index, self.last().index.next(), "a hole is written");
            self.entries.push_back(entry.clone());
        }
    }

    fn drop_log(&mut self, base: LogPosition) {
        self.entries.clear();
        self.base = base;
    }

    /// Drops entries that the durable machine contains.
    pub(super) fn trim(&mut self, upto: Index) {
        while self.entries.front().is_some_and(|entry| entry.index <= upto) {
            self.base = self.entries.pop_front().expect("there is a first one").position();
        }
    }

    /// Loses power. Tells whether the log is void, because a snapshot took its place.
    pub(super) fn crash(&mut self, rng: &mut Random, torn: u64) -> bool {
        let base = self.base;
        let queue: Vec<Write> = self.queue.drain(..).collect();
        self.writing = 0;
        let kept = rng.slot(queue.len() + 1);
        for (place, write) in queue.iter().enumerate() {
            if place < kept {
                self.make_durable(write);
            } else if place == kept && rng.chance(torn) {
                self.tear(write, rng);
            }
        }
        // What a driver does at start: if the machine stands where the log does not reach (a crash in
        // the middle of an installation), the log is void.
        let position = self.machine.position;
        assert!(position.index >= self.base.index, "the log was trimmed beyond the machine");
        if !self.holds(position) {
            self.drop_log(position);
        }
        self.base != base
    }

    /// Loses power and nothing else: all that was handed over is there, and so is the commit index of
    /// the last hand-over. The spec of recorded storms has no other disk.
    pub(super) fn keep_all(&mut self, commit: Index) {
        let queue: Vec<Write> = self.queue.drain(..).collect();
        self.writing = 0;
        queue.iter().for_each(|write| self.make_durable(write));
        self.hard.commit = self.hard.commit.max(commit);
    }

    fn tear(&mut self, write: &Write, rng: &mut Random) {
        match write {
            Write::Log { hard, truncate_from, entries, .. } => {
                if rng.chance(500_000) {
                    self.hard = hard.unwrap_or(self.hard);
                }
                if rng.chance(500_000) {
                    self.cut(*truncate_from);
                    let some = rng.slot(entries.len() + 1);
                    self.append(&entries[..some]);
                }
            }
            // Swapped the machine, died before replacing the log.
            Write::Install { machine, .. } => self.machine = machine.clone(),
        }
    }
}
