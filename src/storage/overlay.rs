//! The part of the applied state that is not yet in LMDB: change sets in memory, newest value by key.
//!
//! A [`Generation`] gathers change sets; a removed key is kept as a tombstone (`None`), since an older
//! value may lie beneath. There are at most two: the *active* one, which takes new change sets, and
//! the *frozen* one, which is being written to LMDB and no longer changes.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use bytes::Bytes;

use super::schema::{RESERVED, Table};
use crate::types::LogPosition;

/// One write to one table; `None` removes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub table: Table,
    /// The key; never empty.
    pub key: Bytes,
    /// The new value, or `None` to remove the key.
    pub value: Option<Bytes>,
}

impl Write {
    /// Writes a value.
    pub fn put(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { table, key: key.into(), value: Some(value.into()) }
    }

    /// Removes a key; harmless if it is not there.
    pub fn delete(table: Table, key: impl Into<Bytes>) -> Self {
        Self { table, key: key.into(), value: None }
    }
}

/// Everything that one log entry changes: seen as a whole or not at all, stored as a whole or not at
/// all. Of two writes to one key the later one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeSet {
    /// The entry.
    pub position: LogPosition,
    /// What it changes; may be nothing.
    pub writes: Vec<Write>,
}

/// Says why a write is impossible, if it is.
pub(super) fn check_write(write: &Write) -> Result<(), &'static str> {
    match (write.table, write.key.first()) {
        (_, None) => Err("an empty key"),
        (Table::Meta, Some(&RESERVED)) => Err("a key that belongs to storage itself"),
        _ => Ok(()),
    }
}

/// What one entry in an ordered map of the overlay costs beyond its bytes, roughly.
const ENTRY_OVERHEAD: usize = 96;

/// A run of change sets, merged.
#[derive(Default)]
pub(super) struct Generation {
    tables: [BTreeMap<Bytes, Option<Bytes>>; Table::COUNT],
    bytes: usize,
    last: Option<LogPosition>,
}

impl Generation {
    /// Merges a change set on top. Its place in the order is checked by the caller.
    pub(super) fn add(&mut self, set: ChangeSet) {
        for write in set.writes {
            if let Err(why) = check_write(&write) {
                panic!("table {}, key {:?}: {why}", write.table.name(), write.key);
            }
            self.put(write.table, write.key, write.value);
        }
        self.last = Some(set.position);
    }

    /// Sets one key, with no rule about who may write it.
    pub(super) fn put(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let fixed = key.len() + ENTRY_OVERHEAD;
        self.bytes += fixed + value.as_ref().map_or(0, Bytes::len);
        if let Some(old) = self.tables[table.slot()].insert(key, value) {
            self.bytes -= fixed + old.map_or(0, |v| v.len());
        }
    }

    /// Returns what this generation says about a key: nothing, removed, or a value.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Bytes>> {
        self.tables[table.slot()].get(key)
    }

    /// Walks a table's keys within bounds that are known not to be crossed.
    pub(super) fn range(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_> {
        self.tables[table.slot()].range::<[u8], _>((from, to))
    }

    /// Returns all entries of a table, ascending.
    pub(super) fn table(&self, table: Table) -> &BTreeMap<Bytes, Option<Bytes>> {
        &self.tables[table.slot()]
    }

    /// Returns the position of the newest change set, `None` if there is none.
    pub(super) fn last(&self) -> Option<LogPosition> {
        self.last
    }

    /// Returns roughly how much memory the entries take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Entries of one table of a generation.
pub(super) type Entries<'a> = btree_map::Range<'a, Bytes, Option<Bytes>>;
