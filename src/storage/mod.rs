//! The store of a member: ordered tables, durable in LMDB, ahead of it in memory.
//!
//! **The idea.** The Raft log is the truth; the store is what comes of applying it. Each log entry
//! yields one [`ChangeSet`], which is merged into an *overlay* in memory and can be read at once.
//! In the background, closed runs of whole change sets are written to LMDB, each run in one synced
//! transaction together with the position of its last entry. So after a crash the store stands exactly
//! at some entry, and the log, replayed from there, brings back the rest.
//!
//! ```text
//!   apply(change set) ─► active ──begin_flush──► frozen ──FlushJob::run──► LMDB
//!   view()  reads        active      over        frozen        over        LMDB
//! ```
//!
//! **Vocabulary.** *Applied* is the position of the newest change set. *Durable* is the position of
//! the last commit. A *generation* of the overlay is a merged run of change sets: one is active, at
//! most one is frozen. The *trim floor* is the index up to which the log is not needed any more: the
//! position of the second-last commit, so that the store may lose its last commit and still recover.
//!
//! **Guarantees.**
//! - Positions of change sets are contiguous; a gap is a panic, since it is a lost entry.
//! - A view shows whole change sets only, and all up to [`View::applied`].
//! - What LMDB holds is one closed run: never part of a change set, never data without its position.
//! - A generation leaves the overlay only under the write lock, after its commit is visible.
//! - After a failed write, sync or read of LMDB nothing more is written ([`StorageError::Poisoned`]);
//!   views go on working from what is there; only a restart re-reads the truth.
//! - Opening reads the small tables ([`Table::SMALL`]), however large the store, and refuses rot in them.
//!
//! **Threads.** [`Storage`] is a handle to share. `apply` and `begin_flush` are the engine's,
//! [`FlushJob::run`] and [`Storage::maintenance`] belong on one and the same worker, views on any thread.
//!
//! **Left out.** Checksums of pages (LMDB has none: rows carry their own, see `seal.rs` and `mvcc`, and
//! `lmdb.rs` says what that leaves unnoticed), several environments, transactions of readers that write.

mod bucket;
mod bulk;
mod error;
mod flush;
pub mod generations;
mod lmdb;
pub mod log;
mod overlay;
pub mod schema;
mod seal;
mod view;

#[cfg(test)]
pub(crate) mod tests;

use std::any::Any;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use bulk::BulkLoader;
pub use error::StorageError;
pub use flush::FlushJob;
pub use lmdb::{Closing, WriteTxn, closing};
pub use overlay::{ChangeSet, Write};
pub use schema::Table;
pub use view::{Data, Scan, View};

use crate::types::{Index, LogPosition};
use bytes::Bytes;
use lmdb::{Found, Lmdb, Order};
use overlay::Generation;
use schema::{FORMAT_MAGIC, FORMAT_VERSION, META_APPLIED, META_FORMAT, META_LOADED, META_LOADING};

/// Called by name at moments between two effects; see the runtime's crash points.
pub type CrashPoint = Arc<dyn Fn(&'static str) + Send + Sync>;

/// How to open a store.
pub struct StorageOptions {
    /// Address space set aside once for the map, a multiple of the page size. Costs no memory.
    pub map_bytes: usize,
    /// The most views held at the same time, over all threads.
    pub max_readers: u32,
    /// Something to keep until the environment is closed: the lock on the data directory.
    pub keep: Option<Box<dyn Any + Send + Sync>>,
    /// The runtime's crash points.
    pub crash_point: Option<CrashPoint>,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self { map_bytes: 1 << 40, max_readers: 1024, keep: None, crash_point: None }
    }
}

/// A handle to the store of one member. Clones share it; the environment closes with the last of the
/// handles, views and jobs.
#[derive(Clone)]
pub struct Storage {
    shared: Arc<Shared>,
}

struct Shared {
    state: RwLock<State>,
    poisoned: OnceLock<String>,
    crash_point: Option<CrashPoint>,
}

