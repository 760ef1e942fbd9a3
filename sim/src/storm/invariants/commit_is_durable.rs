//! What a leader commits is on the disks of a quorum of its configuration, its own among them only if
//! it is there (Raft, §5.3; DESIGN §3).

use mainstay::raft::{Node, Tally, tally};
use mainstay::types::{LogPosition, NodeId};

use super::{Broken, Verdict};
use crate::storm::world::Members;

/// Judges a leader whose commit index has just grown.
pub(super) fn commit_is_durable(node: &Node, members: &Members) -> Verdict {
    let index = node.commit();
    let Some(term) = node.term_at(index) else { return Ok(()) };
    let position = LogPosition::new(index, term);
    let on_disk =
        |id: NodeId| Some(members.get(&id).is_some_and(|member| member.disk.holds(position)));
    must!(
        "commit_is_durable",
        tally(node.conf_state(), on_disk) == Tally::Won,
        "{} commits {position}, which no quorum of {:?} holds",
        node.id(),
        node.conf_state()
    );
    Ok(())
}
