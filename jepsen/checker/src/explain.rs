//! Revisions that no acknowledged write claims, and who may have made them.
//!
//! Such a *gap* is the work of an operation whose outcome is unknown, of a revoked lease, or of a lease
//! that expired. The *candidates* of a gap are tried in an order that makes the first one nearly always
//! right; what was ever shown of the gap's revision (the *witness*) rules most of them out:
//! a read is a hard witness, a watch event a soft one, since the watch may be what is wrong.
//!
//! A wrong guess is found out when a later reply contradicts it; the replay then comes back (linear.rs).

use crate::blob::Blob;
use crate::history::{Record, WatchRecord, What};
use crate::model::Etcd;
use crate::op::*;
use crate::ops::{Op, Ops, Outcome};
use crate::timeline::Timeline;
use std::collections::{BTreeMap, BTreeSet};

/// A range of keys, as etcd means it.
pub(crate) type Keys = (Blob, Blob);

/// An operation that may have made a gap's revision.
pub(crate) struct Unknown {
    /// Its place among all operations.
    pub op: usize,
    floor: i64,
    /// It happened at or before this revision, if at all: an acknowledged revoke did.
    latest: i64,
    /// Gaps at which a value that only it writes was seen.
    sightings: BTreeSet<i64>,
}

/// Who made a gap's revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// An operation, by its place among the unknown ones.
    Op(usize),
    /// A lease that expired.
    Lease(i64),
}

/// What was shown of a gap's revision.
#[derive(Default)]
pub(crate) struct Witness<'h> {
    reads: Vec<&'h KeyValue>,
    events: Vec<(EventKind, &'h KeyValue)>,
}

/// How far the candidates of a gap have been tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    phase: usize,
    place: usize,
}

/// A phase asks for a kind of candidate and for how much of the witness it must explain.
struct Phase {
    kind: Kind,
    with_events: bool,
}

#[derive(PartialEq)]
enum Kind {
    /// Operations not seen elsewhere.
    Fresh,
    /// Leases that expire.
    Leases,
    /// Operations whose values were seen at other revisions.
    Seen,
}

const PHASES: [Phase; 6] = [
    Phase { kind: Kind::Fresh, with_events: true },
    Phase { kind: Kind::Leases, with_events: true },
    Phase { kind: Kind::Seen, with_events: true },
    Phase { kind: Kind::Fresh, with_events: false },
    Phase { kind: Kind::Leases, with_events: false },
    Phase { kind: Kind::Seen, with_events: false },
];

/// Everything known about the gaps of a history.
pub(crate) struct Gaps<'h> {
    /// Ascending by floor.
    pub unknown: Vec<Unknown>,
    pub used: Vec<bool>,
    witness: BTreeMap<i64, Witness<'h>>,
    /// Keys that ever were put with a lease.
    leased: BTreeSet<&'h Blob>,
}

impl<'h> Gaps<'h> {
    /// Collects candidates and witnesses. `is_gap` tells whether nobody claims a revision.
    pub fn new(records: &'h [Record], ops: &Ops<'h>, is_gap: impl Fn(i64) -> bool) -> Self {
        let mut unknown = Vec::new();
        let mut leased = BTreeSet::new();
        for (number, op) in ops.all.iter().enumerate() {
            if !matches!(op.outcome, Outcome::Fail(_)) {
                puts(op.operation, &mut |put| {
                    if put.lease != 0 {
                        leased.insert(&put.key);
                    }
                });
            }
            let latest = match (op.outcome, op.operation) {
                (Outcome::Unknown, operation) if operation.mutates() => i64::MAX,
                (Outcome::Ok(reply), Operation::LeaseRevoke(_)) => reply.header().revision,
                _ => continue,
            };
            unknown.push(Unknown {
                op: number,
                floor: op.floor,
                latest,
                sightings: BTreeSet::new(),
            });
        }
        unknown.sort_by_key(|candidate| candidate.floor);
        let mut gaps = Gaps { used: vec![false; unknown.len()], unknown, witness: BTreeMap::new(), leased };
        gaps.collect_witnesses(records, is_gap);
        gaps.collect_sightings(ops);
        gaps
    }

