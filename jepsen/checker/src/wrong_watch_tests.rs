//! Watches that break one promise each, and the checker that must say so.

use crate::history::{Record, WatchRecord, WatchRequest, What};
use crate::op::*;
use crate::story::*;

/// Six revisions: puts of a and b, one txn of both (r5), a delete of a (r6), and a put of it anew (r7).
fn told() -> Story {
    let mut s = Story::new();
    s.put(1, "a", "1");
    s.put(1, "b", "1");
    s.put(1, "a", "2");
    s.run(1, both(vec![put("a", "3"), put("b", "3")]));
    s.run(1, delete("a", ""));
    s.put(1, "a", "4");
    s.options.watch_complete_to = Some(7);
    s
}

fn watched(request: WatchRequest) -> Story {
    let mut s = told();
    s.watch(1, request);
    s
}

fn events(record: &mut Record) -> &mut Vec<Event> {
    match &mut record.what {
        What::Watch(WatchRecord::Events { events, .. }) => events,
        other => panic!("{other:?}"),
    }
}

#[test]
fn right_watches_are_accepted() {
    let mut s = watched(watch_all());
    let all = s.events_of(2..=7);
    s.deliver(1, all);
    s.progress(1, 7);
    s.assert_right();
    assert_eq!(s.verdict().stats.events, 7);
}

/// Three writes got no answer, and in which order they happened only the event of a revision shows that two
/// could have made: going back to that one alone does not help.
#[test]
fn a_gap_that_is_explained_otherwise_still_has_to_fit_its_events() {
    let mut s = Story::new();
    s.run(1, grant(7, 60));
    s.add(1, What::Invoke(put("j", "1")));
    s.add(2, What::Invoke(put("k", "1")));
    s.add(3, What::Invoke(put("k", "2")));
    for (process, operation) in [(1, put("j", "1")), (2, put("k", "1")), (3, put("k", "2"))] {
        s.store.step(&operation).expect("a right story");
        s.add(process, What::Info("lost".into()));
    }
    s.watch(1, WatchRequest { no_put: true, start_revision: 0, ..watch_all() });
    s.run(4, leased("k", "3", 7));
    s.run(4, revoke(7));
    let all = s.events_of(6..=6);
    assert_eq!(all[0].prev_kv.as_ref().map(|kv| (kv.create_revision, kv.version)), Some((3, 3)));
    s.deliver(1, all);
    s.assert_right();
}

#[test]
fn missed_event_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    all.retain(|event| event.kv.mod_revision != 4);
    s.deliver(1, all);
    s.assert_only("watch-reliable");
}

#[test]
fn missed_first_event_after_resuming_is_found() {
    let mut s = watched(WatchRequest { start_revision: 3, ..watch_all() });
    let late = s.events_of(4..=7);
    s.deliver(1, late);
    s.assert_only("watch-resumable");
}

#[test]
fn missed_tail_is_found_where_the_end_is_demanded() {
    let mut s = watched(watch_all());
    let all = s.events_of(2..=6);
    s.deliver(1, all);
    s.assert_only("watch-reliable");
    s.options.watch_complete_to = None;
    s.assert_right();
}

#[test]
fn event_delivered_twice_is_found() {
    let mut s = watched(watch_all());
    let (all, again) = (s.events_of(2..=7), s.events_of(7..=7));
    s.deliver(1, all);
    s.deliver(1, again);
    s.assert_only("watch-unique");
}

#[test]
fn event_twice_in_one_txn_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    let twin = all[3].clone();
    all.insert(4, twin);
    s.deliver(1, all);
    s.assert_only("watch-unique");
}

#[test]
fn events_out_of_order_are_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    all.swap(0, 1);
    s.deliver(1, all);
    s.assert_only("watch-ordered");
}

#[test]
fn events_before_created_are_found() {
    let mut s = told();
    let request = watch_all();
    s.add(99, What::Watch(WatchRecord::Create { stream: 1, watch: 1, request }));
    let all = s.events_of(2..=7);
    s.deliver(1, all);
    s.assert_only("watch-ordered");
}

