//! The tables on LMDB: the only file that names heed.
//!
//! One directory is one LMDB environment; each [`Table`] is one LMDB database in it. Commits sync:
//! LMDB's pages carry no checksums and its two meta pages are told apart by transaction number, so a
//! commit that skipped its sync could leave, after a power loss, a root that names pages which were
//! never written. `NOSYNC` is therefore not an option of this module.
//!
//! **Long keys.** LMDB's keys end at 511 bytes, ours do not. A logical key of up to 510 bytes is its
//! own physical key. A longer one is kept in a *bucket*: the row whose physical key is the first
//! 511 bytes, and whose value is the sorted list of all long keys that begin so, with their values
//! (`bucket.rs`). Cutting at a fixed length keeps the order: a short key that equals a bucket's
//! beginning is itself shorter than 511 bytes and sorts before it, and any other short key already
//! differs within those bytes. A bucket that becomes empty is deleted. Reads and scans, in both
//! directions, show logical keys only.
//!
//! **Rot.** Rows are sealed when they are written and looked at when they are read (`seal.rs` says which).
//! That says nothing of rows that are not found, because a link to their page, an offset in it or their
//! own key is damaged. So a walk also demands that keys ascend strictly, and a walk over a whole table
//! that there are as many rows as LMDB counts. With that, the tables that are read whole at the start
//! ([`Table::SMALL`], leases and counts) are complete.
//!
//! Not noticed here: that a *lookup* or a walk over a *part* of a table finds less than there is. For rows
//! and keys `mvcc` knows what must be there: revisions follow one another, chains name their rows, and
//! counts say how many keys live between two fences. What remains:
//! - a lookup of one key that finds nothing, and a walk that ends before the next fence or belongs to a
//!   transaction that writes;
//! - the last of several rows of one revision, in a watcher's history, and in a hash unless a key was born
//!   or died in them;
//! - keys of a lease that are missing from [`Table::LeaseKeys`];
//! - rows at or below the compact revision that the sender of a snapshot has lost: its receiver counts
//!   what it gets;
//! - a stale page that was once this table's, and still hangs together;
//! - a page number that leads out of the map, at which the process dies of a signal.
//!
//! **Read transactions** are pooled: to begin one costs more than a lookup. A pooled transaction
//! stands at the newest commit; the pool is emptied when a commit becomes visible
//! ([`Lmdb::forget_old_readers`]), so an idle reader never pins pages of an older tree.
//!
//! Invariants:
//! - All write transactions begin, write and commit in one call on one thread. (Committing one on
//!   another thread than it began on reports success and then hangs every later writer.)
//! - A value or key borrowed from a transaction does not outlive it; nothing borrowed from a write
//!   transaction is handed back to it as an argument.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use heed::types::Bytes as Raw;
use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoRange,
    RoRevRange, RoTxn, RwTxn, WithoutTls,
};

use super::bucket::{self, Bucket};
use super::error::StorageError;
use super::schema::Table;
use super::seal::{seal, unseal};

/// The longest logical key that is stored as it is; LMDB's longest physical key is one byte more.
const PLAIN_KEY_MAX: usize = 510;
const BUCKET_KEY_LEN: usize = PLAIN_KEY_MAX + 1;

/// Idle read transactions kept; more at once are begun and ended as needed.
const POOL_MAX: usize = 64;

type Db = Database<'static, Raw, Raw>;
type Entry<'t> = (&'t [u8], &'t [u8]);

/// An open environment with its tables.
pub(super) struct Lmdb {
    env: Env<WithoutTls>,
    tables: [Db; Table::COUNT],
    idle: Mutex<Vec<ReadTxn>>,
}

