//! What a leader knows of one peer, and how much it may send.
//!
//! ```text
//!            accept                        prev not in the log any more
//!   Probe ───────────▶ Replicate      Probe, Replicate ───────────▶ Snapshot
//!     ▲                    │                                            │
//!     └── reject, lost ────┘◀──────────── sent, or failed ──────────────┘
//! ```
//!
//! - *Probe*: where the logs part is not known. One append at a time; the next goes when it is
//!   answered, or when a heartbeat is, so a lost one costs a heartbeat and no flood.
//! - *Replicate*: appends are pipelined. `next` runs ahead of `matched` by what is in the window, which
//!   is bounded in number and in bytes, so that a slow peer costs bounded memory. The number begins at
//!   one after each return from *Probe* and grows by what an answer frees, as a TCP sender's slow start
//!   does (RFC 5681, §3.1).
//! - *Snapshot*: the log no longer reaches back to the peer. Nothing but heartbeats is sent until the
//!   driver reports.
//!
//! Why appends have to be earned: where messages overtake one another, each append of a flight that
//! comes before its predecessor is refused, and each of these refusals may arrive after the logs were
//! found to agree again. If every one of them had the whole window sent anew, they would be the more,
//! the more there are. So only an answer that brings news widens the window, and a refusal closes it:
//! what is sent is bounded by what arrives for the first time, whatever the network does.
//!
//! Invariants: `matched < next`; `matched` never falls within a term; the window holds ascending
//! indexes in `matched+1 .. next`, and none outside *Replicate*.

use std::collections::VecDeque;

use crate::types::Index;

/// How appends to a peer are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// One append at a time.
    Probe {
        /// Whether one is on its way.
        waiting: bool,
    },
    /// Pipelined.
    Replicate,
    /// A snapshot is on its way.
    Snapshot,
}

/// One peer, as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    matched: Index,
    next: Index,
    state: PeerState,
    window: Window,
    /// Heard from since the last quorum check.
    pub(crate) active: bool,
    /// The latest read round it has answered.
    pub(crate) round: u64,
    /// The highest commit index sent to it.
    pub(crate) commit_sent: Index,
    /// A heartbeat of the clock went out and has not been answered.
    pub(crate) asked: bool,
    /// Something is to be sent even if there is no new entry.
    pub(crate) poke: bool,
}

impl Progress {
    /// Starts on a peer of which nothing is known; `next` is the leader's guess.
    pub(crate) fn new(next: Index) -> Self {
        Self {
            matched: Index(0),
            next,
            state: PeerState::Probe { waiting: false },
            window: Window::default(),
            active: false,
            round: 0,
            commit_sent: Index(0),
            asked: false,
            poke: true,
        }
    }

    /// Returns the last index known to be durable at the peer and equal to the leader's.
    pub(crate) fn matched(&self) -> Index {
        self.matched
    }

    /// Returns the next index to send.
    pub(crate) fn next(&self) -> Index {
        self.next
    }

    /// Returns how appends are sent.
    pub(crate) fn state(&self) -> PeerState {
        self.state
    }

    /// Returns how many appends are on their way.
    pub(crate) fn inflight(&self) -> usize {
        self.window.sent.len()
    }

    /// Tells whether an append with entries may go now.
    pub(crate) fn may_send(&self, inflight_max: usize, inflight_bytes_max: u64) -> bool {
        match self.state {
            PeerState::Probe { waiting } => !waiting,
            PeerState::Replicate => {
                let most = inflight_max.min(self.window.earned);
                self.window.sent.len() < most && self.window.bytes < inflight_bytes_max
            }
            PeerState::Snapshot => false,
        }
    }

    /// Tells whether an append without entries may go now: a full window does not hold it back.
    pub(crate) fn may_poke(&self) -> bool {
        matches!(self.state, PeerState::Probe { waiting: false } | PeerState::Replicate)
    }

    /// Notes that entries up to `last` were sent.
    pub(crate) fn on_sent(&mut self, last: Index, bytes: u64) {
        match &mut self.state {
            PeerState::Probe { waiting } => *waiting = true,
            PeerState::Replicate => {
                if last >= self.next {
                    self.next = last.next();
                    self.window.push(last, bytes);
                }
            }
            PeerState::Snapshot => unreachable!("nothing is sent beside a snapshot"),
        }
    }

