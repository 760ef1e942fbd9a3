//! Building the index anew from rows that come from elsewhere: a peer's snapshot, a backup.
//!
//! Rows are the truth and travel as they are stored; `Keys` and `Counts` follow from them. They are built
//! row by row in ascending order, with one lookup a row and no memory that grows with the keys.
//!
//! A key's chain of rows may have lost its beginning to compaction, so the index built here may know fewer
//! shortcuts to old rows than the sender's. That costs steps on a walk into the past; it shows in no answer.
//!
//! The bytes are not trusted: what does not read is [`Damage`], for the caller to refuse.

use bytes::{Bytes, BytesMut};

use super::codec::{self, Body, Chain, KeyState, Row};
use super::frame::{Damage, decode_row};
use crate::command::RowId;
use crate::storage::{Table, Write};
use crate::types::LeaseId;

/// A row from elsewhere, checked against its checksum and read in place.
#[derive(Debug)]
pub struct ForeignRow<'a> {
    id: RowId,
    row: Row<'a>,
    body: Body<'a>,
}

/// What the index holds of a key once a row of it is the newest.
#[derive(Debug)]
pub struct Indexed {
    /// The value of the key's entry in table `Keys`.
    pub entry: Bytes,
    /// The lease the key was on before this row; 0 for none.
    pub lease_before: LeaseId,
    /// The lease it is on now; 0 for none.
    pub lease: LeaseId,
}

impl<'a> ForeignRow<'a> {
    /// Reads a row of table `Rows`.
    ///
    /// # Errors
    /// If it is not exactly a row as this program stores it.
    pub fn read(key: &[u8], stored: &'a [u8]) -> Result<Self, Damage> {
        let id = codec::parse_row_key(key).ok_or(Damage::Meta("row key"))?;
        let row = decode_row(id, stored)?;
        let body = Body::parse(row.body).ok_or(Damage::Row(id))?;
        if body.key.is_empty() {
            return Err(Damage::Row(id));
        }
        Ok(Self { id, row, body })
    }

    /// The row's place.
    pub fn id(&self) -> RowId {
        self.id
    }

    /// The user key that it is about.
    pub fn key(&self) -> &'a [u8] {
        self.body.key
    }

    /// Makes the key's entry in the index, given the one that the rows before have led to.
    ///
    /// # Errors
    /// If that one is damaged, or is newer than this row.
    pub fn index(&self, before: Option<&[u8]>) -> Result<Indexed, Damage> {
        let damaged = || Damage::Key(Bytes::copy_from_slice(self.key()));
        let before = match before {
            Some(stored) => Some(KeyState::decode(self.key(), stored).ok_or_else(damaged)?),
            None => None,
        };
        if before.as_ref().is_some_and(|state| state.id >= self.id) {
            return Err(damaged());
        }
        let alive = before.as_ref().filter(|state| !state.tombstone);
        let lease_before = alive.map_or(LeaseId(0), |state| state.lease);
        let state = KeyState {
            id: self.id,
            tombstone: self.row.tombstone,
            create: self.body.create,
            version: self.body.version,
            lease: self.body.lease,
            chain: self.chain(before.as_ref()),
        };
        let entry = state.encode(self.key(), &mut BytesMut::new());
        Ok(Indexed { entry, lease_before, lease: state.lease })
    }

    fn chain(&self, before: Option<&KeyState>) -> Chain {
        let depth = self.row.chain.depth;
        let follows = before.filter(|state| {
            self.row.prev == Some(state.id) && state.chain.depth.checked_add(1) == Some(depth)
        });
        match follows {
            Some(state) => state.link(self.id).1,
            // What came before is compacted away: the chain begins here, as far as anybody can tell.
            None => Chain { depth, anchors: vec![self.id; codec::levels_of(depth)] },
        }
    }
}

/// Builds table `Counts` from the entries of `Keys`, given in key order.
#[derive(Debug, Default)]
pub struct CountsBuilder {
    fence: Bytes,
    keys: usize,
    live: u32,
}

/// Keys of a bucket that is built anew: there is room to grow before it must be split.
const BUCKET_KEYS: usize = super::counts::BUCKET_KEYS_MAX / 2;

impl CountsBuilder {
    /// Counts the next key; returns the count of a bucket that is complete with it.
    ///
    /// # Errors
    /// If the entry is damaged.
    pub fn add(&mut self, key: &[u8], entry: &[u8]) -> Result<Option<Write>, Damage> {
        let state =
            KeyState::decode(key, entry).ok_or_else(|| Damage::Key(Bytes::copy_from_slice(key)))?;
        let full = self.keys == BUCKET_KEYS;
        let write = full.then(|| {
            let write = self.write();
            *self = Self { fence: Bytes::copy_from_slice(key), keys: 0, live: 0 };
            write
        });
        self.keys += 1;
        self.live += u32::from(!state.tombstone);
        Ok(write)
    }

    /// Returns the count of the last bucket.
    pub fn finish(self) -> Write {
        self.write()
    }

    fn write(&self) -> Write {
        let fence =
            if self.fence.is_empty() { Bytes::from_static(&[0]) } else { self.fence.clone() };
        let value = codec::encode_count(&fence, self.live);
        Write::put(Table::Counts, fence, value)
    }
}
