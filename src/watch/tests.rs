//! Scripts of the hub. The store is a list of revisions that can be compacted.
//!
//! `put` and `del` change one revision and publish it; `commit` changes the store only, and `publish` makes
//! up for it: what lies between the two is where joins go wrong. `catch_up` does rounds until nobody waits;
//! `plan`, `read` and `supply` are one round taken apart.
//! Bounds are given in events (each costs some 175 bytes).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Delivery, Hub, HubOptions, Past, StreamId, Taken, Wake, WatchSpec};
use crate::command::{Event, KeyRange, KeyValue};
use crate::lease::golden::{self, Interpreter, Line};
use crate::types::Revision;

/// A store as the hub knows one.
pub(super) struct Store {
    /// Everything that ever happened, from revision 2 on.
    pub history: Vec<Vec<Event>>,
    pub compact: Revision,
}

impl Store {
    pub fn new() -> Self {
        Self { history: Vec::new(), compact: Revision(0) }
    }

    pub fn revision(&self) -> Revision {
        Revision(1 + i64::try_from(self.history.len()).expect("few"))
    }

    pub fn events(&self, revision: Revision) -> &[Event] {
        usize::try_from(revision.0 - 2).map_or(&[], |at| &self.history[at])
    }

    pub fn commit(&mut self, changes: Vec<(Bytes, Option<Bytes>)>) {
        let revision = self.revision().next();
        let events = (0..).zip(changes).map(|(sub, (key, value))| match value {
            Some(value) => Event::Put {
                kv: KeyValue {
                    key,
                    value,
                    create_revision: revision,
                    mod_revision: revision,
                    version: 1,
                    ..KeyValue::default()
                },
                sub,
                prev: None,
            },
            None => Event::Delete { key, revision, sub, prev: None },
        });
        self.history.push(events.collect());
    }

    pub fn read(&self, from: Revision, revisions_max: usize) -> Result<Past, Revision> {
        if from < self.compact {
            return Err(self.compact);
        }
        let end = self.revision().next();
        let next = Revision(from.0 + i64::try_from(revisions_max).expect("few")).min(end);
        let revisions = (from.0..next.0).map(|r| (Revision(r), self.events(Revision(r)).to_vec()));
        Ok(Past { revisions: revisions.filter(|(_, events)| !events.is_empty()).collect(), next })
    }
}

struct Bell {
    name: String,
    rung: Arc<Mutex<Vec<String>>>,
}

impl Wake for Bell {
    fn wake(&self) {
        self.rung.lock().unwrap().push(self.name.clone());
    }
}

struct World {
    hub: Hub,
    store: Store,
    streams: BTreeMap<String, StreamId>,
    rung: Arc<Mutex<Vec<String>>>,
    planned: Option<Revision>,
    read: Option<Result<Past, Revision>>,
}

impl World {
    fn new() -> Self {
        let rung = Arc::default();
        Self {
            hub: Self::hub(Revision(1), HubOptions::default(), &rung),
            store: Store::new(),
            streams: BTreeMap::new(),
            rung,
            planned: None,
            read: None,
        }
    }

    fn hub(revision: Revision, options: HubOptions, rung: &Arc<Mutex<Vec<String>>>) -> Hub {
        let bell = Bell { name: "catch-up".into(), rung: rung.clone() };
        Hub::new(revision, options, Arc::new(bell))
    }

    fn stream(&mut self, name: &str) -> StreamId {
        if let Some(id) = self.streams.get(name) {
            return *id;
        }
        let bell = Bell { name: name.to_owned(), rung: self.rung.clone() };
        let id = self.hub.open_stream(Arc::new(bell));
        self.streams.insert(name.to_owned(), id);
        id
    }

    fn publish(&mut self) {
        while self.hub.revision() < self.store.revision() {
            let next = self.hub.revision().next();
            self.hub.publish(next, &self.store.events(next).to_vec());
        }
    }

    fn restart(&mut self, line: &Line) {
        let default = HubOptions::default();
        let events =
            |key: &str, cost: usize, default: usize| line.number(key, default / cost) * cost;
        let options = HubOptions {
            ring_bytes: events("ring", 180, default.ring_bytes),
            stream_past_bytes: events("past", 165, default.stream_past_bytes),
            stream_events_max: line.number("queue", default.stream_events_max),
            ..default
        };
        self.streams.clear();
        self.hub = Self::hub(self.store.revision(), options, &self.rung);
    }

    fn register(&mut self, line: &Line) -> String {
        let stream = self.stream(line.arg(0));
        let text = |key: &str| Bytes::from(line.get(key).unwrap_or_default().replace("\\0", "\0"));
        let spec = WatchSpec {
            start: line.number("start", 0),
            id: line.number("id", 0),
            no_put: line.has("noput"),
            no_delete: line.has("nodelete"),
            progress_notify: line.has("progress"),
            prev_kv: line.has("prev"),
            fragment: line.has("fragment"),
            ..WatchSpec::new(KeyRange::from_wire(text("key"), text("end")))
        };
        match self.hub.register(stream, spec) {
            Ok(registered) => {
                format!("w{} created at {}", registered.watch_id, registered.revision)
            }
            Err(error) => format!("refused: {error}"),
        }
    }
}

fn changes(line: &Line) -> Vec<(Bytes, Option<Bytes>)> {
    let puts = line.options.iter().map(|(k, v)| (k.clone().into(), Some(v.clone().into())));
    puts.chain(line.args.iter().map(|k| (k.clone().into(), None))).collect()
}

