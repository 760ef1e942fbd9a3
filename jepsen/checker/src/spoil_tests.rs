//! Right histories spoilt at random: whatever the seed, a spoilt one is rejected, by the right checker.
//!
//! Each spoiler looks for a place where its kind of damage can be done and does it once. The histories
//! have no unknown outcomes, so nothing can explain the damage away.

use crate::generate::{Generated, Plan, Random, generate};
use crate::history::{Record, WatchRecord, WatchRequest, What};
use crate::op::*;
use crate::verdict::{Options, check};
use std::collections::BTreeMap;

struct Spoiler {
    name: &'static str,
    /// Any of these must find it.
    checkers: &'static [&'static str],
    spoil: fn(&mut Generated, &mut Random) -> bool,
}

const READ: &[&str] = &["lost-write", "txn-atomic", "serializable-state", "dirty-read"];

const SPOILERS: &[Spoiler] = &[
    Spoiler { name: "a read shows a key as it was before", checkers: READ, spoil: older_value },
    Spoiler { name: "a read misses a key", checkers: READ, spoil: missing_key },
    Spoiler {
        name: "a read shows a value nobody wrote",
        checkers: &["dirty-read", "serializable-state"],
        spoil: |g, r| edit_kv(g, r, |kv| kv.value = "from nowhere".into()),
    },
    Spoiler {
        name: "a read shows a wrong version",
        checkers: &["key-metadata", "serializable-state"],
        spoil: |g, r| edit_kv(g, r, |kv| kv.version += 1),
    },
    Spoiler {
        name: "a read shows a wrong create revision",
        checkers: &["key-metadata", "serializable-state"],
        spoil: |g, r| edit_kv(g, r, |kv| kv.create_revision -= 1),
    },
    Spoiler { name: "a wrong count", checkers: &["count"], spoil: wrong_count },
    Spoiler { name: "a wrong prev_kv", checkers: &["prev-kv"], spoil: wrong_prev_kv },
    Spoiler {
        name: "a wrong number of deleted keys",
        checkers: &["delete-count"],
        spoil: wrong_deleted,
    },
    Spoiler { name: "a txn says the other branch", checkers: &["txn-branch"], spoil: wrong_branch },
    Spoiler {
        name: "two writes claim one revision",
        checkers: &["revision-unique"],
        spoil: reused_revision,
    },
    Spoiler {
        name: "a write nobody asked for",
        // One that kept the old value looks as if the write of that value had come twice.
        checkers: &["gap", "duplicate-apply"],
        spoil: forgotten_write,
    },
    Spoiler {
        name: "writes in an order against real time",
        checkers: &["real-time"],
        spoil: swapped_revisions,
    },
    Spoiler { name: "an old linearizable read", checkers: &["stale-read"], spoil: stale_read },
    Spoiler {
        name: "a watch misses an event",
        checkers: &["watch-reliable", "watch-resumable", "watch-atomic", "watch-bookmarkable"],
        spoil: missed_event,
    },
    Spoiler {
        name: "a watch repeats an event",
        checkers: &["watch-unique"],
        spoil: repeated_event,
    },
    Spoiler {
        name: "a watch swaps two events",
        checkers: &["watch-ordered", "watch-atomic"],
        spoil: swapped_events,
    },
    Spoiler {
        name: "a watch shows a wrong version",
        checkers: &["watch-create-flag"],
        spoil: |g, r| edit_event(g, r, |event| event.kv.version += 1),
    },
    Spoiler {
        name: "a watch shows a wrong value",
        checkers: &["watch-value"],
        spoil: |g, r| edit_event(g, r, |event| event.kv.value = "from nowhere".into()),
    },
    Spoiler {
        name: "a watch shows a wrong prev_kv",
        checkers: &["watch-prev-kv"],
        spoil: |g, r| {
            edit_event(g, r, |event| match &mut event.prev_kv {
                Some(kv) => kv.version += 1,
                none => *none = Some(KeyValue::default()),
            })
        },
    },
    Spoiler {
        name: "a watch ignores its filters",
        checkers: &["watch-filtered"],
        spoil: ignored_filter,
    },
    Spoiler {
        name: "a progress notice too early",
        checkers: &["watch-bookmarkable"],
        spoil: early_notice,
    },
];

