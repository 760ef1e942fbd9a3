//! HashKV: one number for the whole keyspace up to a revision, equal to etcd's byte for byte.
//!
//! The hash is CRC-32C over `key` (the name of etcd's bucket) and then, in revision order, each row's
//! key and value as etcd stores them. With C the compact revision and R the one that is asked for:
//! rows above R are left out; so are tombstones at or below C; so are rows at or below C that some row
//! up to R supersedes, unless no key at all lives at R (then etcd's set of rows to keep is empty and
//! taken for «all»).
//!
//! Members remove superseded rows at their own pace, so the hash is computed *as if the scrub of C were
//! complete*: rows that it would remove are found from the rows that supersede them and left out.
//!
//! etcd remembers the hashes it computed while compacting, up to ten, and answers a request for exactly
//! such a revision from memory: with the hash over the rows that the compaction found, and with the
//! compact revision from before it. In etcd that memory is local, lost at a restart, and skips a
//! compaction that came before the one before it was through. Ours is derived from the log alone, as if
//! each compaction were complete at once: the hash is computed before the compaction's first row goes
//! (or on demand until then) and is stored with the tables. So all members answer alike at any time,
//! and as an etcd does that has been up since and whose compactions did not overlap.
//!
//! A hash is also where lost rows show: the walk goes on to the newest revision, and the keys that live
//! there by the rows must be as many as are counted (see `counts.rs`), else it is [`Damage`].

use std::ops::Bound;
use std::sync::Arc;

use super::codec::{self, Body};
use super::frame::{Damage, Unbroken, decode_row};
use super::scrub::{Hold, scrubbed_in};
use super::store::{Inner, Published, Store};
use crate::command::{Refusal, RowId};
use crate::storage::Table;
use crate::types::Revision;

/// The answer to HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The compact revision the hash was computed under; −1 for none.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
}

/// Rows read in one view.
const BATCH_ROWS: usize = 1000;

/// The hash of an empty keyspace: that of the bucket's name.
fn seed() -> u32 {
    crc32c::crc32c(b"key")
}

impl Store {
    /// Hashes the keyspace at a revision (0 for the current one), etcd's memory of compactions included.
    /// Reads every row: see [`hash_job`](Self::hash_job) for doing it in pieces.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`], [`Refusal::Damaged`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Refusal> {
        let mut job = self.hash_job(revision)?;
        loop {
            if let Some(done) = job.step(crate::buggify!("hash_reads_each_row", 1, BATCH_ROWS))? {
                return Ok(done);
            }
        }
    }

    /// Begins to hash the keyspace at a revision. While the job lives, no superseded row is removed.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
    pub fn hash_job(&self, revision: i64) -> Result<HashJob, Refusal> {
        let hold = self.hold_scrub();
        let present = Present::of(&self.inner.published());
        let remembered = self.inner.scrub().compaction_hash(revision);
        match remembered {
            Some(Remembered::Known(hash)) => Ok(HashJob::done(hash)),
            Some(Remembered::Computable { revision, previous }) => {
                Ok(self.rows_job(Rows::new(previous, revision, true, present), hold))
            }
            None => self.plain_hash_job(revision, hold),
        }
    }

    /// Begins to hash the keyspace at a revision under the present compact revision, whatever etcd would
    /// remember: what members compare among themselves.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
    pub fn keyspace_hash_job(&self, revision: i64) -> Result<HashJob, Refusal> {
        let hold = self.hold_scrub();
        self.plain_hash_job(revision, hold)
    }

    fn plain_hash_job(&self, revision: i64, hold: Hold) -> Result<HashJob, Refusal> {
        let published = self.inner.published();
        let (current, compact) = (published.revision, published.compact);
        let present = Present::of(&published);
        drop(published);
        let compact_revision = compact.map_or(-1, |compact| compact.0);
        if revision < 0 {
            let hash = HashKv { hash: seed(), compact_revision, hash_revision: revision };
            return Ok(HashJob::done(hash));
        }
        let revision = if revision == 0 { current } else { Revision(revision) };
        if revision > current {
            return Err(Refusal::FutureRevision);
        }
        if let Some(compact) = compact
            && revision < compact
        {
            return Err(Refusal::Compacted(compact));
        }
        Ok(self.rows_job(Rows::new(compact, revision, false, present), hold))
    }

    fn rows_job(&self, rows: Rows, hold: Hold) -> HashJob {
        HashJob {
            state: State::Rows { rows: Box::new(rows), inner: self.inner.clone(), _hold: hold },
        }
    }
}

