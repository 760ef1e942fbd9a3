//! Random histories that are right: a simulated concurrent run against the sequential model.
//!
//! Processes invoke, the model applies each operation at some moment between its call and its return
//! (or, for lost answers, at any later moment or never), watchers read the model's timeline, leases run
//! out by the simulated clock. All choices come from one seed. The checkers must accept every one of
//! these histories, and tests spoil them one promise at a time.

use crate::blob::Blob;
use crate::history::{Record, WatchRecord, WatchRequest, What};
use crate::model::Etcd;
use crate::op::*;
use crate::verdict::GroundTruth;
use std::collections::BTreeMap;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all choices come from.
    pub seed: u64,
    /// Operations to invoke.
    pub operations: usize,
    /// Logical clients.
    pub processes: u64,
    /// Keys, named `k0`, `k1` ….
    pub keys: u64,
    /// Of a hundred answers, those that get lost.
    pub unknown_percent: u64,
    /// Watches opened in the run.
    pub watches: u64,
    /// Whether leases are used.
    pub leases: bool,
    /// Whether compactions are asked for.
    pub compactions: bool,
    /// Whether deletes, txns and ranges are mixed in, or only puts, gets and compare-and-set.
    pub rich: bool,
}

impl Plan {
    /// A small run with everything in it.
    pub fn rich(seed: u64) -> Self {
        Plan {
            seed,
            operations: 150,
            processes: 5,
            keys: 6,
            unknown_percent: 6,
            watches: 4,
            leases: true,
            compactions: true,
            rich: true,
        }
    }

    /// Puts, gets and compare-and-set only.
    pub fn registers(seed: u64, operations: usize, processes: u64, keys: u64) -> Self {
        Plan {
            operations,
            processes,
            keys,
            unknown_percent: 0,
            watches: 0,
            leases: false,
            compactions: false,
            rich: false,
            ..Plan::rich(seed)
        }
    }
}

/// A generated history.
#[derive(Clone, Debug, Default)]
pub struct Generated {
    /// What the clients saw.
    pub records: Vec<Record>,
    /// What happened.
    pub truth: GroundTruth,
    /// The last revision, delivered to every watch that is still open.
    pub revision: i64,
}

/// A small generator of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One that yields the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }
}

const SECOND: u64 = 1_000_000_000;
const NODES: u64 = 3;

struct Pending {
    operation: Operation,
    /// The answer, once applied.
    applied: Option<Result<Reply, String>>,
}

struct Lease {
    ttl: u64,
    ends: u64,
    /// Its end was proposed by somebody: a revoke is on its way.
    revoking: bool,
}

struct Viewer {
    stream: u64,
    watch: u64,
    request: WatchRequest,
    next: i64,
    created: bool,
}

struct Run {
    plan: Plan,
    random: Random,
    time: u64,
    store: Etcd,
    records: Vec<Record>,
    pending: BTreeMap<u64, Pending>,
    /// Operations whose answer was lost before they were applied.
    lost: Vec<Operation>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    next_value: u64,
    next_watch: u64,
    viewers: Vec<Viewer>,
}

/// Generates a history.
pub fn generate(plan: &Plan) -> Generated {
    let mut run = Run {
        random: Random::new(plan.seed),
        plan: plan.clone(),
        time: SECOND,
        store: Etcd::default(),
        records: Vec::new(),
        pending: BTreeMap::new(),
        lost: Vec::new(),
        leases: BTreeMap::new(),
        next_lease: 1,
        next_value: 0,
        next_watch: 0,
        viewers: Vec::new(),
    };
    run.all();
    let revision = run.store.revision();
    let timeline = run.store.timeline();
    let revisions = (2..=revision).map(|at| (at, timeline.at(at).to_vec())).collect();
    Generated { records: run.records, truth: GroundTruth { revisions }, revision }
}

