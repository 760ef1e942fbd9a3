//! The replicated state machine: log entries in, outcomes and events out.
//!
//! The [`Machine`] belongs to one task, the engine. It is given committed entries in order and turns each
//! into exactly one change set: rows, tables, and the position of the entry, all or nothing. What comes
//! back ([`Applied`]) is for the shell to pass on: events to the watch hub *first*, then outcomes to those
//! who wait, accepted membership changes to the Raft node, lease changes to the lease clock.
//!
//! ```text
//!   entries ─→ apply ─┬─ decode ─ gate (alarms) ─ mvcc writer / tables ─┬─→ one change set an entry → storage
//!                     └─ membership change ─ validate ──────────────────┘
//!                           └─→ Applied { events, outcomes, conf, leases, … }
//! ```
//!
//! Serving threads read through a [`Reader`]: the store, and the small tables (leases, members, alarms),
//! which are kept in memory as a whole.
//!
//! # Invariants
//!
//! - **Nothing local shows.** An outcome, a revision, a hash depend on the entries before and on nothing
//!   else: not on the clock, this member's role or id, its flags, its free space, how far its flush or
//!   scrub has come, or where a batch of entries begins.
//! - **Replay is idempotent.** An entry at or below the applied position is passed over without a trace.
//!   So each entry takes effect once, by its place; request ids only find the waiter.
//! - **Every entry moves the position**, also one that does nothing, in the same change set as its effect.
//! - A refused command, and a refused membership change, have changed nothing but the position.
//! - There is no error that a caller could swallow: what every member meets alike is an outcome; an entry
//!   of a kind that this program does not know, or damage, stops the member by a panic.
//! - Memory and the stored tables say the same at every position.
//!
//! # Alarms
//!
//! With CORRUPT on, everything that changes keys or leases is refused. With NOSPACE on, what needs space is:
//! puts, transactions with a put in either branch, taken or not, and grants. Deletes, compaction and
//! revokes go through: they are the way out. Reads are not asked here.
//!
//! Left out: permissions (there are no users yet; commands carry who asks), who agrees on keyspace hashes
//! (questions and answers are handed out as [`HashRound`]).

mod apply;
mod conf;
mod reader;
pub mod snapshot;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::cluster::membership::RowError;
use crate::command::{Event, Outcome, Refusal, RequestId};
use crate::lease;
use crate::mvcc::StoreError;
use crate::raft::{ConfChange, ConfState};
use crate::storage::Storage;
use crate::types::{ClusterId, Index, LogPosition, NodeId, Revision};
use bytes::Bytes;

pub use conf::{bootstrap_entries, conf_change};
pub use reader::{LeaseInfo, Reader};
use tables::Shared;

/// What the machine must be told, and what it is told wrongly if the data is another cluster's.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineOptions {
    /// The cluster's id, from the first configuration or from the members that were asked; 0 to take what
    /// is stored.
    pub cluster_id: ClusterId,
}

/// Why the machine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The keys.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table's row.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The data belongs to another cluster.
    #[error("the data belongs to cluster {stored}, not to {asked}")]
    OtherCluster {
        /// The cluster in the data.
        stored: ClusterId,
        /// The cluster that was asked for.
        asked: ClusterId,
    },
    /// A snapshot that does not lead forward.
    #[error("the snapshot ends at {snapshot}, and {applied} is applied")]
    Stale {
        /// Where the snapshot ends.
        snapshot: LogPosition,
        /// What is applied.
        applied: LogPosition,
    },
}

/// The state machine of one member.
pub struct Machine {
    shared: Arc<Shared>,
    applied: LogPosition,
    /// The cluster's name is not stored yet; the next entry does it.
    name_due: bool,
    /// How many snapshots were put in place since the start.
    installs: u64,
}

/// What a batch of entries came to, in the order of the entries.
#[derive(Debug, Default)]
pub struct Applied {
    /// The last applied entry; its term is the one for response headers.
    pub position: LogPosition,
    /// The store's revision.
    pub revision: Revision,
    /// What watchers are told, one item a revision, without a gap.
    pub events: Vec<(Revision, Vec<Event>)>,
    /// The answers. Most of them have a waiter at one member only.
    pub outcomes: Vec<(RequestId, Outcome)>,
    /// Membership entries and whether they took effect. Raft is told of a refused one as well: that it is
    /// applied, and that the configuration stays.
    pub conf: Vec<(Index, Result<ConfChange, Refusal>)>,
    /// What happened to leases, for the leader's clock.
    pub leases: Vec<lease::Change>,
    /// Questions and answers about the hash of the keyspace.
    pub hash_rounds: Vec<HashRound>,
    /// The members, their addresses or the cluster's version changed.
    pub membership_changed: bool,
    /// An alarm went on or off.
    pub alarms_changed: bool,
    /// History was compacted: scrubbing has work.
    pub compacted: bool,
}

/// Agreement on the hash of the keyspace, as it passes through the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashRound {
    /// Every member is asked.
    Ask {
        /// Names the question.
        round: u64,
        /// The revision to hash at.
        revision: Revision,
    },
    /// A member has answered.
    Report {
        /// Which question.
        round: u64,
        /// Who answers.
        member: NodeId,
        /// The revision that was hashed.
        revision: Revision,
        /// Up to where that member's history was compacted; −1 for never.
        compact_revision: i64,
        /// The hash.
        hash: u32,
    },
}

impl Machine {
    /// Opens the machine over a store: reads the small tables, never the keys.
    pub fn open(storage: Storage, options: MachineOptions) -> Result<Self, MachineError> {
        let applied = storage.applied();
        let mut state = tables::State::load(storage)?;
        let name_due = state.name(options.cluster_id)?;
        Ok(Self { shared: Arc::new(Shared::new(state)), applied, name_due, installs: 0 })
    }

    /// Returns the position of the last applied entry.
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// Returns the configuration that the applied entries lead to: what the Raft node starts with.
    pub fn conf_state(&self) -> ConfState {
        self.shared.read().conf_state.clone()
    }

    /// Returns a view for serving threads. It follows the machine, also over an installed snapshot.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Returns the store's tables, to flush them and to ask what is durable.
    pub fn storage(&self) -> Storage {
        self.shared.read().store.storage().clone()
    }

    /// Puts a received snapshot in place of everything this machine had; returns the old store, to be closed
    /// and removed once its last reader is gone. The hub is told by [`Hub::restore`](crate::watch::Hub::restore).
    ///
    /// # Errors
    /// If the snapshot is no progress, or is another cluster's; then nothing has changed.
    pub fn install(&mut self, storage: Storage) -> Result<Storage, MachineError> {
        let snapshot = storage.applied();
        if snapshot.index <= self.applied.index {
            return Err(MachineError::Stale { snapshot, applied: self.applied });
        }
        let cluster_id = self.shared.read().membership.cluster_id();
        let mut state = tables::State::load(storage)?;
        self.name_due = state.name(cluster_id)?;
        self.installs += 1;
        assert!(
            self.installs == 1 || !crate::mutant!("E28"),
            "the last install is not cleared away"
        );
        let old = self.shared.replace(state);
        if !crate::mutant!("E03") {
            self.applied = snapshot;
        }
        Ok(old)
    }

    /// Asserts what the parts assert of themselves, and that the stored tables say what memory says.
    pub fn check(&self) {
        let state = self.shared.read();
        assert_eq!(
            state.store.storage().applied(),
            self.applied,
            "the tables are at another entry"
        );
        state.check();
        state.store.check();
        state.store.storage().check();
    }
}

/// Bytes for a row's value.
fn value(text: String) -> Option<Bytes> {
    Some(Bytes::from(text))
}
