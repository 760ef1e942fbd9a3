//! Writing: one log entry's changes, gathered and then handed over as one change set.
//!
//! A [`Writer`] buffers: rows, the new states of keys, events. Its operations read through the buffer,
//! so a transaction sees what it has written so far. Nothing is visible to anybody else before the
//! change set is committed, and an operation that is refused takes back whatever it had buffered.
//!
//! Invariants
//! - All changes of one entry have one revision, the current one plus one; their subs count from 0.
//! - A refused operation leaves the writer as it was.
//! - An entry that changes no key moves no revision.
//! - Damage met while applying is no outcome: the member panics, since to go on would be to diverge.

use bytes::{Bytes, BytesMut};

use super::codec::{self, Chain, KeyState};
use super::counts::{self, Delta};
use super::frame::{Before, Copier, Damage, Flow, Frame, Pending, PendingKey, Way, span};
use super::read::{Counting, Gather, read_at};
use super::recent;
use super::store::{
    META_COMPACT, META_REVISION, Publish, Store, count_writes, empty_set, revision_write,
};
use super::txn::{Path, branch, check_path, check_range, decide};
use crate::command::{
    DeleteRange, Event, KeyRange, KeyValue, OpOutcome, Outcome, Put, Range, RangeEnd, RangeOutcome,
    Refusal, RowId, Txn, TxnOp, TxnOutcome,
};
use crate::mutant;
use crate::storage::{ChangeSet, Table, View, Write};
use crate::types::{LeaseId, LogPosition, Revision};

/// What the store asks about leases.
pub trait LeaseLookup {
    /// Tells whether there is such a lease.
    fn lease_exists(&self, id: LeaseId) -> bool;
}

impl<F: Fn(LeaseId) -> bool> LeaseLookup for F {
    fn lease_exists(&self, id: LeaseId) -> bool {
        self(id)
    }
}

/// A key that changed hands between leases, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseChange {
    /// The key.
    pub key: Bytes,
    /// Its lease before; 0 for none.
    pub from: LeaseId,
    /// Its lease now; 0 for none.
    pub to: LeaseId,
}

/// What one entry did to the store, to be committed.
#[derive(Debug)]
#[must_use = "what was applied is to be committed"]
pub struct Finished {
    /// The writes; whoever applies the entry adds its own.
    pub set: ChangeSet,
    /// What watchers are told, all of one revision; empty if no key changed.
    pub events: Vec<Event>,
    /// The current revision once this is committed.
    pub revision: Revision,
    /// Keys that changed hands between leases.
    pub lease_changes: Vec<LeaseChange>,
    /// Goes into [`Store::commit`] together with the set.
    pub publish: Publish,
}

/// One entry's write transaction.
pub struct Writer<'s> {
    store: &'s Store,
    view: View<'s>,
    position: LogPosition,
    base: Revision,
    compact: Option<Revision>,
    pending: Pending,
    events: Vec<Event>,
    lease_changes: Vec<LeaseChange>,
    compaction: Option<(Revision, Option<Revision>)>,
    buf: BytesMut,
}

impl Store {
    /// Begins the writes of one entry. One writer at a time; it is the engine's.
    pub fn writer(&self, position: LogPosition) -> Writer<'_> {
        let entered = self.enter();
        Writer {
            store: self,
            base: entered.revision,
            compact: entered.compact,
            view: entered.view,
            position,
            pending: Pending::default(),
            events: Vec::new(),
            lease_changes: Vec::new(),
            compaction: None,
            buf: BytesMut::new(),
        }
    }
}

/// A refusal, or damage.
enum Failure {
    Refused(Refusal),
    Damaged(Damage),
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Writer<'_> {
    /// The current revision as this entry sees it: one more once it has changed something.
    pub fn revision(&self) -> Revision {
        if self.pending.rows.is_empty() { self.base } else { self.base.next() }
    }

