//! Everything in the store reads, checksums included, and each table walks to its end with as many rows as
//! LMDB counts (`storage::seal`, `mvcc::codec`: what the disk forgot must not be believed).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let first = picture.tables.unread.first()?;
    let (name, count) = (&picture.name, picture.tables.unread.len());
    Some(Violation::new("stored-forms", format!("{name}: {count} do not read: {first}")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fires_on, flipped};
    use mainstay::storage::Table;

    #[test]
    fn a_row_that_does_not_fit_its_checksum_or_has_no_form_is_seen() {
        assert_eq!(flipped("store", b"value-11"), ["stored-forms"]);
        let formless = fires_on(|txn| txn.put(Table::LeaseKeys, b"short", b""));
        assert_eq!(formless, ["stored-forms"]);
    }
}
