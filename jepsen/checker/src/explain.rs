//! Revisions that no acknowledged write claims, and who may have made them.
//!
//! Such a *gap* is the work of an operation whose outcome is unknown, of a revoked lease, or of a lease
//! that expired. The *candidates* of a gap are tried in an order that makes the first one nearly always
//! right; what was ever shown of the gap's revision (the *witness*) rules most of them out:
//! a read is a hard witness, a watch event a soft one, since the watch may be what is wrong.
//!
//! A watch also testifies by silence: what it must have shown and did not show did not happen.
//!
//! A wrong guess is found out when a later reply contradicts it; the replay then comes back (linear.rs).
//! Replies about a key's future (outlook.rs) make most guesses right at once.

use crate::blob::Blob;
use crate::history::{Record, WatchRecord, What};
use crate::model::Etcd;
use crate::op::*;
use crate::ops::{Op, Ops, Outcome};
use crate::outlook::{Fitness, Outlook};
use crate::verdict::FinalState;
use crate::witness::{View, Witness, views};
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

/// How sure it is who made a gap's revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// Nobody else can have made it.
    None,
    /// Somebody else may have, with the very same changes.
    Who,
    /// Somebody else may have, with other changes.
    What,
}

/// How far the candidates of a gap have been tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    phase: usize,
    place: usize,
}

impl Cursor {
    /// Before all candidates that need not explain what watches showed. They are a last resort, for a
    /// gap that nothing else explains: then the watch is to blame.
    pub const LAST_RESORT: Cursor = Cursor { phase: LAST_RESORT, place: 0 };
}

/// A phase asks for a kind of candidate and for how much of the witness it must explain.
struct Phase {
    kind: Kind,
    with_events: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Operations not seen elsewhere, of this fitness.
    Fresh(Fitness),
    /// Leases that expire.
    Leases,
    /// Operations whose values were seen at other revisions.
    Seen,
}

const fn phases(with_events: bool) -> [Phase; LAST_RESORT] {
    [
        Phase { kind: Kind::Fresh(Fitness::Needed), with_events },
        Phase { kind: Kind::Leases, with_events },
        Phase { kind: Kind::Fresh(Fitness::Neutral), with_events },
        Phase { kind: Kind::Fresh(Fitness::Unlikely), with_events },
        Phase { kind: Kind::Seen, with_events },
    ]
}

const LAST_RESORT: usize = 5;
const FIRST: [Phase; LAST_RESORT] = phases(true);
const LAST: [Phase; LAST_RESORT] = phases(false);

/// Until when each lease lives at the least: each answered grant and renewal gives it a TTL more.
fn lives_until(ops: &Ops<'_>) -> BTreeMap<i64, u64> {
    let mut lives = BTreeMap::new();
    for op in &ops.all {
        let (id, ttl) = match (op.operation, op.reply()) {
            (_, Some(Reply::LeaseGrant(reply))) => (reply.id, reply.ttl),
            (Operation::LeaseKeepAlive(renewal), Some(Reply::LeaseKeepAlive(reply))) => {
                (renewal.id, reply.ttl)
            }
            _ => continue,
        };
        let ttl = u64::try_from(ttl).unwrap_or(0).saturating_mul(1_000_000_000);
        let until: &mut u64 = lives.entry(id).or_default();
        *until = (*until).max(op.call_time.saturating_add(ttl));
    }
    lives
}

/// Everything known about the gaps of a history.
pub(crate) struct Gaps<'h> {
    /// Ascending by floor.
    pub unknown: Vec<Unknown>,
    pub used: Vec<bool>,
    /// Empty if there are no gaps, and nothing to find out.
    witness: BTreeMap<i64, Witness<'h>>,
    /// Keys that ever were put with a lease.
    leased: BTreeSet<&'h Blob>,
    /// Until when each lease lives at the least, by its grant and its renewals.
    lives_until: BTreeMap<i64, u64>,
    /// What watches would have shown, had it happened.
    views: Vec<View<'h>>,
    outlook: Outlook<'h>,
}

