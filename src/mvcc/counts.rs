//! How many keys live in a range, without walking it.
//!
//! The key space is cut by *fences* into *buckets* of at most about 64 keys; for each bucket the
//! number of live keys is known exactly. Counting a range adds up whole buckets and looks at the keys
//! of the two buckets that the range only cuts into. The buckets stand in groups with sums of their
//! own, so that adding up takes microseconds for any number of keys.
//!
//! Only fences and counts are in memory, about a fiftieth of the keys. Every change of a count goes
//! into the change set of the entry that causes it (table `Counts`), so after a restart the counts are
//! exactly those of the applied position and nothing is counted anew.
//!
//! Where the fences stand is each member's own affair (it depends on when dead keys were removed) and
//! shows in no answer. Counts never do: they change only by applying.
//!
//! Invariants (see [`Counts::check`])
//! - Fences ascend strictly; the first is the empty key, so every key has a bucket.
//! - A group is never empty; its sum is that of its buckets; the total is that of the groups.
//!
//! Left out: dead keys (tombstones not yet removed) are only estimated. They matter for the cost of
//! looking at a bucket's keys, never for a count.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::frame::Way;
use super::ledger::Ledger;
use crate::buggify;
use crate::command::RangeEnd;

/// A bucket with more keys than this, live and dead, is split.
pub(super) const BUCKET_KEYS_MAX: usize = 64;

/// A group with this many buckets is split.
const GROUP_BUCKETS_MAX: usize = 512;

/// Exact numbers of live keys between fences.
#[derive(Debug)]
pub(super) struct Counts {
    groups: Vec<Group>,
    total: u64,
    sizes: Sizes,
    /// Behind a lock only because the writer looks here while readers count.
    chores: Mutex<Chores>,
}

/// How large buckets and groups grow. They show in no answer.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// See [`BUCKET_KEYS_MAX`].
    bucket: usize,
    /// See [`GROUP_BUCKETS_MAX`].
    group: usize,
}

impl Sizes {
    fn choose() -> Self {
        Self {
            bucket: buggify!("counts_have_small_buckets", 4, BUCKET_KEYS_MAX),
            group: buggify!("counts_have_small_groups", 4, GROUP_BUCKETS_MAX),
        }
    }

    /// A bucket is merged into the one before it if both together have at most this many keys.
    fn merged(self) -> usize {
        self.bucket / 2
    }
}

/// What the writer does to the fences as it goes along.
#[derive(Debug, Default)]
struct Chores {
    /// Fences of buckets that look too large.
    large: BTreeSet<Bytes>,
    /// Where the search for buckets to merge goes on; `None` when there is no reason to search.
    sweep: Option<Bytes>,
}

#[derive(Debug)]
struct Group {
    live: u64,
    buckets: Vec<Bucket>,
}

#[derive(Clone, Debug)]
struct Bucket {
    fence: Bytes,
    live: u32,
    dead: u32,
}

/// One bucket's new count, or its end. Applied in memory and stored alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The bucket.
    pub fence: Bytes,
    /// Its numbers, `None` for a bucket that was merged away.
    pub now: Option<Numbers>,
}

/// What is known of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub live: u32,
    pub dead: u32,
}

/// How one key changes the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delta {
    pub live: i8,
    pub dead: i8,
}

/// How to count a range: add `whole`, and the live keys of the edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub whole: u64,
    /// Stretches to be looked at, from a key up to an end.
    pub edges: Vec<(Bytes, RangeEnd)>,
}

impl Default for Counts {
    fn default() -> Self {
        Self::load(std::iter::empty())
    }
}

impl Counts {
    /// Takes stored counts, in fence order.
    pub(super) fn load(stored: impl Iterator<Item = (Bytes, u32)>) -> Self {
        let sizes = Sizes::choose();
        let mut groups: Vec<Group> = Vec::new();
        let mut first = Some(Bucket { fence: Bytes::new(), live: 0, dead: 0 });
        let mut push = |bucket: Bucket| match groups.last_mut() {
            Some(group) if group.buckets.len() < sizes.group / 2 => {
                group.live += u64::from(bucket.live);
                group.buckets.push(bucket);
            }
            _ => groups.push(Group { live: u64::from(bucket.live), buckets: vec![bucket] }),
        };
        for (fence, live) in stored {
            if let Some(bucket) = first.take()
                && !fence.is_empty()
            {
                push(bucket);
            }
            push(Bucket { fence, live, dead: 0 });
        }
        if let Some(bucket) = first {
            push(bucket);
        }
        let total = groups.iter().map(|group| group.live).sum();
        Self { groups, total, sizes, chores: Mutex::default() }
    }

