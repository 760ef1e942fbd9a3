//! What nodes say to one another: one variant a kind, with the fields that kind needs. The transport
//! may lose, delay, reorder and duplicate everything here, with one exception: a
//! [`Message::Propose`] delivered twice is proposed twice, so a transport never repeats it.

use super::entry::{Entry, SnapshotMeta};
use super::input::{Proposal, ProposalId};
use super::ready::Refusal;
use crate::types::{Index, LogPosition, NodeId, Term};

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's term when it spoke.
    pub term: Term,
    /// What it says.
    pub message: Message,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// «Would you elect me in `next_term`?» Binds nobody and moves no term (Ongaro 2014, §9.6).
    PreVote {
        /// The term the sender would campaign in: one more than its own.
        next_term: Term,
        /// The end of its log.
        last: LogPosition,
        /// What the sender knows to be committed. If the asked node's log holds it, it is committed
        /// there too; a change hidden in it may be all that keeps the asked node from campaigning.
        commit: LogPosition,
    },
    /// The answer to [`Message::PreVote`].
    PreVoteResponse {
        /// The term asked about, so that an answer to an older question is not counted.
        next_term: Term,
        /// Whether the answer is yes.
        granted: bool,
        /// What the sender knows to be committed. If the asker's log holds it, it is committed there
        /// too; a change hidden in it may be all that keeps the asker from winning.
        commit: LogPosition,
    },
    /// «Elect me in this term.»
    Vote {
        /// The end of the candidate's log.
        last: LogPosition,
        /// What the candidate knows to be committed, as in [`Message::PreVote`].
        commit: LogPosition,
        /// Whether the old leader asked for this: then nobody shields it.
        transfer: bool,
    },
    /// The answer to [`Message::Vote`]; a yes leaves only after it is durable.
    VoteResponse {
        /// Whether the vote was given.
        granted: bool,
    },
    /// The leader's entries. They may not be durable at the leader: the message promises nothing.
    Append {
        /// The entry right before the first one sent, which the receiver must hold.
        prev: LogPosition,
        /// The entries, possibly none.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The answer to [`Message::Append`] and [`Message::InstallSnapshot`].
    AppendResponse(AppendResponse),
    /// «I still lead», sent on a clock and behind no disk.
    Heartbeat {
        /// The commit index, as far as this peer is known to hold the log.
        commit: Index,
        /// The latest read round the leader has begun.
        round: u64,
    },
    /// The answer to [`Message::Heartbeat`].
    HeartbeatResponse {
        /// The round of the heartbeat answered. It confirms every round up to it.
        round: u64,
    },
    /// A snapshot that arrived, whole and checked, at the receiver's *driver*. See `node/snapshot.rs`.
    InstallSnapshot {
        /// Which snapshot.
        meta: SnapshotMeta,
    },
    /// Proposals passed on to the leader.
    Propose {
        /// What is proposed, in order.
        proposals: Vec<Proposal>,
    },
    /// The leader did not take a proposal that was passed on to it.
    ProposeRefused {
        /// Which one.
        id: ProposalId,
        /// Why.
        reason: Refusal,
    },
    /// Asks the leader up to where a read that begins now must wait.
    ReadIndex {
        /// Names the question; never used twice, over restarts included.
        forward: u64,
    },
    /// The answer to [`Message::ReadIndex`]; `None` if the asked node could not confirm that it leads.
    ReadIndexResponse {
        /// The question answered.
        forward: u64,
        /// The index the reader must have applied.
        index: Option<Index>,
    },
    /// The leader asks the receiver to campaign at once.
    TimeoutNow,
    /// Says only that the sender's term is newer than that of the message it answers, so that a
    /// leader or candidate left behind learns of it.
    NewerTerm,
}

/// What a follower says to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResponse {
    /// Its log equals the leader's up to `matched`, durably.
    Accept {
        /// The last index that matches.
        matched: Index,
    },
    /// Its log does not hold the entry that should have come before.
    Reject {
        /// The `prev.index` of the append refused.
        prev: Index,
        /// The last entry of its log that may match: not beyond `prev`, and of no later term. The
        /// leader skips whole terms by it (Ongaro & Ousterhout 2014, §5.3, end).
        hint: LogPosition,
    },
}

impl Message {
    /// Returns the kind's name, for logs and scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Message::PreVote { .. } => "PreVote",
            Message::PreVoteResponse { .. } => "PreVoteResponse",
            Message::Vote { .. } => "Vote",
            Message::VoteResponse { .. } => "VoteResponse",
            Message::Append { .. } => "Append",
            Message::AppendResponse(_) => "AppendResponse",
            Message::Heartbeat { .. } => "Heartbeat",
            Message::HeartbeatResponse { .. } => "HeartbeatResponse",
            Message::InstallSnapshot { .. } => "InstallSnapshot",
            Message::Propose { .. } => "Propose",
            Message::ProposeRefused { .. } => "ProposeRefused",
            Message::ReadIndex { .. } => "ReadIndex",
            Message::ReadIndexResponse { .. } => "ReadIndexResponse",
            Message::TimeoutNow => "TimeoutNow",
            Message::NewerTerm => "NewerTerm",
        }
    }
}