/// A consistent read-only picture of the environment; may move between threads.
pub(super) struct ReadTxn(RoTxn<'static, WithoutTls>);

/// What [`Lmdb::open`] found in a directory that LMDB could open.
pub(super) enum Found {
    /// All tables.
    Tables(Box<Lmdb>),
    /// Not a single database in it: an environment that was created a moment before a crash.
    Empty(Blank),
    /// Databases, but not ours.
    Foreign,
}

/// An environment without databases.
pub(super) struct Blank(Env<WithoutTls>);

impl Lmdb {
    /// Opens the environment of a directory, creating LMDB's files if there are none.
    pub(super) fn open(dir: &Path, map_bytes: usize, readers: u32) -> Result<Found, StorageError> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_readers(readers);
        options.max_dbs(u32::try_from(Table::COUNT).expect("a handful of tables") + 1);
        if crate::mutant!("S06") {
            // SAFETY: the flag weakens durability only; this line exists in mutant builds alone.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the files of the environment are changed by LMDB alone: the caller holds the lock
        // on the data directory, and heed refuses to open one path twice in a process.
        let env = unsafe { options.open(dir) }.map_err(|e| open_error(dir, e))?;
        if env.max_key_size() != BUCKET_KEY_LEN {
            return Err(StorageError::Engine(format!(
                "built for keys of {} bytes, not {BUCKET_KEY_LEN}",
                env.max_key_size()
            )));
        }
        // A reader that died with its process holds its slot, and its pages, until somebody looks.
        env.clear_stale_readers()?;
        if env.unnamed_database_stat().entries == 0 {
            return Ok(Found::Empty(Blank(env)));
        }
        let reader = env.read_txn()?;
        let found = env.open_databases_and_commit(reader, |opener, reader| {
            let mut tables = [None; Table::COUNT];
            for table in Table::ALL {
                tables[table.slot()] =
                    opener.open_database::<Raw, Raw>(reader, Some(table.name()))?;
            }
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
        })?;
        match found.unwrap_commit().into_iter().collect::<Option<Vec<Db>>>() {
            Some(tables) => Ok(Found::Tables(Box::new(Self::new(env, tables)))),
            None => Ok(Found::Foreign),
        }
    }

    fn new(env: Env<WithoutTls>, tables: Vec<Db>) -> Self {
        let tables = tables.try_into().expect("one database a table");
        Self { env, tables, idle: Mutex::new(Vec::new()) }
    }

    fn db(&self, table: Table) -> Db {
        self.tables[table.slot()]
    }

    /// Takes a read transaction at the newest commit whose visibility was announced, or a newer one.
    pub(super) fn reader(&self) -> Result<ReadTxn, StorageError> {
        let idle = if crate::buggify!("store_begins_a_reader") {
            None
        } else {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        };
        if let Some(txn) = idle {
            return Ok(txn);
        }
        Ok(ReadTxn(self.env.clone().static_read_txn()?))
    }

    /// Takes a read transaction back. The caller makes sure that no commit was announced since it was
    /// taken (it holds the lock under which that happens).
    pub(super) fn give_back(&self, txn: ReadTxn) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < POOL_MAX && !crate::buggify!("store_ends_a_reader") {
            idle.push(txn);
        }
    }

    /// Ends all idle read transactions, so that the next ones see the newest commit.
    pub(super) fn forget_old_readers(&self) {
        let old = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(old);
    }

    /// Looks a key up.
    pub(super) fn get<'t>(
        &self,
        txn: &'t ReadTxn,
        table: Table,
        key: &[u8],
    ) -> Result<Option<&'t [u8]>, StorageError> {
        lookup(table, self.db(table), &txn.0, key)
    }

    /// Looks up what is stored under a short key, with its seal, if it has one.
    pub(super) fn get_sealed<'t>(
        &self,
        txn: &'t ReadTxn,
        table: Table,
        key: &[u8],
    ) -> Result<Option<&'t [u8]>, StorageError> {
        Ok(self.db(table).get(&txn.0, key)?)
    }

    /// Reads a table as a whole, and so notices each row that is damaged or missing.
    pub(super) fn verify(&self, txn: &ReadTxn, table: Table) -> Result<(), StorageError> {
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        let mut rows = self.cursor(txn, table, from, to, Order::Ascending)?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// Walks a table between two bounds.
    pub(super) fn cursor<'t>(
        &self,
        txn: &'t ReadTxn,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
    ) -> Result<Cursor<'t>, StorageError> {
        Cursor::new(table, self.db(table), &txn.0, from, to, order)
    }

    /// Begins the write transaction. One at a time: LMDB waits for the one before.
    pub(super) fn writer(&self) -> Result<WriteTxn<'_>, StorageError> {
        let (txn, failed) = (self.env.write_txn()?, OnceCell::new());
        Ok(WriteTxn { lmdb: self, txn, failed, sealed: Vec::new() })
    }

    /// Returns the bytes of pages in use: what quota counts. Free pages inside the file do not count.
    pub(super) fn used_bytes(&self) -> Result<u64, StorageError> {
        let txn = self.env.read_txn()?;
        let mut pages = 2; // LMDB's own two meta pages.
        let main = self.env.unnamed_database_stat();
        pages += main.branch_pages + main.leaf_pages + main.overflow_pages;
        for db in self.tables {
            let stat = db.stat(&txn)?;
            pages += stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        }
        Ok(u64::try_from(pages).expect("page counts fit") * u64::from(main.page_size))
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        self.env.path()
    }

    /// Returns the size of the data file.
    pub(super) fn file_bytes(&self) -> Result<u64, StorageError> {
        Ok(self.env.real_disk_size()?)
    }

    /// Returns a way to wait until the environment is closed, which happens with the last user of it.
    pub(super) fn closing(&self) -> Closing {
        Closing(self.env.clone().prepare_for_closing())
    }
}