    /// Writes a key.
    pub fn put(&mut self, put: &Put, leases: &dyn LeaseLookup) -> Outcome {
        let result = match check_lease(put, leases) {
            Ok(()) => self.do_put(put),
            Err(refusal) => Err(refusal.into()),
        };
        match result {
            Ok(prev) => Outcome::Put { revision: self.revision(), prev },
            Err(failure) => self.refused(failure),
        }
    }

    /// Deletes a range.
    pub fn delete_range(&mut self, delete: &DeleteRange) -> Outcome {
        match self.do_delete(delete) {
            Ok((deleted, prevs)) => {
                Outcome::DeleteRange { revision: self.revision(), deleted, prevs }
            }
            Err(failure) => self.refused(failure),
        }
    }

    /// Deletes these keys as far as they live, in the order given, and says how many did. For a lease's
    /// keys: the caller gives them in byte order.
    pub fn delete_keys<'k>(&mut self, keys: impl IntoIterator<Item = &'k Bytes>) -> u64 {
        let mut deleted = 0;
        for key in keys {
            let one = DeleteRange { range: KeyRange::One(key.clone()), prev_kv: false };
            match self.do_delete(&one) {
                Ok((more, _)) => deleted += more,
                Err(failure) => {
                    self.refused(failure);
                }
            }
        }
        deleted
    }

    /// Runs a transaction.
    pub fn txn(&mut self, txn: &Txn, leases: &dyn LeaseLookup) -> Outcome {
        let mark = self.mark();
        match self.do_txn(txn, leases) {
            Ok(mut outcome) => {
                outcome.revision = self.revision();
                if mutant!("E15") && self.events.len() > 1 {
                    let again = self.events[0].clone();
                    self.events.push(again);
                }
                Outcome::Txn(outcome)
            }
            Err(failure) => {
                if !mutant!("E19") {
                    self.restore(mark);
                }
                self.refused(failure)
            }
        }
    }

    /// Forgets the history below a revision. Takes effect at once for readers; rows go later.
    pub fn compact(&mut self, revision: i64) -> Outcome {
        let compact = self.compaction.map_or(self.compact, |(now, _)| Some(now));
        if revision <= compact.map_or(-1, |compact| compact.0) {
            return self.refused(Refusal::Compacted(compact.unwrap_or_default()).into());
        }
        if revision > self.revision().0 {
            return self.refused(Refusal::FutureRevision.into());
        }
        assert!(self.compaction.is_none(), "one entry compacts once");
        self.compaction = Some((Revision(revision), self.compact));
        Outcome::Compact { revision: self.revision() }
    }

    /// Ends the entry: its writes, its events, what is to be published. The writer's view ends here.
    pub fn finish(mut self) -> Finished {
        let revision = self.revision();
        let changed = revision != self.base;
        let mut set = empty_set(self.position);
        let mut publish = Publish::default();
        let mut buf = std::mem::take(&mut self.buf);
        if changed {
            (publish.counts, publish.recent) = self.counted();
            set.writes.extend(count_writes(&publish.counts));
            publish.revision = Some(revision);
            set.writes.push(revision_write(META_REVISION, revision));
            for (id, row) in self.pending.rows {
                buf.extend_from_slice(&codec::row_key(id));
                set.writes.push(Write::put(Table::Rows, buf.split().freeze(), row));
            }
            for (key, PendingKey { state, .. }) in self.pending.keys {
                let stored = state.encode(&key, &mut buf);
                set.writes.push(Write::put(Table::Keys, key, stored));
            }
        }
        if let Some((compact, previous)) = self.compaction {
            set.writes.push(revision_write(META_COMPACT, compact));
            set.writes.push(super::scrub::compaction_write(compact, previous));
            publish.compact = Some((compact, previous));
        }
        Finished { set, events: self.events, revision, lease_changes: self.lease_changes, publish }
    }

    /// Says what this entry does to the counts. Whoever writes also keeps the buckets in order: splits
    /// one that has grown too large, or merges two that have become small.
    fn counted(&self) -> (Vec<counts::Change>, Vec<recent::Change>) {
        let deltas: Vec<(&Bytes, Delta)> = self
            .pending
            .keys
            .iter()
            .filter_map(|(key, written)| Some((key, written.delta()?)))
            .collect();
        if deltas.is_empty() {
            return Default::default();
        }
        let revision = self.revision();
        let recent = deltas.iter().filter(|(_, delta)| delta.live != 0).map(|(key, delta)| {
            recent::Change { revision, key: Bytes::copy_from_slice(key), delta: delta.live }
        });
        let recent = recent.collect();
        // NB: taken under a view, like in `count`: only this thread takes the lock for writing.
        let published = self.store.inner.published();
        if self.store.inner.scrub().take_sweep() {
            published.counts.start_sweep();
        }
        let mut changes = published.counts.changes(deltas.into_iter());
        if let Some((fence, end)) = published.counts.next_large() {
            let mut keys = Vec::new();
            self.walk_keys(&fence, end, &mut |key, state| {
                keys.push((Bytes::copy_from_slice(key), !state.tombstone));
                Flow::Go
            });
            published.counts.split(&mut changes, &fence, &keys);
        } else if let Some((left, right, end)) = published.counts.next_small() {
            let mut keys = 0;
            self.walk_keys(&left, end, &mut |_, _| {
                keys += 1;
                if keys < published.counts.merge_look() { Flow::Go } else { Flow::Stop }
            });
            published.counts.merge(&mut changes, &left, &right, keys);
        }
        (changes, recent)
    }

    fn walk_keys(
        &self,
        start: &Bytes,
        end: RangeEnd,
        visit: &mut dyn FnMut(&[u8], KeyState) -> Flow,
    ) {
        let range = span(start.clone(), end);
        let (from, to) = range.bounds();
        if let Err(damage) =
            self.frame().walk(from, to, Way::Up, |key, state| Ok(visit(key, state)))
        {
            self.refused(damage.into());
        }
    }

    fn frame(&self) -> Frame<'_, '_> {
        Frame {
            view: &self.view,
            pending: Some(&self.pending),
            at: self.revision(),
            compact: self.compact,
            ledger: None,
        }
    }

    fn refused(&self, failure: Failure) -> Outcome {
        match failure {
            Failure::Refused(refusal) => Outcome::Refused(refusal, self.revision()),
            Failure::Damaged(damage) => {
                self.store.damaged(damage.clone());
                panic!("an entry cannot be applied: {damage}");
            }
        }
    }

    fn do_put(&mut self, put: &Put) -> Result<Option<KeyValue>, Failure> {
        if put.key.is_empty() {
            return Err(Refusal::KeyNotProvided.into());
        }
        let frame = self.frame();
        let state = frame.state(&put.key)?;
        let alive = state.as_ref().filter(|state| !state.tombstone);
        if alive.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound.into());
        }
        let old = match alive {
            Some(alive) if put.prev_kv || put.ignore_value => {
                let data = frame.row_data(alive.id).ok_or(Damage::MissingRow(alive.id))?;
                Some(Copier::default().key_value(alive.id, data)?)
            }
            _ => None,
        };
        let value = match &old {
            Some(old) if put.ignore_value => old.value.clone(),
            _ => put.value.clone(),
        };
        let old_lease = alive.map_or(LeaseId(0), |alive| alive.lease);
        let lease = if put.ignore_lease { old_lease } else { put.lease };
        let main = self.base.next();
        let (create, version) = match alive {
            Some(alive) => (alive.create, alive.version + 1),
            None => (main, 1),
        };
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: create,
            mod_revision: main,
            version,
            value,
            lease,
        };
        if old_lease != lease {
            let key = kv.key.clone();
            self.lease_changes.push(LeaseChange { key, from: old_lease, to: lease });
        }
        self.write(state, false, kv);
        Ok(old.filter(|_| put.prev_kv))
    }

    fn do_delete(&mut self, delete: &DeleteRange) -> Result<(u64, Vec<KeyValue>), Failure> {
        let mut doomed = Vec::new();
        let mut prevs = Vec::new();
        let mut copier = Copier::default();
        let frame = self.frame();
        if let KeyRange::One(key) = &delete.range {
            if let Some(state) = frame.state(key)?
                && !state.tombstone
            {
                doomed.push((key.clone(), state));
            }
        } else {
            let (from, to) = delete.range.bounds();
            frame.walk(from, to, Way::Up, |key, state| {
                if !state.tombstone {
                    doomed.push((Bytes::copy_from_slice(key), state));
                }
                Ok(Flow::Go)
            })?;
        }
        if delete.prev_kv {
            for (_, state) in &doomed {
                let data = frame.row_data(state.id).ok_or(Damage::MissingRow(state.id))?;
                prevs.push(copier.key_value(state.id, data)?);
            }
        }
        let deleted = u64::try_from(doomed.len()).expect("counts fit");
        for (key, state) in doomed {
            if state.lease != LeaseId(0) {
                let (key, from) = (key.clone(), state.lease);
                self.lease_changes.push(LeaseChange { key, from, to: LeaseId(0) });
            }
            self.write(Some(state), true, KeyValue { key, ..KeyValue::default() });
        }
        Ok((deleted, prevs))
    }

    fn do_txn(&mut self, txn: &Txn, leases: &dyn LeaseLookup) -> Result<TxnOutcome, Failure> {
        let frame = self.frame();
        let path = decide(&frame, txn)?;
        let (current, compact) = (self.base, self.compact);
        if !mutant!("E19") {
            check_path(txn, &path, &mut |op| match op {
                TxnOp::Put(put) => check_put(&frame, put, leases),
                TxnOp::Range(range) => check_range(range, current, compact).map_err(Failure::from),
                TxnOp::DeleteRange(_) | TxnOp::Txn(_) => Ok(()),
            })?;
        }
        self.run(txn, &path, leases)
    }

    fn run(
        &mut self,
        txn: &Txn,
        path: &Path,
        leases: &dyn LeaseLookup,
    ) -> Result<TxnOutcome, Failure> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in branch(txn, path.succeeded) {
            responses.push(match op {
                TxnOp::Range(range) => OpOutcome::Range(self.do_range(range)?),
                TxnOp::Put(put) => {
                    check_lease(put, leases)?;
                    let prev = self.do_put(put)?;
                    OpOutcome::Put { revision: self.revision(), prev }
                }
                TxnOp::DeleteRange(delete) => {
                    let (deleted, prevs) = self.do_delete(delete)?;
                    OpOutcome::DeleteRange { revision: self.revision(), deleted, prevs }
                }
                TxnOp::Txn(inner) => {
                    let path = nested.next().expect("the path has every nested transaction");
                    OpOutcome::Txn(self.run(inner, path, leases)?)
                }
            });
        }
        Ok(TxnOutcome { revision: Revision(0), succeeded: path.succeeded, responses })
    }

    /// Reads a range as this entry sees it.
    fn do_range(&self, request: &Range) -> Result<RangeOutcome, Failure> {
        let current = self.revision();
        let at = read_at(request.revision, current, self.compact)?;
        let frame = Frame { at, ..self.frame() };
        let mut gather = Gather::new(request);
        if !request.count_only {
            gather.step(&frame, usize::MAX, usize::MAX)?;
        }
        let count = if !request.count_only && !gather.full() {
            gather.seen
        } else if let KeyRange::Span { start, end } = &request.range
            && !request.range.is_empty()
        {
            self.count(start, end, at, &frame)?
        } else {
            frame.count(&request.range)?
        };
        Ok(gather.finish(count, current))
    }

    fn count(
        &self,
        start: &Bytes,
        end: &RangeEnd,
        at: Revision,
        frame: &Frame<'_, '_>,
    ) -> Result<u64, Damage> {
        let range = span(start.clone(), end.clone());
        // NB: the one place that takes the lock under a view. It cannot wait for long: the only one to
        // take the lock for writing is the thread we are on.
        let published = self.store.inner.published();
        let since = published.recent.since(at, &range);
        if since.after > at {
            drop(published);
            return frame.count(&range);
        }
        let counting = Counting { plan: published.counts.plan(start, end), since };
        drop(published);
        let base = Frame { pending: None, at: self.base, ..*frame };
        let mut count = counting.now(&base)?;
        let gained = if at > self.base {
            let bounds = range.bounds();
            let written = self.pending.keys.range::<[u8], _>(bounds);
            let deltas = written.filter_map(|(_, key)| key.delta());
            deltas.map(|delta| i64::from(delta.live)).sum()
        } else {
            -counting.since.gained(&range)
        };
        count = count.checked_add_signed(gained).expect("a range never had fewer than no keys");
        Ok(count)
    }

    /// Buffers one change of one key.
    fn write(&mut self, old: Option<KeyState>, tombstone: bool, kv: KeyValue) {
        let sub = u32::try_from(self.pending.rows.len()).expect("an entry has fewer changes");
        let main = self.base.next();
        let id = RowId::new(main, sub);
        let prev = old.as_ref().map(|old| old.id);
        let (in_row, in_keys) = match &old {
            Some(old) => old.link(id),
            None => (Chain::default(), Chain::default()),
        };
        let (row, fields) = codec::encode_row(id, tombstone, prev, &in_row, &kv, &mut self.buf);
        // From here on the key is the row's copy: the entry's own buffer is let go.
        let key = row.slice(fields.key);
        let value = if fields.value.is_empty() { Bytes::new() } else { row.slice(fields.value) };
        let state = KeyState {
            id,
            tombstone,
            create: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            chain: in_keys,
        };
        self.events.push(if tombstone {
            Event::Delete { key: key.clone(), revision: main, sub, prev }
        } else {
            Event::Put { kv: KeyValue { key: key.clone(), value, ..kv }, sub, prev }
        });
        self.pending.rows.push((id, row));
        match self.pending.keys.get_mut(&key) {
            Some(pending) => pending.state = state,
            None => {
                let before = match old {
                    None => Before::Nothing,
                    Some(old) if old.tombstone => Before::Dead,
                    Some(_) => Before::Alive,
                };
                self.pending.keys.insert(key, PendingKey { state, before });
            }
        }
    }

    /// Remembers where the writer stands. Entries hold one operation as a rule, so there is nothing to
    /// copy.
    fn mark(&self) -> Mark {
        Mark {
            rows: self.pending.rows.len(),
            keys: (!self.pending.keys.is_empty())
                .then(|| self.pending.keys.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
            lease_changes: self.lease_changes.len(),
        }
    }

    fn restore(&mut self, mark: Mark) {
        self.pending.rows.truncate(mark.rows);
        self.events.truncate(mark.rows);
        self.lease_changes.truncate(mark.lease_changes);
        self.pending.keys = mark.keys.unwrap_or_default().into_iter().collect();
    }
}

/// Where a writer stood.
struct Mark {
    rows: usize,
    keys: Option<Vec<(Bytes, PendingKey)>>,
    lease_changes: usize,
}

fn check_lease(put: &Put, leases: &dyn LeaseLookup) -> Result<(), Refusal> {
    if put.lease != LeaseId(0) && !leases.lease_exists(put.lease) {
        return Err(Refusal::LeaseNotFound);
    }
    Ok(())
}

/// Checks a put before its transaction runs; in a transaction the key is looked for before the lease.
fn check_put(frame: &Frame<'_, '_>, put: &Put, leases: &dyn LeaseLookup) -> Result<(), Failure> {
    if put.key.is_empty() {
        return Err(Refusal::KeyNotProvided.into());
    }
    if (put.ignore_value || put.ignore_lease) && frame.find(&put.key)?.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    Ok(check_lease(put, leases)?)
}
