//! Why a request was not served. The API gives each its code and text; nothing here knows gRPC.

use crate::cluster::Unwise;
use crate::command::Refusal;
use crate::types::Revision;

/// Why a request was not served.
///
/// NB: [`ServeError::Timeout`] and [`ServeError::Stopped`] leave a write in doubt: it may still be
/// applied. Every other variant says that it certainly was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The state machine refused it, at this revision.
    #[error("{0}")]
    Refused(Refusal, Revision),
    /// No leader is known.
    #[error("no leader")]
    NoLeader,
    /// The leader changed while a read waited for its confirmation.
    #[error("leader changed")]
    LeaderChanged,
    /// It was taken and no answer came in time.
    #[error("request timed out")]
    Timeout,
    /// It could not even be proposed in time.
    #[error("the deadline passed before a leader took it")]
    Deadline,
    /// Too much is in flight.
    #[error("too many requests")]
    TooManyRequests,
    /// The encoded command is larger than the configured maximum.
    #[error("the request is too large")]
    TooLarge,
    /// The member is stopping.
    #[error("the server is stopped")]
    Stopped,
    /// Only the leader does this, and this member does not lead.
    #[error("not the leader")]
    NotLeader,
    /// Leadership cannot go to that member.
    #[error("bad leader transferee")]
    BadTransferee,
    /// The transfer of leadership did not end in time.
    #[error("leader transfer took too long")]
    TransferTimeout,
    /// This member cannot prove that it still leads, and so cannot renew a lease.
    #[error("not a primary lessor")]
    NotPrimaryLessor,
    /// A membership change that would endanger the quorum.
    #[error("{0}")]
    Unwise(Unwise),
}
