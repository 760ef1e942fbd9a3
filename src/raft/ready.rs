//! What a node wants done: the effects of the inputs since the last time it was asked.

use super::entry::{Entry, HardState, SnapshotMeta};
use super::input::{ProposalId, ReadId, Ticket};
use super::message::{Envelope, Message};
use crate::types::{Index, NodeId, Term};

/// Work for the driver, in the order in which it must be honoured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The node's view of who leads has changed. First, since waiters may have to be failed before
    /// anything else is answered.
    pub soft_state: Option<SoftState>,
    /// Messages that rest on nothing unwritten; a leader's appends are among them, so that its disk
    /// and its peers' disks work at the same time.
    pub messages_now: Vec<Envelope>,
    /// Term, vote and commit to write. Within one hand-over any order of the parts is safe.
    pub hard_state: Option<HardState>,
    /// The log is to be cut from here on before `entries` are appended.
    pub truncate_from: Option<Index>,
    /// Entries to append, contiguous with what was handed over before.
    pub entries: Vec<Entry>,
    /// Names this hand-over. Write in ticket order; step [`Input::Persisted`] when it *and everything
    /// before it* is durable. A ticket without entries or hard state only waits for those before it.
    ///
    /// [`Input::Persisted`]: super::Input::Persisted
    pub ticket: Option<Ticket>,
    /// Promises. They leave when the ticket is durable, and are lost with it.
    pub messages_after_persist: Vec<Envelope>,
    /// The staged snapshot to install: see `node/snapshot.rs`. Comes after everything handed over so
    /// far and before everything handed over later.
    pub install: Option<SnapshotMeta>,
    /// Entries to apply: stable on a quorum and durable here. There may be more: ask again.
    pub committed: Vec<Entry>,
    /// Reads that may be answered once their index is applied.
    pub reads: Vec<ReadState>,
    /// Reads that were given up; the client may try again.
    pub failed_reads: Vec<FailedRead>,
    /// Proposals that were *certainly* not put into the log.
    pub refused: Vec<RefusedProposal>,
    /// Peers that need a snapshot.
    pub snapshots_to_send: Vec<SnapshotRequest>,
    /// Well-formed messages that no correct peer sends: refused, and to be logged at ERROR.
    pub violations: Vec<Violation>,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    /// The node's term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// What the node is.
    pub role: Role,
}

/// What a node is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader or waits for one. Learners and removed nodes never get beyond this.
    Follower,
    /// Asks whether it could win, without moving the term.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// A read whose index is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The read.
    pub id: ReadId,
    /// It may be answered from a machine that has applied this much.
    pub index: Index,
}

/// A read given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedRead {
    /// The read.
    pub id: ReadId,
    /// Why.
    pub reason: ReadFailure,
}

/// Why a read was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// Nobody is known to lead.
    #[error("there is no leader")]
    NoLeader,
    /// The leader changed while the read waited.
    #[error("the leader changed")]
    LeaderChanged,
    /// The leader did not answer within an election timeout.
    #[error("the leader did not answer")]
    Timeout,
}

/// A proposal not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedProposal {
    /// The proposal.
    pub id: ProposalId,
    /// Why.
    pub reason: Refusal,
}

/// Why a proposal was not taken. None of these leaves it in doubt: it is in no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody is known to lead.
    #[error("there is no leader")]
    NoLeader,
    /// The node asked does not lead, or no longer.
    #[error("the node does not lead")]
    NotLeader,
    /// Leadership is being handed over.
    #[error("leadership is being transferred")]
    TransferInProgress,
    /// Too much is appended and not committed.
    #[error("too many bytes are uncommitted")]
    Overloaded,
    /// Another membership change may be unapplied.
    #[error("another membership change is pending")]
    ConfChangePending,
    /// The leader has committed nothing in its term, so it cannot know of pending changes.
    #[error("the leader has not committed an entry of its term")]
    LeaderNotReady,
    /// The change does not fit the configuration.
    #[error("the membership change does not fit the configuration")]
    ConfChangeInvalid,
}

/// A peer's need for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The peer.
    pub to: NodeId,
    /// The leader's term, which the envelope must carry even if the node has moved on.
    pub term: Term,
    /// The snapshot must contain at least this index. The machine's applied state always does.
    pub at_least: Index,
}

impl SnapshotRequest {
    /// Makes the envelope to send ahead of, and to be stepped after, the snapshot's bytes.
    pub fn envelope(&self, from: NodeId, meta: SnapshotMeta) -> Envelope {
        let message = Message::InstallSnapshot { meta };
        Envelope { from, to: self.to, term: self.term, message }
    }
}

/// A breach of the protocol by a peer, or of a promise by this node's own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two nodes lead in one term.
    #[error("{other} leads in {term} too")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// The second one.
        other: NodeId,
    },
    /// A leader sent entries that contradict what is committed here.
    #[error("{from} would truncate the committed entry {index}")]
    TruncatesCommitted {
        /// The sender.
        from: NodeId,
        /// The first entry in contradiction.
        index: Index,
    },
    /// An append whose entries do not follow one another.
    #[error("{from} sent a malformed append")]
    MalformedAppend {
        /// The sender.
        from: NodeId,
    },
    /// This node has acknowledged entries that it does not hold: its disk called a write done and lost it. In
    /// etcd's words, whose member ends of it as well.
    #[error(
        "tocommit({}) is out of range [lastIndex({})]. Was the raft log corrupted, truncated, or lost?",
        acknowledged.0, last.0
    )]
    LostEntries {
        /// Up to where the leader has its word.
        acknowledged: Index,
        /// Its log's last entry.
        last: Index,
    },
}

impl Ready {
    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        // Built to be cheap: this is asked once a turn of the driver's loop.
        self.soft_state.is_none()
            && self.messages_now.is_empty()
            && self.hard_state.is_none()
            && self.truncate_from.is_none()
            && self.entries.is_empty()
            && self.ticket.is_none()
            && self.messages_after_persist.is_empty()
            && self.install.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.failed_reads.is_empty()
            && self.refused.is_empty()
            && self.snapshots_to_send.is_empty()
            && self.violations.is_empty()
    }
}
