//! The loop: one queue of events in simulated time, and the smallest driver that honours
//! [`Ready`](mainstay::raft::Ready) as the real one must. After every step every invariant is checked.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use bytes::Bytes;
use mainstay::raft::{
    ConfState, Config, Entry, Envelope, HardState, Input, Node, Payload, Proposal, ProposalId,
    Random, ReadId, Restored, Role,
};
use mainstay::types::{Index, LogPosition, NodeId, Term};

use super::disk::Disk;
use super::invariants::{self as must, Broken, Truth};
use super::machine::{Machine, mix};
use super::network::Network;
use super::plan::{Draw, Plan};
use super::tla::Recorder;
use super::{Counts, EVENTS_MAX, INTERRUPTED, Options};

/// One thing to happen.
pub(super) enum Event {
    /// A node's clock.
    Tick(NodeId, u32),
    /// A message arrives; a snapshot's bytes come with it.
    Deliver(Box<Envelope>, Option<Box<Machine>>),
    /// A write ends.
    DiskDone(NodeId, u32),
    /// A driver that lets work queue turns to it.
    Drive(NodeId, u32),
    /// A machine applies what it was given.
    Apply(NodeId, u32),
    /// Something else for the core.
    Step(NodeId, u32, Box<Input>),
    /// A machine is written to disk.
    Checkpoint(NodeId, u32),
    /// A client does something.
    Client,
    /// A fault.
    Fault,
    /// A node loses power in an ambush; it is back this much later.
    Struck(NodeId, u32, u64),
    /// A dead node comes back.
    Restart(NodeId),
    /// A paused node goes on.
    Resume(NodeId),
    /// A slow disk is itself again.
    DiskRecovers(NodeId),
}

struct Scheduled {
    at: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// One node with its driver.
pub(super) struct Member {
    pub(super) id: NodeId,
    /// Lives so far; events of an earlier life are void.
    pub(super) epoch: u32,
    /// `None` while dead.
    pub(super) node: Option<Node>,
    pub(super) disk: Disk,
    pub(super) machine: Machine,
    /// Events that wait for a paused node.
    pub(super) paused: Option<Vec<Event>>,
    pub(super) slow: bool,
    pub(super) tick: u64,
    /// The last entry the core has delivered.
    pub(super) delivered: Index,
    pub(super) applying: VecDeque<Entry>,
    pub(super) staged: Option<Machine>,
    /// Reads asked here, with what was known to be committed when they were.
    pub(super) reads: BTreeMap<ReadId, Index>,
    /// Places of membership changes in the log handed to the disk.
    pub(super) changes: Vec<Index>,
    /// What others were promised.
    pub(super) accepted: LogPosition,
    pub(super) voted: (Term, Option<NodeId>),
    /// Its commit index at its last hand-over.
    pub(super) handed_commit: Index,
}

impl Member {
    fn new(id: NodeId, machine: Machine, hard: HardState, tick: u64) -> Self {
        let position = machine.position;
        Self {
            id,
            epoch: 0,
            node: None,
            disk: Disk::new(position, hard, machine.clone()),
            machine,
            paused: None,
            slow: false,
            tick,
            delivered: position.index,
            applying: VecDeque::new(),
            staged: None,
            reads: BTreeMap::new(),
            changes: Vec::new(),
            accepted: position,
            voted: (Term(0), None),
            handed_commit: position.index,
        }
    }

    /// Tells whether it takes part in what happens.
    pub(super) fn is_up(&self) -> bool {
        self.node.is_some() && self.paused.is_none()
    }
}

impl Event {
    /// The node an event happens to, and in which of its lives; `None` if it happens to all.
    fn node(&self) -> Option<(NodeId, Option<u32>)> {
        match self {
            Event::Tick(id, epoch)
            | Event::DiskDone(id, epoch)
            | Event::Drive(id, epoch)
            | Event::Apply(id, epoch)
            | Event::Step(id, epoch, _)
            | Event::Struck(id, epoch, _)
            | Event::Checkpoint(id, epoch) => Some((*id, Some(*epoch))),
            Event::Deliver(envelope, _) => Some((envelope.to, None)),
            Event::Client
            | Event::Fault
            | Event::Restart(_)
            | Event::Resume(_)
            | Event::DiskRecovers(_) => None,
        }
    }
}

/// All members. Ids count from one, so a place is found without a search: every event needs some.
pub(super) struct Members(Vec<Member>);

impl Members {
    fn slot(id: NodeId) -> usize {
        usize::try_from(id.get()).expect("a small number").wrapping_sub(1)
    }

    pub(super) fn get(&self, id: &NodeId) -> Option<&Member> {
        self.0.get(Self::slot(*id))
    }

