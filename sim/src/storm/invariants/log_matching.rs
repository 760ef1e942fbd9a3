//! Log matching: index and term name an entry and everything before it (Raft, figure 3). Checked as
//! entries are handed to a disk: each names its predecessor's term, so equality carries backwards.

use mainstay::raft::{Entry, Node};

use super::{Broken, Truth, Verdict};
use crate::storm::machine::digest;

/// Judges entries that a node hands to its disk.
pub(in crate::storm) fn log_matching(truth: &mut Truth, node: &Node, entries: &[Entry]) -> Verdict {
    let Some(first) = entries.first() else { return Ok(()) };
    let before = first.index.prev().and_then(|index| node.term_at(index));
    let mut before = before.unwrap_or_default();
    for entry in entries {
        let seen = (before, digest(entry));
        let known = *truth.written.entry((entry.index, entry.term)).or_insert(seen);
        must!(
            "log_matching",
            known == seen,
            "{} has {} after {} but elsewhere it comes after {} (or says something else)",
            node.id(),
            entry.position(),
            before,
            known.0
        );
        before = entry.term;
    }
    Ok(())
}
