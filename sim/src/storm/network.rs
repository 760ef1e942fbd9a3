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
        if !self.passes(envelope.from, envelope.to) || (!self.calm && rng.chance(plan.loss)) {
            return Vec::new();
        }
        // The one thing a transport must not do: repeat a proposal.
        let repeats = !matches!(envelope.message, Message::Propose { .. });
        let copies = if !self.calm && repeats && rng.chance(plan.duplicate) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(plan, rng)).collect()
    }

    fn delay(&self, plan: &Plan, rng: &mut Random) -> u64 {
        if self.calm {
            return rng.within(1, plan.delay.min(plan.tick / 4).max(1));
        }
        let most = if rng.chance(plan.late) { plan.late_delay } else { plan.delay };
        rng.within(1, most.max(1))
    }
}
