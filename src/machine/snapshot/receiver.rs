//! The receiving half.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

use super::{Chunk, FORMAT, Header, SMALL_TABLES, TableRow, Tally, Trailer, stays};
use crate::lease;
use crate::machine::MachineError;
use crate::machine::tables::State;
use crate::mvcc::{CountsBuilder, Damage, ForeignRow, Unbroken};
use crate::storage::{BulkLoader, Storage, StorageError, StorageOptions, Table};
use crate::types::ClusterId;

/// How many keys are read in one view while they are counted.
const VIEW_KEYS_MAX: usize = 1000;

/// Why a snapshot is refused. Nothing of it is used; the directory is to be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A piece came out of order.
    #[error("the snapshot's pieces are out of order: {0}")]
    OutOfOrder(&'static str),
    /// It ended without its trailer.
    #[error("the snapshot is incomplete")]
    Incomplete,
    /// It does not come out as its trailer says.
    #[error("the snapshot is damaged: it came out as {got:?}, and was sent as {sent:?}")]
    Damaged {
        /// What arrived.
        got: Trailer,
        /// What was sent.
        sent: Trailer,
    },
    /// A row in it is damaged.
    #[error("the snapshot is damaged: {0}")]
    Row(#[from] Damage),
    /// A format of another version.
    #[error("the snapshot has format {0}, which this program does not know")]
    Format(u32),
    /// Another cluster's.
    #[error("the snapshot belongs to cluster {0}")]
    OtherCluster(ClusterId),
    /// A table that is not sent.
    #[error("the snapshot brings rows of table {}", .0.name())]
    Table(Table),
    /// The finished store does not stand where the header says.
    #[error("the snapshot's {0} is not what its header says")]
    Contradiction(&'static str),
    /// The finished store does not open.
    #[error("the snapshot makes no state: {0}")]
    Machine(#[from] Box<MachineError>),
    /// The store could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An earlier piece was refused.
    #[error("the snapshot was refused before")]
    Refused,
}

/// A snapshot on its way in.
pub struct Receiver {
    /// `None` once something was refused.
    loader: Option<BulkLoader>,
    cluster_id: ClusterId,
    begun: Option<Begun>,
}

struct Begun {
    header: Header,
    tally: Tally,
    stage: Stage,
    /// The last row of keys.
    last: Bytes,
    unbroken: Unbroken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Tables,
    Rows,
    Complete,
}

impl Receiver {
    /// Begins to build a store in a fresh directory. `cluster_id` is this member's cluster.
    pub fn create(
        dir: &Path,
        options: StorageOptions,
        cluster_id: ClusterId,
    ) -> Result<Self, ReceiveError> {
        let loader = BulkLoader::create(dir, options)?;
        Ok(Self { loader: Some(loader), cluster_id, begun: None })
    }

    /// Takes the next piece. After an error the rest is refused as well.
    ///
    /// Writes to disk now and then; not for a thread that must not wait.
    pub fn take(&mut self, chunk: Chunk) -> Result<(), ReceiveError> {
        let result = self.try_take(chunk);
        if result.is_err() {
            self.loader = None;
        }
        result
    }

    /// Completes the store and checks it as a whole: durable, and ready to be put in force.
    pub fn finish(mut self) -> Result<Storage, ReceiveError> {
        let mut loader = self.loader.take().ok_or(ReceiveError::Refused)?;
        let begun = self.begun.filter(|begun| begun.stage == Stage::Complete);
        let header = begun.ok_or(ReceiveError::Incomplete)?.header;
        count_keys(&mut loader)?;
        let storage = loader.finish(header.position)?;
        check_state(&storage, &header)?;
        Ok(storage)
    }

    fn try_take(&mut self, chunk: Chunk) -> Result<(), ReceiveError> {
        let loader = self.loader.as_mut().ok_or(ReceiveError::Refused)?;
        let Some(begun) = &mut self.begun else {
            let Chunk::Header(header) = chunk else {
                return Err(ReceiveError::OutOfOrder("it does not begin with its header"));
            };
            if header.format != FORMAT {
                return Err(ReceiveError::Format(header.format));
            }
            if header.cluster_id != self.cluster_id {
                return Err(ReceiveError::OtherCluster(header.cluster_id));
            }
            let tally = Tally::begin(&header);
            let unbroken = Unbroken::above(header.compact_revision.unwrap_or_default());
            let (stage, last) = (Stage::Tables, Bytes::new());
            self.begun = Some(Begun { header, tally, stage, last, unbroken });
            return Ok(());
        };
        match chunk {
            Chunk::Header(_) => Err(ReceiveError::OutOfOrder("a second header")),
            Chunk::Tables(rows) => begun.take_tables(loader, rows),
            Chunk::Rows(rows) => begun.take_rows(loader, rows),
            Chunk::Trailer(trailer) => begun.take_trailer(trailer),
        }
    }
}

impl Begun {
    fn take_tables(
        &mut self,
        loader: &mut BulkLoader,
        rows: Vec<TableRow>,
    ) -> Result<(), ReceiveError> {
        if self.stage != Stage::Tables {
            return Err(ReceiveError::OutOfOrder("small tables after the rows of keys"));
        }
        for TableRow { table, key, value } in rows {
            if !SMALL_TABLES.contains(&table) || stays(table, &key) {
                return Err(ReceiveError::Table(table));
            }
            self.tally.add(&key, &value);
            loader.put(table, key, value)?;
        }
        Ok(())
    }

    fn take_rows(
        &mut self,
        loader: &mut BulkLoader,
        rows: Vec<(Bytes, Bytes)>,
    ) -> Result<(), ReceiveError> {
        if self.stage > Stage::Rows {
            return Err(ReceiveError::OutOfOrder("rows after the trailer"));
        }
        self.stage = Stage::Rows;
        for (row_key, value) in rows {
            if row_key <= self.last {
                return Err(ReceiveError::OutOfOrder("rows that do not ascend"));
            }
            self.tally.add(&row_key, &value);
            let row = ForeignRow::read(&row_key, &value)?;
            self.unbroken.see(row.id())?;
            let key = Bytes::copy_from_slice(row.key());
            let before = loader.get(Table::Keys, &key);
            let indexed = row.index(before.as_deref())?;
            for write in lease::keys::moved(&key, indexed.lease_before, indexed.lease) {
                loader.add(write)?;
            }
            loader.put(Table::Keys, key, indexed.entry)?;
            self.last = row_key.clone();
            loader.put(Table::Rows, row_key, value)?;
        }
        Ok(())
    }

    fn take_trailer(&mut self, sent: Trailer) -> Result<(), ReceiveError> {
        if self.stage == Stage::Complete {
            return Err(ReceiveError::OutOfOrder("a second trailer"));
        }
        let got = self.tally.trailer();
        if got != sent && !crate::mutant!("S02") {
            return Err(ReceiveError::Damaged { got, sent });
        }
        self.unbroken.end(self.header.revision)?;
        self.stage = Stage::Complete;
        Ok(())
    }
}

/// Counts the finished keys, in views that are short although nobody waits for them: one that is long pins
/// the pages that the counts' own writes give free.
fn count_keys(loader: &mut BulkLoader) -> Result<(), ReceiveError> {
    let mut counts = CountsBuilder::default();
    let mut next: Bound<Bytes> = Bound::Unbounded;
    loop {
        let mut writes = Vec::new();
        let mut last = None;
        let view = loader.written()?.view();
        let from = match &next {
            Bound::Excluded(key) => Bound::Excluded(&key[..]),
            _ => Bound::Unbounded,
        };
        let most = crate::buggify!("snapshot_counts_each_key", 1, VIEW_KEYS_MAX);
        for (key, entry) in view.scan(Table::Keys, from, Bound::Unbounded).take(most) {
            writes.extend(counts.add(&key, &entry)?);
            last = Some(Bytes::copy_from_slice(&key));
        }
        drop(view);
        for write in writes {
            loader.add(write)?;
        }
        match last {
            Some(key) => next = Bound::Excluded(key),
            None => break,
        }
    }
    loader.add(counts.finish())?;
    Ok(())
}

/// Opens what was built, as a restart would, and holds it against the header.
fn check_state(storage: &Storage, header: &Header) -> Result<(), ReceiveError> {
    let state = State::load(storage.clone()).map_err(Box::new)?;
    let checks = [
        (state.store.revision() == header.revision, "revision"),
        (state.store.compact_revision() == header.compact_revision, "compact revision"),
        (state.conf_state == header.conf_state, "configuration"),
        (state.membership.cluster_id() == header.cluster_id, "cluster"),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(ReceiveError::Contradiction(what)),
        None => Ok(()),
    }
}
