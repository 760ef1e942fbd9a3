//! Looking at the keys as they were at one revision, within one view.
//!
//! A [`Frame`] puts a view, what a transaction has written so far, and a revision together. `Keys` says
//! where the newest row of a key is; if that is newer than the frame's revision, the key's chain leads
//! back to the row that was newest then.
//!
//! Invariants
//! - The frame's revision is at or above the compact revision that was published when its view was
//!   taken. So every row above the revision is there, and a row that is missing at or below it means
//!   that the key did not live then.
//! - What does not fit is [`Damage`], never an answer: a row that fails its checksum, or is missing
//!   where compaction cannot have removed it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use super::codec::{self, Body, KeyState, Row};
use super::counts::Delta;
use super::ledger::{Audit, Ledger};
use crate::command::{KeyRange, KeyValue, RangeEnd, RowId};
use crate::mutant;
use crate::storage::{Data, Table, View};
use crate::types::{LeaseId, Revision};

/// A stored row, key or count is not what was written. The member must stop: what it knows is not the
/// truth, and its peers have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A row does not fit its checksum or its form.
    #[error("row {0} of the store is damaged")]
    Row(RowId),
    /// A row is missing that cannot have been compacted away.
    #[error("row {0} of the store is missing")]
    MissingRow(RowId),
    /// Rows leave a gap: a revision has none.
    #[error("the store has no row for revision {0}")]
    MissingRevision(Revision),
    /// The newest state of a key does not fit its checksum or its form.
    #[error("the store's entry for key {0:?} is damaged")]
    Key(Bytes),
    /// A count does not fit its checksum.
    #[error("the store's key count at {0:?} is damaged")]
    Count(Bytes),
    /// Keys are missing, or there are some that were never written.
    #[error("the store has {found} keys that live, and counts {counted}")]
    Live {
        /// As many were found.
        found: i64,
        /// As many there must be.
        counted: u64,
    },
    /// One of the few facts about the whole store.
    #[error("the store's {0} is damaged")]
    Meta(&'static str),
}

/// What a transaction has written and nobody else sees yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The new states by key.
    pub keys: BTreeMap<Bytes, PendingKey>,
    /// The new rows by sub-revision.
    pub rows: Vec<(RowId, Bytes)>,
}

/// A key that the transaction has written.
#[derive(Clone, Debug)]
pub(super) struct PendingKey {
    /// Its state now.
    pub state: KeyState,
    /// Its state before the transaction: none at all, dead, or alive.
    pub before: Before,
}

/// What there was of a key before a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Dead,
    Alive,
}

impl PendingKey {
    /// How the transaction changes the counts by this key.
    pub(super) fn delta(&self) -> Option<Delta> {
        match (self.before, self.state.tombstone) {
            (Before::Nothing, false) => Some(Delta { live: 1, dead: 0 }),
            (Before::Nothing, true) => Some(Delta { live: 0, dead: 1 }),
            (Before::Dead, false) => Some(Delta { live: 1, dead: -1 }),
            (Before::Alive, true) => Some(Delta { live: -1, dead: 1 }),
            (Before::Dead, true) | (Before::Alive, false) => None,
        }
    }
}

/// The keys at one revision.
pub(super) struct Frame<'v, 's> {
    pub view: &'v View<'s>,
    pub pending: Option<&'v Pending>,
    pub at: Revision,
    /// The compact revision when the view was taken.
    pub compact: Option<Revision>,
    /// What the one walk that this frame is made for must find.
    pub ledger: Option<&'v Ledger>,
}

/// A living key as a frame sees it.
#[derive(Debug)]
pub(super) struct Found<'v> {
    pub id: RowId,
    pub create: Revision,
    pub version: i64,
    /// Known without reading the row only if the row is the key's newest.
    pub lease: LeaseId,
    row: Option<Data<'v>>,
}

/// Whether a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Stop,
}

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

