//! What a client asks and what it is told: requests and replies of etcd's API, as plain data.
//!
//! Field names and meanings are those of the wire. Zero, false and empty fields are left out of the JSON.
//! A txn holds the same `Operation`s (put, range, delete range and txn only) and its reply the same
//! `Reply`s, whose inner headers carry nothing but a revision; 0 there means «not recorded».

use crate::blob::Blob;
use serde::{Deserialize, Serialize};

fn absent<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! plain {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$fdoc])* #[serde(skip_serializing_if = "absent")] pub $field: $type,)*
        }
    };
}

plain! {
    /// A key as a reply shows it.
    pub struct KeyValue {
        key: Blob,
        value: Blob,
        create_revision: i64,
        mod_revision: i64,
        version: i64,
        lease: i64,
    }
}

plain! {
    /// The header of a reply: who answered, in which term, at which revision of the store.
    pub struct Header {
        revision: i64,
        member: u64,
        term: u64,
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The key was written.
    Put,
    /// The key was removed; its `kv` then has only key and mod_revision.
    Delete,
}

/// One change, without the state before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Put or delete.
    pub kind: EventKind,
    /// The key after it.
    pub kv: KeyValue,
}

/// One change as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The key after it.
    pub kv: KeyValue,
    /// The key before the revision, if asked for and if there was one.
    #[serde(default, skip_serializing_if = "absent")]
    pub prev_kv: Option<KeyValue>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Operation {
    Put(Put),
    Range(Range),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact(Compact),
    LeaseGrant(LeaseGrant),
    LeaseRevoke(LeaseRevoke),
    LeaseKeepAlive(LeaseKeepAlive),
    LeaseTimeToLive(LeaseTimeToLive),
}

plain! {
    /// Writes one key.
    pub struct Put {
        key: Blob,
        value: Blob,
        lease: i64,
        prev_kv: bool,
        ignore_value: bool,
        ignore_lease: bool,
    }
}

plain! {
    /// Reads keys; a get is a range with an empty `range_end`.
    pub struct Range {
        key: Blob,
        range_end: Blob,
        limit: i64,
        revision: i64,
        sort_order: SortOrder,
        sort_target: SortTarget,
        serializable: bool,
        keys_only: bool,
        count_only: bool,
        min_mod_revision: i64,
        max_mod_revision: i64,
        min_create_revision: i64,
        max_create_revision: i64,
    }
}

/// The order of a range's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

/// By what a range's keys are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

plain! {
    /// Removes keys.
    pub struct DeleteRange {
        key: Blob,
        range_end: Blob,
        prev_kv: bool,
    }
}

plain! {
    /// If every compare holds then `success`, else `failure`, in one revision.
    pub struct Txn {
        compare: Vec<Compare>,
        success: Vec<Operation>,
        failure: Vec<Operation>,
    }
}

/// A condition on one key, or on each key of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The key, or the first key of the range.
    pub key: Blob,
    /// Where the range ends, as in `Range`.
    #[serde(default, skip_serializing_if = "absent")]
    pub range_end: Blob,
    /// The relation between what is stored and the operand.
    pub result: CompareResult,
    /// What is compared, with the operand.
    pub target: Target,
}

/// The relation a compare asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What a compare looks at, with its operand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Target {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Blob),
    Lease(i64),
}

plain! {
    /// Forgets revisions below `revision`.
    pub struct Compact {
        revision: i64,
        physical: bool,
    }
}

plain! {
    /// Asks for a lease; id 0 lets the server choose.
    pub struct LeaseGrant {
        id: i64,
        ttl: i64,
    }
}

plain! {
    /// Ends a lease and removes its keys.
    pub struct LeaseRevoke {
        id: i64,
    }
}

plain! {
    /// Renews a lease once.
    pub struct LeaseKeepAlive {
        id: i64,
    }
}

