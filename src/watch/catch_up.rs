//! Catching up: watchers that are behind are given history until they are level.
//!
//! It takes three steps, so that the store is read while nobody waits for the hub: [`Hub::plan`] says from
//! where history is wanted, the caller reads it, [`Hub::supply`] hands it out. One reading serves all
//! watchers that lack something in it. Plans alternate between the watcher that lacks most and the one
//! that lacks least: a thousand fresh watchers do not wait for one that begins at revision 1, nor it for
//! them.
//!
//! What may happen in between is harmless: history never changes, it is only cut off. New revisions: the
//! watcher stays behind, or was supplied with more than the hub knows of, and then its `next` keeps a later
//! publish from giving it the same again. A compaction: the history in hand was read before. A snapshot
//! installed: the history read from the old store is the same. A cancelled watcher: nobody takes part for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::event::Encoded;
use super::hub::{Hub, State, StreamId, get};
use super::index::WatcherKey;
use super::queue::Item;
use crate::buggify;
use crate::command::Event;
use crate::types::Revision;

/// A piece of history: every change from the revision that was asked for up to, not including, `next`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The revisions that changed something, whole and ascending.
    pub revisions: Vec<(Revision, Vec<Event>)>,
    /// The first revision that is not covered.
    pub next: Revision,
}

impl Hub {
    /// Returns from which revision history should be read next, if anyone needs some.
    pub fn plan(&mut self) -> Option<Revision> {
        self.deepest_next = !self.deepest_next ^ buggify!("hub_serves_another_first");
        let entry = if self.deepest_next { self.waiting.first() } else { self.waiting.last() };
        entry.map(|(next, _)| *next)
    }

    /// Hands out history read from `from` on, or the news that history begins only at the compact revision.
    pub fn supply(&mut self, from: Revision, past: Result<Past, Revision>) {
        match past {
            Ok(past) => self.hand_out(from, &past),
            Err(compact) => self.cut_off(compact),
        }
    }

    fn hand_out(&mut self, from: Revision, past: &Past) {
        assert!(past.next > from, "history from {from} covers nothing");
        let known = self.revision.max(Revision(past.next.0 - 1));
        // Streams that got as much as they may hold, and after which revision.
        let mut filled: BTreeMap<StreamId, Revision> = BTreeMap::new();
        for (revision, events) in &past.revisions {
            let matched = self.match_past(from, *revision, events, &filled);
            let mut touched = BTreeSet::new();
            for (key, event) in matched {
                let watcher = self.watcher_mut(key);
                watcher.quiet = false;
                let stream = watcher.stream;
                touched.insert(stream);
                self.push(stream, Item::Past { watcher: key, event, known });
            }
            for stream in touched {
                let bytes = self.streams[&stream].queue.past_bytes();
                let most = buggify!("hub_holds_little_past", 1, self.options.stream_past_bytes);
                if bytes >= most {
                    filled.insert(stream, *revision);
                }
            }
        }
        self.advance(from, past.next, &filled);
    }

    /// Finds who lacks the events of one revision, all events of one watcher together.
    fn match_past(
        &self,
        from: Revision,
        revision: Revision,
        events: &[Event],
        filled: &BTreeMap<StreamId, Revision>,
    ) -> Vec<(WatcherKey, Arc<Encoded>)> {
        let mut matched: Vec<(WatcherKey, usize)> = Vec::new();
        for (at, event) in events.iter().enumerate() {
            self.behind.matching(event.key(), &mut |key| {
                let watcher = get(&self.watchers, key);
                let lacks = (from..=revision).contains(&watcher.next);
                let room =
                    !filled.contains_key(&watcher.stream) && !self.streams[&watcher.stream].full;
                if lacks && room && watcher.wants(event) {
                    matched.push((key, at));
                }
            });
        }
        matched.sort_unstable();
        let mut encoded: Vec<Option<Arc<Encoded>>> = vec![None; events.len()];
        let shared = matched.into_iter().map(|(key, at)| {
            let event = encoded[at].get_or_insert_with(|| Arc::new(Encoded::new(&events[at])));
            (key, event.clone())
        });
        shared.collect()
    }

    /// Moves everyone who took part to where the history ends, or where their stream was full.
    fn advance(&mut self, from: Revision, next: Revision, filled: &BTreeMap<StreamId, Revision>) {
        let part: Vec<(Revision, WatcherKey)> =
            self.waiting.range((from, WatcherKey::MIN)..(next, WatcherKey::MIN)).copied().collect();
        for entry in part {
            let (old, key) = entry;
            let watcher = self.watcher(key);
            let reached = filled.get(&watcher.stream).map_or(next, |full| old.max(full.next()));
            self.waiting.remove(&entry);
            if reached > self.revision {
                self.become_level(key, reached);
            } else {
                self.watcher_mut(key).next = reached;
                self.waiting.insert((reached, key));
            }
        }
        for id in filled.keys() {
            let stream = self.stream(*id);
            stream.full = true;
            let keys: Vec<WatcherKey> = stream.watchers.values().copied().collect();
            for key in keys {
                let next = self.watcher(key).next;
                self.waiting.remove(&(next, key));
            }
        }
    }

    /// The store has history from `compact` on only: who needs older is told and gets nothing more.
    fn cut_off(&mut self, compact: Revision) {
        let lost: Vec<(Revision, WatcherKey)> =
            self.waiting.range(..(compact, WatcherKey::MIN)).copied().collect();
        for entry in lost {
            let (_, key) = entry;
            self.waiting.remove(&entry);
            if crate::mutant!("E11") {
                let next = self.revision.next();
                self.become_level(key, next);
                continue;
            }
            let watcher = self.watcher_mut(key);
            watcher.state = State::Compacted;
            let (stream, range) = (watcher.stream, watcher.range.clone());
            self.behind.remove(&range, key);
            self.push(stream, Item::Compacted { watcher: key, compact });
        }
    }

    fn become_level(&mut self, key: WatcherKey, next: Revision) {
        let watcher = self.watcher_mut(key);
        watcher.state = State::Level;
        watcher.next = next;
        let range = watcher.range.clone();
        self.behind.remove(&range, key);
        self.level.insert(&range, key);
    }
}

/// Does one round of catching up: plans, reads with the hub unlocked, supplies. Tells whether there was
/// anything to do; the caller goes on until there is not, and then waits to be woken.
///
/// `read` returns at least one whole revision of history from the one it is given, or the compact revision
/// if that is greater.
pub fn catch_up(hub: &Mutex<Hub>, read: impl FnOnce(Revision) -> Result<Past, Revision>) -> bool {
    let lock = || hub.lock().expect("nobody panicked while holding the hub");
    let Some(from) = lock().plan() else { return false };
    let past = read(from);
    lock().supply(from, past);
    true
}
