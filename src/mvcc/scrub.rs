//! Removing what a compaction made unreachable: slowly, in the background, unseen.
//!
//! A compaction takes effect when it is applied: readers below it are refused from then on. The rows
//! go later, compaction by compaction, in bounded steps on the storage worker. For each:
//!
//! 1. *Hash*: the hash that etcd would remember of this compaction is computed while all its rows are
//!    there, and stored (see `hash.rs`).
//! 2. *Delete*: the rows from the compaction before up to this one are walked once. Each names the row
//!    it supersedes, which goes; a tombstone goes itself, with its entry in `Keys` if the key was not
//!    written again. The work is that of the window, not of the store.
//!
//! Invariants
//! - Only what is durable is scrubbed: the compaction is read from LMDB itself, so every row up to it is
//!   there too, and a crash never goes back to before it.
//! - Rows of the compact revision itself stay, tombstones included, until the next compaction: a
//!   watcher may still start there.
//! - Steps may be repeated: a crash in the middle starts the window again.
//! - Rows of a compaction go only when its hash is stored, or when ten later ones are durable: nobody asks
//!   for it then, not even after a crash.
//! - A row that supersedes is walked before a later row removes it, so nothing is forgotten.
//! - While somebody holds the scrub, nothing is deleted.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::codec::{self, Body, KeyState};
use super::frame::{Damage, decode_row};
use super::hash::{HashKv, Present, Remembered, Rows};
use super::store::{Inner, Store};
use crate::buggify;
use crate::command::RowId;
use crate::mutant;
use crate::storage::{Table, View, Write, WriteTxn};
use crate::types::Revision;

/// In `Meta`, followed by a compaction's revision: a compaction whose scrub is not complete. The value
/// is the compact revision before it. Written when it is applied, removed by the scrub.
const META_COMPACTION: &[u8] = b"mvcc/compaction/";

/// In `Meta`, followed by a compaction's revision: its hash. Only the scrub writes these.
const META_HASH: &[u8] = b"mvcc/hash/";

/// In `Meta`: the last compaction whose scrub is complete. Only the scrub writes it.
const META_SCRUBBED: &[u8] = b"mvcc/scrubbed";

/// How many compactions' hashes are remembered; etcd's number.
const HASHES_MAX: usize = 10;

/// What a step of the scrub came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubProgress {
    /// Nothing to do until the next compaction is durable.
    Idle,
    /// There is more to do.
    More,
    /// There is more to do once nobody holds the scrub.
    Paused,
}

/// Keeps superseded rows from being removed, for a reader that takes its time. Held for a bounded time.
pub struct Hold {
    inner: Arc<Inner>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.holds.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where the scrub stands.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    scrubbed: Option<Revision>,
    /// Compactions to scrub, oldest first, each with the one before it.
    pending: VecDeque<(Revision, Option<Revision>)>,
    hashes: BTreeMap<Revision, HashKv>,
    work: Option<Work>,
    /// Dead keys are gone, so there may be buckets to merge.
    sweep: bool,
}

#[derive(Debug)]
enum Work {
    Hash(Box<Rows>),
    Delete(RowId),
}

impl Scrub {
    /// Reads where the scrub stood.
    pub(super) fn load(view: &View<'_>, compact: Option<Revision>) -> Result<Self, Damage> {
        let mut scrub = Self { scrubbed: scrubbed_in(view)?, ..Self::default() };
        for (key, stored) in view.scan_prefix(Table::Meta, META_COMPACTION) {
            let (previous, _) = parse(&key, &stored)?;
            scrub.pending.push_back((suffix(META_COMPACTION, &key)?, previous));
        }
        for (key, stored) in view.scan_prefix(Table::Meta, META_HASH) {
            let revision = suffix(META_HASH, &key)?;
            let (previous, hash) = parse(&key, &stored)?;
            let hash = hash.ok_or(Damage::Meta("compaction hash"))?;
            scrub.hashes.insert(revision, hash_kv(revision, previous, hash));
        }
        let newest = scrub.pending.back().map(|(revision, _)| *revision).or(scrub.scrubbed);
        if newest != compact {
            return Err(Damage::Meta("compact revision"));
        }
        Ok(scrub)
    }

    /// Takes note of a compaction that was just applied.
    pub(super) fn compacted(&mut self, revision: Revision, previous: Option<Revision>) {
        self.pending.push_back((revision, previous));
    }

    /// Says once, after each scrub, that there may be buckets to merge.
    pub(super) fn take_sweep(&mut self) -> bool {
        std::mem::take(&mut self.sweep)
    }

    /// What is known of the hash of the compaction at exactly this revision, if it is one of the latest.
    pub(super) fn compaction_hash(&self, revision: i64) -> Option<Remembered> {
        let revision = Revision(revision);
        let newer = |other: &Revision| *other > revision;
        let pending = self.pending.iter().map(|(other, _)| other);
        let newer = pending
            .filter(|other| !self.hashes.contains_key(other))
            .chain(self.hashes.keys())
            .filter(|other| newer(other));
        if newer.count() >= HASHES_MAX {
            return None;
        }
        if let Some(hash) = self.hashes.get(&revision) {
            return Some(Remembered::Known(*hash));
        }
        let (_, previous) = self.pending.iter().find(|(other, _)| *other == revision)?;
        Some(Remembered::Computable { revision, previous: *previous })
    }
}

