//! The stored forms of the store's tables: rows, keys, counts.
//!
//! ```text
//! Rows    main u64 BE ‖ sub u32 BE → crc ‖ flags ‖ depth ‖ [prev] ‖ anchors ‖ KeyValue (protobuf)
//! Keys    user key                 → crc ‖ flags ‖ row ‖ create ‖ version ‖ lease ‖ depth ‖ anchors
//! Counts  fence (a user key)       → crc ‖ live keys u32 BE
//! ```
//!
//! - `crc` is CRC-32C, little endian, over the table's key and everything behind the crc. A row that was
//!   damaged, or that lies under another row's key, does not read; it is never half believed.
//! - Numbers are LEB128 varints where nothing else is said; a row id is its main, then its sub.
//! - The protobuf part of a row is byte for byte what etcd stores, fields in tag order and zeros left
//!   out: HashKV and the backup file are made of it.
//! - *Anchors* make old revisions reachable without walking every update, see [`Chain`].
//!
//! Everything read here comes from a file, so nothing is trusted: a decoder returns `None` for whatever
//! is not exactly the encoder's.

use bytes::{Bytes, BytesMut};

use crate::command::{KeyValue, RowId};
use crate::types::{LeaseId, Revision};

/// Steps of one level of a key's chain before the next level takes over.
const FAN: u64 = 16;

/// The most levels a chain can have: 16^15 updates of one key.
const LEVELS: usize = 15;

const TOMBSTONE: u8 = 1;
const HAS_PREV: u8 = 2;

/// Writes a row's key.
pub(super) fn row_key(id: RowId) -> [u8; 12] {
    let mut key = [0; 12];
    let main = u64::try_from(id.main.0).expect("revisions of rows are positive");
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8..].copy_from_slice(&id.sub.to_be_bytes());
    key
}

/// Reads a row's key.
pub(super) fn parse_row_key(key: &[u8]) -> Option<RowId> {
    let (main, sub) = key.split_first_chunk::<8>()?;
    let main = i64::try_from(u64::from_be_bytes(*main)).ok()?;
    Some(RowId::new(Revision(main), u32::from_be_bytes(sub.try_into().ok()?)))
}

/// A key's chain of rows as seen from one row: how many rows came before, and where some of them are.
///
/// Rows of one key form a list from newest to oldest. `depth` counts them from 0. A row whose depth is
/// a multiple of 16 is an anchor of level 1, of 256 one of level 2, and so on, and knows the anchor
/// before it on each of its levels. Reading at an old revision takes the largest step that does not
/// overshoot, so it costs at most 16 lookups a level instead of one an update.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// Rows of the key before this one.
    pub depth: u64,
    /// In a row: the anchor before this row, on level 1, 2, …, as far as this row is itself an anchor
    /// and there is one before. In `Keys`: the newest anchor on each level, the newest row included.
    pub anchors: Anchors,
}

/// Row ids by level. Most keys have none, so the list is only allocated when it must be.
pub(super) type Anchors = Vec<RowId>;

/// Counts the levels that a row of this depth is an anchor on; the first row of a key is none.
pub(super) fn levels_of(depth: u64) -> usize {
    if depth == 0 {
        return 0;
    }
    let mut levels = 0;
    let mut rest = depth;
    while rest.is_multiple_of(FAN) && levels < LEVELS {
        rest /= FAN;
        levels += 1;
    }
    levels
}

/// The newest state of one user key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct KeyState {
    /// Its newest row.
    pub id: RowId,
    /// Whether that row deleted it; then the three numbers that follow are 0.
    pub tombstone: bool,
    /// When its present life began.
    pub create: Revision,
    /// Writes in its present life.
    pub version: i64,
    /// The lease that owns it.
    pub lease: LeaseId,
    /// Rows before, and the newest anchors.
    pub chain: Chain,
}

impl KeyState {
    /// Links a row that is about to be written behind this state: what the new row says of its past,
    /// and what `Keys` will say of the chain.
    pub(super) fn link(&self, id: RowId) -> (Chain, Chain) {
        let depth = self.chain.depth + 1;
        let levels = levels_of(depth);
        let mut newest = self.chain.anchors.clone();
        let before = newest[..levels.min(newest.len())].to_vec();
        for level in 0..levels {
            match newest.get_mut(level) {
                Some(anchor) => *anchor = id,
                None => newest.push(id),
            }
        }
        (Chain { depth, anchors: before }, Chain { depth, anchors: newest })
    }

