//! Everything that can happen to the driver. The list is closed: nothing else touches the node.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::error::ServeError;
use super::log_writer::LogReport;
use super::{proposals, reads};
use crate::cluster::{Change, Member};
use crate::command::RequestId;
use crate::lease::Renewal;
use crate::raft::Envelope;
use crate::storage::StorageError;
use crate::types::{Index, LeaseId, LogPosition, NodeId};

/// The members after a change.
pub(crate) type MembersAnswer = Result<Vec<Member>, ServeError>;

/// Who waits for them.
pub(crate) type MembersReply = oneshot::Sender<MembersAnswer>;

/// One thing that happened.
pub(crate) enum Event {
    /// A client's command, encoded.
    Propose { id: RequestId, data: Bytes, reply: proposals::Reply },
    /// A linearizable read wants to know when it may go on.
    Read { reply: reads::Reply },
    /// A client renews a lease; only the leader's clock can answer.
    Renew { id: LeaseId, reply: oneshot::Sender<Result<Renewal, ServeError>> },
    /// A client asks what is left of a lease: milliseconds, `None` if there is none.
    Remaining { id: LeaseId, reply: oneshot::Sender<Result<Option<u64>, ServeError>> },
    /// An operator changes the membership.
    Member { change: Change, reply: MembersReply },
    /// An operator moves leadership.
    Transfer { to: NodeId, reply: oneshot::Sender<Result<(), ServeError>> },
    /// Peers said something.
    Messages(Vec<Envelope>),
    /// A peer cannot be reached; messages were lost.
    Unreachable(NodeId),
    /// The connection to a peer broke.
    ConnectionLost(NodeId),
    /// A peer says that this member was removed. Its own log may never say so: it ends where others stopped
    /// sending.
    ToldRemoved,
    /// The log writer reports.
    Log(LogReport),
    /// The store's writer reports a finished batch.
    Flushed(Result<LogPosition, StorageError>),
    /// The store's writer reports a step of physical compaction; whether there is more to do.
    Scrubbed(Result<bool, String>),
    /// A snapshot for a peer was sent, or not.
    SnapshotSent { to: NodeId, ok: bool, at: Index },
    /// A snapshot from the leader has arrived whole.
    SnapshotArrived(Box<super::snapshots::Arrived>),
    /// The staged snapshot is on disk and open, or could not be.
    SnapshotOpened(Box<super::snapshots::Opened>),
    /// Hand leadership over if need be, then stop.
    Stop { done: oneshot::Sender<()> },
}