impl Blank {
    /// Creates the tables and, in the same transaction, the first rows of [`Table::Meta`].
    pub(super) fn create_tables(self, meta: &[(&[u8], &[u8])]) -> Result<Lmdb, StorageError> {
        let Self(env) = self;
        let writer = env.write_txn()?;
        let made = env.create_databases_and_commit(writer, |opener, writer| {
            let mut tables = [None; Table::COUNT];
            for table in Table::ALL {
                let db = opener.create_database::<Raw, Raw>(writer, Some(table.name()))?;
                tables[table.slot()] = Some(db);
                let rows = if table == Table::Meta { meta } else { &[] };
                for (key, value) in rows {
                    db.put(writer, key, seal(table, key, value, &mut Vec::new()))?;
                }
            }
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
        })?;
        let tables = made.unwrap_commit().into_iter().collect::<Option<Vec<Db>>>();
        Ok(Lmdb::new(env, tables.expect("every table was just created")))
    }
}

/// Returns a way to wait until the environment in a directory is closed; `None` if none is open there
/// in this process.
pub fn closing(dir: &Path) -> Option<Closing> {
    heed::env_closing_event(dir).map(Closing)
}

/// Tells when an environment is closed.
pub struct Closing(heed::EnvClosingEvent);

impl Closing {
    /// Says whether the environment is closed, without waiting.
    pub fn is_closed(&self) -> bool {
        self.0.wait_timeout(std::time::Duration::ZERO)
    }

    /// Waits until the environment is closed: until every handle, view and job is gone.
    pub fn wait(&self) {
        self.0.wait();
    }
}

/// A transaction that writes. Ends without effect when dropped.
///
/// The first failure, of a read or a write, is remembered: all later writes do nothing, all later reads
/// find nothing, and the commit returns it instead of storing anything. So the caller need not look
/// after each step.
pub struct WriteTxn<'e> {
    lmdb: &'e Lmdb,
    txn: RwTxn<'e>,
    failed: OnceCell<StorageError>,
    /// Room for a value with its seal.
    sealed: Vec<u8>,
}

