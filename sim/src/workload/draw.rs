//! What a client does next.
//!
//! Keys come from a small space, so that clients meet; each value is unique, so that a checker can tell
//! who wrote it. Lease ids are chosen here and never used twice.

use checker::blob::Blob;
use checker::op::{
    Compact, Compare, CompareResult, DeleteRange, LeaseGrant, LeaseKeepAlive, LeaseRevoke,
    LeaseTimeToLive, Operation, Put, Range, SortOrder, SortTarget, Target, Txn,
};

use std::time::Duration;

use crate::plan::{Kind, Load};
use crate::rng::Rng;

/// A client's imagination.
pub struct Draw {
    rng: Rng,
    load: Load,
    client: u64,
    next: u64,
    /// Leases that this client granted and has no reason to think gone.
    leases: Vec<i64>,
    /// When their time is over at the latest, as far as this client knows.
    ends: std::collections::BTreeMap<i64, Duration>,
    /// The newest revision seen.
    pub revision: i64,
    /// The modification revisions of keys as last seen.
    seen: std::collections::BTreeMap<Blob, i64>,
}

impl Draw {
    /// Starts a client's.
    pub fn new(rng: Rng, load: Load, client: u64) -> Self {
        Self {
            rng,
            load,
            client,
            next: 0,
            leases: Vec::new(),
            ends: std::collections::BTreeMap::new(),
            revision: 1,
            seen: std::collections::BTreeMap::new(),
        }
    }

    /// Returns the generator.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Remembers what a reply said of keys.
    pub fn saw(&mut self, reply: &checker::op::Reply) {
        self.revision = self.revision.max(reply.header().revision);
        reply.each_kv(&mut |kv| {
            self.seen.insert(kv.key.clone(), kv.mod_revision);
        });
    }

    /// Remembers that a lease was granted.
    pub fn granted(&mut self, id: i64) {
        self.leases.push(id);
    }

