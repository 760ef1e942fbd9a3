//! A client that asks what nobody else asks: one read in several forms, compares that make no sense, lists of
//! leases and members, and requests that cannot be granted. It changes nothing but a lease of its own, and
//! judges each answer on the spot.
//!
//! | checker | rule |
//! |---|---|
//! | `range-stream` | a streamed read gives what a plain one at the same revision does |
//! | `range-txn` | so does one in a transaction, which goes through the log or does not |
//! | `compare` | a compare that makes no sense has the outcome that etcd gives it |
//! | `lease-exists` | a lease that was granted is not granted again |
//! | `lease-list` | no lease is listed that nobody asked for, and none twice |
//! | `member-list` | members have an id and a peer URL each, and no two the same |
//! | `refusal` | what cannot be is refused, with etcd's code and text |

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay::proto::etcdserverpb as pb;
use pb::compare::{CompareResult as Result, CompareTarget as Target, TargetUnion as Operand};
use pb::request_op::Request as Inner;
use pb::response_op::Response as Outer;
use tonic::codegen::tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::Shared;
use super::endpoint::Endpoint;
use crate::invariants::{Found, Violation};
use crate::rng::Rng;
use crate::time::{sleep, within};
use crate::trace::lock;

/// What a read gave: the keys, and a reply with the rest.
type Read = (Vec<mainstay::proto::mvccpb::KeyValue>, pb::RangeResponse);

/// Who looks.
pub struct Inspector {
    /// Where it asks from.
    pub endpoint: Endpoint,
    /// Its own stream of chance.
    pub rng: Rng,
    /// What it shares with others.
    pub shared: Shared,
    /// Where violations go.
    pub found: Found,
    /// How long it waits for an answer.
    pub patience: Duration,
}

/// A lease that nobody grants.
const NO_LEASE: i64 = 0x7777_7777_7777;
/// A lease that only the inspector grants, again and again; it outlasts every run.
const OWN_LEASE: i64 = 0x5151_5151_5151;
const OWN_TTL: i64 = 100_000;
/// A revision that no run comes to.
const FUTURE: i64 = 1 << 40;
/// A key that nobody writes.
const NO_KEY: &str = "none";

/// A request that cannot be granted.
enum Bad {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Stream(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64),
    Hash(i64),
    Grant(i64),
    Revoke,
    Promote,
    PromoteVoter,
    Remove,
    Update,
    Add,
}

/// A form of a read.
#[derive(Clone, Copy, Debug)]
enum Form {
    Stream,
    /// A transaction that only reads, by itself or within another.
    Txn {
        nested: bool,
    },
    /// The same through the log: the branch that is not taken writes.
    LoggedTxn {
        nested: bool,
    },
}

impl Inspector {
    /// Asks until told to stop.
    pub async fn run(mut self) {
        while !self.shared.stopped() {
            let pause = self.rng.between(30, 800);
            sleep(Duration::from_millis(pause)).await;
            let names = lock(&self.shared.members).clone();
            if names.is_empty() {
                continue;
            }
            let member = self.rng.pick(&names).clone();
            let other = self.rng.pick(&names).clone();
            let seen = match self.rng.below(12) {
                0..=3 => self.same(&member, &other).await,
                4 => self.leases(&member).await,
                5 => self.members(&member).await,
                6 => self.grant_twice(&member).await,
                7 => self.odd_compare(&member).await,
                _ => self.refusal(&member).await,
            };
            if let Some(violation) = seen {
                self.found.add(violation);
            }
        }
    }