plain! {
    /// Asks how long a lease still lives.
    pub struct LeaseTimeToLive {
        id: i64,
        keys: bool,
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reply {
    Put(PutReply),
    Range(RangeReply),
    DeleteRange(DeleteRangeReply),
    Txn(TxnReply),
    Compact(PlainReply),
    LeaseGrant(LeaseGrantReply),
    LeaseRevoke(PlainReply),
    LeaseKeepAlive(LeaseKeepAliveReply),
    LeaseTimeToLive(LeaseTimeToLiveReply),
}

plain! {
    /// A reply that is only a header: of compact and of lease revoke.
    pub struct PlainReply {
        header: Header,
    }
}

plain! {
    /// The reply to a put.
    pub struct PutReply {
        header: Header,
        prev_kv: Option<KeyValue>,
    }
}

plain! {
    /// The reply to a range.
    pub struct RangeReply {
        header: Header,
        kvs: Vec<KeyValue>,
        more: bool,
        count: i64,
    }
}

plain! {
    /// The reply to a delete range.
    pub struct DeleteRangeReply {
        header: Header,
        deleted: i64,
        prev_kvs: Vec<KeyValue>,
    }
}

plain! {
    /// The reply to a txn.
    pub struct TxnReply {
        header: Header,
        succeeded: bool,
        responses: Vec<Reply>,
    }
}

plain! {
    /// The reply to a lease grant.
    pub struct LeaseGrantReply {
        header: Header,
        id: i64,
        ttl: i64,
    }
}

plain! {
    /// The reply to a renewal; `ttl` 0 says that the lease is gone.
    pub struct LeaseKeepAliveReply {
        header: Header,
        ttl: i64,
    }
}

plain! {
    /// The reply about a lease's life; `ttl` −1 says that there is no such lease.
    pub struct LeaseTimeToLiveReply {
        header: Header,
        ttl: i64,
        granted_ttl: i64,
        keys: Vec<Blob>,
    }
}

/// The end of a range that is open upwards, on the wire and here.
pub const OPEN_END: &[u8] = b"\0";

/// Whether `key` lies in the range that etcd means by `start` and `end`.
pub fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == start,
        OPEN_END => key >= start,
        _ => key >= start && key < end,
    }
}

/// Whether two ranges have a possible key in common.
pub fn ranges_meet(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> bool {
    // A range begins below or at the other's beginning; they meet if that one's beginning is inside.
    in_range(b.0, a.0, a.1) || in_range(a.0, b.0, b.1)
}

impl Operation {
    /// Whether the operation may change the store's keys.
    pub fn mutates(&self) -> bool {
        match self {
            Operation::Put(_) | Operation::DeleteRange(_) | Operation::LeaseRevoke(_) => true,
            Operation::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Operation::mutates),
            _ => false,
        }
    }

    /// Whether the operation may be answered from stale local data: a serializable range, or a txn of
    /// nothing else (an empty one included).
    pub fn serializable(&self) -> bool {
        match self {
            Operation::Range(range) => range.serializable,
            Operation::Txn(txn) => {
                txn.success.iter().chain(&txn.failure).all(Operation::serializable)
            }
            _ => false,
        }
    }

    /// Calls `each` with every range of keys (start, end) on which the outcome or the effect depends.
    pub fn touches<'a>(&'a self, each: &mut dyn FnMut(&'a Blob, &'a [u8])) {
        match self {
            Operation::Put(put) => each(&put.key, b""),
            Operation::Range(range) => each(&range.key, &range.range_end),
            Operation::DeleteRange(delete) => each(&delete.key, &delete.range_end),
            Operation::Txn(txn) => {
                txn.compare.iter().for_each(|compare| each(&compare.key, &compare.range_end));
                txn.success.iter().chain(&txn.failure).for_each(|op| op.touches(each));
            }
            _ => {}
        }
    }
}

impl Reply {
    /// The header of the reply.
    pub fn header(&self) -> &Header {
        match self {
            Reply::Put(reply) => &reply.header,
            Reply::Range(reply) => &reply.header,
            Reply::DeleteRange(reply) => &reply.header,
            Reply::Txn(reply) => &reply.header,
            Reply::Compact(reply) | Reply::LeaseRevoke(reply) => &reply.header,
            Reply::LeaseGrant(reply) => &reply.header,
            Reply::LeaseKeepAlive(reply) => &reply.header,
            Reply::LeaseTimeToLive(reply) => &reply.header,
        }
    }

    /// The header of the reply, to be filled in.
    pub fn header_mut(&mut self) -> &mut Header {
        match self {
            Reply::Put(reply) => &mut reply.header,
            Reply::Range(reply) => &mut reply.header,
            Reply::DeleteRange(reply) => &mut reply.header,
            Reply::Txn(reply) => &mut reply.header,
            Reply::Compact(reply) | Reply::LeaseRevoke(reply) => &mut reply.header,
            Reply::LeaseGrant(reply) => &mut reply.header,
            Reply::LeaseKeepAlive(reply) => &mut reply.header,
            Reply::LeaseTimeToLive(reply) => &mut reply.header,
        }
    }

    /// Whether the reply itself says that keys were changed.
    pub fn changed(&self) -> bool {
        match self {
            Reply::Put(_) => true,
            Reply::DeleteRange(reply) => reply.deleted > 0,
            Reply::Txn(reply) => reply.responses.iter().any(Reply::changed),
            _ => false,
        }
    }

    /// Calls `each` with every key shown in the reply.
    pub fn each_kv<'a>(&'a self, each: &mut dyn FnMut(&'a KeyValue)) {
        match self {
            Reply::Put(reply) => reply.prev_kv.iter().for_each(each),
            Reply::Range(reply) => reply.kvs.iter().for_each(each),
            Reply::DeleteRange(reply) => reply.prev_kvs.iter().for_each(each),
            Reply::Txn(reply) => reply.responses.iter().for_each(|inner| inner.each_kv(each)),
            _ => {}
        }
    }
}