#[test]
fn spoilt_histories_are_rejected_by_the_right_checker() {
    for spoiler in SPOILERS {
        let mut done = 0;
        for seed in 0..80 {
            let plan = Plan {
                unknown_percent: 0,
                leases: false,
                compactions: false,
                operations: 100,
                ..Plan::rich(seed)
            };
            let mut run = generate(&plan);
            let mut random = Random::new(seed);
            if !(spoiler.spoil)(&mut run, &mut random) {
                continue;
            }
            done += 1;
            let options = Options { watch_complete_to: Some(run.revision), ..Options::default() };
            let verdict = check(&run.records, &options);
            let found = spoiler.checkers.iter().any(|checker| verdict.found(checker));
            assert!(found, "«{}», seed {seed}\n{verdict}", spoiler.name);
        }
        assert!(done >= 20, "«{}» could be done in only {done} of 80 histories", spoiler.name);
    }
}

/// Picks one of the records for which `wanted` holds.
fn pick(
    records: &[Record],
    random: &mut Random,
    wanted: impl Fn(usize, &What) -> bool,
) -> Option<usize> {
    let places = records.iter().enumerate().filter(|(at, record)| wanted(*at, &record.what));
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    let many = u64::try_from(places.len()).unwrap();
    (many > 0).then(|| places[usize::try_from(random.below(many)).unwrap()])
}

/// The operation that a record answers.
fn asked(records: &[Record], at: usize) -> &Operation {
    let process = records[at].process;
    let invoke = records[..at].iter().rev().find_map(|record| match &record.what {
        What::Invoke(operation) if record.process == process => Some(operation),
        _ => None,
    });
    invoke.expect("an answer follows a question")
}

