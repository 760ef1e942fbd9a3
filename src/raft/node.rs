//! The state machine: inputs in, [`Ready`] out. This file holds the node's state, its two doors and
//! its invariants; the rules stand in the files below it, one idea each.
//!
//! | file | rule |
//! |---|---|
//! | `election.rs` | time, campaigns, votes, who is shielded from them |
//! | `replication.rs` | proposals, appends, what counts as committed |
//! | `membership.rs` | when a change may be proposed, and what its application does |
//! | `reading.rs` | read rounds, and questions to the leader |
//! | `snapshot.rs` | the handshake around a snapshot |
//! | `transfer.rs` | handing leadership over |

mod election;
mod membership;
mod reading;
mod replication;
mod snapshot;
mod transfer;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use self::transfer::Transfer;
use super::config::{Config, RestoreError, Restored};
use super::entry::{Entry, HardState, SnapshotMeta};
use super::input::Input;
use super::log::Log;
use super::membership::ConfState;
use super::message::{AppendResponse, Envelope, Message};
use super::persist::Persist;
use super::progress::{PeerState, Progress};
use super::reads::Reads;
use super::ready::{Ready, Role, SoftState};
use super::rng::Random;
use crate::types::{Index, LogPosition, NodeId, Term};

/// One member's consensus core.
///
/// Invariants, asserted by [`Node::check`]:
///
/// - `applied ≤ delivered ≤ commit ≤` the log's end, and `delivered ≤ durable`: nothing is applied that
///   is not stable on a quorum and durable here.
/// - Of the changes of the configuration in the log all but the last are committed *here*, whatever
///   the disk remembers of the commit index: the node that leads proposed the last one after it had
///   applied the others. So a node that holds a change, and by that was perhaps counted for it, stands
///   for election in no older configuration than the one before it. A restart that went by the
///   remembered commit index alone could elect a leader two configurations back, by a majority that
///   need not meet the present one (script `changes_in_the_log`, storm seed 3065309).
/// - The log's base is not beyond `applied`, and the last entry's term is not beyond `term`.
/// - Only a leader has `peers`, exactly one for each other member; a leader leads itself, and votes in
///   its own configuration or is handing over.
/// - A candidate, pre-candidates included, is a voter, and installs no snapshot.
/// - While a snapshot is being installed nothing is appended, delivered or campaigned for.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
    rng: Random,

    term: Term,
    vote: Option<NodeId>,
    role: Role,
    leader: Option<NodeId>,

    log: Log,
    persist: Persist,
    commit: Index,
    /// The last committed entry given to the driver.
    delivered: Index,
    applied: Index,
    conf: ConfState,

    /// Ticks since the election timer was set; for a leader, since the last quorum check.
    elapsed: u32,
    /// How many of them a follower bears.
    timeout: u32,
    /// Ticks since the leader was last heard.
    silent: u32,
    /// Ticks until an early campaign, after the connection to the leader broke.
    early: Option<u32>,
    votes: BTreeMap<NodeId, bool>,

    heartbeat_elapsed: u32,
    peers: BTreeMap<NodeId, Progress>,
    /// No change is proposed before this much is applied.
    conf_pending: Index,
    uncommitted_bytes: u64,
    transfer: Option<Transfer>,
    reads: Reads,
    installing: Option<SnapshotMeta>,

    out: Ready,
    handed_vote: (Term, Option<NodeId>),
    handed_commit: Index,
    told: SoftState,
}

impl Node {
    /// Starts from what was remembered. Refuses state that has lost something.
    pub fn new(config: Config, restored: Restored) -> Result<Self, RestoreError> {
        config.assert_sane();
        let Restored { hard_state, mut conf_state, base, entries, applied, seed } =
            restored.checked()?;
        if crate::mutant!("R22") {
            conf_state = ConfState { voters: conf_state.voters, ..ConfState::default() };
        }
        let mut rng = Random::new(seed);
        let reads = Reads::new(if crate::mutant!("E26") { 1 } else { rng.next_u64() });
        let log = Log::new(base, entries);
        let mut commit = hard_state.commit.max(applied);
        if !crate::mutant!("E30") {
            // NB: what the disk remembers of the commit index lags; see the invariants.
            commit = commit.max(log.last_conf_but_one().unwrap_or_default());
        }
        let vote = (hard_state.term, hard_state.vote);
        let told = SoftState { term: hard_state.term, leader: None, role: Role::Follower };
        let mut node = Self {
            persist: Persist::new(log.last().index, vote),
            config,
            rng,
            term: hard_state.term,
            vote: hard_state.vote,
            role: Role::Follower,
            leader: None,
            log,
            commit,
            delivered: applied,
            applied,
            conf: conf_state,
            elapsed: 0,
            timeout: 0,
            silent: 0,
            early: None,
            votes: BTreeMap::new(),
            heartbeat_elapsed: 0,
            peers: BTreeMap::new(),
            conf_pending: Index(0),
            uncommitted_bytes: 0,
            transfer: None,
            reads,
            installing: None,
            out: Ready::default(),
            handed_vote: vote,
            handed_commit: hard_state.commit,
            told,
        };
        node.draw_timeout();
        if node.config.hasty_start {
            node.hasten_first_election();
        }
        Ok(node)
    }