impl<'v> Frame<'v, '_> {
    /// Looks up a key's newest state, whatever the frame's revision.
    pub(super) fn state(&self, key: &[u8]) -> Result<Option<KeyState>, Damage> {
        if let Some(pending) = self.pending
            && let Some(found) = pending.keys.get(key)
        {
            return Ok(Some(found.state.clone()));
        }
        match self.view.get(Table::Keys, key) {
            None => Ok(None),
            Some(stored) => decode_state(key, &stored).map(Some),
        }
    }

    /// Finds a key if it lived at the frame's revision.
    pub(super) fn find(&self, key: &[u8]) -> Result<Option<Found<'v>>, Damage> {
        match self.state(key)? {
            None => Ok(None),
            Some(state) => self.resolve(&state),
        }
    }

    /// Goes from a key's newest state to its state at the frame's revision.
    pub(super) fn resolve(&self, state: &KeyState) -> Result<Option<Found<'v>>, Damage> {
        if mutant!("E29") && state.tombstone && state.id.main == self.at {
            return self.before_delete(state.id);
        }
        if state.id.main <= self.at {
            let (id, lease) = (state.id, state.lease);
            let (create, version) = (state.create, state.version);
            return Ok((!state.tombstone).then_some(Found {
                id,
                create,
                version,
                lease,
                row: None,
            }));
        }
        let beyond = |id: &&RowId| id.main > self.at;
        // The farthest anchor that is still above the revision; the list goes from near to far.
        let mut here = state.chain.anchors.iter().rev().find(beyond).copied().unwrap_or(state.id);
        let (next, data) = loop {
            let data = self.row_data(here).ok_or(Damage::MissingRow(here))?;
            let row = decode_row(here, data.as_slice())?;
            match (row.chain.anchors.iter().rev().find(beyond), row.prev) {
                (Some(anchor), _) => here = *anchor,
                (None, Some(prev)) if prev.main > self.at => here = prev,
                (None, Some(prev)) => match self.row_data(prev) {
                    Some(data) => break (prev, data),
                    None => {
                        let lived = row.follows_living().ok_or(Damage::Row(here))?;
                        return self.compacted_away(prev, lived).map(|()| None);
                    }
                },
                (None, None) => return Ok(None),
            }
        };
        let row = decode_row(next, data.as_slice())?;
        if row.tombstone {
            return Ok(None);
        }
        let body = Body::parse(row.body).ok_or(Damage::Row(next))?;
        let (create, version, lease) = (body.create, body.version, body.lease);
        Ok(Some(Found { id: next, create, version, lease, row: Some(data) }))
    }

    /// What mutant E29 answers with: the entry that a delete should have replaced.
    fn before_delete(&self, id: RowId) -> Result<Option<Found<'v>>, Damage> {
        let data = self.row_data(id).ok_or(Damage::MissingRow(id))?;
        let Some(prev) = decode_row(id, data.as_slice())?.prev else { return Ok(None) };
        let Some(data) = self.row_data(prev) else { return Ok(None) };
        let body = Body::parse(decode_row(prev, data.as_slice())?.body).ok_or(Damage::Row(prev))?;
        let (create, version, lease) = (body.create, body.version, body.lease);
        Ok(Some(Found { id: prev, create, version, lease, row: Some(data) }))
    }

    /// Judges a missing row that was its key's newest at a revision that can be read. Compaction removes
    /// such a row if it is a tombstone, and then says that there is nothing older. Any other is damage,
    /// also one that lived by what the key's next row says.
    pub(super) fn compacted_away(&self, id: RowId, lived: bool) -> Result<(), Damage> {
        match self.compact {
            Some(compact) if id.main <= compact && !lived => Ok(()),
            _ => Err(Damage::MissingRow(id)),
        }
    }

    /// Looks a row up.
    pub(super) fn row_data(&self, id: RowId) -> Option<Data<'v>> {
        if let Some(pending) = self.pending
            && let Ok(at) = pending.rows.binary_search_by_key(&id, |(id, _)| *id)
        {
            return Some(Data::Shared(&pending.rows[at].1));
        }
        self.view.get(Table::Rows, &codec::row_key(id))
    }

    /// Reads the key-value pair of a found key.
    pub(super) fn key_value(
        &self,
        found: &Found<'v>,
        copier: &mut Copier,
    ) -> Result<KeyValue, Damage> {
        let data = match found.row {
            Some(data) => data,
            None => self.row_data(found.id).ok_or(Damage::MissingRow(found.id))?,
        };
        copier.key_value(found.id, data)
    }

    /// Walks the entries of `Keys` between two bounds, what the transaction wrote included, whether
    /// they lived at the frame's revision or not.
    pub(super) fn walk(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        way: Way,
        mut visit: impl FnMut(&[u8], KeyState) -> Result<Flow, Damage>,
    ) -> Result<(), Damage> {
        if is_crossed(from, to) {
            return Ok(());
        }
        let mut stored = match way {
            Way::Up => self.view.scan(Table::Keys, from, to),
            Way::Down => self.view.scan_rev(Table::Keys, from, to),
        };
        let mut written = self
            .pending
            .filter(|pending| !pending.keys.is_empty())
            .map(|pending| pending.keys.range::<[u8], _>((from, to)));
        let mut next_written = || match (&mut written, way) {
            (None, _) => None,
            (Some(range), Way::Up) => range.next(),
            (Some(range), Way::Down) => range.next_back(),
        };
        let before = |a: &[u8], b: &[u8]| if way == Way::Up { a < b } else { a > b };
        let mut head = next_written();
        for (key, value) in &mut stored {
            let key = key.as_slice();
            let mut overridden = false;
            while let Some((mine, pending)) = head
                && !before(key, mine)
            {
                overridden |= key == mine;
                if visit(mine, pending.state.clone())? == Flow::Stop {
                    return Ok(());
                }
                head = next_written();
            }
            if !overridden && visit(key, decode_state(key, value.as_slice())?)? == Flow::Stop {
                return Ok(());
            }
        }
        while let Some((mine, pending)) = head {
            if visit(mine, pending.state.clone())? == Flow::Stop {
                return Ok(());
            }
            head = next_written();
        }
        Ok(())
    }

    /// Walks the keys of a range that lived at the frame's revision.
    pub(super) fn walk_living(
        &self,
        range: &KeyRange,
        after: Option<&[u8]>,
        way: Way,
        mut visit: impl FnMut(&[u8], Found<'v>) -> Result<Flow, Damage>,
    ) -> Result<(), Damage> {
        if let KeyRange::One(key) = range {
            if after.is_none()
                && let Some(found) = self.find(key)?
            {
                visit(key, found)?;
            }
            return Ok(());
        }
        let (from, to) = bounds_after(range, after, way);
        if is_crossed(from, to) {
            return Ok(());
        }
        let mut audit = Audit::new(self.ledger, way);
        let mut stopped = false;
        self.walk(from, to, way, |key, state| {
            audit.see(key, !state.tombstone)?;
            let flow = match self.resolve(&state)? {
                Some(found) => visit(key, found)?,
                None => Flow::Go,
            };
            stopped = flow == Flow::Stop;
            Ok(flow)
        })?;
        if stopped { Ok(()) } else { audit.end() }
    }

    /// Counts the living keys of a range by walking it.
    pub(super) fn count(&self, range: &KeyRange) -> Result<u64, Damage> {
        let mut count = 0;
        self.walk_living(range, None, Way::Up, |_, _| {
            count += 1;
            Ok(Flow::Go)
        })?;
        Ok(count)
    }
}

