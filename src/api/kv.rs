//! `etcdserverpb.KV`: reads, writes, transactions, compaction.
//!
//! A linearizable read passes a read barrier and is then answered from this member's store; writes go
//! through the log. A transaction that only reads is a read. Nothing here holds a lock across an await.

use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::convert;
use super::status::refused;
use super::{Api, Kind, fail};
use crate::command::{
    KeyRange, Op, Outcome, Range, RangeEnd, Refusal, SortOrder, SortTarget, Txn, TxnOp,
};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::server::ServeError;
use crate::types::Revision;

/// How many keys the first chunk of a streamed range has; the next ones follow the bytes.
const FIRST_CHUNK_KEYS: i64 = 10;

fn unexpected(outcome: &Outcome) -> Status {
    Status::internal(format!("mainstay: the machine answered with {outcome:?}"))
}

/// What a put costs of the quota, beside key and value; etcd's estimate.
const PUT_OVERHEAD_BYTES: u64 = 256;

fn cost(ops: &[TxnOp]) -> u64 {
    ops.iter()
        .map(|op| match op {
            TxnOp::Put(put) => PUT_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64,
            TxnOp::Txn(txn) => txn_cost(txn),
            TxnOp::Range(_) | TxnOp::DeleteRange(_) => 0,
        })
        .sum()
}

fn txn_cost(txn: &Txn) -> u64 {
    cost(&txn.success).max(cost(&txn.failure))
}

fn all_serializable(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        Some(Request::RequestTxn(txn)) => all_serializable(txn),
        _ => true,
    })
}

impl Api {
    async fn read(&self, range: Range, serializable: bool) -> Result<pb::RangeResponse, Status> {
        if !serializable {
            self.handle.read_barrier().await.map_err(fail)?;
        }
        self.handle.metrics().ranges.inc();
        let outcome = self.handle.reader().store().range(&range).map_err(|r| refused(&r))?;
        let header = self.header(outcome.revision);
        Ok(convert::range_response(outcome, header))
    }
}

