//! Ranges: etcd's read with all its options, and the bounded pages that streams are made of.
//!
//! Reading goes in *batches*. Each takes its own short view, so that a long list neither blocks the
//! writer nor pins old pages; all of them look at one revision. A compaction beyond that revision can
//! come between two batches. A reader that named its revision is told so; one that asked for the newest
//! starts again.
//!
//! A count comes from walking only if the whole range is walked anyway. Else it comes from the counted
//! buckets, corrected for what was born and died since the revision (`counts.rs`, `recent.rs`).
//!
//! The order of things is etcd's: filters, then sort, then limit; except that with default order and no
//! filter the limit (and one more key, to know whether there are more) is applied while reading, in key
//! order, and a sort by anything else then sorts only what was read.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

use super::codec::{self, Body};
use super::counts::{Counts, Plan};
use super::frame::{Copier, Damage, Flow, Found, Frame, Unbroken, Way};
use super::frame::{bounds_after, decode_row, span};
use super::ledger::Ledger;
use super::recent::Since;
use super::store::{Published, Store};
use crate::buggify;
use crate::command::{
    KeyRange, KeyValue, Range, RangeOutcome, Refusal, RowId, SortOrder, SortTarget,
};
use crate::storage::Table;
use crate::types::{LeaseId, Revision};

/// Keys visited in one view.
const BATCH_KEYS: usize = 512;

/// Bytes of keys and values read in one view, after which the batch ends.
const BATCH_BYTES: usize = 1 << 20;

fn keys_in_view() -> usize {
    buggify!("read_takes_one_key", 1, BATCH_KEYS)
}

/// How often a read of the newest revision starts again before it gives up.
const RETRIES: usize = 16;

/// Why a read ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A compaction went beyond the revision that is being read.
    Overtaken(Revision),
    Damaged(Damage),
}

impl From<Damage> for Stop {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl Store {
    /// Reads keys at one revision.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`], [`Refusal::Damaged`].
    pub fn range(&self, request: &Range) -> Result<RangeOutcome, Refusal> {
        self.again(|| {
            let published = self.inner.published();
            let current = published.revision;
            let at = read_at(request.revision, current, published.compact)?;
            self.range_with(request, at, current, published)
                .map_err(|stop| self.stopped(stop, request.revision <= 0))
        })
    }

    /// Reads one key as it is now.
    ///
    /// # Errors
    /// [`Refusal::Damaged`].
    #[cfg(test)]
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Refusal> {
        let entered = self.enter();
        let frame = entered.frame(entered.revision);
        let found = frame.find(key).and_then(|found| match found {
            Some(found) => frame.key_value(&found, &mut Copier::default()).map(Some),
            None => Ok(None),
        });
        found.map_err(|damage| self.damaged(damage))
    }

    /// Counts the living keys of a range at a revision.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`], [`Refusal::Damaged`].
    #[cfg(test)]
    pub fn count(&self, range: &KeyRange, at: Revision) -> Result<u64, Refusal> {
        let request = Range { count_only: true, ..Range::newest(range.clone()) };
        let published = self.inner.published();
        let at = read_at(at.0.max(1), published.revision, published.compact)?;
        let current = published.revision;
        let outcome = self.range_with(&request, at, current, published);
        outcome.map(|outcome| outcome.count).map_err(|stop| self.refuse(stop))
    }

    /// Takes the next step of a read at a revision that may have been compacted meanwhile.
    fn next_step(
        &self,
        gather: &mut Gather<'_>,
        at: Revision,
        bytes_max: usize,
    ) -> Result<(), Stop> {
        let published = self.inner.published();
        let bytes_max = buggify!("read_takes_few_bytes", 1, bytes_max);
        not_overtaken(at, published.compact)?;
        let ledger = gather.ledger(&published.counts);
        let entered = self.inner.enter_with(published);
        let frame = Frame { ledger: Some(&ledger), ..entered.frame(at) };
        Ok(gather.step(&frame, keys_in_view(), bytes_max)?)
    }

