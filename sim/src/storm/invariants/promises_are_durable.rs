//! A promise leaves only when the disk has what it promises: a vote with its term, and an acceptance
//! with its term and every entry up to the one named (Raft, §5.1, «before responding to RPCs»;
//! mutants.md, R02, R04). `promises_survive` asks the same after a power loss, which takes chance.
//!
//! An acceptance that leaves late, when its sender has gone on to another term, binds it no more: the
//! log of the term it was given in may be cut by then.

use mainstay::raft::{AppendResponse, Envelope, Message};
use mainstay::types::LogPosition;

use super::{Broken, Verdict};
use crate::storm::world::Member;

/// Judges a message that is about to leave.
pub(in crate::storm) fn promises_are_durable(member: &Member, envelope: &Envelope) -> Verdict {
    let (disk, term) = (&member.disk, envelope.term);
    let hard = disk.hard;
    match envelope.message {
        Message::VoteResponse { granted: true } => must!(
            "promises_are_durable",
            hard.term > term || (hard.term == term && hard.vote == Some(envelope.to)),
            "{} gives {} its vote in {term}; on disk {hard:?}",
            member.id,
            envelope.to
        ),
        Message::AppendResponse(AppendResponse::Accept { matched }) => {
            let Some(node) = member.node.as_ref().filter(|node| node.term() == term) else {
                return Ok(());
            };
            let Some(matched_term) = node.term_at(matched) else { return Ok(()) };
            let position = LogPosition::new(matched, matched_term);
            // A torn hand-over may have left entries of a term without the hard state beside them; a
            // restart takes the term from them then.
            let durable = hard.term.max(disk.last().term);
            must!(
                "promises_are_durable",
                durable >= term && disk.holds(position),
                "{} accepts {position} in {term}; on disk {hard:?}, {}",
                member.id,
                disk.last()
            );
        }
        _ => {}
    }
    Ok(())
}
