//! Configurations form one chain on which neighbours' quorums meet (Thesis, §4.1, §4.3).

use mainstay::raft::ConfState;
use mainstay::types::NodeId;

use super::{Broken, Truth, Verdict};
use crate::storm::machine::Machine;

/// Judges a machine that has applied a change.
pub(in crate::storm) fn config_chain(truth: &mut Truth, id: NodeId, machine: &Machine) -> Verdict {
    let index = machine.position.index;
    let (at, previous) = truth.confs.range(..index).next_back().expect("there is a founding one");
    let meets = quorums_meet(previous, &machine.conf);
    must!("config_chain", meets, "{previous:?} at {at} and {:?} at {index}", machine.conf);
    let known = truth.confs.entry(index).or_insert_with(|| machine.conf.clone());
    must!(
        "config_chain",
        *known == machine.conf,
        "{id} has {:?} at {index}, elsewhere {known:?}",
        machine.conf
    );
    Ok(())
}

fn quorums_meet(a: &ConfState, b: &ConfState) -> bool {
    match (a.is_joint(), b.is_joint()) {
        (false, false) => a.voters.symmetric_difference(&b.voters).count() <= 1,
        (false, true) => b.voters_outgoing == a.voters,
        (true, false) => a.voters == b.voters,
        (true, true) => a.voters == b.voters && a.voters_outgoing == b.voters_outgoing,
    }
}
