//! Reading: overlay over LMDB, as one consistent picture.
//!
//! A [`View`] holds the overlay's read lock and an LMDB read transaction *taken after it*. In that
//! order LMDB can only be newer than the overlay's floor, never older: a generation leaves the overlay
//! only after its commit, and only under the write lock. What lies in both, the overlay decides.
//!
//! The cost: while a view is held, change sets wait. Hold it for one lookup or one bounded batch,
//! and copy out. NB: never take a second view while holding one: a writer that waits between the two
//! blocks the second, and the first blocks the writer.
//!
//! Reads return no errors. That LMDB cannot read a page it wrote means damage, on which no answer can
//! be based: the store is poisoned, so that nothing more is written, and the reading thread panics.

use std::fmt;
use std::ops::{Bound, Deref};
use std::sync::RwLockReadGuard;

use bytes::Bytes;

use super::error::StorageError;
use super::lmdb::{Cursor, Order, ReadTxn};
use super::overlay::Entries;
use super::schema::Table;
use super::{Shared, State};
use crate::types::LogPosition;

/// Bytes of a key or value, wherever they lie. Valid as long as the view is.
#[derive(Clone, Copy)]
pub enum Data<'v> {
    /// In the overlay: cloning shares them.
    Shared(&'v Bytes),
    /// In LMDB's map: keeping them means copying.
    Mapped(&'v [u8]),
}

impl<'v> Data<'v> {
    /// Returns the bytes, borrowed for as long as the view lives.
    #[inline]
    pub fn as_slice(self) -> &'v [u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }

    /// Returns the bytes to keep: shared if they are in the overlay, copied if not.
    #[inline]
    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::Shared(bytes) => bytes.clone(),
            Self::Mapped(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

impl Deref for Data<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Data<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Data<'_> {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// One consistent picture of all tables at one position.
pub struct View<'s> {
    shared: &'s Shared,
    state: RwLockReadGuard<'s, State>,
    /// `None` only while being dropped.
    txn: Option<ReadTxn>,
}

impl<'s> View<'s> {
    pub(super) fn new(shared: &'s Shared) -> Self {
        let state = shared.read();
        let txn = shared.must_read(state.lmdb.reader());
        Self { shared, state, txn: Some(txn) }
    }

    fn txn(&self) -> &ReadTxn {
        self.txn.as_ref().expect("a view has its transaction until it is dropped")
    }

    /// Returns the position of the newest change set in this view.
    pub fn applied(&self) -> LogPosition {
        self.state.applied
    }

    /// Looks a key up.
    #[inline]
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Data<'_>> {
        for generation in self.state.generations() {
            if let Some(said) = generation.get(table, key) {
                return said.as_ref().map(Data::Shared);
            }
        }
        let found = self.state.lmdb.get(self.txn(), table, key);
        self.shared.must_read(found).map(Data::Mapped)
    }

    /// Walks a table upwards. An empty or crossed range has no entries.
    pub fn scan(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Scan<'_> {
        Scan::new(self, table, from, to, Order::Ascending)
    }

    /// Walks a table downwards: the same entries as [`View::scan`], last first.
    pub fn scan_rev(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Scan<'_> {
        Scan::new(self, table, from, to, Order::Descending)
    }

    /// Walks all keys with a beginning, upwards.
    pub fn scan_prefix<'v>(
        &'v self,
        table: Table,
        prefix: &'v [u8],
    ) -> impl Iterator<Item = (Data<'v>, Data<'v>)> + use<'v, 's> {
        self.scan(table, Bound::Included(prefix), Bound::Unbounded)
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // The lock is still held here, so no commit was announced since the transaction was taken.
        if let Some(txn) = self.txn.take() {
            self.state.lmdb.give_back(txn);
        }
    }
}

/// A walk over one table: three ordered sources merged, the newest deciding.
pub struct Scan<'v> {
    shared: &'v Shared,
    active: Layer<'v>,
    frozen: Layer<'v>,
    stored: Option<Cursor<'v>>,
    stored_head: Option<(&'v [u8], &'v [u8])>,
    order: Order,
}

