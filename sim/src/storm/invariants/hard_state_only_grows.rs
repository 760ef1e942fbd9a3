//! Terms never fall on disk, and a vote once given in a term stays (Raft, §5.1, §5.2).

use mainstay::raft::HardState;
use mainstay::types::NodeId;

use super::{Broken, Verdict};

/// Judges a disk across a write or a power loss.
pub(in crate::storm) fn hard_state_only_grows(
    id: NodeId,
    before: HardState,
    after: HardState,
) -> Verdict {
    let kept = after.term > before.term
        || (after.term == before.term && (before.vote.is_none() || after.vote == before.vote));
    must!("hard_state_only_grows", kept, "{id}: {before:?} → {after:?}");
    Ok(())
}
