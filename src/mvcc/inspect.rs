//! Stored rows taken apart for whoever looks at a stopped member's tables from outside, without a store
//! over them: what stands there, and not what a reader would be told.
//!
//! The bytes are not trusted: what does not read is [`Damage`]. Nothing here writes, and nothing compares one
//! row with another; that is for the one who looks.

use bytes::Bytes;

use super::codec::{self, Body, KeyState};
use super::frame::{Damage, decode_row};
use super::scrub;
use super::store::{META_COMPACT, META_REVISION};
use crate::command::RowId;
use crate::types::{LeaseId, Revision};

/// A row of table `Rows`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Its place.
    pub id: RowId,
    /// Whether it deletes its key.
    pub tombstone: bool,
    /// The key's row before, which may be compacted away.
    pub prev: Option<RowId>,
    /// How many rows of the key came before.
    pub depth: u64,
    /// The user key.
    pub key: Bytes,
    /// When the key's life began that this row belongs to; 0 in a tombstone.
    pub create: Revision,
    /// Writes in that life; 0 in a tombstone.
    pub version: i64,
    /// The lease; 0 for none.
    pub lease: LeaseId,
    /// etcd's form of key and value.
    pub body: Bytes,
}

impl StoredRow {
    /// Reads a row under its key.
    ///
    /// # Errors
    /// If it is not exactly a row as this program stores it.
    pub fn read(key: &[u8], stored: &[u8]) -> Result<Self, Damage> {
        let id = codec::parse_row_key(key).ok_or(Damage::Meta("row key"))?;
        let row = decode_row(id, stored)?;
        let body = Body::parse(row.body).ok_or(Damage::Row(id))?;
        Ok(Self {
            id,
            tombstone: row.tombstone,
            prev: row.prev,
            depth: row.chain.depth,
            key: Bytes::copy_from_slice(body.key),
            create: body.create,
            version: body.version,
            lease: body.lease,
            body: Bytes::copy_from_slice(row.body),
        })
    }
}

/// An entry of table `Keys`: the newest state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The user key.
    pub key: Bytes,
    /// Its newest row.
    pub id: RowId,
    /// Whether that row deleted it; then the numbers that follow but the last are 0.
    pub tombstone: bool,
    /// When its life began.
    pub create: Revision,
    /// Writes in its life.
    pub version: i64,
    /// The lease that owns it; 0 for none.
    pub lease: LeaseId,
    /// How many rows of the key came before the newest.
    pub depth: u64,
}

impl StoredKey {
    /// Reads a key's entry.
    ///
    /// # Errors
    /// If it is not exactly an entry as this program stores it.
    pub fn read(key: &[u8], stored: &[u8]) -> Result<Self, Damage> {
        let key = Bytes::copy_from_slice(key);
        let state = KeyState::decode(&key, stored).ok_or_else(|| Damage::Key(key.clone()))?;
        Ok(Self {
            key,
            id: state.id,
            tombstone: state.tombstone,
            create: state.create,
            version: state.version,
            lease: state.lease,
            depth: state.chain.depth,
        })
    }
}

/// Reads a row of table `Counts`: where a stretch of keys begins (the first one at the empty key), and how
/// many keys live in it.
///
/// # Errors
/// If it is not exactly a count as this program stores it.
pub fn stored_count(fence: &[u8], stored: &[u8]) -> Result<(Bytes, u32), Damage> {
    let begins = if fence == [0] { Bytes::new() } else { Bytes::copy_from_slice(fence) };
    match codec::decode_count(fence, stored) {
        Some(live) => Ok((begins, live)),
        None => Err(Damage::Count(begins)),
    }
}

/// What table `Meta` says of the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredFacts {
    /// The current revision; `None` before the first write.
    pub revision: Option<Revision>,
    /// The compact revision; `None` before the first compaction.
    pub compact: Option<Revision>,
    /// The last compaction whose superseded rows are all gone.
    pub scrubbed: Option<Revision>,
    /// Compactions whose superseded rows are not all gone.
    pub pending: Vec<Revision>,
}