/// One generation of the overlay within a walk, with its next entry looked at.
struct Layer<'v> {
    rest: Option<Entries<'v>>,
    head: Option<(&'v Bytes, &'v Option<Bytes>)>,
}

impl<'v> Layer<'v> {
    const NONE: Self = Self { rest: None, head: None };

    fn new(mut rest: Entries<'v>, order: Order) -> Self {
        let head = step(&mut rest, order);
        Self { rest: Some(rest), head }
    }

    fn advance(&mut self, order: Order) {
        self.head = self.rest.as_mut().and_then(|rest| step(rest, order));
    }

    /// Says whether this layer speaks next, or together with another whose next key is `key`.
    fn is_next(&self, key: Option<&[u8]>, order: Order) -> bool {
        match (self.head, key) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((mine, _)), Some(key)) => match order {
                Order::Ascending => mine[..] <= *key,
                Order::Descending => mine[..] >= *key,
            },
        }
    }
}

fn step<'v>(entries: &mut Entries<'v>, order: Order) -> Option<(&'v Bytes, &'v Option<Bytes>)> {
    match order {
        Order::Ascending => entries.next(),
        Order::Descending => entries.next_back(),
    }
}

impl<'v> Scan<'v> {
    fn new(
        view: &'v View<'_>,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
    ) -> Self {
        let mut scan = Self {
            shared: view.shared,
            active: Layer::NONE,
            frozen: Layer::NONE,
            stored: None,
            stored_head: None,
            order,
        };
        if is_crossed(from, to) {
            return scan;
        }
        scan.active = Layer::new(view.state.active.range(table, from, to), order);
        if let Some(frozen) = &view.state.frozen {
            scan.frozen = Layer::new(frozen.range(table, from, to), order);
        }
        let cursor = view.state.lmdb.cursor(view.txn(), table, from, to, order);
        scan.stored = Some(view.shared.must_read(cursor));
        scan.advance_stored();
        scan
    }

    #[inline]
    fn advance_stored(&mut self) {
        self.stored_head = match &mut self.stored {
            Some(cursor) => self.shared.must_read(cursor.next()),
            None => None,
        };
    }

    /// Takes the next entry where LMDB is not alone: also decides which sources said the same key.
    fn next_merged(&mut self) -> Option<(Data<'v>, Data<'v>)> {
        loop {
            let stored_key = self.stored_head.map(|(key, _)| key);
            let frozen_first = self.frozen.is_next(stored_key, self.order);
            let older =
                if frozen_first { self.frozen.head.map(|(key, _)| &key[..]) } else { stored_key };
            let (key, value) = if self.active.is_next(older, self.order) {
                self.active.head?
            } else if frozen_first {
                self.frozen.head?
            } else {
                let (key, value) = self.stored_head?;
                self.advance_stored();
                return Some((Data::Mapped(key), Data::Mapped(value)));
            };
            // What older sources say about this key is overridden.
            if self.active.head.is_some_and(|(k, _)| k == key) {
                self.active.advance(self.order);
            }
            if self.frozen.head.is_some_and(|(k, _)| k == key) {
                self.frozen.advance(self.order);
            }
            if self.stored_head.is_some_and(|(k, _)| k == key) {
                self.advance_stored();
            }
            if let Some(value) = value {
                return Some((Data::Shared(key), Data::Shared(value)));
            }
        }
    }
}

impl<'v> Iterator for Scan<'v> {
    type Item = (Data<'v>, Data<'v>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.active.head.is_none() && self.frozen.head.is_none() {
            let (key, value) = self.stored_head?;
            self.advance_stored();
            return Some((Data::Mapped(key), Data::Mapped(value)));
        }
        self.next_merged()
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

impl Shared {
    /// Unwraps what was read; damage poisons the store and ends the reading thread.
    #[inline]
    fn must_read<T>(&self, read: Result<T, StorageError>) -> T {
        match read {
            Ok(value) => value,
            Err(error) => {
                self.poison(&error);
                panic!("cannot read the store: {error}");
            }
        }
    }
}
