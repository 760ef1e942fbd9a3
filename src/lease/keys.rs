//! Which keys hang on which lease: rows of table `LeaseKeys`, the lease's id and then the key, no value.
//!
//! The rows are derived from the keys' own lease fields and could be rebuilt from them; they are stored so
//! that a start reads none of them, and so that a revoke finds its keys, in byte order, with one scan.
//!
//! Invariants
//! - A row stands for each live key with a lease, and for no other.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};

use crate::storage::{Table, Write};
use crate::types::LeaseId;

/// Returns the writes that move a key from the lease it had to the one it has now (0 for none).
pub fn moved(key: &Bytes, before: LeaseId, after: LeaseId) -> impl Iterator<Item = Write> {
    let stays = before == after || (after.0 != 0 && crate::mutant!("M04"));
    let detach = (!stays && before.0 != 0).then(|| Write {
        table: Table::LeaseKeys,
        key: row(before, key),
        value: None,
    });
    // Also when nothing changes the row may be written again by a caller that does not know; it is idempotent.
    let attach = (before != after && after.0 != 0).then(|| Write {
        table: Table::LeaseKeys,
        key: row(after, key),
        value: Some(Bytes::new()),
    });
    detach.into_iter().chain(attach)
}

/// Returns the row of `key` under `lease`.
pub fn row(lease: LeaseId, key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(8 + key.len());
    row.put_i64(lease.0);
    row.put_slice(key);
    row.freeze()
}

/// Returns the bounds of all rows of `lease`.
pub fn rows(lease: LeaseId) -> (Bound<[u8; 8]>, Bound<[u8; 8]>) {
    let from = lease.0.to_be_bytes();
    let next = u64::from_be_bytes(from).checked_add(1);
    let to = next.map_or(Bound::Unbounded, |next| Bound::Excluded(next.to_be_bytes()));
    (Bound::Included(from), to)
}

/// Takes a row apart; `None` for a row too short to be one.
pub fn parse(row: &[u8]) -> Option<(LeaseId, &[u8])> {
    let (id, key) = row.split_first_chunk::<8>()?;
    Some((LeaseId(i64::from_be_bytes(*id)), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_lease_are_one_run_also_for_negative_ids_and_the_last_id() {
        for id in [1, 2, i64::MAX, i64::MIN, -2, -1] {
            let (from, to) = rows(LeaseId(id));
            let within = |row: &[u8]| {
                let after = matches!(&from, Bound::Included(from) if row >= &from[..]);
                let before = match &to {
                    Bound::Excluded(to) => row < &to[..],
                    _ => true,
                };
                after && before
            };
            for key in [&b""[..], b"\0", b"k", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
                let row = row(LeaseId(id), key);
                assert!(within(&row));
                assert_eq!(parse(&row), Some((LeaseId(id), key)));
            }
            for other in [id.wrapping_add(1), id.wrapping_sub(1)] {
                assert!(!within(&row(LeaseId(other), b"k")), "{other} is not among {id}");
            }
        }
    }

    #[test]
    fn a_key_leaves_one_lease_and_joins_the_other() {
        let key = Bytes::from_static(b"k");
        let writes = |a, b| {
            moved(&key, LeaseId(a), LeaseId(b))
                .map(|w| (w.key, w.value.is_some()))
                .collect::<Vec<_>>()
        };
        assert_eq!(writes(0, 0), []);
        assert_eq!(writes(7, 7), []);
        assert_eq!(writes(0, 7), [(row(LeaseId(7), b"k"), true)]);
        assert_eq!(writes(7, 0), [(row(LeaseId(7), b"k"), false)]);
        assert_eq!(writes(7, -8), [(row(LeaseId(7), b"k"), false), (row(LeaseId(-8), b"k"), true)]);
    }
}
