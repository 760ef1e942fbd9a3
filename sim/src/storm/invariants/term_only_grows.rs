//! A node's term never falls while it runs (Raft, §5.1). On disk it is `hard_state_only_grows` that says so.

use mainstay::raft::Node;
use mainstay::types::Term;

use super::{Broken, Verdict};

/// Judges a node after a step, before which its term was `before`.
pub(in crate::storm) fn term_only_grows(node: &Node, before: Term) -> Verdict {
    must!("term_only_grows", node.term() >= before, "{}: {before} → {}", node.id(), node.term());
    Ok(())
}
