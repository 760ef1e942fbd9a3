//! The store's handle: what is published, how a new state is published, how a reader gets in.
//!
//! One thread writes (the engine, applying entries), any number read. What readers need beside the
//! tables (the current and the compact revision, counts, recent births and deaths) is [`Published`],
//! behind one lock. A writer changes it together with the tables; a reader takes its view under the
//! same lock, so both are of one moment.
//!
//! NB: the lock is taken before a view, never while holding one. A writer holds the lock while it waits
//! for all views to end; a reader that held a view and waited for the lock would never let it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::codec;
use super::counts::{self, Counts};
use super::frame::{self, Damage, Frame};
use super::recent::{self, Recent};
use super::scrub::Scrub;
use crate::command::Refusal;
use crate::mutant;
use crate::storage::{ChangeSet, Storage, StorageError, Table, View, Write};
use crate::types::{LogPosition, Revision};

/// In `Meta`: the current revision, i64 big endian.
pub(super) const META_REVISION: &[u8] = b"mvcc/revision";

/// In `Meta`: the compact revision, i64 big endian; absent before the first compaction.
pub(super) const META_COMPACT: &[u8] = b"mvcc/compact";

/// The revision of a store that nobody has written to.
const FIRST: Revision = Revision(1);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is in it is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// The tables below it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Multi-version keys and values over [`Storage`]. Clones share one store.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub storage: Storage,
    pub published: RwLock<Published>,
    /// Copies of what is published, for those who need no view with it. −1: never compacted.
    revision: AtomicI64,
    compact: AtomicI64,
    pub scrub: Mutex<Scrub>,
    /// Those who need superseded rows to stay.
    pub holds: AtomicUsize,
    damage: OnceLock<Damage>,
}

/// What readers need beside the tables.
pub(super) struct Published {
    pub revision: Revision,
    pub compact: Option<Revision>,
    pub counts: Counts,
    pub recent: Recent,
}

/// What a change set changes beside the tables; published with it by [`Store::commit`].
#[derive(Debug, Default)]
#[must_use = "a change set of the store is committed together with this"]
pub struct Publish {
    pub(super) revision: Option<Revision>,
    pub(super) compact: Option<(Revision, Option<Revision>)>,
    pub(super) counts: Vec<counts::Change>,
    pub(super) recent: Vec<recent::Change>,
}

/// A view together with what was published at its moment.
pub(super) struct Entered<'s> {
    pub view: View<'s>,
    pub revision: Revision,
    pub compact: Option<Revision>,
}

