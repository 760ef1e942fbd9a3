//! The log's tail in memory: everything after the last trim. The disk holds the same and more; the
//! core never reads it back.
//!
//! ```text
//!   trimmed │ base+1 ……………… handed │ handed+1 ……… last
//!           │   given to the disk   │  waits for the next hand-over
//! ```
//!
//! - Indexes are contiguous from `base`, terms never fall: the term at an index is one array access.
//! - `handed` never passes the end. A truncation takes it back and is handed over with what follows.
//! - `conf` lists the places of configuration entries, in order.

use std::collections::VecDeque;

use super::entry::{Entry, Payload};
use crate::types::{Index, LogPosition, Term};

/// The log's tail.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    base: LogPosition,
    entries: VecDeque<Entry>,
    bytes: u64,
    handed: Index,
    truncate_from: Option<Index>,
    conf: VecDeque<Index>,
}

impl Log {
    /// Starts with what is on disk.
    pub(crate) fn new(base: LogPosition, entries: Vec<Entry>) -> Self {
        let mut log = Self {
            base,
            entries: VecDeque::with_capacity(entries.len()),
            bytes: 0,
            handed: base.index,
            truncate_from: None,
            conf: VecDeque::new(),
        };
        for entry in entries {
            log.push(entry);
        }
        log.handed = log.last().index;
        log
    }

    /// Returns the position right before the first entry.
    pub(crate) fn base(&self) -> LogPosition {
        self.base
    }