    /// Reads a range in one piece, and the same from another member in another form.
    async fn same(&mut self, member: &str, other: &str) -> Option<Violation> {
        let key = bytes::Bytes::from(format!("k{:02}", self.rng.below(40)));
        let mut ask = pb::RangeRequest {
            key: if self.rng.below(2) == 0 { bytes::Bytes::from_static(b"k") } else { key },
            range_end: bytes::Bytes::from(*self.rng.pick(&["l", "\0", ""])),
            limit: i64::try_from(self.rng.below(4) * 8).unwrap_or(0),
            keys_only: self.rng.below(3) == 0,
            ..pb::RangeRequest::default()
        };
        let whole = within(self.patience, self.endpoint.kv(member).range(ask.clone())).await?;
        let whole = whole.ok()?.into_inner();
        ask.revision = whole.header.as_ref()?.revision;
        let nested = self.rng.below(2) == 0;
        let form = *self.rng.pick(&[
            Form::Stream,
            Form::Stream,
            Form::Txn { nested },
            Form::LoggedTxn { nested },
        ]);
        let (checker, again) = match form {
            Form::Stream => ("range-stream", self.streamed(other, ask.clone()).await?),
            Form::Txn { .. } | Form::LoggedTxn { .. } => {
                ("range-txn", self.in_txn(other, ask.clone(), form).await?)
            }
        };
        let (kvs, last) = again;
        if kvs == whole.kvs && (last.more, last.count) == (whole.more, whole.count) {
            return None;
        }
        let text = format!(
            "{other} gives {} keys (more {}, count {}) of {ask:?} as {form:?}, and {member} reads {} (more {}, count {})",
            kvs.len(),
            last.more,
            last.count,
            whole.kvs.len(),
            whole.more,
            whole.count
        );
        Some(Violation::new(checker, text))
    }

    /// Reads a stream to its end; `None` for one that broke off, which is no answer.
    async fn streamed(&mut self, member: &str, ask: pb::RangeRequest) -> Option<Read> {
        let replies = within(self.patience, self.endpoint.kv(member).range_stream(ask)).await?;
        let mut replies = replies.ok()?.into_inner();
        let mut kvs = Vec::new();
        let mut last = None;
        while let Some(reply) = within(self.patience, replies.next()).await? {
            let chunk = reply.ok()?.range_response?;
            kvs.extend(chunk.kvs.iter().cloned());
            last = Some(chunk);
        }
        Some((kvs, last?))
    }

    /// Reads in a transaction.
    async fn in_txn(&mut self, member: &str, ask: pb::RangeRequest, form: Form) -> Option<Read> {
        let (Form::Txn { nested } | Form::LoggedTxn { nested }) = form else { return None };
        let mut txn = match form {
            Form::LoggedTxn { .. } => pb::TxnRequest {
                compare: vec![compare(
                    NO_KEY,
                    Target::Version,
                    Result::Greater,
                    Operand::Version(0),
                )],
                success: ops(vec![Inner::RequestPut(put(NO_KEY))]),
                failure: ops(vec![Inner::RequestRange(ask)]),
            },
            _ => pb::TxnRequest {
                success: ops(vec![Inner::RequestRange(ask)]),
                ..pb::TxnRequest::default()
            },
        };
        if nested {
            let success = ops(vec![Inner::RequestTxn(txn)]);
            txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        }
        let reply = within(self.patience, self.endpoint.kv(member).txn(txn)).await?;
        let mut responses = reply.ok()?.into_inner().responses;
        loop {
            match responses.pop()?.response? {
                Outer::ResponseTxn(inner) => responses = inner.responses,
                Outer::ResponseRange(range) => return Some((range.kvs.clone(), range)),
                _ => return None,
            }
        }
    }

    /// Makes a compare whose outcome does not depend on what there is.
    async fn odd_compare(&mut self, member: &str) -> Option<Violation> {
        let cases = odd_compares();
        let (compare, due) = self.rng.pick(&cases);
        let txn = pb::TxnRequest {
            compare: vec![compare.clone()],
            success: ops(vec![Inner::RequestRange(range("k00"))]),
            failure: Vec::new(),
        };
        let reply = within(self.patience, self.endpoint.kv(member).txn(txn)).await?;
        let succeeded = reply.ok()?.into_inner().succeeded;
        (succeeded != *due)
            .then(|| Violation::new("compare", format!("{member} says {succeeded} of {compare:?}")))
    }

