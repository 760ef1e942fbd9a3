//! What a member counts while it runs, in atomics that anybody may read at any time.
//!
//! A counter costs one atomic addition where something happens, a histogram three; nothing is locked or
//! allocated there. Names, labels and the text format are the reader's (`http/metrics.rs`); only the
//! buckets stand here, since counting needs them. One [`Metrics`] belongs to one member, so that members
//! in one process (a simulation) do not add up.
//!
//! Left out: figures that are kept elsewhere anyway (positions, sizes, watchers): they are asked for when
//! somebody reads.

mod calls;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use calls::{CODES, Calls, Method, Streams};

use crate::types::NodeId;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds a length.
    #[inline]
    pub fn add_len(&self, n: usize) {
        self.add(u64::try_from(n).unwrap_or(u64::MAX));
    }

    /// Returns the sum.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that comes and goes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, n: usize) {
        self.0.store(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The most buckets a histogram has, beside the one without a bound.
const BUCKETS_MAX: usize = 20;

/// The upper bounds of a histogram's buckets, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Buckets {
    bounds: [u64; BUCKETS_MAX],
    count: usize,
}

impl Buckets {
    /// Makes `count` buckets, the first one up to `first` and each twice as wide as the one before.
    pub const fn doubling(first: Duration, count: usize) -> Self {
        let mut bounds = [0; BUCKETS_MAX];
        let (mut i, mut bound) = (0, first.as_secs() * 1_000_000_000 + first.subsec_nanos() as u64);
        while i < count {
            bounds[i] = bound;
            bound *= 2;
            i += 1;
        }
        Self { bounds, count }
    }

    /// Makes buckets up to each of these milliseconds.
    pub const fn millis<const N: usize>(millis: [u64; N]) -> Self {
        let mut bounds = [0; BUCKETS_MAX];
        let mut i = 0;
        while i < N {
            bounds[i] = millis[i] * 1_000_000;
            i += 1;
        }
        Self { bounds, count: N }
    }

    fn bounds(&self) -> &[u64] {
        &self.bounds[..self.count]
    }
}

/// How durations are spread.
#[derive(Debug)]
pub struct Histogram {
    buckets: Buckets,
    /// How many fell into each bucket and into none of those before; the last one has no bound.
    counts: [AtomicU64; BUCKETS_MAX + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Makes an empty one.
    pub fn new(buckets: Buckets) -> Self {
        Self { buckets, counts: Default::default(), sum_nanos: AtomicU64::new(0) }
    }

    /// Takes a duration in.
    pub fn observe(&self, d: Duration) {
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.buckets.bounds().partition_point(|bound| *bound < nanos);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns each bucket's bound with how many were at most so long, then how many there were in all, and
    /// how long they took together.
    pub fn read(&self) -> (Vec<(Duration, u64)>, u64, Duration) {
        let mut sum = 0;
        let mut below = Vec::with_capacity(self.buckets.count);
        for (bound, count) in self.buckets.bounds().iter().zip(&self.counts) {
            sum += count.load(Ordering::Relaxed);
            below.push((Duration::from_nanos(*bound), sum));
        }
        sum += self.counts[self.buckets.count].load(Ordering::Relaxed);
        (below, sum, Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)))
    }
}

/// etcd's buckets for syncs and commits: from 1 ms to 8 s.
const DISK: Buckets = Buckets::doubling(Duration::from_millis(1), 14);

/// etcd's buckets for a round trip: from 0.1 ms to 3 s.
const ROUND_TRIP: Buckets = Buckets::doubling(Duration::from_micros(100), 16);

/// What passes between this member and another one.
#[derive(Debug)]
pub struct PeerFigures {
    /// Bytes of messages sent.
    pub sent_bytes: Counter,
    /// Bytes of messages received.
    pub received_bytes: Counter,
    /// Messages that could not be sent.
    pub sent_failures: Counter,
    /// Connections to it that broke.
    pub disconnected: Counter,
    /// Snapshots that it took, and that it did not.
    pub snapshots: [Counter; 2],
    /// How long it takes to answer.
    pub round_trip: Histogram,
}

