//! Entries are delivered without gap or repetition (mutants.md, R10).

use mainstay::raft::Entry;
use mainstay::types::{Index, NodeId};

use super::{Broken, Verdict};

/// Judges entries delivered to a driver that was given everything up to `after`.
pub(in crate::storm) fn applied_contiguous(id: NodeId, after: Index, entries: &[Entry]) -> Verdict {
    let mut last = after;
    for entry in entries {
        let next = last.next();
        must!(
            "applied_contiguous",
            entry.index == next,
            "{id} is given {} after {last}",
            entry.index
        );
        last = next;
    }
    Ok(())
}
