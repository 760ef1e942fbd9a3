//! A client that asks what nobody else asks: streamed reads, lists of leases and members, and requests that
//! cannot be granted. It changes nothing, and judges each answer on the spot.
//!
//! | checker | rule |
//! |---|---|
//! | `range-stream` | a streamed read gives what a plain one at the same revision does |
//! | `lease-list` | no lease is listed that nobody asked for, and none twice |
//! | `member-list` | members have an id and a peer URL each, and no two the same |
//! | `refusal` | what cannot be is refused, with etcd's code and text |

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay::proto::etcdserverpb as pb;
use pb::request_op::Request as Inner;
use tonic::codegen::tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::Shared;
use super::endpoint::Endpoint;
use crate::invariants::{Found, Violation};
use crate::rng::Rng;
use crate::time::{sleep, within};
use crate::trace::lock;

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
/// A revision that no run comes to.
const FUTURE: i64 = 1 << 40;

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
    Remove,
    Update,
    Add,
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
            let seen = match self.rng.below(8) {
                0 | 1 => self.stream(&member, &other).await,
                2 => self.leases(&member).await,
                3 => self.members(&member).await,
                _ => self.refusal(&member).await,
            };
            if let Some(violation) = seen {
                self.found.add(violation);
            }
        }
    }

    /// Reads a range in one piece, and the same from another member as a stream.
    async fn stream(&mut self, member: &str, other: &str) -> Option<Violation> {
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
        let mut kv = self.endpoint.kv(other);
        let replies = within(self.patience, kv.range_stream(ask.clone())).await?;
        let mut replies = replies.ok()?.into_inner();
        let mut kvs = Vec::new();
        let mut last = None;
        while let Some(reply) = within(self.patience, replies.next()).await? {
            // What broke off is no answer.
            let chunk = reply.ok()?.range_response?;
            kvs.extend(chunk.kvs.iter().cloned());
            last = Some(chunk);
        }
        let last = last?;
        if kvs == whole.kvs && (last.more, last.count) == (whole.more, whole.count) {
            return None;
        }
        let text = format!(
            "{other} streams {} keys (more {}, count {}) of {ask:?}, and {member} reads {} (more {}, count {})",
            kvs.len(),
            last.more,
            last.count,
            whole.kvs.len(),
            whole.more,
            whole.count
        );
        Some(Violation::new("range-stream", text))
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
        if trouble || (status.code(), status.message()) == (*code, *text) {
            return None;
        }
        let text = format!("{member} says {status:?} where {code:?}, {text:?} is due");
        Some(Violation::new("refusal", text))
    }

    async fn ask(&mut self, member: &str, bad: &Bad) -> Result<String, Status> {
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

fn txn(success: Vec<Inner>) -> Bad {
    let op = |request| pb::RequestOp { request: Some(request) };
    let success = success.into_iter().map(op).collect();
    Bad::Txn(pb::TxnRequest { success, ..Default::default() })
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
    let absent = pb::PutRequest { ignore_value: true, value: "".into(), ..put("none") };
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
        (Bad::Remove, NotFound, "etcdserver: member not found"),
        (Bad::Update, NotFound, "etcdserver: member not found"),
        (Bad::Add, InvalidArgument, "etcdserver: given member URLs are invalid"),
    ]
}
