//! The stream of requests: random, but the same for a seed and the same answers.
//!
//! What makes requests meet is kept small (keys, values, leases, revisions near the present), so that most
//! of them find something. What the reference answered steers what is asked next (which revisions exist,
//! which leases, which watchers); nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainstay::proto::etcdserverpb::{self as pb, compare::TargetUnion, request_op};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::request::{Answer, Request};

/// How many operations a txn may have by default.
const TXN_OPERATIONS_MAX: usize = 128;
/// The last stream is for watchers that begin in the future: they would keep progress from being told.
pub const STREAMS: usize = 4;

/// The source of requests.
pub struct Generator {
    random: StdRng,
    /// The store's revision, from the reference's answers.
    pub revision: i64,
    /// The greatest revision that was compacted; -1 before.
    pub compacted: i64,
    leases: BTreeSet<i64>,
    watches: BTreeMap<usize, BTreeSet<i64>>,
    abilities: Abilities,
    fresh: u64,
}

/// What may be asked for. Where an older reference would change the store and a newer one refuse, the two
/// would never be alike again.
pub struct Abilities {
    /// `RangeStream`; since 3.7.
    pub stream_ranges: bool,
    /// Txns in txns, so deep.
    pub nesting: usize,
    /// Numbers that are no sort option; refused since 3.6.
    pub sort_checked: bool,
    /// Watches from below zero; refused since 3.6.
    pub start_checked: bool,
}

