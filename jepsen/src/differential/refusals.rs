//! Bad requests one by one: code and text are the contract, so each stands here as it has to be.
//!
//! [`CASES`] says what 3.7 answers. Ours has to answer exactly that, and so has the reference; where an older
//! one is known to answer otherwise, that answer stands beside it and is demanded as exactly.

use anyhow::{Result, bail};
use mainstay::proto::etcdserverpb::{self as pb, request_op};
use prost::Message;
use tonic::Code;

use super::request::{Answer, Request};
use super::side::Side;

/// What a server says to a request.
#[derive(Clone, Debug, PartialEq)]
enum Says {
    /// A reply.
    Yes,
    /// A status.
    No(Code, String),
    /// A watch that was not created, or created and canceled at once: reason, compacted revision.
    Canceled(&'static str, i64),
}

struct Case {
    what: &'static str,
    request: Request,
    says: Says,
    /// References before this version say something else, and why.
    older: Option<((u32, u32, u32), Says, &'static str)>,
    /// Ours says something else on purpose, and why.
    ours: Option<(Says, &'static str)>,
}

/// Asks both servers, which are to be fresh; returns how many cases went wrong.
pub async fn run(ours: &mut Side, theirs: &mut Side) -> Result<usize> {
    for request in set_up() {
        for side in [&mut *ours, &mut *theirs] {
            let answer = side.ask(&request).await;
            if let Answer::Error(error) = answer {
                bail!("{}: {request:?}: {error:?}", side.name);
            }
        }
    }
    let (mut wrong, mut older, mut on_purpose) = (0, 0, 0);
    let cases = cases();
    let count = cases.len();
    for Case { what, request, says, older: known, ours: own } in cases {
        if matches!(&request, Request::Range(range) if range.sort_order > 2 || range.sort_target > 4)
            && theirs.version < (3, 6, 0)
        {
            // It would crash: an unknown target meets no sorter there.
            continue;
        }
        let wanted = match &own {
            Some((own, _)) => own.clone(),
            None => says.clone(),
        };
        on_purpose += usize::from(own.is_some());
        let before = known.filter(|(before, ..)| theirs.version < *before);
        older += usize::from(before.is_some());
        let expected = before.map_or(says, |(_, says, _)| says);
        for (side, wanted) in [(&mut *ours, wanted), (&mut *theirs, expected)] {
            let said = said(side.ask(&request).await);
            if said != wanted {
                wrong += 1;
                println!("REFUSAL of {what} by {}:\n    - {wanted:?}\n    + {said:?}", side.name);
            }
        }
    }
    println!(
        "{count} bad requests one by one: {wrong} wrong, {older} otherwise in older references, {on_purpose} \
         otherwise in ours on purpose"
    );
    Ok(wrong)
}

fn said(answer: Answer) -> Says {
    match answer {
        Answer::Error(error) => Says::No(error.code, error.message),
        Answer::Watch(said) => match said.iter().find(|response| response.canceled) {
            Some(response) => {
                let reasons = [WATCH_DUPLICATE, WATCH_EMPTY, COMPACTED, ""];
                let known = reasons.into_iter().find(|reason| *reason == response.cancel_reason);
                match known {
                    Some(reason) => Says::Canceled(reason, response.compact_revision),
                    None => Says::No(Code::Unknown, response.cancel_reason.clone()),
                }
            }
            None => Says::Yes,
        },
        _ => Says::Yes,
    }
}

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_KEY: &str = "etcdserver: key is not provided";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";
const WATCH_DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const WATCH_EMPTY: &str = "mvcc: watcher range is empty";

/// A lease that is there, and one that is not.
const LEASE: i64 = 770_001;
const MISSING: i64 = 770_002;
/// The revision that the set-up compacts.
const COMPACT: i64 = 4;

fn set_up() -> Vec<Request> {
    let mut requests: Vec<_> = (0..5).map(|_| Request::Put(put("refusals/there"))).collect();
    requests.push(Request::LeaseGrant(pb::LeaseGrantRequest { id: LEASE, ttl: 50_000 }));
    let (revision, physical) = (COMPACT, true);
    requests.push(Request::Compact(pb::CompactionRequest { revision, physical }));
    let key = "refusals/there".into();
    let request = pb::WatchCreateRequest { key, watch_id: 771, ..Default::default() };
    requests.push(Request::WatchCreate { stream: 0, compacted: false, request });
    requests
}

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

fn range(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn delete(key: &'static str, end: &'static str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false }
}

fn then(success: Vec<request_op::Request>) -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    pb::TxnRequest { success: success.into_iter().map(op).collect(), ..Default::default() }
}

/// A put so deep in txns.
fn nested(levels: usize) -> Request {
    use request_op::Request::{RequestPut, RequestTxn};
    let mut txn = then(vec![RequestPut(put("refusals/deep"))]);
    for _ in 1..levels {
        txn = then(vec![RequestTxn(txn)]);
    }
    Request::Txn(txn)
}

fn watch(start_revision: i64, end: &'static str, watch_id: i64) -> Request {
    let key = "refusals/there".into();
    let range_end = end.into();
    let request =
        pb::WatchCreateRequest { key, range_end, start_revision, watch_id, ..Default::default() };
    let compacted = start_revision != 0 && start_revision < COMPACT;
    Request::WatchCreate { stream: 0, compacted, request }
}

fn sized(bytes: usize) -> pb::PutRequest {
    pb::PutRequest { value: vec![b'v'; bytes].into(), ..put("refusals/big") }
}

fn case(what: &'static str, request: Request, code: Code, text: &str) -> Case {
    Case { what, request, says: Says::No(code, text.to_owned()), older: None, ours: None }
}

fn cases() -> Vec<Case> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted};
    let mut cases = vec![
        case("a put without a key", Request::Put(put("")), InvalidArgument, NO_KEY),
        case("a range without a key", Request::Range(range("")), InvalidArgument, NO_KEY),
        case(
            "a delete without a key",
            Request::DeleteRange(delete("", "")),
            InvalidArgument,
            NO_KEY,
        ),
        case(
            "a value where it is ignored",
            Request::Put(pb::PutRequest { ignore_value: true, lease: MISSING, ..put("none") }),
            InvalidArgument,
            "etcdserver: value is provided",
        ),
        case(
            "a lease where it is ignored",
            Request::Put(pb::PutRequest { ignore_lease: true, lease: MISSING, ..put("none") }),
            InvalidArgument,
            "etcdserver: lease is provided",
        ),
        case(
            "an ignored value of a key that is not there",
            Request::Put(pb::PutRequest {
                ignore_value: true,
                value: Default::default(),
                ..put("none")
            }),
            InvalidArgument,
            KEY_NOT_FOUND,
        ),
        case(
            "an ignored lease of a key that is not there",
            Request::Put(pb::PutRequest { ignore_lease: true, ..put("none") }),
            InvalidArgument,
            KEY_NOT_FOUND,
        ),
        case(
            "an unknown lease",
            Request::Put(pb::PutRequest { lease: MISSING, ..put("refusals/there") }),
            NotFound,
            NO_LEASE,
        ),
        case(
            "an unknown lease, and a key that is not there",
            Request::Put(pb::PutRequest {
                lease: MISSING,
                ignore_value: true,
                value: Default::default(),
                ..put("none")
            }),
            NotFound,
            NO_LEASE,
        ),
        case(
            "a read of the future",
            Request::Range(pb::RangeRequest { revision: 1 << 40, ..range("a") }),
            OutOfRange,
            FUTURE,
        ),
        case(
            "a read below the compaction",
            Request::Range(pb::RangeRequest { revision: COMPACT - 1, ..range("a") }),
            OutOfRange,
            COMPACTED,
        ),
        case(
            "an unknown sort order",
            Request::Range(pb::RangeRequest { sort_order: 3, ..range("a") }),
            InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        case(
            "an unknown sort target",
            Request::Range(pb::RangeRequest { sort_target: 5, ..range("a") }),
            InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        case("a compaction of the future", compact(1 << 40), OutOfRange, FUTURE),
        case("a compaction of the compacted", compact(COMPACT), OutOfRange, COMPACTED),
        case("a compaction below zero", compact(-1), OutOfRange, COMPACTED),
        case("a hash of the future", hash(1 << 40), OutOfRange, FUTURE),
        case("a hash below the compaction", hash(COMPACT - 1), OutOfRange, COMPACTED),
        case(
            "a grant of a lease that is there",
            grant(LEASE, 10),
            FailedPrecondition,
            "etcdserver: lease already exists",
        ),
        case(
            "a TTL too large",
            grant(MISSING, 9_000_000_001),
            OutOfRange,
            "etcdserver: too large lease TTL",
        ),
        case(
            "a TTL too large of a lease that is there",
            grant(LEASE, i64::MAX),
            OutOfRange,
            "etcdserver: too large lease TTL",
        ),
        case(
            "a revocation of an unknown lease",
            Request::LeaseRevoke(pb::LeaseRevokeRequest { id: MISSING }),
            NotFound,
            NO_LEASE,
        ),
        case(
            "a request too large for the log",
            Request::Put(sized(1_600_000)),
            InvalidArgument,
            "etcdserver: request is too large",
        ),
    ];
    let huge = sized(2_200_000);
    let text = format!(
        "grpc: received message larger than max ({} vs. {})",
        huge.encoded_len(),
        2 * 1024 * 1024
    );
    cases.push(case("a message too large", Request::Put(huge), ResourceExhausted, &text));
    cases.extend(txns());
    cases.extend(watches());
    cases
}

fn compact(revision: i64) -> Request {
    Request::Compact(pb::CompactionRequest { revision, physical: false })
}

fn hash(revision: i64) -> Request {
    Request::HashKv(pb::HashKvRequest { revision })
}

fn grant(id: i64, ttl: i64) -> Request {
    Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
}

fn txns() -> Vec<Case> {
    use Code::{InvalidArgument, NotFound, OutOfRange};
    use request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
    let txn = |ops| Request::Txn(then(ops));
    let puts = |count: usize| -> Vec<_> {
        let key = |place| bytes::Bytes::from(format!("refusals/many/{place}"));
        (0..count)
            .map(|place| RequestPut(pb::PutRequest { key: key(place), ..Default::default() }))
            .collect()
    };
    let no_lease = || RequestPut(pb::PutRequest { lease: MISSING, ..put("refusals/txn") });
    let at = |revision| RequestRange(pb::RangeRequest { revision, ..range("a") });
    vec![
        case("too many operations", txn(puts(129)), InvalidArgument, TOO_MANY),
        case(
            "too many operations in all levels",
            txn(vec![RequestTxn(then(puts(128)))]),
            InvalidArgument,
            TOO_MANY,
        ),
        case(
            "a compare without a key",
            Request::Txn(pb::TxnRequest {
                compare: vec![pb::Compare::default()],
                ..Default::default()
            }),
            InvalidArgument,
            NO_KEY,
        ),
        case(
            "a put without a key in a txn",
            txn(vec![RequestPut(put(""))]),
            InvalidArgument,
            NO_KEY,
        ),
        case(
            "an empty operation",
            Request::Txn(pb::TxnRequest {
                success: vec![pb::RequestOp { request: None }],
                ..Default::default()
            }),
            InvalidArgument,
            KEY_NOT_FOUND,
        ),
        case(
            "a key put twice",
            txn(vec![RequestPut(put("b")), RequestPut(put("b"))]),
            InvalidArgument,
            DUPLICATE,
        ),
        case(
            "a key put and deleted",
            txn(vec![RequestPut(put("b")), RequestDeleteRange(delete("a", "c"))]),
            InvalidArgument,
            DUPLICATE,
        ),
        case(
            "a key put in two nested txns",
            txn(vec![
                RequestTxn(then(vec![RequestPut(put("b"))])),
                RequestTxn(then(vec![RequestPut(put("b"))])),
            ]),
            InvalidArgument,
            DUPLICATE,
        ),
        case("an unknown lease in a txn", txn(vec![no_lease()]), NotFound, NO_LEASE),
        case("a read of the future in a txn", txn(vec![at(1 << 40)]), OutOfRange, FUTURE),
        case("a read below zero in a txn", txn(vec![at(-1)]), OutOfRange, COMPACTED),
        case(
            "a lease unknown, then a read of the future",
            txn(vec![no_lease(), at(1 << 40)]),
            NotFound,
            NO_LEASE,
        ),
        Case {
            older: Some((
                (3, 6, 0),
                Says::No(NotFound, NO_LEASE.to_owned()),
                "puts are checked before ranges",
            )),
            ..case(
                "a read of the future, then an unknown lease",
                txn(vec![at(1 << 40), no_lease()]),
                OutOfRange,
                FUTURE,
            )
        },
        // etcd's own limit is that of operations: it goes as deep as there are any.
        Case { says: Says::Yes, ..case("txns forty deep", nested(40), Code::Ok, "") },
        Case {
            says: Says::Yes,
            ours: Some((
                Says::No(
                    InvalidArgument,
                    "mainstay: transactions are nested more than 40 deep".to_owned(),
                ),
                "what is deeper could not be read back from the log",
            )),
            ..case("txns forty-one deep", nested(41), Code::Ok, "")
        },
    ]
}

fn watches() -> Vec<Case> {
    let case = |what, request, reason, compacted| Case {
        what,
        request,
        says: Says::Canceled(reason, compacted),
        older: None,
        ours: None,
    };
    vec![
        case("a watch with an id in use", watch(0, "", 771), WATCH_DUPLICATE, 0),
        case("a watch of nothing", watch(0, "a", 772), WATCH_EMPTY, 0),
        case("a watch of an empty span", watch(0, "refusals/there", 772), WATCH_EMPTY, 0),
        case("a watch from below the compaction", watch(COMPACT - 1, "", 773), "", COMPACT),
        Case {
            older: Some((
                (3, 6, 0),
                Says::Canceled("", COMPACT),
                "a start below zero is one below the compaction",
            )),
            ..case("a watch from below zero", watch(-1, "", 774), COMPACTED, 0)
        },
    ]
}