impl WriteTxn<'_> {
    /// Looks a key up, this transaction's own writes included.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<&[u8]> {
        self.keep(lookup(table, self.lmdb.db(table), &self.txn, key))?
    }

    /// Walks a table upwards, this transaction's own writes included.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.walk(table, from, to, Order::Ascending)
    }

    /// Walks a table downwards, this transaction's own writes included.
    pub fn scan_rev(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.walk(table, from, to, Order::Descending)
    }

    fn walk(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
    ) -> impl Iterator<Item = Entry<'_>> {
        let cursor = Cursor::new(table, self.lmdb.db(table), &self.txn, from, to, order);
        let mut cursor = self.keep(cursor);
        std::iter::from_fn(move || self.keep(cursor.as_mut()?.next())?)
    }

    /// Passes a result on, unless this transaction has failed.
    fn keep<T>(&self, result: Result<T, StorageError>) -> Option<T> {
        match result {
            Ok(value) if self.failed.get().is_none() => Some(value),
            Ok(_) => None,
            Err(error) => {
                let _ = self.failed.set(error);
                None
            }
        }
    }

    /// Writes a value.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.attempt(|txn| txn.set(table, key, Some(value)));
    }

    /// Removes a key; harmless if it is not there.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.attempt(|txn| txn.set(table, key, None));
    }

    /// Writes many keys of one table, which come in ascending order: the quick way.
    pub(super) fn write_sorted<'a>(
        &mut self,
        table: Table,
        entries: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    ) {
        self.attempt(|txn| txn.set_sorted(table, entries));
    }

    /// Stores everything, synced; or nothing, if this or any earlier step failed.
    pub(super) fn commit(self) -> Result<(), StorageError> {
        match self.failed.into_inner() {
            None => Ok(self.txn.commit()?),
            Some(error) => Err(error),
        }
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StorageError>) {
        if self.failed.get().is_none() {
            let result = work(self);
            self.keep(result);
        }
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        if key.len() > PLAIN_KEY_MAX {
            return self.set_long(table, std::iter::once((key, value)));
        }
        let db = self.lmdb.db(table);
        match value {
            Some(value) if is_sealed(table, key) => {
                db.put(&mut self.txn, key, seal(table, key, value, &mut self.sealed))?;
            }
            Some(value) => db.put(&mut self.txn, key, value)?,
            None => {
                db.delete(&mut self.txn, key)?;
            }
        }
        Ok(())
    }

    /// Changes keys that all belong to one bucket; they come in ascending order.
    fn set_long<'a>(
        &mut self,
        table: Table,
        changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), StorageError> {
        let mut changes = changes.peekable();
        let Some((first, _)) = changes.peek() else { return Ok(()) };
        let physical = &first[..BUCKET_KEY_LEN];
        let db = self.lmdb.db(table);
        let merged = match db.get(&self.txn, physical)? {
            Some(old) => bucket::merge(Bucket::parse(unseal(table, physical, old)?)?, changes)?,
            None => bucket::merge(Bucket::EMPTY, changes)?,
        };
        match merged {
            Some(new) => {
                db.put(&mut self.txn, physical, seal(table, physical, &new, &mut self.sealed))?;
            }
            None => {
                db.delete(&mut self.txn, physical)?;
            }
        }
        Ok(())
    }

    fn set_sorted<'a>(
        &mut self,
        table: Table,
        entries: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    ) -> Result<(), StorageError> {
        let db = self.lmdb.db(table);
        // Keys beyond the last one are appended: no search, and pages are left full, not halved.
        let last = db.last(&self.txn)?.map(|(key, _)| key.to_vec());
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            let mut cursor = db.iter_mut(&mut self.txn)?;
            while let Some((key, Some(value))) =
                entries.next_if(|(key, value)| value.is_some() && key.len() <= PLAIN_KEY_MAX)
            {
                let append = last.as_ref().is_none_or(|last| key[..] > last[..]);
                let flags = if append { PutFlags::APPEND } else { PutFlags::empty() };
                let value = match is_sealed(table, key) {
                    true => seal(table, key, value, &mut self.sealed),
                    false => value,
                };
                // SAFETY: key and value are the overlay's or `sealed`, not borrowed from this environment.
                unsafe { cursor.put_current_with_options::<Raw>(flags, key, value)? };
            }
            drop(cursor);
            while let Some((key, None)) =
                entries.next_if(|(key, value)| value.is_none() && key.len() <= PLAIN_KEY_MAX)
            {
                db.delete(&mut self.txn, key)?;
            }
            if let Some((first, _)) = entries.peek().filter(|(key, _)| key.len() > PLAIN_KEY_MAX) {
                let physical = first.slice(..BUCKET_KEY_LEN);
                let group = std::iter::from_fn(|| {
                    let same = |key: &Bytes| key.get(..BUCKET_KEY_LEN) == Some(&physical[..]);
                    let (key, value) = entries.next_if(|(key, _)| same(key))?;
                    Some((&key[..], value.as_deref()))
                });
                self.set_long(table, group)?;
            }
        }
        Ok(())
    }
}

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

