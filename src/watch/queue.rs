//! What waits for one stream: places in the ring, events from history, reports, in the order of sending.
//!
//! Invariants
//! - All items of one watcher and revision are neighbours, so that a delivery can end between them and the
//!   next. Items of one watcher ascend.
//! - `live` counts the places in the ring, `past_bytes` the cost of events from history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::event::Encoded;
use super::index::WatcherKey;
use super::ring::Ring;
use crate::types::Revision;

/// One item of a queue.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// An event in the ring.
    Live { watcher: WatcherKey, place: u64 },
    /// An event from history; `known` is how far the store was when it was read.
    Past { watcher: WatcherKey, event: Arc<Encoded>, known: Revision },
    /// A report for one watcher.
    Progress { watcher: WatcherKey, revision: Revision },
    /// A report for all watchers of the stream.
    StreamProgress { revision: Revision },
    /// A watcher's history is gone.
    Compacted { watcher: WatcherKey, compact: Revision },
}

impl Item {
    pub fn watcher(&self) -> Option<WatcherKey> {
        match self {
            Self::Live { watcher, .. }
            | Self::Past { watcher, .. }
            | Self::Progress { watcher, .. }
            | Self::Compacted { watcher, .. } => Some(*watcher),
            Self::StreamProgress { .. } => None,
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    live: usize,
    past_bytes: usize,
    stream_reports: usize,
}

impl Queue {
    pub fn push(&mut self, item: Item, ring: &mut Ring) {
        match &item {
            Item::Live { place, .. } => {
                ring.refer(*place);
                self.live += 1;
            }
            Item::Past { event, .. } => self.past_bytes += event.cost(),
            Item::StreamProgress { .. } => self.stream_reports += 1,
            Item::Progress { .. } | Item::Compacted { .. } => {}
        }
        self.items.push_back(item);
    }

    pub fn front(&self) -> Option<&Item> {
        self.items.front()
    }

    pub fn pop(&mut self) -> Option<Item> {
        // NB: the caller releases the place of a live item once it has the event.
        let item = self.items.pop_front()?;
        self.forget(&item);
        Some(item)
    }

    /// Drops the items that `keep` does not want.
    pub fn retain(&mut self, ring: &mut Ring, mut keep: impl FnMut(&Item, &Ring) -> bool) {
        let items = std::mem::take(&mut self.items);
        for item in items {
            if keep(&item, ring) {
                self.items.push_back(item);
            } else {
                if let Item::Live { place, .. } = item {
                    ring.release(place);
                }
                self.forget(&item);
            }
        }
    }

    /// Returns the revision of the oldest event in the ring that is queued here.
    pub fn oldest_live(&self, ring: &Ring) -> Option<Revision> {
        if self.live == 0 {
            return None;
        }
        self.items.iter().find_map(|item| match item {
            Item::Live { place, .. } => Some(ring.revision(*place)),
            _ => None,
        })
    }

    /// Returns each watcher that has an event in the ring queued up to `cut`, and the first such revision.
    pub fn live_up_to(&self, cut: Revision, ring: &Ring) -> BTreeMap<WatcherKey, Revision> {
        let mut first = BTreeMap::new();
        for item in &self.items {
            if let Item::Live { watcher, place } = item {
                let revision = ring.revision(*place);
                if revision > cut {
                    break;
                }
                first.entry(*watcher).or_insert(revision);
            }
        }
        first
    }

    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn live(&self) -> usize {
        self.live
    }

    pub fn past_bytes(&self) -> usize {
        self.past_bytes
    }

    pub fn stream_reports(&self) -> usize {
        self.stream_reports
    }

    /// Asserts the counts, and counts the references to the ring.
    pub fn check(&self, references: &mut BTreeMap<u64, u32>) {
        let (mut live, mut past, mut reports) = (0, 0, 0);
        for item in &self.items {
            match item {
                Item::Live { place, .. } => {
                    live += 1;
                    *references.entry(*place).or_default() += 1;
                }
                Item::Past { event, .. } => past += event.cost(),
                Item::StreamProgress { .. } => reports += 1,
                Item::Progress { .. } | Item::Compacted { .. } => {}
            }
        }
        assert_eq!((live, past, reports), (self.live, self.past_bytes, self.stream_reports));
    }

    fn forget(&mut self, item: &Item) {
        match item {
            Item::Live { .. } => self.live -= 1,
            Item::Past { event, .. } => self.past_bytes -= event.cost(),
            Item::StreamProgress { .. } => self.stream_reports -= 1,
            Item::Progress { .. } | Item::Compacted { .. } => {}
        }
    }
}
