//! The clients: registers and a set, read, written and compared, each request and its end recorded.
//!
//! The registers under `reg/` see everything, and are judged by revisions. Those under `plain/` see nothing but
//! what a register has (read, write, compare and set, delete), so that they are judged by the search for an
//! order as well, which looks at no revision.
//!
//! A request that leaves is recorded before, its end after the answer. An error is a certain refusal only
//! if its code says so of the request itself; whatever else goes wrong with a write leaves its outcome open,
//! and the client never sends it again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checker::blob::Blob;
use checker::history::{Record, What};
use checker::op::{self, Operation, Reply};
use mainstay::proto::etcdserverpb::{self as pb, kv_client::KvClient, request_op, response_op};
use mainstay::proto::mvccpb;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::{Code, Status};

use super::members::MEMBERS;
use crate::channel::{Channel, Endpoint};

/// Everything that was seen, in the order it was seen.
#[derive(Clone)]
pub struct Recorder {
    begun: Instant,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Recorder {
    /// Begins a history.
    pub fn new() -> Self {
        Self { begun: Instant::now(), records: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record. The clock is read under the lock: times grow with the lines.
    pub fn note(&self, process: u64, node: u64, what: What) {
        let mut records = self.lock();
        let time = u64::try_from(self.begun.elapsed().as_nanos()).expect("a run is short");
        records.push(Record { time, process, node, what });
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.lock().clone()
    }
}

/// One logical client.
pub struct Client {
    process: u64,
    endpoints: Vec<Endpoint>,
    random: StdRng,
    recorder: Recorder,
    /// The member it is connected to, from 0.
    member: usize,
    kv: Option<KvClient<Channel>>,
    written: u64,
    /// A revision of a register that was seen, for compares that can hold.
    seen: Option<(Blob, i64)>,
    /// A plain register and the value it was seen with.
    seen_plain: Option<(Blob, Blob)>,
    newest: i64,
}

impl Client {
    /// A client that starts at a member of its own choice.
    pub fn new(process: u64, endpoints: Vec<Endpoint>, seed: u64, recorder: Recorder) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ (process << 32));
        let member = random.random_range(0..MEMBERS);
        Self {
            process,
            endpoints,
            random,
            recorder,
            member,
            kv: None,
            written: 0,
            seen: None,
            seen_plain: None,
            newest: 0,
        }
    }

    /// Works until `until`, at most about a hundred requests a second.
    pub async fn work(mut self, until: Instant) {
        while Instant::now() < until {
            let operation = self.operation();
            self.run(operation).await;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(2..16))).await;
        }
    }

    /// Runs one operation at one member, by the client's present connection or a new one. False if it did
    /// not succeed.
    pub async fn run(&mut self, operation: Operation) -> bool {
        let Some(mut kv) = self.connection().await else { return false };
        let node = self.member as u64 + 1;
        self.recorder.note(self.process, node, What::Invoke(operation.clone()));
        let answer = tokio::time::timeout(Duration::from_secs(3), ask(&mut kv, &operation)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within 3 s")));
        let well = answer.is_ok();
        let what = match answer {
            Ok(reply) => {
                self.remember(&reply);
                What::Ok(reply)
            }
            Err(status) => {
                let text = format!("{:?}: {}", status.code(), status.message());
                let refused = matches!(
                    status.code(),
                    Code::InvalidArgument
                        | Code::NotFound
                        | Code::FailedPrecondition
                        | Code::OutOfRange
                );
                if !refused {
                    // Another member may do better.
                    self.kv = None;
                    self.member = self.random.random_range(0..MEMBERS);
                }
                if refused || !operation.mutates() { What::Fail(text) } else { What::Info(text) }
            }
        };
        self.recorder.note(self.process, node, what);
        well
    }

    /// Connects to this member and no other from now on.
    pub fn pin(&mut self, member: usize) {
        (self.member, self.kv) = (member, None);
    }

    async fn connection(&mut self) -> Option<KvClient<Channel>> {
        if self.kv.is_none() {
            match self.endpoints[self.member].connect(Duration::from_secs(1)).await {
                Ok(channel) => {
                    self.kv = Some(KvClient::new(channel).max_decoding_message_size(usize::MAX))
                }
                Err(_) => {
                    // Nothing was sent, so there is nothing to record.
                    self.member = self.random.random_range(0..MEMBERS);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.kv.clone()
    }

    fn remember(&mut self, reply: &Reply) {
        self.newest = self.newest.max(reply.header().revision);
        reply.each_kv(&mut |kv| {
            if kv.key.starts_with(b"reg/") {
                self.seen = Some((kv.key.clone(), kv.mod_revision));
            } else if kv.key.starts_with(b"plain/") {
                self.seen_plain = Some((kv.key.clone(), kv.value.clone()));
            }
        });
    }

    fn register(&mut self) -> Blob {
        format!("reg/{}", self.random.random_range(0..5)).into()
    }

    /// Never written before, so that whoever reads it knows whose write it saw.
    fn fresh(&mut self) -> Blob {
        self.written += 1;
        format!("{}-{}", self.process, self.written).into()
    }

    fn operation(&mut self) -> Operation {
        if self.random.random_range(0..4) == 0 { self.plain() } else { self.rich() }
    }

    /// An operation that a plain register has.
    fn plain(&mut self) -> Operation {
        let key: Blob = format!("plain/{}", self.random.random_range(0..4)).into();
        match self.random.random_range(0..20) {
            0..7 => Operation::Range(op::Range { key, ..Default::default() }),
            7..12 => Operation::Put(op::Put { key, value: self.fresh(), ..Default::default() }),
            12 => Operation::DeleteRange(op::DeleteRange { key, ..Default::default() }),
            _ => {
                let (key, value) = self.seen_plain.clone().unwrap_or((key, "none".into()));
                let compare = op::Compare {
                    key: key.clone(),
                    range_end: Blob::default(),
                    result: op::CompareResult::Equal,
                    target: op::Target::Value(value),
                };
                let put = op::Put { key, value: self.fresh(), ..Default::default() };
                Operation::Txn(op::Txn {
                    compare: vec![compare],
                    success: vec![Operation::Put(put)],
                    failure: Vec::new(),
                })
            }
        }
    }

    fn rich(&mut self) -> Operation {
        let key = self.register();
        let put = |key, value| Operation::Put(op::Put { key, value, ..Default::default() });
        let get = |key: Blob| op::Range { key, ..Default::default() };
        match self.random.random_range(0..1000) {
            0..230 => {
                let value = self.fresh();
                let prev_kv = self.random.random();
                Operation::Put(op::Put { key, value, prev_kv, ..Default::default() })
            }
            230..480 => Operation::Range(get(key)),
            480..540 => Operation::Range(op::Range { serializable: true, ..get(key) }),
            540..740 => {
                let (key, revision) = self.seen.clone().unwrap_or((key, 0));
                let compare = op::Compare {
                    key: key.clone(),
                    range_end: Blob::default(),
                    result: op::CompareResult::Equal,
                    target: op::Target::Mod(revision),
                };
                let success =
                    vec![put(key.clone(), self.fresh()), Operation::Range(get("reg/0".into()))];
                Operation::Txn(op::Txn {
                    compare: vec![compare],
                    success,
                    failure: vec![Operation::Range(get(key))],
                })
            }
            740..790 => {
                Operation::DeleteRange(op::DeleteRange { key, prev_kv: true, ..Default::default() })
            }
            790..940 => {
                let member = self.fresh();
                put(format!("set/{member}").into(), member)
            }
            940..996 => {
                let range = get("reg/".into());
                Operation::Range(op::Range { range_end: "reg0".into(), ..range })
            }
            996..998 if self.newest > 500 => {
                Operation::Compact(op::Compact { revision: self.newest - 500, physical: false })
            }
            _ => whole_set(),
        }
    }
}

/// A read of all that was ever added.
pub fn whole_set() -> Operation {
    Operation::Range(op::Range {
        key: "set/".into(),
        range_end: "set0".into(),
        ..Default::default()
    })
}

async fn ask(kv: &mut KvClient<Channel>, operation: &Operation) -> Result<Reply, Status> {
    Ok(match to_request(operation) {
        Asked::Operation(request_op::Request::RequestPut(put)) => {
            put_reply(kv.put(put).await?.into_inner())
        }
        Asked::Operation(request_op::Request::RequestRange(range)) => {
            range_reply(kv.range(range).await?.into_inner())
        }
        Asked::Operation(request_op::Request::RequestDeleteRange(delete)) => {
            delete_reply(kv.delete_range(delete).await?.into_inner())
        }
        Asked::Operation(request_op::Request::RequestTxn(txn)) => {
            txn_reply(kv.txn(txn).await?.into_inner())
        }
        Asked::Compact(compact) => {
            let header = header(kv.compact(compact).await?.into_inner().header);
            Reply::Compact(op::PlainReply { header })
        }
    })
}

enum Asked {
    Operation(request_op::Request),
    Compact(pb::CompactionRequest),
}

fn to_request(operation: &Operation) -> Asked {
    let bytes = |blob: &Blob| blob.to_vec().into();
    Asked::Operation(match operation {
        Operation::Put(put) => request_op::Request::RequestPut(pb::PutRequest {
            key: bytes(&put.key),
            value: bytes(&put.value),
            prev_kv: put.prev_kv,
            ..Default::default()
        }),
        Operation::Range(range) => request_op::Request::RequestRange(pb::RangeRequest {
            key: bytes(&range.key),
            range_end: bytes(&range.range_end),
            serializable: range.serializable,
            ..Default::default()
        }),
        Operation::DeleteRange(delete) => {
            request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: bytes(&delete.key),
                range_end: bytes(&delete.range_end),
                prev_kv: delete.prev_kv,
            })
        }
        Operation::Txn(txn) => request_op::Request::RequestTxn(pb::TxnRequest {
            compare: txn.compare.iter().map(to_compare).collect(),
            success: txn.success.iter().map(to_inner).collect(),
            failure: txn.failure.iter().map(to_inner).collect(),
        }),
        Operation::Compact(compact) => {
            return Asked::Compact(pb::CompactionRequest {
                revision: compact.revision,
                physical: compact.physical,
            });
        }
        other => unreachable!("this workload has no {other:?}"),
    })
}

fn to_inner(operation: &Operation) -> pb::RequestOp {
    match to_request(operation) {
        Asked::Operation(request) => pb::RequestOp { request: Some(request) },
        Asked::Compact(_) => unreachable!("a txn holds no compaction"),
    }
}

fn to_compare(compare: &op::Compare) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let (target, union) = match &compare.target {
        op::Target::Mod(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        op::Target::Value(value) => {
            (CompareTarget::Value, TargetUnion::Value(value.to_vec().into()))
        }
        other => unreachable!("this workload does not compare {other:?}"),
    };
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: target.into(),
        key: compare.key.to_vec().into(),
        target_union: Some(union),
        ..Default::default()
    }
}

