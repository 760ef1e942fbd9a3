//! The hub against an obvious model, under random interleavings.
//!
//! The model of a watcher is a sentence: it is given every event of its range and filters from its start
//! on, in order, whole revisions at a time; or it is told at some point that what it needs next was
//! compacted. A progress report is true when it is taken: nothing up to its revision is missing then, and
//! nothing up to it comes later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::Store;
use super::{Delivery, Hub, HubOptions, Past, StreamId, Wake, WatchSpec};
use crate::command::{Event, KeyRange};
use crate::types::Revision;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, bool)>),
    Publish,
    Compact(i64),
    Watch { stream: usize, spec: WatchSpec },
    Cancel { stream: usize, which: prop::sample::Index },
    Take { stream: usize, events: usize },
    Plan,
    Read(usize),
    Supply,
    Tick(usize),
    Progress(usize),
    Restore,
    Reopen(usize),
}

const STREAMS: usize = 3;

fn any_spec() -> impl Strategy<Value = WatchSpec> {
    let range = prop_oneof![
        3 => (0..5u8).prop_map(|k| KeyRange::One(key(k))),
        2 => (0..5u8, 1..6u8).prop_map(|(from, len)| KeyRange::from_wire(key(from), key(from + len))),
        1 => (0..5u8).prop_map(|from| KeyRange::from_wire(key(from), Bytes::from_static(&[0]))),
    ];
    (range, 0..40i64, any::<[bool; 2]>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2))
        .prop_map(|(range, start, [now, progress_notify], no_put, no_delete)| WatchSpec {
            start: if now { 0 } else { start },
            no_put,
            no_delete,
            progress_notify,
            ..WatchSpec::new(range)
        })
}

fn any_step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS;
    prop_oneof![
        8 => prop::collection::vec((0..6u8, prop::bool::weighted(0.7)), 1..4).prop_map(Step::Commit),
        8 => Just(Step::Publish),
        1 => (1..8i64).prop_map(Step::Compact),
        4 => (stream.clone(), any_spec()).prop_map(|(stream, spec)| Step::Watch { stream, spec }),
        1 => (stream.clone(), any::<prop::sample::Index>())
            .prop_map(|(stream, which)| Step::Cancel { stream, which }),
        6 => (stream.clone(), 1..6usize).prop_map(|(stream, events)| Step::Take { stream, events }),
        5 => Just(Step::Plan),
        5 => (1..5usize).prop_map(Step::Read),
        5 => Just(Step::Supply),
        2 => stream.clone().prop_map(Step::Tick),
        3 => stream.clone().prop_map(Step::Progress),
        1 => Just(Step::Restore),
        1 => stream.prop_map(Step::Reopen),
    ]
}

fn key(k: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'a' + k])
}

/// Rung by the hub; whoever sleeps until it rings must find all work that there is.
#[derive(Default)]
struct Bell(AtomicBool);

