//! A node gives one vote a term, over power losses too; the vote that a candidate asks for is its own
//! (Raft, §5.2; figure 2, «votedFor»).

use mainstay::raft::{Envelope, Message};

use super::{Broken, Truth, Verdict};

/// Judges a message that is about to leave.
pub(in crate::storm) fn one_vote_per_term(truth: &mut Truth, envelope: &Envelope) -> Verdict {
    let (id, term) = (envelope.from, envelope.term);
    let vote = match envelope.message {
        Message::VoteResponse { granted: true } => envelope.to,
        Message::Vote { .. } => id,
        _ => return Ok(()),
    };
    let first = *truth.votes.entry((id, term)).or_insert(vote);
    must!("one_vote_per_term", first == vote, "{id} votes for {first} and {vote} in {term}");
    Ok(())
}