/// What a view sees. Changed under the write lock only.
struct State {
    active: Generation,
    /// Closed and being written; what is in it may or may not be in LMDB already.
    frozen: Option<Arc<Generation>>,
    applied: LogPosition,
    durable: LogPosition,
    /// The commit before the durable one.
    before: LogPosition,
    /// Where a bulk load left the store, if one made it.
    loaded: Option<LogPosition>,
    used_bytes: u64,
    lmdb: Arc<Lmdb>,
    /// Declared after `lmdb`: the environment is closed before the lock is let go.
    keep: Option<Box<dyn Any + Send + Sync>>,
}

impl State {
    /// Returns the overlay's generations, the newest first.
    #[inline]
    fn generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }

    fn overlay_bytes(&self) -> usize {
        self.generations().map(Generation::bytes).sum()
    }
}

impl Storage {
    /// Opens the store in a directory. Reads a few rows, never scans a table that grows with use.
    ///
    /// Refuses what is not a complete store of this format version; [`StorageError::Missing`] if there
    /// is none, which is for the caller to judge: beside a log with entries, a missing store is a loss.
    pub fn open(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        if !Self::exists(dir) {
            return Err(StorageError::Missing(dir.to_owned()));
        }
        match Lmdb::open(dir, options.map_bytes, options.max_readers)? {
            Found::Tables(lmdb) => Self::from_tables(dir, *lmdb, options, false),
            Found::Empty(_) => Err(StorageError::Missing(dir.to_owned())),
            Found::Foreign => Err(StorageError::NotMainstay(dir.to_owned())),
        }
    }

    /// Creates an empty store, and its directory if need be. It stands before the first entry.
    pub fn create(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        Self::create_with(dir, options, false)
    }

    /// Opens the store in a directory, creating it if there is none.
    pub fn open_or_create(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        if Self::exists(dir) { Self::open(dir, options) } else { Self::create(dir, options) }
    }

    /// Says whether a directory holds an environment, whatever is in it.
    pub fn exists(dir: &Path) -> bool {
        data_file(dir).exists()
    }

    fn create_with(
        dir: &Path,
        options: StorageOptions,
        loading: bool,
    ) -> Result<Self, StorageError> {
        std::fs::create_dir_all(dir)?;
        let Found::Empty(blank) = Lmdb::open(dir, options.map_bytes, options.max_readers)? else {
            return Err(StorageError::Exists(dir.to_owned()));
        };
        let format = [FORMAT_MAGIC, &FORMAT_VERSION.to_be_bytes()].concat();
        let mut meta = vec![(META_FORMAT, &format[..])];
        if loading {
            meta.push((META_LOADING, b"1"));
        }
        let lmdb = blank.create_tables(&meta)?;
        Self::from_tables(dir, lmdb, options, loading)
    }