    /// Takes an answer that everything up to `matched` is there, where the leader's log begins after
    /// `base`. Tells whether that is news.
    pub(crate) fn on_accept(&mut self, matched: Index, base: Index) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        let freed = self.window.free_to(matched);
        if news {
            self.window.widen(freed.max(1));
        }
        match self.state {
            PeerState::Probe { .. } => self.become_replicate(),
            // A late answer does not end a snapshot, unless it shows that none is needed.
            PeerState::Snapshot if self.matched >= base => self.become_replicate(),
            PeerState::Replicate | PeerState::Snapshot => {
                self.next = self.next.max(self.matched.next());
            }
        }
        news
    }

    /// Takes an answer that the append after `prev` did not fit, where `hint` is the last place at
    /// which the logs may agree. Tells whether it was news.
    pub(crate) fn on_reject(&mut self, prev: Index, hint: Index) -> bool {
        match self.state {
            // An answer to something older than what has matched since.
            PeerState::Probe { .. } | PeerState::Replicate if prev <= self.matched => false,
            PeerState::Replicate => {
                self.become_probe(self.matched.next());
                true
            }
            PeerState::Probe { .. } if self.next != prev.next() => false,
            PeerState::Probe { .. } => {
                let next = hint.next().min(prev.max(Index(1))).max(self.matched.next());
                self.become_probe(next);
                true
            }
            PeerState::Snapshot => false,
        }
    }

    /// Takes an answer to a heartbeat: the peer lives, so whatever was unanswered may be lost.
    pub(crate) fn on_heartbeat(&mut self) {
        match &mut self.state {
            PeerState::Probe { waiting } => *waiting = false,
            PeerState::Replicate if !crate::mutant!("R33") => self.window.free_one(),
            PeerState::Replicate | PeerState::Snapshot => {}
        }
    }

    /// Goes back to one append at a time, since something was lost on the way.
    pub(crate) fn on_lost(&mut self) {
        if self.state == PeerState::Replicate {
            self.become_probe(self.matched.next());
        }
    }

    /// Begins to wait for a snapshot.
    pub(crate) fn become_snapshot(&mut self) {
        self.window.clear();
        self.state = PeerState::Snapshot;
    }

    /// Ends the wait: the peer holds a snapshot up to `at`, or failed to get one.
    pub(crate) fn on_snapshot_sent(&mut self, ok: bool, at: Index) {
        if self.state != PeerState::Snapshot {
            return;
        }
        let held = if ok { at.max(self.matched) } else { self.matched };
        self.become_probe(held.next());
        // The peer answers by itself when it has installed; a heartbeat answered retries.
        self.state = PeerState::Probe { waiting: true };
    }

    fn become_probe(&mut self, next: Index) {
        self.window.clear();
        self.window.narrow();
        self.state = PeerState::Probe { waiting: false };
        self.next = next;
        self.poke = true;
    }

    fn become_replicate(&mut self) {
        self.window.clear();
        self.state = PeerState::Replicate;
        self.next = self.matched.next();
    }

    /// Asserts the invariants in the module's doc.
    pub(crate) fn check(&self) {
        assert!(self.matched < self.next, "{:?} matched but {:?} next", self.matched, self.next);
        let sent = &self.window.sent;
        let bytes: u64 = sent.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(bytes, self.window.bytes, "the window's bytes do not add up");
        if !crate::mutant!("R33") {
            let outside = sent.iter().any(|(i, _)| *i <= self.matched || *i >= self.next);
            assert!(!outside, "the window {sent:?} leaves {:?}..{:?}", self.matched, self.next);
            assert!(
                sent.is_empty() || self.state == PeerState::Replicate,
                "a window in {:?}",
                self.state
            );
        }
    }
}

/// Appends on their way: the last index and the size of each, oldest first.
#[derive(Clone, Debug)]
struct Window {
    sent: VecDeque<(Index, u64)>,
    bytes: u64,
    /// How many may be on their way at once, by what has arrived since the last *Probe*.
    earned: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { sent: VecDeque::new(), bytes: 0, earned: 1 }
    }
}

impl Window {
    fn push(&mut self, last: Index, bytes: u64) {
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Forgets the appends that have arrived and returns how many these were.
    fn free_to(&mut self, matched: Index) -> usize {
        let before = self.sent.len();
        while self.sent.front().is_some_and(|(last, _)| *last <= matched) {
            self.free_one();
            if crate::mutant!("R33") {
                break;
            }
        }
        before - self.sent.len()
    }

    fn widen(&mut self, by: usize) {
        self.earned = self.earned.saturating_add(by);
    }

    fn narrow(&mut self) {
        self.earned = if crate::mutant!("R41") { usize::MAX } else { 1 };
    }

    fn free_one(&mut self) {
        if let Some((_, bytes)) = self.sent.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        if crate::mutant!("R33") {
            return;
        }
        self.sent.clear();
        self.bytes = 0;
    }
}
