//! The core lives by the configuration that its machine has applied, whole (mutants.md, R22).

use mainstay::raft::Node;

use super::{Broken, Verdict};
use crate::storm::machine::Machine;

/// Judges a node after a step.
pub(in crate::storm) fn configuration_is_the_applied_one(
    node: &Node,
    machine: &Machine,
) -> Verdict {
    must!(
        "configuration_is_the_applied_one",
        node.applied() != machine.position.index || *node.conf_state() == machine.conf,
        "{}: {:?}, applied {:?}",
        node.id(),
        node.conf_state(),
        machine.conf
    );
    Ok(())
}
