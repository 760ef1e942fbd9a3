//! What replies say about a key's future, for guessing who made a gap's revision.
//!
//! Replies are rich: a key shown with mod revision m by a read at r did not change in (m, r]; and its
//! version counts the writes since its create revision, so between two sights of one generation the
//! number of hidden writes is known. A candidate that such a sight contradicts need not be tried, and one
//! without which a sight can't be explained is tried first. All of it only steers the search in
//! linear.rs; the replay itself has the last word.
//!
//! The final states are sights as well, the last ones.
//!
//! Only keys that an operation of unknown outcome or the end of a lease may change are followed.

use crate::blob::Blob;
use crate::explain::{Unknown, puts};
use crate::model::Etcd;
use crate::op::*;
use crate::ops::Ops;
use crate::verdict::FinalState;
use std::collections::{BTreeMap, BTreeSet};

/// How a change suits what is shown later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fitness {
    /// Something shown later can't be unless this happens here or soon.
    Needed,
    /// Nothing speaks for it or against it.
    Neutral,
    /// It would need another unknown operation to undo it.
    Unlikely,
    /// In the present state of the replay it can't be.
    Impossible,
}

/// The state of a key after some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sight {
    /// The last revision at which the key is known to be so.
    to: i64,
    /// The revision that made it so; for an absent key that is unknown, and `to` stands here.
    from: i64,
    /// Create revision and version; none if absent.
    life: Option<(i64, i64)>,
}

#[derive(Default)]
struct Fate {
    /// Ascending.
    sights: Vec<Sight>,
    /// (last, first) of stretches without a change, beyond those of the sights; ascending.
    quiet: Vec<(i64, i64)>,
    /// Revisions of acknowledged puts and deletes, ascending.
    puts: Vec<i64>,
    deletes: Vec<i64>,
}

/// What is known of the future of the keys followed.
#[derive(Default)]
pub(crate) struct Outlook<'h> {
    singles: BTreeSet<&'h Blob>,
    ranges: BTreeSet<(&'h Blob, &'h [u8])>,
    fates: BTreeMap<&'h Blob, Fate>,
    /// Where the acknowledged put of a value to a key stands.
    values: BTreeMap<(&'h Blob, &'h Blob), i64>,
    /// Values that several puts may give to a key, and keys whose value a put may keep: since when such
    /// a value has stood cannot be told from it.
    repeated: BTreeSet<(&'h Blob, &'h Blob)>,
    kept: BTreeSet<&'h Blob>,
    /// Values that a compare found, and the last revision at which one did.
    compared: BTreeMap<(&'h Blob, &'h Blob), i64>,
}

impl<'h> Outlook<'h> {
    /// Collects everything shown of the keys that `unknown` operations touch, and of the `leased` ones.
    pub fn new(
        ops: &Ops<'h>,
        unknown: &[Unknown],
        leased: &BTreeSet<&'h Blob>,
        states: &'h [FinalState],
    ) -> Self {
        let mut outlook = Outlook { singles: leased.clone(), ..Outlook::default() };
        for candidate in unknown {
            ops.all[candidate.op].operation.touches(&mut |start, end| {
                if end.is_empty() {
                    outlook.singles.insert(start);
                } else {
                    outlook.ranges.insert((start, end));
                }
            });
        }
        let mut written = BTreeSet::new();
        for op in &ops.all {
            puts(op.operation, &mut |put| {
                if put.ignore_value {
                    outlook.kept.insert(&put.key);
                } else if outlook.follows(&put.key) && !written.insert((&put.key, &put.value)) {
                    outlook.repeated.insert((&put.key, &put.value));
                }
            });
        }
        let answers = || ops.all.iter().filter_map(|op| Some((op.operation, op.reply()?)));
        for (operation, reply) in answers() {
            outlook.writes(operation, reply, reply.header().revision);
        }
        for (operation, reply) in answers() {
            outlook.reply(operation, reply);
        }
        for state in states {
            outlook.end(state);
        }
        for fate in outlook.fates.values_mut() {
            fate.sights.sort_unstable();
            fate.quiet.sort_unstable();
            fate.puts.sort_unstable();
            fate.deletes.sort_unstable();
        }
        outlook
    }