/// The header as a history has it.
pub fn header(header: Option<pb::ResponseHeader>) -> op::Header {
    let header = header.unwrap_or_default();
    op::Header { revision: header.revision, member: header.member_id, term: header.raft_term }
}

/// A key as a history has it.
pub fn key_value(kv: mvccpb::KeyValue) -> op::KeyValue {
    op::KeyValue {
        key: Blob::new(&kv.key),
        value: Blob::new(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn put_reply(put: pb::PutResponse) -> Reply {
    Reply::Put(op::PutReply { header: header(put.header), prev_kv: put.prev_kv.map(key_value) })
}

fn range_reply(range: pb::RangeResponse) -> Reply {
    Reply::Range(op::RangeReply {
        header: header(range.header),
        kvs: range.kvs.into_iter().map(key_value).collect(),
        more: range.more,
        count: range.count,
    })
}

fn delete_reply(delete: pb::DeleteRangeResponse) -> Reply {
    Reply::DeleteRange(op::DeleteRangeReply {
        header: header(delete.header),
        deleted: delete.deleted,
        prev_kvs: delete.prev_kvs.into_iter().map(key_value).collect(),
    })
}

fn txn_reply(txn: pb::TxnResponse) -> Reply {
    let responses = txn.responses.into_iter().filter_map(|response| {
        Some(match response.response? {
            response_op::Response::ResponsePut(put) => put_reply(put),
            response_op::Response::ResponseRange(range) => range_reply(range),
            response_op::Response::ResponseDeleteRange(delete) => delete_reply(delete),
            response_op::Response::ResponseTxn(txn) => txn_reply(txn),
        })
    });
    Reply::Txn(op::TxnReply {
        header: header(txn.header),
        succeeded: txn.succeeded,
        responses: responses.collect(),
    })
}
