//! The lease that a live key hangs on exists (etcd's API: the keys of a lease go with it, in one revision).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let tables = &picture.tables;
    let mut live = tables.keys.iter().filter(|key| !key.tombstone && key.lease.0 != 0);
    let orphan = live.find(|key| tables.leases.get(key.lease).is_none())?;
    let (name, key, lease) = (&picture.name, &orphan.key, orphan.lease);
    Some(Violation::new("leases-exist", format!("{name}: {key:?} hangs on {lease}, which is gone")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires_on;
    use mainstay::storage::Table;

    #[test]
    fn a_lease_that_leaves_its_keys_behind_is_seen() {
        let gone = fires_on(|txn| txn.delete(Table::Leases, &7_i64.to_be_bytes()));
        assert_eq!(gone, ["leases-exist"]);
    }
}