    /// Grants a lease twice.
    async fn grant_twice(&mut self, member: &str) -> Option<Violation> {
        const EXISTS: &str = "etcdserver: lease already exists";
        lock(&self.shared.leases).insert(OWN_LEASE);
        let request = pb::LeaseGrantRequest { id: OWN_LEASE, ttl: OWN_TTL };
        let mut lease = self.endpoint.lease(member);
        let first = within(self.patience, lease.lease_grant(request)).await?;
        if first.is_err_and(|status| status.message() != EXISTS) {
            return None;
        }
        match within(self.patience, lease.lease_grant(request)).await? {
            Ok(reply) => {
                let text = format!("{member} grants again what was granted: {reply:?}");
                Some(Violation::new("lease-exists", text))
            }
            Err(_) => None,
        }
    }

    async fn leases(&mut self, member: &str) -> Option<Violation> {
        let request = pb::LeaseLeasesRequest {};
        let reply =
            within(self.patience, self.endpoint.lease(member).lease_leases(request)).await?;
        let listed: Vec<i64> = reply.ok()?.into_inner().leases.iter().map(|l| l.id).collect();
        let asked = lock(&self.shared.leases);
        let once: BTreeSet<i64> = listed.iter().copied().collect();
        if once.len() == listed.len() && once.is_subset(&asked) {
            return None;
        }
        let unasked: Vec<_> = once.difference(&asked).collect();
        let text = format!("{member} lists {listed:?}, of which nobody asked for {unasked:?}");
        Some(Violation::new("lease-list", text))
    }

    async fn members(&mut self, member: &str) -> Option<Violation> {
        let request = pb::MemberListRequest { linearizable: self.rng.below(2) == 0 };
        let reply =
            within(self.patience, self.endpoint.cluster(member).member_list(request)).await?;
        let members = reply.ok()?.into_inner().members;
        let ids: BTreeSet<u64> = members.iter().map(|m| m.id).collect();
        let urls: BTreeSet<&String> = members.iter().flat_map(|m| &m.peer_urls).collect();
        let whole = members.iter().all(|m| m.id != 0 && !m.peer_urls.is_empty());
        if whole && !members.is_empty() && ids.len() == members.len() && urls.len() == members.len()
        {
            return None;
        }
        Some(Violation::new("member-list", format!("{member} lists {members:?}")))
    }

