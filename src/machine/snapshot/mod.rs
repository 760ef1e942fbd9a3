//! The machine's whole state for a peer that is too far behind the log: sent in pieces, built up anew.
//!
//! ```text
//!   Header  where it stands: position, configuration, revision, compact revision, cluster
//!   Tables  the small tables as of that position: leases, members, alarms, facts of the store …
//!   Rows    the history of keys up to that position, in revision order
//!   Trailer how many rows all of that was, and a checksum over it
//! ```
//!
//! **Sending** ([`Sender`]) reads the small tables in one view at the start and the rows in many short ones:
//! rows are never changed, and those that are written meanwhile lie beyond the last row of the start, so
//! what is read piecemeal is still one moment. Only the removal of superseded rows could disturb that; it is
//! held off while the sender lives, so a sender that takes too long is to be dropped.
//!
//! **Receiving** ([`Receiver`]) builds a store in a directory of its own. The index of keys, the counts and
//! the keys of leases are not sent: they follow from the rows and are made from them. Nothing of it is used
//! before the trailer has agreed and the finished store was opened and stands where the header said. Only
//! then may the caller put its directory in force and hand the store to
//! [`Machine::install`](super::Machine::install).
//!
//! # Invariants
//! - Memory is bounded on both sides, by the small tables and a batch, whatever the number of keys.
//! - A piece that is missing, doubled, out of order or damaged makes the whole snapshot refused.
//! - A refused or unfinished snapshot leaves nothing but a directory to be deleted.
//!
//! Left out: how pieces travel (`transport`), and resuming a broken transfer: it starts over.

mod receiver;
mod sender;

use bytes::Bytes;

use crate::raft::ConfState;
use crate::storage::Table;
use crate::types::{ClusterId, LogPosition, Revision};

pub use receiver::{ReceiveError, Receiver};
pub use sender::Sender;

/// The version of the format. A receiver takes its own only.
pub const FORMAT: u32 = 1;

/// One piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The first.
    Header(Header),
    /// Rows of small tables.
    Tables(Vec<TableRow>),
    /// Rows of table `Rows`: key and value as stored, ascending.
    Rows(Vec<(Bytes, Bytes)>),
    /// The last.
    Trailer(Trailer),
}

/// Where a snapshot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format of the pieces.
    pub format: u32,
    /// The last entry whose effect is in it.
    pub position: LogPosition,
    /// Raft's configuration after that entry.
    pub conf_state: ConfState,
    /// The store's revision.
    pub revision: Revision,
    /// The compact revision; `None` before the first compaction.
    pub compact_revision: Option<Revision>,
    /// Whose state it is.
    pub cluster_id: ClusterId,
}

/// A row of a small table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// The table.
    pub table: Table,
    /// The row's key.
    pub key: Bytes,
    /// The row's value.
    pub value: Bytes,
}

/// How a snapshot must have come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Rows of small tables and of keys together.
    pub rows: u64,
    /// CRC-32C over the header's numbers, and key and value of every row in the order sent.
    pub crc32c: u32,
}

/// The running count and checksum, alike on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    rows: u64,
    crc: u32,
}

impl Tally {
    fn begin(header: &Header) -> Self {
        let revision = header.revision.0;
        let compact = header.compact_revision.map_or(-1, |compact| compact.0);
        let mut crc = 0;
        for number in [header.position.index.0, header.position.term.0, header.cluster_id.0] {
            crc = crc32c::crc32c_append(crc, &number.to_be_bytes());
        }
        for number in [revision, compact] {
            crc = crc32c::crc32c_append(crc, &number.to_be_bytes());
        }
        Self { rows: 0, crc }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, key), value);
    }

    fn trailer(self) -> Trailer {
        Trailer { rows: self.rows, crc32c: self.crc }
    }
}

/// The small tables that travel as they are, in this order. `Keys`, `Counts` and `LeaseKeys` follow from
/// the rows.
const SMALL_TABLES: [Table; 9] = [
    Table::Leases,
    Table::Members,
    Table::MembersRemoved,
    Table::Alarms,
    Table::Cluster,
    Table::Auth,
    Table::AuthUsers,
    Table::AuthRoles,
    Table::Meta,
];

/// Tells whether a row of table `Meta` is the storage's own and stays where it is.
fn stays(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && key.first() == Some(&crate::storage::schema::RESERVED)
}
