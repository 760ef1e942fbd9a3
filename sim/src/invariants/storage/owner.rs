//! Log and store are of one cluster and one data directory (`server::bootstrap`, «whose directory»: a
//! vote is bound to the directory that remembers it).
//!
//! The store names the cluster with its first entry, and the directory of each member once that member has
//! published itself; before that there is nothing to compare.

use mainstay::types::NodeId;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let (name, owner) = (&picture.name, picture.log.metadata);
    let membership = &picture.tables.membership;
    let cluster = membership.cluster_id().0;
    let broken = |text| Some(Violation::new("log-and-store-of-one", text));
    if cluster != 0 && cluster != owner.cluster {
        let log = owner.cluster;
        return broken(format!("{name}: a log of cluster {log:x}, a store of {cluster:x}"));
    }
    let own = NodeId(owner.member);
    let published = membership.store_of(own).filter(|_| membership.member(own).is_some());
    let other = published.filter(|id| *id != picture.store_id)?;
    let here = picture.store_id;
    broken(format!("{name}: the directory is {here:x}, the member's is said to be {other:x}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::NodeId;

    #[test]
    fn a_log_or_a_directory_of_another_member_is_seen() {
        let log = fires(|picture| picture.log.metadata.cluster += 1);
        assert_eq!(log, ["log-and-store-of-one"]);
        let directory = fires(|picture| {
            let (own, elsewhere) = (NodeId(picture.log.metadata.member), picture.store_id + 1);
            let membership = &mut picture.tables.membership;
            membership.tie_store(own, elsewhere, &mut Vec::new()).expect("it is not tied yet");
        });
        assert_eq!(directory, ["log-and-store-of-one"]);
    }
}