    /// Repeats a read of the newest revision while compactions overtake it.
    pub(super) fn again<T>(
        &self,
        mut read: impl FnMut() -> Result<T, Retry>,
    ) -> Result<T, Refusal> {
        let mut tries = 0;
        loop {
            tries += 1;
            match read() {
                Ok(found) => return Ok(found),
                Err(Retry::Again(_)) if tries < RETRIES => {}
                Err(Retry::Again(refusal) | Retry::Never(refusal)) => return Err(refusal),
            }
        }
    }

    /// Makes a refusal of a stop, and says whether another try makes sense.
    pub(super) fn stopped(&self, stop: Stop, newest: bool) -> Retry {
        match stop {
            Stop::Overtaken(compact) if newest => Retry::Again(Refusal::Compacted(compact)),
            stop => Retry::Never(self.refuse(stop)),
        }
    }

    pub(super) fn refuse(&self, stop: Stop) -> Refusal {
        match stop {
            Stop::Overtaken(compact) => Refusal::Compacted(compact),
            Stop::Damaged(damage) => self.damaged(damage),
        }
    }

    /// Reads at a revision that was found good under the lock whose guard comes along. `current` is
    /// what the answer calls the current revision.
    pub(super) fn range_with(
        &self,
        request: &Range,
        at: Revision,
        current: Revision,
        published: std::sync::RwLockReadGuard<'_, Published>,
    ) -> Result<RangeOutcome, Stop> {
        let mut gather = Gather::new(request);
        let mut counting = match &request.range {
            KeyRange::Span { start, end }
                if (gather.is_limited() || request.count_only) && !request.range.is_empty() =>
            {
                let plan = published.counts.plan(start, end);
                Some(Counting { plan, since: published.recent.since(at, &request.range) })
            }
            _ => None,
        };
        let walks = !request.count_only || counting.is_none();
        let ledger = walks.then(|| gather.ledger(&published.counts));
        let entered = self.inner.enter_with(published);
        let now = entered.revision;
        let mut counted = None;
        if walks {
            let frame = Frame { ledger: ledger.as_ref(), ..entered.frame(at) };
            gather.step(&frame, keys_in_view(), BATCH_BYTES)?;
        }
        if gather.done && !gather.full() {
            counting = None;
        }
        if let Some(counting) = &counting {
            counted = Some(counting.now(&entered.frame(now))?);
        }
        drop(entered);
        while walks && !gather.done {
            self.next_step(&mut gather, at, BATCH_BYTES)?;
        }
        let count = match (counting, counted) {
            (Some(counting), Some(counted)) if request.count_only || gather.full() => {
                self.count_then(&request.range, at, &counting.since, counted)?
            }
            _ => gather.seen,
        };
        Ok(gather.finish(count, current))
    }

    /// Takes a count back to an older revision.
    fn count_then(
        &self,
        range: &KeyRange,
        at: Revision,
        since: &Since,
        now: u64,
    ) -> Result<u64, Stop> {
        let mut gained = since.gained(range);
        if since.after > at {
            // Older than what is remembered: look at the rows since then, or, if the range has fewer
            // keys than there were revisions, at the keys.
            let revisions = since.after.0.abs_diff(at.0);
            if buggify!("read_counts_by_walking") || now < revisions {
                return self.count_by_walking(range, at);
            }
            gained += self.gained_in_rows(range, at, since.after)?;
        }
        Ok(now.checked_add_signed(-gained).expect("a range never had fewer than no keys"))
    }

    fn count_by_walking(&self, range: &KeyRange, at: Revision) -> Result<u64, Stop> {
        let request = Range { keys_only: true, ..Range::newest(range.clone()) };
        let mut gather = Gather::new(&request);
        gather.discard = true;
        while !gather.done {
            self.next_step(&mut gather, at, BATCH_BYTES)?;
        }
        Ok(gather.seen)
    }

