//! Links between nodes: which are cut, and what becomes of a message.

use std::collections::BTreeSet;

use mainstay::raft::{Envelope, Message, Random};
use mainstay::types::NodeId;

use super::plan::{Draw, Plan};

/// The links, and how they treat what passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// Cut links, each in one direction.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Messages of this name from this node are all lost.
    muted: Option<(NodeId, &'static str)>,
    /// What this node says is heard, and once more this much later.
    echo: Option<(NodeId, u64)>,
    /// Whether loss, repetition and lateness are over.
    pub(super) calm: bool,
}

impl Network {
    /// Tells whether a message gets from one node to the other.
    pub(super) fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Makes every link work.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.muted = None;
        self.echo = None;
    }

    /// Loses whatever this node says by this name: as a coincidence of single losses it would take
    /// chance an age, and some deadlocks begin with exactly that (mutants.md, R26).
    pub(super) fn mute(&mut self, from: NodeId, name: &'static str) {
        self.muted = Some((from, name));
    }

    /// Repeats whatever this node says after `delay`, the order kept: news of an earlier life of
    /// whoever hears it (mutants.md, R27, R35).
    pub(super) fn repeat(&mut self, from: NodeId, delay: u64) {
        self.echo = Some((from, delay));
    }

    /// Cuts exactly the links for which `broken` says so.
    pub(super) fn cut(&mut self, ids: &[NodeId], mut broken: impl FnMut(NodeId, NodeId) -> bool) {
        self.cut.clear();
        for from in ids {
            for to in ids {
                if from != to && broken(*from, *to) {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }

    /// Leaves only the links of one node.
    pub(super) fn cut_to_hub(&mut self, ids: &[NodeId], hub: NodeId) {
        self.cut(ids, |from, to| from != hub && to != hub);
    }

    /// Draws when a message arrives: never, once, or twice.
    pub(super) fn delays(&self, envelope: &Envelope, plan: &Plan, rng: &mut Random) -> Vec<u64> {
        let lost = self.muted == Some((envelope.from, envelope.message.name()));
        if lost || !self.passes(envelope.from, envelope.to) || (!self.calm && rng.chance(plan.loss))
        {
            return Vec::new();
        }
        // What a transport must not repeat: a proposal, or a refusal, for which it is proposed once more.
        let repeats =
            !matches!(envelope.message, Message::Propose { .. } | Message::ProposeRefused { .. });
        let copies = if !self.calm && repeats && rng.chance(plan.duplicate) { 2 } else { 1 };
        let mut delays: Vec<u64> = (0..copies).map(|_| self.delay(plan, rng)).collect();
        if let Some((from, later)) = self.echo
            && from == envelope.from
            && repeats
        {
            delays.push(delays[0] + later);
        }
        delays
    }

    fn delay(&self, plan: &Plan, rng: &mut Random) -> u64 {
        if self.calm {
            return rng.within(1, plan.delay.min(plan.tick / 4).max(1));
        }
        let most = if rng.chance(plan.late) { plan.late_delay } else { plan.delay };
        rng.within(1, most.max(1))
    }
}
