//! What a driver owes the core, at its smallest: the fields of [`Ready`] in their order, writes in the
//! order of their tickets, promises after their writes, a snapshot staged before it is announced.

use mainstay::raft::{
    AppendResponse, Entry, Envelope, Input, Message, Payload, Ready, SnapshotMeta, SnapshotRequest,
};
use mainstay::types::{Index, LogPosition, NodeId};

use super::disk::Write;
use super::invariants::{self as must, Broken};
use super::machine::{Machine, mix};
use super::plan::Draw;
use super::world::{Event, Outcome, World};

/// More turns than any one input is worth: a page of one entry each, thousands of entries long.
const READIES_MAX: u32 = 1_000_000;

impl World<'_> {
    /// Does everything the node wants done.
    pub(super) fn drive(&mut self, id: NodeId) -> Outcome {
        for _ in 0..READIES_MAX {
            let member = self.members.get_mut(&id).expect("a member");
            let Some(node) = member.node.as_mut() else { return Ok(()) };
            let Some(ready) = node.take_ready() else { return Ok(()) };
            self.honour(id, ready)?;
        }
        let detail = format!("{id} has work after {READIES_MAX} turns, at {} µs", self.now);
        Err(Broken { name: "does_not_end", detail })
    }

    fn honour(&mut self, id: NodeId, ready: Ready) -> Outcome {
        if let Some(violation) = ready.violations.first() {
            let detail = format!("{id}: {violation}");
            self.judge(Err(Broken { name: "protocol_is_kept", detail }))?;
        }
        let Self { recorder, members, .. } = self;
        if let Some(recorder) = recorder {
            let member = members.get_mut(&id).expect("a member");
            let node = member.node.as_ref().expect("it lives");
            member.handed_commit = node.commit();
            recorder.handed_over(node, &ready);
        }
        for envelope in ready.messages_now {
            self.judge_message(id, &envelope)?;
            // What is said at once binds no less.
            self.note_promise(id, &envelope);
            self.send(envelope, None);
        }
        self.judge_entries(id, ready.truncate_from, &ready.entries)?;
        let member = self.members.get_mut(&id).expect("a member");
        if let Some(ticket) = ready.ticket {
            member.disk.push(Write::Log {
                ticket,
                hard: ready.hard_state,
                truncate_from: ready.truncate_from,
                entries: ready.entries,
                promises: ready.messages_after_persist,
            });
        } else {
            assert!(ready.messages_after_persist.is_empty(), "promises without a ticket");
        }
        if let Some(meta) = ready.install {
            let machine = member.staged.take().expect("what is installed was staged");
            member.disk.push(Write::Install { meta, machine });
        }
        let contiguous = must::applied_contiguous(id, member.delivered, &ready.committed);
        if let Some(last) = ready.committed.last() {
            member.delivered = last.index;
        }
        member.applying.extend(ready.committed);
        let reads = ready.reads.iter().filter_map(|read| {
            let floor = member.reads.remove(&read.id)?;
            Some((floor, read.index))
        });
        let reads: Vec<(Index, Index)> = reads.collect();
        for failed in &ready.failed_reads {
            member.reads.remove(&failed.id);
        }
        self.counts.failed_reads += u64::try_from(ready.failed_reads.len()).unwrap_or(u64::MAX);
        self.counts.refused += u64::try_from(ready.refused.len()).unwrap_or(u64::MAX);
        self.judge(contiguous)?;
        for (floor, index) in reads {
            self.judge(must::reads_are_linearizable(id, floor, index))?;
            self.counts.reads += 1;
            self.note(4, id, index.get());
        }
        for request in ready.snapshots_to_send {
            self.send_snapshot(id, request);
        }
        self.begin_write(id);
        self.begin_apply(id)
    }

    /// Judges what a node is about to say.
    fn judge_message(&mut self, id: NodeId, envelope: &Envelope) -> Outcome {
        let Self { members, truth, .. } = self;
        let member = &members[&id];
        let verdicts = [
            must::no_message_from_a_later_term(member, envelope),
            must::votes_are_asked_by_the_durable(member, envelope),
            must::promises_are_durable(member, envelope),
            must::one_vote_per_term(truth, envelope),
            must::appends_are_earned(truth, envelope),
        ];
        verdicts.into_iter().try_for_each(|verdict| self.judge(verdict))
    }

    /// Judges what is handed to a disk, and keeps note of the changes in it.
    fn judge_entries(&mut self, id: NodeId, cut: Option<Index>, entries: &[Entry]) -> Outcome {
        let Self { members, truth, .. } = self;
        let member = members.get_mut(&id).expect("a member");
        let node = member.node.as_ref().expect("it lives");
        if let Some(from) = cut {
            member.changes.retain(|change| *change < from);
            // A promise about an entry ends when a newer leader's log replaces it.
            if member.accepted.index >= from {
                let left = from.prev().expect("the base is before it");
                let term = node.term_at(left).unwrap_or_default();
                member.accepted = LogPosition::new(left, term);
            }
        }
        let last_change = member.changes.last().copied().unwrap_or_default();
        let verdict = must::log_matching(truth, node, entries)
            .and_then(|()| must::one_change_at_a_time(node, entries, last_change));
        let changes = entries.iter().filter(|e| matches!(e.payload, Payload::ConfChange(_)));
        member.changes.extend(changes.map(|entry| entry.index));
        self.judge(verdict)
    }

    pub(super) fn send(&mut self, envelope: Envelope, bytes: Option<Machine>) {
        let what =
            mix(envelope.term.get(), u64::try_from(envelope.message.name().len()).unwrap_or(0));
        self.note(5, envelope.from, mix(what, envelope.to.get()));
        self.counts.messages += 1;
        let mut delays = self.net.delays(&envelope, &self.plan, &mut self.rng);
        let first = if delays.is_empty() { None } else { Some(delays.remove(0)) };
        for delay in delays {
            let bytes = bytes.clone().map(Box::new);
            self.after(delay, Event::Deliver(Box::new(envelope.clone()), bytes));
        }
        if let Some(delay) = first {
            self.after(delay, Event::Deliver(Box::new(envelope), bytes.map(Box::new)));
        }
    }

    fn begin_write(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).expect("a member");
        if !member.disk.begin() {
            return;
        }
        let (epoch, slow) = (member.epoch, member.slow);
        let stalls = !self.calm && (slow || self.rng.chance(self.plan.disk_stall));
        let usual =
            if self.calm { self.plan.disk.min(self.plan.tick / 10) } else { self.plan.disk };
        let most = if stalls { self.plan.disk_stall_time } else { usual };
        let delay = self.rng.within(1, most.max(1));
        self.after(delay, Event::DiskDone(id, epoch));
    }

    pub(super) fn disk_done(&mut self, id: NodeId) -> Outcome {
        let member = self.members.get_mut(&id).expect("a member");
        let before = member.disk.hard;
        let done = member.disk.finish();
        let verdict = must::hard_state_only_grows(id, before, member.disk.hard);
        self.judge(verdict)?;
        for write in done {
            match write {
                Write::Log { ticket, promises, .. } => {
                    self.step(id, Input::Persisted(ticket))?;
                    for envelope in promises {
                        self.note_promise(id, &envelope);
                        self.judge_message(id, &envelope)?;
                        self.send(envelope, None);
                    }
                }
                Write::Install { meta, machine } => self.installed(id, meta, machine)?,
            }
        }
        self.begin_write(id);
        Ok(())
    }

    /// Remembers what others may rely on from now on.
    fn note_promise(&mut self, id: NodeId, envelope: &Envelope) {
        let member = self.members.get_mut(&id).expect("a member");
        let Some(node) = member.node.as_ref() else { return };
        match &envelope.message {
            Message::AppendResponse(AppendResponse::Accept { matched }) => {
                // A promise to a leader of an older term binds no more than the log of now does.
                if envelope.term == node.term()
                    && *matched > member.accepted.index
                    && let Some(term) = node.term_at(*matched)
                {
                    member.accepted = LogPosition::new(*matched, term);
                }
            }
            Message::VoteResponse { granted: true } => {
                member.voted = (envelope.term, Some(envelope.to));
                self.strike_the_voter(id);
            }
            _ => {}
        }
    }

    fn installed(&mut self, id: NodeId, meta: SnapshotMeta, machine: Machine) -> Outcome {
        let Self { members, truth, .. } = self;
        let member = members.get_mut(&id).expect("a member");
        member.applying.clear();
        member.delivered = meta.position.index;
        member.changes.clear();
        member.accepted = meta.position;
        let verdict = must::state_machine_safety(truth, id, &machine);
        member.machine = machine;
        self.judge(verdict)?;
        self.counts.installs += 1;
        self.note(6, id, meta.position.index.get());
        self.step(id, Input::SnapshotInstalled(meta))
    }

    fn begin_apply(&mut self, id: NodeId) -> Outcome {
        if self.members[&id].applying.is_empty() {
            return Ok(());
        }
        if self.plan.apply == 0 || self.calm {
            return self.apply_some(id);
        }
        let epoch = self.members[&id].epoch;
        let delay = self.rng.within(1, self.plan.apply);
        self.after(delay, Event::Apply(id, epoch));
        Ok(())
    }

    /// Applies everything that was delivered.
    pub(super) fn apply_some(&mut self, id: NodeId) -> Outcome {
        loop {
            let Self { members, truth, .. } = self;
            let member = members.get_mut(&id).expect("a member");
            let Some(entry) = member.applying.pop_front() else { break };
            let accepted = member.machine.apply(&entry);
            let mut verdict = must::state_machine_safety(truth, id, &member.machine);
            if accepted.is_some() {
                verdict = verdict.and(must::config_chain(truth, id, &member.machine));
            }
            self.judge(verdict)?;
            self.counts.applied += 1;
            if let Some(accepted) = accepted {
                self.counts.changes += 1;
                self.step_only(id, Input::ConfApplied { index: entry.index, accepted })?;
            }
        }
        let index = self.members[&id].machine.position.index;
        self.note(7, id, index.get());
        self.step_only(id, Input::Applied(index))
    }

    /// Makes the machine durable, and lets go of the log that it contains.
    pub(super) fn checkpoint(&mut self, id: NodeId) -> Outcome {
        let keep = self.plan.keep;
        let member = self.members.get_mut(&id).expect("a member");
        // In the middle of an installation the disk already holds something newer.
        if member.disk.machine.position.index < member.machine.position.index {
            member.disk.machine = member.machine.clone();
        }
        let durable = member.disk.machine.position.index;
        let upto = Index(durable.get().saturating_sub(keep));
        member.disk.trim(upto);
        self.step(id, Input::Trim(upto))
    }

    fn send_snapshot(&mut self, from: NodeId, request: SnapshotRequest) {
        let machine = self.members[&from].machine.clone();
        let at = machine.position.index;
        assert!(at >= request.at_least, "the applied state is behind the log's base");
        let meta = SnapshotMeta { position: machine.position, conf_state: machine.conf.clone() };
        let envelope = request.envelope(from, meta);
        let time = self.rng.within(1, if self.calm { self.plan.tick } else { self.plan.snapshot });
        let lost = !self.calm && self.rng.chance(self.plan.loss * 2);
        let ok = !lost && self.net.passes(from, request.to);
        if ok {
            let envelope = Box::new(envelope);
            self.after(time, Event::Deliver(envelope.clone(), Some(Box::new(machine.clone()))));
            if !self.calm && self.rng.chance(self.plan.duplicate) {
                let again = self.rng.within(1, self.plan.snapshot * 2);
                self.after(again, Event::Deliver(envelope, Some(Box::new(machine))));
            }
        }
        let answer = self.rng.within(time, time + self.plan.tick);
        self.step_later(answer, from, Input::SnapshotSent { to: request.to, ok, at });
    }

    pub(super) fn deliver(&mut self, envelope: Envelope, bytes: Option<Machine>) -> Outcome {
        let id = envelope.to;
        let node = self.members[&id].node.as_ref().expect("it lives");
        if self.recorder.as_mut().is_some_and(|recorder| !recorder.admits(node, &envelope)) {
            return Ok(());
        }
        if let Some(machine) = bytes {
            // Work that waited goes first: the next `Ready` must speak of this snapshot only.
            self.drive(id)?;
            let member = self.members.get_mut(&id).expect("a member");
            member.staged = Some(machine);
            self.step_only(id, Input::Message(envelope))?;
            self.drive(id)?;
            self.members.get_mut(&id).expect("a member").staged = None;
            return Ok(());
        }
        self.step(id, Input::Message(envelope))
    }
}
