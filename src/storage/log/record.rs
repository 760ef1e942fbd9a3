//! Bytes of the log: segment headers, batch headers, records. Pure functions, no files.
//!
//! ```text
//! segment:  header (64 bytes) | batch | batch | … | eight zero bytes | anything
//! batch:    header (40 bytes) | record | record | …
//! record:   kind: u8 | sub-kind: u8 | 0: u16 | data length: u32 | numbers: u64 each | data | zeros to 8
//! ```
//! All numbers are little-endian, everything is aligned to 8 bytes.
//!
//! A segment header's checksum covers its identity: number, the log's salt, the boot that wrote it,
//! where it continues, how long the file is. That checksum is the *seed* of every checksum in the
//! segment, so bytes that an earlier use of the same file left behind do not check out. A batch
//! header names its own offset, its number in the log, the checksum of its payload and the checksum of
//! the header before it (the chain, which runs across segments); its own checksum covers all that.

use bytes::Bytes;

use crate::types::{Index, LogPosition, NodeId, Term};

pub(super) const SEGMENT_HEADER: usize = 64;
pub(super) const BATCH_HEADER: usize = 40;
pub(super) const ALIGN: usize = 8;
/// Follows the last batch, if there is room: the end of the log is then seen for what it is.
pub(super) const TERMINATOR: [u8; 8] = [0; 8];

const SEGMENT_MAGIC: [u8; 8] = *b"MAINSLOG";
pub(super) const BATCH_MAGIC: [u8; 4] = *b"MLB1";

/// The format version this program writes, and the only one it reads.
pub const LOG_VERSION: u32 = 1;

/// An entry as the log keeps it: what its bytes mean is the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place.
    pub index: Index,
    /// The term it was written in.
    pub term: Term,
    /// The caller's kind of payload.
    pub kind: u8,
    /// The payload.
    pub data: Bytes,
}

/// What a node must remember beside its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Whom this node voted for in that term.
    pub vote: Option<NodeId>,
    /// An index known to be committed, and in the log.
    pub commit: Index,
}

/// Where the log begins: the last entry it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// That entry.
    pub position: LogPosition,
    /// The configuration in force after it, in the caller's encoding; empty if the store alone has it.
    pub conf: Bytes,
    /// Whether a snapshot from outside replaced the whole log, rather than its beginning being dropped.
    pub installed: bool,
}

/// Whose log this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The cluster.
    pub cluster: u64,
    /// The member.
    pub member: u64,
    /// How often the log was opened: 1 after its creation.
    pub boot: u64,
}

/// Any record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Metadata(Metadata),
    Entry(LogRecord),
    HardState(HardState),
    Mark(Mark),
    /// Drops the entries from here on.
    Truncate(Index),
}

/// The identity of a segment, and where in the log it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) boot: u64,
    /// The number of the segment's first batch.
    pub(super) first_seq: u64,
    /// The last entry before this segment.
    pub(super) last_index: Index,
    /// The checksum of the batch header before this segment.
    pub(super) chain: u32,
    /// The length of the file, in units of [`ALIGN`] and rounded down: it never was shorter since it has
    /// its name.
    pub(super) units: u32,
}

/// What stands before a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) seq: u64,
    pub(super) offset: u64,
    pub(super) payload_len: u32,
    pub(super) payload_crc: u32,
    pub(super) chain: u32,
    pub(super) records: u32,
    /// The header's own checksum: the chain value for the next batch.
    pub(super) crc: u32,
}

impl SegmentHeader {
    /// Returns the bytes that the file has at least.
    pub(super) fn len(&self) -> u64 {
        u64::from(self.units) * ALIGN as u64
    }

