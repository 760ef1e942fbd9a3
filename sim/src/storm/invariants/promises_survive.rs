//! What was promised to others survives a crash: acceptances and votes (Raft, §5.1; DESIGN §3).

use mainstay::types::{LogPosition, NodeId, Term};

use super::{Broken, Verdict};
use crate::storm::disk::Disk;

/// Judges a disk after a power loss, by what its node had promised before.
pub(in crate::storm) fn promises_survive(
    id: NodeId,
    disk: &Disk,
    accepted: LogPosition,
    voted: (Term, Option<NodeId>),
) -> Verdict {
    let (base, last) = (disk.base, disk.last());
    must!(
        "promises_survive",
        disk.holds(accepted),
        "{id} accepted {accepted}, holds {base}..{last}"
    );
    let (term, vote) = voted;
    let hard = disk.hard;
    let kept = vote.is_none() || hard.term > term || (hard.term == term && hard.vote == vote);
    must!("promises_survive", kept, "{id} voted {vote:?} in {term} and forgot it: {hard:?}");
    Ok(())
}