    /// Appends the stored form to `buf` and takes it out as one value.
    pub(super) fn encode(&self, key: &[u8], buf: &mut BytesMut) -> Bytes {
        debug_assert!(buf.is_empty());
        buf.extend_from_slice(&[0; 4]);
        buf.extend_from_slice(&[if self.tombstone { TOMBSTONE } else { 0 }]);
        put_row_id(buf, self.id);
        put_i64(buf, self.create.0);
        put_i64(buf, self.version);
        put_i64(buf, self.lease.0);
        put_chain(buf, &self.chain);
        seal(key, buf)
    }

    /// Reads the stored form; `None` if it is damaged.
    pub(super) fn decode(key: &[u8], stored: &[u8]) -> Option<Self> {
        let mut rest = unseal(key, stored)?;
        let flags = take_u8(&mut rest)?;
        let state = Self {
            tombstone: flags & TOMBSTONE != 0,
            id: take_row_id(&mut rest)?,
            create: Revision(take_i64(&mut rest)?),
            version: take_i64(&mut rest)?,
            lease: LeaseId(take_i64(&mut rest)?),
            chain: take_chain(&mut rest)?,
        };
        rest.is_empty().then_some(state)
    }
}

/// One stored row, read in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// Whether the row deletes its key.
    pub tombstone: bool,
    /// The key's row before this one; it may be gone if it was older than the last compaction.
    pub prev: Option<RowId>,
    /// Rows before, and the anchors before this row.
    pub chain: Chain,
    /// etcd's `KeyValue` message.
    pub body: &'a [u8],
    /// Where `body` begins within the stored value.
    pub body_at: usize,
}

impl<'a> Row<'a> {
    /// Reads a row; `None` if it is damaged.
    pub(super) fn decode(row_key: &[u8], stored: &'a [u8]) -> Option<Self> {
        let mut rest = unseal(row_key, stored)?;
        let flags = take_u8(&mut rest)?;
        let depth = take_u64(&mut rest)?;
        let prev = if flags & HAS_PREV != 0 { Some(take_row_id(&mut rest)?) } else { None };
        let anchors = take_anchors(&mut rest)?;
        Some(Self {
            tombstone: flags & TOMBSTONE != 0,
            prev,
            chain: Chain { depth, anchors },
            body: rest,
            body_at: stored.len() - rest.len(),
        })
    }

    /// Tells whether the key lived before this row: only what lives is deleted, and only what lives gets
    /// another version. `None` if the row is damaged.
    pub(super) fn follows_living(&self) -> Option<bool> {
        Some(self.tombstone || Body::parse(self.body)?.version > 1)
    }
}

/// Encodes a row. `kv` is what etcd would store: for a tombstone, the key alone. Returns the stored
/// value and the places of key and value in it, so that nobody copies them a second time.
pub(super) fn encode_row(
    id: RowId,
    tombstone: bool,
    prev: Option<RowId>,
    chain: &Chain,
    kv: &KeyValue,
    buf: &mut BytesMut,
) -> (Bytes, Fields) {
    debug_assert!(buf.is_empty());
    buf.reserve(kv.key.len() + kv.value.len() + 96);
    buf.extend_from_slice(&[0; 4]);
    let flags = if tombstone { TOMBSTONE } else { 0 } | if prev.is_some() { HAS_PREV } else { 0 };
    buf.extend_from_slice(&[flags]);
    put_u64(buf, chain.depth);
    if let Some(prev) = prev {
        put_row_id(buf, prev);
    }
    put_anchors(buf, &chain.anchors);
    let fields = put_key_value(buf, kv);
    (seal(&row_key(id), buf), fields)
}

/// Where key and value lie within a stored row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// The key's bytes.
    pub key: std::ops::Range<usize>,
    /// The value's bytes.
    pub value: std::ops::Range<usize>,
}

