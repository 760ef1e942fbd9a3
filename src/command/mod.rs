//! What a member may ask of the replicated state machine, and what comes back.
//!
//! A [`Command`] is the payload of one log entry: who asks ([`RequestId`], user, the auth revision the
//! user's rights were seen at) and one [`Op`]. Applying it yields an [`Outcome`], the same on every
//! member, and any number of [`Event`]s for watchers. Requests from clients are converted into these
//! types once, at the edge; what cannot be meant (a range with a missing start, a sort order that does
//! not exist) cannot be written down here.
//!
//! Files: this one has the requests, [`range`] the key ranges, [`outcome`] the answers, `codec` the
//! stored form (the schema of etcd's `InternalRaftRequest`).
//!
//! Invariants
//! - A command says everything that its effect depends on. Nothing is looked up from clocks, roles or
//!   local settings while it is applied.
//! - Numbers that clients may choose freely (revisions to read at, limits, lease ids, unknown enum
//!   values in compares) are carried as given; the machine gives each a meaning or refuses it.
//! - Refusals carry no texts. Codes and texts are the API's business.
//!
//! Left out: how a command travels, and what it does.

mod codec;
pub mod outcome;
pub mod range;

use std::fmt;

use bytes::Bytes;

use crate::types::{LeaseId, NodeId, Term};

pub use codec::{DecodeError, TXN_DEPTH_MAX};
pub use outcome::{Event, KeyValue, OpOutcome, Outcome, RangeOutcome, Refusal, RowId, TxnOutcome};
pub use range::{KeyRange, RangeEnd};

/// Names one proposal, unique over all members and restarts: the waiter for an outcome is found by it,
/// so an id that came back after a restart would answer the wrong caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req{:x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The payload of one log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which proposal this is.
    pub id: RequestId,
    /// Who asks; empty without authentication.
    pub user: String,
    /// The auth store's revision at which the user was recognised; 0 without authentication.
    pub auth_revision: u64,
    /// What is asked.
    pub op: Op,
}

/// Everything that goes through the log, membership changes apart (they are entries of their own kind).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes one key.
    Put(Put),
    /// Deletes a key or a range.
    DeleteRange(DeleteRange),
    /// Compares, then runs one of two lists of operations.
    Txn(Txn),
    /// Forgets the history below a revision.
    Compact {
        /// The oldest revision that stays readable.
        revision: i64,
        /// Whether the caller waits until the old rows are gone from the store.
        physical: bool,
    },
    /// Creates a lease.
    LeaseGrant {
        /// Its id, chosen before proposing.
        id: LeaseId,
        /// Seconds to live.
        ttl: i64,
    },
    /// Ends a lease because a client asked.
    LeaseRevoke {
        /// Which one.
        id: LeaseId,
    },
    /// Ends leases because the leader of `term` saw them run out. Takes effect only in an entry of that
    /// term, and only for leases whose mark is unchanged: a stalled old leader can revoke nothing.
    LeaseExpire {
        /// The proposer's term.
        term: Term,
        /// The leases.
        leases: Vec<LeaseMark>,
    },
    /// Stores where lease time stands and what is left of some leases then, so that the next leader neither
    /// resets nor shortens them. Takes effect only in an entry of `term`.
    LeaseCheckpoint {
        /// The proposer's term.
        term: Term,
        /// Lease time; 0 for «as it stands».
        time_millis: u64,
        /// The leases.
        leases: Vec<LeaseRemaining>,
    },
    /// Lists, raises or clears alarms.
    Alarm {
        /// What to do.
        action: AlarmAction,
        /// Whose alarm; 0 for all in a listing.
        member: u64,
        /// The alarm's number as given (1 NOSPACE, 2 CORRUPT); unknown ones are stored as given.
        alarm: i32,
    },
    /// Sets the version that the whole cluster speaks.
    ClusterVersionSet {
        /// Such as `3.7.0`.
        version: String,
    },
    /// Publishes a member's name and client URLs.
    MemberAttributes {
        /// Which member.
        member: NodeId,
        /// Its name.
        name: String,
        /// Where clients find it.
        client_urls: Vec<String>,
    },
    /// Ties a member id to one data directory, so that a wiped member under its old id is recognised.
    MemberStoreSet {
        /// Which member.
        member: NodeId,
        /// The id drawn when its data directory was made.
        store_id: u64,
    },
    /// Asks every member for the hash of its keys at a revision.
    KeyspaceHashAsk {
        /// Names this question.
        round: u64,
        /// The revision to hash at.
        revision: i64,
    },
    /// One member's answer to [`Op::KeyspaceHashAsk`].
    KeyspaceHashReport {
        /// Which question.
        round: u64,
        /// Who answers.
        member: NodeId,
        /// The revision that was hashed.
        revision: i64,
        /// Up to where that member's history was compacted; −1 for never.
        compact_revision: i64,
        /// The hash.
        hash: u32,
    },
}

