//! A leader sends a peer no more than what it hears accounts for. Where each late refusal has a whole
//! window of appends sent anew, every one of which may be refused in turn, the network carries little
//! else, and a cluster that makes progress all the same hides it (storm seed 200199946: 600 messages for
//! each entry).

use std::collections::BTreeMap;

use mainstay::raft::{AppendResponse, Envelope, Input, Message};
use mainstay::types::{Index, NodeId, Term};

use super::{Broken, Truth, Verdict};

/// What a leader may send before it has heard anything.
const AT_FIRST: u64 = 32;

/// How many appends each thing heard may cause: the entry itself, the same once more after a refusal of
/// what overtook it, copies that the network makes of questions and answers, and some room.
const EACH: u64 = 8;

/// The appends of a leader to a peer in a term.
#[derive(Debug, Default)]
pub(super) struct Flow {
    appends: u64,
    earned: u64,
    matched: Index,
    commit: Index,
}

/// All of them.
pub(super) type Flows = BTreeMap<(Term, NodeId, NodeId), Flow>;

/// Judges what a node is about to say.
pub(in crate::storm) fn appends_are_earned(truth: &mut Truth, envelope: &Envelope) -> Verdict {
    let Envelope { from, to, term, message } = envelope;
    let Message::Append { commit, .. } = message else { return Ok(()) };
    let flow = truth.flows.entry((*term, *from, *to)).or_default();
    flow.appends += 1;
    // News of a commit goes out at once, answered or not.
    if *commit > flow.commit {
        flow.commit = *commit;
        flow.earned += 1;
    }
    let Flow { appends, earned, .. } = *flow;
    must!(
        "appends_are_earned",
        appends <= AT_FIRST + EACH * earned,
        "{from} has sent {to} {appends} appends in {term}, and {earned} would have had a cause"
    );
    Ok(())
}

/// Notes what a node is told, with the term it is in: what has arrived for the first time, and what else
/// makes a leader ask again.
pub(in crate::storm) fn note_heard(truth: &mut Truth, id: NodeId, term: Term, input: &Input) {
    let peer = match input {
        Input::Message(envelope) if envelope.term == term => envelope.from,
        Input::PeerConnectionLost(peer) | Input::PeerUnreachable(peer) => *peer,
        Input::SnapshotSent { to, .. } => *to,
        _ => return,
    };
    let Some(flow) = truth.flows.get_mut(&(term, id, peer)) else { return };
    let Input::Message(envelope) = input else {
        flow.earned += 1;
        return;
    };
    match &envelope.message {
        Message::AppendResponse(AppendResponse::Accept { matched }) if *matched > flow.matched => {
            flow.earned += 1;
            flow.matched = *matched;
        }
        Message::HeartbeatResponse { .. } => flow.earned += 1,
        _ => {}
    }
}