/// Appends etcd's protobuf form of a key-value pair.
fn put_key_value(buf: &mut BytesMut, kv: &KeyValue) -> Fields {
    let mut fields = Fields::default();
    if !kv.key.is_empty() {
        fields.key = put_bytes_field(buf, 0x0a, &kv.key);
    }
    for (tag, number) in
        [(0x10, kv.create_revision.0), (0x18, kv.mod_revision.0), (0x20, kv.version)]
    {
        put_number_field(buf, tag, number);
    }
    if !kv.value.is_empty() {
        fields.value = put_bytes_field(buf, 0x2a, &kv.value);
    }
    put_number_field(buf, 0x30, kv.lease.0);
    fields
}

fn put_bytes_field(buf: &mut BytesMut, tag: u8, bytes: &[u8]) -> std::ops::Range<usize> {
    buf.extend_from_slice(&[tag]);
    put_u64(buf, u64::try_from(bytes.len()).expect("lengths fit"));
    let at = buf.len();
    buf.extend_from_slice(bytes);
    at..buf.len()
}

fn put_number_field(buf: &mut BytesMut, tag: u8, number: i64) {
    if number != 0 {
        buf.extend_from_slice(&[tag]);
        put_i64(buf, number);
    }
}

/// A row's body taken apart, the byte strings still in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Body<'a> {
    pub key: &'a [u8],
    pub create: Revision,
    pub modified: Revision,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: LeaseId,
}

impl<'a> Body<'a> {
    /// Takes etcd's protobuf form apart. Only the canonical form is read: it is all we ever write.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let mut parsed = Body::default();
        let mut last = 0;
        while let Some((&tag, tail)) = rest.split_first() {
            rest = tail;
            if tag <= last {
                return None;
            }
            last = tag;
            match tag {
                0x0a => parsed.key = take_bytes(&mut rest)?,
                0x10 => parsed.create = Revision(take_i64(&mut rest)?),
                0x18 => parsed.modified = Revision(take_i64(&mut rest)?),
                0x20 => parsed.version = take_i64(&mut rest)?,
                0x2a => parsed.value = take_bytes(&mut rest)?,
                0x30 => parsed.lease = LeaseId(take_i64(&mut rest)?),
                _ => return None,
            }
        }
        Some(parsed)
    }

    /// Makes a key-value pair whose bytes are slices of `body`, the bytes this was parsed from.
    pub(super) fn to_key_value(self, body: &Bytes) -> KeyValue {
        let slice = |part: &[u8]| if part.is_empty() { Bytes::new() } else { body.slice_ref(part) };
        KeyValue {
            key: slice(self.key),
            create_revision: self.create,
            mod_revision: self.modified,
            version: self.version,
            value: slice(self.value),
            lease: self.lease,
        }
    }
}

/// Encodes a bucket's count.
pub(super) fn encode_count(fence: &[u8], live: u32) -> Bytes {
    let mut buf = BytesMut::with_capacity(8);
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&live.to_be_bytes());
    seal(fence, &mut buf)
}

/// Reads a bucket's count; `None` if it is damaged.
pub(super) fn decode_count(fence: &[u8], stored: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(unseal(fence, stored)?.try_into().ok()?))
}

/// Encodes a fact of table `Meta`.
pub(super) fn encode_fact(key: &[u8], fact: &[u8]) -> Bytes {
    let mut buf = BytesMut::with_capacity(4 + fact.len());
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(fact);
    seal(key, &mut buf)
}

/// Reads a fact of table `Meta`; `None` if it is damaged.
pub(super) fn decode_fact<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    unseal(key, stored)
}

/// Fills in the checksum and takes the value out of the buffer.
fn seal(key: &[u8], buf: &mut BytesMut) -> Bytes {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &buf[4..]);
    buf[..4].copy_from_slice(&crc.to_le_bytes());
    buf.split().freeze()
}

fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, rest) = stored.split_first_chunk::<4>()?;
    let computed = crc32c::crc32c_append(crc32c::crc32c(key), rest);
    (computed == u32::from_le_bytes(*crc)).then_some(rest)
}

fn put_chain(buf: &mut BytesMut, chain: &Chain) {
    put_u64(buf, chain.depth);
    put_anchors(buf, &chain.anchors);
}

fn take_chain(rest: &mut &[u8]) -> Option<Chain> {
    Some(Chain { depth: take_u64(rest)?, anchors: take_anchors(rest)? })
}