    /// All live keys.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Says how to count the keys from `start` up to `end`. The range must not be crossed.
    pub(super) fn plan(&self, start: &Bytes, end: &RangeEnd) -> Plan {
        let mut plan = Plan { whole: 0, edges: Vec::new() };
        let (group, bucket) = self.locate(start);
        let mut at = (group, bucket);
        // Nothing sorts between the empty key and "\0", and no key is empty.
        let least: &[u8] = if start[..] == [0] { &[] } else { start };
        if *self.groups[group].buckets[bucket].fence != *least {
            let next = self.after(at);
            let stop = match next.map(|next| &self.bucket(next).fence) {
                Some(fence) if end.is_after(fence) => RangeEnd::Before(fence.clone()),
                _ => end.clone(),
            };
            let last = stop == *end;
            plan.edges.push((start.clone(), stop));
            match next {
                Some(next) if !last => at = next,
                _ => return plan,
            }
        }
        let RangeEnd::Before(stop) = end else {
            let (group, bucket) = at;
            let rest = &self.groups[group].buckets[bucket..];
            plan.whole = rest.iter().map(|bucket| u64::from(bucket.live)).sum::<u64>()
                + self.groups[group + 1..].iter().map(|group| group.live).sum::<u64>();
            return plan;
        };
        let to = self.locate(stop);
        if to >= at {
            plan.whole = self.sum(at, to);
            let edge = self.bucket(to).fence.clone();
            if edge < *stop {
                plan.edges.push((edge, end.clone()));
            }
        }
        plan
    }

    /// Says how many keys a walk between two bounds must meet, bucket by bucket, until they are `keys_max`:
    /// a walk that looks at no more need not be told of more.
    pub(super) fn ledger(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        way: Way,
        keys_max: usize,
    ) -> Ledger {
        let mut ledger = Ledger::default();
        // The first bucket that begins in the range, and the one that ends beyond it, if any does.
        let first = match from {
            // Nothing sorts between the empty key and "\0", and no key is empty.
            Bound::Unbounded | Bound::Included([] | [0]) => Some((0, 0)),
            Bound::Included(key) => self.begins_at(key, true),
            Bound::Excluded(key) => self.begins_at(key, false),
        };
        let end = match to {
            Bound::Unbounded => None,
            Bound::Included(key) | Bound::Excluded(key) => Some(self.locate(key)),
        };
        let Some(first) = first else { return ledger };
        let mut keys = 0;
        let mut push = |ledger: &mut Ledger, bucket: &Bucket| {
            ledger.lives.push(bucket.live);
            keys += usize::try_from(bucket.live).expect("a bucket is small");
            keys < keys_max
        };
        match way {
            Way::Up => {
                let mut at = Some(first);
                while let Some(here) = at.filter(|here| end.is_none_or(|end| *here < end)) {
                    ledger.bounds.push(self.bucket(here).fence.clone());
                    at = self.after(here);
                    if !push(&mut ledger, self.bucket(here)) {
                        break;
                    }
                }
                if let Some(next) = at.filter(|_| !ledger.lives.is_empty()) {
                    ledger.bounds.push(self.bucket(next).fence.clone());
                }
            }
            Way::Down => {
                let mut at = end;
                ledger.begun = end.is_none();
                ledger.bounds.push(end.map_or(Bytes::new(), |end| self.bucket(end).fence.clone()));
                loop {
                    at = match at {
                        Some(at) => self.before(at),
                        None => Some(self.last()),
                    };
                    let Some(here) = at.filter(|here| *here >= first) else { break };
                    ledger.bounds.push(self.bucket(here).fence.clone());
                    if !push(&mut ledger, self.bucket(here)) {
                        break;
                    }
                }
            }
        }
        ledger
    }

    /// Finds the first bucket whose fence is above a key, or equal to it if that is allowed.
    fn begins_at(&self, key: &[u8], equal: bool) -> Option<(usize, usize)> {
        let at = self.locate(key);
        if equal && self.bucket(at).fence[..] == *key { Some(at) } else { self.after(at) }
    }