    pub(super) fn get_mut(&mut self, id: &NodeId) -> Option<&mut Member> {
        self.0.get_mut(Self::slot(*id))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }
}

impl std::ops::Index<&NodeId> for Members {
    type Output = Member;

    fn index(&self, id: &NodeId) -> &Member {
        &self.0[Self::slot(*id)]
    }
}

/// Everything.
pub(super) struct World<'a> {
    pub(super) plan: Plan,
    pub(super) rng: Random,
    pub(super) now: u64,
    pub(super) members: Members,
    pub(super) ids: Vec<NodeId>,
    pub(super) net: Network,
    pub(super) truth: Truth,
    pub(super) counts: Counts,
    pub(super) hash: u64,
    /// Whether faults are over.
    pub(super) calm: bool,
    /// Who writes down what happens, in storms that are recorded.
    pub(super) recorder: Option<Recorder>,
    options: &'a Options,
    queue: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    next_id: u64,
}

pub(super) type Outcome = Result<(), Broken>;

impl<'a> World<'a> {
    pub(super) fn new(plan: Plan, mut rng: Random, options: &'a Options) -> Self {
        let ids: Vec<NodeId> = (1..=plan.universe).map(NodeId).collect();
        let founders: Vec<NodeId> = (1..=plan.founders).map(NodeId).collect();
        let founding = Restored::founder(founders.iter().copied(), 0);
        let machine =
            Machine { position: founding.base, hash: 1, conf: founding.conf_state.clone() };
        let truth = Truth::new(&machine);
        let blank =
            Machine { position: LogPosition::default(), hash: 0, conf: ConfState::default() };
        let recorder = plan.recorded.then(Recorder::default);
        let mut members = Vec::new();
        for id in &ids {
            let founder = founders.contains(id);
            let (machine, hard) = if founder {
                (machine.clone(), founding.hard_state)
            } else {
                (blank.clone(), HardState::default())
            };
            let off = plan.tick * plan.skew / 1_000;
            let tick = rng.within(plan.tick - off, plan.tick + off);
            members.push(Member::new(*id, machine, hard, tick));
        }
        let mut world = Self {
            plan,
            rng,
            now: 0,
            members: Members(members),
            ids: ids.clone(),
            net: Network::default(),
            truth,
            counts: Counts::default(),
            hash: 0,
            calm: false,
            recorder,
            options,
            queue: BinaryHeap::new(),
            seq: 0,
            next_id: 1,
        };
        for id in ids {
            world.start(id).expect("a fresh disk is in order");
        }
        world.after(0, Event::Client);
        let first = world.rng.within(1, world.plan.fault * 2);
        world.after(first, Event::Fault);
        world
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.seq += 1;
        let scheduled = Scheduled { at: self.now + delay, seq: self.seq, event };
        self.queue.push(Reverse(scheduled));
    }

    /// Runs until simulated time `until`, or until `done` says so.
    pub(super) fn run(
        &mut self,
        until: u64,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Broken> {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > until {
                break;
            }
            let Reverse(Scheduled { at, event, .. }) =
                self.queue.pop().expect("it was just looked at");
            self.now = at;
            self.counts.events += 1;
            self.must_end()?;
            self.happen(event)?;
            if done(self) {
                return Ok(true);
            }
        }
        self.now = until;
        Ok(false)
    }

    /// A storm that never ends would hold for ever. What a seed does takes some ten thousand events,
    /// and a hundred times that when it is long and busy.
    fn must_end(&self) -> Outcome {
        let events = self.counts.events;
        if events % 1_024 == 0 && self.options.interrupt.is_raised() {
            return Err(Broken { name: INTERRUPTED, detail: format!("after {events} events") });
        }
        if events < self.options.events_max.unwrap_or(EVENTS_MAX) {
            return Ok(());
        }
        let detail = format!("{events} events and no end");
        Err(Broken { name: "does_not_end", detail })
    }

    fn happen(&mut self, event: Event) -> Outcome {
        let Some((id, epoch)) = event.node() else { return self.happen_to_all(event) };
        let member = self.members.get_mut(&id).expect("events name members");
        if member.node.is_none() || epoch.is_some_and(|epoch| epoch != member.epoch) {
            return Ok(());
        }
        if let Some(waiting) = &mut member.paused {
            // Ticks do not pile up while a process stands still.
            if matches!(event, Event::Tick(..)) {
                let tick = member.tick;
                self.after(tick, event);
            } else {
                waiting.push(event);
            }
            return Ok(());
        }
        match event {
            Event::Tick(id, epoch) => {
                let tick = member.tick;
                self.after(tick, Event::Tick(id, epoch));
                self.step(id, Input::Tick)
            }
            Event::Deliver(envelope, bytes) => self.deliver(*envelope, bytes.map(|b| *b)),
            Event::DiskDone(id, _) => self.disk_done(id),
            Event::Drive(id, _) => self.drive(id),
            Event::Apply(id, _) => {
                self.apply_some(id)?;
                self.drive(id)
            }
            Event::Step(id, _, input) => self.step(id, *input),
            Event::Struck(id, _, back) => self.struck(id, back),
            Event::Checkpoint(id, epoch) => {
                let next = self.rng.within(1, self.plan.checkpoint * 2);
                self.after(next, Event::Checkpoint(id, epoch));
                self.checkpoint(id)
            }
            _ => unreachable!("the rest happens to no node in particular"),
        }
    }

