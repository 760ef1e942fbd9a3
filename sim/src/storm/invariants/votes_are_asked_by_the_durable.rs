//! Votes are asked for only with a term, a vote and a log that are durable: a yes is given to the log
//! named in the question, and would elect a shorter one if its end were lost (mutants.md, R02, R35; the
//! text of the core's `election.rs`). A question that leaves late, when whoever asks no longer stands
//! in that term, can elect nobody.

use mainstay::raft::{Envelope, Message, Node, Role};

use super::{Broken, Verdict};
use crate::storm::world::Member;

/// Judges a message that is about to leave.
pub(in crate::storm) fn votes_are_asked_by_the_durable(
    member: &Member,
    envelope: &Envelope,
) -> Verdict {
    let Message::Vote { last, .. } = &envelope.message else { return Ok(()) };
    let (id, term, hard) = (envelope.from, envelope.term, member.disk.hard);
    let stands = |node: &Node| node.role() == Role::Candidate && node.term() == term;
    if !member.node.as_ref().is_some_and(stands) {
        return Ok(());
    }
    must!(
        "votes_are_asked_by_the_durable",
        hard.term == term && hard.vote == Some(id) && member.disk.holds(*last),
        "{id} asks for votes in {term} with {last}; on disk {hard:?}, {}",
        member.disk.last()
    );
    Ok(())
}