    fn from_tables(
        dir: &Path,
        lmdb: Lmdb,
        options: StorageOptions,
        loading: bool,
    ) -> Result<Self, StorageError> {
        let reader = lmdb.reader()?;
        match lmdb.get_sealed(&reader, Table::Meta, META_FORMAT)?.map(version_of).transpose()? {
            Some(Some(FORMAT_VERSION)) => {}
            Some(Some(found)) => return Err(StorageError::Version { dir: dir.to_owned(), found }),
            _ => return Err(StorageError::NotMainstay(dir.to_owned())),
        }
        for table in Table::SMALL {
            lmdb.verify(&reader, table)?;
        }
        let meta = |key| lmdb.get(&reader, Table::Meta, key);
        if meta(META_LOADING)?.is_some() && !loading {
            return Err(StorageError::Incomplete(dir.to_owned()));
        }
        let positions = |key| match meta(key)?.map(flush::parse_positions) {
            None => Ok(None),
            Some(Some(positions)) => Ok(Some(positions)),
            Some(None) => Err(StorageError::Rot("a position does not parse".into())),
        };
        let (durable, before) = positions(META_APPLIED)?.unwrap_or_default();
        let loaded = positions(META_LOADED)?.map(|(position, _)| position);
        lmdb.give_back(reader);
        let state = State {
            active: Generation::default(),
            frozen: None,
            applied: durable,
            durable,
            before,
            loaded,
            used_bytes: lmdb.used_bytes()?,
            lmdb: Arc::new(lmdb),
            keep: options.keep,
        };
        let shared = Shared {
            state: RwLock::new(state),
            poisoned: OnceLock::new(),
            crash_point: options.crash_point,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the position of the newest change set, overlay included.
    pub fn applied(&self) -> LogPosition {
        self.shared.read().applied
    }

    /// Returns the position of the last commit.
    pub fn durable(&self) -> LogPosition {
        self.shared.read().durable
    }

    /// Returns the index up to which the log may be trimmed: that of the second-last commit.
    pub fn trim_floor(&self) -> Index {
        self.shared.read().before.index
    }

    /// Returns where a bulk load (a snapshot from a peer, a restored backup) completed this store;
    /// `None` if it began empty. A store that still stands exactly there may be ahead of a log whose
    /// mark was not yet moved; any other store ahead of its log means that the log's end was lost.
    pub fn loaded(&self) -> Option<LogPosition> {
        self.shared.read().loaded
    }

    /// Reads a table through, as it is in LMDB. For one that is about to be taken into memory: rot in it is
    /// an error here, where a view would end its thread.
    pub fn verify(&self, table: Table) -> Result<(), StorageError> {
        let lmdb = self.shared.read().lmdb.clone();
        let reader = lmdb.reader()?;
        lmdb.verify(&reader, table)
    }

    /// Merges the next change set into the overlay, where views see it at once.
    ///
    /// # Panics
    /// If the set does not follow the one before, or writes an empty key.
    pub fn apply(&self, set: ChangeSet) {
        self.apply_all([set]);
    }

    /// Merges several change sets; views see all of them or none.
    ///
    /// # Panics
    /// If a set does not follow the one before, or writes an empty key.
    pub fn apply_all(&self, sets: impl IntoIterator<Item = ChangeSet>) {
        let mut state = self.shared.write();
        for set in sets {
            let (was, now) = (state.applied, set.position);
            assert!(now.index == was.index.next(), "change set {now} after {was}: not the next");
            assert!(now.term >= was.term, "change set {now} after {was}: an older term");
            state.active.add(set);
            state.applied = now;
        }
    }

    /// Takes a consistent view of all tables. Short-lived: see [`View`].
    #[inline]
    pub fn view(&self) -> View<'_> {
        View::new(&self.shared)
    }

    /// Returns roughly the memory of what is not yet durable.
    pub fn overlay_bytes(&self) -> usize {
        self.shared.read().overlay_bytes()
    }

    /// Closes the active generation and returns the job that writes it; `None` if there is nothing to
    /// write or a job is under way. On a poisoned store the job returns the error.
    pub fn begin_flush(&self) -> Option<FlushJob> {
        let mut state = self.shared.write();
        if state.frozen.is_some() || state.active.last().is_none() {
            return None;
        }
        let batch = Arc::new(std::mem::take(&mut state.active));
        state.frozen = Some(batch.clone());
        Some(FlushJob::new(self.shared.clone(), batch))
    }

    /// Changes LMDB directly, in one synced transaction, on the worker that runs flush jobs.
    ///
    /// For bounded physical work that no reader at a valid revision can notice. The transaction sees
    /// LMDB without the overlay: whoever deletes here makes sure that no overlay entry relies on it.
    pub fn maintenance<R>(
        &self,
        f: impl FnOnce(&mut WriteTxn<'_>) -> R,
    ) -> Result<R, StorageError> {
        self.shared.check_poison()?;
        let lmdb = self.shared.read().lmdb.clone();
        let work = || {
            let mut txn = lmdb.writer()?;
            let result = f(&mut txn);
            self.shared.crash_point("maintenance_before_commit");
            txn.commit()?;
            Ok((result, lmdb.used_bytes()?))
        };
        match work() {
            Ok((result, used)) => {
                let mut state = self.shared.write();
                if Arc::ptr_eq(&state.lmdb, &lmdb) {
                    state.used_bytes = used;
                }
                lmdb.forget_old_readers();
                Ok(result)
            }
            Err(error) => {
                self.shared.poison(&error);
                Err(error)
            }
        }
    }

    /// Replaces the whole store by another one, filled from a snapshot: all clones of this handle go on
    /// with it. Waits for the views that are held; runs on the worker of flush jobs. What was in the
    /// overlay is gone, and a flush job that was begun before does nothing any more.
    ///
    /// Returns a way to wait until the old environment is closed and its directory may be deleted.
    ///
    /// # Panics
    /// If `other` has more handles, or stands before this store.
    pub fn install(&self, other: Self) -> Closing {
        let other = Arc::into_inner(other.shared).expect("the new store has one handle");
        let new = other.state.into_inner().expect("nobody panicked while filling it");
        let mut state = self.shared.write();
        let (from, to) = (state.applied, new.applied);
        assert!(to.index >= from.index, "the snapshot at {to} is older than the store at {from}");
        let closing = state.lmdb.closing();
        let kept = state.keep.take();
        let old = std::mem::replace(&mut *state, State { keep: kept, ..new });
        drop(state);
        drop(old);
        closing
    }

    /// Copies what is durable into a new, compact store in another directory. Runs on the worker of
    /// flush jobs, so that nothing is committed meanwhile; as long as it takes, the overlay grows.
    pub fn copy_to(&self, dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        self.shared.check_poison()?;
        let (lmdb, durable, before, loaded) = {
            let state = self.shared.read();
            (state.lmdb.clone(), state.durable, state.before, state.loaded)
        };
        let mut loader = BulkLoader::create(dir, options)?;
        let reader = lmdb.reader()?;
        for table in Table::ALL {
            let (from, to) = (Bound::Unbounded, Bound::Unbounded);
            let mut rows = lmdb.cursor(&reader, table, from, to, Order::Ascending)?;
            while let Some((key, value)) = rows.next()? {
                if table != Table::Meta || key[0] != schema::RESERVED {
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    loader.put(table, key, value)?;
                }
            }
        }
        loader.finish_as(durable, before, loaded)
    }

    /// Goes on with a copy made by [`Storage::copy_to`] in place of the environment it was made of;
    /// the overlay stays as it is. In the same job on the worker as the copying. Waits for the views
    /// that are held, and returns a way to wait until the old environment is closed.
    ///
    /// # Panics
    /// If the copy has more handles, or something was committed since it was made.
    pub fn replace_with_copy(&self, copy: Self) -> Closing {
        let copy = Arc::into_inner(copy.shared).expect("the copy has one handle");
        let copy = copy.state.into_inner().expect("nobody panicked while filling it");
        let mut state = self.shared.write();
        let (from, to) = (state.durable, copy.applied);
        assert!(from == to, "the copy stands at {to}, the store at {from}");
        let closing = state.lmdb.closing();
        state.used_bytes = copy.used_bytes;
        let old = std::mem::replace(&mut state.lmdb, copy.lmdb);
        drop(state);
        drop(old);
        closing
    }

    /// Sets where a store stands that was filled from outside.
    fn stand_at(
        &self,
        position: LogPosition,
        before: LogPosition,
        loaded: Option<LogPosition>,
        used_bytes: u64,
    ) {
        let mut state = self.shared.write();
        state.applied = position;
        state.durable = position;
        state.before = before;
        state.loaded = loaded;
        state.used_bytes = used_bytes;
    }

    /// Returns the bytes that count against a quota: the pages in use, and what the next commits add. Without
    /// the latter, as much as the overlay may hold would fit beyond the quota.
    pub fn quota_bytes(&self) -> u64 {
        let state = self.shared.read();
        state.used_bytes + u64::try_from(state.overlay_bytes()).expect("a size in memory fits")
    }

    /// Returns the bytes of pages in use at the last commit.
    pub fn used_bytes(&self) -> u64 {
        self.shared.read().used_bytes
    }

    /// Returns the size of the data file.
    pub fn file_bytes(&self) -> u64 {
        let state = self.shared.read();
        // A size that cannot be asked for is no reason to fail: it is shown, nothing depends on it.
        state.lmdb.file_bytes().unwrap_or(state.used_bytes)
    }

    /// Returns why the store refuses to write, if it does.
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poisoned.get().map(String::as_str)
    }

    /// Returns the directory of the environment.
    pub fn dir(&self) -> PathBuf {
        self.shared.read().lmdb.dir().to_owned()
    }

    /// Gives this handle up and returns a way to wait until the environment is closed, which one path
    /// needs before it can be opened again.
    pub fn close(self) -> Closing {
        let state = self.shared.read();
        let closing = state.lmdb.closing();
        state.lmdb.forget_old_readers();
        closing
    }

    /// Asserts what must hold of the positions at any moment.
    pub fn check(&self) {
        let state = self.shared.read();
        let frozen = state.frozen.as_ref().map(|f| f.last().expect("a closed batch is not empty"));
        assert!(state.before <= state.durable, "{} then {}", state.before, state.durable);
        assert!(state.durable <= state.applied, "{} over {}", state.durable, state.applied);
        assert!(frozen.is_none_or(|f| f > state.durable && f <= state.applied), "{frozen:?}");
        let newest = state.active.last().or(frozen).unwrap_or(state.durable);
        assert!(newest == state.applied, "the overlay ends at {newest}, not {}", state.applied);
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.read();
        write!(f, "Storage(applied {}, durable {})", state.applied, state.durable)
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no thread panicked while it changed the overlay")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no thread panicked while it changed the overlay")
    }

