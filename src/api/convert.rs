//! Requests into commands, outcomes into replies. What a request cannot mean is refused here, with
//! etcd's codes and in etcd's order, so that nothing behind this file sees a malformed request.

use std::collections::BTreeSet;

use bytes::Bytes;
use tonic::Status;

use super::status::{refused, too_deep};
use crate::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, Event, KeyRange, KeyValue, OpOutcome,
    Operand, Put, Range, RangeOutcome, Refusal, SortOrder, SortTarget, TXN_DEPTH_MAX, Txn, TxnOp,
    TxnOutcome,
};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use crate::types::LeaseId;

type Checked<T> = Result<T, Box<Status>>;

fn refuse<T>(refusal: &Refusal) -> Checked<T> {
    Err(Box::new(refused(refusal)))
}

/// Converts a range request.
pub fn range(request: pb::RangeRequest) -> Checked<Range> {
    if request.key.is_empty() {
        return refuse(&Refusal::KeyNotProvided);
    }
    let order = match request.sort_order {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return refuse(&Refusal::InvalidSort),
    };
    let target = match request.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return refuse(&Refusal::InvalidSort),
    };
    Ok(Range {
        range: KeyRange::from_wire(request.key, request.range_end),
        revision: request.revision,
        limit: request.limit,
        sort: (order, target),
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
    })
}

