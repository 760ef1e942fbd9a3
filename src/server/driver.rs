//! The driver: one loop that feeds the Raft node and carries out what it wants.
//!
//! ```text
//!            Event                     Input                 Ready
//!  clients ─┐        ┌────────────┐  ─────────→ ┌────────┐ ─────────→ messages → transport
//!  peers   ─┼──────→ │   driver   │             │  node  │            log      → log worker
//!  workers ─┘        └────────────┘ ←────────── └────────┘            committed → machine → hub, waiters
//! ```
//!
//! Nothing else touches the node or the machine's writing side, so neither has a lock. The loop never
//! waits for a disk or a peer: both answer by events.
//!
//! Invariants:
//! - effects of one [`raft::Ready`] are carried out in the order of its fields;
//! - promises (`messages_after_persist`) leave only after their ticket was reported durable;
//! - a change set goes to the machine once, in log order; its events are published before its waiter
//!   is answered, so a client that saw its write's revision finds a watch at least as new;
//! - after a failed write, of log or store, the driver stops: only a restart re-reads the truth;
//! - no waiter outlives the driver unanswered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::answers::Answers;
use super::changes::Changes;
use super::error::ServeError;
use super::event::{Event, MembersReply};
use super::figures;
use super::keeper::Keeper;
use super::leases::LeaseShell;
use super::log_writer::{HandOver, LogReport, LogWriter};
use super::proposals::{Proposals, RequestIds};
use super::reads::Reads;
use super::snapshots::Snapshots;
use super::status::NodeStatus;
use super::{Settings, StopReason};
use crate::buggify;
use crate::cluster::Change;
use crate::command::{Command, Op, RequestId};
use crate::machine::Machine;
use crate::raft::{self, Envelope, Input, Payload, Role};
use crate::runtime::{Instant, Runtime, latest};
use crate::storage::log::Log;
use crate::transport::Transport;
use crate::types::{Index, NodeId};
use crate::watch::Hub;

/// The most events handled before the node is asked what it wants: bounds the latency of the first.
const EVENTS_PER_TURN_MAX: usize = 1024;

/// How long a membership change is waited for; its callers usually give up earlier.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(300);

/// The pause before a failed question for a read index is asked again; etcd's.
const READ_RETRY: Duration = Duration::from_millis(500);

/// How long a removed member stays to say what is committed; etcd's.
const REMOVED_LINGER: Duration = Duration::from_secs(1);

pub(crate) struct Driver<R: Runtime, T: Transport> {
    pub(super) runtime: R,
    pub(super) settings: Settings,
    pub(super) transport: T,
    pub(super) node: raft::Node,
    pub(super) machine: Machine,
    pub(super) log: LogWriter<R>,
    pub(super) hub: Arc<Mutex<Hub>>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) mailbox: mpsc::UnboundedReceiver<Event>,
    pub(super) status: latest::Sender<NodeStatus>,
    pub(super) ids: Arc<RequestIds>,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) answers: Answers,
    pub(super) leases: LeaseShell,
    pub(super) changes: Changes,
    pub(super) keeper: Keeper,
    pub(super) snapshots: Snapshots,
    /// Promises that wait for their ticket.
    pub(super) held: BTreeMap<u64, Vec<Envelope>>,
    pub(super) next_tick: Instant,
    pub(super) transfer: Option<(NodeId, Instant, oneshot::Sender<Result<(), ServeError>>)>,
    pub(super) stopping: Option<Stopping>,
    pub(super) failed: Option<StopReason>,
    /// Since when this member is removed; it goes after [`REMOVED_LINGER`].
    removed: Option<Instant>,
}

pub(super) struct Stopping {
    deadline: Instant,
    done: Option<oneshot::Sender<()>>,
}

