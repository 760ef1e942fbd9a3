//! Proposals, appends, and what counts as committed.
//!
//! Proposals are only appended when they come; what goes to the peers is decided once, when the
//! driver asks for work, so that everything that queued meanwhile travels in one append.
//!
//! An entry is committed when a quorum holds it durably *and it is of this term* (Ongaro & Ousterhout
//! 2014, §5.4.2, figure 8). The leader's own disk is one vote among the others.

use super::Node;
use crate::raft::config::Config;
use crate::raft::entry::{Entry, Payload};
use crate::raft::input::{Proposal, ProposalId};
use crate::raft::log::Log;
use crate::raft::message::{AppendResponse, Envelope, Message};
use crate::raft::progress::{PeerState, Progress};
use crate::raft::quorum;
use crate::raft::ready::{Refusal, RefusedProposal, Role, SnapshotRequest, Violation};
use crate::types::{Index, LogPosition, NodeId};

impl Node {
    pub(super) fn on_propose(&mut self, proposal: Proposal) {
        match (self.role, self.leader) {
            (Role::Leader, _) => self.propose_as_leader(None, proposal),
            (_, Some(leader)) => self.forward_proposal(leader, proposal),
            (_, None) => self.refuse(None, proposal.id, Refusal::NoLeader),
        }
    }

    fn forward_proposal(&mut self, leader: NodeId, proposal: Proposal) {
        if let Some(Envelope { to, term, message: Message::Propose { proposals }, .. }) =
            self.out.messages_now.last_mut()
            && *to == leader
            && *term == self.term
        {
            proposals.push(proposal);
            return;
        }
        self.say(leader, Message::Propose { proposals: vec![proposal] });
    }

    pub(super) fn on_forwarded_proposals(&mut self, from: NodeId, proposals: Vec<Proposal>) {
        for proposal in proposals {
            if self.role == Role::Leader {
                self.propose_as_leader(Some(from), proposal);
            } else {
                // Passed on once only: two nodes with stale views could play for ever.
                self.refuse(Some(from), proposal.id, Refusal::NotLeader);
            }
        }
    }

    fn propose_as_leader(&mut self, origin: Option<NodeId>, proposal: Proposal) {
        match self.admit(&proposal.payload) {
            Ok(()) => self.append_own(proposal.payload),
            Err(reason) => self.refuse(origin, proposal.id, reason),
        }
    }

    fn admit(&self, payload: &Payload) -> Result<(), Refusal> {
        if self.transfer.is_some() && !crate::mutant!("R30") {
            return Err(Refusal::TransferInProgress);
        }
        // One too large for the limit still passes when nothing else is in the way.
        let bytes = payload.bytes();
        let full = self.uncommitted_bytes.saturating_add(bytes) > self.config.uncommitted_bytes_max;
        if bytes > 0 && self.uncommitted_bytes > 0 && full {
            return Err(Refusal::Overloaded);
        }
        match payload {
            Payload::ConfChange(change) => self.admit_change(change),
            Payload::Empty | Payload::Command(_) => Ok(()),
        }
    }

    pub(super) fn refuse(&mut self, origin: Option<NodeId>, id: ProposalId, reason: Refusal) {
        match origin {
            Some(peer) => self.say(peer, Message::ProposeRefused { id, reason }),
            None => self.out.refused.push(RefusedProposal { id, reason }),
        }
    }

    /// Appends an entry of this leader.
    pub(super) fn append_own(&mut self, payload: Payload) {
        let index = self.log.last().index.next();
        self.uncommitted_bytes += payload.bytes();
        if matches!(payload, Payload::ConfChange(_)) {
            self.conf_pending = index;
        }
        self.log.push(Entry { term: self.term, index, payload });
        self.maybe_commit();
    }