impl StoredFacts {
    /// Takes in a row of table `Meta`; rows that say something else are passed over.
    ///
    /// # Errors
    /// If it is of ours and does not read.
    pub fn take(&mut self, key: &[u8], stored: &[u8]) -> Result<(), Damage> {
        if key == META_REVISION || key == META_COMPACT {
            let fact = codec::decode_fact(key, stored).and_then(|fact| fact.try_into().ok());
            let fact = fact.map(i64::from_be_bytes).ok_or(Damage::Meta("revision"))?;
            let place = if key == META_REVISION { &mut self.revision } else { &mut self.compact };
            *place = Some(Revision(fact));
        } else if let Some(scrubbed) = scrub::scrubbed_fact(key, stored)? {
            self.scrubbed = Some(scrubbed);
        } else if let Some(pending) = scrub::pending_fact(key)? {
            self.pending.push(pending);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;
    use crate::command::{Command, Op, Put, RequestId};
    use crate::machine::{Machine, MachineOptions};
    use crate::raft::{Entry, Payload};
    use crate::storage::{Storage, StorageOptions, Table};
    use crate::types::{Index, Term};
    use std::ops::Bound;

    fn all(store: &Store, table: Table) -> Vec<(Bytes, Bytes)> {
        let view = store.storage().view();
        let rows = view.scan(table, Bound::Unbounded, Bound::Unbounded);
        rows.map(|(key, value)| (Bytes::copy_from_slice(&key), value.to_bytes())).collect()
    }

    #[test]
    fn what_was_written_is_taken_apart_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = Storage::create(dir.path(), StorageOptions::default()).expect("created");
        let mut machine = Machine::open(storage, MachineOptions::default()).expect("opened");
        let put = |value: &'static str| {
            let (key, value) = (Bytes::from("k"), Bytes::from(value));
            Op::Put(Put { key, value, ..Put::default() })
        };
        let ops = [put("a"), put("b"), Op::Compact { revision: 3, physical: false }];
        for (n, op) in (1..).zip(ops) {
            let command = Command { id: RequestId(n), user: String::new(), auth_revision: 0, op };
            let payload = Payload::Command(command.encode());
            machine.apply(&[Entry { term: Term(1), index: Index(n), payload }]);
        }
        let store = machine.reader().store();
        let rows = all(&store, Table::Rows);
        let read: Vec<StoredRow> =
            rows.iter().map(|(k, v)| StoredRow::read(k, v).expect("reads")).collect();
        assert_eq!(read.len(), 2);
        let (first, second) = (&read[0], &read[1]);
        assert_eq!((second.prev, second.version), (Some(first.id), 2));
        assert_eq!((second.depth, second.create), (1, first.id.main));
        assert_eq!((&second.key[..], second.tombstone), (&b"k"[..], false));
        assert!(StoredRow::read(&rows[0].0, &rows[1].1).is_err(), "under another's key");

        let keys = all(&store, Table::Keys);
        let key = StoredKey::read(&keys[0].0, &keys[0].1).expect("reads");
        assert_eq!((key.id, key.version, key.depth), (second.id, 2, 1));
        assert!(StoredKey::read(b"other", &keys[0].1).is_err());
        let counts = all(&store, Table::Counts);
        assert_eq!(stored_count(&counts[0].0, &counts[0].1), Ok((Bytes::new(), 1)));
        assert!(stored_count(b"other", &counts[0].1).is_err());

        let mut facts = StoredFacts::default();
        for (key, stored) in all(&store, Table::Meta) {
            facts.take(&key, &stored).expect("reads");
        }
        let three = Some(Revision(3));
        let pending = vec![Revision(3)];
        assert_eq!(facts, StoredFacts { revision: three, compact: three, scrubbed: None, pending });
    }
}
