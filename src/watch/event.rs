//! One event, encoded once for all who receive it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::command::{Event, KeyValue};

/// An event and the bytes of its `mvccpb.Event` message without `prev_kv` (field 3), which the API appends
/// for those who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    event: Event,
    wire: Bytes,
}

impl Encoded {
    /// Encodes an event. Its key and value become slices of the encoded bytes, so that the event keeps
    /// nothing else alive: not the log entry that it came from.
    pub fn new(event: &Event) -> Self {
        let (kind, kv) = match event {
            Event::Put { kv, .. } => (0, kv.clone()),
            Event::Delete { key, revision, .. } => {
                (1, KeyValue { key: key.clone(), mod_revision: *revision, ..KeyValue::default() })
            }
        };
        let body = body_len(&kv);
        let mut wire = BytesMut::with_capacity(body + 16);
        if kind != 0 {
            wire.put_slice(&[TYPE_TAG, kind]);
        }
        wire.put_u8(KV_TAG);
        encode_varint(as_u64(body), &mut wire);
        let places = put_body(&kv, &mut wire);
        let wire = wire.freeze();
        let mut event = event.clone();
        match &mut event {
            Event::Put { kv, .. } => {
                kv.key = wire.slice(places.0..places.0 + kv.key.len());
                kv.value = wire.slice(places.1..places.1 + kv.value.len());
            }
            Event::Delete { key, .. } => *key = wire.slice(places.0..places.0 + key.len()),
        }
        Self { event, wire }
    }

    /// Returns the event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns the bytes of the message.
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// Returns what the event costs in memory, near enough for limits.
    pub fn cost(&self) -> usize {
        self.wire.len() + 160
    }
}

const TYPE_TAG: u8 = 1 << 3;
const KV_TAG: u8 = 2 << 3 | 2;
const KEY_TAG: u8 = 1 << 3 | 2;
const VALUE_TAG: u8 = 5 << 3 | 2;

/// The numbers of a key-value message that come before and after its value: tag and number.
fn numbers(kv: &KeyValue) -> ([(u8, i64); 3], (u8, i64)) {
    let before =
        [(2 << 3, kv.create_revision.0), (3 << 3, kv.mod_revision.0), (4 << 3, kv.version)];
    (before, (6 << 3, kv.lease.0))
}

fn body_len(kv: &KeyValue) -> usize {
    let field = |len: usize| if len == 0 { 0 } else { 1 + encoded_len_varint(as_u64(len)) + len };
    let number = |n: i64| {
        if n == 0 { 0 } else { 1 + encoded_len_varint(u64::from_ne_bytes(n.to_ne_bytes())) }
    };
    let (before, lease) = numbers(kv);
    let numbers: usize = before.iter().chain([&lease]).map(|(_, n)| number(*n)).sum();
    field(kv.key.len()) + field(kv.value.len()) + numbers
}

/// Writes the message in the order of its fields, zero fields left out; returns where key and value begin.
fn put_body(kv: &KeyValue, to: &mut BytesMut) -> (usize, usize) {
    let (before, lease) = numbers(kv);
    let key_at = put_field(KEY_TAG, &kv.key, to);
    before.into_iter().for_each(|number| put_number(number, to));
    let value_at = put_field(VALUE_TAG, &kv.value, to);
    put_number(lease, to);
    (key_at, value_at)
}

fn put_field(tag: u8, bytes: &Bytes, to: &mut BytesMut) -> usize {
    if !bytes.is_empty() {
        to.put_u8(tag);
        encode_varint(as_u64(bytes.len()), to);
    }
    let at = to.len();
    to.put_slice(bytes);
    at
}

fn put_number((tag, n): (u8, i64), to: &mut BytesMut) {
    if n != 0 {
        to.put_u8(tag);
        encode_varint(u64::from_ne_bytes(n.to_ne_bytes()), to);
    }
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}
