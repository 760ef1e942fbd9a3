//! The promises of a watch, each judged by its own name against what really happened.
//!
//! | checker | promise |
//! |---|---|
//! | `watch-ordered` | events come in the order of their revisions |
//! | `watch-unique` | no event comes twice |
//! | `watch-atomic` | a revision comes whole, in one response (or the fragments of one) |
//! | `watch-reliable` | nothing is missing between two events, or before the demanded end |
//! | `watch-resumable` | nothing is missing between the start revision and the first event |
//! | `watch-bookmarkable` | a progress notice at R comes after everything ≤ R and before the rest |
//! | `watch-filtered` | no event outside the key range, the filters, or before the start revision |
//! | `watch-phantom` | no event that never happened |
//! | `watch-value` | value, lease and mod revision are those written |
//! | `watch-create-flag` | version and create revision, from which clients read «created», are right |
//! | `watch-prev-kv` | prev_kv is the key before the revision, if asked for; else absent |
//! | `watch-compaction` | compaction is told, with the right revision, when and only when it hides events |
//! | `watch-header` | a response's header is not older than its events |
//! | `watch-canceled` | nothing comes after the end of a watch |
//!
//! These are one file and not one each: an event is compared with what is expected once, and that one comparison
//! decides which of the promises it breaks, and that it breaks no other.
//!
//! A watch's *expected* events are those of its range, filters and start, in order; `next` is one behind
//! the last that came. Revisions that were only guessed (explain.rs) are never demanded.

use crate::explain::Keys;
use crate::history::{Record, WatchRecord, WatchRequest, What};
use crate::op::{Change, Event, EventKind, Operation, in_range};
use crate::ops::{Ops, Outcome};
use crate::timeline::Timeline;
use crate::verdict::{Options, Verdict, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// What watches are judged by.
pub(crate) struct Judge<'a, 'h> {
    pub timeline: &'a Timeline,
    /// Whether the timeline is known, or at least contradicts nothing.
    pub known: bool,
    pub guessed: &'a BTreeMap<i64, BTreeSet<Keys>>,
    pub ops: &'a Ops<'h>,
    pub options: &'a Options,
}

struct Watcher<'h> {
    request: &'h WatchRequest,
    created_at: usize,
    created: bool,
    ended: bool,
    /// First revision wanted; known once created if the request said «from now on».
    start: i64,
    /// Numbers of the changes it must see, ascending.
    expected: Vec<u32>,
    delivered: Vec<Option<usize>>,
    next: usize,
    first: Option<usize>,
    last_revision: i64,
    bookmark: i64,
    in_fragments: bool,
}

/// A compaction that somebody asked for.
struct Compaction {
    call: usize,
    revision: i64,
}

impl<'h> Judge<'_, 'h> {
    /// Judges all watches of a history.
    pub fn check(&self, records: &'h [Record], verdict: &mut Verdict) {
        let compactions: Vec<Compaction> = self
            .ops
            .all
            .iter()
            .filter(|op| !matches!(op.outcome, Outcome::Fail(_)))
            .filter_map(|op| match op.operation {
                Operation::Compact(compact) => {
                    Some(Compaction { call: op.call, revision: compact.revision })
                }
                _ => None,
            })
            .collect();
        let mut watchers: BTreeMap<u64, Watcher<'h>> = BTreeMap::new();
        let mut streams: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut run = Run { judge: self, compactions: &compactions, found: Vec::new(), events: 0 };
        for (number, record) in records.iter().enumerate() {
            let What::Watch(watch) = &record.what else { continue };
            match watch {
                WatchRecord::Create { stream, watch, request } => {
                    streams.entry(*stream).or_default().push(*watch);
                    if watchers.insert(*watch, Watcher::new(request, number)).is_some() {
                        run.report("history", number, number, format!("watch {watch} exists"));
                    }
                }
                WatchRecord::Progress { stream, watch, header } => {
                    let all = streams.get(stream).into_iter().flatten();
                    for id in all.filter(|id| watch.is_none_or(|watch| watch == **id)) {
                        let watcher = watchers.get_mut(id).expect("listed with its stream");
                        if watcher.created && !watcher.ended {
                            run.progress(watcher, number, header.revision);
                        }
                    }
                }
                WatchRecord::Closed { stream } => {
                    for id in streams.get(stream).into_iter().flatten() {
                        watchers.get_mut(id).expect("listed with its stream").ended = true;
                    }
                }
                WatchRecord::CancelRequested { .. } => {}
                WatchRecord::Created { watch, .. }
                | WatchRecord::Events { watch, .. }
                | WatchRecord::Canceled { watch, .. } => {
                    let Some(watcher) = watchers.get_mut(watch) else {
                        run.report("history", number, number, format!("watch {watch} is unknown"));
                        continue;
                    };
                    run.message(watcher, number, &record.what);
                }
            }
        }
        for watcher in watchers.values() {
            run.completeness(watcher);
        }
        verdict.stats.watches = watchers.len();
        verdict.stats.events = run.events;
        // Where the replay gave up, what it took for the truth may be a wrong guess.
        let list = if self.known { &mut verdict.violations } else { &mut verdict.undecided };
        list.append(&mut run.found);
    }
}

