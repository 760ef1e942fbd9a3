//! Filling a new store from elsewhere: a snapshot from a peer, a restored backup, a compacting copy.
//!
//! The load goes to a directory of its own in bounded transactions. Until it is finished the store
//! carries a mark and nobody opens it ([`StorageError::Incomplete`]); what completes it is one
//! transaction that takes the mark away and writes the applied position.

use std::path::Path;

use bytes::Bytes;

use super::error::StorageError;
use super::flush::{encode_positions, write_applied, write_batch};
use super::overlay::{Generation, Write, check_write};
use super::schema::{META_LOADED, META_LOADING, Table};
use super::{Data, Storage, StorageOptions};
use crate::types::LogPosition;

/// A store being filled. Dropped unfinished, it leaves a directory that is to be deleted.
pub struct BulkLoader {
    storage: Storage,
    batch: Generation,
    batch_bytes_max: usize,
}

/// Enough to write each page once or twice, little enough to keep in memory.
const BATCH_BYTES_MAX: usize = 8 << 20;

impl BulkLoader {
    /// Creates the store in a directory where none is.
    pub fn create(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let storage = Storage::create_with(dir, options, true)?;
        Ok(Self { storage, batch: Generation::default(), batch_bytes_max: BATCH_BYTES_MAX })
    }

    /// Changes how many bytes are gathered before they are written.
    #[must_use]
    pub fn with_batch_bytes_max(mut self, bytes: usize) -> Self {
        self.batch_bytes_max = bytes;
        self
    }

    /// Adds a write; of two writes to one key the later one counts. Ascending keys are quickest.
    ///
    /// The write comes from outside, so that an impossible one is an error and no panic.
    pub fn add(&mut self, write: Write) -> Result<(), StorageError> {
        check_write(&write).map_err(StorageError::BadWrite)?;
        self.batch.put(write.table, write.key, write.value);
        if self.batch.bytes() >= crate::buggify!("bulk_writes_each", 1, self.batch_bytes_max) {
            self.write(|_| ())?;
        }
        Ok(())
    }

    /// Adds a value: see [`BulkLoader::add`].
    pub fn put(
        &mut self,
        table: Table,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), StorageError> {
        self.add(Write::put(table, key, value))
    }

    /// Returns what was added under a key, written or not.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        match self.batch.get(table, key) {
            Some(value) => value.clone(),
            None => self.storage.view().get(table, key).map(Data::to_bytes),
        }
    }

    /// Writes what was gathered and lends the unfinished store, to read from what was added so far.
    pub fn written(&mut self) -> Result<&Storage, StorageError> {
        self.write(|_| ())?;
        Ok(&self.storage)
    }

    /// Completes the store: it stands at `position`, and is durable.
    pub fn finish(self, position: LogPosition) -> Result<Storage, StorageError> {
        // There is no earlier commit to fall back to.
        self.finish_as(position, position, Some(position))
    }

    pub(super) fn finish_as(
        mut self,
        position: LogPosition,
        before: LogPosition,
        loaded: Option<LogPosition>,
    ) -> Result<Storage, StorageError> {
        let used = self.write(|txn| {
            txn.delete(Table::Meta, META_LOADING);
            if let Some(loaded) = loaded {
                txn.put(Table::Meta, META_LOADED, &encode_positions(loaded, loaded));
            }
            write_applied(txn, position, before);
        })?;
        self.storage.stand_at(position, before, loaded, used);
        Ok(self.storage)
    }

    fn write(&mut self, more: impl FnOnce(&mut super::WriteTxn<'_>)) -> Result<u64, StorageError> {
        let batch = std::mem::take(&mut self.batch);
        self.storage.maintenance(|txn| {
            write_batch(txn, &batch);
            more(txn);
        })?;
        Ok(self.storage.used_bytes())
    }
}