    /// Returns the bytes, and the seed for everything in the segment.
    pub(super) fn encode(&self) -> ([u8; SEGMENT_HEADER], u32) {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&LOG_VERSION.to_le_bytes());
        let numbers = [
            self.number,
            self.salt,
            self.boot,
            self.first_seq,
            self.last_index.0,
            u64::from(self.chain) | u64::from(self.units) << 32,
        ];
        for (at, number) in numbers.into_iter().enumerate() {
            out[16 + 8 * at..][..8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = Self::crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Reads a header; `Err` holds the version if that is what stands in the way.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32), Option<u32>> {
        let bytes: &[u8; SEGMENT_HEADER] = bytes.first_chunk().ok_or(None)?;
        let crc = u32_at(bytes, 12);
        let sound = bytes[..8] == SEGMENT_MAGIC && crc == Self::crc(bytes);
        match u32_at(bytes, 8) {
            LOG_VERSION if sound => {}
            version if sound => return Err(Some(version)),
            _ => return Err(None),
        }
        let number = |at: usize| u64_at(bytes, 16 + 8 * at);
        let half = |at: usize| u32_at(bytes, 16 + 4 * at);
        let header = Self {
            number: number(0),
            salt: number(1),
            boot: number(2),
            first_seq: number(3),
            last_index: Index(number(4)),
            chain: half(10),
            units: half(11),
        };
        Ok((header, crc))
    }

    fn crc(bytes: &[u8; SEGMENT_HEADER]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }
}

impl BatchHeader {
    /// Writes the header of a batch into the first bytes of `batch`, whose records follow them.
    /// Returns the checksum that the next batch chains to.
    pub(super) fn fill(
        batch: &mut [u8],
        seed: u32,
        seq: u64,
        offset: u64,
        chain: u32,
        records: u32,
    ) -> u32 {
        let (header, payload) = batch.split_at_mut(BATCH_HEADER);
        let payload_len = u32::try_from(payload.len()).expect("a batch is far below 4 GiB");
        let payload_crc = crc32c::crc32c_append(seed, payload);
        header[..4].copy_from_slice(&BATCH_MAGIC);
        header[8..16].copy_from_slice(&seq.to_le_bytes());
        header[16..24].copy_from_slice(&offset.to_le_bytes());
        for (at, number) in [payload_len, payload_crc, chain, records].into_iter().enumerate() {
            header[24 + 4 * at..][..4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(seed, &header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads the header that should stand at `offset`; `None` if none of this segment does.
    pub(super) fn decode(bytes: &[u8], seed: u32, offset: u64) -> Option<Self> {
        let bytes: &[u8; BATCH_HEADER] = bytes.first_chunk()?;
        if bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let header = Self {
            crc: u32_at(bytes, 4),
            seq: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            payload_len: u32_at(bytes, 24),
            payload_crc: u32_at(bytes, 28),
            chain: u32_at(bytes, 32),
            records: u32_at(bytes, 36),
        };
        let sound =
            header.offset == offset && header.crc == crc32c::crc32c_append(seed, &bytes[8..]);
        (sound || crate::mutant!("E06")).then_some(header)
    }

    /// Says whether these are the records the header speaks of.
    pub(super) fn covers(&self, seed: u32, payload: &[u8]) -> bool {
        self.payload_crc == crc32c::crc32c_append(seed, payload)
    }
}

const METADATA: u8 = 1;
const ENTRY: u8 = 2;
const HARD_STATE: u8 = 3;
const MARK: u8 = 4;
const TRUNCATE: u8 = 5;

pub(super) fn put_metadata(out: &mut Vec<u8>, m: &Metadata) {
    put(out, METADATA, 0, &[m.cluster, m.member, m.boot], &[]);
}

pub(super) fn put_entry(out: &mut Vec<u8>, e: &LogRecord) {
    put(out, ENTRY, e.kind, &[e.index.0, e.term.0], &e.data);
}

pub(super) fn put_hard_state(out: &mut Vec<u8>, h: &HardState) {
    // A member's id is never 0, so 0 stands for no vote.
    put(out, HARD_STATE, 0, &[h.term.0, h.vote.map_or(0, NodeId::get), h.commit.0], &[]);
}

pub(super) fn put_mark(out: &mut Vec<u8>, m: &Mark) {
    put(out, MARK, m.installed.into(), &[m.position.index.0, m.position.term.0], &m.conf);
}

pub(super) fn put_truncate(out: &mut Vec<u8>, from: Index) {
    put(out, TRUNCATE, 0, &[from.0], &[]);
}

fn put(out: &mut Vec<u8>, kind: u8, sub: u8, numbers: &[u64], data: &[u8]) {
    let len = u32::try_from(data.len()).expect("an entry is far below 4 GiB");
    out.extend_from_slice(&[kind, sub, 0, 0]);
    out.extend_from_slice(&len.to_le_bytes());
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// Takes the first record off a payload whose checksum was right. `None` means that the writer was
/// wrong: every bound is checked all the same.
pub(super) fn take(payload: &mut &[u8]) -> Option<Record> {
    let (head, rest) = payload.split_first_chunk::<8>()?;
    let (kind, sub) = (head[0], head[1]);
    let data_len = usize::try_from(u32_at(head, 4)).ok()?;
    let count = match kind {
        METADATA | HARD_STATE => 3,
        ENTRY | MARK => 2,
        TRUNCATE => 1,
        _ => return None,
    };
    let (numbers, rest) = rest.split_at_checked(8 * count)?;
    let (padded, rest) = rest.split_at_checked(data_len.checked_next_multiple_of(ALIGN)?)?;
    let number = |at: usize| u64_at(numbers, 8 * at);
    let data = || Bytes::copy_from_slice(&padded[..data_len]);
    let record = match kind {
        METADATA => {
            Record::Metadata(Metadata { cluster: number(0), member: number(1), boot: number(2) })
        }
        ENTRY => Record::Entry(LogRecord {
            index: Index(number(0)),
            term: Term(number(1)),
            kind: sub,
            data: data(),
        }),
        HARD_STATE => Record::HardState(HardState {
            term: Term(number(0)),
            vote: Some(NodeId(number(1))).filter(|vote| vote.0 != 0),
            commit: Index(number(2)),
        }),
        MARK => Record::Mark(Mark {
            position: LogPosition::new(Index(number(0)), Term(number(1))),
            conf: data(),
            installed: sub == 1,
        }),
        _ => Record::Truncate(Index(number(0))),
    };
    *payload = rest;
    Some(record)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        let data = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        prop_oneof![
            any::<[u64; 3]>().prop_map(|[cluster, member, boot]| {
                Record::Metadata(Metadata { cluster, member, boot })
            }),
            (any::<[u64; 2]>(), any::<u8>(), data.clone()).prop_map(|([i, t], kind, data)| {
                Record::Entry(LogRecord { index: Index(i), term: Term(t), kind, data })
            }),
            (any::<[u64; 2]>(), prop::option::of(1u64..)).prop_map(|([t, c], vote)| {
                let vote = vote.map(NodeId);
                Record::HardState(HardState { term: Term(t), vote, commit: Index(c) })
            }),
            (any::<[u64; 2]>(), any::<bool>(), data).prop_map(|([i, t], installed, conf)| {
                let position = LogPosition::new(Index(i), Term(t));
                Record::Mark(Mark { position, conf, installed })
            }),
            any::<u64>().prop_map(|i| Record::Truncate(Index(i))),
        ]
    }

    fn write(out: &mut Vec<u8>, record: &Record) {
        match record {
            Record::Metadata(m) => put_metadata(out, m),
            Record::Entry(e) => put_entry(out, e),
            Record::HardState(h) => put_hard_state(out, h),
            Record::Mark(m) => put_mark(out, m),
            Record::Truncate(i) => put_truncate(out, *i),
        }
    }

    proptest! {
        #[test]
        fn records_read_back_as_written(records in prop::collection::vec(record(), 0..6)) {
            let mut bytes = Vec::new();
            for record in &records {
                write(&mut bytes, record);
            }
            prop_assert_eq!(bytes.len() % ALIGN, 0);
            let mut rest = &bytes[..];
            for record in &records {
                prop_assert_eq!(take(&mut rest), Some(record.clone()));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut rest = &bytes[..];
            while take(&mut rest).is_some() {}
            let _ = SegmentHeader::decode(&bytes);
            prop_assert_eq!(BatchHeader::decode(&bytes, 0, 0), None);
        }
    }

    #[test]
    fn a_segment_header_of_another_version_says_so() {
        let header = SegmentHeader {
            number: 3,
            salt: 4,
            boot: 5,
            first_seq: 6,
            last_index: Index(7),
            chain: 8,
            units: 9,
        };
        let (mut bytes, seed) = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok((header, seed)));
        bytes[8] = 9;
        assert_eq!(SegmentHeader::decode(&bytes), Err(None), "a flipped version is damage");
        let crc = SegmentHeader::crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(Some(9)), "a sound one is another version");
    }
}