impl<'h> Watcher<'h> {
    fn new(request: &'h WatchRequest, created_at: usize) -> Self {
        Watcher {
            request,
            created_at,
            created: false,
            ended: false,
            start: request.start_revision,
            expected: Vec::new(),
            delivered: Vec::new(),
            next: 0,
            first: None,
            last_revision: 0,
            bookmark: 0,
            in_fragments: false,
        }
    }

    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.request.no_put,
            EventKind::Delete => !self.request.no_delete,
        }
    }
}

struct Run<'r, 'a, 'h> {
    judge: &'r Judge<'a, 'h>,
    compactions: &'r [Compaction],
    found: Vec<Violation>,
    events: usize,
}

impl<'h> Run<'_, '_, 'h> {
    fn report(&mut self, checker: &'static str, created: usize, record: usize, message: String) {
        let mut evidence = vec![created, record];
        evidence.dedup();
        self.found.push(Violation::new(checker, message, evidence));
    }

    fn message(&mut self, watcher: &mut Watcher<'h>, record: usize, what: &'h What) {
        let created = watcher.created_at;
        if watcher.ended {
            self.report("watch-canceled", created, record, "a message after the end".into());
            return;
        }
        match what {
            What::Watch(WatchRecord::Created { header, .. }) => {
                watcher.created = true;
                if watcher.start == 0 {
                    watcher.start = header.revision + 1;
                }
                self.expect(watcher);
            }
            What::Watch(WatchRecord::Events { header, fragment, events, .. }) => {
                if !watcher.created {
                    self.report("watch-ordered", created, record, "events before «created»".into());
                    watcher.created = true;
                    self.expect(watcher);
                }
                if *fragment && !watcher.request.fragment {
                    self.report("watch-atomic", created, record, "an unasked fragment".into());
                }
                let newest = events.iter().map(|event| event.kv.mod_revision).max().unwrap_or(0);
                if header.revision < newest {
                    let message =
                        format!("header at r{} with an event of r{newest}", header.revision);
                    self.report("watch-header", created, record, message);
                }
                let before = watcher.last_revision;
                let continues = watcher.in_fragments;
                for event in events {
                    self.event(watcher, record, event, if continues { None } else { Some(before) });
                }
                watcher.in_fragments = *fragment;
            }
            What::Watch(WatchRecord::Canceled { compact_revision, .. }) => {
                watcher.ended = true;
                if *compact_revision > 0 {
                    self.canceled_by_compaction(watcher, record, *compact_revision);
                }
            }
            _ => {}
        }
    }

    fn expect(&mut self, watcher: &mut Watcher<'h>) {
        let timeline = self.judge.timeline;
        let WatchRequest { key, range_end, .. } = watcher.request;
        // A watch without a key begins at the lowest one.
        let start: &[u8] = if key.is_empty() { b"\0" } else { key };
        let mut expected = timeline.changes_from(start, range_end, watcher.start);
        expected.retain(|&number| watcher.wants(timeline.change(number).kind));
        watcher.delivered = vec![None; expected.len()];
        watcher.expected = expected;
    }

