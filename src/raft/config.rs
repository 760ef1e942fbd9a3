//! What a node is told when it starts: its limits, and what it remembered.

use super::entry::{Entry, HardState};
use super::membership::ConfState;
use crate::types::{Index, LogPosition, NodeId, Term};

/// A node's limits. Times are in ticks, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's own id.
    pub id: NodeId,
    /// The shortest silence after which a follower asks for an election; the real one is drawn from
    /// once to twice this. Also the leader's quorum check, and the life of a transfer.
    pub election_ticks: u32,
    /// The time between heartbeats; several must fit into `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Whether the node asks before it campaigns. Without, a node that lost touch moves the term, and
    /// unseats a healthy leader when it comes back.
    pub pre_vote: bool,
    /// Whether the first wait after a start is shortened (etcd's `--initial-election-tick-advance`): the
    /// only voter stands at its first tick, others after two at the earliest. Where nobody is asked before a
    /// campaign (`pre_vote`), others wait as ever: haste would unseat a leader that was not heard yet.
    pub hasty_start: bool,
    /// The most one append carries; a single larger entry still goes.
    pub append_bytes_max: u64,
    /// The most appends on their way to one peer.
    pub inflight_max: usize,
    /// The most bytes on their way to one peer.
    pub inflight_bytes_max: u64,
    /// The most bytes appended and not committed before proposals are refused.
    pub uncommitted_bytes_max: u64,
    /// The most bytes of committed entries in one [`Ready`](super::Ready).
    pub committed_bytes_max: u64,
    /// The most committed entries in one [`Ready`](super::Ready).
    pub committed_entries_max: usize,
}

impl Config {
    /// Makes a configuration with etcd's proportions: a heartbeat a tick, an election in ten.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            hasty_start: false,
            append_bytes_max: 1 << 20,
            inflight_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 256 << 20,
            committed_bytes_max: 4 << 20,
            committed_entries_max: 4096,
        }
    }

    pub(super) fn assert_sane(&self) {
        assert!(self.heartbeat_ticks > 0, "heartbeats need a period");
        assert!(
            self.election_ticks > self.heartbeat_ticks,
            "an election timeout must outlast a heartbeat"
        );
        assert!(self.inflight_max > 0 && self.inflight_bytes_max > 0, "a window must have room");
        assert!(self.committed_entries_max > 0, "a page must have room");
    }
}

/// What a node remembered: the disk log and the machine's durable state, read at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The promises.
    pub hard_state: HardState,
    /// The configuration in force at `applied`.
    pub conf_state: ConfState,
    /// The position right before the first entry: where the log was last trimmed or replaced by a
    /// snapshot.
    pub base: LogPosition,
    /// The log after `base`, contiguous.
    pub entries: Vec<Entry>,
    /// What the machine has durably applied; entries after it are applied again.
    pub applied: Index,
    /// Fresh randomness. NB: it must differ in each life of the node: read forwards are named by it,
    /// and a late answer to the last life's question must not match this life's.
    pub seed: u64,
}

/// The position at which a new cluster's log begins.
///
/// The founders' configuration is in no entry. Starting them one entry late, as if after a snapshot,
/// makes every later joiner (whose log is empty) begin with a snapshot, which carries it.
const FOUNDING: LogPosition = LogPosition::new(Index(1), Term(1));

impl Restored {
    /// Makes the state of one founder of a new cluster; all founders must be given the same members.
    pub fn founder(voters: impl IntoIterator<Item = NodeId>, seed: u64) -> Self {
        Self {
            hard_state: HardState { term: FOUNDING.term, vote: None, commit: FOUNDING.index },
            conf_state: ConfState::of_voters(voters),
            base: FOUNDING,
            entries: Vec::new(),
            applied: FOUNDING.index,
            seed,
        }
    }

    /// Makes the state of a member that joins an existing cluster and knows nothing yet.
    #[cfg(test)]
    pub fn joiner(seed: u64) -> Self {
        Self {
            hard_state: HardState::default(),
            conf_state: ConfState::default(),
            base: LogPosition::default(),
            entries: Vec::new(),
            applied: Index(0),
            seed,
        }
    }

    /// Checks that the parts belong together, and lifts the term to that of the last entry.
    ///
    /// The lift is for a torn hand-over: entries of a new term may have reached the disk without the
    /// hard state beside them. Nothing was promised in that term, so no vote is lost.
    pub(super) fn checked(mut self) -> Result<Self, RestoreError> {
        let mut last = self.base;
        for entry in &self.entries {
            if entry.index != last.index.next() || entry.term < last.term {
                return Err(RestoreError::NotContiguous { last, next: entry.position() });
            }
            last = entry.position();
        }
        if self.hard_state.commit > last.index {
            return Err(RestoreError::CommitBeyondLog { commit: self.hard_state.commit, last });
        }
        if self.applied < self.base.index || self.applied > last.index {
            let (applied, base) = (self.applied, self.base);
            return Err(RestoreError::AppliedOutsideLog { applied, base, last });
        }
        if self.hard_state.term < last.term {
            self.hard_state.term = last.term;
            self.hard_state.vote = None;
        }
        self.conf_state.check();
        Ok(self)
    }
}

/// Why remembered state cannot be trusted. The member must not start on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The log has a hole, or its terms go back.
    #[error("the log is not contiguous: {next} follows {last}")]
    NotContiguous {
        /// The last entry in order.
        last: LogPosition,
        /// The one out of order.
        next: LogPosition,
    },
    /// Entries known to be committed are gone.
    #[error("the log ends at {last} before the commit index {commit}: it has lost its tail")]
    CommitBeyondLog {
        /// The remembered commit index.
        commit: Index,
        /// The end of the log.
        last: LogPosition,
    },
    /// The machine's state and the log do not meet. A driver that crashed between the two halves of a
    /// snapshot's installation finds this before it gets here: it drops the log (`node/snapshot.rs`).
    #[error("applied index {applied} is outside the log {base}..{last}")]
    AppliedOutsideLog {
        /// The machine's applied index.
        applied: Index,
        /// The position before the log.
        base: LogPosition,
        /// The end of the log.
        last: LogPosition,
    },
}
