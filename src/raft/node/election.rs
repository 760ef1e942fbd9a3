//! Time, campaigns and votes.
//!
//! Four rules keep a healthy cluster calm. *PreVote*: nobody moves the term before a majority says
//! that it would vote (a configuration may do without). *The shield*: who has heard its leader within an election timeout refuses to
//! talk about another, unless that leader itself asks for one. *The quorum check*: a leader that has
//! not heard a majority within an election timeout stops leading, so that the shield never protects
//! the dead. *The newer term*: a node that has moved on alone says so to whoever leads behind it
//! (`Node::on_message`), or it could never come back.
//!
//! A broken connection is news that silence takes a timeout to bring: it ends the shield at once and
//! starts a pre-vote early. The voters wait for one another in the order of their ids, so that the
//! race is seldom a tie.
//!
//! A node answers every request for its vote, whatever its own configuration says: it may not have
//! applied its promotion yet, and the candidate may need exactly this vote.
//!
//! Questions and refusals tell what is committed. A membership change that one side has applied and
//! the other only holds can bar both for ever: who knows of it lacks the longer log, and who has that
//! takes itself for a learner, or for one who needs a voter that is gone.
//!
//! Who has given its vote to itself and is asked by one whose log is longer lets that one be first next
//! time, and waits a timeout longer. Timeouts are drawn to break ties, but a draw does not make up for
//! clocks: the faster of two that campaign in turn would else keep the other from winning, whatever
//! their logs (storm seed 240018913, without pre-votes).
//!
//! Votes are asked for only when the candidate's own term, vote and log are durable. Asking earlier
//! would be wrong: a yes is given to the log that was named in the question. If the candidate crashes
//! and loses the end of that log, the yes, still on its way, would elect a shorter one, and what the
//! voter knows to be committed could be missing in it.

use super::Node;
use crate::raft::entry::Payload;
use crate::raft::message::Message;
use crate::raft::progress::Progress;
use crate::raft::quorum::{self, Tally};
use crate::raft::ready::{ReadFailure, Role, Violation};
use crate::types::{LogPosition, NodeId, Term};

impl Node {
    pub(super) fn on_tick(&mut self) {
        self.silent = self.silent.saturating_add(1);
        let stalled = self.persist.tick();
        let expired = self.reads.tick(self.config.election_ticks);
        self.fail_reads(expired, ReadFailure::Timeout);
        if self.role == Role::Leader {
            self.tick_leader(stalled);
        } else {
            self.tick_follower();
        }
    }

    fn tick_leader(&mut self, stalled: u32) {
        self.elapsed += 1;
        self.heartbeat_elapsed += 1;
        self.tick_transfer();
        // NB: before the quorum check, which forgets who was heard; an heir must have been.
        let patience = self.config.election_ticks;
        // Every other election timeout: if nobody can take over, proposals are not refused for ever.
        if stalled / patience % 2 == 1 {
            self.hand_leadership_over();
        }
        if self.role != Role::Leader {
            return;
        }
        if self.elapsed >= self.config.election_ticks {
            self.elapsed = 0;
            if !self.quorum_is_active() && !crate::mutant!("R29") {
                self.become_follower(self.term, None);
                return;
            }
            self.peers.values_mut().for_each(|peer| peer.active = false);
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.peers.values_mut().for_each(|peer| peer.asked = true);
            self.send_heartbeats(false);
        }
    }

    fn tick_follower(&mut self) {
        self.elapsed += 1;
        if let Some(left) = self.early {
            if left > 0 {
                self.early = Some(left - 1);
            } else {
                self.early = None;
                self.campaign_if_able();
                return;
            }
        }
        if self.elapsed < self.timeout {
            return;
        }
        self.elapsed = 0;
        self.draw_timeout();
        if !self.campaign_if_able() && self.leader.is_some() {
            // Cannot win itself, but must not go on asking a leader that is gone.
            self.become_follower(self.term, None);
        }
    }

    fn quorum_is_active(&self) -> bool {
        let heard = |id| {
            let active = id == self.config.id || self.peers.get(&id).is_some_and(|p| p.active);
            Some(active)
        };
        quorum::tally(&self.conf, heard) == Tally::Won
    }

    pub(super) fn draw_timeout(&mut self) {
        let drawn = self.rng.below(u64::from(self.config.election_ticks));
        let drawn = u32::try_from(drawn).expect("a draw below a u32");
        self.timeout = self.config.election_ticks + drawn;
    }

    pub(super) fn hasten_first_election(&mut self) {
        let alone = self.conf.voters.iter().eq([&self.config.id]);
        if alone && self.conf.voters_outgoing.is_empty() {
            self.elapsed = self.timeout;
        } else if self.config.pre_vote {
            self.elapsed = self.config.election_ticks.saturating_sub(2);
        }
    }

    /// Tells whether the node has heard its leader so recently that it refuses to elect another.
    fn is_shielding(&self) -> bool {
        if crate::mutant!("R25") {
            return false;
        }
        // A leader that leads shields itself: its quorum check speaks for a majority.
        self.role == Role::Leader
            || (self.leader.is_some() && self.silent < self.config.election_ticks)
    }