    fn crash_point(&self, name: &'static str) {
        if let Some(crash_point) = &self.crash_point {
            crash_point(name);
        }
    }

    /// Remembers the first failure; from here on nothing is written.
    fn poison(&self, error: &StorageError) {
        let _ = self.poisoned.set(error.to_string());
    }

    fn check_poison(&self) -> Result<(), StorageError> {
        match self.poisoned.get() {
            None => Ok(()),
            Some(cause) => Err(StorageError::Poisoned(cause.clone())),
        }
    }

    /// Takes the frozen generation out of the overlay: its commit is visible to every transaction
    /// begun from now on.
    fn batch_is_durable(&self, batch: &Arc<Generation>, position: LogPosition, used_bytes: u64) {
        let mut state = self.write();
        let gone = state.frozen.take().filter(|frozen| Arc::ptr_eq(frozen, batch));
        assert!(gone.is_some(), "{position} was written while another store was installed");
        state.before = state.durable;
        state.durable = position;
        state.used_bytes = used_bytes;
        state.lmdb.forget_old_readers();
        drop(state);
        // Freeing a large batch takes a while: not under the lock.
        drop(gone);
    }
}

/// Reads the format version out of the row that holds it, seal included; `None` if it is not ours.
fn version_of(stored: &[u8]) -> Result<Option<u32>, StorageError> {
    let version = |format: &[u8]| {
        let version = format.strip_prefix(FORMAT_MAGIC)?;
        Some(u32::from_be_bytes(version.try_into().ok()?))
    };
    match seal::unseal(Table::Meta, META_FORMAT, stored) {
        Ok(format) => Ok(version(format)),
        // Version 1 had no seals. Of any other row without one nothing can be said.
        Err(_) if version(stored) == Some(1) => Ok(Some(1)),
        Err(rot) => Err(rot),
    }
}

/// Returns LMDB's file within an environment's directory.
fn data_file(dir: &Path) -> PathBuf {
    dir.join("data.mdb")
}