impl Bell {
    fn answer(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One client's end.
struct Client {
    id: StreamId,
    bell: Arc<Bell>,
    /// The last take said that there is more.
    more: bool,
    watchers: BTreeMap<i64, Expected>,
}

impl Client {
    fn open(hub: &mut Hub) -> Self {
        let bell = Arc::<Bell>::default();
        Self { id: hub.open_stream(bell.clone()), bell, more: false, watchers: BTreeMap::new() }
    }
}

/// What the model knows of one watcher.
#[derive(Debug)]
struct Expected {
    spec: WatchSpec,
    /// The first revision that it was not given yet.
    next: Revision,
    over: bool,
}

impl Expected {
    fn wants(&self, event: &Event) -> bool {
        let filtered = match event {
            Event::Put { .. } => self.spec.no_put,
            Event::Delete { .. } => self.spec.no_delete,
        };
        self.spec.range.contains(event.key()) && !filtered
    }

    /// The next revision up to `end` that has something for it, and what.
    fn upcoming(&self, store: &Store, end: Revision) -> Option<(Revision, Vec<Event>)> {
        (self.next.0.max(2)..=end.0).map(Revision).find_map(|revision| {
            let events: Vec<Event> =
                store.events(revision).iter().filter(|e| self.wants(e)).cloned().collect();
            (!events.is_empty()).then_some((revision, events))
        })
    }
}

struct World {
    hub: Hub,
    store: Store,
    streams: Vec<Client>,
    bell: Arc<Bell>,
    /// Whoever catches up has found nothing to do and sleeps.
    asleep: bool,
    planned: Option<Revision>,
    read: Option<Result<Past, Revision>>,
}

impl World {
    fn new(options: HubOptions) -> Self {
        let bell = Arc::<Bell>::default();
        let mut hub = Hub::new(Revision(1), options, bell.clone());
        let streams = (0..STREAMS).map(|_| Client::open(&mut hub)).collect();
        let store = Store::new();
        Self { hub, store, streams, bell, asleep: true, planned: None, read: None }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(changes) => {
                // A key changes once a revision.
                let changes: BTreeMap<u8, bool> = changes.into_iter().collect();
                let value = |put: bool| put.then(|| Bytes::from_static(b"v"));
                self.store
                    .commit(changes.into_iter().map(|(k, put)| (key(k), value(put))).collect());
            }
            Step::Publish => {
                if self.hub.revision() < self.store.revision() {
                    let next = self.hub.revision().next();
                    self.hub.publish(next, &self.store.events(next).to_vec());
                }
            }
            Step::Compact(distance) => {
                let revision = Revision(self.store.revision().0 - distance);
                self.store.compact = self.store.compact.max(revision);
            }
            Step::Watch { stream, spec } => {
                let Client { id, watchers, .. } = &mut self.streams[stream];
                let registered =
                    self.hub.register(*id, spec.clone()).expect("nothing speaks against it");
                let now = registered.revision.next();
                let next = if spec.start == 0 { now } else { Revision(spec.start) };
                let expected = Expected { spec, next, over: false };
                assert!(
                    watchers.insert(registered.watch_id, expected).is_none(),
                    "an id came back"
                );
            }
            Step::Cancel { stream, which } => {
                let Client { id, watchers, .. } = &mut self.streams[stream];
                if !watchers.is_empty() {
                    let watch_id = *watchers.keys().nth(which.index(watchers.len())).unwrap();
                    watchers.remove(&watch_id);
                    assert!(self.hub.cancel(*id, watch_id));
                }
            }
            Step::Take { stream, events } => {
                self.take(stream, events);
            }
            Step::Plan => {
                self.plan();
            }
            Step::Read(budget) => {
                self.read = self.planned.map(|from| self.store.read(from, budget));
            }
            Step::Supply => {
                if let (Some(from), Some(past)) = (self.planned, self.read.take()) {
                    self.hub.supply(from, past);
                    self.planned = None;
                }
            }
            Step::Tick(stream) => self.hub.progress_tick(self.streams[stream].id),
            Step::Progress(stream) => self.hub.request_progress(self.streams[stream].id),
            Step::Restore => self.hub.restore(self.store.revision()),
            Step::Reopen(stream) => {
                self.hub.close_stream(self.streams[stream].id);
                self.streams[stream] = Client::open(&mut self.hub);
            }
        }
        self.hub.check();
    }

    fn plan(&mut self) -> Option<Revision> {
        self.bell.answer();
        (self.planned, self.read) = (self.hub.plan(), None);
        self.asleep = self.planned.is_none();
        self.planned
    }

    /// Takes from a stream and holds what comes against the model.
    fn take(&mut self, stream: usize, events: usize) {
        let Client { id, bell, more, watchers } = &mut self.streams[stream];
        bell.answer();
        let taken = self.hub.take(*id, events * 165);
        *more = taken.more;
        for delivery in taken.deliveries {
            match delivery {
                Delivery::Events { watch_id, revision, events, .. } => {
                    let watcher = watchers.get_mut(&watch_id).expect("it was not canceled");
                    assert!(!watcher.over, "w{watch_id} was told that nothing follows");
                    let mut events = events.iter().map(|event| event.event().clone()).peekable();
                    while let Some(first) = events.peek() {
                        let upcoming = watcher.upcoming(&self.store, first.revision());
                        let (due, wanted) = upcoming.expect("what is delivered is wanted");
                        let got: Vec<Event> = events.by_ref().take(wanted.len()).collect();
                        assert_eq!(got, wanted, "w{watch_id} at {due}");
                        watcher.next = due.next();
                    }
                    assert!(revision.next() >= watcher.next, "the header is before the events");
                }
                Delivery::Progress { watch_id, revision } => {
                    let watcher = watchers.get_mut(&watch_id).expect("it was not canceled");
                    assert!(watcher.spec.progress_notify && revision.0 >= watcher.spec.start);
                    Self::report(&self.store, watcher, revision);
                }
                Delivery::StreamProgress { revision } => {
                    for watcher in watchers.values_mut() {
                        assert!(revision.0 >= watcher.spec.start, "reported before it begins");
                        Self::report(&self.store, watcher, revision);
                    }
                }
                Delivery::Compacted { watch_id, compact_revision } => {
                    let watcher = watchers.get_mut(&watch_id).expect("it was not canceled");
                    assert!(!watcher.over, "w{watch_id} is told twice");
                    assert!(watcher.next < compact_revision, "w{watch_id} lacked nothing");
                    watcher.over = true;
                }
            }
        }
    }

    fn report(store: &Store, watcher: &mut Expected, revision: Revision) {
        assert!(!watcher.over, "a report for one that gets nothing more");
        let missing = watcher.upcoming(store, revision);
        assert_eq!(missing, None, "reported {revision}");
        watcher.next = watcher.next.max(revision.next());
    }

    /// Does what those do who sleep until they are woken, and then wants everything to be there.
    fn finish(&mut self) {
        self.planned = None;
        while self.hub.revision() < self.store.revision() {
            self.step(Step::Publish);
        }
        loop {
            let mut idle = true;
            while !self.asleep || self.bell.answer() {
                if let Some(from) = self.plan() {
                    self.hub.supply(from, self.store.read(from, 7));
                    self.hub.check();
                }
                idle = false;
            }
            for stream in 0..STREAMS {
                let client = &self.streams[stream];
                if client.more || client.bell.answer() {
                    self.take(stream, 3);
                    idle = false;
                }
            }
            if idle {
                break;
            }
        }
        for client in &self.streams {
            for watcher in client.watchers.values().filter(|watcher| !watcher.over) {
                assert_eq!(
                    watcher.upcoming(&self.store, self.store.revision()),
                    None,
                    "{watcher:?}"
                );
            }
        }
        assert_eq!(self.hub.counts().behind, 0, "somebody is behind and nothing is left to do");
        assert_eq!(self.hub.counts().ring_events, 0, "the ring keeps what everybody has");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_watcher_gets_its_events_once_in_order_or_is_told(
        steps in prop::collection::vec(any_step(), 1..150),
        ring in 1..8usize,
        queue in 1..8usize,
        past in 1..8usize,
    ) {
        let mut world = World::new(HubOptions {
            ring_bytes: ring * 180,
            stream_events_max: queue,
            stream_past_bytes: past * 165,
            stream_reports_max: 3,
        });
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
