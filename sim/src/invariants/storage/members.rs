//! The members are those of Raft's configuration, learners the same in both (Ongaro's thesis, §4.1: a
//! change takes effect as a whole; here both tables change in one entry).
//!
//! While a joint change is under way the configuration has two halves; then nothing is compared.

use std::collections::BTreeSet;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let (conf, members) = (&picture.conf, &picture.tables.membership);
    if !conf.voters_outgoing.is_empty() {
        return None;
    }
    let voters: BTreeSet<_> = members.voters().collect();
    let learners: BTreeSet<_> = members.learners().collect();
    let removed = members.removed().find(|id| members.member(*id).is_some());
    let held = voters == conf.voters && learners == conf.learners && removed.is_none();
    (!held).then(|| {
        let text = format!("{}: {members:?}, and Raft has {conf:?}", picture.name);
        Violation::new("members-are-configured", text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fires, fires_on};
    use mainstay::storage::Table;
    use mainstay::types::NodeId;

    #[test]
    fn a_member_that_raft_does_not_know_is_seen() {
        let known = fires(|picture| {
            picture.conf.learners.insert(NodeId(77));
        });
        assert_eq!(known, ["members-are-configured"]);
        let lost = fires_on(|txn| txn.delete(Table::Members, b"63"));
        assert_eq!(lost, ["members-are-configured"]);
    }
}
