//! State machine safety: at one index all machines apply one entry (Raft, figure 3), and only what is
//! committed.

use mainstay::types::NodeId;

use super::{Broken, Truth, Verdict};
use crate::storm::machine::Machine;

/// Judges a machine that has applied an entry or was replaced by a snapshot.
pub(in crate::storm) fn state_machine_safety(
    truth: &mut Truth,
    id: NodeId,
    machine: &Machine,
) -> Verdict {
    let position = machine.position;
    let slot = usize::try_from(position.index.get() - 1).expect("an index fits");
    let Some(committed) = truth.committed.get_mut(slot) else {
        return Err(Broken {
            name: "state_machine_safety",
            detail: format!("{id} applies {position}, which is not committed"),
        });
    };
    let expected = *committed.machine.get_or_insert(machine.hash);
    must!(
        "state_machine_safety",
        committed.term == position.term && expected == machine.hash,
        "{id} applies {position} and differs from what was applied elsewhere ({})",
        committed.term
    );
    Ok(())
}