    pub(super) fn is_shielded_from(&self, message: &Message) -> bool {
        matches!(message, Message::Vote { transfer: false, .. }) && self.is_shielding()
    }

    /// Tells whether the node may ask for votes.
    fn may_campaign(&self) -> bool {
        let id = self.config.id;
        let votes = self.conf.is_voter(id) || (crate::mutant!("R23") && self.conf.is_learner(id));
        if !votes {
            return false;
        }
        // The change is committed, so others may live by it already; a campaign under the old
        // configuration could find a majority that the new one does not know.
        let unapplied = self.log.first_conf_after(self.applied);
        let over_a_change = unapplied.is_some_and(|index| index <= self.commit);
        self.installing.is_none() && !over_a_change && self.role != Role::Leader
    }

    fn campaign_if_able(&mut self) -> bool {
        let able = self.may_campaign();
        if able && self.config.pre_vote && !crate::mutant!("R25") {
            self.become_pre_candidate();
        } else if able {
            self.become_candidate(false);
        }
        able
    }

    fn become_pre_candidate(&mut self) {
        self.leave_leader(ReadFailure::NoLeader);
        self.role = Role::PreCandidate;
        self.restart_timer();
        self.votes.clear();
        self.votes.insert(self.config.id, true);
        let (last, commit) = (self.log.last(), self.committed());
        let message = Message::PreVote { next_term: self.term.next(), last, commit };
        for to in self.other_voters() {
            self.say(to, message.clone());
        }
        self.tally_pre_votes();
    }

    pub(super) fn become_candidate(&mut self, transfer: bool) {
        self.leave_leader(ReadFailure::LeaderChanged);
        self.role = Role::Candidate;
        self.term = self.term.next();
        self.vote = Some(self.config.id);
        self.restart_timer();
        self.votes.clear();
        let (last, commit) = (self.log.last(), self.committed());
        let message = Message::Vote { last, commit, transfer };
        for to in self.other_voters() {
            if crate::mutant!("R02") || crate::mutant!("R35") {
                self.say(to, message.clone());
            } else {
                self.promise(to, message.clone());
            }
        }
        // The own vote counts when it is durable, like everyone's: see `on_durable`.
        if crate::mutant!("R02") {
            self.votes.insert(self.config.id, true);
            self.tally_votes();
        }
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let both = self.conf.voters.union(&self.conf.voters_outgoing);
        both.copied().filter(|id| *id != self.config.id).collect()
    }