/// Reads the last compaction whose rows are all gone, as this view sees them.
pub(super) fn scrubbed_in(view: &View<'_>) -> Result<Option<Revision>, Damage> {
    match view.get(Table::Meta, META_SCRUBBED) {
        Some(stored) => Ok(parse(META_SCRUBBED, &stored)?.0),
        None => Ok(None),
    }
}

/// Reads which compaction a row of `Meta` calls the last whose rows are all gone; `None` if it says
/// something else.
pub(super) fn scrubbed_fact(key: &[u8], stored: &[u8]) -> Result<Option<Revision>, Damage> {
    if key == META_SCRUBBED { Ok(parse(key, stored)?.0) } else { Ok(None) }
}

/// Reads which compaction a row of `Meta` calls one whose rows are not all gone; `None` if it says
/// something else.
pub(super) fn pending_fact(key: &[u8]) -> Result<Option<Revision>, Damage> {
    key.starts_with(META_COMPACTION).then(|| suffix(META_COMPACTION, key)).transpose()
}

impl Store {
    /// Keeps superseded rows where they are until the hold is dropped.
    pub fn hold_scrub(&self) -> Hold {
        self.inner.holds.fetch_add(1, Ordering::AcqRel);
        Hold { inner: self.inner.clone() }
    }

    /// Tells whether there is a compaction whose rows are not all gone.
    pub fn scrub_pending(&self) -> bool {
        !self.inner.scrub().pending.is_empty()
    }

    /// The last compaction whose rows are all gone: what a client that asked for a physical compaction
    /// waits for.
    pub fn scrubbed(&self) -> Option<Revision> {
        self.inner.scrub().scrubbed
    }

    /// Does a bounded piece of the scrub, within a maintenance transaction on the storage worker: reads
    /// at most about `rows_max` rows and removes at most twice as many.
    ///
    /// # Errors
    /// If a row is damaged; the member must stop.
    pub fn scrub_step(
        &self,
        txn: &mut WriteTxn<'_>,
        rows_max: usize,
    ) -> Result<ScrubProgress, Damage> {
        // NB: before the scrub's lock: a commit takes them in this order.
        let present = Present::of(&self.inner.published());
        let (target, previous, work) = {
            let mut scrub = self.inner.scrub();
            let Some(&(target, previous)) = scrub.pending.front() else {
                return Ok(ScrubProgress::Idle);
            };
            if !is_durable(txn, target) {
                return Ok(ScrubProgress::Idle);
            }
            let work = scrub.work.take().filter(|_| !buggify!("scrub_begins_again"));
            let work = work.unwrap_or_else(|| {
                // NB: by the durable ones alone. A crash that takes the latest away would else make this
                // one, whose rows are half gone, one to be hashed.
                let later = scrub.pending.get(HASHES_MAX);
                let forgotten = later
                    .is_some_and(|(later, _)| is_durable(txn, *later) || crate::mutant!("M09"));
                if forgotten || scrub.hashes.contains_key(&target) {
                    // All rows of the compaction before are walked again: its own may still be there.
                    Work::Delete(RowId::new(previous.unwrap_or_default(), 0))
                } else {
                    Work::Hash(Box::new(Rows::new(previous, target, true, present)))
                }
            });
            (target, previous, work)
        };
        let stepped = match work {
            Work::Hash(rows) => self.step_hash(txn, rows, previous, rows_max),
            Work::Delete(next) => self.step_delete(txn, target, next, rows_max),
        };
        stepped.inspect_err(|damage| {
            self.damaged(damage.clone());
        })
    }

    fn step_hash(
        &self,
        txn: &mut WriteTxn<'_>,
        mut rows: Box<Rows>,
        previous: Option<Revision>,
        rows_max: usize,
    ) -> Result<ScrubProgress, Damage> {
        let through = rows.step(&self.inner, rows_max)?;
        let mut scrub = self.inner.scrub();
        if !through {
            scrub.work = Some(Work::Hash(rows));
            return Ok(ScrubProgress::More);
        }
        let hash = rows.hash();
        let revision = Revision(hash.hash_revision);
        let key = meta_key(META_HASH, revision);
        txn.put(Table::Meta, &key, &value(&key, previous, Some(hash.hash)));
        scrub.hashes.insert(revision, hash);
        while scrub.hashes.len() > HASHES_MAX {
            let (old, _) = scrub.hashes.pop_first().expect("there are more than ten");
            txn.delete(Table::Meta, &meta_key(META_HASH, old));
        }
        scrub.work = Some(Work::Delete(RowId::new(previous.unwrap_or_default(), 0)));
        Ok(ScrubProgress::More)
    }