    /// Adds up births and deaths in the rows above `after`, up to and with `last`.
    fn gained_in_rows(
        &self,
        range: &KeyRange,
        after: Revision,
        last: Revision,
    ) -> Result<i64, Stop> {
        let mut gained = 0;
        let mut unbroken = Unbroken::above(after);
        let mut from = RowId::new(after.next(), 0);
        let to = codec::row_key(RowId::new(last.next(), 0));
        loop {
            let entered = self.enter();
            not_overtaken(after, entered.compact)?;
            let mut seen = 0;
            let start = codec::row_key(from);
            let rows =
                entered.view.scan(Table::Rows, Bound::Included(&start), Bound::Excluded(&to));
            for (key, stored) in rows.take(BATCH_KEYS) {
                let id = codec::parse_row_key(&key).ok_or(Damage::Meta("row key"))?;
                let row = decode_row(id, &stored)?;
                unbroken.see(id)?;
                let body = Body::parse(row.body).ok_or(Damage::Row(id))?;
                if range.contains(body.key) {
                    gained += match (row.tombstone, body.version) {
                        (true, _) => -1,
                        (false, 1) => 1,
                        (false, _) => 0,
                    };
                }
                from = RowId::new(id.main, id.sub + 1);
                seen += 1;
            }
            if seen < BATCH_KEYS {
                unbroken.end(last)?;
                return Ok(gained);
            }
        }
    }
}

/// Whether a failed read may be tried again.
pub(super) enum Retry {
    Again(Refusal),
    Never(Refusal),
}

impl From<Refusal> for Retry {
    fn from(refusal: Refusal) -> Self {
        Self::Never(refusal)
    }
}

/// Judges the revision that a plain read asks for.
pub(super) fn read_at(
    asked: i64,
    current: Revision,
    compact: Option<Revision>,
) -> Result<Revision, Refusal> {
    if asked <= 0 {
        return Ok(current);
    }
    if asked > current.0 {
        return Err(Refusal::FutureRevision);
    }
    match compact {
        Some(compact) if asked < compact.0 => Err(Refusal::Compacted(compact)),
        _ => Ok(Revision(asked)),
    }
}

fn not_overtaken(at: Revision, compact: Option<Revision>) -> Result<(), Stop> {
    match compact {
        Some(compact) if at < compact => Err(Stop::Overtaken(compact)),
        _ => Ok(()),
    }
}

/// How to count a range without walking it.
pub(super) struct Counting {
    pub plan: Plan,
    pub since: Since,
}

impl Counting {
    /// Counts at the moment of the plan; the frame is of that moment.
    pub(super) fn now(&self, frame: &Frame<'_, '_>) -> Result<u64, Damage> {
        let mut count = self.plan.whole;
        for (start, end) in &self.plan.edges {
            count += frame.count(&span(start.clone(), end.clone()))?;
        }
        Ok(count)
    }
}

/// A read in progress.
pub(super) struct Gather<'r> {
    request: &'r Range,
    way: Way,
    filtered: bool,
    /// Keys to read before stopping.
    pub want: usize,
    /// Only counts.
    pub discard: bool,
    pub kvs: Vec<KeyValue>,
    copier: Copier,
    /// The last key that was visited.
    pub last: Option<Bytes>,
    /// Living keys that were visited, whatever the filters.
    pub seen: u64,
    /// The range is through, or there are as many keys as wanted.
    pub done: bool,
}

impl<'r> Gather<'r> {
    pub(super) fn new(request: &'r Range) -> Self {
        let filtered = [request.min_mod, request.max_mod, request.min_create, request.max_create]
            .iter()
            .any(|bound| *bound != 0);
        let (order, target) = request.sort;
        let in_key_order = order == SortOrder::None || target == SortTarget::Key;
        let limited = request.limit > 0 && !filtered && in_key_order;
        let downwards = limited && request.sort == (SortOrder::Descend, SortTarget::Key);
        let want = match usize::try_from(request.limit) {
            Ok(limit) if limited => limit.saturating_add(1),
            _ => usize::MAX,
        };
        Self {
            request,
            way: if downwards { Way::Down } else { Way::Up },
            filtered,
            want,
            discard: request.count_only,
            kvs: Vec::new(),
            copier: Copier::default(),
            last: None,
            seen: 0,
            done: false,
        }
    }