#[test]
fn revision_split_over_two_responses_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    let rest = all.split_off(4);
    assert_eq!((all[3].kv.mod_revision, rest[0].kv.mod_revision), (5, 5));
    let first = s.deliver(1, all);
    s.deliver(1, rest);
    s.assert_only("watch-atomic");
    // As fragments of one response the two are right, if fragments were asked for.
    let What::Watch(WatchRecord::Events { fragment, .. }) = &mut s.records[first].what else {
        panic!()
    };
    *fragment = true;
    s.assert_only("watch-atomic");
    let What::Watch(WatchRecord::Create { request, .. }) = &mut s.records[first - 2].what else {
        panic!()
    };
    request.fragment = true;
    s.assert_right();
}

#[test]
fn revision_delivered_in_part_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    all.remove(4);
    s.deliver(1, all);
    s.assert_only("watch-atomic");
}

#[test]
fn filtered_events_are_found_when_delivered() {
    let requests = [
        WatchRequest { no_put: true, ..watch_all() },
        WatchRequest { no_delete: true, ..watch_all() },
        WatchRequest { key: "b".into(), ..watch_all() },
        WatchRequest { key: "a".into(), range_end: "b".into(), ..watch_all() },
    ];
    for request in requests {
        let mut s = watched(request);
        let all = s.events_of(2..=7);
        let response = s.deliver(1, all);
        s.assert_only("watch-filtered");
        let kept: Vec<Event> = {
            let What::Watch(WatchRecord::Create { request, .. }) = &s.records[response - 2].what
            else {
                panic!()
            };
            let wanted = |event: &&Event| {
                let filtered = match event.kind {
                    EventKind::Put => request.no_put,
                    EventKind::Delete => request.no_delete,
                };
                !filtered && in_range(&event.kv.key, &request.key, &request.range_end)
            };
            s.events_of(2..=7).iter().filter(wanted).cloned().collect()
        };
        *events(&mut s.records[response]) = kept;
        s.assert_right();
    }
}

#[test]
fn event_before_the_start_revision_is_found() {
    let mut s = watched(WatchRequest { start_revision: 4, ..watch_all() });
    let all = s.events_of(3..=7);
    s.deliver(1, all);
    s.assert_only("watch-filtered");
    // «From now on» starts behind the revision of «created».
    let mut s = watched(WatchRequest { start_revision: 0, ..watch_all() });
    let all = s.events_of(7..=7);
    s.deliver(1, all);
    s.assert_only("watch-filtered");
}

#[test]
fn event_before_a_future_start_revision_is_found() {
    let mut s = watched(WatchRequest { start_revision: 9, ..watch_all() });
    s.put(1, "a", "5");
    s.put(1, "a", "6");
    let wrong = s.events_of(8..=9);
    let response = s.deliver(1, wrong);
    s.assert_only("watch-filtered");
    events(&mut s.records[response]).remove(0);
    s.assert_right();
}

#[test]
fn event_that_never_happened_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    let mut phantom = all[6].clone();
    phantom.kv.key = "ghost".into();
    all.push(phantom);
    s.deliver(1, all);
    s.assert_only("watch-phantom");
}

#[test]
fn wrong_value_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    all[1].kv.value = "other".into();
    s.deliver(1, all);
    s.assert_only("watch-value");
}

#[test]
fn wrong_create_flag_is_found() {
    let mut s = watched(watch_all());
    let mut all = s.events_of(2..=7);
    let last = all.last_mut().unwrap();
    assert_eq!(last.kv.version, 1, "a was created anew");
    (last.kv.version, last.kv.create_revision) = (4, 2);
    s.deliver(1, all);
    s.assert_only("watch-create-flag");
}

#[test]
fn wrong_prev_kv_is_found() {
    let edits: [fn(&mut Vec<Event>); 3] = [
        // Absent, of another revision, and present on a create.
        |all| all[2].prev_kv = None,
        |all| all[3].prev_kv = all[2].prev_kv.clone(),
        |all| all[6].prev_kv = all[5].prev_kv.clone(),
    ];
    for edit in edits {
        let mut s = watched(watch_all());
        let mut all = s.events_of(2..=7);
        edit(&mut all);
        s.deliver(1, all);
        s.assert_only("watch-prev-kv");
    }
    let mut s = watched(WatchRequest { prev_kv: false, ..watch_all() });
    let all = s.events_of(2..=7);
    s.deliver(1, all);
    s.assert_only("watch-prev-kv");
}

