//! Only voters campaign and lead (Thesis, §4.2.1; STYLE §2).

use mainstay::raft::{Node, Role};

use super::{Broken, Verdict};

/// Judges a node after a step.
pub(in crate::storm) fn only_voters_campaign(node: &Node) -> Verdict {
    // A leader that was voted out leads until it has handed over.
    let leaves = node.role() == Role::Leader && node.transfer_target().is_some();
    let active = node.role() != Role::Follower && !leaves;
    must!(
        "only_voters_campaign",
        !active || node.conf_state().is_voter(node.id()),
        "{} is {:?} in {:?}",
        node.id(),
        node.role(),
        node.conf_state()
    );
    Ok(())
}
