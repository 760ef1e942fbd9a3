//! A snapshot's pieces as protobuf. The header travels together with the Raft message that is stepped
//! once everything has arrived, so that bytes and message cannot be mixed up.
//!
//! NB: this file knows the machine's pieces, which are plain data; the transport knows nothing else of it.

use super::codec::{CodecError, decode, encode};
use crate::machine::snapshot::{Chunk, Header, TableRow, Trailer};
use crate::proto::internal as wire;
use crate::raft::{Envelope, Message};
use crate::storage::Table;
use crate::types::{ClusterId, Revision};

use wire::snapshot_chunk::Part;

/// Encodes a piece; `envelope` goes with the header.
pub fn encode_chunk(chunk: Chunk, envelope: &Envelope) -> wire::SnapshotChunk {
    let part = match chunk {
        Chunk::Header(header) => Part::Header(wire::SnapshotHeader {
            cluster_id: header.cluster_id.0,
            envelope: Some(encode(envelope)),
            revision: header.revision.0,
            compact_revision: header.compact_revision.map_or(-1, |revision| revision.0),
            format_version: header.format,
            tables: Vec::new(),
        }),
        Chunk::Tables(rows) => Part::Tables(wire::SnapshotTables {
            tables: rows
                .into_iter()
                .map(|row| wire::TableRow {
                    table: u32::from(row.table.number()),
                    key: row.key,
                    value: row.value,
                })
                .collect(),
        }),
        Chunk::Rows(rows) => Part::Rows(wire::SnapshotRows {
            rows: rows.into_iter().map(|(key, value)| wire::SnapshotRow { key, value }).collect(),
        }),
        Chunk::Trailer(trailer) => {
            Part::Trailer(wire::SnapshotTrailer { row_count: trailer.rows, crc32c: trailer.crc32c })
        }
    };
    wire::SnapshotChunk { part: Some(part) }
}

/// Decodes a piece, and the message that comes with the header.
///
/// # Errors
/// If it is not what [`encode_chunk`] makes.
pub fn decode_chunk(chunk: wire::SnapshotChunk) -> Result<(Chunk, Option<Envelope>), CodecError> {
    Ok(match chunk.part.ok_or(CodecError::Missing("part"))? {
        Part::Header(header) => {
            let envelope = decode(header.envelope.ok_or(CodecError::Missing("envelope"))?)?;
            let Message::InstallSnapshot { meta } = &envelope.message else {
                return Err(CodecError::Unknown("snapshot message"));
            };
            let compact = header.compact_revision;
            let decoded = Header {
                format: header.format_version,
                position: meta.position,
                conf_state: meta.conf_state.clone(),
                revision: Revision(header.revision),
                compact_revision: (compact >= 0).then_some(Revision(compact)),
                cluster_id: ClusterId(header.cluster_id),
            };
            (Chunk::Header(decoded), Some(envelope))
        }
        Part::Tables(tables) => {
            let row = |row: wire::TableRow| -> Result<TableRow, CodecError> {
                let table = u8::try_from(row.table).ok().and_then(Table::from_number);
                let table = table.ok_or(CodecError::Unknown("table"))?;
                Ok(TableRow { table, key: row.key, value: row.value })
            };
            (Chunk::Tables(tables.tables.into_iter().map(row).collect::<Result<_, _>>()?), None)
        }
        Part::Rows(rows) => {
            (Chunk::Rows(rows.rows.into_iter().map(|row| (row.key, row.value)).collect()), None)
        }
        Part::Trailer(trailer) => {
            (Chunk::Trailer(Trailer { rows: trailer.row_count, crc32c: trailer.crc32c }), None)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{ConfState, SnapshotMeta};
    use crate::types::{Index, LogPosition, NodeId, Term};
    use bytes::Bytes;

    #[test]
    fn every_piece_survives_the_wire() {
        let meta = SnapshotMeta {
            position: LogPosition::new(Index(9), Term(3)),
            conf_state: ConfState::of_voters([NodeId(1), NodeId(2)]),
        };
        let envelope = Envelope {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(4),
            message: Message::InstallSnapshot { meta: meta.clone() },
        };
        let header = |compact_revision| {
            Chunk::Header(Header {
                format: 1,
                position: meta.position,
                conf_state: meta.conf_state.clone(),
                revision: Revision(17),
                compact_revision,
                cluster_id: ClusterId(5),
            })
        };
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        let tables =
            vec![TableRow { table: Table::Leases, key: key.clone(), value: value.clone() }];
        for chunk in [header(None), header(Some(Revision(0))), Chunk::Tables(tables)] {
            let with = matches!(chunk, Chunk::Header(_)).then(|| envelope.clone());
            let read = decode_chunk(encode_chunk(chunk.clone(), &envelope));
            assert_eq!(read, Ok((chunk, with)));
        }
        for chunk in
            [Chunk::Rows(vec![(key, value)]), Chunk::Trailer(Trailer { rows: 2, crc32c: 7 })]
        {
            let read = decode_chunk(encode_chunk(chunk.clone(), &envelope));
            assert_eq!(read, Ok((chunk, None)));
        }
        let nothing = wire::SnapshotChunk { part: None };
        assert_eq!(decode_chunk(nothing), Err(CodecError::Missing("part")));
    }
}