    /// Judges one event. `before` is the last revision of the response before, if this one isn't its
    /// continuation.
    fn event(
        &mut self,
        watcher: &mut Watcher<'h>,
        record: usize,
        event: &Event,
        before: Option<i64>,
    ) {
        self.events += 1;
        let timeline = self.judge.timeline;
        let created = watcher.created_at;
        let revision = event.kv.mod_revision;
        if revision > timeline.revision() {
            // The replay ended before; its own violation says why.
            return;
        }
        let told = || format!("{:?} {} at r{revision}", event.kind, event.kv.key);
        let same = |change: &Change| change.kind == event.kind && change.kv.key == event.kv.key;
        let from =
            watcher.expected.partition_point(|&n| timeline.change(n).kv.mod_revision < revision);
        let mut places = (from..watcher.expected.len())
            .take_while(|&at| timeline.change(watcher.expected[at]).kv.mod_revision == revision)
            .filter(|&at| same(timeline.change(watcher.expected[at])));
        let first = places.next();
        let place = first.into_iter().chain(places).find(|&at| watcher.delivered[at].is_none());
        let Some(place) = place.or(first) else {
            let checker = match timeline.at(revision).iter().any(same) {
                true => "watch-filtered",
                false => "watch-phantom",
            };
            self.report(checker, created, record, told());
            return;
        };
        if let Some(earlier) = watcher.delivered[place] {
            let message = format!("{} came in record {earlier} already", told());
            self.report("watch-unique", created, record, message);
            return;
        }
        watcher.delivered[place] = Some(record);
        if revision <= watcher.bookmark {
            let message = format!("{} after a notice of r{}", told(), watcher.bookmark);
            self.report("watch-bookmarkable", created, record, message);
        } else if place < watcher.next
            && !(revision == watcher.last_revision && self.judge.guessed.contains_key(&revision))
        {
            let message = format!("{} after an event of r{}", told(), watcher.last_revision);
            self.report("watch-ordered", created, record, message);
        } else if before == Some(revision) {
            let message = format!("r{revision} comes in two responses");
            self.report("watch-atomic", created, record, message);
        }
        watcher.first = watcher.first.or(Some(place));
        watcher.next = watcher.next.max(place + 1);
        watcher.last_revision = watcher.last_revision.max(revision);
        self.content(watcher, record, event, timeline.change(watcher.expected[place]));
    }

    /// Compares an event's fields with what was written.
    fn content(&mut self, watcher: &Watcher<'h>, record: usize, event: &Event, change: &Change) {
        let created = watcher.created_at;
        let (got, want) = (&event.kv, &change.kv);
        if got != want {
            let flag = (got.version, got.create_revision) != (want.version, want.create_revision);
            let checker = if flag { "watch-create-flag" } else { "watch-value" };
            self.report(checker, created, record, format!("got {got:?}, written was {want:?}"));
        }
        let revision = want.mod_revision;
        let before = match watcher.request.prev_kv {
            true => self.judge.timeline.get(&want.key, revision - 1),
            false => None,
        };
        if event.prev_kv.as_ref() == before {
            return;
        }
        let forgotten = event.prev_kv.is_none() && self.hidden(record, revision - 1);
        if !forgotten {
            let message =
                format!("{} at r{revision}: got {:?}, it was {before:?}", want.key, event.prev_kv);
            self.report("watch-prev-kv", created, record, message);
        }
    }

    /// Whether a compaction asked for before `record` may have hidden the state at `revision`.
    fn hidden(&self, record: usize, revision: i64) -> bool {
        self.judge.options.auto_compaction || self.compacted_above(record, revision)
    }

    fn compacted_above(&self, record: usize, revision: i64) -> bool {
        let compactions = self.compactions.iter();
        compactions.take_while(|known| known.call < record).any(|known| known.revision > revision)
    }