    /// Remembers that a lease has so many seconds from now.
    pub fn lives(&mut self, id: i64, now: Duration, ttl: i64) {
        self.ends.insert(id, now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0)));
    }

    /// Returns how long to wait for the moment at which a lease ends, a little before or after: a renewal and
    /// the end meet only then. `None` if it is not this client's wish, or too far off.
    pub fn wait_for_end(&mut self, id: i64, now: Duration) -> Option<Duration> {
        let end = *self.ends.get(&id)?;
        let jitter = Duration::from_millis(self.rng.below(250));
        let wait = (end + jitter).checked_sub(now + Duration::from_millis(50))?;
        (self.rng.below(6) == 0 && wait < Duration::from_secs(2)).then_some(wait)
    }

    /// Returns what is left of a lull, if there is one at this time of the run.
    pub fn lull(&self, now: Duration) -> Option<Duration> {
        let (every, length) = self.load.lull;
        let millis = u64::try_from(now.as_millis()).unwrap_or(0).checked_rem(every)?;
        // The first moments of a run are never one.
        let into = millis.checked_sub(every - length)?;
        Some(Duration::from_millis(length - into))
    }

    /// Draws the deletion of one key, if this client deletes and compacts at all, and wants to now.
    pub fn last_delete(&mut self) -> Option<Operation> {
        let does = |kind: Kind| self.load.mix.iter().any(|(other, _)| *other == kind);
        if !does(Kind::Delete) || !does(Kind::Compact) || self.rng.below(3) > 0 {
            return None;
        }
        let key = self.key();
        let range_end = Blob::default();
        Some(Operation::DeleteRange(DeleteRange { key, range_end, prev_kv: false }))
    }

    /// Compacts at the newest revision seen.
    pub fn compact_here(&mut self) -> Operation {
        let physical = self.rng.below(2) == 0;
        Operation::Compact(Compact { revision: self.revision, physical })
    }

    /// Forgets a lease that is gone.
    pub fn gone(&mut self, id: i64) {
        self.leases.retain(|other| *other != id);
        self.ends.remove(&id);
    }

    /// Draws a kind and then an operation of it.
    pub fn operation(&mut self) -> Operation {
        let total: u64 = self.load.mix.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(total);
        let mut kind = Kind::Put;
        for (candidate, weight) in &self.load.mix {
            if at < *weight {
                kind = *candidate;
                break;
            }
            at -= weight;
        }
        self.of_kind(kind)
    }

    fn of_kind(&mut self, kind: Kind) -> Operation {
        match kind {
            Kind::Put => Operation::Put(self.put()),
            Kind::Get => Operation::Range(self.range()),
            Kind::SerializableGet => Operation::Range(Range { serializable: true, ..self.range() }),
            Kind::HistoricalGet => {
                let back = i64::try_from(self.rng.below(50)).unwrap_or(0);
                let revision = (self.revision - back).max(1);
                let serializable = self.rng.below(2) == 0;
                Operation::Range(Range { revision, serializable, ..self.range() })
            }
            Kind::Delete => {
                let (key, range_end) = self.span();
                let prev_kv = self.rng.below(2) == 0;
                Operation::DeleteRange(DeleteRange { key, range_end, prev_kv })
            }
            Kind::CompareAndSet => self.compare_and_set(),
            Kind::Txn => Operation::Txn(self.txn(1)),
            Kind::ReadTxn => {
                let serializable = self.rng.below(2) == 0;
                let reads = (0..self.rng.between(1, 4))
                    .map(|_| Operation::Range(Range { serializable, ..self.range() }))
                    .collect();
                Operation::Txn(Txn { success: reads, ..Txn::default() })
            }
            Kind::Lease => {
                self.next += 1;
                let id = i64::try_from((self.client + 1) << 32 | self.next).unwrap_or(1);
                // Any number but 0 is an id, negative ones too, and must be kept like the others (etcd#14239).
                let id = if self.rng.below(8) == 0 { -id } else { id };
                let (low, high) = self.load.ttl;
                let ttl = low
                    + i64::try_from(self.rng.below(u64::try_from(high - low + 1).unwrap_or(1)))
                        .unwrap_or(0);
                Operation::LeaseGrant(LeaseGrant { id, ttl })
            }
            Kind::KeepAlive => match self.lease() {
                Some(id) => Operation::LeaseKeepAlive(LeaseKeepAlive { id }),
                None => self.of_kind(Kind::Lease),
            },
            Kind::Revoke => match self.lease() {
                Some(id) => {
                    self.leases.retain(|other| *other != id);
                    Operation::LeaseRevoke(LeaseRevoke { id })
                }
                None => self.of_kind(Kind::Lease),
            },
            Kind::TimeToLive => match self.lease() {
                Some(id) => {
                    let keys = self.rng.below(2) == 0;
                    Operation::LeaseTimeToLive(LeaseTimeToLive { id, keys })
                }
                None => self.of_kind(Kind::Lease),
            },
            Kind::Compact => {
                // Rarely, or nothing old would ever be read.
                if self.rng.below(4) > 0 {
                    return self.of_kind(Kind::HistoricalGet);
                }
                // Often at the very newest revision known: nothing else shows what becomes of its rows.
                let most = if self.rng.below(3) == 0 { 1 } else { 60 };
                let back = i64::try_from(self.rng.below(most)).unwrap_or(0);
                let physical = self.rng.below(4) == 0;
                Operation::Compact(Compact { revision: (self.revision - back).max(1), physical })
            }
        }
    }

    fn key(&mut self) -> Blob {
        let n = self.rng.below(self.load.keys);
        // A few keys are longer than LMDB's limit.
        let padding = if n % 13 == 12 { 600 } else { 0 };
        Blob::from(format!("k{n:02}{}", "x".repeat(padding)))
    }

    fn value(&mut self) -> Blob {
        self.next += 1;
        let mut value = format!("c{}-{}", self.client, self.next);
        let length = usize::try_from(self.rng.below(self.load.value_max)).unwrap_or(0);
        while value.len() < length {
            value.push('.');
        }
        Blob::from(value)
    }

    fn lease(&mut self) -> Option<i64> {
        if self.leases.is_empty() {
            return None;
        }
        // The newest ones, as a rule: the others have long ended.
        let some = if self.rng.below(4) == 0 { self.leases.len() } else { 3 };
        let newest = self.leases.len().saturating_sub(some);
        Some(*self.rng.pick(&self.leases[newest..]))
    }

    /// A key, or sometimes a range.
    fn span(&mut self) -> (Blob, Blob) {
        let key = self.key();
        let end = match self.rng.below(8) {
            0 => Blob::from("l"),
            1 => self.key(),
            2 => Blob::new(b"\0"),
            _ => Blob::default(),
        };
        (key, end)
    }

    fn put(&mut self) -> Put {
        let (key, value) = (self.key(), self.value());
        let mut put = Put { key, value, prev_kv: self.rng.below(3) == 0, ..Put::default() };
        match self.rng.below(6) {
            0 => put.lease = self.lease().unwrap_or(0),
            1 if self.rng.below(3) == 0 => {
                put.ignore_value = true;
                put.value = Blob::default();
            }
            2 if self.rng.below(3) == 0 => put.ignore_lease = true,
            _ => {}
        }
        put
    }

    fn range(&mut self) -> Range {
        let (key, range_end) = self.span();
        let mut range = Range { key, range_end, ..Range::default() };
        match self.rng.below(10) {
            0 => range.limit = i64::try_from(self.rng.between(1, 5)).unwrap_or(1),
            1 => range.keys_only = true,
            2 => range.count_only = true,
            3 => {
                range.sort_order = *self.rng.pick(&[SortOrder::Descend, SortOrder::Ascend]);
                if self.rng.below(4) == 0 {
                    range.limit = i64::try_from(self.rng.between(1, 5)).unwrap_or(1);
                }
                range.sort_target = *self.rng.pick(&[
                    SortTarget::Key,
                    SortTarget::Version,
                    SortTarget::Create,
                    SortTarget::Mod,
                    SortTarget::Value,
                ]);
            }
            4 => self.filter(&mut range),
            _ => {}
        }
        range
    }

    /// Bounds of the revisions of what is wanted.
    fn filter(&mut self, range: &mut Range) {
        let back = i64::try_from(self.rng.below(40)).unwrap_or(0);
        let bound = (self.revision - back).max(1);
        match self.rng.below(5) {
            0 => range.max_mod_revision = bound,
            1 => range.min_create_revision = bound,
            2 => range.max_create_revision = bound,
            _ => range.min_mod_revision = bound,
        }
    }

    fn compare(&mut self) -> Compare {
        // Of a range every key has to fit.
        let (key, range_end) =
            if self.rng.below(6) == 0 { self.span() } else { (self.key(), Blob::default()) };
        let known = self.seen.get(&key).copied();
        let target = match self.rng.below(6) {
            0 => Target::Version(i64::try_from(self.rng.below(4)).unwrap_or(0)),
            1 => Target::Create(0),
            2 => Target::Value(Blob::from("c")),
            3 => Target::Lease(self.lease().filter(|_| self.rng.below(2) == 0).unwrap_or(0)),
            _ => Target::Mod(known.unwrap_or(0)),
        };
        let results = [
            CompareResult::Equal,
            CompareResult::Equal,
            CompareResult::NotEqual,
            CompareResult::Greater,
            CompareResult::Less,
        ];
        Compare { key, range_end, result: *self.rng.pick(&results), target }
    }

    fn compare_and_set(&mut self) -> Operation {
        let key = self.key();
        let known = self.seen.get(&key).copied().unwrap_or(0);
        let put = Put { key: key.clone(), value: self.value(), ..Put::default() };
        let get = Range { key: key.clone(), ..Range::default() };
        Operation::Txn(Txn {
            compare: vec![Compare {
                key,
                range_end: Blob::default(),
                result: CompareResult::Equal,
                target: Target::Mod(known),
            }],
            success: vec![Operation::Put(put)],
            failure: vec![Operation::Range(get)],
        })
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let compare = (0..self.rng.below(3)).map(|_| self.compare()).collect();
        let success = self.branch(depth);
        let failure = self.branch(depth);
        Txn { compare, success, failure }
    }

    /// Operations of a transaction; no key is written twice, which would be refused.
    fn branch(&mut self, depth: u32) -> Vec<Operation> {
        let mut written: Vec<Blob> = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..self.rng.below(4) {
            match self.rng.below(5) {
                0 => ops.push(Operation::Range(self.range())),
                1 if depth > 0 && ops.is_empty() => {
                    // Nested and alone: what it writes can meet nothing else here.
                    return vec![Operation::Txn(self.txn(depth - 1))];
                }
                2 => {
                    let key = self.key();
                    if !written.contains(&key) {
                        written.push(key.clone());
                        let range_end = Blob::default();
                        ops.push(Operation::DeleteRange(DeleteRange {
                            key,
                            range_end,
                            prev_kv: true,
                        }));
                    }
                }
                _ => {
                    let put = self.put();
                    if !written.contains(&put.key) {
                        written.push(put.key.clone());
                        ops.push(Operation::Put(put));
                    }
                }
            }
        }
        ops
    }
}
