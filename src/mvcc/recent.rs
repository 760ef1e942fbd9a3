//! The latest births and deaths of keys: how a count at a slightly older revision is had from the
//! present one.
//!
//! Clients that page through a list pin the revision of the first page, so counts are asked for at
//! revisions a little behind. The number of keys then is the number now, less those born since, plus
//! those that died since. Updates of living keys do not matter and are not kept.
//!
//! Invariants
//! - Complete from [`floor`](Recent::floor) on: every change of a revision above it is here.
//! - Bounded, in changes and in bytes of keys; when full, the oldest go and the floor rises.
//! - Frozen blocks never change, so a reader takes them along and counts without any lock.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::KeyRange;
use crate::types::Revision;

const BLOCK: usize = 512;
const BLOCKS_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 8 << 20;

/// A key that was born (+1) or died (−1).
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub revision: Revision,
    pub key: Bytes,
    pub delta: i8,
}

/// The latest changes.
#[derive(Debug)]
pub(super) struct Recent {
    floor: Revision,
    blocks: VecDeque<Arc<Vec<Change>>>,
    active: Vec<Change>,
    key_bytes: usize,
}

/// What a reader takes along to count.
#[derive(Debug)]
pub(super) struct Since {
    /// Changes above this revision are in it, and only those.
    pub after: Revision,
    blocks: Vec<Arc<Vec<Change>>>,
    counted: i64,
}

impl Recent {
    /// Starts empty: complete from here on.
    pub(super) fn new(floor: Revision) -> Self {
        Self { floor, blocks: VecDeque::new(), active: Vec::with_capacity(BLOCK), key_bytes: 0 }
    }

    /// The revision above which every change is known.
    #[cfg(test)]
    fn floor(&self) -> Revision {
        self.floor
    }

    /// Adds one revision's changes.
    pub(super) fn push(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.key_bytes += change.key.len();
            self.active.push(change);
            if self.active.len() == BLOCK {
                let full = std::mem::replace(&mut self.active, Vec::with_capacity(BLOCK));
                self.blocks.push_back(Arc::new(full));
            }
        }
        if crate::buggify!("recent_forgets_all")
            && let Some(newest) = self.active.last()
        {
            self.floor = newest.revision;
            self.key_bytes = 0;
            self.blocks.clear();
            self.active.clear();
        }
        while self.blocks.len() > BLOCKS_MAX
            || (self.key_bytes > KEY_BYTES_MAX && !self.blocks.is_empty())
        {
            let gone = self.blocks.pop_front().expect("there is a block");
            self.floor = gone.last().expect("a block is full").revision;
            self.key_bytes -= gone.iter().map(|change| change.key.len()).sum::<usize>();
        }
    }

    /// Takes what happened in `range` above `revision`, or above the floor if that is higher. The
    /// changes of the active block are counted here, those of frozen blocks by the reader.
    pub(super) fn since(&self, revision: Revision, range: &KeyRange) -> Since {
        let after = revision.max(self.floor);
        let first = self
            .blocks
            .partition_point(|block| block.last().expect("a block is full").revision <= after);
        let blocks = self.blocks.range(first..).cloned().collect();
        Since { after, blocks, counted: sum(&self.active, after, range) }
    }
}

impl Since {
    /// Returns how many keys more the range has now than it had.
    pub(super) fn gained(&self, range: &KeyRange) -> i64 {
        let frozen = self.blocks.iter().map(|block| sum(block, self.after, range));
        self.counted + frozen.sum::<i64>()
    }
}

fn sum(changes: &[Change], after: Revision, range: &KeyRange) -> i64 {
    changes
        .iter()
        .rev()
        .take_while(|change| change.revision > after)
        .filter(|change| range.contains(&change.key))
        .map(|change| i64::from(change.delta))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::RangeEnd;

    #[test]
    fn what_happened_since_is_exact_down_to_the_floor() {
        let range = KeyRange::Span {
            start: Bytes::from_static(b"k3"),
            end: RangeEnd::Before(Bytes::from_static(b"k7")),
        };
        let mut recent = Recent::new(Revision(1));
        let mut all = Vec::new();
        for number in 0..50_000i64 {
            let change = Change {
                revision: Revision(2 + number / 3),
                key: Bytes::from(format!("k{}", number % 10)),
                delta: if number % 7 < 4 { 1 } else { -1 },
            };
            all.push(change.clone());
            recent.push([change]);
        }
        let top = all.last().expect("many").revision.0;
        assert!(recent.floor() > Revision(1), "older changes are dropped");
        for back in [0, 1, 2, 100, 5_000, 10_000, top] {
            let since = recent.since(Revision(top - back), &range);
            assert_eq!(since.after, Revision(top - back).max(recent.floor()));
            let expected: i64 = all
                .iter()
                .filter(|change| change.revision > since.after && range.contains(&change.key))
                .map(|change| i64::from(change.delta))
                .sum();
            assert_eq!(since.gained(&range), expected, "{back} back");
        }
    }
}