/// Copies keys and values out of LMDB's map, many into one allocation; what lies in the overlay is
/// shared, not copied.
#[derive(Debug, Default)]
pub(super) struct Copier {
    buf: BytesMut,
    /// Bytes given out so far.
    pub bytes: usize,
}

impl Copier {
    const CHUNK: usize = 32 << 10;

    /// Copies a byte string.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Bytes {
        self.bytes += bytes.len();
        if self.buf.capacity() < bytes.len() {
            // A single lookup gets an allocation of its size, a list ever larger ones.
            self.buf.reserve(bytes.len().max(self.bytes.min(Self::CHUNK)));
        }
        self.buf.extend_from_slice(bytes);
        self.buf.split().freeze()
    }

    /// Makes the key-value pair of a stored row.
    pub(super) fn key_value(&mut self, id: RowId, data: Data<'_>) -> Result<KeyValue, Damage> {
        let row = decode_row(id, data.as_slice())?;
        let body = match data {
            Data::Shared(stored) => {
                self.bytes += row.body.len();
                stored.slice(row.body_at..)
            }
            Data::Mapped(_) => self.keep(row.body),
        };
        let parsed = Body::parse(&body).ok_or(Damage::Row(id))?;
        Ok(parsed.to_key_value(&body))
    }
}

