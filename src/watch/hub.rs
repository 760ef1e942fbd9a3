//! The hub itself: streams, watchers, publishing and taking. Catching up is in `catch_up.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::Encoded;
use super::index::{Index, WatcherKey};
use super::queue::{Item, Queue};
use super::ring::Ring;
use super::spec::{Delivery, RegisterError, Registered, Taken, Wake, WatchSpec};
use crate::buggify;
use crate::command::{Event, KeyRange};
use crate::types::Revision;

/// The hub's bounds.
#[derive(Clone, Copy, Debug)]
pub struct HubOptions {
    /// How many bytes the ring may hold.
    pub ring_bytes: usize,
    /// How many places in the ring may be queued for one stream.
    pub stream_events_max: usize,
    /// How many bytes of history may be queued for one stream before it gets no more until it takes some.
    pub stream_past_bytes: usize,
    /// How many reports for a whole stream may be queued; more are dropped, as etcd does when it is busy.
    pub stream_reports_max: usize,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 32 << 20,
            stream_events_max: 1 << 16,
            stream_past_bytes: 2 << 20,
            stream_reports_max: 64,
        }
    }
}

/// A stream's name in the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(super) u64);

/// How full the hub is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubCounts {
    /// Open streams.
    pub streams: usize,
    /// Watchers of all kinds.
    pub watchers: usize,
    /// Watchers that are behind.
    pub behind: usize,
    /// Events in the ring.
    pub ring_events: usize,
    /// Bytes in the ring.
    pub ring_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Level,
    Behind,
    /// Told that its history is gone.
    Compacted,
}

pub(super) struct Watcher {
    pub stream: StreamId,
    pub id: i64,
    pub range: KeyRange,
    pub spec: Wants,
    /// The start revision that was asked for; 0 for none.
    pub start: Revision,
    /// Nothing before this is queued from now on.
    pub next: Revision,
    pub state: State,
    /// No event was queued since the last progress tick.
    pub quiet: bool,
    /// A report for this watcher is queued.
    pub reporting: bool,
}

/// What a watcher wants beyond its range.
#[derive(Clone, Copy)]
pub(super) struct Wants {
    no_put: bool,
    no_delete: bool,
    progress_notify: bool,
    prev_kv: bool,
    fragment: bool,
}

impl Watcher {
    pub fn wants(&self, event: &Event) -> bool {
        match event {
            Event::Put { .. } => !self.spec.no_put,
            Event::Delete { .. } => !self.spec.no_delete,
        }
    }

    /// Tells whether a report that everything up to `revision` was given would be true and make sense.
    pub fn may_report(&self, revision: Revision) -> bool {
        self.state == State::Level && revision >= self.start && revision.next() >= self.next
    }
}

pub(super) struct Stream {
    pub wake: Arc<dyn Wake>,
    pub queue: Queue,
    pub watchers: BTreeMap<i64, WatcherKey>,
    next_id: i64,
    /// Woken, and has not taken since.
    pub woken: bool,
    /// Has as much history queued as it may: its behind watchers wait until it takes some.
    pub full: bool,
    /// The oldest revision in the ring that is queued here; filed in `Hub::heads` under this.
    head: Option<Revision>,
}

/// The hub. See the module's text.
pub struct Hub {
    pub(super) options: HubOptions,
    /// The last published revision.
    pub(super) revision: Revision,
    pub(super) ring: Ring,
    pub(super) watchers: Vec<Option<Watcher>>,
    free: Vec<WatcherKey>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    pub(super) level: Index,
    pub(super) behind: Index,
    /// The behind watchers that history may be read for, by what they lack first.
    pub(super) waiting: BTreeSet<(Revision, WatcherKey)>,
    /// Streams by the oldest event in the ring that they have not taken.
    heads: BTreeSet<(Revision, StreamId)>,
    catch_up: Arc<dyn Wake>,
    /// Whether the watcher that lacks most is served next, or the one that lacks least.
    pub(super) deepest_next: bool,
}

