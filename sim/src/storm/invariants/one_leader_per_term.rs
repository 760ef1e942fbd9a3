//! Election safety: at most one leader in a term (Raft, figure 3).

use mainstay::raft::{Node, Role};

use super::{Broken, Truth, Verdict};

/// Judges a node after a step.
pub(in crate::storm) fn one_leader_per_term(truth: &mut Truth, node: &Node) -> Verdict {
    if node.role() != Role::Leader {
        return Ok(());
    }
    let first = *truth.leaders.entry(node.term()).or_insert(node.id());
    must!(
        "one_leader_per_term",
        first == node.id(),
        "{first} and {} in {}",
        node.id(),
        node.term()
    );
    Ok(())
}