    /// Sends every peer what it may be sent.
    pub(super) fn flush_appends(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let Self { peers, log, config, term, commit, out, .. } = self;
        for (to, peer) in peers {
            let mut sender = Sender { to: *to, log, config, commit: *commit, peer };
            while let Some(sent) = sender.next() {
                let to = *to;
                match sent {
                    Sent::Append(message) => {
                        let (from, term) = (config.id, *term);
                        out.messages_now.push(Envelope { from, to, term, message });
                    }
                    Sent::SnapshotNeeded => {
                        let at_least = log.base().index;
                        let request = SnapshotRequest { to, term: *term, at_least };
                        out.snapshots_to_send.push(request);
                    }
                }
            }
        }
    }

    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: LogPosition,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        if self.installing.is_some() {
            return; // The log is about to be replaced; the leader asks again.
        }
        let mut last_new = prev;
        for entry in &entries {
            let follows = entry.index == last_new.index.next() && entry.term >= last_new.term;
            if !follows || entry.term > self.term {
                self.out.violations.push(Violation::MalformedAppend { from });
                return;
            }
            last_new = entry.position();
        }
        if prev.index < self.commit && prev.index < self.log.base().index {
            // Older than what is kept in memory: all of it is committed here.
            self.accept(from, self.commit);
            return;
        }
        if !self.log.holds(prev) {
            let hint = self.log.last_agreeable(prev);
            let response = AppendResponse::Reject { prev: prev.index, hint };
            self.say(from, Message::AppendResponse(response));
            return;
        }
        if !self.take_entries(from, entries) {
            return;
        }
        let known = if crate::mutant!("R11") { self.log.last().index } else { last_new.index };
        self.commit_to(commit.min(known));
        self.accept(from, last_new.index);
    }

    /// Appends what is new, cutting the log only at a real contradiction: an old append that arrives
    /// late must not undo what a newer one has brought.
    fn take_entries(&mut self, from: NodeId, entries: Vec<Entry>) -> bool {
        if let Some(first) = entries.first()
            && crate::mutant!("R13")
            && first.index <= self.log.last().index
            && first.index > self.log.base().index
            && first.index > self.delivered
        {
            self.log.truncate(first.index);
            self.persist.truncated(first.index);
            self.commit = self.commit.min(self.log.last().index);
        }
        let known = entries.iter().take_while(|entry| self.log.holds(entry.position())).count();
        let Some(first) = entries.get(known).map(|entry| entry.index) else { return true };
        if first <= self.log.last().index {
            if first <= self.commit {
                let violation = Violation::TruncatesCommitted { from, index: first };
                self.out.violations.push(violation);
                return false;
            }
            self.log.truncate(first);
            self.persist.truncated(first);
        }
        entries.into_iter().skip(known).for_each(|entry| self.log.push(entry));
        true
    }

    pub(super) fn accept(&mut self, to: NodeId, matched: Index) {
        let message = Message::AppendResponse(AppendResponse::Accept { matched });
        if crate::mutant!("R04") {
            self.say(to, message);
        } else {
            self.promise(to, message);
        }
    }

    pub(super) fn commit_to(&mut self, index: Index) {
        assert!(index <= self.log.last().index, "commit {index} beyond {}", self.log.last());
        self.commit = self.commit.max(index);
    }

    pub(super) fn on_append_response(&mut self, from: NodeId, response: AppendResponse) {
        let (base, last) = (self.log.base(), self.log.last());
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.active = true;
        match response {
            AppendResponse::Accept { matched } => {
                // A correct peer never claims more than it was sent.
                if matched <= last.index && peer.on_accept(matched, base.index) {
                    self.maybe_commit();
                    self.continue_transfer(from);
                }
            }
            AppendResponse::Reject { prev, hint } => {
                let agreeable = self.log.last_agreeable(hint);
                // Before the base only a snapshot helps, and `next` there asks for one.
                let agreeable =
                    if agreeable == base { hint.index.min(base.index) } else { agreeable.index };
                peer.on_reject(prev, agreeable);
            }
        }
    }

    /// Commits what a quorum holds durably.
    pub(super) fn maybe_commit(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let own = self.durable();
        let held = |id| {
            let matched = self.peers.get(&id).map_or(Index(0), Progress::matched);
            if id == self.config.id { own.get() } else { matched.get() }
        };
        let agreed = Index(quorum::agreed(&self.conf, held));
        // Entries of older terms are committed by one of this term above them, never by counting.
        let countable = self.log.term_at(agreed) == Some(self.term) || crate::mutant!("R01");
        if agreed > self.commit && countable {
            let bytes = self.log.payload_bytes(self.commit, agreed);
            self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(bytes);
            self.commit_to(agreed);
        }
    }

    /// Tells whether this leader has committed an entry of its term, and so knows what is committed.
    pub(super) fn has_committed_in_term(&self) -> bool {
        self.log.term_at(self.commit) == Some(self.term)
    }

    /// Says that this node leads: to everyone on the clock, to voters only for a read round.
    pub(super) fn send_heartbeats(&mut self, voters_only: bool) {
        let round = self.reads.round();
        let commit = self.commit;
        let Self { peers, out, config, term, conf, .. } = self;
        for (to, peer) in peers {
            if voters_only && !conf.is_voter(*to) {
                continue;
            }
            // Not beyond what the peer is known to hold: its log may end in another leader's entries.
            let known = if crate::mutant!("R11") { commit } else { commit.min(peer.matched()) };
            let message = Message::Heartbeat { commit: known, round };
            out.messages_now.push(Envelope { from: config.id, to: *to, term: *term, message });
        }
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: Index, round: u64) {
        if self.installing.is_none() {
            let last = self.log.last().index;
            // A leader tells each peer of no commit beyond what that one has acknowledged.
            if commit > last {
                self.out.violations.push(Violation::LostEntries { acknowledged: commit, last });
            }
            self.commit_to(commit.min(last));
        }
        self.say(from, Message::HeartbeatResponse { round });
    }

    pub(super) fn on_heartbeat_response(&mut self, from: NodeId, round: u64) {
        let last = self.log.last().index;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.active = true;
        peer.round = peer.round.max(round);
        // Only the clock's heartbeats, not those of reads, of which there may be thousands a second:
        // what is merely on its way is not to be sent again.
        if std::mem::take(&mut peer.asked) {
            peer.on_heartbeat();
            // Something may be lost: ask whether what was sent has arrived.
            peer.poke |= peer.matched() < last || matches!(peer.state(), PeerState::Probe { .. });
        }
        self.confirm_reads();
    }

    pub(super) fn on_peer_unreachable(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.on_lost();
        }
    }
}

