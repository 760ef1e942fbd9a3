//! Read rounds, and questions to the leader. The bookkeeping is in `reads.rs`; here is when a round
//! may begin and what confirms it.

use super::Node;
use crate::raft::input::ReadId;
use crate::raft::message::Message;
use crate::raft::quorum;
use crate::raft::reads::Asker;
use crate::raft::ready::{FailedRead, ReadFailure, ReadState, Role};
use crate::types::{Index, NodeId};

impl Node {
    pub(super) fn on_read(&mut self, id: ReadId) {
        match (self.role, self.leader) {
            (Role::Leader, _) => self.reads.wait(Asker::Local(id)),
            (_, Some(_)) => self.reads.ask(id),
            (_, None) => self.fail_reads(vec![id], ReadFailure::NoLeader),
        }
    }

    pub(super) fn on_forwarded_read(&mut self, from: NodeId, forward: u64) {
        if self.role == Role::Leader {
            self.reads.wait(Asker::Peer { from, forward });
        } else {
            self.say(from, Message::ReadIndexResponse { forward, index: None });
        }
    }

    /// Begins one round, or asks one question, for all reads that came since the driver last asked.
    pub(super) fn gather_reads(&mut self) {
        if self.role == Role::Leader {
            // Before its first commit a leader does not know what its predecessors have committed:
            // the reads wait. (Its first, empty entry is on its way.)
            let ready = self.has_committed_in_term() || crate::mutant!("R15");
            if ready && self.reads.begin_round(self.commit).is_some() {
                self.send_heartbeats(true);
                self.confirm_reads(); // A single voter is its own quorum.
            }
        } else if let Some(leader) = self.leader
            && let Some(forward) = self.reads.begin_forward()
        {
            self.say(leader, Message::ReadIndex { forward });
        }
    }

    /// Answers the rounds that a quorum has confirmed.
    pub(super) fn confirm_reads(&mut self) {
        if self.role != Role::Leader || !self.reads.has_rounds() {
            return;
        }
        let own = self.reads.round();
        let answered = |id: NodeId| {
            if id == self.config.id {
                own
            } else {
                self.peers.get(&id).map_or(0, |peer| peer.round)
            }
        };
        let confirmed = quorum::agreed(&self.conf, answered);
        for (index, asker) in self.reads.confirmed(confirmed) {
            match asker {
                Asker::Local(id) => self.out.reads.push(ReadState { id, index }),
                Asker::Peer { from, forward } => {
                    let index = Some(index);
                    self.say(from, Message::ReadIndexResponse { forward, index });
                }
            }
        }
    }

    pub(super) fn on_read_answer(&mut self, forward: u64, index: Option<Index>) {
        let ids = self.reads.answered(forward);
        match index {
            Some(index) => {
                self.out.reads.extend(ids.into_iter().map(|id| ReadState { id, index }));
            }
            None => self.fail_reads(ids, ReadFailure::LeaderChanged),
        }
    }

    pub(super) fn fail_reads(&mut self, ids: Vec<ReadId>, reason: ReadFailure) {
        self.out.failed_reads.extend(ids.into_iter().map(|id| FailedRead { id, reason }));
    }

    /// Gives up everything that rested on the leader known so far.
    pub(super) fn abandon_reads(&mut self, reason: ReadFailure) {
        for asker in self.reads.abandon() {
            match asker {
                Asker::Local(id) => self.fail_reads(vec![id], reason),
                Asker::Peer { from, forward } => {
                    self.say(from, Message::ReadIndexResponse { forward, index: None });
                }
            }
        }
    }
}