/// A walk over the logical keys of one table.
pub(super) struct Cursor<'t> {
    table: Table,
    rows: Rows<'t>,
    /// The physical key of the row before.
    before: Option<&'t [u8]>,
    /// Rows still to come, where the walk is over the whole table.
    missing: Option<u64>,
    /// The bucket being shown, and the entries of it that are still to come.
    open: Option<(Bucket<'t>, std::ops::Range<usize>)>,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    order: Order,
}

enum Rows<'t> {
    Up(RoRange<'t, Raw, Raw>),
    Down(RoRevRange<'t, Raw, Raw>),
    Nothing,
}

impl<'t> Cursor<'t> {
    fn new(
        table: Table,
        db: Db,
        txn: &'t RoTxn<'_>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
    ) -> Result<Self, StorageError> {
        // LMDB has no empty key. Every key is above it, so as a lower bound it is none at all, and
        // as an upper bound it leaves nothing.
        let from = match from {
            Bound::Included([]) | Bound::Excluded([]) => Bound::Unbounded,
            bound => bound,
        };
        let rows = match (order, to) {
            (_, Bound::Included([]) | Bound::Excluded([])) => Rows::Nothing,
            (Order::Ascending, _) => Rows::Up(db.range(txn, &(physical(from), physical(to)))?),
            (Order::Descending, _) => {
                Rows::Down(db.rev_range(txn, &(physical(from), physical(to)))?)
            }
        };
        let missing = match (from, to) {
            (Bound::Unbounded, Bound::Unbounded) => Some(db.len(txn)?),
            _ => None,
        };
        let (from, to) = (long_bound(from), long_bound(to));
        Ok(Self { table, rows, before: None, missing, open: None, from, to, order })
    }

    /// Returns the next logical entry.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Entry<'t>>, StorageError> {
        loop {
            if self.open.is_some() {
                if let Some(entry) = self.next_in_bucket()? {
                    return Ok(Some(entry));
                }
                self.open = None;
            }
            let row = match &mut self.rows {
                Rows::Up(rows) => rows.next().transpose()?,
                Rows::Down(rows) => rows.next().transpose()?,
                Rows::Nothing => None,
            };
            let Some((key, stored)) = row else {
                return if self.missing.is_none_or(|missing| missing == 0) {
                    Ok(None)
                } else {
                    Err(self.rot("has fewer rows than it counts"))
                };
            };
            self.check_place(key)?;
            if key.len() == BUCKET_KEY_LEN {
                let bucket = Bucket::parse(unseal(self.table, key, stored)?)?;
                self.open = Some((bucket, 0..bucket.len()));
            } else if is_sealed(self.table, key) {
                return Ok(Some((key, unseal(self.table, key, stored)?)));
            } else {
                return Ok(Some((key, stored)));
            }
        }
    }

    /// Checks that a row comes after the one before, and that it is counted.
    #[inline]
    fn check_place(&mut self, key: &'t [u8]) -> Result<(), StorageError> {
        let ordered = self.before.is_none_or(|before| match self.order {
            Order::Ascending => before < key,
            Order::Descending => before > key,
        });
        if !ordered {
            return Err(self.rot("is out of order"));
        }
        self.before = Some(key);
        if let Some(missing) = &mut self.missing {
            match missing.checked_sub(1) {
                Some(rest) => *missing = rest,
                None => return Err(self.rot("has more rows than it counts")),
            }
        }
        Ok(())
    }

    #[cold]
    fn rot(&self, what: &str) -> StorageError {
        StorageError::Rot(format!("table {} {what}", self.table.name()))
    }

    fn next_in_bucket(&mut self) -> Result<Option<Entry<'t>>, StorageError> {
        let Some((bucket, left)) = &mut self.open else { return Ok(None) };
        loop {
            let at = match self.order {
                Order::Ascending => left.next(),
                Order::Descending => left.next_back(),
            };
            let Some(at) = at else { return Ok(None) };
            let (key, value) = bucket.entry(at)?;
            let above = match &self.from {
                Bound::Included(from) => key >= &from[..],
                Bound::Excluded(from) => key > &from[..],
                Bound::Unbounded => true,
            };
            let below = match &self.to {
                Bound::Included(to) => key <= &to[..],
                Bound::Excluded(to) => key < &to[..],
                Bound::Unbounded => true,
            };
            if above && below {
                return Ok(Some((key, value)));
            }
        }
    }
}