/// One peer's turn to be sent to.
struct Sender<'a> {
    to: NodeId,
    log: &'a Log,
    config: &'a Config,
    commit: Index,
    peer: &'a mut Progress,
}

enum Sent {
    Append(Message),
    SnapshotNeeded,
}

impl Sender<'_> {
    fn next(&mut self) -> Option<Sent> {
        let next = self.peer.next();
        let news = next <= self.log.last().index;
        let may_send = self.peer.may_send(self.config.inflight_max, self.config.inflight_bytes_max);
        let idle_news = self.peer.poke || self.peer.commit_sent < self.commit;
        let carries = news && may_send;
        let pokes = idle_news && self.peer.may_poke();
        if !carries && !pokes {
            return None;
        }
        let before = next.prev().expect("the first index is 1");
        let Some(term) = self.log.term_at(before) else {
            self.peer.become_snapshot();
            return Some(Sent::SnapshotNeeded);
        };
        let (entries, bytes) = if carries {
            self.log.slice(next, self.config.append_bytes_max)
        } else {
            (Vec::new(), 0)
        };
        let last = entries.last().map_or(before, |entry| entry.index);
        self.peer.on_sent(last, bytes);
        self.peer.poke = false;
        self.peer.commit_sent = self.commit;
        let prev = LogPosition::new(before, term);
        debug_assert_ne!(self.to, self.config.id, "a node appends to itself");
        Some(Sent::Append(Message::Append { prev, entries, commit: self.commit }))
    }
}
