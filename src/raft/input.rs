//! Everything that can happen to a node. The list is closed: what is not here cannot influence it.

use std::fmt;

use super::entry::{Payload, SnapshotMeta};
use super::message::Envelope;
use crate::types::{Index, LogPosition, NodeId};

/// One thing that happened. Time is `Tick`; the disk's latency is the gap before `Persisted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A unit of time has passed. All timeouts are counted in these.
    Tick,
    /// A message arrived. Lost, late, repeated and foreign ones are all in order.
    Message(Envelope),
    /// Someone at this node wants an entry in the log.
    Propose(Proposal),
    /// Someone at this node wants to read what is committed now or later.
    ReadIndex(ReadId),
    /// The hand-over named by the ticket is durable.
    Persisted(Ticket),
    /// The machine has applied everything up to here. Every configuration entry on the way must have
    /// been answered by [`Input::ConfApplied`].
    Applied(Index),
    /// The machine has applied the configuration entry at `index` and everything before it.
    ConfApplied {
        /// The entry's place.
        index: Index,
        /// Whether the machine agreed; if not, the change is void, on every node alike.
        accepted: bool,
    },
    /// An operator, or a node about to stop, wants `target` to lead. Only a leader heeds it.
    TransferLeader(NodeId),
    /// A message to this peer could not be delivered.
    PeerUnreachable(NodeId),
    /// The connection to this peer broke: if it led, it may be dead, and nobody here shields it.
    PeerConnectionLost(NodeId),
    /// The sending of a snapshot, asked for by `Ready::snapshots_to_send`, has ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// Whether its driver said that it has all of it.
        ok: bool,
        /// The last index the snapshot contains.
        at: Index,
    },
    /// The snapshot that `Ready::install` asked for is durable and the machine stands on it.
    SnapshotInstalled(SnapshotMeta),
    /// The log up to here, this entry included, may be dropped from memory. Never drops what is not
    /// applied. Peers that still need it get a snapshot.
    Trim(Index),
}

/// Something to be put into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Names it in refusals; the core does not compare it with anything.
    pub id: ProposalId,
    /// What the entry is to carry.
    pub payload: Payload,
}

/// The driver's name for a proposal. Refusals carry it back, also from the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// The driver's name for a read, known at this node only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Names one hand-over to disk: entries, hard state, or nothing but a place in the queue.
///
/// `last` alone would not do: after a truncation and a re-append at the same index, a late
/// acknowledgement of the old write would be taken for the new one. `number` tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The hand-over's number in this life of the node, from 1.
    pub number: u64,
    /// The end of the log with this hand-over.
    pub last: LogPosition,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}", self.number, self.last)
    }
}
