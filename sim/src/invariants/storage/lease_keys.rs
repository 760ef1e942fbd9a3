//! A row stands for each live key with a lease, and for no other (`lease::keys`: a revoke finds its keys by
//! these rows alone).

use bytes::Bytes;
use mainstay::types::LeaseId;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let tables = &picture.tables;
    let live = tables.keys.iter().filter(|key| !key.tombstone && key.lease.0 != 0);
    let mut hanging: Vec<_> = live.map(|key| (key.lease, key.key.clone())).collect();
    // The rows come in the order of their bytes.
    hanging.sort_unstable_by_key(|(lease, key)| mainstay::lease::keys::row(*lease, key));
    if hanging == tables.lease_keys {
        return None;
    }
    let differs = |a: &[(LeaseId, Bytes)], b: &[(LeaseId, Bytes)]| -> Vec<(LeaseId, Bytes)> {
        a.iter().filter(|row| !b.contains(row)).take(3).cloned().collect()
    };
    let lost = differs(&hanging, &tables.lease_keys);
    let (name, more) = (&picture.name, differs(&tables.lease_keys, &hanging));
    let text = format!("{name}: no row for {lost:?}, a row and no such key for {more:?}");
    Some(Violation::new("lease-keys", text))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires_on;
    use mainstay::lease::keys;
    use mainstay::storage::Table;
    use mainstay::types::LeaseId;

    #[test]
    fn a_key_that_its_lease_has_lost_is_seen() {
        let lost = fires_on(|txn| txn.delete(Table::LeaseKeys, &keys::row(LeaseId(7), b"k05")));
        assert_eq!(lost, ["lease-keys"]);
        let more = fires_on(|txn| txn.put(Table::LeaseKeys, &keys::row(LeaseId(7), b"x"), b""));
        assert_eq!(more, ["lease-keys"]);
    }
}
