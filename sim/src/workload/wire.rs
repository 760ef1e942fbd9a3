//! Between the checker's words and the wire's: requests out, replies in.

use bytes::Bytes;
use checker::blob::Blob;
use checker::op::{
    Compare, CompareResult, DeleteRange, DeleteRangeReply, Event, EventKind, Header, KeyValue,
    LeaseGrantReply, LeaseKeepAliveReply, LeaseTimeToLiveReply, Operation, PlainReply, Put,
    PutReply, Range, RangeReply, Reply, SortOrder, SortTarget, Target, Txn, TxnReply,
};
use mainstay::proto::{etcdserverpb as pb, mvccpb};

fn bytes(blob: &Blob) -> Bytes {
    Bytes::copy_from_slice(blob)
}

fn blob(bytes: &Bytes) -> Blob {
    Blob::new(bytes)
}

/// Makes the wire's put.
pub fn put(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(&put.key),
        value: bytes(&put.value),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

/// Makes the wire's range.
pub fn range(range: &Range) -> pb::RangeRequest {
    let sort_order = match range.sort_order {
        SortOrder::None => pb::range_request::SortOrder::None,
        SortOrder::Ascend => pb::range_request::SortOrder::Ascend,
        SortOrder::Descend => pb::range_request::SortOrder::Descend,
    };
    let sort_target = match range.sort_target {
        SortTarget::Key => pb::range_request::SortTarget::Key,
        SortTarget::Version => pb::range_request::SortTarget::Version,
        SortTarget::Create => pb::range_request::SortTarget::Create,
        SortTarget::Mod => pb::range_request::SortTarget::Mod,
        SortTarget::Value => pb::range_request::SortTarget::Value,
    };
    pb::RangeRequest {
        key: bytes(&range.key),
        range_end: bytes(&range.range_end),
        limit: range.limit,
        revision: range.revision,
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

/// Makes the wire's delete.
pub fn delete_range(delete: &DeleteRange) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes(&delete.key),
        range_end: bytes(&delete.range_end),
        prev_kv: delete.prev_kv,
    }
}

fn compare(compare: &Compare) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let result = match compare.result {
        CompareResult::Equal => pb::compare::CompareResult::Equal,
        CompareResult::Greater => pb::compare::CompareResult::Greater,
        CompareResult::Less => pb::compare::CompareResult::Less,
        CompareResult::NotEqual => pb::compare::CompareResult::NotEqual,
    };
    let (target, union) = match &compare.target {
        Target::Version(n) => (CompareTarget::Version, TargetUnion::Version(*n)),
        Target::Create(n) => (CompareTarget::Create, TargetUnion::CreateRevision(*n)),
        Target::Mod(n) => (CompareTarget::Mod, TargetUnion::ModRevision(*n)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(bytes(value))),
        Target::Lease(n) => (CompareTarget::Lease, TargetUnion::Lease(*n)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(&compare.key),
        range_end: bytes(&compare.range_end),
        target_union: Some(union),
    }
}

fn request_op(op: &Operation) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        Operation::Put(inner) => Request::RequestPut(put(inner)),
        Operation::Range(inner) => Request::RequestRange(range(inner)),
        Operation::DeleteRange(inner) => Request::RequestDeleteRange(delete_range(inner)),
        Operation::Txn(inner) => Request::RequestTxn(txn(inner)),
        other => panic!("no transaction holds {other:?}"),
    };
    pb::RequestOp { request: Some(request) }
}

/// Makes the wire's transaction.
pub fn txn(txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: txn.success.iter().map(request_op).collect(),
        failure: txn.failure.iter().map(request_op).collect(),
    }
}

/// Reads a header.
pub fn header(header: Option<&pb::ResponseHeader>) -> Header {
    header.map_or_else(Header::default, |h| Header {
        revision: h.revision,
        member: h.member_id,
        term: h.raft_term,
    })
}

/// Reads a key with its value.
pub fn key_value(kv: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: blob(&kv.key),
        value: blob(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// Reads an event.
pub fn event(event: &mvccpb::Event) -> Event {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    let kv = event.kv.as_ref().map(key_value).unwrap_or_default();
    Event { kind, kv, prev_kv: event.prev_kv.as_ref().map(key_value) }
}

/// Reads the reply to a put.
pub fn put_reply(reply: &pb::PutResponse) -> Reply {
    Reply::Put(PutReply {
        header: header(reply.header.as_ref()),
        prev_kv: reply.prev_kv.as_ref().map(key_value),
    })
}

/// Reads the reply to a range.
pub fn range_reply(reply: &pb::RangeResponse) -> Reply {
    Reply::Range(RangeReply {
        header: header(reply.header.as_ref()),
        kvs: reply.kvs.iter().map(key_value).collect(),
        more: reply.more,
        count: reply.count,
    })
}

/// Reads the reply to a delete.
pub fn delete_range_reply(reply: &pb::DeleteRangeResponse) -> Reply {
    Reply::DeleteRange(DeleteRangeReply {
        header: header(reply.header.as_ref()),
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.iter().map(key_value).collect(),
    })
}

/// Reads the reply to a transaction.
pub fn txn_reply(reply: &pb::TxnResponse) -> Reply {
    use pb::response_op::Response;
    let responses = reply.responses.iter().map(|op| match &op.response {
        Some(Response::ResponseRange(inner)) => range_reply(inner),
        Some(Response::ResponsePut(inner)) => put_reply(inner),
        Some(Response::ResponseDeleteRange(inner)) => delete_range_reply(inner),
        Some(Response::ResponseTxn(inner)) => txn_reply(inner),
        None => Reply::Compact(PlainReply::default()),
    });
    Reply::Txn(TxnReply {
        header: header(reply.header.as_ref()),
        succeeded: reply.succeeded,
        responses: responses.collect(),
    })
}

/// Reads the reply to a compaction.
pub fn compact_reply(reply: &pb::CompactionResponse) -> Reply {
    Reply::Compact(PlainReply { header: header(reply.header.as_ref()) })
}

/// Reads the reply to a grant.
pub fn grant_reply(reply: &pb::LeaseGrantResponse) -> Reply {
    let header = header(reply.header.as_ref());
    Reply::LeaseGrant(LeaseGrantReply { header, id: reply.id, ttl: reply.ttl })
}

/// Reads the reply to a revoke.
pub fn revoke_reply(reply: &pb::LeaseRevokeResponse) -> Reply {
    Reply::LeaseRevoke(PlainReply { header: header(reply.header.as_ref()) })
}

/// Reads the reply to a renewal.
pub fn keep_alive_reply(reply: &pb::LeaseKeepAliveResponse) -> Reply {
    let header = header(reply.header.as_ref());
    Reply::LeaseKeepAlive(LeaseKeepAliveReply { header, ttl: reply.ttl })
}

/// Reads the reply to the question what is left.
pub fn time_to_live_reply(reply: &pb::LeaseTimeToLiveResponse) -> Reply {
    Reply::LeaseTimeToLive(LeaseTimeToLiveReply {
        header: header(reply.header.as_ref()),
        ttl: reply.ttl,
        granted_ttl: reply.granted_ttl,
        keys: reply.keys.iter().map(blob).collect(),
    })
}