fn range_reply(records: &mut [Record], at: usize) -> &mut RangeReply {
    match &mut records[at].what {
        What::Ok(Reply::Range(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

/// A range whose keys are all shown, as they are.
fn plain_range(records: &[Record], at: usize, what: &What) -> bool {
    let What::Ok(Reply::Range(reply)) = what else { return false };
    let Operation::Range(range) = asked(records, at) else { return false };
    !reply.kvs.is_empty()
        && !range.keys_only
        && range.limit == 0
        && range.sort_target == SortTarget::Key
}

fn edit_kv(run: &mut Generated, random: &mut Random, edit: fn(&mut KeyValue)) -> bool {
    let records = &run.records;
    let Some(at) = pick(records, random, |at, what| plain_range(records, at, what)) else {
        return false;
    };
    edit(&mut range_reply(&mut run.records, at).kvs[0]);
    true
}

fn older_value(run: &mut Generated, random: &mut Random) -> bool {
    let mut puts: BTreeMap<crate::blob::Blob, Vec<KeyValue>> = BTreeMap::new();
    for change in run.truth.revisions.iter().flat_map(|(_, changes)| changes) {
        if change.kind == EventKind::Put {
            puts.entry(change.kv.key.clone()).or_default().push(change.kv.clone());
        }
    }
    let older = |kv: &KeyValue| {
        puts[&kv.key].iter().rev().find(|old| old.mod_revision < kv.mod_revision).cloned()
    };
    let records = &run.records;
    let wanted = |at: usize, what: &What| {
        plain_range(records, at, what)
            && matches!(what, What::Ok(Reply::Range(reply)) if older(&reply.kvs[0]).is_some())
    };
    let Some(at) = pick(records, random, wanted) else { return false };
    let kv = &mut range_reply(&mut run.records, at).kvs[0];
    *kv = older(kv).unwrap();
    true
}

fn missing_key(run: &mut Generated, random: &mut Random) -> bool {
    let records = &run.records;
    let Some(at) = pick(records, random, |at, what| plain_range(records, at, what)) else {
        return false;
    };
    let reply = range_reply(&mut run.records, at);
    reply.kvs.pop();
    reply.count -= 1;
    true
}

fn wrong_count(run: &mut Generated, random: &mut Random) -> bool {
    let range = |_: usize, what: &What| matches!(what, What::Ok(Reply::Range(_)));
    let Some(at) = pick(&run.records, random, range) else { return false };
    range_reply(&mut run.records, at).count += 1;
    true
}

fn wrong_prev_kv(run: &mut Generated, random: &mut Random) -> bool {
    let shown = |_: usize, what: &What| {
        matches!(what, What::Ok(Reply::Put(PutReply { prev_kv: Some(_), .. })))
    };
    let Some(at) = pick(&run.records, random, shown) else { return false };
    let What::Ok(Reply::Put(reply)) = &mut run.records[at].what else { panic!() };
    reply.prev_kv = None;
    true
}

fn wrong_deleted(run: &mut Generated, random: &mut Random) -> bool {
    let some = |_: usize, what: &What| matches!(what, What::Ok(Reply::DeleteRange(reply)) if reply.deleted > 0);
    let Some(at) = pick(&run.records, random, some) else { return false };
    let What::Ok(Reply::DeleteRange(reply)) = &mut run.records[at].what else { panic!() };
    reply.deleted += 1;
    true
}

fn wrong_branch(run: &mut Generated, random: &mut Random) -> bool {
    let txn = |_: usize, what: &What| matches!(what, What::Ok(Reply::Txn(_)));
    let Some(at) = pick(&run.records, random, txn) else { return false };
    let What::Ok(Reply::Txn(reply)) = &mut run.records[at].what else { panic!() };
    reply.succeeded = !reply.succeeded;
    true
}

fn is_write(what: &What) -> bool {
    matches!(what, What::Ok(reply) if reply.changed())
}

fn revision(records: &mut [Record], at: usize) -> &mut i64 {
    match &mut records[at].what {
        What::Ok(reply) => &mut reply.header_mut().revision,
        other => panic!("{other:?}"),
    }
}

fn reused_revision(run: &mut Generated, random: &mut Random) -> bool {
    let Some(a) = pick(&run.records, random, |_, what| is_write(what)) else { return false };
    let Some(b) = pick(&run.records, random, |at, what| at != a && is_write(what)) else {
        return false;
    };
    *revision(&mut run.records, a) = *revision(&mut run.records, b);
    true
}

fn forgotten_write(run: &mut Generated, random: &mut Random) -> bool {
    // The last write was shown by nobody else, so that its making stays a riddle.
    let Some(at) = pick(&run.records, random, |_, what| is_write(what)) else { return false };
    let process = run.records[at].process;
    let invoke = (0..at).rev().find(|&other| {
        run.records[other].process == process && matches!(run.records[other].what, What::Invoke(_))
    });
    run.records.remove(at);
    run.records.remove(invoke.unwrap());
    true
}

fn swapped_revisions(run: &mut Generated, random: &mut Random) -> bool {
    let Some(a) = pick(&run.records, random, |_, what| is_write(what)) else { return false };
    let records = &run.records;
    let later = |at: usize, what: &What| {
        let process = records[at].process;
        let called = (0..at).rev().find(|&other| {
            records[other].process == process && matches!(records[other].what, What::Invoke(_))
        });
        is_write(what) && called.is_some_and(|called| called > a)
    };
    let Some(b) = pick(&run.records, random, later) else { return false };
    let (first, second) = (*revision(&mut run.records, a), *revision(&mut run.records, b));
    *revision(&mut run.records, a) = second;
    *revision(&mut run.records, b) = first;
    true
}

fn stale_read(run: &mut Generated, random: &mut Random) -> bool {
    let records = &run.records;
    let linearizable = |at: usize, what: &What| {
        matches!(what, What::Ok(Reply::Range(_))) && !asked(records, at).serializable()
    };
    let Some(at) = pick(&run.records, random, linearizable) else { return false };
    // The very same question and answer once more, at the end.
    let (question, mut answer) = (asked(&run.records, at).clone(), run.records[at].clone());
    if *revision(&mut run.records, at) >= run.revision {
        return false;
    }
    answer.time = run.records.last().unwrap().time;
    answer.process = 1000;
    run.records.push(Record { what: What::Invoke(question), ..answer.clone() });
    run.records.push(answer);
    // Everybody knew better by then.
    run.records.iter().any(|record| match &record.what {
        What::Ok(reply) => reply.header().revision == run.revision,
        _ => false,
    })
}

fn events(records: &mut [Record], at: usize) -> &mut Vec<Event> {
    match &mut records[at].what {
        What::Watch(WatchRecord::Events { events, .. }) => events,
        other => panic!("{other:?}"),
    }
}

fn request(records: &[Record], at: usize) -> &WatchRequest {
    let What::Watch(WatchRecord::Events { watch: wanted, .. }) = &records[at].what else {
        panic!()
    };
    let found = records[..at].iter().find_map(|record| match &record.what {
        What::Watch(WatchRecord::Create { watch, request, .. }) if watch == wanted => Some(request),
        _ => None,
    });
    found.expect("a watch is created before it speaks")
}

fn is_events(what: &What, least: usize) -> bool {
    matches!(what, What::Watch(WatchRecord::Events { events, .. }) if events.len() >= least)
}

fn missed_event(run: &mut Generated, random: &mut Random) -> bool {
    let Some(at) = pick(&run.records, random, |_, what| is_events(what, 1)) else { return false };
    events(&mut run.records, at).remove(0);
    true
}

fn repeated_event(run: &mut Generated, random: &mut Random) -> bool {
    let Some(at) = pick(&run.records, random, |_, what| is_events(what, 1)) else { return false };
    let again = run.records[at].clone();
    run.records.insert(at + 1, again);
    true
}

fn swapped_events(run: &mut Generated, random: &mut Random) -> bool {
    let Some(at) = pick(&run.records, random, |_, what| is_events(what, 2)) else { return false };
    events(&mut run.records, at).swap(0, 1);
    true
}

fn edit_event(run: &mut Generated, random: &mut Random, edit: fn(&mut Event)) -> bool {
    let put = |_: usize, what: &What| {
        matches!(what, What::Watch(WatchRecord::Events { events, .. })
            if events.iter().any(|event| event.kind == EventKind::Put))
    };
    let Some(at) = pick(&run.records, random, put) else { return false };
    let found = events(&mut run.records, at).iter_mut().find(|event| event.kind == EventKind::Put);
    edit(found.unwrap());
    true
}

fn ignored_filter(run: &mut Generated, random: &mut Random) -> bool {
    // A watch that had asked for less than it got.
    let Some(at) = pick(&run.records, random, |_, what| is_events(what, 1)) else { return false };
    let key = events(&mut run.records, at)[0].kv.key.clone();
    let asked = request(&run.records, at).clone();
    for record in &mut run.records {
        if let What::Watch(WatchRecord::Create { request, .. }) = &mut record.what
            && *request == asked
        {
            let other = if &*key == b"k0" { "k1" } else { "k0" };
            (request.key, request.range_end) = (other.into(), crate::blob::Blob::default());
        }
    }
    true
}

fn early_notice(run: &mut Generated, random: &mut Random) -> bool {
    let Some(at) = pick(&run.records, random, |_, what| is_events(what, 1)) else { return false };
    let What::Watch(WatchRecord::Events { watch, events, .. }) = &run.records[at].what else {
        panic!()
    };
    let revision = events.last().unwrap().kv.mod_revision;
    let watch = *watch;
    let stream = run.records.iter().find_map(|record| match &record.what {
        What::Watch(WatchRecord::Create { stream, watch: other, .. }) if *other == watch => {
            Some(*stream)
        }
        _ => None,
    });
    let notice = WatchRecord::Progress {
        stream: stream.unwrap(),
        watch: Some(watch),
        header: Header { revision, member: 1, term: 1 },
    };
    let what = What::Watch(notice);
    let before = run.records[at].clone();
    run.records.insert(at, Record { what, ..before });
    true
}
