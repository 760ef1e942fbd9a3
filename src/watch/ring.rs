//! The events that level watchers have not taken yet, each once.
//!
//! Every event has a place, counted up from 0 forever. A place is in use as long as queues refer to it;
//! the ring forgets from its old end: events that nobody refers to any more at once, and whole revisions
//! that somebody still does when the ring is over its bound in bytes.
//!
//! Invariants
//! - Places are consecutive, their revisions ascend. `bytes` is the sum of what the events cost.
//! - The newest revision is never cut, however large: watchers that take it at once still get it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Encoded;
use crate::types::Revision;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Slot>,
    /// The place of the oldest event.
    base: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Slot {
    event: Arc<Encoded>,
    revision: Revision,
    references: u32,
}

impl Ring {
    /// Makes an empty ring that may hold so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { events: VecDeque::new(), base: 0, bytes: 0, bytes_max }
    }

    /// Appends an event and returns its place. Nobody refers to it yet.
    pub fn push(&mut self, event: Encoded, revision: Revision) -> u64 {
        self.bytes += event.cost();
        self.events.push_back(Slot { event: Arc::new(event), revision, references: 0 });
        self.base + as_u64(self.events.len()) - 1
    }

    /// Counts a reference to a place.
    pub fn refer(&mut self, place: u64) {
        self.slot(place).references += 1;
    }

    /// Gives a reference up.
    pub fn release(&mut self, place: u64) {
        let slot = self.slot(place);
        slot.references = slot.references.checked_sub(1).expect("each release had a reference");
    }

    /// Returns the event at a place.
    pub fn event(&self, place: u64) -> &Arc<Encoded> {
        &self.events[self.offset(place)].event
    }

    /// Returns the revision of the event at a place.
    pub fn revision(&self, place: u64) -> Revision {
        self.events[self.offset(place)].revision
    }

    /// Forgets the events at the old end that nobody refers to.
    pub fn forget_taken(&mut self) {
        while self.events.front().is_some_and(|slot| slot.references == 0) {
            self.pop();
        }
    }

    /// Returns the revision up to which the ring must be cut to be within its bound, if it must.
    pub fn overfull(&self) -> Option<Revision> {
        let bytes_max = crate::buggify!("ring_is_small", 0, self.bytes_max);
        if self.bytes <= bytes_max {
            return None;
        }
        let newest = self.events.back()?.revision;
        let mut left = self.bytes;
        let mut cut = None;
        for slot in &self.events {
            if slot.revision == newest || (left <= bytes_max && cut != Some(slot.revision)) {
                break;
            }
            left -= slot.event.cost();
            cut = Some(slot.revision);
        }
        cut
    }

    /// Returns how many bytes and events it holds.
    pub fn size(&self) -> (usize, usize) {
        (self.bytes, self.events.len())
    }

    /// Asserts the invariants; `references` are the places that queues refer to, with their counts.
    pub fn check(&self, references: &std::collections::BTreeMap<u64, u32>) {
        assert_eq!(self.bytes, self.events.iter().map(|s| s.event.cost()).sum::<usize>());
        assert!(self.events.iter().is_sorted_by_key(|s| s.revision), "the ring is out of order");
        for (place, slot) in (self.base..).zip(&self.events) {
            let counted = references.get(&place).copied().unwrap_or(0);
            assert_eq!(slot.references, counted, "place {place}: references are miscounted");
        }
        let last = self.base + as_u64(self.events.len());
        for place in references.keys() {
            assert!((self.base..last).contains(place), "place {place} is queued and gone");
        }
    }

    fn pop(&mut self) {
        let slot = self.events.pop_front().expect("the ring is not empty");
        self.bytes -= slot.event.cost();
        self.base += 1;
    }

    fn slot(&mut self, place: u64) -> &mut Slot {
        let offset = self.offset(place);
        &mut self.events[offset]
    }

    fn offset(&self, place: u64) -> usize {
        let offset = place.checked_sub(self.base).expect("a queued place is in the ring");
        usize::try_from(offset).expect("the ring fits memory")
    }
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).expect("a length fits 64 bits")
}