impl Run {
    fn all(&mut self) {
        let mut left = self.plan.operations;
        while left > 0 || !self.pending.is_empty() {
            self.time += 1 + self.random.below(if self.plan.leases { SECOND / 10 } else { 1000 });
            let process = self.random.below(self.plan.processes);
            match self.pending.get(&process).map(|pending| pending.applied.is_some()) {
                None if left > 0 => {
                    left -= 1;
                    let operation = self.operation();
                    self.record(process, What::Invoke(operation.clone()));
                    self.pending.insert(process, Pending { operation, applied: None });
                }
                None => {}
                Some(false) if self.lose() => {
                    let pending = self.pending.remove(&process).expect("it is there");
                    self.lost.push(pending.operation);
                    self.record(process, What::Info("request timed out".into()));
                }
                Some(false) => {
                    let operation = self.pending[&process].operation.clone();
                    let applied = Some(self.apply(&operation));
                    self.pending.get_mut(&process).expect("it is there").applied = applied;
                }
                Some(true) => {
                    let pending = self.pending.remove(&process).expect("it is there");
                    let what = if self.lose() {
                        What::Info("connection lost".into())
                    } else {
                        match pending.applied.expect("it was applied") {
                            Ok(mut reply) => {
                                reply.header_mut().member = 1 + process % NODES;
                                reply.header_mut().term = 2;
                                What::Ok(reply)
                            }
                            Err(error) => What::Fail(error),
                        }
                    };
                    self.record(process, what);
                }
            }
            self.aside();
        }
        for at in 0..self.viewers.len() {
            self.deliver(at, i64::MAX);
        }
    }

    fn lose(&mut self) -> bool {
        self.random.percent(self.plan.unknown_percent)
    }

    fn record(&mut self, process: u64, what: What) {
        self.records.push(Record { time: self.time, process, node: 1 + process % NODES, what });
    }

    /// What happens besides: late operations, leases that run out, watches.
    fn aside(&mut self) {
        if !self.lost.is_empty() && self.random.percent(10) {
            let at = usize::try_from(self.random.below(self.lost.len() as u64)).expect("small");
            let operation = self.lost.swap_remove(at);
            if self.random.percent(60) {
                let _ = self.apply(&operation);
            }
        }
        let over: Vec<i64> =
            self.leases.iter().filter(|(_, lease)| lease.ends < self.time).map(|(id, _)| *id).collect();
        for id in over {
            if self.random.percent(30) {
                self.leases.remove(&id);
                self.store.end_lease(id);
            }
        }
        if self.next_watch < self.plan.watches && self.random.percent(5) {
            self.open_watch();
        }
        if !self.viewers.is_empty() && self.random.percent(30) {
            let at = usize::try_from(self.random.below(self.viewers.len() as u64)).expect("small");
            let most = 1 + i64::try_from(self.random.below(4)).expect("small");
            self.deliver(at, most);
        }
    }

    fn apply(&mut self, operation: &Operation) -> Result<Reply, String> {
        let stale = operation.serializable() && self.random.percent(50);
        let result = match operation {
            Operation::Range(range) if stale && range.revision == 0 => Ok(self.stale(range)),
            operation => self.store.step(operation),
        };
        let mut reply = result.map_err(|refusal| refusal.to_string())?;
        match (operation, &mut reply) {
            (Operation::LeaseGrant(_), Reply::LeaseGrant(reply)) => {
                let ttl = u64::try_from(reply.ttl).expect("positive") * SECOND;
                let lease = Lease { ttl, ends: self.time + ttl, revoking: false };
                self.leases.insert(reply.id, lease);
            }
            (Operation::LeaseRevoke(revoke), _) => {
                self.leases.remove(&revoke.id);
            }
            (Operation::LeaseKeepAlive(keep), _) => {
                if let Some(lease) = self.leases.get_mut(&keep.id) {
                    lease.ends = self.time + lease.ttl;
                }
            }
            (Operation::LeaseTimeToLive(ask), Reply::LeaseTimeToLive(reply)) => {
                if let Some(lease) = self.leases.get(&ask.id) {
                    let left = lease.ends.saturating_sub(self.time) / SECOND;
                    reply.ttl = i64::try_from(left).expect("small");
                }
            }
            _ => {}
        }
        Ok(reply)
    }

    /// A serializable read by a member that is behind.
    fn stale(&mut self, range: &Range) -> Reply {
        let now = self.store.revision();
        let behind = i64::try_from(self.random.below(4)).expect("small");
        let at = (now - behind).max(self.store.compacted()).max(1);
        let past = Range { revision: if at == now { 0 } else { at }, ..range.clone() };
        let mut reply = self.store.step(&Operation::Range(past)).expect("at is readable");
        reply.header_mut().revision = at;
        reply
    }

    fn key(&mut self) -> Blob {
        Blob::from(format!("k{}", self.random.below(self.plan.keys)))
    }

    fn range(&mut self) -> (Blob, Blob) {
        match self.random.below(5) {
            0 => (Blob::new(b"\0"), Blob::new(OPEN_END)),
            1 => (self.key(), Blob::new(OPEN_END)),
            2 => (self.key(), self.key()),
            _ => (self.key(), Blob::default()),
        }
    }

