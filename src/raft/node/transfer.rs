//! Handing leadership over (Ongaro 2014, §3.10). The leader takes no more proposals, waits until the
//! target holds its whole log, and asks it to campaign at once; the target's campaign passes every
//! shield, for the shield is the old leader's and the old leader wants it. If nothing has come of it
//! after an election timeout, the leader goes on.
//!
//! A leader whose own disk has stopped does the same by itself: its heartbeats are behind no disk, so
//! nobody else would notice, while everything it is to apply waits.

use super::Node;
use crate::raft::message::Message;
use crate::raft::ready::Role;
use crate::types::NodeId;

/// A hand-over under way.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(super) target: NodeId,
    elapsed: u32,
    asked: bool,
}

impl Node {
    pub(super) fn on_transfer_request(&mut self, target: NodeId) {
        let same = self.transfer.as_ref().is_some_and(|transfer| transfer.target == target);
        let fit = self.conf.voters.contains(&target) || crate::mutant!("R30");
        if self.role != Role::Leader || target == self.config.id || same || !fit {
            return;
        }
        self.transfer = Some(Transfer { target, elapsed: 0, asked: false });
        if let Some(peer) = self.peers.get_mut(&target) {
            peer.poke = true;
        }
        self.continue_transfer(target);
    }

    /// Asks the target to campaign once it holds the whole log.
    pub(super) fn continue_transfer(&mut self, peer: NodeId) {
        let last = self.log.last().index;
        let matched = self.peers.get(&peer).map(|progress| progress.matched());
        let Some(transfer) = &mut self.transfer else { return };
        let caught_up = matched == Some(last) || crate::mutant!("R30");
        if transfer.target == peer && !transfer.asked && caught_up {
            transfer.asked = true;
            self.say(peer, Message::TimeoutNow);
        }
    }

    pub(super) fn tick_transfer(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.elapsed += 1;
            if transfer.elapsed >= self.config.election_ticks {
                self.transfer = None;
                if !self.conf.is_voter(self.config.id) {
                    self.resign();
                }
            }
        }
    }

    /// Hands over because the configuration has no vote for this node any more.
    pub(super) fn find_successor(&mut self) {
        let voters = self.peers.iter().filter(|(id, _)| self.conf.voters.contains(id));
        let best =
            voters.max_by_key(|(id, peer)| (peer.active, peer.matched(), std::cmp::Reverse(**id)));
        match best.map(|(id, _)| *id) {
            Some(heir) => self.on_transfer_request(heir),
            None => self.resign(),
        }
    }

    /// Stops leading. What is committed is told first: the others may live by a configuration that is
    /// over, and nobody else can tell them.
    fn resign(&mut self) {
        self.flush_appends();
        self.become_follower(self.term, None);
    }

    /// Begins a transfer to whoever is best placed, because this node had better not lead.
    pub(super) fn hand_leadership_over(&mut self) {
        if self.transfer.is_none()
            && let Some(heir) = self.best_heir()
        {
            self.on_transfer_request(heir);
        }
    }

    /// Returns the voter, heard of lately, whose log is longest.
    fn best_heir(&self) -> Option<NodeId> {
        let able = self.peers.iter().filter(|(id, peer)| {
            let caught_up = peer.matched() >= self.commit;
            self.conf.voters.contains(id) && peer.active && caught_up
        });
        // Of equals the first: the choice is the same in every run.
        able.max_by_key(|(id, peer)| (peer.matched(), std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }
}
