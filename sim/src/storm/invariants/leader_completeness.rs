//! Leader completeness: a leader holds every entry committed in earlier terms (Raft, figure 3).

use mainstay::raft::Node;

use super::{Broken, Truth, Verdict};

/// Judges a node that has just become leader.
pub(in crate::storm) fn leader_completeness(truth: &Truth, node: &Node) -> Verdict {
    let mut index = truth.commit();
    while let Some(committed) = truth.committed_at(index)
        && committed.by >= node.term()
    {
        index = index.prev().unwrap_or_default();
    }
    let Some(committed) = truth.committed_at(index) else { return Ok(()) };
    // Trimmed is applied, and what is applied was checked.
    let held = index <= node.base().index || node.term_at(index) == Some(committed.term);
    must!(
        "leader_completeness",
        held,
        "{} leads {} without {index}@{} committed in {}",
        node.id(),
        node.term(),
        committed.term,
        committed.by
    );
    Ok(())
}
