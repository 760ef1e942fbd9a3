//! Watches a storm's nodes from outside and writes down what the spec calls what they do.
//!
//! The recorder sees each input before and after its step, and each [`Ready`]. It keeps the spec's bag of
//! messages, since the spec receives only what is in it; a delivery that has no counterpart there is
//! refused, and lost on its way ([`Recorder::admits`]).

use std::collections::{BTreeMap, VecDeque};

use mainstay::raft::{AppendResponse, Envelope, Input, Message, Node, Ready, Role, Ticket};
use mainstay::types::{Index, LogPosition, NodeId, Term};

use super::line::{Event, Kind, Line, View, Wire};

/// The lines so far, and what must be known to write the next one.
///
/// - `bag` holds what the spec's `messages` and `pendingMessages` hold, with how many there are.
/// - A node's `vote` is that of its last hand-over, which is that of its last step: nothing queues
///   between a step and its [`Ready`] in a storm that is recorded.
#[derive(Debug, Default)]
pub(in crate::storm) struct Recorder {
    lines: Vec<Slot>,
    count: usize,
    bag: BTreeMap<Wire, u64>,
    /// Where each append was sent, in `lines`.
    sent_at: BTreeMap<Wire, usize>,
    seen: BTreeMap<NodeId, Seen>,
}

/// A line, and those that were found later to belong right behind it.
#[derive(Debug)]
struct Slot {
    line: Line,
    behind: Vec<Line>,
}

/// What is not to be read off a node.
#[derive(Debug, Default)]
struct Seen {
    vote: (Term, Option<NodeId>),
    /// Hand-overs on their way to the disk.
    pending: VecDeque<HandOver>,
    /// What kind of message it is answering in this step: a newer term is all it says.
    answering: Option<Kind>,
}

/// What a hand-over means for the node itself once it is durable: the spec has it send itself a message.
#[derive(Debug)]
struct HandOver {
    ticket: Ticket,
    note: Option<Wire>,
}

/// A node before a step.
#[derive(Debug)]
pub(in crate::storm) struct Before {
    view: View,
    /// The message that it hears, from others or from its own disk.
    heard: Option<Wire>,
    /// Whether the node steps down by hearing it, which needs no word.
    from_leader: bool,
}

impl Recorder {
    /// Returns how many lines there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the lines in order.
    pub(super) fn into_lines(self) -> impl Iterator<Item = Line> {
        self.lines.into_iter().flat_map(|slot| std::iter::once(slot.line).chain(slot.behind))
    }

    /// Notes that a node has started.
    pub(in crate::storm) fn started(&mut self, node: &Node, vote: Option<NodeId>) {
        self.seen.insert(
            node.id(),
            Seen { vote: (node.term(), vote), pending: VecDeque::new(), answering: None },
        );
        self.write(Event::InitState, self.view(node));
    }

    /// Tells whether the spec knows what is about to be delivered, and does with it what the core does.
    /// If not, it is to be lost.
    pub(in crate::storm) fn admits(&mut self, node: &Node, envelope: &Envelope) -> bool {
        let Some(wire) = self.wire(envelope) else {
            // What the spec does not know must not tell of a newer term, nor of a commit.
            let silent = match envelope.message {
                Message::PreVoteResponse { .. } | Message::InstallSnapshot { .. } => false,
                Message::PreVote { commit, .. } => !is_news(node, commit),
                _ => true,
            };
            return silent && envelope.term <= node.term();
        };
        let tells =
            matches!(envelope.message, Message::Vote { commit, .. } if is_news(node, commit));
        if tells || !self.bag.contains_key(&wire) {
            return false;
        }
        match wire.kind {
            // The core has no vote left in a term whose leader it knows; the spec has.
            Kind::Vote { last } => {
                let settled = wire.term == node.term() && node.leader().is_some();
                let has_voted = self.view(node).vote.is_some();
                !(settled && !has_voted && last >= node.last())
            }
            // An append that begins below what is committed here: the spec answers with the commit
            // index and takes nothing of it. See `behind_commit`.
            Kind::Append { prev, count, .. } => {
                let end = Index(prev.index.get() + count);
                prev.index >= node.commit() || end >= node.commit() || wire.term < node.term()
            }
            _ => true,
        }
    }