impl Hub {
    /// Makes a hub at a revision: everything up to it is history. `catch_up` is woken when there are
    /// watchers to catch up.
    pub fn new(revision: Revision, options: HubOptions, catch_up: Arc<dyn Wake>) -> Self {
        Self {
            options,
            revision,
            ring: Ring::new(options.ring_bytes),
            watchers: Vec::new(),
            free: Vec::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            level: Index::default(),
            behind: Index::default(),
            waiting: BTreeSet::new(),
            heads: BTreeSet::new(),
            catch_up,
            deepest_next: true,
        }
    }

    /// Returns the last published revision: the header revision of replies on watch streams.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Opens a stream; `wake` is woken when there is something to take.
    pub fn open_stream(&mut self, wake: Arc<dyn Wake>) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let stream = Stream {
            wake,
            queue: Queue::default(),
            watchers: BTreeMap::new(),
            next_id: 0,
            woken: false,
            full: false,
            head: None,
        };
        self.streams.insert(id, stream);
        id
    }

    /// Closes a stream and forgets its watchers and all that was queued for them.
    pub fn close_stream(&mut self, id: StreamId) {
        let ids: Vec<i64> = self.stream(id).watchers.keys().copied().collect();
        for watch_id in ids {
            self.cancel(id, watch_id);
        }
        let stream = self.stream(id);
        stream.queue = std::mem::take(&mut stream.queue);
        let (stream, ring) = self.stream_and_ring(id);
        stream.queue.retain(ring, |_, _| false);
        self.file_head(id);
        self.ring.forget_taken();
        self.streams.remove(&id);
    }

    /// Registers a watcher on a stream.
    ///
    /// The client must be told before anything of a later [`take`](Self::take) is sent, which is certain when
    /// one task does both.
    pub fn register(
        &mut self,
        stream: StreamId,
        spec: WatchSpec,
    ) -> Result<Registered, RegisterError> {
        if spec.range.is_empty() {
            return Err(RegisterError::EmptyRange);
        }
        if spec.start < 0 {
            return Err(RegisterError::NegativeStart);
        }
        let watch_id = self.choose_id(stream, spec.id)?;
        let (revision, start) = (self.revision, Revision(spec.start));
        let next = if spec.start == 0 { revision.next() } else { start };
        let watcher = Watcher {
            stream,
            id: watch_id,
            range: spec.range,
            spec: Wants {
                no_put: spec.no_put,
                no_delete: spec.no_delete,
                progress_notify: spec.progress_notify,
                prev_kv: spec.prev_kv,
                fragment: spec.fragment,
            },
            start,
            next,
            state: State::Level,
            quiet: true,
            reporting: false,
        };
        let key = self.store(watcher);
        self.stream(stream).watchers.insert(watch_id, key);
        let range = self.watcher(key).range.clone();
        self.level.insert(&range, key);
        if next <= revision {
            self.fall_behind(key, next);
        }
        // NB: a report that is still queued vouches for the watchers that were there when it was made. Clients
        // take it for all of the stream, so it may not come after a new one that it says too much about.
        let (state, ring) = self.stream_and_ring(stream);
        if spec.start != 0 && state.queue.stream_reports() > 0 {
            state.queue.retain(ring, |item, _| !matches!(item, Item::StreamProgress { .. }));
        }
        Ok(Registered { watch_id, revision })
    }

    /// Ends a watcher and forgets what was queued for it; tells whether there was one. The client may be
    /// told at once: nothing for this watcher follows.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) -> bool {
        let Some(key) = self.stream(stream).watchers.remove(&watch_id) else { return false };
        let slot = usize::try_from(key).expect("32 bits fit");
        let watcher = self.watchers[slot].take().expect("a stream's watcher exists");
        self.free.push(key);
        match watcher.state {
            State::Level => self.level.remove(&watcher.range, key),
            State::Behind => {
                self.behind.remove(&watcher.range, key);
                self.waiting.remove(&(watcher.next, key));
            }
            State::Compacted => {}
        }
        let (stream_state, ring) = self.stream_and_ring(stream);
        if stream_state.queue.items().any(|item| item.watcher() == Some(key)) {
            stream_state.queue.retain(ring, |item, _| item.watcher() != Some(key));
            self.after_taking(stream);
        }
        true
    }

    /// Publishes what one revision changed. Revisions come one by one, without a gap.
    pub fn publish(&mut self, revision: Revision, events: &[Event]) {
        let expected = self.revision.next();
        assert!(revision == expected, "{revision} is published where {expected} should be");
        self.revision = revision;
        if self.level.is_empty() {
            return;
        }
        let mut matched: Vec<(WatcherKey, u64)> = Vec::new();
        for event in events {
            let found = matched.len();
            let watchers = &self.watchers;
            self.level.matching(event.key(), &mut |key| {
                let watcher = get(watchers, key);
                if revision >= watcher.next && watcher.wants(event) {
                    matched.push((key, 0));
                }
            });
            if matched.len() > found {
                let place = self.ring.push(Encoded::new(event), revision);
                matched[found..].iter_mut().for_each(|entry| entry.1 = place);
            }
        }
        if events.len() > 1 {
            // One watcher's events of this revision become neighbours, in the order of their places.
            matched.sort_unstable();
        }
        for group in matched.chunk_by(|a, b| a.0 == b.0) {
            self.queue_live(group, revision);
        }
        self.ring.forget_taken();
        self.cut_ring();
        if buggify!("hub_checks_itself") {
            self.check();
        }
    }

    /// Takes what is there for a stream, about `bytes_max` of it; a revision is never split, so one large
    /// revision may exceed that.
    pub fn take(&mut self, id: StreamId, bytes_max: usize) -> Taken {
        let mut deliveries = Vec::new();
        // Where the events of a watcher go: the delivery that was begun since the last report.
        let mut begun: BTreeMap<WatcherKey, usize> = BTreeMap::new();
        let mut bytes = 0;
        let mut last: Option<(WatcherKey, Revision)> = None;
        let bytes_max = buggify!("hub_gives_little", 1, bytes_max);
        self.stream(id).woken = false;
        loop {
            let group = match self.streams[&id].queue.front() {
                None => break,
                Some(Item::Live { watcher, place }) => Some((*watcher, self.ring.revision(*place))),
                Some(Item::Past { watcher, event, .. }) => {
                    Some((*watcher, event.event().revision()))
                }
                Some(_) => None,
            };
            if bytes >= bytes_max && (group.is_none() || group != last) {
                break;
            }
            last = group;
            let item = self.stream(id).queue.pop().expect("the queue has a front");
            let (watcher, event, revision) = match item {
                Item::Live { watcher, place } => {
                    let event = self.ring.event(place).clone();
                    self.ring.release(place);
                    let revision = event.event().revision();
                    (watcher, event, revision)
                }
                Item::Past { watcher, event, known } => (watcher, event, known),
                report => {
                    // Nothing queued later may be sent before it.
                    begun.clear();
                    deliveries.push(self.report(&report));
                    continue;
                }
            };
            bytes += event.cost();
            let at = *begun.entry(watcher).or_insert_with(|| {
                let watcher = get(&self.watchers, watcher);
                deliveries.push(Delivery::Events {
                    watch_id: watcher.id,
                    revision,
                    events: Vec::new(),
                    prev_kv: watcher.spec.prev_kv,
                    fragment: watcher.spec.fragment,
                });
                deliveries.len() - 1
            });
            if let Delivery::Events { revision: header, events, .. } = &mut deliveries[at] {
                *header = (*header).max(revision);
                events.push(event);
            }
        }
        self.after_taking(id);
        Taken { deliveries, more: !self.streams[&id].queue.is_empty() }
    }

    /// A progress interval of the stream is over: each watcher that asked for it, is level and had no event
    /// for a whole interval is reported.
    pub fn progress_tick(&mut self, id: StreamId) {
        if buggify!("hub_skips_progress") {
            return;
        }
        let keys: Vec<WatcherKey> = self.stream(id).watchers.values().copied().collect();
        let revision = self.revision;
        for key in keys {
            let watcher = self.watcher_mut(key);
            if !watcher.spec.progress_notify || !watcher.may_report(revision) {
                continue;
            }
            if std::mem::replace(&mut watcher.quiet, true) && !watcher.reporting {
                watcher.reporting = true;
                self.push(id, Item::Progress { watcher: key, revision });
            }
        }
    }

    /// The client asks how far its stream is. Answered only if every watcher of the stream is level and has
    /// reached its start revision; otherwise, and without watchers, the request is dropped.
    pub fn request_progress(&mut self, id: StreamId) {
        let revision = self.revision;
        let stream = &self.streams[&id];
        let mut watchers = stream.watchers.values().map(|key| get(&self.watchers, *key));
        let level = watchers.all(|watcher| watcher.may_report(revision)) || crate::mutant!("E12");
        let room = stream.queue.stream_reports() < self.options.stream_reports_max
            && !buggify!("hub_drops_a_report");
        if level && room && !stream.watchers.is_empty() {
            self.push(id, Item::StreamProgress { revision });
        }
    }

    /// A snapshot of the store at `revision` replaced what this member had: what lies between was never
    /// published here. Every watcher is behind from the first revision that it has not been given.
    pub fn restore(&mut self, revision: Revision) {
        assert!(
            revision >= self.revision,
            "a snapshot goes back from {} to {revision}",
            self.revision
        );
        let first_missing = self.revision.next();
        self.revision = revision;
        for slot in 0..self.watchers.len() {
            let Some(watcher) = &mut self.watchers[slot] else { continue };
            if watcher.state != State::Level {
                continue;
            }
            // NB: a watcher of the future keeps its start: it must not be given what is before (etcd#20221).
            let next = watcher.next.max(first_missing);
            let next = if crate::mutant!("E14") { first_missing } else { next };
            watcher.next = next;
            if next <= revision {
                self.fall_behind(WatcherKey::try_from(slot).expect("keys fit 32 bits"), next);
            }
        }
    }

    /// Counts what there is.
    pub fn counts(&self) -> HubCounts {
        let (ring_bytes, ring_events) = self.ring.size();
        HubCounts {
            streams: self.streams.len(),
            watchers: self.streams.values().map(|stream| stream.watchers.len()).sum(),
            behind: self.behind.len(),
            ring_events,
            ring_bytes,
        }
    }

    /// Asserts the invariants of the module's text.
    pub fn check(&self) {
        let mut references = BTreeMap::new();
        let mut filed = [BTreeSet::new(), BTreeSet::new()];
        for (index, filed) in [&self.level, &self.behind].into_iter().zip(&mut filed) {
            index.check(&mut |range, key| {
                assert!(filed.insert(key), "watcher {key} is filed twice");
                assert_eq!(range, get(&self.watchers, key).range, "watcher {key}: wrong range");
            });
        }
        for (id, stream) in &self.streams {
            stream.queue.check(&mut references);
            let head = stream.queue.oldest_live(&self.ring);
            assert_eq!(stream.head, head, "{id:?}: wrong head");
            assert_eq!(head.is_some_and(|head| self.heads.contains(&(head, *id))), head.is_some());
            let mut last = BTreeMap::new();
            for item in stream.queue.items() {
                let Some(key) = item.watcher() else { continue };
                let revision = match item {
                    Item::Live { place, .. } => self.ring.revision(*place),
                    Item::Past { event, .. } => event.event().revision(),
                    _ => continue,
                };
                let before = last.insert(key, revision);
                assert!(before.is_none_or(|before| before <= revision), "watcher {key}: {item:?}");
                let watcher = get(&self.watchers, key);
                assert!(watcher.stream == *id, "watcher {key} is queued on another stream");
                assert!(
                    watcher.state != State::Behind || revision < watcher.next,
                    "watcher {key} lacks {} and has {revision} queued",
                    watcher.next
                );
            }
            for (watch_id, key) in &stream.watchers {
                self.check_watcher(*id, *watch_id, *key, &filed);
            }
        }
        assert_eq!(self.heads.len(), self.streams.values().filter(|s| s.head.is_some()).count());
        self.ring.check(&references);
        let watchers = self.watchers.iter().flatten().count();
        assert_eq!(watchers, self.counts().watchers, "a watcher has no stream");
    }

    fn check_watcher(
        &self,
        stream: StreamId,
        id: i64,
        key: WatcherKey,
        [level, behind]: &[BTreeSet<WatcherKey>; 2],
    ) {
        let watcher = get(&self.watchers, key);
        assert_eq!((watcher.stream, watcher.id), (stream, id), "watcher {key} is misfiled");
        assert_eq!(
            level.contains(&key),
            watcher.state == State::Level,
            "watcher {key}: level index"
        );
        assert_eq!(
            behind.contains(&key),
            watcher.state == State::Behind,
            "watcher {key}: behind index"
        );
        let waits = self.waiting.contains(&(watcher.next, key));
        let expected = watcher.state == State::Behind && !self.streams[&stream].full;
        assert_eq!(waits, expected, "watcher {key}: the waiting set is wrong");
        if watcher.state == State::Behind {
            assert!(watcher.next <= self.revision, "watcher {key} is behind what never was");
        }
    }

    /// Makes a level watcher one that lacks everything from `next` on. What is queued for it from there is
    /// the caller's to drop.
    pub(super) fn fall_behind(&mut self, key: WatcherKey, next: Revision) {
        let watcher = self.watchers[usize::try_from(key).expect("32 bits fit")]
            .as_mut()
            .expect("the watcher exists");
        debug_assert!(watcher.state == State::Level, "only a level watcher falls behind");
        watcher.state = State::Behind;
        watcher.next = next;
        self.level.remove(&watcher.range, key);
        self.behind.insert(&watcher.range, key);
        if !self.streams[&watcher.stream].full {
            self.waiting.insert((next, key));
            self.catch_up.wake();
        }
    }

    /// A watcher has lost what was queued for it from `first` on, and lacks it again.
    fn go_back(&mut self, key: WatcherKey, first: Revision) {
        let watcher = self.watcher_mut(key);
        watcher.reporting = false;
        match watcher.state {
            State::Level => self.fall_behind(key, first),
            State::Behind => {
                let old = std::mem::replace(&mut watcher.next, first);
                if self.waiting.remove(&(old, key)) {
                    self.waiting.insert((first, key));
                }
            }
            // It is told that history is gone, from an older revision now.
            State::Compacted => {}
        }
    }

    /// Appends an item to a stream's queue and wakes it.
    pub(super) fn push(&mut self, id: StreamId, item: Item) {
        let live = match &item {
            Item::Live { place, .. } => Some(self.ring.revision(*place)),
            _ => None,
        };
        let (stream, ring) = self.stream_and_ring(id);
        stream.queue.push(item, ring);
        if !stream.woken || buggify!("hub_wakes_for_nothing") {
            stream.woken = true;
            stream.wake.wake();
        }
        if let (None, Some(head)) = (stream.head, live) {
            stream.head = Some(head);
            self.heads.insert((head, id));
        }
    }

    fn queue_live(&mut self, group: &[(WatcherKey, u64)], revision: Revision) {
        let key = group[0].0;
        let watcher = self.watcher_mut(key);
        watcher.quiet = false;
        let stream = watcher.stream;
        let queued = self.streams[&stream].queue.live() + group.len();
        if queued > self.options.stream_events_max || buggify!("hub_lets_fall_behind") {
            self.fall_behind(key, revision);
            return;
        }
        for (_, place) in group {
            self.push(stream, Item::Live { watcher: key, place: *place });
        }
    }

    /// Brings the ring back within its bound: who has not taken what is cut falls behind.
    fn cut_ring(&mut self) {
        let Some(cut) = self.ring.overfull() else { return };
        while let Some(&(head, id)) = self.heads.first() {
            if head > cut {
                break;
            }
            let lost = self.streams[&id].queue.live_up_to(cut, &self.ring);
            for (key, first) in &lost {
                self.go_back(*key, *first);
            }
            let first_lost = lost.values().min().copied().unwrap_or(cut);
            let (stream, ring) = self.stream_and_ring(id);
            stream.queue.retain(ring, |item, ring| match item {
                // A report would promise that all before it was given.
                Item::StreamProgress { revision } => *revision < first_lost,
                Item::Progress { watcher, .. } => !lost.contains_key(watcher),
                Item::Live { watcher, place } => {
                    lost.get(watcher).is_none_or(|first| ring.revision(*place) < *first)
                }
                // What was queued behind the lost events is read again with them.
                Item::Past { watcher, event, .. } => {
                    lost.get(watcher).is_none_or(|first| event.event().revision() < *first)
                }
                Item::Compacted { .. } => true,
            });
            self.after_taking(id);
        }
        self.ring.forget_taken();
    }

    fn report(&mut self, item: &Item) -> Delivery {
        match item {
            Item::Progress { watcher, revision } => {
                let watcher = self.watcher_mut(*watcher);
                watcher.reporting = false;
                Delivery::Progress { watch_id: watcher.id, revision: *revision }
            }
            Item::StreamProgress { revision } => Delivery::StreamProgress { revision: *revision },
            Item::Compacted { watcher, compact } => Delivery::Compacted {
                watch_id: self.watcher(*watcher).id,
                compact_revision: *compact,
            },
            Item::Live { .. } | Item::Past { .. } => unreachable!("events are delivered as such"),
        }
    }

    /// Puts in order what depends on a stream's queue, after something left it.
    fn after_taking(&mut self, id: StreamId) {
        self.file_head(id);
        self.ring.forget_taken();
        let half = self.options.stream_past_bytes / 2;
        let stream = self.stream(id);
        if stream.full && stream.queue.past_bytes() <= half {
            stream.full = false;
            let keys: Vec<WatcherKey> = stream.watchers.values().copied().collect();
            for key in keys {
                let watcher = self.watcher(key);
                if watcher.state == State::Behind {
                    self.waiting.insert((watcher.next, key));
                }
            }
            if !self.waiting.is_empty() {
                self.catch_up.wake();
            }
        }
    }

    fn file_head(&mut self, id: StreamId) {
        let head = self.streams[&id].queue.oldest_live(&self.ring);
        let stream = self.stream(id);
        let old = std::mem::replace(&mut stream.head, head);
        if old != head {
            if let Some(old) = old {
                self.heads.remove(&(old, id));
            }
            if let Some(head) = head {
                self.heads.insert((head, id));
            }
        }
    }

    fn choose_id(&mut self, stream: StreamId, wanted: i64) -> Result<i64, RegisterError> {
        let stream = self.stream(stream);
        if wanted != 0 {
            let free = !stream.watchers.contains_key(&wanted);
            return if free { Ok(wanted) } else { Err(RegisterError::DuplicateId) };
        }
        while stream.watchers.contains_key(&stream.next_id) {
            stream.next_id += 1;
        }
        let id = stream.next_id;
        stream.next_id += 1;
        Ok(id)
    }

    fn store(&mut self, watcher: Watcher) -> WatcherKey {
        if let Some(key) = self.free.pop() {
            self.watchers[usize::try_from(key).expect("32 bits fit")] = Some(watcher);
            return key;
        }
        self.watchers.push(Some(watcher));
        WatcherKey::try_from(self.watchers.len() - 1).expect("there are fewer watchers than that")
    }

    pub(super) fn watcher(&self, key: WatcherKey) -> &Watcher {
        get(&self.watchers, key)
    }

    pub(super) fn watcher_mut(&mut self, key: WatcherKey) -> &mut Watcher {
        let slot = usize::try_from(key).expect("32 bits fit");
        self.watchers[slot].as_mut().expect("the watcher exists")
    }

    pub(super) fn stream(&mut self, id: StreamId) -> &mut Stream {
        self.streams.get_mut(&id).expect("the stream is open")
    }

    fn stream_and_ring(&mut self, id: StreamId) -> (&mut Stream, &mut Ring) {
        (self.streams.get_mut(&id).expect("the stream is open"), &mut self.ring)
    }
}

pub(super) fn get(watchers: &[Option<Watcher>], key: WatcherKey) -> &Watcher {
    let slot = usize::try_from(key).expect("32 bits fit");
    watchers[slot].as_ref().expect("the watcher exists")
}
