//! Whether two answers are equal, what may differ, and how a difference is shown.
//!
//! Ids and terms never count: clusters are allowed to have their own. Three more things have no order or no
//! exact value in the protocol: the keys of a lease, a lease's remaining seconds, and keys that are equal
//! by the field they were asked to be sorted by. All else that may differ stands in [`KNOWN`], with its reason.

use mainstay::proto::etcdserverpb::{self as pb, request_op, response_op};
use mainstay::proto::mvccpb::KeyValue;

use super::request::{Answer, Request};

/// A difference that is there on purpose, or that the reference's age explains.
pub struct Known {
    /// It is expected only of references older than this version.
    pub before: (u32, u32, u32),
    /// Why.
    pub reason: &'static str,
    /// Makes the two answers alike as far as the reason goes: (request, ours, the reference's).
    pub level: fn(&Request, &mut Answer, &mut Answer),
}

/// A version that no reference has.
const EVER: (u32, u32, u32) = (u32::MAX, 0, 0);

/// Every accepted difference.
pub const KNOWN: &[Known] = &[
    Known {
        before: EVER,
        reason: "keys that compare equal have no order, and a limit may fall between any of them",
        level: |request, ours, theirs| match (request, ours, theirs) {
            (Request::Range(range), Answer::Range(ours), Answer::Range(theirs)) => level_ties(range, ours, theirs),
            (Request::Txn(txn), Answer::Txn(ours), Answer::Txn(theirs)) => {
                each_inner_range(txn, ours, theirs, &mut |range, ours, theirs| level_ties(range, ours, theirs));
            }
            _ => {}
        },
    },
    Known {
        before: EVER,
        reason: "a hash taken by the scrub of a compaction is kept only if the one before it was complete",
        level: |_, ours, theirs| {
            if let (Answer::HashKv(ours), Answer::HashKv(theirs)) = (ours, theirs)
                && ours.compact_revision != theirs.compact_revision
                && ours.hash_revision == ours.compact_revision.max(theirs.compact_revision)
            {
                (theirs.hash, theirs.compact_revision) = (ours.hash, ours.compact_revision);
            }
        },
    },
    Known {
        before: (3, 7, 0),
        reason: "3.7 answers keys_only from the index, which has no leases",
        level: |request, ours, theirs| {
            let level = |range: &pb::RangeRequest, ours: &mut pb::RangeResponse, theirs: &mut pb::RangeResponse| {
                if range.keys_only && ours.kvs.iter().all(|kv| kv.lease == 0) {
                    theirs.kvs.iter_mut().for_each(|kv| kv.lease = 0);
                }
            };
            match (request, ours, theirs) {
                (Request::Range(range), Answer::Range(ours), Answer::Range(theirs)) => level(range, ours, theirs),
                (Request::Txn(txn), Answer::Txn(ours), Answer::Txn(theirs)) => {
                    each_inner_range(txn, ours, theirs, &mut |range, ours, theirs| level(range, ours, theirs));
                }
                _ => {}
            }
        },
    },
    Known {
        before: (3, 5, 8),
        reason: "older ones tell progress before the events it promises",
        level: |_, _, theirs| {
            if let Answer::Level(streams) = theirs {
                streams.iter_mut().for_each(|level| level.broken.retain(|rule| !rule.contains("after progress")));
            }
        },
    },
    Known {
        before: (3, 6, 0),
        reason: "HashKV names the revision it hashed only since 3.6",
        level: |_, ours, theirs| {
            if let (Answer::HashKv(ours), Answer::HashKv(theirs)) = (ours, theirs)
                && theirs.hash_revision == 0
            {
                theirs.hash_revision = ours.hash_revision;
            }
        },
    },
];

/// What a comparison came to.
pub enum Verdict {
    /// Equal, or so by the accepted differences named (places in [`KNOWN`]).
    Equal(Vec<usize>),
    /// The lines that differ.
    Different(String),
}

/// Compares the answers to one request.
pub fn compare(
    request: &Request,
    mut ours: Answer,
    mut theirs: Answer,
    reference: (u32, u32, u32),
    seconds: i64,
) -> Verdict {
    normalize(&mut ours);
    normalize(&mut theirs);
    if let (Answer::LeaseTimeToLive(ours), Answer::LeaseTimeToLive(theirs)) = (&ours, &mut theirs) {
        // Whole seconds of two clocks; after a restart the reference begins again at the full TTL.
        let near = (ours.ttl - theirs.ttl).abs() <= seconds + 2;
        if near && ours.ttl.min(theirs.ttl) > 0 {
            theirs.ttl = ours.ttl;
        }
    }
    let mut used = Vec::new();
    for (place, known) in KNOWN.iter().enumerate() {
        if ours == theirs {
            break;
        }
        if reference < known.before {
            let before = (ours.clone(), theirs.clone());
            (known.level)(request, &mut ours, &mut theirs);
            if before != (ours.clone(), theirs.clone()) {
                used.push(place);
            }
        }
    }
    if ours == theirs { Verdict::Equal(used) } else { Verdict::Different(difference(&ours, &theirs)) }
}

