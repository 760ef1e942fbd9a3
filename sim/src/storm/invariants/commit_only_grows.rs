//! A commit index never falls (Raft, §5.3).

use mainstay::raft::Node;
use mainstay::types::Index;

use super::{Broken, Verdict};

/// Judges a node after a step, before which its commit index was `before`.
pub(super) fn commit_only_grows(node: &Node, before: Index) -> Verdict {
    let commit = node.commit();
    must!("commit_only_grows", commit >= before, "{}: {before} → {commit}", node.id());
    Ok(())
}
