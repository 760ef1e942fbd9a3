//! Whether two answers are equal, what may differ, and how a difference is shown.
//!
//! Ids and terms never count: clusters are allowed to have their own. Three more things have no order or no
//! exact value in the protocol: the keys of a lease, a lease's remaining seconds, and keys that are equal
//! by the field they were asked to be sorted by. All else that may differ stands in [`KNOWN`], with its reason.

use std::collections::{BTreeMap, BTreeSet};

use mainstay::proto::etcdserverpb::{self as pb, request_op, response_op};
use mainstay::proto::mvccpb::{Event, KeyValue, event::EventType};

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
        before: (3, 7, 0),
        reason: "3.7 answers keys_only from the index, which has no leases",
        level: |request, ours, theirs| {
            let level = |range: &pb::RangeRequest,
                         ours: &mut pb::RangeResponse,
                         theirs: &mut pb::RangeResponse| {
                let bare: BTreeSet<_> = ours
                    .kvs
                    .iter()
                    .filter(|kv| range.keys_only && kv.lease == 0)
                    .map(|kv| kv.key.clone())
                    .collect();
                theirs
                    .kvs
                    .iter_mut()
                    .filter(|kv| bare.contains(&kv.key))
                    .for_each(|kv| kv.lease = 0);
            };
            match (request, ours, theirs) {
                (Request::Range(range), Answer::Range(ours), Answer::Range(theirs)) => {
                    level(range, ours, theirs)
                }
                (Request::Txn(txn), Answer::Txn(ours), Answer::Txn(theirs)) => {
                    each_inner_range(txn, ours, theirs, &mut |range, ours, theirs| {
                        level(range, ours, theirs)
                    });
                }
                _ => {}
            }
        },
    },
    Known {
        before: EVER,
        reason: "keys that compare equal have no order, and a limit may fall between any of them",
        level: |request, ours, theirs| match (request, ours, theirs) {
            (Request::Range(range), Answer::Range(ours), Answer::Range(theirs)) => {
                level_ties(range, ours, theirs)
            }
            (Request::Txn(txn), Answer::Txn(ours), Answer::Txn(theirs)) => {
                each_inner_range(txn, ours, theirs, &mut |range, ours, theirs| {
                    level_ties(range, ours, theirs)
                });
            }
            _ => {}
        },
    },
    Known {
        before: (3, 5, 8),
        reason: "older ones tell progress before the events it promises",
        level: |_, _, theirs| {
            if let Answer::Level(streams) = theirs {
                streams
                    .iter_mut()
                    .for_each(|level| level.broken.retain(|rule| !rule.contains("after progress")));
            }
        },
    },
    Known {
        before: (3, 4, 34),
        reason: "older ones remove a tombstone at the compacted revision, so a watch from there misses the delete",
        level: |request, ours, theirs| {
            if let (
                Request::WatchLevel { compacted, .. },
                Answer::Level(ours),
                Answer::Level(theirs),
            ) = (request, ours, theirs)
            {
                ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| {
                    level_tombstones(*compacted, &mut ours.events, &theirs.events);
                });
            }
        },
    },
    Known {
        before: (3, 5, 0),
        reason: "older ones answer about alarms without a header",
        level: |_, ours, theirs| {
            if let (Answer::Alarms(ours), Answer::Alarms(theirs)) = (ours, theirs)
                && theirs.header.is_none()
            {
                theirs.header = ours.header;
            }
        },
    },
    Known {
        before: (3, 6, 0),
        reason: "older ones check all puts of a txn before all its ranges, so of two refusals they name another",
        level: |request, ours, theirs| {
            if let (Request::Txn(_), Answer::Error(range), Answer::Error(put)) =
                (request, &*ours, &*theirs)
                && ["compacted", "future revision"].iter().any(|end| range.message.ends_with(end))
                && ["lease not found", "key not found"].iter().any(|end| put.message.ends_with(end))
            {
                *theirs = ours.clone();
            }
        },
    },
    Known {
        before: (3, 5, 0),
        reason: "older ones refuse to hash the compacted revision itself",
        level: |request, ours, theirs| {
            if let (Request::HashKv(asked), Answer::HashKv(_), Answer::Error(error)) =
                (request, &*ours, &*theirs)
                && asked.revision > 0
                && error.message.ends_with("required revision has been compacted")
            {
                *theirs = ours.clone();
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
    if ours == theirs {
        Verdict::Equal(used)
    } else {
        Verdict::Different(difference(&ours, &theirs))
    }
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
    for ((operation, ours), theirs) in
        branch.iter().zip(&mut ours.responses).zip(&mut theirs.responses)
    {
        use request_op::Request as Asked;
        use response_op::Response as Told;
        match (&operation.request, &mut ours.response, &mut theirs.response) {
            (
                Some(Asked::RequestRange(range)),
                Some(Told::ResponseRange(ours)),
                Some(Told::ResponseRange(theirs)),
            ) => {
                each(range, ours, theirs);
            }
            (
                Some(Asked::RequestTxn(txn)),
                Some(Told::ResponseTxn(ours)),
                Some(Told::ResponseTxn(theirs)),
            ) => {
                each_inner_range(txn, ours, theirs, each);
            }
            _ => {}
        }
    }
}

/// Takes out of ours the deletes at the compacted revision that the reference's watcher was not told of.
fn level_tombstones(
    compacted: i64,
    ours: &mut BTreeMap<i64, Vec<Event>>,
    theirs: &BTreeMap<i64, Vec<Event>>,
) {
    for (watch, events) in ours.iter_mut() {
        let told = theirs.get(watch).map_or(&[][..], |events| events);
        events.retain(|event| {
            let delete = event.r#type == EventType::Delete as i32;
            let there = event.kv.as_ref().is_some_and(|kv| kv.mod_revision == compacted);
            !(delete && there) || told.contains(event)
        });
    }
    ours.retain(|_, events| !events.is_empty());
}

/// If both lists are sorted as asked and differ only in keys that compare equal, makes them alike.
fn level_ties(
    range: &pb::RangeRequest,
    ours: &mut pb::RangeResponse,
    theirs: &mut pb::RangeResponse,
) {
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
    let tail = ours
        .iter()
        .rev()
        .zip(theirs.iter().rev())
        .take(rest)
        .take_while(|(one, other)| one == other)
        .count();
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

/// The text without fields that have their default value, and with long runs of one character counted.
pub fn terse(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let default = rest[word..].strip_prefix(": ").and_then(|value| {
            let ends = ["0", "false", "b\"\"", "None", "[]"];
            ends.iter().find_map(|end| {
                value.strip_prefix(end).filter(|after| after.starts_with([',', ' ']))
            })
        });
        if let (true, Some(after)) = (word > 0, default) {
            rest = after.trim_start_matches(", ");
            continue;
        }
        let run = rest.chars().take_while(|c| *c == first).count();
        if run > 20 {
            out.push_str(&format!("{first}×{run}"));
            rest = &rest[run * first.len_utf8()..];
        } else {
            // A whole word at once, or its tail would look like another word.
            let step = word.max(first.len_utf8());
            out.push_str(&rest[..step]);
            rest = &rest[step..];
        }
    }
    out
}

/// The text, or its beginning and its length.
pub fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", text.chars().take(limit).collect::<String>(), text.len())
}

#[cfg(test)]
mod tests {
    use super::super::request::Level;
    use super::*;

    fn kv(key: &'static str, version: i64) -> KeyValue {
        KeyValue { key: key.into(), version, ..Default::default() }
    }

    fn range(kvs: Vec<KeyValue>, more: bool) -> Answer {
        Answer::Range(pb::RangeResponse { kvs, more, ..Default::default() })
    }

    fn equal(request: &Request, ours: Answer, theirs: Answer) -> bool {
        matches!(compare(request, ours, theirs, (3, 7, 1), 0), Verdict::Equal(_))
    }

    #[test]
    fn only_ties_may_change_places() {
        let asked = pb::RangeRequest { sort_order: 1, sort_target: 1, ..Default::default() };
        let request = Request::Range(asked.clone());
        let (a, b, c) = (kv("a", 1), kv("b", 1), kv("c", 2));
        let one = range(vec![a.clone(), b.clone(), c.clone()], false);
        assert!(equal(&request, one.clone(), range(vec![b.clone(), a.clone(), c.clone()], false)));
        assert!(!equal(&request, one.clone(), range(vec![c.clone(), a.clone(), b.clone()], false)));
        let by_key = Request::Range(pb::RangeRequest { sort_target: 0, ..asked });
        assert!(!equal(&by_key, one, range(vec![b.clone(), a.clone(), c.clone()], false)));
        // A limit within the last group shows any of it, but not within an earlier one.
        assert!(equal(&request, range(vec![a.clone()], true), range(vec![b.clone()], true)));
        assert!(!equal(&request, range(vec![a, c.clone()], true), range(vec![b, c], true)));
    }

    #[test]
    fn only_deletes_at_the_compacted_revision_may_be_missing_and_only_in_old_ones() {
        let delete = |revision| Event {
            r#type: EventType::Delete as i32,
            kv: Some(KeyValue { mod_revision: revision, ..kv("a", 0) }),
            prev_kv: None,
        };
        let told = |events: Vec<Event>| {
            let events = BTreeMap::from([(7, events)]);
            Answer::Level(vec![Level { events, ..Level::default() }])
        };
        let request = Request::WatchLevel { streams: vec![0], revision: 9, compacted: 5 };
        let equal = |ours, theirs, version| {
            matches!(compare(&request, told(ours), told(theirs), version, 0), Verdict::Equal(_))
        };
        assert!(equal(vec![delete(5), delete(6)], vec![delete(6)], (3, 4, 23)));
        assert!(!equal(vec![delete(5), delete(6)], vec![delete(6)], (3, 5, 16)));
        assert!(!equal(vec![delete(5), delete(6)], vec![delete(5)], (3, 4, 23)));
        assert!(!equal(vec![delete(6)], vec![delete(5), delete(6)], (3, 4, 23)));
    }

    #[test]
    fn ids_and_terms_do_not_count_but_revisions_do() {
        let put = |member_id, revision| {
            let header = Some(pb::ResponseHeader { member_id, revision, ..Default::default() });
            Answer::Put(pb::PutResponse { header, prev_kv: None })
        };
        let request = Request::Put(pb::PutRequest::default());
        assert!(equal(&request, put(1, 5), put(2, 5)));
        assert!(!equal(&request, put(1, 5), put(1, 6)));
    }

    #[test]
    fn terse_text_keeps_what_was_asked() {
        let put = pb::PutRequest {
            key: "k".into(),
            prev_kv: true,
            value: vec![b'v'; 50].into(),
            ..Default::default()
        };
        assert_eq!(
            terse(&format!("{put:?}")),
            "PutRequest { key: b\"k\", value: b\"v×50\", prev_kv: true,  }"
        );
    }
}
