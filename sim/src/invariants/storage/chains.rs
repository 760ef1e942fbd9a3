//! Each row names the row of its key before it, if that is still there, and only what a compaction took may
//! be gone (`mvcc::codec`'s `Chain`: older states are found by walking from row to row).

use std::collections::BTreeMap;

use mainstay::types::Revision;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let compact = picture.tables.facts.compact.unwrap_or(Revision(0));
    let mut newest = BTreeMap::new();
    for row in &picture.tables.rows {
        let before = newest.insert(&row.key, row);
        let linked = match (before, row.prev) {
            (Some(before), Some(prev)) => prev == before.id && row.depth == before.depth + 1,
            (None, Some(prev)) => prev.main < compact && row.depth > 0,
            (None, None) => row.depth == 0,
            (Some(_), None) => false,
        };
        if !linked {
            let (name, id, before) = (&picture.name, row.id, before.map(|before| before.id));
            let (prev, depth) = (row.prev, row.depth);
            let text = format!(
                "{name}: row {id} at depth {depth} names {prev:?}, before it is {before:?}"
            );
            return Some(Violation::new("row-chains", text));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;

    #[test]
    fn a_chain_that_leads_elsewhere_is_seen() {
        let cut = fires(|picture| {
            let row = picture.tables.rows.iter_mut().rfind(|row| row.prev.is_some());
            row.expect("some key was written twice").prev = None;
        });
        assert_eq!(cut, ["row-chains"]);
        let elsewhere = fires(|picture| {
            let other = picture.tables.rows[0].id;
            let row = picture.tables.rows.last_mut().expect("there are rows");
            assert!(row.prev.is_some_and(|prev| prev != other), "it follows another row");
            row.prev = Some(other);
        });
        assert_eq!(elsewhere, ["row-chains"]);
    }
}