impl Store {
    /// Opens the store. Reads a few facts and the counts, never the keys.
    ///
    /// # Errors
    /// If what it reads is damaged.
    pub fn open(storage: Storage) -> Result<Self, StoreError> {
        storage.verify(Table::Counts)?;
        let view = storage.view();
        let mut revision = match view.get(Table::Meta, META_REVISION) {
            None => FIRST,
            Some(stored) => {
                parse_revision(META_REVISION, &stored).ok_or(Damage::Meta("revision"))?
            }
        };
        let compact = match view.get(Table::Meta, META_COMPACT) {
            None => None,
            Some(stored) => {
                let compact = parse_revision(META_COMPACT, &stored);
                Some(compact.ok_or(Damage::Meta("compact revision"))?)
            }
        };
        let unbounded = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let newest = view.scan_rev(Table::Rows, unbounded.0, unbounded.1).next();
        let newest = match newest {
            None => FIRST,
            Some((key, stored)) => {
                let id = codec::parse_row_key(&key).ok_or(Damage::Meta("newest row"))?;
                frame::decode_row(id, &stored)?;
                id.main
            }
        };
        if mutant!("E08") {
            revision = newest;
        }
        if newest > revision {
            return Err(Damage::Meta("revision").into());
        }
        if newest < revision && revision > compact.unwrap_or_default().max(FIRST) {
            return Err(Damage::MissingRevision(revision).into());
        }
        let mut buckets = Vec::new();
        for (fence, stored) in view.scan(Table::Counts, unbounded.0, unbounded.1) {
            let damaged = || Damage::Count(Bytes::copy_from_slice(&fence));
            let live = codec::decode_count(&fence, &stored).ok_or_else(damaged)?;
            // The first fence is the empty key, which no table can hold.
            let fence: &[u8] = if fence[..] == [0] { &[] } else { &fence };
            buckets.push((Bytes::copy_from_slice(fence), live));
        }
        let scrub = Scrub::load(&view, compact)?;
        drop(view);
        let published = Published {
            revision,
            compact,
            counts: Counts::load(buckets.into_iter()),
            recent: Recent::new(revision),
        };
        let inner = Inner {
            storage,
            published: RwLock::new(published),
            revision: AtomicI64::new(revision.0),
            compact: AtomicI64::new(compact.map_or(-1, |compact| compact.0)),
            scrub: Mutex::new(scrub),
            holds: AtomicUsize::new(0),
            damage: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The current revision.
    pub fn revision(&self) -> Revision {
        Revision(self.inner.revision.load(Ordering::Acquire))
    }

    /// The oldest revision that can be read, `None` if nothing was ever compacted.
    pub fn compact_revision(&self) -> Option<Revision> {
        let compact = self.inner.compact.load(Ordering::Acquire);
        (compact >= 0).then_some(Revision(compact))
    }

    /// The tables below.
    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    /// How many keys live now.
    pub fn live_keys(&self) -> u64 {
        self.inner.published().counts.total()
    }

    /// The first damage that a read met, if any. The member must stop then.
    pub fn damage(&self) -> Option<&Damage> {
        self.inner.damage.get()
    }

    /// Makes a change set visible: to the tables, and to the revision, the counts and so on. The
    /// machine has added its own writes to what [`Writer::finish`](super::Writer::finish) returned.
    pub fn commit(&self, set: ChangeSet, publish: Publish) {
        let mut published = self.inner.published.write().expect("no writer panicked");
        self.inner.storage.apply(set);
        published.counts.apply(&publish.counts);
        published.recent.push(publish.recent);
        if let Some(revision) = publish.revision {
            assert!(
                revision == published.revision.next(),
                "{revision} after {}",
                published.revision
            );
            published.revision = revision;
            self.inner.revision.store(revision.0, Ordering::Release);
        }
        if let Some((compact, previous)) = publish.compact {
            assert!(previous == published.compact, "compactions out of order");
            published.compact = Some(compact);
            self.inner.compact.store(compact.0, Ordering::Release);
            self.inner.scrub().compacted(compact, previous);
        }
    }

    /// Asserts what must hold of the counts. Walks all fences, so it is for tests and simulations.
    pub fn check(&self) {
        let published = self.inner.published();
        published.counts.check();
        assert!(published.compact.is_none_or(|compact| compact <= published.revision));
    }

    /// Takes a view and what was published at its moment.
    pub(super) fn enter(&self) -> Entered<'_> {
        self.inner.enter()
    }

    /// Records damage and makes the refusal of it.
    pub(super) fn damaged(&self, damage: Damage) -> Refusal {
        self.inner.damaged(damage)
    }
}

impl Inner {
    pub(super) fn published(&self) -> RwLockReadGuard<'_, Published> {
        self.published.read().expect("no writer panicked")
    }

    pub(super) fn scrub(&self) -> std::sync::MutexGuard<'_, Scrub> {
        self.scrub.lock().expect("nobody panicked over the scrub's state")
    }

    pub(super) fn enter(&self) -> Entered<'_> {
        self.enter_with(self.published())
    }

    /// Takes a view at the moment of a guard that was had before.
    pub(super) fn enter_with(&self, published: RwLockReadGuard<'_, Published>) -> Entered<'_> {
        let view = self.storage.view();
        Entered { view, revision: published.revision, compact: published.compact }
    }

    pub(super) fn damaged(&self, damage: Damage) -> Refusal {
        if self.damage.set(damage.clone()).is_ok() {
            tracing::error!(%damage, "the store is damaged; this member must stop");
        }
        Refusal::Damaged
    }
}

impl<'s> Entered<'s> {
    /// Looks at the keys at a revision.
    pub(super) fn frame(&self, at: Revision) -> Frame<'_, 's> {
        let compact = self.compact;
        Frame { view: &self.view, pending: None, at, compact, ledger: None }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({}, compact {:?})", self.revision(), self.compact_revision())
    }
}

/// A change set with nothing in it yet.
pub(super) fn empty_set(position: LogPosition) -> ChangeSet {
    ChangeSet { position, writes: Vec::with_capacity(4) }
}

/// Writes down the counts that changed.
pub(super) fn count_writes(changes: &[counts::Change]) -> impl Iterator<Item = Write> {
    changes.iter().map(|change| {
        let fence =
            if change.fence.is_empty() { Bytes::from_static(&[0]) } else { change.fence.clone() };
        match change.now {
            Some(now) => {
                let value = codec::encode_count(&fence, now.live);
                Write::put(Table::Counts, fence, value)
            }
            None => Write::delete(Table::Counts, fence),
        }
    })
}

/// Writes a revision down in `Meta`.
pub(super) fn revision_write(key: &'static [u8], revision: Revision) -> Write {
    let value = codec::encode_fact(key, &revision.0.to_be_bytes());
    Write::put(Table::Meta, Bytes::from_static(key), value)
}

fn parse_revision(key: &[u8], stored: &[u8]) -> Option<Revision> {
    let revision = i64::from_be_bytes(codec::decode_fact(key, stored)?.try_into().ok()?);
    (revision >= 0).then_some(Revision(revision))
}