    fn happen_to_all(&mut self, event: Event) -> Outcome {
        match event {
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Restart(id) => self.start(id),
            Event::Resume(id) => {
                self.resume(id);
                Ok(())
            }
            Event::DiskRecovers(id) => {
                self.members.get_mut(&id).expect("a member").slow = false;
                Ok(())
            }
            _ => unreachable!("the rest happens to one node"),
        }
    }

    pub(super) fn note(&mut self, kind: u64, id: NodeId, what: u64) {
        self.hash = mix(mix(mix(self.hash, self.now), kind * 1_000 + id.get()), what);
    }

    /// Starts a node from its disk.
    pub(super) fn start(&mut self, id: NodeId) -> Outcome {
        let seed = self.rng.next_u64();
        let config = Config {
            id,
            election_ticks: self.plan.election_ticks,
            heartbeat_ticks: self.plan.heartbeat_ticks,
            pre_vote: self.plan.pre_vote,
            hasty_start: self.plan.hasty_start,
            append_bytes_max: self.plan.append_bytes_max,
            inflight_max: self.plan.inflight_max,
            inflight_bytes_max: self.plan.inflight_bytes_max,
            uncommitted_bytes_max: self.plan.uncommitted_bytes_max,
            committed_bytes_max: 1 << 20,
            committed_entries_max: self.plan.committed_entries_max,
        };
        let member = self.members.get_mut(&id).expect("a member");
        if member.node.is_some() {
            return Ok(());
        }
        let machine = member.disk.machine.clone();
        let restored = Restored {
            hard_state: member.disk.hard,
            conf_state: machine.conf.clone(),
            base: member.disk.base,
            entries: member.disk.entries.iter().cloned().collect(),
            applied: machine.position.index,
            seed,
        };
        let node = Node::new(config, restored)
            .map_err(|error| Broken { name: "must_boot", detail: format!("{id}: {error}") })?;
        member.epoch += 1;
        member.delivered = machine.position.index;
        let changes = member.disk.entries.iter();
        member.changes = changes
            .filter(|entry| matches!(entry.payload, Payload::ConfChange(_)))
            .map(|entry| entry.index)
            .collect();
        member.machine = machine;
        if let Some(recorder) = &mut self.recorder {
            recorder.started(&node, member.disk.hard.vote);
        }
        member.node = Some(node);
        let (epoch, tick) = (member.epoch, member.tick);
        let first = self.rng.within(1, tick);
        self.after(first, Event::Tick(id, epoch));
        let checkpoint = self.rng.within(1, self.plan.checkpoint * 2);
        self.after(checkpoint, Event::Checkpoint(id, epoch));
        self.note(1, id, seed);
        Ok(())
    }

    /// Ends a node: power loss.
    pub(super) fn kill(&mut self, id: NodeId) -> Outcome {
        let torn = self.plan.torn;
        let member = self.members.get_mut(&id).expect("a member");
        if member.node.take().is_none() {
            return Ok(());
        }
        member.epoch += 1;
        member.paused = None;
        member.applying.clear();
        member.staged = None;
        member.reads.clear();
        let before = member.disk.hard;
        if self.plan.recorded {
            member.disk.keep_all(member.handed_commit);
        } else if member.disk.crash(&mut self.rng, torn) {
            // What contradicts a snapshot was promised to a leader that is history.
            member.accepted = member.disk.base;
        }
        let (accepted, voted) = (member.accepted, member.voted);
        let verdict = must::hard_state_only_grows(id, before, member.disk.hard)
            .and_then(|()| must::promises_survive(id, &member.disk, accepted, voted));
        self.judge(verdict)?;
        self.counts.kills += 1;
        self.note(2, id, 0);
        for other in self.ids.clone() {
            if other != id && self.rng.chance(self.plan.reset) {
                let delay = self.rng.within(1, self.plan.tick);
                self.step_later(delay, other, Input::PeerConnectionLost(id));
            }
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).expect("a member");
        for event in member.paused.take().unwrap_or_default() {
            self.after(0, event);
        }
    }