/// Converts a put request.
pub fn put(request: pb::PutRequest) -> Checked<Put> {
    if request.key.is_empty() {
        return refuse(&Refusal::KeyNotProvided);
    }
    if request.ignore_value && !request.value.is_empty() {
        return refuse(&Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return refuse(&Refusal::LeaseProvided);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// Converts a delete request.
pub fn delete_range(request: pb::DeleteRangeRequest) -> Checked<DeleteRange> {
    if request.key.is_empty() {
        return refuse(&Refusal::KeyNotProvided);
    }
    Ok(DeleteRange {
        range: KeyRange::from_wire(request.key, request.range_end),
        prev_kv: request.prev_kv,
    })
}

/// Converts a transaction, with the most operations that it may have.
pub fn txn(request: pb::TxnRequest, ops_max: usize) -> Checked<Txn> {
    check_txn(&request, ops_max, TXN_DEPTH_MAX)?;
    branch_writes(&request.success)?;
    branch_writes(&request.failure)?;
    Ok(convert_txn(request))
}

/// Checks sizes, keys and operations at every level; the remainder of the limit goes down a level.
///
/// NB: `depth` is a limit of ours, etcd has none but the number of operations. What lies deeper would not read
/// back from the log; much deeper, and the request would not have been read at all.
fn check_txn(request: &pb::TxnRequest, ops_max: usize, depth: usize) -> Checked<()> {
    if depth == 0 {
        return Err(Box::new(too_deep()));
    }
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max {
        return refuse(&Refusal::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return refuse(&Refusal::KeyNotProvided);
    }
    for op in request.success.iter().chain(&request.failure) {
        use pb::request_op::Request;
        match &op.request {
            Some(Request::RequestRange(r)) => drop(range(r.clone())?),
            Some(Request::RequestPut(p)) => drop(put(p.clone())?),
            Some(Request::RequestDeleteRange(d)) => drop(delete_range(d.clone())?),
            Some(Request::RequestTxn(t)) => check_txn(t, ops_max - ops, depth - 1)?,
            None => return refuse(&Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// What one branch writes: single keys put, ranges deleted.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

impl Writes {
    /// NB: etcd's scan does not translate a `range_end` of one zero byte, so such a delete conflicts
    /// with nothing, not even with a put of its own key. Kept: what a client sees is etcd's.
    fn deletes_key(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(start, end)| {
            if end.is_empty() { key == start } else { key >= start.as_ref() && key < end.as_ref() }
        })
    }

    fn put(&mut self, key: &Bytes) -> Checked<()> {
        if self.puts.contains(key) || self.deletes_key(key) {
            return refuse(&Refusal::DuplicateKey);
        }
        self.puts.insert(key.clone());
        Ok(())
    }
}

/// Refuses a branch in which one key is put twice, or put and deleted. The two branches of a nested
/// transaction exclude each other, so they may share keys, but not with what stands beside them.
fn branch_writes(ops: &[pb::RequestOp]) -> Checked<Writes> {
    use pb::request_op::Request;
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            writes.deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    // NB: the order matters, as in etcd: a nested put meets this level's deletes and those of earlier
    // nested transactions; a nested delete meets no put of an earlier one.
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else { continue };
        let (success, failure) = (branch_writes(&txn.success)?, branch_writes(&txn.failure)?);
        for key in success.puts.union(&failure.puts) {
            writes.put(key)?;
        }
        writes.deletes.extend(success.deletes);
        writes.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            writes.put(&put.key)?;
        }
    }
    Ok(writes)
}

fn convert_txn(request: pb::TxnRequest) -> Txn {
    let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(convert_op).collect();
    Txn {
        compares: request.compare.into_iter().map(compare).collect(),
        success: ops(request.success),
        failure: ops(request.failure),
    }
}

fn convert_op(op: pb::RequestOp) -> TxnOp {
    use pb::request_op::Request;
    const CHECKED: &str = "the transaction was checked as a whole";
    match op.request.expect(CHECKED) {
        Request::RequestRange(request) => TxnOp::Range(range(request).expect(CHECKED)),
        Request::RequestPut(request) => TxnOp::Put(put(request).expect(CHECKED)),
        Request::RequestDeleteRange(request) => {
            TxnOp::DeleteRange(delete_range(request).expect(CHECKED))
        }
        Request::RequestTxn(request) => TxnOp::Txn(convert_txn(request)),
    }
}

fn compare(compare: pb::Compare) -> Compare {
    use pb::compare::TargetUnion;
    let operand = match compare.target_union {
        None => Operand::Nothing,
        Some(TargetUnion::Version(v)) => Operand::Version(v),
        Some(TargetUnion::CreateRevision(v)) => Operand::Create(v),
        Some(TargetUnion::ModRevision(v)) => Operand::Mod(v),
        Some(TargetUnion::Value(v)) => Operand::Value(v),
        Some(TargetUnion::Lease(v)) => Operand::Lease(v),
    };
    Compare {
        range: KeyRange::from_wire(compare.key, compare.range_end),
        result: match compare.result {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            other => CompareResult::Unknown(other),
        },
        target: match compare.target {
            0 => CompareTarget::Version,
            1 => CompareTarget::Create,
            2 => CompareTarget::Mod,
            3 => CompareTarget::Value,
            4 => CompareTarget::Lease,
            other => CompareTarget::Unknown(other),
        },
        operand,
    }
}

/// Converts a key for a reply.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

/// Converts an event, with the state before it if that is wanted and there was one.
pub fn event(event: &Event, prev: Option<KeyValue>) -> mvccpb::Event {
    let prev_kv = prev.map(key_value);
    match event {
        Event::Put { kv, .. } => mvccpb::Event {
            r#type: mvccpb::event::EventType::Put as i32,
            kv: Some(key_value(kv.clone())),
            prev_kv,
        },
        Event::Delete { key, revision, .. } => mvccpb::Event {
            r#type: mvccpb::event::EventType::Delete as i32,
            kv: Some(mvccpb::KeyValue {
                key: key.clone(),
                mod_revision: revision.0,
                ..mvccpb::KeyValue::default()
            }),
            prev_kv,
        },
    }
}

fn inner_header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

/// Converts what a read found; the header is the caller's.
pub fn range_response(
    outcome: RangeOutcome,
    header: Option<pb::ResponseHeader>,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: outcome.kvs.into_iter().map(key_value).collect(),
        more: outcome.more,
        count: i64::try_from(outcome.count).unwrap_or(i64::MAX),
    }
}

/// Converts what a transaction did; the header is the caller's.
pub fn txn_response(outcome: TxnOutcome, header: Option<pb::ResponseHeader>) -> pb::TxnResponse {
    pb::TxnResponse {
        header,
        succeeded: outcome.succeeded,
        responses: outcome.responses.into_iter().map(op_response).collect(),
    }
}

fn op_response(outcome: OpOutcome) -> pb::ResponseOp {
    use pb::response_op::Response;
    let response = match outcome {
        OpOutcome::Range(outcome) => {
            let header = inner_header(outcome.revision.0);
            Response::ResponseRange(range_response(outcome, header))
        }
        OpOutcome::Put { revision, prev } => Response::ResponsePut(pb::PutResponse {
            header: inner_header(revision.0),
            prev_kv: prev.map(key_value),
        }),
        OpOutcome::DeleteRange { revision, deleted, prevs } => {
            Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                header: inner_header(revision.0),
                deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
                prev_kvs: prevs.into_iter().map(key_value).collect(),
            })
        }
        OpOutcome::Txn(outcome) => Response::ResponseTxn(txn_response(outcome, inner_header(0))),
    };
    pb::ResponseOp { response: Some(response) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::request_op::Request;

    fn put_op(key: &'static str) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete_op(key: &'static str, end: &'static str) -> pb::RequestOp {
        let delete =
            pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    fn accepted(success: Vec<pb::RequestOp>) -> bool {
        txn(pb::TxnRequest { compare: Vec::new(), success, failure: Vec::new() }, 128).is_ok()
    }

    #[test]
    fn a_branch_writes_no_key_twice() {
        assert!(!accepted(vec![put_op("a"), put_op("a")]));
        assert!(!accepted(vec![put_op("b"), delete_op("a", "c")]));
        assert!(!accepted(vec![delete_op("b", ""), put_op("b")]));
        assert!(accepted(vec![delete_op("a", "c"), delete_op("b", "d"), put_op("d")]));
        // etcd's scan does not see an open-ended delete.
        assert!(accepted(vec![delete_op("a", "\0"), put_op("a")]));
    }

    #[test]
    fn the_branches_of_a_nested_transaction_exclude_each_other() {
        assert!(accepted(vec![nested(vec![put_op("a")], vec![put_op("a")])]));
        assert!(accepted(vec![nested(vec![delete_op("b", "c")], vec![put_op("b/32")])]));
        assert!(!accepted(vec![nested(vec![put_op("a")], vec![]), put_op("a")]));
        assert!(!accepted(vec![
            nested(vec![], vec![put_op("a")]),
            nested(vec![put_op("a")], vec![])
        ]));
    }

    #[test]
    fn nested_deletes_meet_later_puts_only() {
        let (delete, put) = (delete_op("a", "b"), put_op("a"));
        assert!(!accepted(vec![
            nested(vec![delete.clone()], vec![]),
            nested(vec![put.clone()], vec![])
        ]));
        assert!(accepted(vec![
            nested(vec![put.clone()], vec![]),
            nested(vec![delete.clone()], vec![])
        ]));
        assert!(!accepted(vec![nested(vec![delete], vec![]), put]));
    }

    #[test]
    fn depth_has_a_limit_before_the_log() {
        let depth = |levels| {
            let mut op = put_op("a");
            for _ in 1..levels {
                op = nested(vec![op], vec![]);
            }
            accepted(vec![op])
        };
        assert!(depth(TXN_DEPTH_MAX));
        assert!(!depth(TXN_DEPTH_MAX + 1));
        // On the branch that does not run, too.
        let mut op = put_op("a");
        for _ in 0..TXN_DEPTH_MAX {
            op = nested(vec![], vec![op]);
        }
        assert!(!accepted(vec![op]));
    }

    #[test]
    fn sizes_and_keys_are_checked_at_every_level() {
        let many: Vec<_> = (0..129).map(|_| delete_op("a", "b")).collect();
        assert!(!accepted(many.clone()));
        assert!(accepted(many[..128].to_vec()));
        // The level above has used two of the operations.
        assert!(!accepted(vec![delete_op("x", ""), nested(many[..127].to_vec(), vec![])]));
        assert!(accepted(vec![delete_op("x", ""), nested(many[..126].to_vec(), vec![])]));
        assert!(!accepted(vec![nested(vec![put_op("")], vec![])]));
        assert!(!accepted(vec![pb::RequestOp { request: None }]));
    }
}
