//! The smallest replicated state machine: a chained hash of everything applied, and the
//! configuration. Two machines that stand at one index are equal or the cluster is broken.

use mainstay::raft::{ConfChange, ConfState, Entry, Payload};
use mainstay::types::LogPosition;

/// A change whose context begins so is refused by the machine, on every node alike.
pub(super) const REFUSED: u8 = 0xff;

/// Machine state; cloned, it is a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) position: LogPosition,
    pub(super) hash: u64,
    pub(super) conf: ConfState,
}

impl Machine {
    /// Applies the next entry. For a configuration entry, tells whether it was accepted.
    pub(super) fn apply(&mut self, entry: &Entry) -> Option<bool> {
        self.position = entry.position();
        self.hash = mix(self.hash, digest(entry));
        let Payload::ConfChange(change) = &entry.payload else { return None };
        let next = if accepts(change) { self.conf.changed(change).ok() } else { None };
        let accepted = next.is_some();
        if let Some(next) = next {
            self.conf = next;
        }
        Some(accepted)
    }
}

fn accepts(change: &ConfChange) -> bool {
    change.context.first() != Some(&REFUSED)
}

/// Names an entry by what it says.
pub(super) fn digest(entry: &Entry) -> u64 {
    let content = match &entry.payload {
        Payload::Empty => 1,
        Payload::Command(bytes) => bytes.iter().take(8).fold(2, |h, b| mix(h, u64::from(*b))),
        Payload::ConfChange(change) => change.context.iter().fold(3, |h, b| mix(h, u64::from(*b))),
    };
    mix(mix(content, entry.term.get()), entry.index.get())
}

/// A step of FNV-1a over whole words, with a rotation so that high bits count.
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    ((hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)).rotate_left(23) ^ 0xcbf2_9ce4_8422_2325
}
