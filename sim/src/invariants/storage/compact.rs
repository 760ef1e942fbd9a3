//! No compaction is of the future: compact and scrubbed revision are at or below the current one, and the
//! compact one is the newest that was scrubbed or still is to be (`mvcc::scrub`; etcd refuses to
//! compact beyond the current revision).

use mainstay::types::Revision;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let facts = &picture.tables.facts;
    let revision = facts.revision.unwrap_or(Revision(1));
    let newest = facts.pending.iter().max().copied().max(facts.scrubbed);
    let held = facts.compact.is_none_or(|compact| compact <= revision) && newest == facts.compact;
    (!held).then(|| Violation::new("compact-in-history", format!("{}: {facts:?}", picture.name)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::Revision;

    #[test]
    fn a_compaction_of_the_future_or_of_nobody_is_seen() {
        let future = fires(|picture| {
            let facts = &mut picture.tables.facts;
            facts.pending.push(Revision(1_000));
            facts.compact = Some(Revision(1_000));
        });
        assert_eq!(future, ["compact-in-history"]);
        let nobody = fires(|picture| picture.tables.facts.pending.push(Revision(21)));
        assert_eq!(nobody, ["compact-in-history"]);
    }
}