/// Takes out what the two clusters have for themselves, and the order where there is none.
fn normalize(answer: &mut Answer) {
    let own = |header: &mut pb::ResponseHeader| {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    };
    answer.header_mut().map(own);
    match answer {
        Answer::LeaseTimeToLive(answer) => answer.keys.sort(),
        Answer::LeaseLeases(answer) => answer.leases.sort_by_key(|lease| lease.id),
        Answer::Watch(said) => said.iter_mut().for_each(|response| {
            response.header.as_mut().map(own);
        }),
        _ => {}
    }
}

/// Calls `each` with the ranges in a txn beside both servers' answers to them, down to the last nested one.
fn each_inner_range(
    txn: &pb::TxnRequest,
    ours: &mut pb::TxnResponse,
    theirs: &mut pb::TxnResponse,
    each: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse, &mut pb::RangeResponse),
) {
    if ours.succeeded != theirs.succeeded {
        return;
    }
    let branch = if ours.succeeded { &txn.success } else { &txn.failure };
    for ((operation, ours), theirs) in branch.iter().zip(&mut ours.responses).zip(&mut theirs.responses) {
        use request_op::Request as Asked;
        use response_op::Response as Told;
        match (&operation.request, &mut ours.response, &mut theirs.response) {
            (Some(Asked::RequestRange(range)), Some(Told::ResponseRange(ours)), Some(Told::ResponseRange(theirs))) => {
                each(range, ours, theirs);
            }
            (Some(Asked::RequestTxn(txn)), Some(Told::ResponseTxn(ours)), Some(Told::ResponseTxn(theirs))) => {
                each_inner_range(txn, ours, theirs, each);
            }
            _ => {}
        }
    }
}

/// If both lists are sorted as asked and differ only in keys that compare equal, makes them alike.
fn level_ties(range: &pb::RangeRequest, ours: &mut pb::RangeResponse, theirs: &mut pb::RangeResponse) {
    let by = |kv: &KeyValue| match range.sort_target {
        1 => kv.version.to_be_bytes().to_vec(),
        2 => kv.create_revision.to_be_bytes().to_vec(),
        3 => kv.mod_revision.to_be_bytes().to_vec(),
        4 => kv.value.to_vec(),
        _ => kv.key.to_vec(),
    };
    let order = |one: &KeyValue, other: &KeyValue| {
        if range.sort_order == 2 { by(other).cmp(&by(one)) } else { by(one).cmp(&by(other)) }
    };
    let sorted = |kvs: &[KeyValue]| kvs.is_sorted_by(|one, other| order(one, other).is_le());
    // With keys_only the values that were sorted by are not shown.
    let blind = range.sort_target == 4 && range.keys_only;
    let same_keys = ours.kvs.len() == theirs.kvs.len()
        && (blind || ours.kvs.iter().map(by).eq(theirs.kvs.iter().map(by)));
    if range.sort_target == 0 || !same_keys || !sorted(&ours.kvs) || !sorted(&theirs.kvs) {
        return;
    }
    // A limit may cut through the last group of equals; which of them are shown is then anybody's choice.
    let whole = if blind && theirs.more {
        0
    } else if theirs.more {
        let last = theirs.kvs.last().map(by);
        theirs.kvs.iter().take_while(|kv| Some(by(kv)) != last).count()
    } else {
        theirs.kvs.len()
    };
    let within = |kvs: &[KeyValue]| {
        let mut kvs = kvs[..whole].to_vec();
        kvs.sort_by(|one, other| one.key.cmp(&other.key));
        kvs
    };
    if within(&ours.kvs) == within(&theirs.kvs) {
        ours.kvs.clone_from(&theirs.kvs);
    }
}

/// The differing lines of two values, ours with `+` and the reference's with `-`.
fn difference(ours: &Answer, theirs: &Answer) -> String {
    let (ours, theirs) = (format!("{ours:#?}"), format!("{theirs:#?}"));
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.lines().collect(), theirs.lines().collect());
    let same = ours.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
    let rest = ours.len().min(theirs.len()) - same;
    let tail = ours.iter().rev().zip(theirs.iter().rev()).take(rest).take_while(|(one, other)| one == other).count();
    let mut text = String::new();
    let mut show = |sign: &str, lines: &[&str]| {
        for (count, line) in lines.iter().enumerate() {
            if count == 30 {
                text.push_str(&format!("    {sign} … {} more lines\n", lines.len() - count));
                break;
            }
            text.push_str(&format!("    {sign} {}\n", shorten(line, 300)));
        }
    };
    show(" ", &ours[same.saturating_sub(6)..same]);
    show("-", &theirs[same..theirs.len() - tail]);
    show("+", &ours[same..ours.len() - tail]);
    text
}

/// The text, or its beginning and its length.
pub fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", text.chars().take(limit).collect::<String>(), text.len())
}
