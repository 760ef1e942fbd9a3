//! Leader append-only: a leader never overwrites or deletes an entry of its log; it only appends (Raft,
//! figure 3).

use mainstay::raft::{Node, Role};
use mainstay::types::{LogPosition, Term};

use super::{Broken, Verdict};

/// Judges a node after a step, before which its log ended at `last` and, if it led, it `led` that term.
pub(in crate::storm) fn leader_append_only(
    node: &Node,
    led: Option<Term>,
    last: LogPosition,
) -> Verdict {
    if node.role() != Role::Leader || led != Some(node.term()) {
        return Ok(());
    }
    // By log matching, who still holds the last entry still holds all before it.
    must!(
        "leader_append_only",
        node.last().index >= last.index && node.term_at(last.index) == Some(last.term),
        "{} leads {}, had {last} and ends at {}",
        node.id(),
        node.term(),
        node.last()
    );
    Ok(())
}
