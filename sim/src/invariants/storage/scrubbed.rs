//! What a compaction made unreachable is gone once it counts as scrubbed: rows below it that another row up
//! to it supersedes, and tombstones below it (`mvcc::scrub`; else space never comes back).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let tables = &picture.tables;
    let scrubbed = tables.facts.scrubbed?;
    let mut stands: Vec<_> = Vec::new();
    for row in tables.rows.iter().take_while(|row| row.id.main <= scrubbed) {
        let goes = |id| stands.binary_search(&id).is_ok();
        let left = if row.tombstone && row.id.main < scrubbed {
            Some(row.id)
        } else {
            row.prev.filter(|prev| prev.main < scrubbed && goes(*prev))
        };
        if let Some(left) = left {
            let text = format!("{}: row {left} outlives compaction {scrubbed}", picture.name);
            return Some(Violation::new("compacted-is-gone", text));
        }
        stands.push(row.id);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;

    #[test]
    fn a_row_that_outlives_its_compaction_is_seen() {
        // The scrub has not begun: all its rows stand, and the store says so.
        let begun = fires(|picture| {
            let facts = &mut picture.tables.facts;
            assert!(facts.scrubbed.is_none(), "the compaction waits");
            facts.scrubbed = facts.pending.pop();
        });
        assert_eq!(begun, ["compacted-is-gone"]);
    }
}