    async fn refusal(&mut self, member: &str) -> Option<Violation> {
        let cases = cases();
        let (bad, code, text) = self.rng.pick(&cases);
        let said = within(self.patience, self.ask(member, bad)).await?;
        let status = match said {
            Ok(reply) => {
                let text = format!("{member} grants what cannot be ({text}): {reply}");
                return Some(Violation::new("refusal", text));
            }
            Err(status) => status,
        };
        // Whoever cannot take a request at all says so in words of its own.
        let busy = [
            "etcdserver: too many requests",
            "etcdserver: rpc not supported for learner",
            "etcdserver: mvcc: database space exceeded",
            "etcdserver: corrupt cluster",
            // Asked before it is looked whether the member exists.
            "etcdserver: re-configuration failed due to not enough started members",
        ];
        let trouble = matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal
        ) || busy.contains(&status.message())
            || !status.message().starts_with("etcdserver: ");
        // It may have been removed since it was listed; and whether it keeps up is looked at first.
        let not_looked_at = matches!(bad, Bad::PromoteVoter)
            && [
                "etcdserver: member not found",
                "etcdserver: can only promote a learner member which is in sync with leader",
            ]
            .contains(&status.message());
        if trouble || not_looked_at || (status.code(), status.message()) == (*code, *text) {
            return None;
        }
        let text = format!("{member} says {status:?} where {code:?}, {text:?} is due");
        Some(Violation::new("refusal", text))
    }

    async fn ask(&mut self, member: &str, bad: &Bad) -> std::result::Result<String, Status> {
        let mut kv = self.endpoint.kv(member);
        let mut lease = self.endpoint.lease(member);
        let mut cluster = self.endpoint.cluster(member);
        let mut maintenance = self.endpoint.maintenance(member);
        let said = match bad {
            Bad::Put(put) => format!("{:?}", kv.put(put.clone()).await?),
            Bad::Range(range) => format!("{:?}", kv.range(range.clone()).await?),
            Bad::Stream(range) => {
                let mut stream = kv.range_stream(range.clone()).await?.into_inner();
                format!("{:?}", stream.message().await?)
            }
            Bad::Delete(delete) => format!("{:?}", kv.delete_range(delete.clone()).await?),
            Bad::Txn(txn) => format!("{:?}", kv.txn(txn.clone()).await?),
            Bad::Compact(revision) => {
                let request = pb::CompactionRequest { revision: *revision, physical: false };
                format!("{:?}", kv.compact(request).await?)
            }
            Bad::Hash(revision) => {
                let request = pb::HashKvRequest { revision: *revision };
                format!("{:?}", maintenance.hash_kv(request).await?)
            }
            Bad::Grant(ttl) => {
                let request = pb::LeaseGrantRequest { id: NO_LEASE, ttl: *ttl };
                format!("{:?}", lease.lease_grant(request).await?)
            }
            Bad::Revoke => {
                let request = pb::LeaseRevokeRequest { id: NO_LEASE };
                format!("{:?}", lease.lease_revoke(request).await?)
            }
            Bad::Promote => {
                let request = pb::MemberPromoteRequest { id: 77 };
                format!("{:?}", cluster.member_promote(request).await?)
            }
            Bad::PromoteVoter => {
                let request = pb::MemberListRequest { linearizable: true };
                let members = cluster.member_list(request).await?.into_inner().members;
                let voter = members.iter().find(|member| !member.is_learner);
                let request = pb::MemberPromoteRequest { id: voter.map_or(0, |member| member.id) };
                format!("{:?}", cluster.member_promote(request).await?)
            }
            Bad::Update => {
                let peer_urls = vec!["http://nobody:2380".to_owned()];
                let request = pb::MemberUpdateRequest { id: 77, peer_urls };
                format!("{:?}", cluster.member_update(request).await?)
            }
            Bad::Add => {
                let peer_urls = vec!["nonsense".to_owned()];
                let request = pb::MemberAddRequest { peer_urls, is_learner: true };
                format!("{:?}", cluster.member_add(request).await?)
            }
            Bad::Remove => {
                let request = pb::MemberRemoveRequest { id: 77 };
                format!("{:?}", cluster.member_remove(request).await?)
            }
        };
        Ok(said)
    }
}

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

fn range(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn ops(requests: Vec<Inner>) -> Vec<pb::RequestOp> {
    requests.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect()
}

fn txn(success: Vec<Inner>) -> Bad {
    Bad::Txn(pb::TxnRequest { success: ops(success), ..Default::default() })
}

fn compare(key: &'static str, target: Target, result: Result, operand: Operand) -> pb::Compare {
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(operand),
        range_end: bytes::Bytes::new(),
    }
}

/// Compares that make no sense, and what etcd makes of them: an operand of another kind counts as 0 or empty,
/// an unknown target is equal to everything, an unknown relation always holds, and a key that is not there has no
/// value that a relation could hold for.
fn odd_compares() -> Vec<(pb::Compare, bool)> {
    let unknown_target = |result| {
        let known = compare("k00", Target::Version, result, Operand::Version(3));
        pb::Compare { target: 9, ..known }
    };
    let unknown_result = compare("k00", Target::Mod, Result::Equal, Operand::ModRevision(3));
    let all_values = compare("k", Target::Value, Result::Less, Operand::Version(3));
    vec![
        (unknown_target(Result::Equal), true),
        (unknown_target(Result::NotEqual), false),
        (pb::Compare { result: 9, ..unknown_result }, true),
        (compare(NO_KEY, Target::Version, Result::Equal, Operand::ModRevision(5)), true),
        (compare(NO_KEY, Target::Create, Result::Equal, Operand::Version(5)), true),
        (compare(NO_KEY, Target::Mod, Result::Less, Operand::Lease(5)), false),
        (compare(NO_KEY, Target::Lease, Result::NotEqual, Operand::Version(5)), false),
        (compare(NO_KEY, Target::Value, Result::NotEqual, Operand::Value("v".into())), false),
        (pb::Compare { range_end: "l".into(), ..all_values }, false),
    ]
}