    /// Returns the last entry's position.
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.base, Entry::position)
    }

    /// Returns what the tail costs in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn slot(&self, index: Index) -> Option<usize> {
        let from_base = index.get().checked_sub(self.base.index.get())?;
        usize::try_from(from_base.checked_sub(1)?).ok()
    }

    /// Returns the entry at `index`, if it is in the tail.
    pub(crate) fn get(&self, index: Index) -> Option<&Entry> {
        self.entries.get(self.slot(index)?)
    }

    /// Returns the term at `index`: of an entry, or of the base.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// Tells whether the log holds exactly this entry.
    pub(crate) fn holds(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// Returns the last place not beyond `position` and of no later term: where a log that ends with
    /// `position` may agree with this one. Never before the base.
    pub(crate) fn last_agreeable(&self, position: LogPosition) -> LogPosition {
        let upto = position.index.min(self.last().index);
        let considered = self.slot(upto).map_or(0, |slot| slot + 1);
        // Terms never fall along the log, so the entries of no later term are a prefix.
        let slot = self.entries.partition_point(|entry| entry.term <= position.term);
        match slot.min(considered).checked_sub(1) {
            Some(slot) => self.entries[slot].position(),
            None => self.base,
        }
    }

    /// Appends one entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.index, last.index.next(), "a hole after {last}");
        assert!(entry.term >= last.term, "term regression {last} → {}", entry.position());
        self.bytes += entry.bytes();
        if matches!(entry.payload, Payload::ConfChange(_)) {
            self.conf.push_back(entry.index);
        }
        self.entries.push_back(entry);
    }

    /// Drops `from` and everything after it, because a leader's log says otherwise.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "truncation at {from} reaches into the trimmed log");
        while self.entries.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.entries.pop_back().expect("there is a last one");
            self.bytes -= entry.bytes();
        }
        while self.conf.back().is_some_and(|index| *index >= from) {
            self.conf.pop_back();
        }
        if self.handed >= from {
            self.handed = from.prev().expect("the base is before it");
            self.truncate_from = Some(from);
        }
    }

    /// Drops everything up to and with `upto`, which must be in the tail.
    pub(crate) fn trim(&mut self, upto: Index) {
        if upto <= self.base.index {
            return;
        }
        let term = self.term_at(upto).expect("the trim's end is in the log");
        while self.entries.front().is_some_and(|entry| entry.index <= upto) {
            let entry = self.entries.pop_front().expect("there is a first one");
            self.bytes -= entry.bytes();
        }
        while self.conf.front().is_some_and(|index| *index <= upto) {
            self.conf.pop_front();
        }
        self.base = LogPosition::new(upto, term);
        assert!(self.handed >= upto, "{upto} was trimmed before it was handed over");
    }

    /// Replaces everything by a snapshot that ends at `base`; the disk has done so already.
    pub(crate) fn reset(&mut self, base: LogPosition) {
        *self = Self::new(base, Vec::new());
    }

    /// Returns entries from `from` on: at most `bytes_max` of them, but at least one.
    pub(crate) fn slice(&self, from: Index, bytes_max: u64) -> (Vec<Entry>, u64) {
        self.page(from, self.last().index, bytes_max, usize::MAX)
    }

    /// Returns entries from `from` to `upto`, within the limits, but at least one if there is one.
    pub(crate) fn page(
        &self,
        from: Index,
        upto: Index,
        bytes_max: u64,
        entries_max: usize,
    ) -> (Vec<Entry>, u64) {
        let Some(start) = self.slot(from) else { return (Vec::new(), 0) };
        let end = self.slot(upto).map_or(0, |slot| slot + 1).min(self.entries.len());
        let (mut bytes, mut count) = (0, 0);
        for entry in self.entries.range(start.min(end)..end) {
            let more = bytes + entry.bytes();
            if count > 0 && (more > bytes_max || count >= entries_max) {
                break;
            }
            bytes = more;
            count += 1;
        }
        let start = start.min(end);
        (self.entries.range(start..start + count).cloned().collect(), bytes)
    }

    /// Returns the bytes carried by the entries after `after`, up to and with `upto`.
    pub(crate) fn payload_bytes(&self, after: Index, upto: Index) -> u64 {
        let start = self.slot(after).map_or(0, |slot| slot + 1).min(self.entries.len());
        let end = self.slot(upto).map_or(0, |slot| slot + 1).min(self.entries.len());
        self.entries.range(start..end.max(start)).map(|entry| entry.payload.bytes()).sum()
    }

    /// Returns the first configuration entry after `index`.
    pub(crate) fn first_conf_after(&self, index: Index) -> Option<Index> {
        let at = self.conf.partition_point(|conf| *conf <= index);
        self.conf.get(at).copied()
    }

    /// Returns the last configuration entry but one: by the later one the log itself proves that it is
    /// committed, since a leader appends no change before it has applied the one before.
    pub(crate) fn last_conf_but_one(&self) -> Option<Index> {
        self.conf.iter().rev().nth(1).copied()
    }

    /// Returns the last configuration entry.
    pub(crate) fn last_conf(&self) -> Option<Index> {
        self.conf.back().copied()
    }

    /// Takes what the disk has not been given: where to cut, and what to append.
    pub(crate) fn hand_over(&mut self) -> (Option<Index>, Vec<Entry>) {
        let last = self.last().index;
        let entries = if self.handed < last {
            self.page(self.handed.next(), last, u64::MAX, usize::MAX).0
        } else {
            Vec::new()
        };
        self.handed = last;
        (self.truncate_from.take(), entries)
    }

    /// Asserts the invariants in the module's doc. Constant time, but for the configuration entries.
    pub(crate) fn check(&self) {
        let last = self.last();
        let len = u64::try_from(self.entries.len()).expect("a length fits 64 bits");
        assert_eq!(self.base.index.get() + len, last.index.get(), "the log is not contiguous");
        assert!(last.term >= self.base.term, "terms fall from {} to {last}", self.base);
        assert!(
            self.base.index <= self.handed && self.handed <= last.index,
            "handed {} outside {}..{last}",
            self.handed,
            self.base
        );
        if let (Some(first), Some(end)) = (self.conf.front(), self.conf.back()) {
            assert!(*first > self.base.index && *end <= last.index, "a stray configuration entry");
        }
    }
}