impl<'h> Gaps<'h> {
    /// Collects candidates and witnesses. `is_gap` tells whether nobody claims a revision, `any_gap`
    /// whether there is such a revision at all.
    pub fn new(
        records: &'h [Record],
        ops: &Ops<'h>,
        states: &'h [FinalState],
        any_gap: bool,
        is_gap: impl Fn(i64) -> bool,
    ) -> Self {
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
        let used = vec![false; unknown.len()];
        let mut gaps = Gaps {
            used,
            unknown,
            witness: BTreeMap::new(),
            leased,
            lives_until: lives_until(ops),
            views: Vec::new(),
            outlook: Outlook::default(),
        };
        if any_gap {
            gaps.collect_witnesses(records, states, is_gap);
            gaps.collect_sightings(ops);
            gaps.views = views(records);
            gaps.outlook = Outlook::new(ops, &gaps.unknown, &gaps.leased, states);
        }
        gaps
    }

    fn collect_witnesses(
        &mut self,
        records: &'h [Record],
        states: &'h [FinalState],
        is_gap: impl Fn(i64) -> bool,
    ) {
        let witness = &mut self.witness;
        let read = |witness: &mut BTreeMap<i64, Witness<'h>>, kv: &'h KeyValue| {
            if is_gap(kv.mod_revision) {
                let seen = witness.entry(kv.mod_revision).or_default();
                if !seen.reads.contains(&kv) {
                    seen.reads.push(kv);
                }
            }
        };
        for record in records {
            match &record.what {
                What::Ok(reply) => reply.each_kv(&mut |kv| read(witness, kv)),
                What::Watch(WatchRecord::Events { events, .. }) => {
                    for event in events {
                        let seen = witness.entry(event.kv.mod_revision).or_default();
                        if !seen.events.contains(&event) {
                            seen.events.push(event);
                        }
                        if let Some(kv) = &event.prev_kv
                            && is_gap(kv.mod_revision)
                        {
                            witness.entry(kv.mod_revision).or_default().before.push(kv);
                        }
                    }
                }
                _ => {}
            }
        }
        for kv in states.iter().flat_map(|state| &state.kvs).flatten() {
            read(witness, kv);
        }
    }

