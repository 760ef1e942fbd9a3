//! What a log is made of, and what must be on disk beside it. Plain data: the disk log and the
//! transport name these types, and no other part of the core.

use bytes::Bytes;

use super::membership::{ConfChange, ConfState};
use crate::types::{Index, LogPosition, NodeId, Term};

/// What a slot that carries nothing still costs in memory; counted so that floods of small entries
/// are bounded as well.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// One slot of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that wrote it.
    pub term: Term,
    /// Its place.
    pub index: Index,
    /// What it carries.
    pub payload: Payload,
}

impl Entry {
    /// Returns the entry's place and term, which identify it and everything before it.
    pub fn position(&self) -> LogPosition {
        LogPosition::new(self.index, self.term)
    }

    /// Returns what the entry costs in memory and on the wire, near enough for limits.
    pub fn bytes(&self) -> u64 {
        self.payload.bytes() + ENTRY_OVERHEAD_BYTES
    }
}

/// What an entry carries. The core looks inside membership changes only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which lets it commit what older terms left behind.
    Empty,
    /// A command for the state machine, opaque here.
    Command(Bytes),
    /// A change of the configuration, in force once applied.
    ConfChange(ConfChange),
}

impl Payload {
    /// Returns the number of bytes carried for the state machine.
    pub fn bytes(&self) -> u64 {
        let len = match self {
            Payload::Empty => 0,
            Payload::Command(bytes) => bytes.len(),
            Payload::ConfChange(change) => change.context.len(),
        };
        u64::try_from(len).expect("a length fits 64 bits")
    }
}

/// What a node must remember over a crash beside its log.
///
/// `term` and `vote` are promises: an answer that rests on them leaves only after they are durable.
/// `commit` is a hint that saves time at start; it may lag and is never written for its own sake. What
/// must not be forgotten of it is proven by the log (see the invariants of `Node`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term the node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// An index known to be committed and, at the time of writing, durable here.
    pub commit: Index,
}

/// What identifies a snapshot: the last entry it contains, and the configuration at that point.
/// The bytes are the driver's; the core never holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry whose effect the snapshot contains.
    pub position: LogPosition,
    /// The configuration in force after that entry.
    pub conf_state: ConfState,
}