    /// Takes one input. Cannot fail and does no IO; effects wait for [`Node::take_ready`].
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Tick => self.on_tick(),
            Input::Message(envelope) => self.on_message(envelope),
            Input::Propose(proposal) => self.on_propose(proposal),
            Input::ReadIndex(id) => self.on_read(id),
            Input::Persisted(ticket) => {
                if self.persist.on_persisted(ticket) {
                    self.on_durable();
                }
            }
            Input::Applied(index) => self.on_applied(index),
            Input::ConfApplied { index, accepted } => self.on_conf_applied(index, accepted),
            Input::TransferLeader(target) => self.on_transfer_request(target),
            Input::PeerUnreachable(peer) => self.on_peer_unreachable(peer),
            Input::PeerConnectionLost(peer) => self.on_connection_lost(peer),
            Input::SnapshotSent { to, ok, at } => self.on_snapshot_sent(to, ok, at),
            Input::SnapshotInstalled(meta) => self.on_snapshot_installed(meta),
            Input::Trim(index) => self.log.trim(index.min(self.applied)),
        }
    }

    /// Takes the work that has come up. Ask until there is none: committed entries come in pages.
    pub fn take_ready(&mut self) -> Option<Ready> {
        self.gather_reads();
        self.flush_appends();
        let told = SoftState { term: self.term, leader: self.leader, role: self.role };
        if told != self.told {
            self.told = told;
            self.out.soft_state = Some(told);
        }
        self.hand_over();
        self.deliver();
        if self.out.is_empty() { None } else { Some(std::mem::take(&mut self.out)) }
    }

    /// Gives the disk what it does not have, and ties the promises to it.
    fn hand_over(&mut self) {
        let (truncate_from, entries) = self.log.hand_over();
        let vote = (self.term, self.vote);
        // Within the log's durable part, so that a torn hand-over never leaves a commit index that
        // points past the log.
        let commit = self.commit.min(self.persist.durable()).max(self.handed_commit);
        let rides_along = !entries.is_empty() && commit > self.handed_commit;
        if vote != self.handed_vote || rides_along {
            self.out.hard_state = Some(HardState { term: vote.0, vote: vote.1, commit });
            self.handed_vote = vote;
            self.handed_commit = commit;
        }
        let writes = self.out.hard_state.is_some() || !entries.is_empty();
        assert!(truncate_from.is_none() || !entries.is_empty(), "a truncation with no cause");
        self.out.truncate_from = truncate_from;
        self.out.entries = entries;
        let promises = !self.out.messages_after_persist.is_empty();
        if writes || (promises && self.persist.is_busy()) {
            self.out.ticket = Some(self.persist.hand_over(self.log.last(), vote));
        } else {
            // All that the promises rest on is durable already.
            self.out.messages_now.append(&mut self.out.messages_after_persist);
        }
    }

    /// Gives the machine the next page of what is stable.
    fn deliver(&mut self) {
        let upto = self.stable();
        if upto <= self.delivered || self.installing.is_some() {
            return;
        }
        let (page, _) = self.log.page(
            self.delivered.next(),
            upto,
            self.config.committed_bytes_max,
            self.config.committed_entries_max,
        );
        self.delivered = page.last().expect("there is something to deliver").index;
        if crate::mutant!("R10") {
            self.delivered = upto;
        }
        self.out.committed = page;
    }

    /// Returns how far the log may be applied: committed, and durable here. A follower's log may know
    /// of a commit before its own disk has the entry; applied, it could be ahead of the log on disk
    /// after a crash.
    fn stable(&self) -> Index {
        if crate::mutant!("R08") {
            return self.persist.durable();
        }
        self.commit.min(self.durable())
    }

    /// Returns the last index durable here, which is this node's vote on what is committed.
    fn durable(&self) -> Index {
        let alone = self.conf.voters.len() == 1 && !self.conf.is_joint();
        if crate::mutant!("R05") || (crate::mutant!("E04") && alone) {
            return self.log.last().index;
        }
        self.persist.durable()
    }

    fn on_message(&mut self, envelope: Envelope) {
        let Envelope { from, to, term, message } = envelope;
        if to != self.config.id || from == self.config.id {
            return;
        }
        match term.cmp(&self.term) {
            Ordering::Greater => {
                if self.is_shielded_from(&message) {
                    return;
                }
                match &message {
                    // A pre-vote moves no term, neither the question nor a yes.
                    Message::PreVote { .. } | Message::PreVoteResponse { granted: true, .. } => {}
                    _ => self.become_follower(term, None),
                }
            }
            Ordering::Less => match &message {
                Message::PreVote { .. } | Message::PreVoteResponse { .. } => {}
                // A node that moved on alone (partitioned while a candidate) would otherwise be
                // silent: it ignores the leader, its own pre-votes are refused, and nobody can tell
                // the leader that it must take a new term to get this node back.
                Message::Append { .. }
                | Message::Heartbeat { .. }
                | Message::InstallSnapshot { .. }
                | Message::Vote { .. } => {
                    if !crate::mutant!("R26") {
                        self.say(from, Message::NewerTerm);
                    }
                    return;
                }
                _ => return,
            },
            Ordering::Equal => {}
        }
        match message {
            Message::PreVote { next_term, last, commit } => {
                self.learn_commit(commit);
                self.on_pre_vote(from, next_term, last);
            }
            Message::PreVoteResponse { next_term, granted, commit } => {
                self.learn_commit(commit);
                self.on_pre_vote_response(from, next_term, granted);
            }
            Message::Vote { last, commit, transfer: _ } => {
                self.learn_commit(commit);
                self.on_vote(from, last);
            }
            Message::VoteResponse { granted } => self.on_vote_response(from, granted),
            Message::Append { prev, entries, commit } => {
                if self.on_leader_contact(from) {
                    self.on_append(from, prev, entries, commit);
                }
            }
            Message::AppendResponse(response) => self.on_append_response(from, response),
            Message::Heartbeat { commit, round } => {
                if self.on_leader_contact(from) {
                    self.on_heartbeat(from, commit, round);
                }
            }
            Message::HeartbeatResponse { round } => self.on_heartbeat_response(from, round),
            Message::InstallSnapshot { meta } => {
                if self.on_leader_contact(from) {
                    self.on_install_snapshot(from, meta);
                }
            }
            Message::Propose { proposals } => self.on_forwarded_proposals(from, proposals),
            Message::ProposeRefused { id, reason } => self.refuse(None, id, reason),
            Message::ReadIndex { forward } => self.on_forwarded_read(from, forward),
            Message::ReadIndexResponse { forward, index } => self.on_read_answer(forward, index),
            Message::TimeoutNow => self.on_timeout_now(from),
            Message::NewerTerm => {}
        }
    }

    /// Says something that rests on nothing unwritten.
    fn say(&mut self, to: NodeId, message: Message) {
        let (from, term) = (self.config.id, self.term);
        self.out.messages_now.push(Envelope { from, to, term, message });
    }

    /// Says something that is true only once everything so far is durable.
    fn promise(&mut self, to: NodeId, message: Message) {
        let (from, term) = (self.config.id, self.term);
        // Of several acceptances in one turn the last says it all.
        if let Message::AppendResponse(AppendResponse::Accept { matched }) = &message
            && let Some(Envelope {
                to: before_to,
                term: before_term,
                message: Message::AppendResponse(AppendResponse::Accept { matched: before }),
                ..
            }) = self.out.messages_after_persist.last_mut()
            && *before_to == to
            && *before_term == term
        {
            *before = (*matched).max(*before);
            return;
        }
        self.out.messages_after_persist.push(Envelope { from, to, term, message });
    }

    /// Returns the node's id.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Returns the current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns what the node is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns who leads, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Returns the last index known to be on a quorum.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// Returns the last index the machine reported as applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Returns the position before the first entry in memory.
    pub fn base(&self) -> LogPosition {
        self.log.base()
    }

    /// Returns the position of the last entry.
    pub fn last(&self) -> LogPosition {
        self.log.last()
    }

    /// Returns the term of the entry at `index`, if it is in memory or the base.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Returns the entry at `index`, if it is in memory.
    pub fn entry_at(&self, index: Index) -> Option<&Entry> {
        self.log.get(index)
    }

    /// Returns the configuration in force here.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf
    }

    /// Returns to whom leadership is being handed over.
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.target)
    }

    /// Returns what the log in memory costs, by which the driver decides on [`Input::Trim`].
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Returns everything an operator may want to see.
    pub fn status(&self) -> Status {
        let peers = self.peers.iter().map(|(id, progress)| {
            let status = PeerStatus {
                matched: progress.matched(),
                next: progress.next(),
                state: progress.state(),
                inflight: progress.inflight(),
                active: progress.active,
            };
            (*id, status)
        });
        Status {
            id: self.config.id,
            term: self.term,
            role: self.role,
            leader: self.leader,
            commit: self.commit,
            applied: self.applied,
            durable: self.persist.durable(),
            base: self.log.base(),
            last: self.log.last(),
            conf_state: self.conf.clone(),
            peers: peers.collect(),
            transfer: self.transfer_target(),
            installing: self.installing.as_ref().map(|meta| meta.position),
            log_bytes: self.log.bytes(),
            uncommitted_bytes: self.uncommitted_bytes,
        }
    }

    /// Asserts the invariants listed on the type. Cheap enough for every step of a simulation.
    pub fn check(&self) {
        self.log.check();
        self.reads.check();
        self.conf.check();
        let last = self.log.last();
        self.persist.check(last.index);
        assert!(self.term >= last.term, "the log's end {last} is of a term beyond {}", self.term);
        if !crate::mutant!("R08") && !crate::mutant!("R10") {
            let (applied, delivered, commit) = (self.applied, self.delivered, self.commit);
            assert!(
                applied <= delivered && delivered <= commit && commit <= last.index,
                "applied {applied}, delivered {delivered}, commit {commit}, last {last}"
            );
        }
        if !crate::mutant!("R19") && !crate::mutant!("R20") && !crate::mutant!("E30") {
            let proven = self.log.last_conf_but_one().unwrap_or_default();
            assert!(proven <= self.commit, "the log proves {proven}, commit {}", self.commit);
        }
        assert!(self.log.base().index <= self.applied, "unapplied entries were trimmed");
        if self.role == Role::Leader {
            assert_eq!(self.leader, Some(self.config.id), "a leader follows another");
            let votes = self.conf.is_voter(self.config.id);
            assert!(votes || self.transfer.is_some(), "a leader outside its configuration");
            let mut members = self.conf.members();
            members.remove(&self.config.id);
            assert!(self.peers.keys().eq(members.iter()), "peers differ from the members");
        } else {
            assert!(self.peers.is_empty() && self.transfer.is_none(), "a leader's leftovers");
            assert_ne!(self.leader, Some(self.config.id), "it follows itself");
        }
        self.peers.values().for_each(Progress::check);
        if matches!(self.role, Role::PreCandidate | Role::Candidate) {
            let may = self.conf.is_voter(self.config.id) || crate::mutant!("R23");
            assert!(may && self.leader.is_none(), "a candidate that cannot be one");
        }
        if self.installing.is_some() {
            assert_eq!(self.role, Role::Follower, "campaigning over a snapshot's installation");
        }
    }
}

/// A node's state for an operator, and for decisions about membership (how far is a learner?).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Its term.
    pub term: Term,
    /// What it is.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// The last index known to be on a quorum.
    pub commit: Index,
    /// The last index applied.
    pub applied: Index,
    /// The last index durable here.
    pub durable: Index,
    /// The position before the log in memory.
    pub base: LogPosition,
    /// The end of the log.
    pub last: LogPosition,
    /// The configuration in force.
    pub conf_state: ConfState,
    /// The other members, as the leader sees them; empty elsewhere.
    pub peers: BTreeMap<NodeId, PeerStatus>,
    /// To whom leadership is being handed over.
    pub transfer: Option<NodeId>,
    /// The snapshot being installed.
    pub installing: Option<LogPosition>,
    /// What the log in memory costs.
    pub log_bytes: u64,
    /// A leader's bytes appended and not committed.
    pub uncommitted_bytes: u64,
}

/// A peer, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The last index known to be durable there.
    pub matched: Index,
    /// The next index to send.
    pub next: Index,
    /// How appends are sent.
    pub state: PeerState,
    /// How many are on their way.
    pub inflight: usize,
    /// Whether it was heard from since the last quorum check.
    pub active: bool,
}
