//! Each key that has rows has one entry in the index, which says what its newest row says, and no other key
//! has one (`mvcc`: `Keys` is each user key's newest row).

use std::collections::BTreeMap;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let tables = &picture.tables;
    let broken = |text| Some(Violation::new("index-names-newest", text));
    let mut newest: BTreeMap<_, _> = tables.rows.iter().map(|row| (&row.key, row)).collect();
    for key in &tables.keys {
        let Some(row) = newest.remove(&key.key) else {
            return broken(format!("{}: {key:?} has no row", picture.name));
        };
        let said = (key.id, key.tombstone, key.create, key.version, key.lease, key.depth);
        let is = (row.id, row.tombstone, row.create, row.version, row.lease, row.depth);
        if said != is {
            return broken(format!("{}: {key:?}, and the row says {row:?}", picture.name));
        }
    }
    let (key, row) = newest.pop_first()?;
    broken(format!("{}: {key:?} has row {} and no entry", picture.name, row.id))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fires, fires_on};
    use mainstay::storage::Table;

    #[test]
    fn an_entry_that_lies_or_is_missing_is_seen() {
        let lies = fires(|picture| {
            let key = picture.tables.keys.iter_mut().find(|key| key.version > 1);
            key.expect("some key was written twice").version -= 1;
        });
        assert_eq!(lies, ["index-names-newest"]);
        // On the disk itself. The key is counted, and one that is gone has no lease.
        let missing = fires_on(|txn| txn.delete(Table::Keys, b"k01"));
        assert_eq!(missing, ["index-names-newest", "counts-are-true"]);
    }
}
