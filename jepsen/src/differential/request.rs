//! What is asked and what is answered, in one type each, so that a stream of requests is plain data.

use mainstay::proto::etcdserverpb as pb;
use std::fmt;

/// A request to one server. Those about watches name the stream by its place in the list of streams.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Request {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    HashKv(pb::HashKvRequest),
    Alarms,
    /// `compacted` says that the start lies below the compaction, so that an end of it is to follow.
    WatchCreate {
        stream: usize,
        compacted: bool,
        request: pb::WatchCreateRequest,
    },
    WatchCancel {
        stream: usize,
        watch: i64,
    },
    /// Everything that the streams' watchers have to say up to `revision`; `compacted` is the compacted one now,
    /// and there was no other since they were asked last.
    WatchLevel {
        streams: Vec<usize>,
        revision: i64,
        compacted: i64,
    },
}

/// The answer to a request; what was streamed is collected.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Answer {
    Put(pb::PutResponse),
    Range(pb::RangeResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    HashKv(pb::HashKvResponse),
    Alarms(pb::AlarmResponse),
    /// What the stream said about the watcher, in order.
    Watch(Vec<pb::WatchResponse>),
    /// For each stream asked for, its watchers' events and the rules that it broke.
    Level(Vec<Level>),
    Error(Error),
}

/// What a stream's watchers have said since they were asked last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    /// The events of each watcher.
    pub events: std::collections::BTreeMap<i64, Vec<mainstay::proto::mvccpb::Event>>,
    /// Promises of the protocol that were not kept; none of them depends on timing.
    pub broken: Vec<String>,
    /// The revision of the progress notice that closed this part.
    pub progress: i64,
}

/// A refusal, as the client sees it.
#[derive(Clone, PartialEq)]
pub struct Error {
    /// gRPC's code.
    pub code: tonic::Code,
    /// The server's text.
    pub message: String,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.code, self.message)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

impl Request {
    /// A word for statistics.
    pub fn kind(&self) -> &'static str {
        match self {
            Request::Put(_) => "put",
            Request::Range(_) => "range",
            Request::RangeStream(_) => "range_stream",
            Request::DeleteRange(_) => "delete_range",
            Request::Txn(_) => "txn",
            Request::Compact(_) => "compact",
            Request::LeaseGrant(_) => "lease_grant",
            Request::LeaseRevoke(_) => "lease_revoke",
            Request::LeaseKeepAlive(_) => "lease_keep_alive",
            Request::LeaseTimeToLive(_) => "lease_time_to_live",
            Request::LeaseLeases => "lease_leases",
            Request::HashKv(_) => "hash_kv",
            Request::Alarms => "alarms",
            Request::WatchCreate { .. } => "watch_create",
            Request::WatchCancel { .. } => "watch_cancel",
            Request::WatchLevel { .. } => "watch_level",
        }
    }
}

impl Answer {
    /// The answer's header, if it has one of its own.
    pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        match self {
            Answer::Put(answer) => answer.header.as_mut(),
            Answer::Range(answer) => answer.header.as_mut(),
            Answer::DeleteRange(answer) => answer.header.as_mut(),
            Answer::Txn(answer) => answer.header.as_mut(),
            Answer::Compact(answer) => answer.header.as_mut(),
            Answer::LeaseGrant(answer) => answer.header.as_mut(),
            Answer::LeaseRevoke(answer) => answer.header.as_mut(),
            Answer::LeaseKeepAlive(answer) => answer.header.as_mut(),
            Answer::LeaseTimeToLive(answer) => answer.header.as_mut(),
            Answer::LeaseLeases(answer) => answer.header.as_mut(),
            Answer::HashKv(answer) => answer.header.as_mut(),
            Answer::Alarms(answer) => answer.header.as_mut(),
            Answer::Watch(_) | Answer::Level(_) | Answer::Error(_) => None,
        }
    }

    /// The revision in the answer's header; 0 without one.
    pub fn revision(&self) -> i64 {
        // The header is small and this is called once a request.
        self.clone().header_mut().map_or(0, |header| header.revision)
    }
}