#[tonic::async_trait]
impl Kv for Api {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let serializable = request.get_ref().serializable;
        self.admit(&request, if serializable { Kind::Anyone } else { Kind::Voter })?;
        let range = convert::range(request.into_inner()).map_err(|status| *status)?;
        self.read(range, serializable).await.map(Response::new)
    }

    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        let serializable = request.serializable;
        let range = convert::range(request).map_err(|status| *status)?;
        // NB: etcd lets an unordered request with another target through and sends each chunk sorted by
        // itself, with holes and repeats. Refused here like any other custom sort.
        let by_key = range.sort.1 == SortTarget::Key && range.sort.0 != SortOrder::Descend;
        if !by_key {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        if [range.min_mod, range.max_mod, range.min_create, range.max_create] != [0; 4] {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        if !serializable {
            self.handle.read_barrier().await.map_err(fail)?;
        }
        let (chunks, stream) = mpsc::channel(2);
        let api = self.clone();
        self.handle.clock().spawn(
            "range stream",
            Box::pin(async move {
                if let Err(status) = api.stream_range(range, &chunks).await {
                    let _ = chunks.send(Err(status)).await;
                }
            }),
        );
        Ok(Response::new(Box::pin(super::watch::Receiver(stream))))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let put = convert::put(request.into_inner()).map_err(|status| *status)?;
        self.within_quota(PUT_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64).await?;
        match self.handle.propose(Op::Put(put)).await.map_err(fail)? {
            Outcome::Put { revision, prev } => Ok(Response::new(pb::PutResponse {
                header: self.header(revision),
                prev_kv: prev.map(convert::key_value),
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let delete = convert::delete_range(request.into_inner()).map_err(|status| *status)?;
        match self.handle.propose(Op::DeleteRange(delete)).await.map_err(fail)? {
            Outcome::DeleteRange { revision, deleted, prevs } => {
                Ok(Response::new(pb::DeleteRangeResponse {
                    header: self.header(revision),
                    deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
                    prev_kvs: prevs.into_iter().map(convert::key_value).collect(),
                }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        let serializable = all_serializable(&request);
        let txn =
            convert::txn(request, self.handle.limits().txn_ops_max).map_err(|status| *status)?;
        let outcome = if txn.is_read_only() {
            if !serializable && !crate::mutant!("M06") {
                self.handle.read_barrier().await.map_err(fail)?;
            }
            self.handle.reader().store().txn_read_only(&txn).map_err(|r| refused(&r))?
        } else {
            self.within_quota(txn_cost(&txn)).await?;
            match self.handle.propose(Op::Txn(txn)).await.map_err(fail)? {
                Outcome::Txn(outcome) => outcome,
                other => return Err(unexpected(&other)),
            }
        };
        let header = self.header(outcome.revision);
        Ok(Response::new(convert::txn_response(outcome, header)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let pb::CompactionRequest { revision, physical } = request.into_inner();
        let compacted = self.handle.propose(Op::Compact { revision, physical }).await;
        if physical {
            self.handle.wait_for_scrub().await.map_err(fail)?;
        }
        match compacted.map_err(fail)? {
            Outcome::Compact { revision } => {
                Ok(Response::new(pb::CompactionResponse { header: self.header(revision) }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// The part of a range that comes after a key: it begins with the key's immediate successor.
fn behind(range: &KeyRange, key: &[u8]) -> KeyRange {
    let start: Bytes = [key, &[0]].concat().into();
    match range {
        KeyRange::One(_) => KeyRange::Span { start: start.clone(), end: RangeEnd::Before(start) },
        KeyRange::Span { end, .. } => KeyRange::Span { start, end: end.clone() },
    }
}

type Chunks = mpsc::Sender<Result<pb::RangeStreamResponse, Status>>;

fn chunk(response: pb::RangeResponse) -> pb::RangeStreamResponse {
    pb::RangeStreamResponse { range_response: Some(response) }
}

impl Api {
    /// Sends a range in chunks at one pinned revision: keys first, header, count and `more` with the
    /// last chunk. A receiver that is slow holds nothing but one chunk.
    async fn stream_range(&self, range: Range, chunks: &Chunks) -> Result<(), Status> {
        let store = self.handle.reader().store().clone();
        let started_at = store.revision();
        if range.count_only {
            let outcome = store.range(&range).map_err(|r| refused(&r))?;
            let header = self.header(started_at);
            let _ = chunks.send(Ok(chunk(convert::range_response(outcome, header)))).await;
            return Ok(());
        }
        let at = if range.revision > 0 { range.revision } else { started_at.0 };
        let counted = Range { revision: at, count_only: true, ..range.clone() };
        let count = store.range(&counted).map_err(|r| refused(&r))?.count;
        let bytes_max = self.handle.limits().request_bytes_max;
        let (mut left, mut take) = (range.limit, FIRST_CHUNK_KEYS);
        let mut rest = range.range.clone();
        loop {
            let limit = if left > 0 { take.min(left) } else { take };
            let at = if crate::mutant!("M02") { 0 } else { at };
            let page = Range { range: rest.clone(), revision: at, limit, ..range.clone() };
            let outcome = store.range(&page).map_err(|r| refused(&r))?;
            let sent = i64::try_from(outcome.kvs.len()).unwrap_or(i64::MAX);
            let last_key: Option<Bytes> = outcome.kvs.last().map(|kv| kv.key.clone());
            let more = outcome.more;
            let bytes: usize =
                outcome.kvs.iter().map(|kv| kv.key.len() + kv.value.len() + 32).sum();
            let limited = range.limit > 0 && left <= sent;
            left = if range.limit > 0 { left - sent } else { 0 };
            if !more || limited || sent == 0 {
                let mut response = convert::range_response(outcome, self.header(started_at));
                response.more = more;
                response.count = i64::try_from(count).unwrap_or(i64::MAX);
                let _ = chunks.send(Ok(chunk(response))).await;
                return Ok(());
            }
            let mut response = convert::range_response(outcome, None);
            (response.more, response.count) = (false, 0);
            if chunks.send(Ok(chunk(response))).await.is_err() {
                return Ok(());
            }
            if bytes < bytes_max / 2 {
                take = take.saturating_mul(2);
            } else if bytes > bytes_max * 2 {
                take = (take / 2).max(1);
            }
            rest = behind(&rest, &last_key.expect("a page with more to come has a last key"));
        }
    }

    /// Refuses a write that costs `bytes` when the store has reached its quota, or the disk is nearly
    /// full and the cluster needs this member ([`crate::server::Room`]); raises the alarm.
    pub(super) async fn within_quota(&self, bytes: u64) -> Result<(), Status> {
        let (quota, room) = (self.handle.limits().quota_bytes, self.handle.room());
        let used = || self.handle.reader().store().storage().quota_bytes();
        let over = bytes > 0 && quota.is_some_and(|quota| used() + bytes >= quota);
        if bytes == 0 || !(over || room.refuses()) {
            return Ok(());
        }
        let refused = Err(fail(ServeError::Refused(Refusal::NoSpace, Revision(0))));
        let (own, kind) = (self.handle.id().0, pb::AlarmType::Nospace as i32);
        // NB: to raise it again with each refused write would fill the log with it.
        if self.handle.reader().alarms().iter().any(|on| (on.kind, on.member) == (kind, own)) {
            return refused;
        }
        if over {
            tracing::warn!(quota, "message exceeded backend quota; raising alarm");
        }
        room.raised();
        let alarm =
            Op::Alarm { action: crate::command::AlarmAction::Activate, member: own, alarm: kind };
        self.handle.propose(alarm).await.map_err(fail)?;
        refused
    }
}