    /// Becomes a follower of `leader`, in this term or a newer one. A leader begins the wait anew, and so
    /// does leaving office; who follows and only hears of a newer term goes on waiting as it did
    /// (Thesis, §3.4). Where nobody asks for pre-votes, those who cannot win would else hold up the one
    /// who can, again and again.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "term regression {} → {term}", self.term);
        let waits_on = self.role == Role::Follower && leader.is_none();
        if leader != self.leader || term != self.term {
            self.leave_leader(ReadFailure::LeaderChanged);
        }
        if term > self.term {
            self.term = term;
            self.vote = None;
        }
        self.role = Role::Follower;
        self.peers.clear();
        self.transfer = None;
        self.uncommitted_bytes = 0;
        self.votes.clear();
        self.leader = leader;
        if waits_on {
            self.early = None;
        } else {
            self.restart_timer();
        }
    }

    fn restart_timer(&mut self) {
        self.elapsed = 0;
        self.early = None;
        self.draw_timeout();
    }

    fn leave_leader(&mut self, reason: ReadFailure) {
        self.leader = None;
        self.abandon_reads(reason);
    }

    fn become_leader(&mut self) {
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.early = None;
        self.elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.votes.clear();
        let last = self.log.last().index;
        let others = self.conf.members().into_iter().filter(|id| *id != self.config.id);
        self.peers = others.map(|id| (id, Progress::new(last.next()))).collect();
        // Whatever the log holds beyond what is applied may be a change; until it is applied, no
        // other one may follow.
        self.conf_pending = self.log.last_conf().unwrap_or_default();
        if crate::mutant!("R19") {
            self.conf_pending = self.applied;
        }
        self.uncommitted_bytes = self.log.payload_bytes(self.commit, last);
        // The first append says who leads; no heartbeat is needed beside it.
        self.append_own(Payload::Empty);
    }

    /// Takes a sign of life from the leader of this term. Tells whether it may be one.
    pub(super) fn on_leader_contact(&mut self, from: NodeId) -> bool {
        let foreign = self.leader.is_some_and(|leader| leader != from);
        if self.role == Role::Leader || foreign {
            let violation = Violation::TwoLeaders { term: self.term, other: from };
            self.out.violations.push(violation);
            return false;
        }
        if self.role != Role::Follower || self.leader.is_none() {
            self.become_follower(self.term, Some(from));
        }
        if self.early.take().is_some() {
            self.draw_timeout();
        }
        self.elapsed = 0;
        self.silent = 0;
        true
    }

    fn is_up_to_date(&self, candidate: LogPosition) -> bool {
        let own = self.log.last();
        if crate::mutant!("R14") {
            return (candidate.index, candidate.term) >= (own.index, own.term);
        }
        // A position orders by term first, then by index.
        candidate >= own
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, next_term: Term, last: LogPosition) {
        let refuses = crate::mutant!("R23b") && self.conf.is_learner(self.config.id);
        let granted =
            next_term > self.term && self.is_up_to_date(last) && !self.is_shielding() && !refuses;
        self.answer_pre_vote(from, next_term, granted);
    }

    fn answer_pre_vote(&mut self, to: NodeId, next_term: Term, granted: bool) {
        self.say(to, Message::PreVoteResponse { next_term, granted, commit: self.committed() });
    }

    pub(super) fn on_pre_vote_response(&mut self, from: NodeId, next_term: Term, granted: bool) {
        if crate::mutant!("R27") && self.role == Role::Candidate && granted {
            self.on_vote_response(from, true);
        }
        if self.role == Role::PreCandidate && next_term == self.term.next() {
            self.votes.insert(from, granted);
            self.tally_pre_votes();
        }
    }

    /// Returns the last position that this node knows to be committed.
    fn committed(&self) -> LogPosition {
        LogPosition::new(self.commit, self.log.term_at(self.commit).unwrap_or_default())
    }

    /// Takes a position that someone knows to be committed. If this log holds it, then, by log
    /// matching, everything up to it is the same and committed.
    pub(super) fn learn_commit(&mut self, commit: LogPosition) {
        if self.role != Role::Leader && self.installing.is_none() && self.log.holds(commit) {
            self.commit_to(commit.index);
        }
    }

    fn tally_pre_votes(&mut self) {
        match quorum::tally(&self.conf, |id| self.votes.get(&id).copied()) {
            Tally::Won => self.become_candidate(false),
            Tally::Lost => self.become_follower(self.term, None),
            Tally::Pending => {}
        }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, last: LogPosition) {
        let free = self.vote == Some(from) || (self.vote.is_none() && self.leader.is_none());
        let refuses = crate::mutant!("R23b") && self.conf.is_learner(self.config.id);
        if !free || !self.is_up_to_date(last) || refuses {
            let rivals = self.vote == Some(self.config.id) && self.leader.is_none();
            if rivals && last > self.log.last() {
                self.elapsed = 0;
                self.draw_timeout();
                self.timeout += self.config.election_ticks;
            }
            self.say(from, Message::VoteResponse { granted: false });
            if !self.config.pre_vote {
                // NB: a no must say what is committed, as the answer to a pre-vote does. The candidate
                // may stand in a configuration that a change, committed and unknown to it, has ended:
                // needing this very vote, it would ask for ever (`refused_vote_tells_commit`).
                self.answer_pre_vote(from, self.term, false);
            }
            return;
        }
        self.vote = Some(from);
        self.elapsed = 0;
        self.draw_timeout();
        if crate::mutant!("R02") {
            self.say(from, Message::VoteResponse { granted: true });
        } else {
            self.promise(from, Message::VoteResponse { granted: true });
        }
    }

    pub(super) fn on_vote_response(&mut self, from: NodeId, granted: bool) {
        if self.role == Role::Candidate {
            self.votes.insert(from, granted);
            self.tally_votes();
        }
    }

    fn tally_votes(&mut self) {
        match quorum::tally(&self.conf, |id| self.votes.get(&id).copied()) {
            Tally::Won => self.become_leader(),
            Tally::Lost => self.become_follower(self.term, None),
            Tally::Pending => {}
        }
    }

    /// Counts what has become durable here: the own vote, and the own log.
    pub(super) fn on_durable(&mut self) {
        match self.role {
            Role::Candidate if self.persist.vote() == (self.term, Some(self.config.id)) => {
                self.votes.insert(self.config.id, true);
                self.tally_votes();
            }
            Role::Leader => self.maybe_commit(),
            _ => {}
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        let allowed = self.may_campaign() || crate::mutant!("R30");
        if self.leader == Some(from) && allowed {
            self.become_candidate(true);
        }
    }

    pub(super) fn on_connection_lost(&mut self, peer: NodeId) {
        self.on_peer_unreachable(peer);
        if self.leader != Some(peer) {
            return;
        }
        self.silent = self.config.election_ticks;
        // Without a pre-vote an early campaign would unseat a leader whom everyone else still hears.
        if self.config.pre_vote && self.may_campaign() {
            let voters = self.conf.voters.iter().filter(|id| **id != peer);
            let rank = voters.take_while(|id| **id != self.config.id).count();
            let rank = u32::try_from(rank).unwrap_or(u32::MAX);
            self.early = Some(rank.saturating_mul(self.config.heartbeat_ticks));
            if rank == 0 {
                self.early = None;
                self.campaign_if_able();
            }
        }
    }
}