fn put_anchors(buf: &mut BytesMut, anchors: &[RowId]) {
    let count = u8::try_from(anchors.len()).expect("a chain has few levels");
    buf.extend_from_slice(&[count]);
    for anchor in anchors {
        put_row_id(buf, *anchor);
    }
}

fn take_anchors(rest: &mut &[u8]) -> Option<Anchors> {
    let count = usize::from(take_u8(rest)?);
    if count > LEVELS {
        return None;
    }
    (0..count).map(|_| take_row_id(rest)).collect()
}

fn put_row_id(buf: &mut BytesMut, id: RowId) {
    put_i64(buf, id.main.0);
    put_u64(buf, u64::from(id.sub));
}

fn take_row_id(rest: &mut &[u8]) -> Option<RowId> {
    let main = Revision(take_i64(rest)?);
    Some(RowId::new(main, u32::try_from(take_u64(rest)?).ok()?))
}

/// Writes a signed number the way protobuf's int64 does: its two's complement as a varint.
fn put_i64(buf: &mut BytesMut, number: i64) {
    put_u64(buf, number.cast_unsigned());
}

fn take_i64(rest: &mut &[u8]) -> Option<i64> {
    take_u64(rest).map(u64::cast_signed)
}

#[inline]
fn put_u64(buf: &mut BytesMut, mut number: u64) {
    let mut bytes = [0; 10];
    let mut len = 0;
    loop {
        let low = (number & 0x7f).to_le_bytes()[0];
        number >>= 7;
        bytes[len] = if number == 0 { low } else { low | 0x80 };
        len += 1;
        if number == 0 {
            break;
        }
    }
    buf.extend_from_slice(&bytes[..len]);
}