    pub(super) fn step_later(&mut self, delay: u64, id: NodeId, input: Input) {
        let epoch = self.members[&id].epoch;
        self.after(delay, Event::Step(id, epoch, Box::new(input)));
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Proposes at a node.
    pub(super) fn propose(&mut self, id: NodeId, payload: Payload) -> Outcome {
        let proposal = Proposal { id: ProposalId(self.next_id()), payload };
        self.step(id, Input::Propose(proposal))
    }

    /// Makes a command that nobody made before.
    pub(super) fn command(&mut self, bytes: u64) -> Payload {
        let mut command = self.next_id().to_be_bytes().to_vec();
        command.resize(usize::try_from(bytes.max(8)).expect("a small number"), 0);
        Payload::Command(Bytes::from(command))
    }

    /// Asks to read at a node.
    pub(super) fn read(&mut self, id: NodeId) -> Outcome {
        let read = ReadId(self.next_id());
        let floor = self.truth.commit();
        let member = self.members.get_mut(&id).expect("a member");
        if member.node.is_some() && member.paused.is_none() {
            member.reads.insert(read, floor);
            self.step(id, Input::ReadIndex(read))?;
        }
        Ok(())
    }

    /// Gives a node an input, and does what it wants done, at once or a little later.
    pub(super) fn step(&mut self, id: NodeId, input: Input) -> Outcome {
        if !self.members[&id].is_up() {
            return Ok(());
        }
        self.step_only(id, input)?;
        if !self.calm && self.rng.chance(self.plan.lazy) {
            let epoch = self.members[&id].epoch;
            let delay = self.rng.within(1, self.plan.tick / 4);
            self.after(delay, Event::Drive(id, epoch));
            return Ok(());
        }
        self.drive(id)
    }

    /// Gives a node an input and judges the state that it is in then.
    pub(super) fn step_only(&mut self, id: NodeId, input: Input) -> Outcome {
        let member = self.members.get_mut(&id).expect("a member");
        let node = member.node.as_mut().expect("it lives");
        let was = Was::of(node);
        let installed = matches!(input, Input::SnapshotInstalled(_));
        let before = self.recorder.as_mut().map(|recorder| recorder.before(node, &input));
        must::note_heard(&mut self.truth, id, was.term, &input);
        node.step(input);
        if let (Some(recorder), Some(before)) = (&mut self.recorder, before) {
            recorder.after(node, before);
        }
        let after = (node.role(), node.term());
        let verdict = self.verdict_on(id, &was, installed);
        self.judge(verdict)?;
        let before = (was.role, was.term);
        if after.0 == Role::Leader {
            self.lie_in_wait(id, before, was.commit);
        }
        if after != before {
            let Self { members, truth, .. } = &*self;
            let node = members[&id].node.as_ref().expect("it lives");
            if after.0 == Role::Leader {
                let verdict = must::leader_completeness(truth, node);
                self.judge(verdict)?;
                self.counts.elections += 1;
            }
            self.note(3, id, after.1.get() * 4 + role_number(after.0));
        }
        Ok(())
    }

    /// Judges one node after one step.
    fn verdict_on(&mut self, id: NodeId, was: &Was, installed: bool) -> Outcome {
        let Self { members, truth, .. } = self;
        let member = &members[&id];
        let node = member.node.as_ref().expect("it lives");
        node.check();
        must::one_leader_per_term(truth, node)?;
        must::only_voters_campaign(node)?;
        must::configuration_is_the_applied_one(node, &member.machine)?;
        must::transfer_takes_no_commands(node, was.transfer, was.last.index)?;
        must::term_only_grows(node, was.term)?;
        let led = (was.role == Role::Leader).then_some(was.term);
        must::leader_append_only(node, led, was.last)?;
        must::machine_is_not_ahead(node, &member.machine)?;
        if installed {
            return Ok(()); // The commit index jumped to what others have committed.
        }
        must::commits_agree(truth, node, was.commit, members)
    }

    /// Passes a broken property on, unless this run is blind to it.
    pub(super) fn judge(&self, verdict: Outcome) -> Outcome {
        match verdict {
            Err(broken) if !self.options.blind_to.iter().any(|name| name == broken.name) => {
                Err(broken)
            }
            _ => Ok(()),
        }
    }
}

/// What a node was before a step.
struct Was {
    term: Term,
    role: Role,
    commit: Index,
    last: LogPosition,
    transfer: Option<NodeId>,
}

impl Was {
    fn of(node: &Node) -> Self {
        Self {
            term: node.term(),
            role: node.role(),
            commit: node.commit(),
            last: node.last(),
            transfer: node.transfer_target(),
        }
    }
}

fn role_number(role: Role) -> u64 {
    match role {
        Role::Follower => 0,
        Role::PreCandidate => 1,
        Role::Candidate => 2,
        Role::Leader => 3,
    }
}