    fn value(&mut self) -> Blob {
        self.next_value += 1;
        Blob::from(format!("v{}", self.next_value))
    }

    fn some_lease(&mut self) -> Option<i64> {
        let known: Vec<i64> = self.leases.keys().copied().collect();
        let n = u64::try_from(known.len()).expect("few");
        (n > 0).then(|| known[usize::try_from(self.random.below(n)).expect("small")])
    }

    fn operation(&mut self) -> Operation {
        if !self.plan.rich {
            return match self.random.below(10) {
                0..4 => Operation::Put(Put {
                    key: self.key(),
                    value: self.value(),
                    ..Put::default()
                }),
                4..8 => Operation::Range(Range { key: self.key(), ..Range::default() }),
                _ => self.compare_and_set(),
            };
        }
        match self.random.below(100) {
            0..25 => Operation::Put(self.put()),
            25..50 => Operation::Range(self.range_read()),
            50..58 => Operation::DeleteRange(self.delete()),
            58..64 => self.compare_and_set(),
            64..84 => Operation::Txn(self.txn(1)),
            84..87 if self.plan.compactions => {
                let back = i64::try_from(self.random.below(20)).expect("small");
                let revision = self.store.revision() - back;
                Operation::Compact(Compact { revision, physical: false })
            }
            87..90 if self.plan.leases => {
                self.next_lease += 1;
                let ttl = 1 + i64::try_from(self.random.below(5)).expect("small");
                Operation::LeaseGrant(LeaseGrant { id: self.next_lease, ttl })
            }
            90..100 if self.plan.leases => self.lease_operation(),
            _ => Operation::Put(self.put()),
        }
    }

    fn lease_operation(&mut self) -> Operation {
        let Some(id) = self.some_lease() else { return Operation::Put(self.put()) };
        match self.random.below(10) {
            0..3 => {
                self.leases.get_mut(&id).expect("it is known").revoking = true;
                Operation::LeaseRevoke(LeaseRevoke { id })
            }
            3..6 => Operation::LeaseTimeToLive(LeaseTimeToLive { id, keys: true }),
            _ => Operation::LeaseKeepAlive(LeaseKeepAlive { id }),
        }
    }

    fn put(&mut self) -> Put {
        let mut put = Put {
            key: self.key(),
            value: self.value(),
            prev_kv: self.random.percent(30),
            ..Put::default()
        };
        match self.random.below(10) {
            0 => {
                put.ignore_value = true;
                put.value = Blob::default();
            }
            1 => put.ignore_lease = true,
            2..4 => put.lease = self.some_lease().unwrap_or(0),
            _ => {}
        }
        put
    }

    fn delete(&mut self) -> DeleteRange {
        let (key, range_end) = self.range();
        DeleteRange { key, range_end, prev_kv: self.random.percent(50) }
    }

    fn range_read(&mut self) -> Range {
        let (key, range_end) = self.range();
        let mut range = Range { key, range_end, ..Range::default() };
        range.serializable = self.random.percent(25);
        let revision = self.store.revision();
        match self.random.below(12) {
            0 => range.limit = 2,
            1 => range.count_only = true,
            2 => range.keys_only = true,
            3 => range.sort_order = SortOrder::Descend,
            4 => {
                range.sort_target = SortTarget::Version;
                range.limit = 3;
            }
            5 => {
                range.sort_target = SortTarget::Value;
                range.sort_order = SortOrder::Ascend;
                range.keys_only = self.random.percent(30);
            }
            6 => range.min_mod_revision = revision / 2,
            7 => {
                range.max_create_revision = revision;
                range.limit = 1;
            }
            8..10 => range.revision = (revision - 2).max(1),
            _ => {}
        }
        range
    }

    fn compare(&mut self) -> Compare {
        let (key, range_end) = self.range();
        let current = self.store.get(&key).cloned().unwrap_or_default();
        let target = match self.random.below(5) {
            0 => Target::Version(current.version),
            1 => Target::Create(current.create_revision),
            2 => Target::Mod(current.mod_revision),
            3 => Target::Value(current.value),
            _ => Target::Lease(current.lease),
        };
        let result = match self.random.below(6) {
            0 => CompareResult::Greater,
            1 => CompareResult::Less,
            2 => CompareResult::NotEqual,
            _ => CompareResult::Equal,
        };
        Compare { key, range_end, result, target }
    }

