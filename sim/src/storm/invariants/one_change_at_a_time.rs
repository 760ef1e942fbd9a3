//! A leader appends a change only when it has applied every earlier one in its log, and has committed
//! in its term (Thesis, §4.1; Ongaro on raft-dev, July 2015).

use mainstay::raft::{Entry, Node, Payload, Role};
use mainstay::types::Index;

use super::{Broken, Verdict};

/// Judges entries that a node hands to its disk, the last change handed over before being at
/// `last_change`.
pub(in crate::storm) fn one_change_at_a_time(
    node: &Node,
    entries: &[Entry],
    last_change: Index,
) -> Verdict {
    let mut last_change = last_change;
    for entry in entries {
        let Payload::ConfChange(_) = &entry.payload else { continue };
        if node.role() != Role::Leader || entry.term != node.term() {
            continue;
        }
        must!(
            "one_change_at_a_time",
            last_change <= node.applied(),
            "{} appends a change at {} over an unapplied one at {last_change}",
            node.id(),
            entry.index
        );
        let committed = node.term_at(node.commit()) == Some(node.term());
        must!(
            "one_change_at_a_time",
            committed,
            "{} appends a change at {} before it has committed in {}",
            node.id(),
            entry.index,
            node.term()
        );
        last_change = entry.index;
    }
    Ok(())
}