/// Watches rows go by in order: above the last compaction no revision may be missing, and no row before
/// another one of its revision. That a revision's last rows are missing shows in the index only.
#[derive(Clone, Copy, Debug)]
pub struct Unbroken {
    /// Up to here rows may be gone.
    solid: Revision,
    last: Option<RowId>,
}

impl Unbroken {
    /// Begins at or below a revision from which on all rows must be there, or right above it.
    pub fn above(solid: Revision) -> Self {
        // The first revision is that of an empty store.
        Self { solid: solid.max(Revision(1)), last: None }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// If rows before it are missing.
    pub fn see(&mut self, id: RowId) -> Result<(), Damage> {
        if id.main <= self.solid {
            return Ok(());
        }
        let wanted = match self.last {
            Some(last) if last.main == id.main => RowId::new(last.main, last.sub + 1),
            Some(last) => RowId::new(last.main.next(), 0),
            None => RowId::new(self.solid.next(), 0),
        };
        self.last = Some(id);
        if id == wanted {
            Ok(())
        } else if id.main == wanted.main {
            Err(Damage::MissingRow(wanted))
        } else {
            Err(Damage::MissingRevision(wanted.main))
        }
    }

    /// Says that there are no more rows up to a revision.
    ///
    /// # Errors
    /// If there should be.
    pub fn end(&self, upto: Revision) -> Result<(), Damage> {
        let seen = self.last.map_or(self.solid, |last| last.main);
        if seen < upto { Err(Damage::MissingRevision(seen.next())) } else { Ok(()) }
    }
}

/// Reads a row, or says that it is damaged.
pub(super) fn decode_row(id: RowId, stored: &[u8]) -> Result<Row<'_>, Damage> {
    Row::decode(&codec::row_key(id), stored).ok_or(Damage::Row(id))
}

/// Reads a key's state, or says that it is damaged.
pub(super) fn decode_state(key: &[u8], stored: &[u8]) -> Result<KeyState, Damage> {
    KeyState::decode(key, stored).ok_or_else(|| Damage::Key(Bytes::copy_from_slice(key)))
}

/// A range from a key to an end.
pub(super) fn span(start: Bytes, end: RangeEnd) -> KeyRange {
    KeyRange::Span { start, end }
}

/// Where a walk over a range goes on.
pub(super) fn bounds_after<'r>(
    range: &'r KeyRange,
    after: Option<&'r [u8]>,
    way: Way,
) -> (Bound<&'r [u8]>, Bound<&'r [u8]>) {
    let (from, to) = range.bounds();
    match (after, way) {
        (None, _) => (from, to),
        (Some(after), Way::Up) => (Bound::Excluded(after), to),
        (Some(after), Way::Down) => (from, Bound::Excluded(after)),
    }
}

fn is_crossed(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
            a >= b
        }
        _ => false,
    }
}