/// What cannot be, and what etcd says of it.
fn cases() -> Vec<(Bad, Code, &'static str)> {
    use Code::{InvalidArgument, NotFound, OutOfRange};
    const KEY: &str = "etcdserver: key is not provided";
    const LEASE: &str = "etcdserver: requested lease not found";
    const AHEAD: &str = "etcdserver: mvcc: required revision is a future revision";
    const TWICE: &str = "etcdserver: duplicate key given in txn request";
    const SORT: &str = "etcdserver: invalid sort option";
    let no_lease = || pb::PutRequest { lease: NO_LEASE, ..put("k00") };
    let delete =
        || pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    let many = (0..129).map(|_| Inner::RequestRange(range("k00"))).collect();
    let absent = pb::PutRequest { ignore_value: true, value: "".into(), ..put(NO_KEY) };
    vec![
        (Bad::Put(put("")), InvalidArgument, KEY),
        (Bad::Range(range("")), InvalidArgument, KEY),
        (Bad::Stream(range("")), InvalidArgument, KEY),
        (Bad::Delete(pb::DeleteRangeRequest::default()), InvalidArgument, KEY),
        (
            Bad::Put(pb::PutRequest { ignore_value: true, ..put("k00") }),
            InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            Bad::Put(pb::PutRequest { ignore_lease: true, ..no_lease() }),
            InvalidArgument,
            "etcdserver: lease is provided",
        ),
        (Bad::Put(absent), InvalidArgument, "etcdserver: key not found"),
        (Bad::Put(no_lease()), NotFound, LEASE),
        (txn(vec![Inner::RequestPut(no_lease())]), NotFound, LEASE),
        // What goes before it in the transaction does not happen either.
        (
            txn(vec![
                Inner::RequestPut(put("k00")),
                Inner::RequestPut(pb::PutRequest { lease: NO_LEASE, ..put("k01") }),
            ]),
            NotFound,
            LEASE,
        ),
        (Bad::Range(pb::RangeRequest { revision: FUTURE, ..range("k") }), OutOfRange, AHEAD),
        (Bad::Stream(pb::RangeRequest { revision: FUTURE, ..range("k") }), OutOfRange, AHEAD),
        (
            txn(vec![
                Inner::RequestRange(pb::RangeRequest { revision: FUTURE, ..range("k") }),
                Inner::RequestPut(put("k00")),
            ]),
            OutOfRange,
            AHEAD,
        ),
        (Bad::Range(pb::RangeRequest { sort_order: 3, ..range("k") }), InvalidArgument, SORT),
        (Bad::Range(pb::RangeRequest { sort_target: 5, ..range("k") }), InvalidArgument, SORT),
        (
            txn(vec![Inner::RequestPut(put("k00")), Inner::RequestPut(put("k00"))]),
            InvalidArgument,
            TWICE,
        ),
        (
            txn(vec![Inner::RequestDeleteRange(delete()), Inner::RequestPut(put("k00"))]),
            InvalidArgument,
            TWICE,
        ),
        (txn(many), InvalidArgument, "etcdserver: too many operations in txn request"),
        (Bad::Compact(FUTURE), OutOfRange, AHEAD),
        (Bad::Compact(-1), OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        (Bad::Hash(FUTURE), OutOfRange, AHEAD),
        (Bad::Grant(9_000_000_001), OutOfRange, "etcdserver: too large lease TTL"),
        (Bad::Revoke, NotFound, LEASE),
        (Bad::Promote, NotFound, "etcdserver: member not found"),
        (
            Bad::PromoteVoter,
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member",
        ),
        (Bad::Remove, NotFound, "etcdserver: member not found"),
        (Bad::Update, NotFound, "etcdserver: member not found"),
        (Bad::Add, InvalidArgument, "etcdserver: given member URLs are invalid"),
    ]
}
