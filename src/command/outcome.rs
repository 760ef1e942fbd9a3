//! What comes back from a command: the answer for the one who asked, events for those who watch.
//!
//! Invariants
//! - An outcome is a function of the log alone: every member computes the same one.
//! - A refused command has changed nothing.
//! - Events of one entry are in the order of their sub-revisions, and all have one revision.

use std::fmt;

use bytes::Bytes;

use crate::types::{LeaseId, Revision};

/// One key at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// When the key's present life began.
    pub create_revision: Revision,
    /// When it was last written.
    pub mod_revision: Revision,
    /// Writes since it was created; 1 for a new key.
    pub version: i64,
    /// The value.
    pub value: Bytes,
    /// The lease that owns it; 0 for none.
    pub lease: LeaseId,
}

/// A row's place in MVCC time: the revision, and which change within it. Prints as `r17.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RowId {
    /// The revision.
    pub main: Revision,
    /// Counts the changes of that revision from 0.
    pub sub: u32,
}

impl RowId {
    /// Names a row.
    pub const fn new(main: Revision, sub: u32) -> Self {
        Self { main, sub }
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

impl fmt::Debug for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One change of one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was written.
    Put {
        /// Its new state.
        kv: KeyValue,
        /// Which change of its revision this is.
        sub: u32,
        /// The key's row before this one, tombstones included; `None` at the key's very first.
        prev: Option<RowId>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// When.
        revision: Revision,
        /// Which change of its revision this is.
        sub: u32,
        /// The key's row before this one. Only a store whose older rows are gone has none.
        prev: Option<RowId>,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { kv, .. } => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The place of the change within its revision.
    pub fn sub(&self) -> u32 {
        match self {
            Self::Put { sub, .. } | Self::Delete { sub, .. } => *sub,
        }
    }

    /// The key's row before the change.
    pub fn prev(&self) -> Option<RowId> {
        match self {
            Self::Put { prev, .. } | Self::Delete { prev, .. } => *prev,
        }
    }

    /// Tells whether the change gave life to a key that was not there.
    pub fn is_create(&self) -> bool {
        matches!(self, Self::Put { kv, .. } if kv.create_revision == kv.mod_revision)
    }
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RangeOutcome {
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// How many keys the range has at that revision, whatever limit and filters say.
    pub count: u64,
    /// Whether the limit cut keys off.
    pub more: bool,
    /// The store's revision at the time of the read (not the one that was asked for).
    pub revision: Revision,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TxnOutcome {
    /// The store's revision after it. `r0` in a nested transaction: its header is empty in etcd.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One answer for each operation of the branch that ran.
    pub responses: Vec<OpOutcome>,
}

/// The answer of one operation within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// Of a range.
    Range(RangeOutcome),
    /// Of a put.
    Put {
        /// The revision after the operation.
        revision: Revision,
        /// The state before, if asked for and there was one.
        prev: Option<KeyValue>,
    },
    /// Of a delete.
    DeleteRange {
        /// The revision after the operation: unchanged if nothing was deleted yet.
        revision: Revision,
        /// How many keys it deleted.
        deleted: u64,
        /// Their states before, if asked for.
        prevs: Vec<KeyValue>,
    },
    /// Of a nested transaction.
    Txn(TxnOutcome),
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a put.
    Put {
        /// The put's revision.
        revision: Revision,
        /// The state before, if asked for and there was one.
        prev: Option<KeyValue>,
    },
    /// Of a delete.
    DeleteRange {
        /// The revision after it: unchanged if nothing was deleted.
        revision: Revision,
        /// How many keys it deleted.
        deleted: u64,
        /// Their states before, if asked for.
        prevs: Vec<KeyValue>,
    },
    /// Of a transaction.
    Txn(TxnOutcome),
    /// Of a compaction.
    Compact {
        /// The store's revision.
        revision: Revision,
    },
    /// Of a grant.
    LeaseGrant {
        /// The lease.
        id: LeaseId,
        /// The granted seconds.
        ttl: i64,
        /// The store's revision.
        revision: Revision,
    },
    /// Of a client's revoke.
    LeaseRevoke {
        /// The store's revision after the lease's keys were deleted.
        revision: Revision,
    },
    /// Of the leader's revokes.
    LeaseExpire {
        /// The store's revision after the leases' keys were deleted.
        revision: Revision,
        /// Which leases ended; the others were renewed, revoked or granted anew meanwhile.
        revoked: Vec<LeaseId>,
    },
    /// Of an alarm command.
    Alarm {
        /// The alarms that were listed, raised or cleared: member and alarm number.
        alarms: Vec<(u64, i32)>,
        /// The store's revision.
        revision: Revision,
    },
    /// Of a command that has nothing to tell.
    Done {
        /// The store's revision.
        revision: Revision,
    },
    /// The command was refused and changed nothing.
    Refused(Refusal, Revision),
}

impl Outcome {
    /// The store's revision once the command was applied.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { revision, .. }
            | Self::DeleteRange { revision, .. }
            | Self::Compact { revision }
            | Self::LeaseGrant { revision, .. }
            | Self::LeaseRevoke { revision }
            | Self::LeaseExpire { revision, .. }
            | Self::Alarm { revision, .. }
            | Self::Done { revision }
            | Self::Refused(_, revision) => *revision,
            Self::Txn(txn) => txn.revision,
        }
    }
}

/// Why a request is refused. Codes and texts are given by the API alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused: {self:?}")]
pub enum Refusal {
    /// The revision is below the compacted one, which is named.
    Compacted(Revision),
    /// The revision is not there yet.
    FutureRevision,
    /// `ignore_value` or `ignore_lease` on a key that does not exist; an empty operation in a txn.
    KeyNotFound,
    /// No key was given.
    KeyNotProvided,
    /// `ignore_value` together with a value.
    ValueProvided,
    /// `ignore_lease` together with a lease.
    LeaseProvided,
    /// There is no such lease.
    LeaseNotFound,
    /// There is such a lease already.
    LeaseExists,
    /// The time to live is beyond the limit.
    LeaseTtlTooLarge,
    /// A branch of a transaction writes one key twice.
    DuplicateKey,
    /// A transaction has too many operations.
    TooManyOps,
    /// The sort order or target does not exist.
    InvalidSort,
    /// The space alarm is on, or the quota is reached.
    NoSpace,
    /// The corruption alarm is on.
    Corrupt,
    /// A stored row of this member fails its checksum: the member is stopping (its peers are not).
    Damaged,
    /// The user may not do that.
    PermissionDenied,
    /// Authentication is on and nobody said who asks.
    UserEmpty,
    /// The user's rights were read before they changed.
    AuthOldRevision,
    /// There is no such member.
    MemberNotFound,
    /// There is, or was, a member of that id.
    MemberIdExists,
    /// Another member has one of these peer URLs.
    PeerUrlsExist,
    /// Only a learner can be promoted.
    NotLearner,
    /// The learner is too far behind to be promoted.
    LearnerNotReady,
    /// There are as many learners as may be.
    TooManyLearners,
    /// The change would leave too few started voters.
    NotEnoughStarted,
    /// The change would leave too few connected voters.
    UnhealthyCluster,
}