    fn follows(&self, key: &Blob) -> bool {
        self.singles.contains(key)
            || self.ranges.iter().any(|(start, end)| in_range(key, start, end))
    }

    /// Notes what an acknowledged operation wrote.
    fn writes(&mut self, operation: &'h Operation, reply: &'h Reply, revision: i64) {
        match (operation, reply) {
            (Operation::Put(put), Reply::Put(_)) if self.follows(&put.key) => {
                self.fates.entry(&put.key).or_default().puts.push(revision);
                self.values.insert((&put.key, &put.value), revision);
            }
            (Operation::DeleteRange(delete), Reply::DeleteRange(reply)) if reply.deleted > 0 => {
                if delete.range_end.is_empty() {
                    if self.follows(&delete.key) {
                        self.fates.entry(&delete.key).or_default().deletes.push(revision);
                    }
                } else {
                    for key in self.singles.iter().copied() {
                        if in_range(key, &delete.key, &delete.range_end) {
                            self.fates.entry(key).or_default().deletes.push(revision);
                        }
                    }
                }
            }
            (Operation::Txn(txn), Reply::Txn(reply)) => {
                let branch = if reply.succeeded { &txn.success } else { &txn.failure };
                for (operation, reply) in branch.iter().zip(&reply.responses) {
                    self.writes(operation, reply, revision);
                }
            }
            _ => {}
        }
    }

    fn reply(&mut self, operation: &'h Operation, reply: &'h Reply) {
        let revision = reply.header().revision;
        match (operation, reply) {
            (Operation::Range(range), Reply::Range(found)) => {
                let at = if range.revision > 0 { range.revision } else { revision };
                found.kvs.iter().for_each(|kv| self.sight(kv, at));
                if found.count == 0 && range.range_end.is_empty() && self.follows(&range.key) {
                    let sight = Sight { to: at, from: at, life: None };
                    self.fates.entry(&range.key).or_default().sights.push(sight);
                }
            }
            (Operation::Txn(txn), Reply::Txn(found)) => {
                if found.succeeded {
                    let before = if reply.changed() { revision - 1 } else { revision };
                    txn.compare.iter().for_each(|compare| self.compared(compare, before));
                }
                // What a txn's reads show may be its own work: true from then on, for no longer.
                reply.each_kv(&mut |kv| self.sight(kv, kv.mod_revision));
            }
            _ => reply.each_kv(&mut |kv| self.sight(kv, revision - 1)),
        }
    }

    /// Notes how a member's keys stood at the end.
    fn end(&mut self, state: &'h FinalState) {
        let Some(kvs) = &state.kvs else { return };
        let present: BTreeSet<&Blob> = kvs.iter().map(|kv| &kv.key).collect();
        kvs.iter().for_each(|kv| self.sight(kv, state.revision));
        for key in self.singles.iter().copied().filter(|key| !present.contains(*key)) {
            let sight = Sight { to: state.revision, from: state.revision, life: None };
            self.fates.entry(key).or_default().sights.push(sight);
        }
    }

    fn sight(&mut self, kv: &'h KeyValue, to: i64) {
        if self.follows(&kv.key) {
            let life = Some((kv.create_revision, kv.version));
            let sight = Sight { to: to.max(kv.mod_revision), from: kv.mod_revision, life };
            self.fates.entry(&kv.key).or_default().sights.push(sight);
        }
    }