    fn step_delete(
        &self,
        txn: &mut WriteTxn<'_>,
        target: Revision,
        mut next: RowId,
        rows_max: usize,
    ) -> Result<ScrubProgress, Damage> {
        if self.inner.holds.load(Ordering::Acquire) > 0 || buggify!("scrub_is_held") {
            self.inner.scrub().work = Some(Work::Delete(next));
            return Ok(ScrubProgress::Paused);
        }
        let mut rows = Vec::new();
        let mut keys = Vec::new();
        let mut seen = 0;
        let from = codec::row_key(next);
        let to = codec::row_key(RowId::new(target.next(), 0));
        for (key, stored) in
            txn.scan(Table::Rows, Bound::Included(&from), Bound::Excluded(&to)).take(rows_max)
        {
            let id = codec::parse_row_key(key).ok_or(Damage::Meta("row key"))?;
            let row = decode_row(id, stored)?;
            let drops_newest = mutant!("E08") || mutant!("E09");
            if let Some(prev) = row.prev
                && prev.main < target
            {
                rows.push(prev);
            }
            if row.tombstone && (id.main < target || drops_newest) {
                let body = Body::parse(row.body).ok_or(Damage::Row(id))?;
                keys.push((Bytes::copy_from_slice(body.key), id));
                rows.push(id);
            }
            next = RowId::new(id.main, id.sub + 1);
            seen += 1;
        }
        for row in rows {
            txn.delete(Table::Rows, &codec::row_key(row));
        }
        for (key, id) in keys {
            let newest = match txn.get(Table::Keys, &key) {
                None => continue,
                Some(stored) => {
                    KeyState::decode(&key, stored).ok_or_else(|| Damage::Key(key.clone()))?.id
                }
            };
            if newest == id {
                txn.delete(Table::Keys, &key);
            }
        }
        let mut scrub = self.inner.scrub();
        if seen == rows_max {
            scrub.work = Some(Work::Delete(next));
            return Ok(ScrubProgress::More);
        }
        txn.put(Table::Meta, META_SCRUBBED, &value(META_SCRUBBED, Some(target), None));
        txn.delete(Table::Meta, &meta_key(META_COMPACTION, target));
        let front = scrub.pending.pop_front();
        assert!(front.is_some_and(|(front, _)| front == target), "scrubs out of order");
        scrub.scrubbed = Some(target);
        scrub.sweep = true;
        Ok(if scrub.pending.is_empty() { ScrubProgress::Idle } else { ScrubProgress::More })
    }
}

/// Tells whether a compaction that is not scrubbed has reached LMDB.
fn is_durable(txn: &WriteTxn<'_>, compaction: Revision) -> bool {
    txn.get(Table::Meta, &meta_key(META_COMPACTION, compaction)).is_some()
}

/// Notes a compaction that is to be scrubbed.
pub(super) fn compaction_write(revision: Revision, previous: Option<Revision>) -> Write {
    let key = meta_key(META_COMPACTION, revision);
    let value = value(&key, previous, None);
    Write::put(Table::Meta, key, value)
}

fn hash_kv(revision: Revision, previous: Option<Revision>, hash: u32) -> HashKv {
    let compact_revision = previous.map_or(-1, |previous| previous.0);
    HashKv { hash, compact_revision, hash_revision: revision.0 }
}

fn meta_key(prefix: &[u8], revision: Revision) -> Vec<u8> {
    let revision = u64::try_from(revision.0).expect("compact revisions are not negative");
    [prefix, &revision.to_be_bytes()].concat()
}

fn suffix(prefix: &[u8], key: &[u8]) -> Result<Revision, Damage> {
    let number = key.strip_prefix(prefix).and_then(|rest| rest.try_into().ok());
    let number = number.map(u64::from_be_bytes).and_then(|number| i64::try_from(number).ok());
    number.map(Revision).ok_or(Damage::Meta("compaction"))
}

fn value(key: &[u8], revision: Option<Revision>, hash: Option<u32>) -> Bytes {
    let revision = revision.map_or(-1, |revision| revision.0);
    let hash = hash.map(u32::to_be_bytes);
    let parts = [&revision.to_be_bytes()[..], hash.as_ref().map_or(&[], |hash| &hash[..])];
    codec::encode_fact(key, &parts.concat())
}

fn parse(key: &[u8], stored: &[u8]) -> Result<(Option<Revision>, Option<u32>), Damage> {
    let damaged = || Damage::Meta("compaction");
    let fact = codec::decode_fact(key, stored).ok_or_else(damaged)?;
    let (revision, hash) = fact.split_first_chunk::<8>().ok_or_else(damaged)?;
    let revision = i64::from_be_bytes(*revision);
    let hash = match hash {
        [] => None,
        hash => Some(u32::from_be_bytes(hash.try_into().map_err(|_| damaged())?)),
    };
    Ok(((revision >= 0).then_some(Revision(revision)), hash))
}