#[inline]
fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(rest)?;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            // A longer form than needed is not ours.
            return (byte != 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[inline]
fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    let (&first, tail) = rest.split_first()?;
    *rest = tail;
    Some(first)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(rest)?).ok()?;
    let (bytes, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn row_id() -> impl Strategy<Value = RowId> {
        (0..i64::MAX, any::<u32>()).prop_map(|(main, sub)| RowId::new(Revision(main), sub))
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![Just(0), Just(i64::MIN), Just(-1), any::<i64>(), 0..300i64]
    }

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn key_value() -> impl Strategy<Value = KeyValue> {
        (bytes(40), number(), number(), number(), bytes(300), number()).prop_map(
            |(key, create, modified, version, value, lease)| KeyValue {
                key,
                create_revision: Revision(create),
                mod_revision: Revision(modified),
                version,
                value,
                lease: LeaseId(lease),
            },
        )
    }

    proptest! {
        #[test]
        fn a_row_reads_back_and_its_body_is_what_protobuf_makes(
            id in row_id(), prev in proptest::option::of(row_id()), tombstone: bool, depth: u64,
            anchors in proptest::collection::vec(row_id(), 0..4), kv in key_value(),
        ) {
            let chain = Chain { depth, anchors };
            let (stored, fields) =
                encode_row(id, tombstone, prev, &chain, &kv, &mut BytesMut::new());
            let row = Row::decode(&row_key(id), &stored).expect("it was just written");
            prop_assert_eq!((row.tombstone, row.prev, &row.chain), (tombstone, prev, &chain));
            let expected = crate::proto::mvccpb::KeyValue {
                key: kv.key.clone(),
                create_revision: kv.create_revision.0,
                mod_revision: kv.mod_revision.0,
                version: kv.version,
                value: kv.value.clone(),
                lease: kv.lease.0,
            };
            prop_assert_eq!(row.body, expected.encode_to_vec());
            let body = stored.slice(row.body_at..);
            let parsed = Body::parse(&body).expect("it was just written");
            prop_assert_eq!(parsed.to_key_value(&body), kv.clone());
            prop_assert_eq!(&stored[fields.key], &kv.key[..]);
            prop_assert_eq!(&stored[fields.value], &kv.value[..]);
        }

        #[test]
        fn a_key_state_reads_back(
            key in bytes(30), id in row_id(), tombstone: bool, create in number(),
            version in number(), lease in number(), depth: u64,
            anchors in proptest::collection::vec(row_id(), 0..4),
        ) {
            let state = KeyState {
                id,
                tombstone,
                create: Revision(create),
                version,
                lease: LeaseId(lease),
                chain: Chain { depth, anchors },
            };
            let stored = state.encode(&key, &mut BytesMut::new());
            prop_assert_eq!(KeyState::decode(&key, &stored), Some(state));
        }

        #[test]
        fn a_flipped_bit_or_another_key_never_reads(
            id in row_id(), other in row_id(), kv in key_value(), at: prop::sample::Index, bit in 0..8u32,
        ) {
            let (stored, _) =
                encode_row(id, false, None, &Chain::default(), &kv, &mut BytesMut::new());
            let mut rotten = stored.to_vec();
            rotten[at.index(stored.len())] ^= 1u8 << bit;
            prop_assert_eq!(Row::decode(&row_key(id), &rotten), None);
            if other != id {
                prop_assert_eq!(Row::decode(&row_key(other), &stored), None);
            }
            prop_assert_eq!(Row::decode(&row_key(id), &stored[..stored.len() - 1]), None);
        }

        #[test]
        fn hostile_bytes_do_not_panic(junk in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Body::parse(&junk);
            let _ = Row::decode(b"k", &junk);
            let _ = KeyState::decode(b"k", &junk);
            let _ = decode_count(b"k", &junk);
            let _ = parse_row_key(&junk);
            let mut sealed = BytesMut::from(&[&[0; 4][..], &junk].concat()[..]);
            let sealed = seal(b"k", &mut sealed);
            let _ = Row::decode(b"k", &sealed).map(|row| Body::parse(row.body).is_some());
            let _ = KeyState::decode(b"k", &sealed);
            let _ = decode_count(b"k", &sealed);
        }
    }

    #[test]
    fn rows_sort_by_main_then_sub() {
        let ids = [(1, 0), (1, 1), (1, 256), (2, 0), (255, 0), (256, 0), (1 << 40, 3)];
        let keys: Vec<_> = ids.iter().map(|&(m, s)| row_key(RowId::new(Revision(m), s))).collect();
        assert!(keys.is_sorted());
        for (key, (main, sub)) in keys.iter().zip(ids) {
            assert_eq!(parse_row_key(key), Some(RowId::new(Revision(main), sub)));
        }
    }

    #[test]
    fn a_chain_reaches_any_of_its_rows_in_few_steps() {
        const ROWS: i64 = 5000;
        let mut state = KeyState::default();
        let mut rows = vec![(None, Chain::default())];
        for main in 1..ROWS {
            let id = RowId::new(Revision(main), 0);
            let (in_row, in_keys) = state.link(id);
            rows.push((Some(state.id), in_row));
            state = KeyState { id, chain: in_keys, ..KeyState::default() };
        }
        let at = |id: RowId| usize::try_from(id.main.0).expect("small");
        for target in [0, 1, 15, 16, 17, 255, 256, 300, 4095, 4096, 4097, 4998, 4999] {
            let mut steps = 0;
            let mut here = state.id;
            if let Some(start) = state.chain.anchors.iter().rev().find(|a| a.main.0 > target) {
                here = *start;
            }
            while here.main.0 > target {
                let (prev, chain) = &rows[at(here)];
                here = *chain
                    .anchors
                    .iter()
                    .rev()
                    .find(|anchor| anchor.main.0 > target)
                    .unwrap_or(prev.as_ref().expect("the first row is not beyond the target"));
                steps += 1;
            }
            assert_eq!(here.main.0, target);
            assert!(steps <= 4 * 16 + 2, "{steps} steps to {target}");
        }
    }

    #[test]
    fn the_stored_bytes_are_these() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: Revision(2),
            mod_revision: Revision(300),
            version: 2,
            value: Bytes::from_static(b"v"),
            lease: LeaseId(7),
        };
        let id = RowId::new(Revision(300), 1);
        let prev = Some(RowId::new(Revision(2), 0));
        let chain = Chain { depth: 1, anchors: vec![] };
        let (stored, _) = encode_row(id, false, prev, &chain, &kv, &mut BytesMut::new());
        assert_eq!(
            format!("{:02x?}", &stored[..]).replace(", ", ""),
            "[75261dcd020102000".to_owned() + "00a016b100218ac0220022a01763007]"
        );
    }
}