/// Returns the bound on physical keys: for a long key, wide enough to include its bucket.
fn physical(bound: Bound<&[u8]>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) if key.len() > PLAIN_KEY_MAX => {
            Bound::Included(&key[..BUCKET_KEY_LEN])
        }
        bound => bound,
    }
}

/// Returns the bound if it can fall inside a bucket, which a short one never does.
fn long_bound(bound: Bound<&[u8]>) -> Bound<Vec<u8>> {
    match bound {
        Bound::Included(key) if key.len() > PLAIN_KEY_MAX => Bound::Included(key.to_vec()),
        Bound::Excluded(key) if key.len() > PLAIN_KEY_MAX => Bound::Excluded(key.to_vec()),
        _ => Bound::Unbounded,
    }
}

/// Says whether a physical key's row is sealed.
#[inline]
fn is_sealed(table: Table, key: &[u8]) -> bool {
    key.len() > PLAIN_KEY_MAX || !matches!(table, Table::Rows | Table::Keys | Table::Counts)
}

#[inline]
fn lookup<'t>(
    table: Table,
    db: Db,
    txn: &'t RoTxn<'_>,
    key: &[u8],
) -> Result<Option<&'t [u8]>, StorageError> {
    if key.is_empty() {
        return Ok(None);
    }
    if key.len() <= PLAIN_KEY_MAX {
        return match db.get(txn, key)? {
            Some(stored) if is_sealed(table, key) => unseal(table, key, stored).map(Some),
            plain => Ok(plain),
        };
    }
    let physical = &key[..BUCKET_KEY_LEN];
    match db.get(txn, physical)? {
        Some(stored) => Bucket::parse(unseal(table, physical, stored)?)?.get(key),
        None => Ok(None),
    }
}

fn open_error(dir: &Path, error: heed::Error) -> StorageError {
    match error {
        heed::Error::EnvAlreadyOpened => StorageError::AlreadyOpen(dir.to_owned()),
        heed::Error::Mdb(
            e @ (MdbError::Invalid | MdbError::VersionMismatch | MdbError::Corrupted),
        ) => StorageError::Unreadable { dir: dir.to_owned(), reason: e.to_string() },
        other => other.into(),
    }
}

impl From<heed::Error> for StorageError {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Io(e) => Self::Io(e),
            heed::Error::Mdb(MdbError::MapFull) => Self::MapFull,
            heed::Error::Mdb(e @ (MdbError::Corrupted | MdbError::PageNotFound)) => {
                Self::Rot(e.to_string())
            }
            other => Self::Engine(other.to_string()),
        }
    }
}