#[test]
fn prev_kv_may_be_absent_once_compacted() {
    let mut s = told();
    s.run(1, compact(5));
    s.watch(1, WatchRequest { start_revision: 5, ..watch_all() });
    let mut all = s.events_of(5..=7);
    (all[0].prev_kv, all[1].prev_kv) = (None, None);
    let response = s.deliver(1, all);
    s.assert_right();
    events(&mut s.records[response])[2].prev_kv = None;
    s.assert_only("watch-prev-kv");
}

#[test]
fn bookmark_too_early_is_found() {
    let mut s = watched(watch_all());
    let (first, rest) = (s.events_of(2..=4), s.events_of(5..=7));
    s.deliver(1, first);
    s.progress(1, 5);
    s.options.watch_complete_to = None;
    s.assert_only("watch-bookmarkable");
    s.deliver(1, rest);
    s.assert_only("watch-bookmarkable");
}

#[test]
fn bookmark_of_a_whole_stream_covers_each_of_its_watches() {
    let mut s = told();
    for watch in [1, 2] {
        s.add(99, What::Watch(WatchRecord::Create { stream: 1, watch, request: watch_all() }));
        let header = s.header(7);
        s.add(99, What::Watch(WatchRecord::Created { watch, header }));
    }
    let all = s.events_of(2..=7);
    s.deliver(1, all.clone());
    let header = s.header(7);
    let notice = s.add(99, What::Watch(WatchRecord::Progress { stream: 1, watch: None, header }));
    s.deliver(2, all);
    s.assert_only("watch-bookmarkable");
    let last = s.records.len() - 1;
    let time = s.records[notice].time;
    s.records[last].time = time;
    s.records.swap(notice, last);
    s.assert_right();
}

#[test]
fn bookmark_behind_an_event_is_found() {
    let mut s = watched(watch_all());
    let all = s.events_of(2..=7);
    s.deliver(1, all);
    s.progress(1, 6);
    s.assert_only("watch-bookmarkable");
}

#[test]
fn compaction_silently_skipped_is_found() {
    let mut s = told();
    s.run(1, compact(5));
    s.watch(1, watch_all());
    let late = s.events_of(5..=7);
    s.deliver(1, late);
    s.assert_only("watch-compaction");
}

#[test]
fn compaction_cancels_with_the_right_revision_only_and_only_who_is_behind() {
    let tell = |start_revision, compact_revision| {
        let mut s = told();
        s.run(1, compact(5));
        s.watch(1, WatchRequest { start_revision, ..watch_all() });
        s.cancel(1, compact_revision);
        s
    };
    tell(2, 5).assert_right();
    tell(2, 4).assert_only("watch-compaction");
    tell(5, 5).assert_only("watch-compaction");
    // A watch that was level is not behind, whatever is compacted later.
    let mut s = watched(watch_all());
    let all = s.events_of(2..=7);
    s.deliver(1, all);
    s.run(1, compact(7));
    s.cancel(1, 7);
    s.assert_only("watch-compaction");
}

#[test]
fn compaction_cancel_that_nobody_asked_for_is_found() {
    let mut s = watched(watch_all());
    s.cancel(1, 5);
    s.assert_only("watch-compaction");
    s.options.auto_compaction = true;
    s.assert_right();
}

#[test]
fn message_after_the_end_is_found() {
    let mut s = told();
    s.run(1, compact(5));
    s.watch(1, watch_all());
    s.cancel(1, 5);
    let late = s.events_of(7..=7);
    s.deliver(1, late);
    s.assert_only("watch-canceled");
}

#[test]
fn header_older_than_its_events_is_found() {
    let mut s = watched(watch_all());
    let all = s.events_of(2..=7);
    let response = s.deliver(1, all);
    let What::Watch(WatchRecord::Events { header, .. }) = &mut s.records[response].what else {
        panic!()
    };
    header.revision = 6;
    s.assert_only("watch-header");
}

#[test]
fn events_of_unknown_writes_are_judged_too() {
    let mut s = Story::new();
    s.watch(1, watch_all());
    s.lose(1, put("a", "1"), true);
    s.lose(2, put("b", "1"), false);
    s.put(3, "c", "1");
    let all = s.events_of(2..=3);
    let response = s.deliver(1, all);
    s.options.watch_complete_to = Some(3);
    s.assert_right();
    assert_eq!(s.verdict().stats.guessed, 0);
    let twin = events(&mut s.records[response])[0].clone();
    s.deliver(1, vec![twin]);
    s.assert_only("watch-unique");
}
