//! While leadership is handed over, the leader takes no commands (Thesis, §3.10).

use mainstay::raft::{Node, Payload, Role};
use mainstay::types::{Index, NodeId};

use super::{Broken, Verdict};

/// Judges a node after a step, before which it was handing over to `before` and its log ended at
/// `last`.
pub(in crate::storm) fn transfer_takes_no_commands(
    node: &Node,
    before: Option<NodeId>,
    last: Index,
) -> Verdict {
    if before.is_none() || node.transfer_target() != before || node.role() != Role::Leader {
        return Ok(());
    }
    let mut index = last;
    while index < node.last().index {
        index = index.next();
        let entry = node.entry_at(index);
        let command = entry.is_some_and(|entry| matches!(entry.payload, Payload::Command(_)));
        let id = node.id();
        must!(
            "transfer_takes_no_commands",
            !command,
            "{id} takes {index} in a transfer to {before:?}"
        );
    }
    Ok(())
}
