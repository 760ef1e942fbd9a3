//! A leader commits by counting only what is of its own term; what is older is committed with it, never
//! by itself (Raft, §5.4.2, figure 8; mutants.md, R01).

use mainstay::raft::Node;

use super::{Broken, Verdict};

/// Judges a leader whose commit index has just grown.
pub(super) fn commit_is_of_this_term(node: &Node) -> Verdict {
    let term = node.term_at(node.commit());
    must!(
        "commit_is_of_this_term",
        term.is_none_or(|term| term == node.term()),
        "{} leads {} and commits {} of {term:?}",
        node.id(),
        node.term(),
        node.commit()
    );
    Ok(())
}
