//! The sending half.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;

use super::{Chunk, FORMAT, Header, SMALL_TABLES, TableRow, Tally, stays};
use crate::buggify;
use crate::machine::Machine;
use crate::mvcc::{Hold, Store};
use crate::storage::Table;

/// About how many bytes a piece has; one large row may exceed it.
const CHUNK_BYTES: usize = 256 << 10;

/// How many rows are read in one view at most.
const VIEW_ROWS_MAX: usize = 1000;

/// What a row costs beside its bytes.
const ROW_OVERHEAD: usize = 32;

/// A snapshot on its way out. Give it up when the receiver takes too long: as long as it lives, the sending
/// member cannot remove superseded rows.
pub struct Sender {
    store: Store,
    _hold: Hold,
    header: Header,
    tally: Tally,
    stage: Stage,
    tables: VecDeque<TableRow>,
    /// Where the rows go on, and the last of them.
    next: Bound<Bytes>,
    last: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Tables,
    Rows,
    Done,
}

impl Sender {
    /// Begins a snapshot of the machine as it stands. Reads the small tables.
    pub fn new(machine: &Machine) -> Self {
        let state = machine.shared.read();
        let store = state.store.clone();
        let (conf_state, cluster_id) = (state.conf_state.clone(), state.membership.cluster_id());
        drop(state);
        // NB: the hold comes before the view: what a removal took away before, it took whole.
        let hold = store.hold_scrub();
        let header = Header {
            format: FORMAT,
            position: machine.applied(),
            conf_state,
            revision: store.revision(),
            compact_revision: store.compact_revision(),
            cluster_id,
        };
        let view = store.storage().view();
        assert!(view.applied() == header.position, "entries are applied while a snapshot begins");
        let mut tables = VecDeque::new();
        for table in SMALL_TABLES {
            for (key, value) in view.scan(table, Bound::Unbounded, Bound::Unbounded) {
                if !stays(table, &key) {
                    let key = Bytes::copy_from_slice(&key);
                    tables.push_back(TableRow { table, key, value: value.to_bytes() });
                }
            }
        }
        let newest = view.scan_rev(Table::Rows, Bound::Unbounded, Bound::Unbounded).next();
        let last = newest.map(|(key, _)| Bytes::copy_from_slice(&key));
        drop(view);
        let tally = Tally::begin(&header);
        let next = Bound::Unbounded;
        Self { store, _hold: hold, header, tally, stage: Stage::Header, tables, next, last }
    }

    /// Returns what the receiver is told first, also to offer the snapshot.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the next piece; `None` after the trailer. Reads from disk for a moment; not for a thread that
    /// must not wait.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        loop {
            match self.stage {
                Stage::Header => {
                    self.stage = Stage::Tables;
                    return Some(Chunk::Header(self.header.clone()));
                }
                Stage::Tables if self.tables.is_empty() => self.stage = Stage::Rows,
                Stage::Tables => return Some(Chunk::Tables(self.next_tables())),
                Stage::Rows => {
                    let rows = self.next_rows();
                    if !rows.is_empty() {
                        return Some(Chunk::Rows(rows));
                    }
                    self.stage = Stage::Done;
                    return Some(Chunk::Trailer(self.tally.trailer()));
                }
                Stage::Done => return None,
            }
        }
    }

    fn next_tables(&mut self) -> Vec<TableRow> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < buggify!("snapshot_sends_each_table_row", 1, CHUNK_BYTES)
            && let Some(row) = self.tables.pop_front()
        {
            bytes += row.key.len() + row.value.len() + ROW_OVERHEAD;
            self.tally.add(&row.key, &row.value);
            // As if it were damaged on its way: whoever receives it must refuse it.
            if buggify!("snapshot_loses_a_table_row") {
                continue;
            }
            rows.push(row);
        }
        rows
    }

    fn next_rows(&mut self) -> Vec<(Bytes, Bytes)> {
        let Some(last) = &self.last else { return Vec::new() };
        let from = match &self.next {
            Bound::Excluded(key) if key >= last => return Vec::new(),
            Bound::Excluded(key) => Bound::Excluded(&key[..]),
            _ => Bound::Unbounded,
        };
        let view = self.store.storage().view();
        let mut rows = Vec::new();
        let mut bytes = 0;
        let most = buggify!("snapshot_reads_each_row", 1, VIEW_ROWS_MAX);
        for (key, value) in view.scan(Table::Rows, from, Bound::Included(last)).take(most) {
            let (key, value) = (Bytes::copy_from_slice(&key), value.to_bytes());
            bytes += key.len() + value.len() + ROW_OVERHEAD;
            self.tally.add(&key, &value);
            rows.push((key, value));
            if bytes >= CHUNK_BYTES || buggify!("snapshot_ends_a_piece_early") {
                break;
            }
        }
        drop(view);
        if let Some((key, _)) = rows.last() {
            self.next = Bound::Excluded(key.clone());
        }
        rows
    }
}
