//! A message carries no term beyond its sender's (Raft, §5.1; the text of the core's `message.rs`).

use mainstay::raft::Envelope;

use super::{Broken, Verdict};
use crate::storm::world::Member;

/// Judges a message that is about to leave.
pub(in crate::storm) fn no_message_from_a_later_term(
    member: &Member,
    envelope: &Envelope,
) -> Verdict {
    let Some(node) = &member.node else { return Ok(()) };
    must!(
        "no_message_from_a_later_term",
        envelope.term <= node.term(),
        "{} in {} says {} in {}",
        member.id,
        node.term(),
        envelope.message.name(),
        envelope.term
    );
    Ok(())
}
