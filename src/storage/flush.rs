//! Writing in the background: closed batches of change sets, each one LMDB transaction.

use std::sync::Arc;

use super::Shared;
use super::error::StorageError;
use super::lmdb::{Lmdb, WriteTxn};
use super::overlay::Generation;
use super::schema::{META_APPLIED, Table};
use crate::types::{Index, LogPosition, Term};

/// The writing of one closed batch. Runs on the worker that owns all write transactions.
///
/// Dropped without having run, it leaves the batch in the overlay for good: reads stay right, and no
/// later batch is begun. That is for a node that is going down.
pub struct FlushJob {
    shared: Arc<Shared>,
    batch: Arc<Generation>,
    position: LogPosition,
}

impl FlushJob {
    pub(super) fn new(shared: Arc<Shared>, batch: Arc<Generation>) -> Self {
        let position = batch.last().expect("a closed batch holds a change set");
        Self { shared, batch, position }
    }

    /// Returns the position of the last change set of the batch.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Writes the batch and its applied position in one synced transaction, then takes it out of the
    /// overlay. After an error nothing was stored and the store accepts no more writes.
    pub fn run(self) -> Result<LogPosition, StorageError> {
        self.shared.check_poison()?;
        let (lmdb, previous) = {
            let state = self.shared.read();
            if !state.frozen.as_ref().is_some_and(|frozen| Arc::ptr_eq(frozen, &self.batch)) {
                // Another store was installed since: what this batch belongs to is gone.
                return Ok(self.position);
            }
            (state.lmdb.clone(), state.durable)
        };
        match self.store(&lmdb, previous) {
            Ok(used) => {
                self.shared.crash_point("flush_committed");
                self.shared.batch_is_durable(&self.batch, self.position, used);
                Ok(self.position)
            }
            Err(_) if crate::mutant!("S08") => {
                // What fits is stored, and everybody is told that it was all.
                for table in Table::ALL {
                    let Ok(mut part) = lmdb.writer() else { continue };
                    part.write_sorted(table, self.batch.table(table).iter());
                    let _ = part.commit();
                }
                if let Ok(mut end) = lmdb.writer() {
                    write_applied(&mut end, self.position, previous);
                    let _ = end.commit();
                }
                self.shared.batch_is_durable(&self.batch, self.position, 0);
                Ok(self.position)
            }
            Err(StorageError::Io(_)) if crate::mutant!("S04") => {
                self.shared.batch_is_durable(&self.batch, self.position, 0);
                Ok(self.position)
            }
            Err(error) => {
                self.shared.poison(&error);
                Err(error)
            }
        }
    }

    fn store(&self, lmdb: &Lmdb, previous: LogPosition) -> Result<u64, StorageError> {
        if crate::mutant!("E01") {
            // The position in a transaction of its own, before the data.
            let mut early = lmdb.writer()?;
            write_applied(&mut early, self.position, previous);
            early.commit()?;
            self.shared.crash_point("flush_before_commit");
        }
        let mut txn = lmdb.writer()?;
        write_batch(&mut txn, &self.batch);
        write_applied(&mut txn, self.position, previous);
        self.shared.crash_point("flush_before_commit");
        txn.commit()?;
        lmdb.used_bytes()
    }
}

/// Writes a batch table by table, each in key order.
pub(super) fn write_batch(txn: &mut WriteTxn<'_>, batch: &Generation) {
    for table in Table::ALL {
        if !batch.table(table).is_empty() {
            txn.write_sorted(table, batch.table(table).iter());
        }
    }
}

/// Writes down up to where this transaction brings the store, and where the one before had brought it.
pub(super) fn write_applied(txn: &mut WriteTxn<'_>, now: LogPosition, previous: LogPosition) {
    txn.put(Table::Meta, META_APPLIED, &encode_positions(now, previous));
}

/// Encodes two positions.
pub(super) fn encode_positions(now: LogPosition, previous: LogPosition) -> Vec<u8> {
    let numbers = [now.index.0, now.term.0, previous.index.0, previous.term.0];
    numbers.map(u64::to_be_bytes).concat()
}

/// Reads back what [`encode_positions`] wrote.
pub(super) fn parse_positions(value: &[u8]) -> Option<(LogPosition, LogPosition)> {
    let mut numbers = value.chunks_exact(8).map(|n| u64::from_be_bytes(n.try_into().expect("8")));
    let mut position = || Some(LogPosition::new(Index(numbers.next()?), Term(numbers.next()?)));
    let found = (position()?, position()?);
    (value.len() == 32).then_some(found)
}