    /// Whether the read may end before the range does.
    pub(super) fn is_limited(&self) -> bool {
        self.want < usize::MAX
    }

    /// Whether there are as many keys as wanted, so that the range may have more.
    pub(super) fn full(&self) -> bool {
        self.kvs.len() >= self.want
    }

    /// Says what the next step must find.
    fn ledger(&self, counts: &Counts) -> Ledger {
        if matches!(self.request.range, KeyRange::One(_)) || self.request.range.is_empty() {
            return Ledger::default();
        }
        let (from, to) = bounds_after(&self.request.range, self.last.as_deref(), self.way);
        let keys_max = BATCH_KEYS.min(self.want.saturating_sub(self.kvs.len()));
        counts.ledger(from, to, self.way, keys_max)
    }

    /// Reads on in a frame, for a bounded number of keys and bytes.
    pub(super) fn step(
        &mut self,
        frame: &Frame<'_, '_>,
        keys_max: usize,
        bytes_max: usize,
    ) -> Result<(), Damage> {
        let request = self.request;
        let after = self.last.take();
        let stop_bytes = self.copier.bytes.saturating_add(bytes_max);
        let mut visited = 0;
        let mut paused = false;
        let mut last = None;
        let values = !request.keys_only || request.sort.1 == SortTarget::Value;
        frame.walk_living(&request.range, after.as_deref(), self.way, |key, found| {
            self.seen += 1;
            visited += 1;
            if !self.discard && (!self.filtered || self.passes(&found)) {
                let kv = if values {
                    frame.key_value(&found, &mut self.copier)?
                } else {
                    KeyValue {
                        key: self.copier.keep(key),
                        create_revision: found.create,
                        mod_revision: found.id.main,
                        version: found.version,
                        value: Bytes::new(),
                        lease: LeaseId(0),
                    }
                };
                self.kvs.push(kv);
                if self.kvs.len() >= self.want {
                    last = Some(Bytes::copy_from_slice(key));
                    return Ok(Flow::Stop);
                }
            }
            if visited >= keys_max || self.copier.bytes >= stop_bytes {
                paused = true;
                last = Some(Bytes::copy_from_slice(key));
                return Ok(Flow::Stop);
            }
            Ok(Flow::Go)
        })?;
        self.last = last;
        self.done = !paused || matches!(request.range, KeyRange::One(_));
        Ok(())
    }

    fn passes(&self, found: &Found<'_>) -> bool {
        let request = self.request;
        let (modified, created) = (found.id.main.0, found.create.0);
        (request.min_mod == 0 || modified >= request.min_mod)
            && (request.max_mod == 0 || modified <= request.max_mod)
            && (request.min_create == 0 || created >= request.min_create)
            && (request.max_create == 0 || created <= request.max_create)
    }

    /// Sorts and cuts what was read.
    pub(super) fn finish(mut self, count: u64, revision: Revision) -> RangeOutcome {
        let (order, target) = self.request.sort;
        let sorted = match (order, target) {
            (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => true,
            _ => self.way == Way::Down,
        };
        if !sorted {
            let by = |a: &KeyValue, b: &KeyValue| -> Ordering {
                match target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                }
            };
            match order {
                SortOrder::Descend => self.kvs.sort_by(|a, b| by(b, a)),
                SortOrder::None | SortOrder::Ascend => self.kvs.sort_by(by),
            }
        }
        let mut more = false;
        if let Ok(limit) = usize::try_from(self.request.limit)
            && limit > 0
            && self.kvs.len() > limit
        {
            self.kvs.truncate(limit);
            more = true;
        }
        if self.request.keys_only {
            for kv in &mut self.kvs {
                kv.value = Bytes::new();
            }
        }
        RangeOutcome { kvs: self.kvs, count, more, revision }
    }
}