    /// Adds up the buckets from `from` to before `to`.
    fn sum(&self, from: (usize, usize), to: (usize, usize)) -> u64 {
        let live = |buckets: &[Bucket]| buckets.iter().map(|b| u64::from(b.live)).sum::<u64>();
        if from.0 == to.0 {
            return live(&self.groups[from.0].buckets[from.1..to.1]);
        }
        live(&self.groups[from.0].buckets[from.1..])
            + self.groups[from.0 + 1..to.0].iter().map(|group| group.live).sum::<u64>()
            + live(&self.groups[to.0].buckets[..to.1])
    }

    /// Says what the buckets' numbers are after some keys changed; keys in order, one change each.
    pub(super) fn changes<'a>(
        &self,
        deltas: impl Iterator<Item = (&'a Bytes, Delta)>,
    ) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let mut end: Option<&Bytes> = None;
        for (key, delta) in deltas {
            // Keys come in order, so a key below the next fence is in the bucket of the one before.
            if changes.is_empty() || end.is_some_and(|end| key >= end) {
                let at = self.locate(key);
                let bucket = self.bucket(at);
                end = self.after(at).map(|next| &self.bucket(next).fence);
                let now = Numbers { live: bucket.live, dead: bucket.dead };
                changes.push(Change { fence: bucket.fence.clone(), now: Some(now) });
            }
            let change = changes.last_mut().expect("one was just made");
            let now = change.now.as_mut().expect("it has numbers");
            now.live = now
                .live
                .checked_add_signed(i32::from(delta.live))
                .expect("a bucket does not lose more keys than it has");
            now.dead = now.dead.saturating_add_signed(i32::from(delta.dead));
        }
        changes
    }

    /// Takes changes over.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change.now {
                Some(now) => self.set(&change.fence, now),
                None => self.remove(&change.fence),
            }
        }
    }

    /// Returns a bucket that looks too large, as the stretch of its keys; asks once for each.
    pub(super) fn next_large(&self) -> Option<(Bytes, RangeEnd)> {
        let fence = self.chores().large.pop_first()?;
        Some(self.stretch(self.locate(&fence)))
    }

    /// Splits the bucket of this fence, given all the keys it has after `changes`, in order, and whether
    /// each lives; puts what comes of it into the changes.
    ///
    /// # Panics
    /// If the bucket's count is not the number of its live keys: then counts were wrong.
    pub(super) fn split(&self, changes: &mut Vec<Change>, fence: &Bytes, keys: &[(Bytes, bool)]) {
        let expected = self.take_numbers(changes, fence).live;
        let size = if keys.len() <= self.sizes.bucket {
            keys.len().max(1)
        } else {
            keys.len().div_ceil(keys.len().div_ceil(self.sizes.bucket * 3 / 4))
        };
        let mut sum = 0;
        for (piece, keys) in keys.chunks(size).enumerate() {
            let live = keys.iter().filter(|(_, alive)| *alive).count();
            let now = Numbers {
                live: u32::try_from(live).expect("a bucket is small"),
                dead: u32::try_from(keys.len() - live).expect("a bucket is small"),
            };
            sum += now.live;
            let fence = if piece == 0 { fence.clone() } else { Bytes::copy_from_slice(&keys[0].0) };
            changes.push(Change { fence, now: Some(now) });
        }
        if keys.is_empty() {
            changes.push(Change { fence: fence.clone(), now: Some(Numbers { live: 0, dead: 0 }) });
        }
        assert!(sum == expected, "the bucket at {fence:?} has {sum} keys, not {expected}");
    }

    /// Takes out of the changes what they say of a bucket; without a word there, what is known.
    fn take_numbers(&self, changes: &mut Vec<Change>, fence: &Bytes) -> Numbers {
        let bucket = self.bucket(self.locate(fence));
        assert!(bucket.fence == *fence, "no bucket begins at {fence:?}");
        let Some(at) = changes.iter().position(|change| change.fence == *fence) else {
            return Numbers { live: bucket.live, dead: bucket.dead };
        };
        changes.remove(at).now.expect("the bucket is there")
    }

    /// Makes the next calls of [`next_small`](Self::next_small) go over all buckets: dead keys were
    /// removed, so there may be buckets to merge.
    pub(super) fn start_sweep(&self) {
        self.chores().sweep = Some(Bytes::new());
    }

    /// Looks at the next few buckets of a sweep for one that may be merged into the one before it.
    /// Returns both fences and where the second bucket ends.
    pub(super) fn next_small(&self) -> Option<(Bytes, Bytes, RangeEnd)> {
        const LOOKS: usize = 32;
        let mut chores = self.chores();
        let mut at = self.locate(&chores.sweep.take()?);
        for _ in 0..LOOKS {
            let next = self.after(at)?;
            let (left, right) = (self.bucket(at), self.bucket(next));
            let small = left.live.saturating_add(right.live);
            if usize::try_from(small).is_ok_and(|small| small <= self.sizes.merged()) {
                let (left, right) = (left.fence.clone(), right.fence.clone());
                let (_, end) = self.stretch(next);
                // If they merge, this fence is gone and the next look starts from the left one again.
                chores.sweep = Some(right.clone());
                return Some((left, right, end));
            }
            at = next;
        }
        chores.sweep = Some(self.bucket(at).fence.clone());
        None
    }

    /// Merges two neighbours if after `changes` they have few keys together, of which the caller has
    /// counted up to [`merge_look`](Self::merge_look); puts what comes of it into the changes.
    pub(super) fn merge(
        &self,
        changes: &mut Vec<Change>,
        left: &Bytes,
        right: &Bytes,
        keys: usize,
    ) {
        if keys > self.sizes.merged() {
            return;
        }
        let live = self.take_numbers(changes, left).live + self.take_numbers(changes, right).live;
        let lost = if crate::mutant!("M03") { self.bucket(self.locate(right)).live } else { 0 };
        let live = live.saturating_sub(lost);
        let dead = u32::try_from(keys).expect("few").saturating_sub(live);
        changes.push(Change { fence: right.clone(), now: None });
        changes.push(Change { fence: left.clone(), now: Some(Numbers { live, dead }) });
    }

    /// How many keys to look at, at most, before a merge.
    pub(super) fn merge_look(&self) -> usize {
        self.sizes.merged() + 1
    }

    /// All buckets' fences and counts, in order.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (&Bytes, u32)> {
        self.groups
            .iter()
            .flat_map(|group| &group.buckets)
            .map(|bucket| (&bucket.fence, bucket.live))
    }

    fn chores(&self) -> MutexGuard<'_, Chores> {
        self.chores.lock().expect("nobody panicked over the chores")
    }

    /// Asserts the invariants.
    pub(super) fn check(&self) {
        assert!(self.groups.iter().all(|group| !group.buckets.is_empty()), "an empty group");
        assert!(self.bucket((0, 0)).fence.is_empty(), "the first fence is not the empty key");
        let fences: Vec<_> = self.buckets().map(|(fence, _)| fence).collect();
        assert!(fences.is_sorted_by(|a, b| a < b), "fences out of order");
        for group in &self.groups {
            let sum: u64 = group.buckets.iter().map(|bucket| u64::from(bucket.live)).sum();
            assert!(sum == group.live, "a group's sum is {}, not {sum}", group.live);
        }
        let total: u64 = self.groups.iter().map(|group| group.live).sum();
        assert!(total == self.total, "the total is {}, not {total}", self.total);
    }

    /// Finds the bucket that a key is in.
    fn locate(&self, key: &[u8]) -> (usize, usize) {
        let group = self.groups.partition_point(|group| group.buckets[0].fence[..] <= *key);
        let group = group.checked_sub(1).expect("the first fence is the empty key");
        let buckets = &self.groups[group].buckets;
        let bucket = buckets.partition_point(|bucket| bucket.fence[..] <= *key);
        (group, bucket.checked_sub(1).expect("a group begins with its first fence"))
    }

    fn bucket(&self, (group, bucket): (usize, usize)) -> &Bucket {
        &self.groups[group].buckets[bucket]
    }

    fn after(&self, (group, bucket): (usize, usize)) -> Option<(usize, usize)> {
        if bucket + 1 < self.groups[group].buckets.len() {
            return Some((group, bucket + 1));
        }
        (group + 1 < self.groups.len()).then_some((group + 1, 0))
    }

    fn before(&self, (group, bucket): (usize, usize)) -> Option<(usize, usize)> {
        if let Some(bucket) = bucket.checked_sub(1) {
            return Some((group, bucket));
        }
        let group = group.checked_sub(1)?;
        Some((group, self.groups[group].buckets.len() - 1))
    }

    fn last(&self) -> (usize, usize) {
        let group = self.groups.len() - 1;
        (group, self.groups[group].buckets.len() - 1)
    }

    fn stretch(&self, at: (usize, usize)) -> (Bytes, RangeEnd) {
        let end = match self.after(at) {
            Some(next) => RangeEnd::Before(self.bucket(next).fence.clone()),
            None => RangeEnd::Open,
        };
        (self.bucket(at).fence.clone(), end)
    }

    fn set(&mut self, fence: &Bytes, now: Numbers) {
        let (at, bucket) = self.locate(fence);
        let group = &mut self.groups[at];
        let found = &mut group.buckets[bucket];
        if found.fence == *fence {
            group.live = group.live - u64::from(found.live) + u64::from(now.live);
            self.total = self.total - u64::from(found.live) + u64::from(now.live);
            found.live = now.live;
            found.dead = now.dead;
        } else {
            let new = Bucket { fence: fence.clone(), live: now.live, dead: now.dead };
            group.buckets.insert(bucket + 1, new);
            group.live += u64::from(now.live);
            self.total += u64::from(now.live);
            if group.buckets.len() >= self.sizes.group {
                let right = group.buckets.split_off(self.sizes.group / 2);
                let live = right.iter().map(|bucket| u64::from(bucket.live)).sum();
                group.live -= live;
                self.groups.insert(at + 1, Group { live, buckets: right });
            }
        }
        let keys = usize::try_from(u64::from(now.live) + u64::from(now.dead));
        if keys.is_ok_and(|keys| keys > self.sizes.bucket) {
            self.chores().large.insert(fence.clone());
        }
    }

    fn remove(&mut self, fence: &Bytes) {
        self.chores().large.remove(fence);
        let (at, bucket) = self.locate(fence);
        let group = &mut self.groups[at];
        let gone = group.buckets.remove(bucket);
        assert!(gone.fence == *fence && !fence.is_empty(), "no bucket begins at {fence:?}");
        group.live -= u64::from(gone.live);
        self.total -= u64::from(gone.live);
        if group.buckets.is_empty() {
            self.groups.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The keys of a store, dead ones included, and the histogram over them.
    #[derive(Default)]
    struct World {
        keys: BTreeMap<Bytes, bool>,
        counts: Counts,
        stored: BTreeMap<Bytes, u32>,
    }

    impl World {
        fn take(&mut self, changes: Vec<Change>) {
            self.counts.apply(&changes);
            for change in changes {
                match change.now {
                    Some(now) => self.stored.insert(change.fence, now.live),
                    None => self.stored.remove(&change.fence),
                };
            }
            self.counts.check();
        }

        fn set(&mut self, batch: &BTreeMap<Bytes, bool>) {
            let mut deltas = BTreeMap::new();
            for (key, &alive) in batch {
                let before = self.keys.insert(key.clone(), alive);
                let delta = match (before, alive) {
                    (None, true) => Delta { live: 1, dead: 0 },
                    (None, false) => Delta { live: 0, dead: 1 },
                    (Some(false), true) => Delta { live: 1, dead: -1 },
                    (Some(true), false) => Delta { live: -1, dead: 1 },
                    (Some(true), true) | (Some(false), false) => continue,
                };
                deltas.insert(key.clone(), delta);
            }
            let changes = self.counts.changes(deltas.iter().map(|(key, delta)| (key, *delta)));
            self.take(changes);
        }

        fn scrub(&mut self) {
            self.keys.retain(|_, alive| *alive);
            self.counts.start_sweep();
        }

        fn stretch(&self, from: &Bytes, end: &RangeEnd) -> Vec<(Bytes, bool)> {
            self.keys
                .range(from.clone()..)
                .take_while(|(key, _)| end.is_after(key))
                .map(|(key, alive)| (key.clone(), *alive))
                .collect()
        }

        fn maintain(&mut self) {
            while let Some((fence, end)) = self.counts.next_large() {
                let keys = self.stretch(&fence, &end);
                let mut changes = Vec::new();
                self.counts.split(&mut changes, &fence, &keys);
                self.take(changes);
            }
            if let Some((left, right, end)) = self.counts.next_small() {
                let keys = self.stretch(&left, &end).len().min(self.counts.merge_look());
                let mut changes = Vec::new();
                self.counts.merge(&mut changes, &left, &right, keys);
                self.take(changes);
            }
        }

        fn count(&self, start: &Bytes, end: &RangeEnd) -> u64 {
            let plan = self.counts.plan(start, end);
            assert!(plan.edges.len() <= 2);
            let edges = plan.edges.iter().map(|(from, to)| {
                let keys = self.stretch(from, to);
                u64::try_from(keys.iter().filter(|(_, alive)| *alive).count()).expect("few")
            });
            plan.whole + edges.sum::<u64>()
        }

        fn check_all(&self) {
            let bounds: Vec<Bytes> = self
                .keys
                .keys()
                .step_by(self.keys.len() / 12 + 1)
                .flat_map(|key| [key.clone(), Bytes::from([key, &[0][..]].concat())])
                .chain(self.counts.buckets().map(|(fence, _)| fence.clone()).take(12))
                .chain([Bytes::new(), Bytes::from_static(&[0]), Bytes::from_static(&[0xff; 3])])
                .collect();
            for start in &bounds {
                let ends = bounds.iter().filter(|end| *end > start).cloned().map(RangeEnd::Before);
                for end in ends.chain([RangeEnd::Open]) {
                    let keys = self.stretch(start, &end);
                    let expected = keys.iter().filter(|(_, alive)| *alive).count();
                    let count = self.count(start, &end);
                    assert_eq!(count, u64::try_from(expected).expect("few"), "{start:?}..{end:?}");
                }
            }
        }

        fn reload(&mut self) {
            let stored = self.stored.iter().map(|(fence, live)| (fence.clone(), *live));
            let loaded = Counts::load(stored);
            loaded.check();
            let before: Vec<_> = self.counts.buckets().filter(|(_, n)| *n > 0).collect();
            let after: Vec<_> = loaded.buckets().filter(|(_, n)| *n > 0).collect();
            assert_eq!(before, after);
            self.counts = loaded;
        }
    }

    fn key(number: u32) -> Bytes {
        Bytes::from(format!("k{number:05}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn counts_are_those_of_a_walk(
            steps in proptest::collection::vec((0..4000u32, 1..400u32, 1..7u32, 0..8u8), 1..40)
        ) {
            let mut world = World::default();
            for (from, many, stride, kind) in steps {
                let keys = (0..many).map(|n| key(from + n * stride));
                match kind {
                    0..=3 => world.set(&keys.map(|key| (key, true)).collect()),
                    4..=5 => {
                        let known = keys.filter(|key| world.keys.contains_key(key));
                        let batch = known.map(|key| (key, false)).collect();
                        world.set(&batch);
                    }
                    6 => world.scrub(),
                    _ => world.reload(),
                }
                for _ in 0..many / 8 {
                    world.maintain();
                }
                world.check_all();
            }
        }
    }

    #[test]
    fn buckets_split_and_merge_and_stay_few() {
        let mut world = World::default();
        for number in 0..20_000 {
            world.set(&BTreeMap::from([(key(number), true)]));
            world.maintain();
        }
        let many = world.counts.buckets().count();
        assert!((20_000 / 64..=20_000 / 30).contains(&many), "{many} buckets");
        assert!(world.counts.buckets().all(|(_, live)| live <= 65));
        for number in 0..20_000 {
            world.set(&BTreeMap::from([(key(number), false)]));
            world.maintain();
        }
        assert_eq!(world.counts.total(), 0);
        world.scrub();
        while world.counts.chores().sweep.is_some() {
            world.maintain();
        }
        let left = world.counts.buckets().count();
        assert!(left <= 2, "{left} buckets are left of nothing");
        world.check_all();
    }

    #[test]
    fn counting_touches_at_most_two_buckets_keys() {
        let mut world = World::default();
        for number in 0..5_000 {
            world.set(&BTreeMap::from([(key(number), true)]));
            world.maintain();
        }
        let plan = world.counts.plan(&key(1), &RangeEnd::Before(key(4_999)));
        let looked: usize = plan.edges.iter().map(|(from, to)| world.stretch(from, to).len()).sum();
        assert!(looked <= 2 * BUCKET_KEYS_MAX, "{looked} keys looked at");
        let everything = world.counts.plan(&Bytes::from_static(&[0]), &RangeEnd::Open);
        assert_eq!(everything, Plan { whole: 5_000, edges: vec![] });
    }
}