fn print(taken: &Taken) -> String {
    let mut out = String::new();
    for delivery in &taken.deliveries {
        let _ = match delivery {
            Delivery::Events { watch_id, revision, events, prev_kv, fragment } => {
                let list: Vec<String> =
                    events.iter().map(|event| print_event(event.event())).collect();
                let last = events.last().map(|event| event.event().revision());
                let header =
                    if last == Some(*revision) { String::new() } else { format!(" at {revision}") };
                let flags = [("prev", prev_kv), ("fragment", fragment)];
                let flags: String = flags
                    .iter()
                    .filter(|(_, on)| **on)
                    .map(|(name, _)| format!(" +{name}"))
                    .collect();
                writeln!(out, "w{watch_id} ← {}{header}{flags}", list.join(", "))
            }
            Delivery::Progress { watch_id, revision } => {
                writeln!(out, "w{watch_id} progress {revision}")
            }
            Delivery::StreamProgress { revision } => writeln!(out, "all progress {revision}"),
            Delivery::Compacted { watch_id, compact_revision } => {
                writeln!(out, "w{watch_id} compacted at {compact_revision}")
            }
        };
    }
    if taken.more {
        out.push_str("more\n");
    }
    out
}

fn print_event(event: &Event) -> String {
    let key = event.key().escape_ascii();
    match event {
        Event::Put { kv, .. } => {
            format!("{} put {key}={}", kv.mod_revision, kv.value.escape_ascii())
        }
        Event::Delete { revision, .. } => format!("{revision} del {key}"),
    }
}

impl Interpreter for World {
    fn run(&mut self, line: &Line) -> String {
        let mut out = String::new();
        match line.name.as_str() {
            // A fresh hub over the store as it is: also a restart of the member.
            "hub" => self.restart(line),
            "watch" => out = self.register(line) + "\n",
            "put" | "del" => {
                self.store.commit(changes(line));
                self.publish();
                let _ = writeln!(out, "{}", self.store.revision());
            }
            "commit" => self.store.commit(changes(line)),
            "publish" => self.publish(),
            "compact" => self.store.compact = Revision(line.arg(0).parse().expect("a revision")),
            "restore" => self.hub.restore(self.store.revision()),
            "take" => {
                let stream = self.stream(line.arg(0));
                let taken = self.hub.take(stream, line.number("events", 1000) * 165);
                out = print(&taken);
                if out.is_empty() {
                    out.push_str("nothing\n");
                }
            }
            "plan" => {
                self.planned = self.hub.plan();
                out = self
                    .planned
                    .map_or("nobody is behind\n".into(), |from| format!("from {from}\n"));
            }
            "read" => {
                let from = self.planned.expect("planned before");
                self.read = Some(self.store.read(from, line.number("budget", 1000)));
            }
            "supply" => {
                let from = self.planned.take().expect("planned before");
                self.hub.supply(from, self.read.take().expect("read before"));
            }
            "catch_up" => {
                for _ in 0..line.number("rounds", 1000) {
                    let Some(from) = self.hub.plan() else { break };
                    let past = self.store.read(from, line.number("budget", 1000));
                    self.hub.supply(from, past);
                    self.hub.check();
                }
            }
            "tick" => {
                let stream = self.stream(line.arg(0));
                self.hub.progress_tick(stream);
            }
            "progress" => {
                let stream = self.stream(line.arg(0));
                self.hub.request_progress(stream);
            }
            "cancel" => {
                let stream = self.stream(line.arg(0));
                let known = self.hub.cancel(stream, line.arg(1).parse().expect("an id"));
                out.push_str(if known { "canceled\n" } else { "no such watcher\n" });
            }
            "close" => {
                let stream = self.streams.remove(line.arg(0)).expect("it is open");
                self.hub.close_stream(stream);
            }
            "counts" => {
                let counts = self.hub.counts();
                let _ = writeln!(
                    out,
                    "{} streams, {} watchers, {} behind, {} events in the ring",
                    counts.streams, counts.watchers, counts.behind, counts.ring_events
                );
            }
            other => panic!("no command {other}"),
        }
        self.hub.check();
        for name in self.rung.lock().unwrap().drain(..) {
            let _ = writeln!(out, "{name} woken");
        }
        out
    }
}

#[test]
fn scripts_print_what_they_say() {
    golden::check_all("src/watch/testscripts", World::new);
}

#[test]
fn an_event_is_encoded_as_the_message_it_is() {
    use prost::Message as _;

    use crate::proto::mvccpb;

    let kv = KeyValue {
        key: Bytes::from_static(b"k"),
        create_revision: Revision(2),
        mod_revision: Revision(300),
        version: 7,
        value: Bytes::from(vec![b'v'; 300]),
        lease: crate::types::LeaseId(-5),
    };
    let bare = KeyValue { value: Bytes::new(), lease: crate::types::LeaseId(0), ..kv.clone() };
    let delete =
        Event::Delete { key: Bytes::from_static(b"k"), revision: Revision(9), sub: 3, prev: None };
    let puts = [kv, bare].map(|kv| Event::Put { kv, sub: 0, prev: None });
    for event in puts.into_iter().chain([delete]) {
        let encoded = super::Encoded::new(&event);
        assert_eq!(encoded.event(), &event);
        let (kind, kv) = match event {
            Event::Put { kv, .. } => (0, kv),
            Event::Delete { key, revision, .. } => {
                (1, KeyValue { key, mod_revision: revision, ..KeyValue::default() })
            }
        };
        let message = mvccpb::Event {
            r#type: kind,
            kv: Some(mvccpb::KeyValue {
                key: kv.key,
                create_revision: kv.create_revision.0,
                mod_revision: kv.mod_revision.0,
                version: kv.version,
                value: kv.value,
                lease: kv.lease.0,
            }),
            prev_kv: None,
        };
        assert_eq!(encoded.wire()[..], message.encode_to_vec()[..]);
    }
}