impl Default for PeerFigures {
    fn default() -> Self {
        Self {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            sent_failures: Counter::default(),
            disconnected: Counter::default(),
            snapshots: Default::default(),
            round_trip: Histogram::new(ROUND_TRIP),
        }
    }
}

/// All figures of a member.
#[derive(Debug)]
pub struct Metrics {
    /// gRPC calls of clients.
    pub calls: Arc<Calls>,
    /// Syncs of the log.
    pub log_sync: Histogram,
    /// Bytes written to the log.
    pub log_bytes: Counter,
    /// Commits of the store to its file.
    pub store_commit: Histogram,
    /// Proposals of clients that wait.
    pub proposals_pending: Gauge,
    /// Proposals that were not taken or got no answer.
    pub proposals_failed: Counter,
    /// Questions for a read index that failed.
    pub reads_failed: Counter,
    /// Ranges read.
    pub ranges: Counter,
    /// Puts applied.
    pub puts: Counter,
    /// Bytes of keys and values in them.
    pub put_bytes: Counter,
    /// Deletes of ranges applied.
    pub deletes: Counter,
    /// Transactions of more than one operation applied.
    pub txns: Counter,
    /// Events sent to watchers.
    pub events: Counter,
    /// Leases granted.
    pub leases_granted: Counter,
    /// Leases that ended, however.
    pub leases_revoked: Counter,
    /// Leases that ended by their time.
    pub leases_expired: Counter,
    /// Leases renewed by this member.
    pub leases_renewed: Counter,
    /// Probes of health that succeeded, and that did not.
    pub health: [Counter; 2],
    peers: Mutex<BTreeMap<NodeId, Arc<PeerFigures>>>,
}

impl Metrics {
    /// Makes the figures of a member that serves these methods; with `timed`, how long calls take is among
    /// them.
    pub fn new(methods: &[(&'static str, &'static str, Streams)], timed: bool) -> Self {
        Self {
            calls: Arc::new(Calls::new(methods, timed)),
            log_sync: Histogram::new(DISK),
            log_bytes: Counter::default(),
            store_commit: Histogram::new(DISK),
            proposals_pending: Gauge::default(),
            proposals_failed: Counter::default(),
            reads_failed: Counter::default(),
            ranges: Counter::default(),
            puts: Counter::default(),
            put_bytes: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            events: Counter::default(),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_expired: Counter::default(),
            leases_renewed: Counter::default(),
            health: Default::default(),
            peers: Mutex::default(),
        }
    }

    /// Returns the figures about another member, which whoever counts keeps: this takes a lock.
    pub fn peer(&self, id: NodeId) -> Arc<PeerFigures> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.entry(id).or_default().clone()
    }

    /// Returns the figures about everybody with whom anything passed.
    pub fn peers(&self) -> Vec<(NodeId, Arc<PeerFigures>)> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(id, figures)| (*id, figures.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_duration_in_every_bucket_that_holds_it() {
        let histogram = Histogram::new(Buckets::millis([5, 10]));
        for millis in [1, 5, 6, 10, 11] {
            histogram.observe(Duration::from_millis(millis));
        }
        let (below, count, sum) = histogram.read();
        assert_eq!(below, [(Duration::from_millis(5), 2), (Duration::from_millis(10), 4)]);
        assert_eq!((count, sum), (5, Duration::from_millis(33)));
    }

    #[test]
    fn the_buckets_are_etcds() {
        let last =
            |buckets: &Buckets| Duration::from_nanos(*buckets.bounds().last().expect("some"));
        assert_eq!(last(&DISK), Duration::from_millis(8192));
        assert_eq!(last(&ROUND_TRIP), Duration::from_micros(3_276_800));
    }

    #[test]
    fn a_peers_figures_are_the_same_for_all_who_count() {
        let metrics = Metrics::new(&[], false);
        metrics.peer(NodeId(2)).sent_bytes.add(3);
        metrics.peer(NodeId(2)).sent_bytes.inc();
        assert_eq!(metrics.peers()[0].1.sent_bytes.get(), 4);
        assert_eq!(metrics.peers().len(), 1);
    }
}