    fn collect_witnesses(&mut self, records: &'h [Record], is_gap: impl Fn(i64) -> bool) {
        let witness = &mut self.witness;
        for record in records {
            match &record.what {
                What::Ok(reply) => reply.each_kv(&mut |kv| {
                    if is_gap(kv.mod_revision) {
                        let seen = witness.entry(kv.mod_revision).or_default();
                        if !seen.reads.contains(&kv) {
                            seen.reads.push(kv);
                        }
                    }
                }),
                What::Watch(WatchRecord::Events { events, .. }) => {
                    for event in events {
                        if is_gap(event.kv.mod_revision) {
                            let seen = witness.entry(event.kv.mod_revision).or_default();
                            if !seen.events.contains(&(event.kind, &event.kv)) {
                                seen.events.push((event.kind, &event.kv));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn collect_sightings(&mut self, ops: &Ops<'h>) {
        let mut seen: BTreeMap<(&Blob, &Blob), BTreeSet<i64>> = BTreeMap::new();
        for (&revision, witness) in &self.witness {
            let events = witness.events.iter().filter(|(kind, _)| *kind == EventKind::Put);
            for kv in witness.reads.iter().copied().chain(events.map(|(_, kv)| *kv)) {
                seen.entry((&kv.key, &kv.value)).or_default().insert(revision);
            }
        }
        for candidate in &mut self.unknown {
            puts(ops.all[candidate.op].operation, &mut |put| {
                if let Some(revisions) = seen.get(&(&put.key, &put.value)) {
                    candidate.sightings.extend(revisions);
                }
            });
        }
    }

    /// Whether anything was ever shown of this revision.
    pub fn witnessed(&self, revision: i64) -> bool {
        self.witness.contains_key(&revision)
    }

    /// Applies the next candidate that can have made `revision`, and returns it with the cursor behind
    /// it. `truth` is what is known to have happened then, if anybody knows.
    pub fn next(
        &self,
        store: &mut Etcd,
        ops: &Ops<'h>,
        revision: i64,
        mut cursor: Cursor,
        truth: Option<&[Change]>,
        budget: &mut u64,
    ) -> Option<(Candidate, Cursor)> {
        let witness = self.witness.get(&revision);
        while let Some(phase) = PHASES.get(cursor.phase) {
            let soft = witness.is_some_and(|witness| !witness.events.is_empty());
            if phase.with_events || (soft && truth.is_none()) {
                for candidate in self.list(store, phase, revision, cursor.place) {
                    cursor.place += 1;
                    *budget = budget.saturating_sub(1);
                    let Some(candidate) = candidate else { continue };
                    if self.apply(store, ops, revision, candidate)
                        && fits(store, revision, witness, phase.with_events, truth)
                    {
                        return Some((candidate, cursor));
                    }
                    store.undo_to(revision - 1);
                }
            }
            cursor = Cursor { phase: cursor.phase + 1, place: 0 };
        }
        None
    }

    /// The candidates of a phase from a place on, latest invocation first. `None` keeps the place of one
    /// that cannot be: it is used, or its time does not fit.
    fn list<'a>(
        &'a self,
        store: &Etcd,
        phase: &Phase,
        revision: i64,
        place: usize,
    ) -> Box<dyn Iterator<Item = Option<Candidate>> + 'a> {
        if phase.kind == Kind::Leases {
            let leases: Vec<i64> = store.leases_with_keys().collect();
            return Box::new(leases.into_iter().skip(place).map(|id| Some(Candidate::Lease(id))));
        }
        let before = self.unknown.partition_point(|candidate| candidate.floor < revision);
        let fresh = phase.kind == Kind::Fresh;
        Box::new((0..before).rev().skip(place).map(move |number| {
            let candidate = &self.unknown[number];
            let here =
                candidate.sightings.is_empty() || candidate.sightings.contains(&revision);
            let fits = !self.used[number] && candidate.latest >= revision && here == fresh;
            fits.then_some(Candidate::Op(number))
        }))
    }

    /// Applies a candidate; false if it does not change anything here.
    pub fn apply(&self, store: &mut Etcd, ops: &Ops<'h>, revision: i64, who: Candidate) -> bool {
        match who {
            Candidate::Lease(id) => store.end_lease(id),
            Candidate::Op(number) => {
                let operation = ops.all[self.unknown[number].op].operation;
                store.step(operation).is_ok() && store.revision() == revision
            }
        }
    }

    /// The keys on which the candidates of a gap could act, used or not.
    pub fn candidate_keys(&self, ops: &Ops<'h>, revision: i64) -> BTreeSet<Keys> {
        let before = self.unknown.partition_point(|candidate| candidate.floor < revision);
        let mut keys = BTreeSet::new();
        for candidate in self.unknown[..before].iter().filter(|other| other.latest >= revision) {
            touched(ops.all[candidate.op].operation, &mut keys);
        }
        keys
    }

    /// The lowest gap whose explanation could matter to these keys.
    pub fn relevant_from(&self, ops: &Ops<'h>, keys: &BTreeSet<Keys>) -> i64 {
        let meets = |start: &Blob, end: &[u8]| {
            keys.iter().any(|(from, to)| ranges_meet((from, to), (start, end)))
        };
        if self.leased.iter().any(|key| meets(key, b"")) {
            return 0;
        }
        let mut from = i64::MAX;
        for candidate in &self.unknown {
            ops.all[candidate.op].operation.touches(&mut |start, end| {
                if candidate.floor < from && meets(start, end) {
                    from = candidate.floor + 1;
                }
            });
        }
        from
    }

    /// The name and the words for a revision that nobody can have made.
    pub fn unexplained(
        &self,
        store: &Etcd,
        ops: &Ops<'h>,
        revision: i64,
        truth: Option<&[Change]>,
    ) -> (&'static str, String, Vec<usize>) {
        let mut deleted: BTreeSet<&Blob> = BTreeSet::new();
        let mut written: Vec<&KeyValue> = Vec::new();
        let witness = self.witness.get(&revision);
        let shown = witness.into_iter().flat_map(|witness| {
            let reads = witness.reads.iter().map(|kv| (EventKind::Put, *kv));
            reads.chain(witness.events.iter().copied())
        });
        let known = truth.into_iter().flatten().map(|change| (change.kind, &change.kv));
        for (kind, kv) in shown.chain(known) {
            match kind {
                EventKind::Put => written.push(kv),
                EventKind::Delete => {
                    deleted.insert(&kv.key);
                }
            }
        }
        for kv in &written {
            let again = ops.all.iter().find(|op| {
                let mut same = false;
                puts(op.operation, &mut |put| same |= put.key == kv.key && put.value == kv.value);
                same && !matches!(op.outcome, Outcome::Fail(_)) && op.floor < revision
            });
            if let Some(op) = again {
                let message = format!(
                    "r{revision} writes {}={:?} again, which only this operation wrote and which is \
                     accounted for at another revision",
                    kv.key, kv.value
                );
                return ("duplicate-apply", message, op.evidence());
            }
        }
        if let Some(lease) = lease_torn(store, revision, &deleted) {
            let message = format!("lease {lease} lost its keys in more than one revision, r{revision} among them");
            return ("lease-atomic", message, Vec::new());
        }
        let evidence = ops.first_seen(revision).map(|seen| vec![seen.record]).unwrap_or_default();
        let message = format!(
            "no operation can have made r{revision}: no acknowledged write claims it and no unknown \
             one fits what was shown of it ({} puts, {} deletes)",
            written.len(),
            deleted.len()
        );
        ("gap", message, evidence)
    }
}

/// Finds the lease of which this revision removed only some keys, or some later than the others.
fn lease_torn(store: &Etcd, revision: i64, deleted: &BTreeSet<&Blob>) -> Option<i64> {
    let timeline: &Timeline = store.timeline();
    deleted.iter().find_map(|key| {
        let lease_before = |at: i64| timeline.get(key, at - 1).map_or(0, |kv| kv.lease);
        let lease = match store.get(key) {
            Some(kv) => kv.lease,
            // Already gone in the model: did it go with a lease?
            None => lease_before(timeline.last_change(key, revision)?.kv.mod_revision),
        };
        (lease != 0).then_some(lease)
    })
}

/// Whether what the store just did at `revision` agrees with all that was shown of it.
fn fits(
    store: &Etcd,
    revision: i64,
    witness: Option<&Witness<'_>>,
    with_events: bool,
    truth: Option<&[Change]>,
) -> bool {
    let made = store.timeline().at(revision);
    if let Some(truth) = truth {
        return made == truth;
    }
    let Some(witness) = witness else { return true };
    let same = |seen: &KeyValue, kv: &KeyValue| {
        // A read of keys only shows neither value nor lease.
        let bare = seen.value.is_empty();
        seen.key == kv.key
            && seen.version == kv.version
            && seen.create_revision == kv.create_revision
            && (bare || (seen.value == kv.value && seen.lease == kv.lease))
    };
    let put = |seen: &KeyValue| {
        made.iter().any(|change| change.kind == EventKind::Put && same(seen, &change.kv))
    };
    witness.reads.iter().all(|seen| put(seen))
        && (!with_events
            || witness.events.iter().all(|(kind, seen)| match kind {
                EventKind::Put => put(seen),
                EventKind::Delete => made
                    .iter()
                    .any(|change| change.kind == EventKind::Delete && change.kv.key == seen.key),
            }))
}

/// Calls `each` with every put an operation may make.
pub(crate) fn puts<'a>(operation: &'a Operation, each: &mut dyn FnMut(&'a Put)) {
    match operation {
        Operation::Put(put) => each(put),
        Operation::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).for_each(|op| puts(op, each));
        }
        _ => {}
    }
}

/// Adds the ranges an operation depends on or changes.
pub(crate) fn touched(operation: &Operation, keys: &mut BTreeSet<Keys>) {
    operation.touches(&mut |start, end| {
        keys.insert((start.clone(), Blob::new(end)));
    });
}

/// The keys of interest to one operation in the present state: those of a revoke are the lease's.
pub(crate) fn keys_of(store: &Etcd, op: &Op<'_>) -> BTreeSet<Keys> {
    let mut keys = BTreeSet::new();
    match op.operation {
        Operation::LeaseRevoke(revoke) => {
            keys.extend(store.attached(revoke.id).map(|key| (key.clone(), Blob::default())));
        }
        operation => touched(operation, &mut keys),
    }
    keys
}