/// A lease as its proposer knew it. A lease that was revoked and granted anew has another mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseMark {
    /// Its id.
    pub id: LeaseId,
    /// The marker of that grant (the index of the granting entry).
    pub mark: u64,
}

/// What is left of a lease's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRemaining {
    /// Its id.
    pub id: LeaseId,
    /// The marker of that grant (the index of the granting entry).
    pub mark: u64,
    /// The rest of its life.
    pub remaining_millis: u64,
}

/// What an alarm command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlarmAction {
    /// Lists.
    Get,
    /// Raises.
    Activate,
    /// Clears.
    Deactivate,
    /// A number that nobody defined. Refused before it is proposed; a log that holds one does nothing.
    Unknown(i32),
}

/// Writes one key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease that shall own the key; 0 for none.
    pub lease: LeaseId,
    /// Whether the answer carries the state before.
    pub prev_kv: bool,
    /// Keeps the stored value; the key must exist.
    pub ignore_value: bool,
    /// Keeps the stored lease; the key must exist.
    pub ignore_lease: bool,
}

/// Deletes all keys in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// Which keys.
    pub range: KeyRange,
    /// Whether the answer carries the deleted keys.
    pub prev_kv: bool,
}

/// Reads keys at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub range: KeyRange,
    /// The revision to read at; 0 or less for the newest (but see the transaction's rule for negatives).
    pub revision: i64,
    /// How many keys at most; 0 or less for all.
    pub limit: i64,
    /// The order of the reply.
    pub sort: (SortOrder, SortTarget),
    /// Leaves out values (and leases).
    pub keys_only: bool,
    /// Leaves out the keys themselves.
    pub count_only: bool,
    /// Drops keys last written before; 0 for off.
    pub min_mod: i64,
    /// Drops keys last written after; 0 for off.
    pub max_mod: i64,
    /// Drops keys created before; 0 for off.
    pub min_create: i64,
    /// Drops keys created after; 0 for off.
    pub max_create: i64,
}

impl Range {
    /// Reads all of `range` at the newest revision, in key order.
    pub fn newest(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: 0,
            sort: (SortOrder::None, SortTarget::Key),
            keys_only: false,
            count_only: false,
            min_mod: 0,
            max_mod: 0,
            min_create: 0,
            max_create: 0,
        }
    }
}

/// The direction of a sorted reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SortOrder {
    /// Key order; with a target other than the key it means ascending, applied after the limit.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a sorted reply is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SortTarget {
    /// The key's bytes.
    #[default]
    Key,
    /// The count of writes.
    Version,
    /// The create revision.
    Create,
    /// The modification revision.
    Mod,
    /// The value's bytes.
    Value,
}

/// Compares, then runs `success` if every compare holds, else `failure`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Txn {
    /// The conditions; with none, `success` runs.
    pub compares: Vec<Compare>,
    /// Runs if all hold.
    pub success: Vec<TxnOp>,
    /// Runs otherwise.
    pub failure: Vec<TxnOp>,
}

impl Txn {
    /// Tells whether no branch, nested ones included, can write.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            TxnOp::Range(_) => true,
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => false,
            TxnOp::Txn(txn) => txn.is_read_only(),
        })
    }
}

/// One step of a transaction's branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Reads.
    Range(Range),
    /// Writes a key.
    Put(Put),
    /// Deletes keys.
    DeleteRange(DeleteRange),
    /// A transaction within the transaction.
    Txn(Txn),
}

/// A condition on one key, or on each key of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// How the key's property shall stand to the operand.
    pub result: CompareResult,
    /// Which property.
    pub target: CompareTarget,
    /// The right-hand side. One that does not fit the target counts as zero or empty.
    pub operand: Operand,
}

/// A relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareResult {
    /// Equal.
    Equal,
    /// Stored greater than operand.
    Greater,
    /// Stored less than operand.
    Less,
    /// Not equal.
    NotEqual,
    /// A number that nobody defined: always holds.
    Unknown(i32),
}

/// A property of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareTarget {
    /// The count of writes.
    Version,
    /// The create revision.
    Create,
    /// The modification revision.
    Mod,
    /// The value.
    Value,
    /// The lease.
    Lease,
    /// A number that nobody defined: the operands count as equal.
    Unknown(i32),
}

/// The right-hand side of a compare, tagged as the client tagged it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Operand {
    /// None was given.
    #[default]
    Nothing,
    /// A version.
    Version(i64),
    /// A create revision.
    Create(i64),
    /// A modification revision.
    Mod(i64),
    /// A value.
    Value(Bytes),
    /// A lease id.
    Lease(i64),
}