    /// Looks at a node before an input is stepped.
    pub(in crate::storm) fn before(&mut self, node: &Node, input: &Input) -> Before {
        let view = self.view(node);
        let heard = match input {
            Input::Message(envelope) => self.heard(node, envelope),
            Input::Persisted(ticket) => self.durable(node, *ticket),
            _ => None,
        };
        let from_leader =
            heard.is_some_and(|w| matches!(w.kind, Kind::Append { .. } | Kind::Heartbeat { .. }));
        self.at(node).answering = heard.map(|wire| wire.kind);
        Before { view, heard, from_leader }
    }

    /// Writes down what a step has done.
    pub(in crate::storm) fn after(&mut self, node: &Node, before: Before) {
        let Before { view, heard, from_leader } = before;
        let (was, term) = (view.role, view.term);
        // A node that shields its leader does not listen at all.
        if let Some(wire) = heard.filter(|wire| wire.term <= node.term()) {
            self.take_from_bag(wire);
            self.write(Event::Receive(wire), view.clone());
        }
        let now = self.view(node);
        match (was, now.role) {
            (_, Role::Candidate) if now.term != term => {
                self.write(Event::BecomeCandidate, now.clone());
            }
            (Role::Candidate, Role::Leader) => {
                // It appends its first entry in the same step.
                let elected = View { last: view.last, ..now.clone() };
                self.write(Event::BecomeLeader, elected);
            }
            (Role::Candidate | Role::Leader, Role::Follower)
                if now.term == term && !from_leader =>
            {
                self.write(Event::BecomeFollower, now.clone());
            }
            _ => {}
        }
        if now.role != Role::Leader {
            return;
        }
        for _ in view.last.get()..now.last.get() {
            self.write(Event::Replicate, now.clone());
        }
        if now.commit > view.commit {
            self.write(Event::Commit, now);
        }
    }

    /// Writes down what a node hands over and says. The spec's disk is done at once.
    pub(in crate::storm) fn handed_over(&mut self, node: &Node, ready: &Ready) {
        if let Some(hard) = ready.hard_state {
            self.at(node).vote = (hard.term, hard.vote);
        }
        let answering = self.at(node).answering.take();
        let view = self.view(node);
        let note = self.note_to_self(node, ready);
        if let Some(wire) = note {
            self.send(wire, &view);
        }
        if let Some(ticket) = ready.ticket {
            self.at(node).pending.push_back(HandOver { ticket, note });
        }
        for envelope in ready.messages_now.iter().chain(&ready.messages_after_persist) {
            let wire = match envelope.message {
                Message::NewerTerm => answering.and_then(|kind| refusal(envelope, kind)),
                _ => self.wire(envelope),
            };
            if let Some(wire) = wire {
                self.send(wire, &view);
            }
        }
        self.write(Event::Ready, view);
    }

    /// What the spec has a node say to itself: a candidate, that it votes for itself; a leader, how far
    /// its log goes. It counts when it is heard, which is when the disk has it.
    fn note_to_self(&self, node: &Node, ready: &Ready) -> Option<Wire> {
        let (id, term) = (node.id(), node.term());
        let kind = match node.role() {
            Role::Candidate if ready.hard_state.is_some() => Kind::VoteResponse { granted: true },
            Role::Leader if !ready.entries.is_empty() => {
                Kind::AppendResponse { matched: Some(node.last().index) }
            }
            _ => return None,
        };
        Some(Wire { from: id, to: id, term, kind })
    }

    /// The message to itself that a node hears when a hand-over is durable.
    fn durable(&mut self, node: &Node, ticket: Ticket) -> Option<Wire> {
        let pending = &mut self.at(node).pending;
        let place = pending.iter().position(|hand_over| hand_over.ticket == ticket)?;
        let note = pending.remove(place)?.note?;
        let counts = match note.kind {
            Kind::VoteResponse { .. } => node.role() == Role::Candidate,
            _ => node.role() == Role::Leader,
        };
        (counts && note.term == node.term()).then_some(note)
    }

    /// The spec's message behind one that was admitted.
    fn heard(&mut self, node: &Node, envelope: &Envelope) -> Option<Wire> {
        let wire = self.wire(envelope)?;
        match wire.kind {
            Kind::Append { .. } if wire.term >= node.term() => {
                let commit = node.commit();
                let term = node.term_at(commit).expect("nothing is trimmed where it is recorded");
                Some(self.behind_commit(wire, LogPosition::new(commit, term)))
            }
            _ => Some(wire),
        }
    }