    /// Whether a change surely happened. A guessed revision may be another's work, and a range delete
    /// after it removes what is there, guessed or not. A put happens whatever was there.
    fn certain(&self, change: &Change) -> bool {
        let revision = change.kv.mod_revision;
        let mut guesses = self.judge.guessed.range(..=revision);
        match change.kind {
            EventKind::Put => !self.judge.guessed.contains_key(&revision),
            EventKind::Delete => !guesses.any(|(at, keys)| {
                *at == revision
                    || keys.iter().any(|(start, end)| in_range(&change.kv.key, start, end))
            }),
        }
    }

    fn progress(&mut self, watcher: &mut Watcher<'h>, record: usize, revision: i64) {
        let created = watcher.created_at;
        let timeline = self.judge.timeline;
        let due = watcher.expected[watcher.next..].iter().map(|&number| timeline.change(number));
        let owed = due
            .take_while(|due| due.kv.mod_revision <= revision)
            .find(|due| self.certain(due))
            .map(|due| due.kv.mod_revision);
        if let Some(owed) = owed {
            let message = format!("a notice of r{revision} before the event of r{owed}");
            self.report("watch-bookmarkable", created, record, message);
        }
        if revision < watcher.last_revision || revision < watcher.bookmark {
            let message = format!(
                "a notice of r{revision} behind an event of r{} or a notice of r{}",
                watcher.last_revision, watcher.bookmark
            );
            self.report("watch-bookmarkable", created, record, message);
        }
        if watcher.in_fragments {
            self.report("watch-atomic", created, record, "a notice between fragments".into());
        }
        watcher.bookmark = watcher.bookmark.max(revision);
    }

    fn canceled_by_compaction(&mut self, watcher: &Watcher<'h>, record: usize, compacted: i64) {
        let needs = watcher.start.max(watcher.last_revision + 1).max(watcher.bookmark + 1);
        let asked = self.compactions.iter().take_while(|known| known.call < record);
        let real = self.judge.options.auto_compaction
            || asked.into_iter().any(|known| known.revision == compacted);
        let message = if !real {
            format!("canceled by a compaction at r{compacted}, which nobody asked for")
        } else if needs >= compacted {
            format!("canceled by a compaction at r{compacted}, though r{needs} was next")
        } else {
            return;
        };
        self.report("watch-compaction", watcher.created_at, record, message);
    }

    /// Finds the first event that never came.
    fn completeness(&mut self, watcher: &Watcher<'h>) {
        let timeline = self.judge.timeline;
        let revision = |place: usize| timeline.change(watcher.expected[place]).kv.mod_revision;
        // A stream that broke between two fragments owes the rest to its successor.
        let cut = if watcher.in_fragments { watcher.last_revision } else { i64::MAX };
        let owed_to = match self.judge.options.watch_complete_to {
            Some(to) if watcher.created && !watcher.ended => to,
            _ => watcher.last_revision,
        };
        let missing = (0..watcher.expected.len()).find(|&place| {
            let at = revision(place);
            watcher.delivered[place].is_none()
                && (place < watcher.next || at <= owed_to)
                && at != cut
                && self.certain(timeline.change(watcher.expected[place]))
        });
        let Some(missing) = missing else { return };
        let at = revision(missing);
        let mut others =
            (0..watcher.expected.len()).filter(|&place| watcher.delivered[place].is_some());
        let after = (missing..watcher.next).find_map(|place| watcher.delivered[place]);
        let checker = if others.any(|place| revision(place) == at) {
            "watch-atomic"
        } else if self.compacted_above(after.unwrap_or(usize::MAX), at) {
            "watch-compaction"
        } else if watcher.first.is_some_and(|first| missing < first) {
            "watch-resumable"
        } else {
            "watch-reliable"
        };
        let message = format!("{:?} never came", timeline.change(watcher.expected[missing]));
        self.report(checker, watcher.created_at, after.unwrap_or(watcher.created_at), message);
    }
}