    fn collect_sightings(&mut self, ops: &Ops<'h>) {
        let mut seen: BTreeMap<(&Blob, &Blob), BTreeSet<i64>> = BTreeMap::new();
        for (&revision, witness) in &self.witness {
            for kv in witness.shown().filter(|(kind, _)| *kind == EventKind::Put).map(|(_, kv)| kv)
            {
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

    /// Whether somebody else, used meanwhile or not, could have made `revision` as well, as far as was
    /// ever shown. The store is left as it was.
    pub fn doubt(
        &self,
        store: &mut Etcd,
        ops: &Ops<'h>,
        revision: i64,
        chosen: Candidate,
        truth: Option<&[Change]>,
    ) -> Doubt {
        let made = store.timeline().at(revision).to_vec();
        store.undo_to(revision - 1);
        let witness = self.witness.get(&revision);
        let before = self.unknown.partition_point(|candidate| candidate.floor < revision);
        let others = (0..before).map(Candidate::Op);
        let leases: Vec<i64> = store.leases_with_keys().collect();
        let others = leases.into_iter().map(Candidate::Lease).chain(others);
        let mut doubt = Doubt::None;
        for other in others {
            if other == chosen
                || !self.possible(ops, other, revision, witness)
                || self.out_of_question(store, ops, revision, other)
            {
                continue;
            }
            if self.apply(store, ops, revision, other)
                && self.suits(store, Kind::Seen)
                && self.fits(store, revision, true, truth)
            {
                let same = store.timeline().at(revision) == made;
                doubt = doubt.max(if same { Doubt::Who } else { Doubt::What });
            }
            store.undo_to(revision - 1);
            if doubt == Doubt::What {
                break;
            }
        }
        store.force(&made);
        doubt
    }

    /// Whether a plain put can't be, before anything is done.
    fn out_of_question(
        &self,
        store: &Etcd,
        ops: &Ops<'h>,
        revision: i64,
        candidate: Candidate,
    ) -> bool {
        self.put_fitness(store, ops, revision, candidate) == Some(Fitness::Impossible)
    }

    /// The fitness of a candidate that is a plain put: most are.
    fn put_fitness(
        &self,
        store: &Etcd,
        ops: &Ops<'h>,
        revision: i64,
        candidate: Candidate,
    ) -> Option<Fitness> {
        let Candidate::Op(number) = candidate else { return None };
        let Operation::Put(put) = ops.all[self.unknown[number].op].operation else { return None };
        // One that keeps the old value says nothing about the value it will have.
        if put.ignore_value {
            return None;
        }
        Some(self.outlook.fitness_of_put(store, revision, &put.key, &put.value))
    }

    /// A cheap look at whether a candidate is out of the question.
    fn possible(
        &self,
        ops: &Ops<'h>,
        who: Candidate,
        revision: i64,
        witness: Option<&Witness<'h>>,
    ) -> bool {
        let Candidate::Op(number) = who else { return true };
        let candidate = &self.unknown[number];
        let operation = ops.all[candidate.op].operation;
        // A revoke touches the keys of its lease, whichever they are.
        let anywhere = matches!(operation, Operation::LeaseRevoke(_));
        let here = |key: &Blob| {
            let mut touched = anywhere;
            operation.touches(&mut |start, end| touched |= in_range(key, start, end));
            touched
        };
        candidate.latest >= revision
            && witness.is_none_or(|witness| {
                witness.reads.first().is_none_or(|kv| here(&kv.key))
                    && witness.events.first().is_none_or(|event| here(&event.kv.key))
            })
    }

    /// The first watch event of the present revision that does not agree with the store.
    pub fn contradicted(&self, store: &Etcd) -> Option<&'h Event> {
        let revision = store.revision();
        let timeline = store.timeline();
        let events = &self.witness.get(&revision)?.events;
        events.iter().copied().find(|event| {
            let key = &event.kv.key;
            let made = timeline
                .at(revision)
                .iter()
                .any(|change| change.kind == event.kind && change.kv == event.kv);
            let before = timeline.get(key, revision - 1);
            !made || (event.prev_kv.is_some() && event.prev_kv.as_ref() != before)
        })
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
        let (phases, skipped) =
            if cursor.phase < LAST_RESORT { (&FIRST, 0) } else { (&LAST, LAST_RESORT) };
        let soft = !self.views.is_empty() || witness.is_some_and(Witness::soft);
        while let Some(phase) = phases.get(cursor.phase - skipped) {
            if phase.with_events || (soft && truth.is_none()) {
                for candidate in self.list(store, ops, phase, revision, cursor.place) {
                    cursor.place += 1;
                    let Some(candidate) = candidate else { continue };
                    *budget = budget.saturating_sub(1);
                    if phase.with_events && !self.possible(ops, candidate, revision, witness) {
                        continue;
                    }
                    if !self.quickly(store, ops, revision, phase.kind, candidate) {
                        continue;
                    }
                    if self.apply(store, ops, revision, candidate)
                        && self.suits(store, phase.kind)
                        && self.fits(store, revision, phase.with_events, truth)
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
    /// that cannot be: it is used, or its time does not fit. Leases that should still live come last.
    fn list<'a>(
        &'a self,
        store: &Etcd,
        ops: &Ops<'h>,
        phase: &Phase,
        revision: i64,
        place: usize,
    ) -> Box<dyn Iterator<Item = Option<Candidate>> + 'a> {
        if phase.kind == Kind::Leases {
            let mut leases: Vec<i64> = store.leases_with_keys().collect();
            let by = ops.first_seen(revision).map_or(u64::MAX, |seen| seen.time);
            leases.sort_by_key(|id| self.lives_until.get(id).is_some_and(|until| *until > by));
            return Box::new(leases.into_iter().skip(place).map(|id| Some(Candidate::Lease(id))));
        }
        let before = self.unknown.partition_point(|candidate| candidate.floor < revision);
        let fresh = phase.kind != Kind::Seen;
        Box::new((0..before).rev().skip(place).map(move |number| {
            let candidate = &self.unknown[number];
            let here = candidate.sightings.is_empty() || candidate.sightings.contains(&revision);
            let fits = !self.used[number] && candidate.latest >= revision && here == fresh;
            fits.then_some(Candidate::Op(number))
        }))
    }

    /// Whether what the store just did is of the kind asked for.
    fn suits(&self, store: &Etcd, kind: Kind) -> bool {
        let fitness = self.outlook.fitness_of_latest(store);
        match kind {
            Kind::Fresh(wanted) => fitness == wanted,
            Kind::Leases | Kind::Seen => fitness != Fitness::Impossible,
        }
    }

    /// The same of a plain put, before anything is done: most candidates are plain puts.
    fn quickly(
        &self,
        store: &Etcd,
        ops: &Ops<'h>,
        revision: i64,
        kind: Kind,
        candidate: Candidate,
    ) -> bool {
        let Kind::Fresh(wanted) = kind else { return true };
        self.put_fitness(store, ops, revision, candidate).is_none_or(|fitness| fitness == wanted)
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

    /// Whether what the store just did at `revision` agrees with all that was shown of it, and with
    /// `truth`, if anybody knows.
    fn fits(
        &self,
        store: &Etcd,
        revision: i64,
        with_events: bool,
        truth: Option<&[Change]>,
    ) -> bool {
        let made = store.timeline().at(revision);
        if let Some(truth) = truth {
            return made == truth;
        }
        let none = Witness::default();
        let witness = self.witness.get(&revision).unwrap_or(&none);
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
        let deleted = |seen: &KeyValue| {
            made.iter().any(|change| change.kind == EventKind::Delete && change.kv.key == seen.key)
        };
        let shown = |change: &Change| {
            witness
                .events
                .iter()
                .any(|event| event.kind == change.kind && event.kv.key == change.kv.key)
        };
        let unseen = |change: &Change| self.views.iter().any(|view| view.shows(change));
        witness.reads.iter().all(|seen| put(seen))
            && (!with_events
                || (witness.before.iter().all(|seen| put(seen))
                    && witness.events.iter().all(|event| match event.kind {
                        EventKind::Put => put(&event.kv),
                        EventKind::Delete => deleted(&event.kv),
                    })
                    && made.iter().all(|change| shown(change) || !unseen(change))))
    }

    /// Whether a candidate touches one of these keys.
    pub fn concerns(&self, ops: &Ops<'h>, who: Candidate, keys: &BTreeSet<Keys>) -> bool {
        let meets = |start: &[u8], end: &[u8]| {
            keys.iter().any(|(from, to)| ranges_meet((from, to), (start, end)))
        };
        match who {
            Candidate::Op(number) => match ops.all[self.unknown[number].op].operation {
                Operation::LeaseRevoke(_) => self.leased.iter().any(|key| meets(key, b"")),
                operation => {
                    let mut found = false;
                    operation.touches(&mut |start, end| found |= meets(start, end));
                    found
                }
            },
            Candidate::Lease(_) => self.leased.iter().any(|key| meets(key, b"")),
        }
    }

    /// The keys on which the candidates of a gap could act, used or not.
    pub fn candidate_keys(&self, ops: &Ops<'h>, revision: i64) -> BTreeSet<Keys> {
        let mut keys = self.operations_keys(ops, revision);
        keys.extend(self.leased.iter().map(|key| ((*key).clone(), Blob::default())));
        keys
    }

    /// The keys on which those of them that are operations could.
    pub fn operations_keys(&self, ops: &Ops<'h>, revision: i64) -> BTreeSet<Keys> {
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
        let shown = witness.into_iter().flat_map(Witness::shown);
        let known = truth.into_iter().flatten().map(|change| (change.kind, &change.kv));
        for (kind, kv) in shown.chain(known) {
            match kind {
                EventKind::Put => written.push(kv),
                EventKind::Delete => {
                    deleted.insert(&kv.key);
                }
            }
        }
        // An empty value is no fingerprint: puts that keep the old value carry one, too.
        for kv in written.iter().filter(|kv| !kv.value.is_empty()) {
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
            let message = format!(
                "lease {lease} lost its keys in more than one revision, r{revision} among them"
            );
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
    let timeline = store.timeline();
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
