//! A machine has applied nothing that its own node does not know to be committed (Raft, figure 2,
//! «lastApplied»; §5.3).

use mainstay::raft::Node;

use super::{Broken, Verdict};
use crate::storm::machine::Machine;

/// Judges a node after a step.
pub(in crate::storm) fn machine_is_not_ahead(node: &Node, machine: &Machine) -> Verdict {
    must!(
        "machine_is_not_ahead",
        machine.position.index <= node.commit() && node.applied() <= machine.position.index,
        "{}: commit {}, told of {}, the machine stands at {}",
        node.id(),
        node.commit(),
        node.applied(),
        machine.position
    );
    Ok(())
}