/// How many keys live now, to hold the rows against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    revision: Revision,
    live: u64,
}

impl Present {
    pub(super) fn of(published: &Published) -> Self {
        Self { revision: published.revision, live: published.counts.total() }
    }
}

/// What is known of the hash of a compaction.
pub(super) enum Remembered {
    Known(HashKv),
    Computable { revision: Revision, previous: Option<Revision> },
}

/// A hash in the making.
pub struct HashJob {
    state: State,
}

enum State {
    Rows { rows: Box<Rows>, inner: Arc<Inner>, _hold: Hold },
    Done(HashKv),
}

impl HashJob {
    fn done(hash: HashKv) -> Self {
        Self { state: State::Done(hash) }
    }

    /// Reads on, up to so many rows; returns the hash once it is known.
    ///
    /// # Errors
    /// [`Refusal::Damaged`].
    pub fn step(&mut self, rows_max: usize) -> Result<Option<HashKv>, Refusal> {
        let hash = match &mut self.state {
            State::Done(hash) => return Ok(Some(*hash)),
            State::Rows { rows, inner, .. } => match rows.step(inner, rows_max) {
                Ok(true) => rows.hash(),
                Ok(false) => return Ok(None),
                Err(damage) => return Err(inner.damaged(damage)),
            },
        };
        self.state = State::Done(hash);
        Ok(Some(hash))
    }
}

/// The walk over the rows: first those that supersede, to learn which are superseded; then all.
#[derive(Debug)]
pub(super) struct Rows {
    compact: Option<Revision>,
    revision: Revision,
    /// Computed for a compaction, whose set of rows to keep also has the tombstones at its revision.
    compaction: bool,
    /// Rows at or below `compact` that the scrub would have removed.
    gone: Vec<RowId>,
    /// Rows at or below `compact` that are superseded after it, but up to `revision`.
    superseded: Vec<RowId>,
    learning: bool,
    /// Where to read on; `None` before the first step.
    next: Option<RowId>,
    unbroken: Unbroken,
    present: Present,
    /// Living keys at `revision`, as far as the rows were walked.
    alive: i64,
    /// How many more live in the present.
    gained: i64,
    /// Whether the compaction keeps a tombstone.
    kept_tombstone: bool,
    /// Both ways to read an empty set of rows to keep; which one counts is known at the end.
    keeping: u32,
    keeping_all: u32,
}

impl Rows {
    pub(super) fn new(
        compact: Option<Revision>,
        revision: Revision,
        compaction: bool,
        present: Present,
    ) -> Self {
        Self {
            compact,
            revision,
            compaction,
            gone: Vec::new(),
            superseded: Vec::new(),
            learning: compact.is_some(),
            next: None,
            unbroken: Unbroken::above(compact.unwrap_or_default()),
            present,
            alive: 0,
            gained: 0,
            kept_tombstone: false,
            keeping: seed(),
            keeping_all: seed(),
        }
    }

    pub(super) fn hash(&self) -> HashKv {
        let keeps = self.alive != 0 || (self.compaction && self.kept_tombstone);
        HashKv {
            hash: if keeps { self.keeping } else { self.keeping_all },
            compact_revision: self.compact.map_or(-1, |compact| compact.0),
            hash_revision: self.revision.0,
        }
    }