impl<R: Runtime, T: Transport> Driver<R, T> {
    /// Puts the loop together; it does nothing before [`Driver::run`].
    #[expect(clippy::too_many_arguments, reason = "each is one part, and there is one caller")]
    pub(crate) fn new(
        runtime: &R,
        settings: Settings,
        transport: T,
        machine: Machine,
        restored: raft::Restored,
        (log, stores): (Log<R::Disk>, std::path::PathBuf),
        hub: Arc<Mutex<Hub>>,
        (events, mailbox): (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
        status: latest::Sender<NodeStatus>,
    ) -> Result<Self, raft::RestoreError> {
        let config = raft::Config {
            election_ticks: settings.election_ticks,
            pre_vote: settings.pre_vote,
            hasty_start: settings.hasty_start,
            ..raft::Config::new(settings.id)
        };
        let node = raft::Node::new(config, restored)?;
        let reports = events.clone();
        let (room, metrics) = (settings.room.clone(), settings.metrics.clone());
        let log = LogWriter::new(runtime, log, room, metrics, move |report| {
            // A driver that is gone needs no report.
            let _ = reports.send(Event::Log(report));
        });
        let keeper = Keeper::new(
            runtime.worker("store"),
            events.clone(),
            settings.scrub_rows,
            settings.scrub_pause,
            settings.metrics.clone(),
            {
                let clock = runtime.clone();
                Arc::new(move || clock.now())
            },
        );
        Ok(Self {
            runtime: runtime.clone(),
            transport,
            node,
            log,
            hub,
            events,
            mailbox,
            status,
            ids: Arc::new(RequestIds::new(settings.id, settings.boot)),
            proposals: Proposals::default(),
            reads: Reads::default(),
            answers: Answers::new(runtime),
            leases: LeaseShell::new(settings.lease_clock),
            changes: Changes::default(),
            keeper,
            snapshots: Snapshots::new(stores, runtime.worker("read snapshot")),
            held: BTreeMap::new(),
            next_tick: runtime.now(),
            transfer: None,
            stopping: None,
            failed: None,
            removed: None,
            machine,
            settings,
        })
    }

    /// Returns the maker of request ids.
    pub(crate) fn ids(&self) -> Arc<RequestIds> {
        self.ids.clone()
    }

    /// Runs until stopped, failed, or removed from the cluster; says which.
    pub(crate) async fn run(mut self) -> StopReason {
        self.turn();
        let reason = loop {
            if let Some(reason) = self.finished() {
                break reason;
            }
            let now = self.runtime.now();
            let wake = self.wake_at();
            if wake > now {
                let sleep = self.runtime.sleep(wake - now);
                tokio::select! {
                    biased;
                    event = self.mailbox.recv() => match event {
                        Some(event) => self.on(event),
                        None => break StopReason::Stopped,
                    },
                    () = sleep => {}
                }
            }
            for _ in 0..buggify!("driver_one_event_a_turn", 1, EVENTS_PER_TURN_MAX) {
                let Ok(event) = self.mailbox.try_recv() else { break };
                self.on(event);
            }
            self.turn();
        };
        self.end(&reason);
        reason
    }

    fn finished(&mut self) -> Option<StopReason> {
        if let Some(reason) = self.failed.take() {
            return Some(reason);
        }
        let now = self.runtime.now();
        if self.removed.is_some_and(|since| now >= since + REMOVED_LINGER) {
            return Some(StopReason::Removed);
        }
        let leads = self.node.role() == Role::Leader;
        match &self.stopping {
            Some(stopping) if !leads || now >= stopping.deadline => Some(StopReason::Stopped),
            _ => None,
        }
    }

    fn end(&mut self, reason: &StopReason) {
        self.proposals.stop();
        self.reads.stop();
        self.changes.stop();
        self.leases.stop();
        if let Some((_, _, reply)) = self.transfer.take() {
            let _ = reply.send(Err(ServeError::Stopped));
        }
        self.status.send_modify(|status| status.stopped = Some(reason.clone()));
        if let Some(done) = self.stopping.as_mut().and_then(|stopping| stopping.done.take()) {
            let _ = done.send(());
        }
    }

    fn wake_at(&self) -> Instant {
        let mut at = self.next_tick;
        let goes = self.removed.map(|since| since + REMOVED_LINGER);
        for other in [self.keeper.wake_at(), self.leases.wake_at(), goes, self.release_at()]
            .into_iter()
            .flatten()
        {
            at = at.min(other);
        }
        at
    }

    /// When answers about this member's own removal are given at the latest, if any are held back.
    fn release_at(&self) -> Option<Instant> {
        let since = self.removed.filter(|_| self.changes.holds())?;
        Some(since + REMOVED_LINGER / 2)
    }

    /// Everything that is due by time, and everything the node wants.
    fn turn(&mut self) {
        let now = self.runtime.now();
        if now >= self.next_tick {
            // After a pause only one tick is made up for: a member that slept must not at once believe
            // that everybody else has been silent for as long.
            let late = buggify!("driver_ticks_late", 2, 1);
            self.next_tick = now + self.settings.heartbeat_interval * late;
            self.node.step(Input::Tick);
            if buggify!("driver_loses_the_leader")
                && let Some(leader) = self.node.leader()
                && leader != self.settings.id
            {
                self.node.step(Input::PeerConnectionLost(leader));
            }
            let peers = self.node.status();
            self.status.send_if_modified(|published| {
                published.update_peers(&peers);
                false
            });
            self.settings.metrics.proposals_failed.add_len(self.proposals.expire(now));
            self.reads.expire(now);
            self.changes.expire(now);
            self.expire_transfer(now);
            let store = self.machine.reader().store();
            if let Some(damage) = store.damage() {
                self.fail(&format!("the store is damaged: {damage}"));
            }
            for proposal in self.proposals.retry().into_iter().chain(self.changes.retry()) {
                self.node.step(Input::Propose(proposal));
            }
        }
        if !buggify!("driver_asks_for_reads_later")
            && let Some(id) = self.reads.ask(now)
        {
            self.node.step(Input::ReadIndex(id));
        }
        self.pump();
        if self.release_at().is_some_and(|at| now >= at || self.node.role() != Role::Leader) {
            self.changes.release();
        }
        if !buggify!("driver_polls_leases_later") {
            for op in self.leases.poll(now) {
                self.propose_own(op);
            }
        }
        self.pump();
        let flush = self.keeper.turn(now, &self.machine);
        if flush.flushed_below.is_some_and(|below| self.log_trim(below)) {
            self.pump();
        }
        if buggify!("raft_checks_itself") {
            self.node.check();
        }
        self.settings.metrics.proposals_pending.set(self.proposals.len());
        self.publish_status();
    }

    fn log_trim(&mut self, below: Index) -> bool {
        if buggify!("driver_trims_later") {
            return false;
        }
        let below = if crate::mutant!("R32") { self.machine.applied().index } else { below };
        self.log.trim(below);
        let applied = self.machine.applied().index;
        let memory = Index(applied.0.saturating_sub(self.settings.catchup_entries));
        let memory = if buggify!("driver_trims_all") { applied } else { self.trim_memory(memory) };
        self.node.step(Input::Trim(memory.min(below)));
        true
    }

    fn on(&mut self, event: Event) {
        let now = self.runtime.now();
        match event {
            Event::Propose { id, data, reply } => {
                if self.stopping.is_some() {
                    let _ = reply.send(Err(ServeError::Stopped));
                } else if self.proposals.len() >= self.settings.proposals_max
                    || buggify!("driver_is_overloaded")
                {
                    let _ = reply.send(Err(ServeError::TooManyRequests));
                } else {
                    let deadline = now + self.settings.request_timeout;
                    let proposal = self.proposals.add(id, data, reply, deadline);
                    self.node.step(Input::Propose(proposal));
                }
            }
            Event::Read { reply } => self.reads.add(reply, now + self.settings.request_timeout),
            Event::Renew { id, reply } => self.leases.renew(id, now, reply),
            Event::Remaining { id, reply } => self.leases.remaining(id, now, reply),
            Event::Member { change, reply } => self.propose_change(&change, reply, now),
            Event::Transfer { to, reply } => self.start_transfer(to, reply, now),
            Event::Messages(messages) => {
                for message in messages {
                    self.node.step(Input::Message(message));
                }
            }
            Event::Unreachable(peer) => self.node.step(Input::PeerUnreachable(peer)),
            Event::ToldRemoved => self.on_removed(),
            Event::ConnectionLost(peer) => {
                self.forget_behind(peer);
                self.node.step(Input::PeerConnectionLost(peer));
            }
            Event::Log(LogReport::Durable(tickets, marked)) => {
                if marked {
                    self.snapshot_marked();
                }
                for ticket in tickets {
                    self.node.step(Input::Persisted(ticket));
                    if let Some(messages) = self.held.remove(&ticket.number) {
                        self.say(messages);
                    }
                }
            }
            Event::Log(LogReport::Failed(error)) => self.fail(&error.to_string()),
            Event::Flushed(Ok(position)) => self.keeper.flushed(position),
            Event::Scrubbed(Ok(more)) => self.keeper.scrubbed(more, now),
            Event::Flushed(Err(error)) => self.fail(&error.to_string()),
            Event::Scrubbed(Err(error)) => self.fail(&error),
            Event::SnapshotSent { to, ok, at } => self.snapshot_sent(to, ok, at),
            Event::SnapshotArrived(arrived) => self.snapshot_arrived(*arrived),
            Event::SnapshotOpened(opened) => self.snapshot_opened(*opened),
            Event::Stop { done } => self.start_stop(done, now),
        }
    }

    pub(super) fn fail(&mut self, reason: &str) {
        // LMDB calls a write that was cut short for want of room an I/O error.
        let room = &self.settings.room;
        let free = room.free_bytes().filter(|_| room.is_short());
        let reason = match free {
            Some(free) => format!("{reason} (the disk is full, or nearly: {free} bytes are free)"),
            None => reason.to_owned(),
        };
        error!(error = reason, "stopping: only a restart can tell what is on disk");
        self.failed.get_or_insert(StopReason::Failed(reason));
    }

    /// Carries out what the node wants until it wants nothing more.
    pub(super) fn pump(&mut self) {
        while self.failed.is_none() {
            let Some(ready) = self.node.take_ready() else { break };
            self.carry_out(ready);
            if buggify!("driver_answers_early") {
                self.answers.end_turn();
            }
        }
        self.answers.end_turn();
    }

    fn carry_out(&mut self, ready: raft::Ready) {
        let now = self.runtime.now();
        if let Some(soft) = ready.soft_state {
            self.on_soft_state(soft);
        }
        if !ready.messages_now.is_empty() {
            self.say(ready.messages_now);
        }
        if let Some(ticket) = ready.ticket {
            if !ready.messages_after_persist.is_empty() {
                self.held.insert(ticket.number, ready.messages_after_persist);
            }
            self.log.submit(HandOver {
                ticket: Some(ticket),
                mark: None,
                hard_state: ready.hard_state,
                truncate_from: ready.truncate_from,
                entries: ready.entries,
            });
        }
        if let Some(meta) = ready.install {
            self.install(meta);
        }
        if !ready.committed.is_empty() {
            self.apply(&ready.committed);
        }
        for read in ready.reads {
            if buggify!("driver_asks_for_reads_again") {
                self.reads.failed(read.id, Ok(now + READ_RETRY));
            } else {
                self.reads.confirm(read.id, read.index);
            }
        }
        self.reads.applied(self.machine.applied().index, &mut self.answers);
        for failed in ready.failed_reads {
            self.settings.metrics.reads_failed.inc();
            let outcome = match failed.reason {
                raft::ReadFailure::LeaderChanged => Err(ServeError::LeaderChanged),
                raft::ReadFailure::NoLeader | raft::ReadFailure::Timeout => Ok(now + READ_RETRY),
            };
            self.reads.failed(failed.id, outcome);
        }
        for refused in ready.refused {
            self.on_refused(refused);
        }
        for request in ready.snapshots_to_send {
            self.send_snapshot(request);
        }
        for violation in ready.violations {
            match violation {
                raft::Violation::LostEntries { .. } => self.fail(&violation.to_string()),
                _ => error!(%violation, "a peer broke the protocol"),
            }
        }
    }

    /// Sends messages. Networks lose, repeat and reorder them; ours does none of that between two members
    /// while their connection stands.
    fn say(&self, mut messages: Vec<Envelope>) {
        if buggify!("message_is_lost") {
            messages.pop();
        }
        if buggify!("message_comes_twice") {
            // What a transport must not repeat: a proposal would be in the log twice, and a refusal, of which
            // each lets it be proposed once more, as well.
            use raft::Message::{Propose, ProposeRefused};
            let again = |one: &&Envelope| {
                !matches!(one.message, Propose { .. } | ProposeRefused { .. })
                    || crate::mutant!("M08")
            };
            messages.extend(messages.first().filter(again).cloned());
        }
        if buggify!("messages_come_in_reverse") {
            messages.reverse();
        }
        if buggify!("messages_go_one_by_one") {
            messages.drain(..).for_each(|message| self.transport.send(vec![message]));
        }
        self.transport.send(messages);
    }

    fn on_soft_state(&mut self, soft: raft::SoftState) {
        let was = self.status.borrow().leader;
        match soft.leader {
            Some(leader) if was != soft.leader => {
                info!(term = soft.term.0, leader = format!("{:x}", leader.0), "elected leader");
            }
            None if was.is_some() => info!(term = soft.term.0, "lost leader"),
            _ => {}
        }
        if soft.role != Role::Leader {
            self.leases.follow();
        }
        if let Some((target, _, _)) = &self.transfer
            && soft.leader.is_some()
            && soft.role != Role::Leader
        {
            let moved = soft.leader == Some(*target);
            let (_, _, reply) = self.transfer.take().expect("it was just looked at");
            let _ = reply.send(if moved { Ok(()) } else { Err(ServeError::TransferTimeout) });
        }
    }

    fn on_refused(&mut self, refused: raft::RefusedProposal) {
        let id = RequestId(refused.id.0);
        if self.changes.refused(refused.id, refused.reason) {
            return;
        }
        let for_good = match refused.reason {
            raft::Refusal::Overloaded => Some(ServeError::TooManyRequests),
            _ => None,
        };
        self.leases.refused(id, self.runtime.now());
        if for_good.is_some() {
            self.settings.metrics.proposals_failed.inc();
        }
        self.proposals.refused(id, for_good);
    }

    fn apply(&mut self, entries: &[raft::Entry]) {
        let now = self.runtime.now();
        let applied = self.machine.apply(entries);
        figures::count(&self.settings.metrics, &applied);
        for (index, result) in &applied.conf {
            self.node.step(Input::ConfApplied { index: *index, accepted: result.is_ok() });
        }
        let last = entries.last().expect("the caller has entries").index;
        self.node.step(Input::Applied(last));
        if !applied.events.is_empty() {
            let mut hub = self.hub.lock().expect("a panic with this lock held ends the process");
            for (revision, events) in applied.events {
                hub.publish(revision, &events);
            }
        }
        for change in &applied.leases {
            self.leases.on(change, now);
        }
        if self.node.role() == Role::Leader {
            self.leases.lead_if_first(&self.machine, entries, self.node.term(), now);
        }
        let hold = applied.membership_changed
            && self.node.role() == Role::Leader
            && self.machine.reader().members().is_removed(self.settings.id);
        for (id, outcome) in applied.outcomes {
            self.leases.resolved(id, &outcome, now);
            self.changes.applied(id, &outcome, &self.machine, hold);
            self.proposals.resolve(id, outcome, &mut self.answers);
        }
        if applied.membership_changed {
            self.members_changed();
        }
        self.keeper.applied(&self.machine, now);
        self.reads.applied(last, &mut self.answers);
    }

    pub(super) fn members_changed(&mut self) {
        let membership = self.machine.reader().members();
        self.transport.set_peers(super::peer_addresses(&membership, self.settings.id));
        if membership.is_removed(self.settings.id) {
            self.on_removed();
        }
    }

    /// NB: a leader that removes itself may be the only one to know that this is committed, and a cluster of
    /// two needs its word for it: it stays until that is said.
    fn on_removed(&mut self) {
        if self.removed.is_none() {
            info!("this member was removed from the cluster");
            self.removed = Some(self.runtime.now());
        }
    }

    /// Proposes something that no client waits for.
    pub(super) fn propose_own(&mut self, op: Op) {
        let id = self.ids.next();
        self.leases.proposed(id, &op);
        let command = Command { id, user: String::new(), auth_revision: 0, op };
        let payload = Payload::Command(command.encode());
        self.node.step(Input::Propose(raft::Proposal { id: raft::ProposalId(id.0), payload }));
    }

    fn propose_change(&mut self, change: &Change, reply: MembersReply, now: Instant) {
        let proposal = self.changes.add(self.ids.next(), change, reply, now + CHANGE_TIMEOUT);
        self.node.step(Input::Propose(proposal));
    }

    fn start_transfer(
        &mut self,
        to: NodeId,
        reply: oneshot::Sender<Result<(), ServeError>>,
        now: Instant,
    ) {
        let status = self.node.status();
        let answer = if status.role != Role::Leader {
            Err(ServeError::NotLeader)
        } else if to == self.settings.id {
            Ok(())
        } else if !self.node.conf_state().is_voter(to) {
            Err(ServeError::BadTransferee)
        } else {
            self.node.step(Input::TransferLeader(to));
            let patience = buggify!(
                "driver_gives_up_a_transfer",
                Duration::ZERO,
                self.settings.request_timeout
            );
            let deadline = now + patience;
            if let Some((_, _, earlier)) = self.transfer.replace((to, deadline, reply)) {
                let _ = earlier.send(Err(ServeError::TransferTimeout));
            }
            return;
        };
        let _ = reply.send(answer);
    }

    fn expire_transfer(&mut self, now: Instant) {
        if self.transfer.as_ref().is_some_and(|(_, deadline, _)| *deadline <= now) {
            let (_, _, reply) = self.transfer.take().expect("it was just looked at");
            let _ = reply.send(Err(ServeError::TransferTimeout));
        }
    }

    fn start_stop(&mut self, done: oneshot::Sender<()>, now: Instant) {
        let status = self.node.status();
        let heir = status
            .peers
            .iter()
            .filter(|(id, _)| status.conf_state.is_voter(**id))
            .max_by_key(|(id, peer)| (peer.matched, std::cmp::Reverse(**id)))
            .map(|(id, _)| *id);
        let deadline = match (status.role, heir) {
            (Role::Leader, Some(_)) if buggify!("driver_stops_without_handing_over") => now,
            (Role::Leader, Some(heir)) => {
                info!(to = format!("{:x}", heir.0), "leadership transfer starting");
                for op in self.leases.hand_over(now) {
                    self.propose_own(op);
                }
                self.node.step(Input::TransferLeader(heir));
                now + self.settings.request_timeout
            }
            (Role::Leader, None) => {
                info!("skipped leadership transfer for single voting member cluster");
                now
            }
            _ => {
                info!("skipped leadership transfer; local server is not leader");
                now
            }
        };
        self.stopping = Some(Stopping { deadline, done: Some(done) });
    }

    fn publish_status(&mut self) {
        let (node, position, own) = (&self.node, self.machine.applied(), self.settings.id);
        self.status.send_if_modified(|published| published.update(node, position, own));
    }
}
