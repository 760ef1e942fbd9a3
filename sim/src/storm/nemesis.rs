//! Who disturbs: clients that write, read and reconfigure, and faults.

use bytes::Bytes;
use mainstay::raft::{ConfChange, ConfChangeItem, ConfState, Input, Payload, Role};
use mainstay::types::{Index, NodeId, Term};

use super::machine::REFUSED;
use super::plan::{Draw, Fault};
use super::world::{Event, Outcome, World};

/// What [`Fault::Mute`] chooses from.
const MUTED: [&str; 6] =
    ["Vote", "Vote", "VoteResponse", "AppendResponse", "HeartbeatResponse", "NewerTerm"];

impl World<'_> {
    /// One client operation somewhere, and the next one later.
    pub(super) fn client(&mut self) -> Outcome {
        if self.calm {
            return Ok(());
        }
        let next = self.rng.within(1, self.plan.client * 2);
        self.after(next, Event::Client);
        // Half the clients know who leads.
        let knows = self.rng.chance(500_000);
        let leader = if knows { self.some_leader() } else { None };
        let at = leader.unwrap_or_else(|| self.rng.pick(&self.ids.clone()));
        let draw = self.rng.below(1_000);
        let plan = &self.plan;
        if draw < plan.reads {
            return self.read(at);
        }
        if draw < plan.reads + plan.changes {
            let change = self.draw_change(at);
            return self.propose(at, Payload::ConfChange(change));
        }
        if draw < plan.reads + plan.changes + plan.transfers {
            let target = self.rng.pick(&self.ids.clone());
            return self.step(at, Input::TransferLeader(target));
        }
        let burst = if self.rng.chance(50_000) { self.rng.within(2, 30) } else { 1 };
        for _ in 0..burst {
            let bytes = self.rng.within(8, self.plan.command_bytes);
            let command = self.command(bytes);
            self.propose(at, command)?;
        }
        Ok(())
    }

    /// Returns a node that believes it leads, the newest one.
    pub(super) fn some_leader(&self) -> Option<NodeId> {
        let up = self.members.values().filter(|member| member.is_up());
        let nodes = up.filter_map(|member| member.node.as_ref());
        let leaders = nodes.filter(|node| node.role() == Role::Leader);
        leaders.max_by_key(|node| node.term()).map(|node| node.id())
    }

    fn draw_change(&mut self, at: NodeId) -> ConfChange {
        let conf = self.members[&at].machine.conf.clone();
        let mut context = self.next_id().to_be_bytes().to_vec();
        // Ids stay small, so the first byte is free to say what the machine thinks of the change.
        if self.rng.chance(100_000) {
            context[0] = REFUSED;
        }
        let context = Bytes::from(context);
        match self.rng.below(10) {
            0 => ConfChange::update(context),
            1..=6 => {
                let item = self.draw_item(&conf);
                ConfChange::members(vec![item], context)
            }
            _ => {
                let count = self.rng.within(2, 4);
                let items = (0..count).map(|_| self.draw_item(&conf)).collect();
                ConfChange::members(items, context)
            }
        }
    }

    fn draw_item(&mut self, conf: &ConfState) -> ConfChangeItem {
        let id = self.rng.pick(&self.ids.clone());
        let removes = self.rng.chance(300_000);
        if conf.learners.contains(&id) && !removes {
            ConfChangeItem::AddVoter(id)
        } else if conf.contains(id) && removes {
            ConfChangeItem::Remove(id)
        } else if self.rng.chance(400_000) {
            ConfChangeItem::AddLearner(id)
        } else {
            ConfChangeItem::AddVoter(id)
        }
    }

    /// One fault, and the next one later.
    pub(super) fn fault(&mut self) -> Outcome {
        if self.calm {
            return Ok(());
        }
        let next = self.rng.within(1, self.plan.fault * 2);
        self.after(next, Event::Fault);
        let total = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        let mut draw = self.rng.below(total);
        let chosen = self.plan.faults.iter().find(|(_, weight)| {
            let hit = draw < *weight;
            draw = draw.saturating_sub(*weight);
            hit
        });
        let fault = chosen.expect("the weights add up to the total").0;
        self.counts.faults += 1;
        self.inflict(fault)
    }

    fn inflict(&mut self, fault: Fault) -> Outcome {
        let ids = self.ids.clone();
        let one = self.rng.pick(&ids);
        let leader = self.some_leader().unwrap_or(one);
        let bits = self.rng.next_u64();
        let side = |id: NodeId| (bits >> (id.get() % 64)) & 1 == 1;
        let often = if bits & 1 == 0 { leader } else { one };
        match fault {
            Fault::Heal => self.net.heal(),
            Fault::Split => self.net.cut(&ids, |a, b| side(a) != side(b)),
            Fault::OneWay => {
                let link = |a: NodeId, b: NodeId| (bits >> ((a.get() * 8 + b.get()) % 64)) & 1 == 1;
                self.net.cut(&ids, link);
            }
            Fault::Ring => {
                let count = self.plan.universe;
                let near = |a: NodeId, b: NodeId| {
                    let apart = a.get().abs_diff(b.get());
                    apart == 1 || apart + 1 == count
                };
                self.net.cut(&ids, |a, b| !near(a, b));
            }
            Fault::LeaderAlone => self.net.cut(&ids, |a, b| a == leader || b == leader),
            Fault::Hub => self.net.cut_to_hub(&ids, one),
            Fault::Kill => {
                self.kill_for_a_while(often)?;
            }
            Fault::KillMany => {
                for id in ids {
                    if self.rng.chance(600_000) {
                        self.kill_for_a_while(id)?;
                    }
                }
            }
            Fault::Pause => {
                let member = self.members.get_mut(&often).expect("a member");
                if member.is_up() {
                    member.paused = Some(Vec::new());
                    let time = self.some_time();
                    self.after(time, Event::Resume(often));
                }
            }
            Fault::SlowDisk => {
                self.members.get_mut(&often).expect("a member").slow = true;
                let time = self.some_time();
                self.after(time, Event::DiskRecovers(often));
            }
            Fault::Reset => {
                let other = self.rng.pick(&ids);
                self.step_later(1, one, Input::PeerConnectionLost(other));
                self.step_later(1, other, Input::PeerUnreachable(one));
            }
            Fault::Mute => {
                let name = self.rng.pick(&MUTED);
                self.net.mute(one, name);
            }
            Fault::Echo => {
                let later = self.some_time();
                self.net.repeat(one, later);
            }
        }
        Ok(())
    }

    fn some_time(&mut self) -> u64 {
        let longest = self.plan.echo_longest();
        self.rng.within(1, longest)
    }

    fn kill_for_a_while(&mut self, id: NodeId) -> Outcome {
        self.kill(id)?;
        let time = self.some_time();
        self.after(time, Event::Restart(id));
        Ok(())
    }

    /// Ambushes a leader right after the step that elected it or gave it its first commit, before
    /// anything it has to say about that has left.
    pub(super) fn lie_in_wait(&mut self, id: NodeId, before: (Role, Term), commit: Index) {
        if self.calm {
            return;
        }
        let ambush = self.plan.ambush;
        let node = self.members[&id].node.as_ref().expect("it lives");
        let term = node.term();
        if before != (Role::Leader, term) {
            if self.rng.chance(ambush.election) {
                self.counts.ambushes += 1;
                let hearers = self.rng.below(self.plan.universe);
                self.cut_to_some(id, hearers);
            }
            return;
        }
        // With a commit of its own term everything before it is committed as well; and so, if the
        // core counts what it must not, is an entry of an older term.
        let first = node.commit() > commit && node.term_at(commit) != Some(term);
        if first && self.rng.chance(ambush.commit) {
            self.counts.ambushes += 1;
            self.cut_to_some(id, 0);
            if self.rng.chance(500_000) {
                let epoch = self.members[&id].epoch;
                let back = self.some_time();
                self.after(0, Event::Struck(id, epoch, back));
            }
        }
    }

    /// Takes the power of a voter whose yes is on its way.
    pub(super) fn strike_the_voter(&mut self, id: NodeId) {
        if !self.calm && self.rng.chance(self.plan.ambush.vote) {
            self.counts.ambushes += 1;
            let epoch = self.members[&id].epoch;
            let back = self.rng.within(1, self.plan.tick * 2);
            self.after(0, Event::Struck(id, epoch, back));
        }
    }

    /// Power loss of an ambushed node.
    pub(super) fn struck(&mut self, id: NodeId, back: u64) -> Outcome {
        if self.calm {
            return Ok(());
        }
        self.kill(id)?;
        self.after(back, Event::Restart(id));
        Ok(())
    }

    /// Leaves a node the links to `hearers` others, and all links among the others.
    fn cut_to_some(&mut self, id: NodeId, hearers: u64) {
        let ids = self.ids.clone();
        let mut deaf: Vec<NodeId> = ids.iter().copied().filter(|other| *other != id).collect();
        for _ in 0..hearers {
            if !deaf.is_empty() {
                let slot = self.rng.slot(deaf.len());
                deaf.swap_remove(slot);
            }
        }
        self.net.cut(&ids, |a, b| (a == id && deaf.contains(&b)) || (b == id && deaf.contains(&a)));
    }
}