    /// Walks on; says whether it is through.
    pub(super) fn step(&mut self, inner: &Inner, rows_max: usize) -> Result<bool, Damage> {
        let entered = inner.enter();
        // What rows below `scrubbed` supersede is removed already. Rows of that revision itself may supersede
        // one another and still be there. NB: the view must say so, not the scrub, which is further by what
        // its open transaction holds: rows would be taken for removed that are still in the view.
        let start = match self.next {
            Some(next) => next,
            None if self.learning => RowId::new(scrubbed_in(&entered.view)?.unwrap_or_default(), 0),
            None => RowId::new(Revision(0), 0),
        };
        let mut next = start;
        let from = codec::row_key(start);
        let upto = if self.learning { self.revision } else { self.present.revision };
        let to = codec::row_key(RowId::new(upto.next(), 0));
        let rows = entered.view.scan(Table::Rows, Bound::Included(&from), Bound::Excluded(&to));
        let mut seen = 0;
        for (key, stored) in rows.take(rows_max) {
            let id = codec::parse_row_key(&key).ok_or(Damage::Meta("row key"))?;
            let row = decode_row(id, &stored)?;
            self.unbroken.see(id)?;
            if self.learning {
                self.learn(id, &row)
            } else if id.main > self.revision {
                self.gained += change_of(id, &row)?;
            } else {
                self.feed(id, &row)?
            }
            next = RowId::new(id.main, id.sub + 1);
            seen += 1;
        }
        self.next = Some(next);
        if seen == rows_max {
            return Ok(false);
        }
        self.unbroken.end(upto)?;
        if !self.learning {
            let found = self.alive + self.gained;
            return match u64::try_from(found) {
                Ok(found) if found == self.present.live => Ok(true),
                _ => Err(Damage::Live { found, counted: self.present.live }),
            };
        }
        self.unbroken = Unbroken::above(self.compact.unwrap_or_default());
        self.gone.sort_unstable();
        self.superseded.sort_unstable();
        self.learning = false;
        self.next = Some(RowId::new(Revision(0), 0));
        Ok(false)
    }

    fn learn(&mut self, id: RowId, row: &codec::Row<'_>) {
        let Some(prev) = row.prev else { return };
        let compact = self.compact.expect("without a compaction there is nothing to learn");
        if id.main <= compact {
            self.gone.push(prev);
        } else if prev.main <= compact {
            self.superseded.push(prev);
        }
    }

    fn feed(&mut self, id: RowId, row: &codec::Row<'_>) -> Result<(), Damage> {
        let mut keep = true;
        if self.compact.is_some_and(|compact| id.main <= compact) {
            if row.tombstone || self.gone.binary_search(&id).is_ok() {
                return Ok(());
            }
            keep = self.superseded.binary_search(&id).is_err();
            self.alive += 1;
        } else {
            self.alive += change_of(id, row)?;
            self.kept_tombstone |= row.tombstone && id.main == self.revision;
        }
        let key = etcd_row_key(id, row.tombstone);
        let key = if row.tombstone { &key[..] } else { &key[..17] };
        let add = |crc| crc32c::crc32c_append(crc32c::crc32c_append(crc, key), row.body);
        // As long as nothing was left out the two are one.
        let same = self.keeping == self.keeping_all;
        self.keeping_all = add(self.keeping_all);
        if keep {
            self.keeping = if same { self.keeping_all } else { add(self.keeping) };
        }
        Ok(())
    }
}

/// How many more keys live with this row than without it.
fn change_of(id: RowId, row: &codec::Row<'_>) -> Result<i64, Damage> {
    if row.tombstone {
        return Ok(-1);
    }
    let version = Body::parse(row.body).ok_or(Damage::Row(id))?.version;
    Ok(i64::from(version == 1))
}

/// A row's key as etcd stores it: main, `_`, sub, and a `t` for a tombstone.
pub fn etcd_row_key(id: RowId, tombstone: bool) -> [u8; 18] {
    let mut key = [0; 18];
    let main = u64::try_from(id.main.0).expect("revisions of rows are positive");
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&u64::from(id.sub).to_be_bytes());
    if tombstone {
        key[17] = b't';
    }
    key
}