    fn compare_and_set(&mut self) -> Operation {
        let (key, to) = (self.key(), self.value());
        let from = self.store.get(&key).map_or(Blob::from("none"), |kv| kv.value.clone());
        Operation::Txn(Txn {
            compare: vec![Compare {
                key: key.clone(),
                range_end: Blob::default(),
                result: CompareResult::Equal,
                target: Target::Value(from),
            }],
            success: vec![Operation::Put(Put { key, value: to, ..Put::default() })],
            failure: Vec::new(),
        })
    }

    fn txn(&mut self, depth: u64) -> Txn {
        let compare = (0..self.random.below(3)).map(|_| self.compare()).collect();
        let (success, failure) = (self.branch(depth), self.branch(depth));
        Txn { compare, success, failure }
    }

    fn branch(&mut self, depth: u64) -> Vec<Operation> {
        (0..self.random.below(4))
            .map(|_| match self.random.below(10) {
                0..5 => Operation::Put(self.put()),
                5..8 => {
                    let mut range = self.range_read();
                    range.revision = 0;
                    Operation::Range(range)
                }
                8 if depth > 0 => Operation::Txn(self.txn(depth - 1)),
                _ => Operation::DeleteRange(self.delete()),
            })
            .collect()
    }

    fn watch_record(&mut self, record: WatchRecord) {
        self.record(self.plan.processes, What::Watch(record));
    }

    fn open_watch(&mut self) {
        self.next_watch += 1;
        let watch = self.next_watch;
        // Every other watch shares its stream with the one before.
        let stream = watch.div_ceil(2);
        let (key, range_end) = match self.random.below(3) {
            0 => (self.key(), Blob::default()),
            _ => (Blob::new(b"\0"), Blob::new(OPEN_END)),
        };
        let now = self.store.revision();
        let request = WatchRequest {
            key,
            range_end,
            start_revision: match self.random.below(3) {
                0 => 0,
                1 => (now - 5).max(1),
                _ => now + 2,
            },
            prev_kv: self.random.percent(50),
            no_put: self.random.percent(15),
            no_delete: self.random.percent(15),
            progress_notify: true,
            fragment: self.random.percent(30),
        };
        self.watch_record(WatchRecord::Create { stream, watch, request: request.clone() });
        let next = request.start_revision;
        self.viewers.push(Viewer { stream, watch, request, next, created: false });
    }

    /// Lets one watch move on by at most `most` revisions.
    fn deliver(&mut self, at: usize, most: i64) {
        let now = self.store.revision();
        let Viewer { stream, watch, request, next, created } = &mut self.viewers[at];
        let (stream, watch, request) = (*stream, *watch, request.clone());
        let header = |revision| Header { revision, member: 1, term: 2 };
        if !*created {
            *created = true;
            *next = if *next == 0 { now + 1 } else { *next };
            self.watch_record(WatchRecord::Created { watch, header: header(now) });
            return;
        }
        let from = *next;
        if from < self.store.compacted() {
            self.viewers.swap_remove(at);
            let compact_revision = self.store.compacted();
            self.watch_record(WatchRecord::Canceled {
                watch,
                header: header(0),
                compact_revision,
                reason: String::new(),
            });
            return;
        }
        let to = now.min(from.saturating_add(most - 1));
        let mut events: Vec<Event> = Vec::new();
        for revision in from..=to {
            for change in self.store.timeline().at(revision) {
                let wanted = match change.kind {
                    EventKind::Put => !request.no_put,
                    EventKind::Delete => !request.no_delete,
                };
                if wanted && in_range(&change.kv.key, &request.key, &request.range_end) {
                    let before = self.store.timeline().get(&change.kv.key, revision - 1);
                    let known = request.prev_kv && revision > self.store.compacted();
                    let prev_kv = before.filter(|_| known).cloned();
                    events.push(Event { kind: change.kind, kv: change.kv.clone(), prev_kv });
                }
            }
        }
        self.viewers[at].next = from.max(to + 1);
        if !events.is_empty() {
            if request.fragment && events.len() > 1 {
                let rest = events.split_off(events.len() / 2);
                self.watch_record(WatchRecord::Events {
                    watch,
                    header: header(now),
                    fragment: true,
                    events,
                });
                events = rest;
            }
            self.watch_record(WatchRecord::Events {
                watch,
                header: header(now),
                fragment: false,
                events,
            });
        }
        if to == now && to >= from && self.random.percent(30) {
            self.watch_record(WatchRecord::Progress {
                stream,
                watch: Some(watch),
                header: header(now),
            });
        }
    }
}