    /// A compare that held at `at` says since when the key has not changed.
    fn compared(&mut self, compare: &'h Compare, at: i64) {
        if !compare.range_end.is_empty() || compare.result != CompareResult::Equal {
            return;
        }
        if let Target::Value(value) = &compare.target {
            let last = self.compared.entry((&compare.key, value)).or_insert(at);
            *last = at.max(*last);
        }
        let since = match &compare.target {
            Target::Mod(revision) => Some(*revision),
            Target::Value(value) => {
                let only = (&compare.key, value);
                let unique = !self.kept.contains(only.0) && !self.repeated.contains(&only);
                self.values.get(&only).copied().filter(|_| unique)
            }
            _ => None,
        };
        if let Some(since) = since.filter(|since| *since > 0 && *since <= at)
            && self.follows(&compare.key)
        {
            self.fates.entry(&compare.key).or_default().quiet.push((at, since));
        }
    }

    /// How a put at `revision` suits the future, the store being at the revision before.
    pub fn fitness_of_put(&self, store: &Etcd, revision: i64, key: &Blob, value: &Blob) -> Fitness {
        let fitness = self.fitness(store, revision, EventKind::Put, key);
        let found = self.compared.get(&(key, value)).is_some_and(|last| *last >= revision);
        if found && fitness != Fitness::Impossible { Fitness::Needed } else { fitness }
    }

    fn fitness(&self, store: &Etcd, revision: i64, kind: EventKind, key: &Blob) -> Fitness {
        let Some(fate) = self.fates.get(key) else { return Fitness::Neutral };
        let quiet = fate.quiet.partition_point(|(to, _)| *to < revision);
        if fate.quiet.get(quiet).is_some_and(|(_, from)| *from < revision) {
            return Fitness::Impossible;
        }
        let next = fate.sights.partition_point(|sight| sight.to < revision);
        let Some(sight) = fate.sights.get(next) else { return Fitness::Neutral };
        if sight.life.is_some() && sight.from < revision {
            return Fitness::Impossible;
        }
        let between = |list: &[i64], from: i64, to: i64| {
            let count = |at: i64| list.partition_point(|other| *other <= at);
            i64::try_from(count(to) - count(from)).expect("few")
        };
        let now = store.timeline().get(key, revision - 1);
        match (kind, sight.life, now) {
            (EventKind::Put, Some((create, version)), Some(now))
                if create == now.create_revision =>
            {
                // If the sight's own revision is a gap, then one hidden write is already placed there.
                let placed = sight.from > revision && fate.puts.binary_search(&sight.from).is_err();
                let acknowledged =
                    between(&fate.puts, revision - 1, sight.from) + i64::from(placed);
                match version - now.version - acknowledged {
                    ..=0 => Fitness::Impossible,
                    _ => Fitness::Needed,
                }
            }
            (EventKind::Put, Some((create, _)), None) if create == revision => Fitness::Needed,
            (EventKind::Put, Some((create, _)), _) if create > revision => {
                match between(&fate.deletes, revision, create) {
                    0 => Fitness::Unlikely,
                    _ => Fitness::Neutral,
                }
            }
            (EventKind::Put, None, _) => match between(&fate.deletes, revision, sight.to) {
                0 => Fitness::Unlikely,
                _ => Fitness::Neutral,
            },
            (EventKind::Delete, Some((create, _)), _) if create < revision => Fitness::Impossible,
            (EventKind::Delete, life, Some(_)) => {
                let end = life.map_or(sight.to, |(create, _)| create);
                match between(&fate.deletes, revision, end) {
                    0 => Fitness::Needed,
                    _ => Fitness::Neutral,
                }
            }
            _ => Fitness::Neutral,
        }
    }

    /// How all changes of the store's latest revision suit the future, the worst deciding.
    pub fn fitness_of_latest(&self, store: &Etcd) -> Fitness {
        let revision = store.revision();
        let made = store.timeline().at(revision);
        let each = made.iter().map(|Change { kind, kv }| match kind {
            EventKind::Put => self.fitness_of_put(store, revision, &kv.key, &kv.value),
            EventKind::Delete => self.fitness(store, revision, EventKind::Delete, &kv.key),
        });
        let (best, worst) = each
            .fold((Fitness::Impossible, Fitness::Needed), |(best, worst), one| {
                (best.min(one), worst.max(one))
            });
        if worst >= Fitness::Unlikely { worst } else { best }
    }
}