impl Generator {
    /// Begins a stream.
    pub fn new(seed: u64, abilities: Abilities) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            revision: 1,
            compacted: -1,
            leases: BTreeSet::new(),
            watches: BTreeMap::new(),
            abilities,
            fresh: 0,
        }
    }

    /// The next request.
    pub fn request(&mut self) -> Request {
        match self.random.random_range(0..1000) {
            0..290 => Request::Put(self.put()),
            290..370 => Request::DeleteRange(self.delete_range()),
            370..640 => Request::Range(self.range()),
            640..650 if self.abilities.stream_ranges => Request::RangeStream(self.stream_range()),
            650..860 => Request::Txn(self.txn(0, TXN_OPERATIONS_MAX)),
            860..885 => self.lease_grant(),
            885..895 => Request::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease() }),
            895..905 => {
                let keys = self.random.random();
                Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            905..912 => Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: self.lease() }),
            912..914 => Request::LeaseLeases,
            914..934 => Request::HashKv(pb::HashKvRequest { revision: self.revision_to_ask() }),
            934..936 => Request::Alarms,
            936..941 => self.compact(),
            941..961 => self.watch_create(),
            961..967 => self.watch_cancel(),
            _ => Request::Put(self.put()),
        }
    }

    /// Learns from the reference's answer.
    pub fn learn(&mut self, request: &Request, answer: &Answer) {
        self.revision = self.revision.max(answer.revision());
        match (request, answer) {
            (Request::LeaseGrant(grant), Answer::LeaseGrant(_)) => {
                self.leases.insert(grant.id);
            }
            (Request::LeaseRevoke(revoke), Answer::LeaseRevoke(_)) => {
                self.leases.remove(&revoke.id);
            }
            (Request::Compact(compact), Answer::Compact(_)) => self.compacted = compact.revision,
            (Request::WatchCreate { stream, compacted, .. }, Answer::Watch(said)) => {
                if let Some(first) = said.first()
                    && first.created
                    && !first.canceled
                    && !compacted
                {
                    self.watches.entry(*stream).or_default().insert(first.watch_id);
                }
            }
            (Request::WatchCancel { stream, watch }, _) => {
                self.watches.entry(*stream).or_default().remove(watch);
            }
            _ => {}
        }
    }

    /// The servers were killed: their watchers are gone.
    pub fn crashed(&mut self) {
        self.watches.clear();
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u32) -> bool {
        self.random.random_ratio(1, times)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())].clone()
    }

    fn key(&mut self) -> Bytes {
        match self.random.random_range(0..1000) {
            0..3 => Bytes::new(),
            3..60 => {
                // Bytes at the edges of every comparison.
                let length = self.random.random_range(1..4);
                (0..length).map(|_| self.pick(&[0, 1, 0x2f, 0x7f, 0xfe, 0xff])).collect()
            }
            60..80 => {
                // Longer than what one LMDB key holds; some differ only in their last byte.
                let length = self.pick(&[500, 511, 512, 600, 1200]);
                let mut key = vec![b'L'; length];
                key.push(b'0' + self.random.random_range(0..4));
                key.into()
            }
            80..130 => {
                self.fresh += 1;
                format!("fresh/{:06}", self.fresh).into()
            }
            _ => {
                let directory = self.pick(&["a/", "b/", "b", "c/d/", "registry/pods/"]);
                format!("{directory}{}", self.random.random_range(0..40)).into()
            }
        }
    }

    /// A range's two ends: mostly prefixes and spans, at times one key, everything, or nonsense.
    fn range_ends(&mut self) -> (Bytes, Bytes) {
        match self.random.random_range(0..20) {
            0..7 => (self.key(), Bytes::new()),
            7..12 => {
                let prefix =
                    self.pick(&["a/", "b", "b/", "c/", "fresh/", "registry/", "L", "none/"]);
                let mut end = prefix.as_bytes().to_vec();
                *end.last_mut().expect("no prefix is empty") += 1;
                (prefix.into(), end.into())
            }
            12..18 => {
                let (one, other) = (self.key(), self.key());
                if self.once_in(10) {
                    (one, other)
                } else {
                    (one.clone().min(other.clone()), one.max(other))
                }
            }
            18 => (self.key(), Bytes::from_static(b"\0")),
            _ => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        }
    }

    fn value(&mut self) -> Bytes {
        match self.random.random_range(0..400) {
            0..20 => Bytes::new(),
            20..30 => vec![b'v'; self.random.random_range(100..5_000)].into(),
            30 => vec![b'V'; self.random.random_range(5_000..200_000)].into(),
            // One that is refused.
            31 if self.once_in(20) => vec![b'V'; 1_600_000].into(),
            _ => format!("value {}", self.random.random_range(0..60)).into(),
        }
    }

    fn lease(&mut self) -> i64 {
        let known: Vec<_> = self.leases.iter().copied().collect();
        match self.random.random_range(0..10) {
            0 => self.random.random_range(1..60),
            _ if known.is_empty() => 7,
            _ => self.pick(&known),
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut put = pb::PutRequest { key: self.key(), value: self.value(), ..Default::default() };
        put.prev_kv = self.once_in(3);
        if self.once_in(6) {
            put.lease = self.lease();
        }
        if self.once_in(20) {
            put.ignore_value = true;
            if !self.once_in(5) {
                put.value = Bytes::new();
            }
        }
        if self.once_in(20) {
            put.ignore_lease = true;
            if !self.once_in(5) {
                put.lease = 0;
            }
        }
        put
    }

    fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let (key, mut range_end) = self.range_ends();
        // Everything goes seldom: an empty store is a dull one.
        if range_end == b"\0"[..] && !self.once_in(8) {
            range_end = Bytes::new();
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.random() }
    }

    /// A revision as readers ask for it: mostly the current one, else one of the past, at times one that
    /// is gone or is not there yet.
    fn revision_to_ask(&mut self) -> i64 {
        match self.random.random_range(0..100) {
            0..40 => 0,
            40..45 => self.compacted,
            45..48 => self.compacted - 1,
            48..51 => self.revision,
            51..53 => self.revision + 1,
            53 => self.pick(&[-1, -2, i64::MIN, i64::MAX, 1]),
            _ => self.past(),
        }
    }

    fn past(&mut self) -> i64 {
        let floor = self.compacted.max(1);
        // Near the present more often than far.
        let depth = self.pick(&[10, 100, 1_000, i64::MAX]).min(self.revision - floor);
        self.revision - self.random.random_range(0..=depth.max(0))
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.range_ends();
        let mut range = pb::RangeRequest { key, range_end, ..Default::default() };
        range.revision = self.revision_to_ask();
        if self.once_in(3) {
            range.limit = self.pick(&[1, 2, 3, 5, 10, 50, 1_000, 0, -1]);
        }
        if self.once_in(3) {
            range.sort_order = self.random.random_range(0..3);
            range.sort_target = self.random.random_range(0..5);
        }
        if self.once_in(300) && self.abilities.sort_checked {
            (range.sort_order, range.sort_target) = self.pick(&[(3, 0), (0, 5), (-1, 0), (1, -1)]);
        }
        if self.once_in(6) {
            let mut bound = || if self.once_in(2) { 0 } else { self.past() };
            range.min_mod_revision = bound();
            range.max_mod_revision = bound();
            range.min_create_revision = bound();
            range.max_create_revision = bound();
        }
        range.serializable = self.once_in(4);
        range.keys_only = self.once_in(5);
        range.count_only = self.once_in(8);
        range
    }

    /// A range that may be streamed, and now and then one that may not.
    fn stream_range(&mut self) -> pb::RangeRequest {
        let mut range = self.range();
        if !self.once_in(8) {
            (range.min_mod_revision, range.max_mod_revision) = (0, 0);
            (range.min_create_revision, range.max_create_revision) = (0, 0);
            range.sort_target = 0;
            range.sort_order = range.sort_order.min(1);
        }
        // Order NONE by another target is a known error of the reference (duplicates and holes).
        if range.sort_order == 0 {
            range.sort_target = range.sort_target.min(0);
        }
        range
    }

    fn txn(&mut self, depth: usize, room: usize) -> pb::TxnRequest {
        let compares = self.random.random_range(0..4);
        let compare = (0..compares).map(|_| self.compare()).collect();
        let mut count = self.random.random_range(0..5);
        if depth == 0 && self.once_in(150) {
            count = self.pick(&[room - 1, room, room + 1]);
        }
        let success = (0..count).map(|_| self.operation(depth)).collect();
        let count = self.random.random_range(0..4);
        let failure = (0..count).map(|_| self.operation(depth)).collect();
        pb::TxnRequest { compare, success, failure }
    }

    fn operation(&mut self, depth: usize) -> pb::RequestOp {
        use request_op::Request as Operation;
        let request = match self.random.random_range(0..100) {
            0..40 => Operation::RequestPut(self.put()),
            40..55 => Operation::RequestDeleteRange(self.delete_range()),
            55..90 => {
                let mut range = self.range();
                // A negative revision means something else inside a txn; that is asked seldom.
                if range.revision < 0 && !self.once_in(4) {
                    range.revision = 0;
                }
                // A refusal of one operation hides all the others.
                if range.revision > self.revision || range.revision < self.compacted {
                    range.revision = if self.once_in(5) { range.revision } else { 0 };
                }
                Operation::RequestRange(range)
            }
            90..99 if depth < self.abilities.nesting => {
                Operation::RequestTxn(self.txn(depth + 1, TXN_OPERATIONS_MAX))
            }
            99 if self.once_in(10) => return pb::RequestOp { request: None },
            _ => Operation::RequestPut(self.put()),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) =
            if self.once_in(5) { self.range_ends() } else { (self.key(), Bytes::new()) };
        let target = self.random.random_range(0..5);
        // At times the operand is not the target's, which the reference reads as zero.
        let operand = if self.once_in(60) { self.random.random_range(0..5) } else { target };
        let target_union = match operand {
            0 => TargetUnion::Version(self.random.random_range(0..6)),
            1 => TargetUnion::CreateRevision(if self.once_in(2) { 0 } else { self.past() }),
            2 => TargetUnion::ModRevision(if self.once_in(2) { 0 } else { self.past() }),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(if self.once_in(2) { 0 } else { self.lease() }),
        };
        let result = self.random.random_range(0..4);
        let (result, target) =
            if self.once_in(300) { (result + 4, target) } else { (result, target) };
        let (result, target) =
            if self.once_in(300) { (result, target + 5) } else { (result, target) };
        let target_union = if self.once_in(200) { None } else { Some(target_union) };
        pb::Compare { result, target, key, range_end, target_union }
    }

    fn lease_grant(&mut self) -> Request {
        // Never 0, which lets the server choose, and never one that ends during the run.
        let id = match self.random.random_range(0..20) {
            0 => self.pick(&[-5, -6, i64::MAX, i64::MIN, 1 << 40]),
            _ => self.random.random_range(1..60),
        };
        let ttl = match self.random.random_range(0..20) {
            0 => self.pick(&[9_000_000_000, 9_000_000_001, i64::MAX]),
            _ => self.random.random_range(50_000..100_000),
        };
        Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
    }

    fn compact(&mut self) -> Request {
        let revision = match self.random.random_range(0..20) {
            0 => self.revision + 1,
            1 => self.compacted,
            2 => self.pick(&[-1, 0, i64::MAX, i64::MIN]),
            3..8 => self.revision,
            _ => self.past(),
        };
        Request::Compact(pb::CompactionRequest { revision, physical: self.random.random() })
    }

    fn watch_create(&mut self) -> Request {
        let stream = self.random.random_range(0..STREAMS);
        let future = stream == STREAMS - 1;
        let (key, range_end) = self.range_ends();
        let mut request = pb::WatchCreateRequest { key, range_end, ..Default::default() };
        request.prev_kv = self.random.random();
        request.fragment = self.once_in(4);
        request.progress_notify = self.once_in(10);
        if self.once_in(5) {
            request.filters.push(self.random.random_range(0..2));
        }
        if self.once_in(4) {
            request.watch_id = self.random.random_range(1_000..1_020);
        }
        request.start_revision = match self.random.random_range(0..20) {
            0..8 => 0,
            8 if self.abilities.start_checked => self.pick(&[-1, i64::MIN]),
            9 if !future => self.compacted,
            // Nothing else there: whether such a watcher has caught up would not be known.
            _ if future => self.revision + self.random.random_range(1..60),
            10 if self.compacted > 1 => self.random.random_range(1..self.compacted),
            11 => self.revision + 1,
            _ => self.past(),
        };
        // At most a dozen a stream, or every event would be told a hundred times.
        if self.watches.get(&stream).is_some_and(|watches| watches.len() >= 12) {
            return self.watch_cancel();
        }
        let compacted = request.start_revision > 0 && request.start_revision < self.compacted;
        Request::WatchCreate { stream, compacted, request }
    }

    fn watch_cancel(&mut self) -> Request {
        let live: Vec<_> = self
            .watches
            .iter()
            .flat_map(|(stream, watches)| watches.iter().map(|watch| (*stream, *watch)))
            .collect();
        if live.is_empty() {
            return Request::Range(self.range());
        }
        let (stream, watch) = self.pick(&live);
        Request::WatchCancel { stream, watch }
    }
}
