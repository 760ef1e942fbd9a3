//! Every error a client can see: gRPC code and text, exactly etcd's, in one place.
//!
//! Two traps are kept on purpose (see the table's comments): some errors that etcd declares with a code
//! leave its server as `Unknown`, because they are mapped to the client-side type there. Clients match on
//! the texts, so the texts are the contract, prefix included.

use tonic::{Code, Status};

use crate::cluster::Unwise;
use crate::command::{Refusal, TXN_DEPTH_MAX};
use crate::server::ServeError;

/// Makes the status of a failed request.
pub fn status(error: &ServeError) -> Status {
    let (code, text) = match error {
        ServeError::Refused(refusal, _) => return refused(refusal),
        ServeError::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
        ServeError::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
        ServeError::Timeout => (Code::Unavailable, "etcdserver: request timed out"),
        // NB: etcd's proposals block without a leader until their context ends: no prefix, other code.
        ServeError::Deadline => (Code::DeadlineExceeded, "context deadline exceeded"),
        // NB: declared ResourceExhausted, leaves etcd as Unknown.
        ServeError::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        ServeError::TooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
        ServeError::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
        ServeError::NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
        ServeError::BadTransferee => {
            (Code::FailedPrecondition, "etcdserver: bad leader transferee")
        }
        ServeError::TransferTimeout => {
            (Code::Unknown, "etcdserver: request timed out, leader transfer took too long")
        }
        ServeError::NotPrimaryLessor => (Code::Unknown, "not a primary lessor"),
        ServeError::Unwise(Unwise::NotEnoughStarted) => {
            (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members")
        }
        ServeError::Unwise(Unwise::Unhealthy) => {
            (Code::Unavailable, "etcdserver: unhealthy cluster")
        }
        ServeError::Unwise(Unwise::Unknown) => (Code::NotFound, "etcdserver: member not found"),
        ServeError::Unwise(Unwise::LearnerNotReady) => {
            (Code::FailedPrecondition, LEARNER_NOT_READY)
        }
    };
    Status::new(code, text)
}

const LEARNER_NOT_READY: &str =
    "etcdserver: can only promote a learner member which is in sync with leader";

/// Makes the status of a refusal by the state machine.
pub fn refused(refusal: &Refusal) -> Status {
    use Code::{
        DataLoss, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, PermissionDenied,
        ResourceExhausted, Unavailable, Unknown,
    };
    let (code, text) = match refusal {
        Refusal::Compacted(_) => (OutOfRange, COMPACTED),
        Refusal::FutureRevision => {
            (OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        Refusal::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
        Refusal::KeyNotProvided => (InvalidArgument, "etcdserver: key is not provided"),
        Refusal::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
        Refusal::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
        Refusal::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
        Refusal::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
        Refusal::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
        Refusal::DuplicateKey => {
            (InvalidArgument, "etcdserver: duplicate key given in txn request")
        }
        Refusal::TooManyOps => (InvalidArgument, "etcdserver: too many operations in txn request"),
        Refusal::InvalidSort => (InvalidArgument, "etcdserver: invalid sort option"),
        Refusal::NoSpace => (ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        Refusal::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),
        Refusal::Damaged => (DataLoss, "etcdserver: corrupt cluster"),
        Refusal::PermissionDenied => (PermissionDenied, "etcdserver: permission denied"),
        Refusal::UserEmpty => (InvalidArgument, "etcdserver: user name is empty"),
        Refusal::AuthOldRevision => (InvalidArgument, "etcdserver: revision of auth store is old"),
        Refusal::MemberNotFound => (NotFound, "etcdserver: member not found"),
        Refusal::MemberIdExists => (FailedPrecondition, "etcdserver: member ID already exist"),
        Refusal::PeerUrlsExist => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
        Refusal::NotLearner => {
            (FailedPrecondition, "etcdserver: can only promote a learner member")
        }
        Refusal::LearnerNotReady => (FailedPrecondition, LEARNER_NOT_READY),
        Refusal::TooManyLearners => {
            (FailedPrecondition, "etcdserver: too many learner members in cluster")
        }
        Refusal::NotEnoughStarted => {
            (Unknown, "etcdserver: re-configuration failed due to not enough started members")
        }
        Refusal::UnhealthyCluster => (Unavailable, "etcdserver: unhealthy cluster"),
    };
    Status::new(code, text)
}

/// The text of a read or watch below the compacted revision; watchers get it without a status.
pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// Reads an error of ours back from the status of a peer that answered in our place.
pub fn read_back(status: &Status) -> Option<ServeError> {
    let zero = crate::types::Revision(0);
    let refusals = [
        Refusal::MemberNotFound,
        Refusal::NotLearner,
        Refusal::LearnerNotReady,
        Refusal::NotEnoughStarted,
    ];
    refusals
        .into_iter()
        .find(|refusal| refused(refusal).message() == status.message())
        .map(|refusal| ServeError::Refused(refusal, zero))
}

/// Makes the status of a request with a malformed list of URLs.
pub fn bad_member_urls() -> Status {
    Status::invalid_argument("etcdserver: given member URLs are invalid")
}

/// Makes the status of a transaction that is nested too deep.
pub fn too_deep() -> Status {
    Status::invalid_argument(format!(
        "mainstay: transactions are nested more than {TXN_DEPTH_MAX} deep"
    ))
}

/// Makes the status of a method that a learner does not serve.
pub fn not_for_learner() -> Status {
    Status::failed_precondition("etcdserver: rpc not supported for learner")
}

/// Makes the status of a method that this release does not have yet. Never a made-up answer.
pub fn unimplemented(method: &str) -> Status {
    Status::unimplemented(format!("mainstay: {method} is not supported by this release"))
}