    /// The part of an append that lies behind the receiver's commit index. The core takes an append
    /// from the first entry that is new to it; the spec, like etcd, takes one that begins below the
    /// commit index for old news. So the leader is said to have sent, at that moment, the part too.
    fn behind_commit(&mut self, whole: Wire, commit: LogPosition) -> Wire {
        let Kind::Append { prev, count, commit: told } = whole.kind else { return whole };
        let end = Index(prev.index.get() + count);
        if prev.index >= commit.index || end <= commit.index {
            return whole;
        }
        let count = end.get() - commit.index.get();
        let part = Wire { kind: Kind::Append { prev: commit, count, commit: told }, ..whole };
        let place = *self.sent_at.get(&whole).expect("it is in the bag");
        let slot = &mut self.lines[place];
        slot.behind.push(Line { event: Event::Send(part), view: slot.line.view.clone() });
        self.count += 1;
        *self.bag.entry(part).or_default() += 1;
        part
    }

    fn wire(&self, envelope: &Envelope) -> Option<Wire> {
        let kind = match &envelope.message {
            Message::Vote { last, .. } => Kind::Vote { last: *last },
            Message::VoteResponse { granted } => Kind::VoteResponse { granted: *granted },
            Message::Append { prev, entries, commit } => {
                let count = u64::try_from(entries.len()).expect("a length fits 64 bits");
                // The core leaves the cut to the receiver.
                let commit = (*commit).min(Index(prev.index.get() + count));
                Kind::Append { prev: *prev, count, commit }
            }
            Message::AppendResponse(AppendResponse::Accept { matched }) => {
                Kind::AppendResponse { matched: Some(*matched) }
            }
            Message::AppendResponse(AppendResponse::Reject { .. }) => {
                Kind::AppendResponse { matched: None }
            }
            Message::Heartbeat { commit, .. } => Kind::Heartbeat { commit: *commit },
            Message::HeartbeatResponse { .. } => Kind::HeartbeatResponse,
            // Either refusal says as much. Which of them the spec has sent is known by the bag.
            Message::NewerTerm => {
                let refusals =
                    [Kind::AppendResponse { matched: None }, Kind::VoteResponse { granted: false }];
                let wires = refusals.map(|kind| Wire {
                    from: envelope.from,
                    to: envelope.to,
                    term: envelope.term,
                    kind,
                });
                return Some(*wires.iter().find(|w| self.bag.contains_key(w)).unwrap_or(&wires[0]));
            }
            _ => return None,
        };
        Some(Wire { from: envelope.from, to: envelope.to, term: envelope.term, kind })
    }

    fn send(&mut self, wire: Wire, view: &View) {
        *self.bag.entry(wire).or_default() += 1;
        if matches!(wire.kind, Kind::Append { .. }) {
            self.sent_at.insert(wire, self.lines.len());
        }
        self.write(Event::Send(wire), view.clone());
    }

    fn take_from_bag(&mut self, wire: Wire) {
        let left = self.bag.get_mut(&wire).expect("what is heard was admitted");
        *left -= 1;
        if *left == 0 {
            self.bag.remove(&wire);
        }
    }

    fn view(&self, node: &Node) -> View {
        let vote = match node.role() {
            Role::Candidate | Role::Leader => Some(node.id()),
            _ => {
                let (term, vote) = self.seen[&node.id()].vote;
                vote.filter(|_| term == node.term())
            }
        };
        View::of(node, vote)
    }

    fn at(&mut self, node: &Node) -> &mut Seen {
        self.seen.get_mut(&node.id()).expect("it was noted when it started")
    }

    fn write(&mut self, event: Event, view: View) {
        self.lines.push(Slot { line: Line { event, view }, behind: Vec::new() });
        self.count += 1;
    }
}

/// Tells whether a node would learn from this position that more is committed than it knows.
fn is_news(node: &Node, commit: LogPosition) -> bool {
    commit.index > node.commit() && node.term_at(commit.index) == Some(commit.term)
}

/// The spec's answer to a message of an older term.
fn refusal(envelope: &Envelope, answered: Kind) -> Option<Wire> {
    let kind = match answered {
        Kind::Vote { .. } => Kind::VoteResponse { granted: false },
        Kind::Append { .. } | Kind::Heartbeat { .. } => Kind::AppendResponse { matched: None },
        _ => return None,
    };
    Some(Wire { from: envelope.from, to: envelope.to, term: envelope.term, kind })
}
