//! All changes ever made, by revision and by key: what a read at any revision must show, and what a
//! watch must deliver.
//!
//! Invariants:
//! * revisions are contiguous from `base + 1`; one may be empty only as a stand-in for a revision nobody
//!   could explain;
//! * `keys[k]` lists the changes of `k` in ascending order; each change of a revision carries that
//!   revision as `mod_revision`.
//!
//! Compaction does not exist here: nothing is ever forgotten.

use crate::blob::Blob;
use crate::op::{Change, EventKind, KeyValue, OPEN_END};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The changes of every revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    base: i64,
    starts: Vec<u32>,
    changes: Vec<Change>,
    keys: BTreeMap<Blob, Vec<u32>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Timeline::new(1)
    }
}

/// Size of an index into the changes: a history with more than four thousand million does not fit anyway.
fn index(at: usize) -> u32 {
    u32::try_from(at).expect("fewer than 2^32 changes")
}

impl Timeline {
    /// An empty one whose first revision will be `base + 1`. A fresh store is at 1.
    pub fn new(base: i64) -> Self {
        Timeline { base, starts: Vec::new(), changes: Vec::new(), keys: BTreeMap::new() }
    }

    /// The latest revision.
    pub fn revision(&self) -> i64 {
        self.base + i64::try_from(self.starts.len()).expect("fits")
    }

    /// The revision before the first.
    pub fn base(&self) -> i64 {
        self.base
    }

    fn span(&self, revision: i64) -> std::ops::Range<usize> {
        let Some(at) = revision.checked_sub(self.base + 1).and_then(|at| usize::try_from(at).ok())
        else {
            return 0..0;
        };
        match self.starts.get(at) {
            None => 0..0,
            Some(&start) => {
                let end = self.starts.get(at + 1).map_or(self.changes.len(), |&end| end as usize);
                start as usize..end
            }
        }
    }

    /// The changes of one revision, in the order they were made; none for a revision that is not there.
    pub fn at(&self, revision: i64) -> &[Change] {
        &self.changes[self.span(revision)]
    }

    /// The change with this number.
    pub fn change(&self, number: u32) -> &Change {
        &self.changes[number as usize]
    }

    /// The change with this number, if it was not undone.
    pub(crate) fn existing(&self, number: u32) -> Option<&Change> {
        self.changes.get(number as usize)
    }

    /// Adds the next revision.
    pub fn push(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.open();
        changes.into_iter().for_each(|change| {
            self.add(change);
        });
    }

    /// Begins the next revision; changes are added to it until the next one.
    pub(crate) fn open(&mut self) {
        self.starts.push(index(self.changes.len()));
    }

    /// Takes back an opened revision that stayed empty; tells whether it was.
    pub(crate) fn close_if_empty(&mut self) -> bool {
        let empty = self.starts.last().is_some_and(|&start| start as usize == self.changes.len());
        if empty {
            self.starts.pop();
        }
        empty
    }

    /// Adds a change to the latest revision and returns its number.
    pub(crate) fn add(&mut self, change: Change) -> u32 {
        let number = index(self.changes.len());
        match self.keys.get_mut(&change.kv.key) {
            Some(list) => list.push(number),
            None => {
                self.keys.insert(change.kv.key.clone(), vec![number]);
            }
        }
        self.changes.push(change);
        number
    }

    /// Removes the latest revision, calling `each` with every undone change, last first, and the number
    /// of the change of that key before it.
    pub(crate) fn pop(&mut self, mut each: impl FnMut(Change, Option<u32>)) {
        let start = self.starts.pop().expect("a revision to undo") as usize;
        while self.changes.len() > start {
            let change = self.changes.pop().expect("longer than start");
            let list = self.keys.get_mut(&change.kv.key).expect("each change is listed");
            list.pop();
            let before = list.last().copied();
            if before.is_none() {
                self.keys.remove(&change.kv.key);
            }
            each(change, before);
        }
    }

    /// The last change of `key` at or before `revision`.
    pub fn last_change(&self, key: &[u8], revision: i64) -> Option<&Change> {
        self.last_of(self.keys.get(key)?, revision)
    }

    fn last_of(&self, list: &[u32], revision: i64) -> Option<&Change> {
        let after = list.partition_point(|&n| self.change(n).kv.mod_revision <= revision);
        Some(self.change(list[after.checked_sub(1)?]))
    }

    /// The key as a read at `revision` shows it.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        self.last_change(key, revision).and_then(alive)
    }

    /// All keys of a range as a read at `revision` shows them, in order.
    pub fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
        revision: i64,
    ) -> impl Iterator<Item = &'a KeyValue> {
        scan(&self.keys, start, end)
            .filter_map(move |(_, list)| self.last_of(list, revision).and_then(alive))
    }

    /// The numbers of all changes to keys of a range from `revision` on, in order.
    pub fn changes_from(&self, start: &[u8], end: &[u8], revision: i64) -> Vec<u32> {
        let mut all = Vec::new();
        for (_, list) in scan(&self.keys, start, end) {
            let from = list.partition_point(|&n| self.change(n).kv.mod_revision < revision);
            all.extend_from_slice(&list[from..]);
        }
        all.sort_unstable();
        all
    }
}

fn alive(change: &Change) -> Option<&KeyValue> {
    (change.kind == EventKind::Put).then_some(&change.kv)
}

/// Walks the part of an ordered map that etcd means by `start` and `end`.
pub(crate) fn scan<'a, V>(
    map: &'a BTreeMap<Blob, V>,
    start: &'a [u8],
    end: &'a [u8],
) -> impl Iterator<Item = (&'a Blob, &'a V)> {
    let upper = match end {
        b"" => Bound::Included(start),
        OPEN_END => Bound::Unbounded,
        // An upside-down range is empty, and `BTreeMap::range` would panic on it.
        _ if end <= start => Bound::Excluded(start),
        _ => Bound::Excluded(end),
    };
    let lower = match upper {
        Bound::Excluded(edge) if edge == start => None,
        _ => Some(Bound::Included(start)),
    };
    lower.into_iter().flat_map(move |lower| map.range::<[u8], _>((lower, upper)))
}
