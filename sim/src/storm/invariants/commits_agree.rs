//! All commit indexes speak of one sequence (Raft, §5.3; state machine safety, figure 3). Only a leader
//! may extend the sequence.

use mainstay::raft::{Node, Role};
use mainstay::types::Index;

use super::commit_is_durable::commit_is_durable;
use super::commit_is_of_this_term::commit_is_of_this_term;
use super::commit_only_grows::commit_only_grows;
use super::{Broken, Committed, Truth, Verdict};
use crate::storm::world::Members;

/// Judges a node after a step, before which its commit index was `before`; what else a commit index
/// must be is asked on the way.
pub(in crate::storm) fn commits_agree(
    truth: &mut Truth,
    node: &Node,
    before: Index,
    members: &Members,
) -> Verdict {
    commit_only_grows(node, before)?;
    let commit = node.commit();
    let mut index = before;
    while index < commit {
        index = index.next();
        let Some(term) = node.term_at(index) else { continue };
        if let Some(known) = truth.committed_at(index) {
            let same = known.term == term;
            must!(
                "commits_agree",
                same,
                "{} commits {index}@{term}, elsewhere {}",
                node.id(),
                known.term
            );
        } else {
            must!(
                "commits_agree",
                node.role() == Role::Leader,
                "{} is the first to commit {index}@{term} and does not lead",
                node.id()
            );
            truth.committed.push(Committed { term, by: node.term(), machine: None });
        }
    }
    if commit > before && node.role() == Role::Leader {
        commit_is_of_this_term(node)?;
        commit_is_durable(node, members)?;
    }
    Ok(())
}
