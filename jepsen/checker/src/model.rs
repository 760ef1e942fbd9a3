//! A sequential etcd: one operation at a time, each answered as etcd would.
//!
//! `Etcd::default()` is a fresh store (*init*, revision 1), [`Etcd::step`] applies one operation and
//! returns the reply or the refusal, and `==` compares two states (*equal*). It is slow where etcd is
//! fast (counts walk the range) and remembers everything, so any revision can be read and undone.
//!
//! Invariants:
//! * `live[k]` is the number of the last change of `k`, and that is a put;
//! * `attached[l]` has exactly the live keys whose lease is `l`;
//! * a step adds one revision to the timeline if it changed anything, else none.
//!
//! Left out: auth, quotas, members, and clocks (a lease ends when somebody revokes it).

use crate::blob::Blob;
use crate::op::*;
use crate::timeline::{Timeline, scan};
use crate::validate::validate;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Largest time to live that a lease may ask for, in seconds.
pub const TTL_MAX: i64 = 9_000_000_000;

/// Why a request was refused; displayed as etcd's own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    TtlTooLarge,
    /// Not an operation that may stand inside a txn.
    NotInTxn,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::EmptyKey => "etcdserver: key is not provided",
            Refusal::KeyNotFound => "etcdserver: key not found",
            Refusal::ValueProvided => "etcdserver: value is provided",
            Refusal::LeaseProvided => "etcdserver: lease is provided",
            Refusal::TooManyOps => "etcdserver: too many operations in txn request",
            Refusal::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Refusal::Compacted => "etcdserver: mvcc: required revision has been compacted",
            Refusal::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Refusal::LeaseNotFound => "etcdserver: requested lease not found",
            Refusal::LeaseExists => "etcdserver: lease already exists",
            Refusal::TtlTooLarge => "etcdserver: too large lease TTL",
            Refusal::NotInTxn => "etcdserver: key not found",
        })
    }
}

/// The state of a sequential etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    timeline: Timeline,
    live: BTreeMap<Blob, u32>,
    attached: BTreeMap<i64, BTreeSet<Blob>>,
    leases: BTreeMap<i64, i64>,
    leases_known: bool,
    compacted: i64,
    ttl_min: i64,
}

impl Default for Etcd {
    fn default() -> Self {
        Etcd {
            timeline: Timeline::default(),
            live: BTreeMap::new(),
            attached: BTreeMap::new(),
            leases: BTreeMap::new(),
            leases_known: true,
            compacted: -1,
            ttl_min: 2,
        }
    }
}

impl Etcd {
    /// A fresh store that believes in any lease: for replays by revision, where grants, which have no
    /// revision of their own, have no place.
    pub fn with_any_lease() -> Self {
        Etcd { leases_known: false, ..Etcd::default() }
    }

    /// Believes in any lease from now on.
    pub(crate) fn trust_leases(&mut self) {
        self.leases_known = false;
    }

    /// The store's revision.
    pub fn revision(&self) -> i64 {
        self.timeline.revision()
    }

    /// The compact revision; −1 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// All changes so far.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Gives the changes away and drops the rest.
    pub fn into_timeline(self) -> Timeline {
        self.timeline
    }

    /// The key as it is now.
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.live.get(key).map(|&number| &self.timeline.change(number).kv)
    }

    /// All keys as they are now, in order.
    pub fn all(&self) -> impl Iterator<Item = &KeyValue> {
        self.live.values().map(|&number| &self.timeline.change(number).kv)
    }

    /// The live keys attached to a lease, in order.
    pub fn attached(&self, lease: i64) -> impl Iterator<Item = &Blob> {
        self.attached.get(&lease).into_iter().flatten()
    }

    /// The leases that have keys, in order.
    pub fn leases_with_keys(&self) -> impl Iterator<Item = i64> + '_ {
        self.attached.keys().copied()
    }

    /// The leases granted and not revoked, with their time to live.
    pub fn leases(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.leases.iter().map(|(&id, &ttl)| (id, ttl))
    }

    /// Applies one operation. A refused one changes nothing. Headers carry the revision only.
    pub fn step(&mut self, op: &Operation) -> Result<Reply, Refusal> {
        validate(op)?;
        Ok(match op {
            Operation::Put(_) | Operation::DeleteRange(_) => {
                self.admit(op, self.revision())?;
                self.in_one_revision(|store| store.apply(op))
            }
            Operation::Range(range) => {
                let at = self.read_revision(range.revision.max(0))?;
                Reply::Range(self.range(range, at))
            }
            Operation::Txn(txn) => {
                let path = self.decide(txn);
                self.admit_txn(txn, &path)?;
                let before = self.revision();
                let mut reply = self.in_one_revision(|store| store.apply_txn(txn, &path));
                // Inside, a nested header is present but empty; the outer one says where the store is.
                let now = if reply.changed() { self.revision() } else { before };
                reply.header_mut().revision = now;
                reply
            }
            Operation::Compact(compact) => {
                if compact.revision > self.revision() {
                    return Err(Refusal::FutureRevision);
                }
                if compact.revision <= self.compacted {
                    return Err(Refusal::Compacted);
                }
                self.compacted = compact.revision;
                Reply::Compact(PlainReply { header: self.header() })
            }
            Operation::LeaseGrant(grant) => {
                if grant.ttl > TTL_MAX {
                    return Err(Refusal::TtlTooLarge);
                }
                let id = match grant.id {
                    0 => self.leases.keys().max().map_or(1, |id| id.saturating_add(1).max(1)),
                    id => id,
                };
                if self.leases.contains_key(&id) {
                    return Err(Refusal::LeaseExists);
                }
                let ttl = grant.ttl.max(self.ttl_min);
                self.leases.insert(id, ttl);
                Reply::LeaseGrant(LeaseGrantReply { header: self.header(), id, ttl })
            }
            Operation::LeaseRevoke(revoke) => {
                if self.leases_known && !self.leases.contains_key(&revoke.id) {
                    return Err(Refusal::LeaseNotFound);
                }
                self.end_lease(revoke.id);
                Reply::LeaseRevoke(PlainReply { header: self.header() })
            }
            Operation::LeaseKeepAlive(keep) => {
                let ttl = self.leases.get(&keep.id).copied().unwrap_or(0);
                Reply::LeaseKeepAlive(LeaseKeepAliveReply { header: self.header(), ttl })
            }
            Operation::LeaseTimeToLive(ask) => {
                let header = self.header();
                Reply::LeaseTimeToLive(match self.leases.get(&ask.id) {
                    None => LeaseTimeToLiveReply { header, ttl: -1, ..Default::default() },
                    Some(&ttl) => LeaseTimeToLiveReply {
                        header,
                        ttl,
                        granted_ttl: ttl,
                        keys: match ask.keys {
                            true => self.attached(ask.id).cloned().collect(),
                            false => Vec::new(),
                        },
                    },
                })
            }
        })
    }

    /// Ends a lease, as revoke and expiry do alike: its keys go, in order, in one revision. Returns
    /// whether there were any.
    pub fn end_lease(&mut self, lease: i64) -> bool {
        self.leases.remove(&lease);
        let keys: Vec<Blob> = self.attached(lease).cloned().collect();
        self.timeline.open();
        keys.iter().for_each(|key| self.remove(key));
        !self.timeline.close_if_empty()
    }

    /// Makes a revision of exactly these changes, whatever they are.
    pub fn force(&mut self, changes: &[Change]) {
        self.timeline.open();
        changes.iter().for_each(|change| self.record(change.clone()));
    }

    /// Takes back every revision after `revision`. Grants and compactions are not taken back.
    pub fn undo_to(&mut self, revision: i64) {
        while self.revision() > revision {
            let Etcd { timeline, live, attached, .. } = self;
            let mut undone = Vec::new();
            timeline.pop(|change, before| undone.push((change, before)));
            for (change, before) in undone {
                if change.kind == EventKind::Put {
                    detach(attached, &change.kv);
                }
                // A change before it in the same revision is gone as well, and its own turn comes next.
                match before.and_then(|n| Some((n, timeline.existing(n)?))) {
                    Some((number, old)) if old.kind == EventKind::Put => {
                        attach(attached, &old.kv);
                        live.insert(change.kv.key, number);
                    }
                    _ => {
                        live.remove(&change.kv.key);
                    }
                }
            }
        }
    }

    fn header(&self) -> Header {
        Header { revision: self.revision(), member: 0, term: 0 }
    }

    fn in_one_revision(&mut self, apply: impl FnOnce(&mut Self) -> Reply) -> Reply {
        self.timeline.open();
        let reply = apply(self);
        self.timeline.close_if_empty();
        reply
    }

    /// The revision that the open revision's reads and empty deletes report: the new one only after the
    /// first change.
    fn revision_inside(&self) -> i64 {
        let open = self.revision();
        if self.timeline.at(open).is_empty() { open - 1 } else { open }
    }

    fn read_revision(&self, asked: i64) -> Result<i64, Refusal> {
        match asked {
            0 => Ok(self.revision()),
            asked if asked > self.revision() => Err(Refusal::FutureRevision),
            asked if asked < self.compacted => Err(Refusal::Compacted),
            asked if asked < 0 => Ok(self.revision()),
            asked => Ok(asked),
        }
    }

    /// Refuses, before anything is written, what could not be applied.
    fn admit(&self, op: &Operation, now: i64) -> Result<(), Refusal> {
        match op {
            Operation::Put(put) => {
                if self.leases_known && put.lease != 0 && !self.leases.contains_key(&put.lease) {
                    return Err(Refusal::LeaseNotFound);
                }
                if (put.ignore_value || put.ignore_lease) && self.get(&put.key).is_none() {
                    return Err(Refusal::KeyNotFound);
                }
                Ok(())
            }
            Operation::Range(range) if range.revision > now => Err(Refusal::FutureRevision),
            Operation::Range(range) if range.revision != 0 && range.revision < self.compacted => {
                Err(Refusal::Compacted)
            }
            _ => Ok(()),
        }
    }

    fn admit_txn(&self, txn: &Txn, path: &Path) -> Result<(), Refusal> {
        let mut nested = path.nested.iter();
        for op in path.branch(txn) {
            match op {
                Operation::Txn(inner) => {
                    self.admit_txn(inner, nested.next().expect("one path a nested txn"))?;
                }
                op => self.admit(op, self.revision())?,
            }
        }
        Ok(())
    }

    fn apply(&mut self, op: &Operation) -> Reply {
        match op {
            Operation::Put(put) => Reply::Put(self.put(put)),
            Operation::DeleteRange(delete) => Reply::DeleteRange(self.delete(delete)),
            Operation::Range(range) => {
                let at = match range.revision {
                    at if at > 0 => at,
                    _ => self.revision(),
                };
                let mut reply = self.range(range, at);
                reply.header.revision = self.revision_inside();
                Reply::Range(reply)
            }
            other => unreachable!("validation lets no {other:?} into a txn"),
        }
    }

    fn apply_txn(&mut self, txn: &Txn, path: &Path) -> Reply {
        let mut nested = path.nested.iter();
        let responses = path
            .branch(txn)
            .iter()
            .map(|op| match op {
                Operation::Txn(inner) => {
                    self.apply_txn(inner, nested.next().expect("one path a nested txn"))
                }
                op => self.apply(op),
            })
            .collect();
        Reply::Txn(TxnReply { header: Header::default(), succeeded: path.succeeded, responses })
    }

    fn put(&mut self, put: &Put) -> PutReply {
        let revision = self.revision();
        let old = self.get(&put.key);
        let kv = KeyValue {
            key: put.key.clone(),
            value: match old {
                Some(old) if put.ignore_value => old.value.clone(),
                _ => put.value.clone(),
            },
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(0, |old| old.version) + 1,
            lease: match old {
                Some(old) if put.ignore_lease => old.lease,
                _ => put.lease,
            },
        };
        let prev_kv = old.filter(|_| put.prev_kv).cloned();
        self.record(Change { kind: EventKind::Put, kv });
        PutReply { header: self.header(), prev_kv }
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteRangeReply {
        let old: Vec<KeyValue> = self.scan_live(&delete.key, &delete.range_end).cloned().collect();
        old.iter().for_each(|kv| self.remove(&kv.key));
        DeleteRangeReply {
            header: Header { revision: self.revision_inside(), ..Header::default() },
            deleted: i64::try_from(old.len()).expect("fits"),
            prev_kvs: if delete.prev_kv { old } else { Vec::new() },
        }
    }

    fn remove(&mut self, key: &Blob) {
        let mod_revision = self.revision();
        let kv = KeyValue { key: key.clone(), mod_revision, ..KeyValue::default() };
        self.record(Change { kind: EventKind::Delete, kv });
    }

    /// Adds one change to the open revision.
    fn record(&mut self, change: Change) {
        let key = change.kv.key.clone();
        if let Some(&old) = self.live.get(&key) {
            detach(&mut self.attached, &self.timeline.change(old).kv);
        }
        if change.kind == EventKind::Put {
            attach(&mut self.attached, &change.kv);
            let number = self.timeline.add(change);
            self.live.insert(key, number);
        } else {
            self.timeline.add(change);
            self.live.remove(&key);
        }
    }

    fn scan_live<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> Box<dyn Iterator<Item = &'a KeyValue> + 'a> {
        match end {
            b"" => Box::new(self.get(start).into_iter()),
            _ => Box::new(scan(&self.live, start, end).map(|(_, &n)| &self.timeline.change(n).kv)),
        }
    }

    /// The reply to a range at a revision that may be read.
    fn range(&self, range: &Range, at: i64) -> RangeReply {
        let (mut kvs, count, over) = self.select(range, at);
        let limit = usize::try_from(range.limit).unwrap_or(0);
        let more = limit > 0 && (kvs.len() > limit || over);
        if limit > 0 {
            kvs.truncate(limit);
        }
        RangeReply { header: self.header(), kvs, more: more && !range.count_only, count }
    }

    /// Everything a range selects, filtered and sorted but not cut; the count; and whether keys were
    /// left out before sorting (the order NONE with a target cuts first, in key order).
    pub(crate) fn select(&self, range: &Range, at: i64) -> (Vec<KeyValue>, i64, bool) {
        let found: Box<dyn Iterator<Item = &KeyValue>> = if at == self.revision() {
            self.scan_live(&range.key, &range.range_end)
        } else {
            Box::new(self.timeline.range(&range.key, &range.range_end, at))
        };
        if range.count_only {
            return (Vec::new(), i64::try_from(found.count()).expect("fits"), false);
        }
        let bounded = |value: i64, min: i64, max: i64| {
            (min == 0 || value >= min) && (max == 0 || value <= max)
        };
        let filtered = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ] != [0; 4];
        let limit = match usize::try_from(range.limit) {
            Ok(limit) if limit > 0 && range.sort_order == SortOrder::None && !filtered => limit + 1,
            _ => usize::MAX,
        };
        let (mut kvs, mut count, mut over) = (Vec::new(), 0, false);
        for kv in found {
            count += 1;
            if bounded(kv.mod_revision, range.min_mod_revision, range.max_mod_revision)
                && bounded(kv.create_revision, range.min_create_revision, range.max_create_revision)
            {
                if kvs.len() < limit {
                    kvs.push(kv.clone());
                } else {
                    over = true;
                }
            }
        }
        if range.sort_target != SortTarget::Key || range.sort_order == SortOrder::Descend {
            kvs.sort_by(|a, b| match range.sort_order {
                SortOrder::Descend => sort_key(range.sort_target, b, a),
                _ => sort_key(range.sort_target, a, b),
            });
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Blob::default();
                // Answered from the key index, which knows no lease; sorting by value looks further.
                if range.sort_target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        (kvs, count, over)
    }

    /// Evaluates all compares, nested ones too, on the state before the txn.
    fn decide(&self, txn: &Txn) -> Path {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let nested = branch
            .iter()
            .filter_map(|op| match op {
                Operation::Txn(inner) => Some(self.decide(inner)),
                _ => None,
            })
            .collect();
        Path { succeeded, nested }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut found = self.scan_live(&compare.key, &compare.range_end).peekable();
        if found.peek().is_none() {
            // A value cannot be compared with nothing; the numbers of nothing are 0.
            return !matches!(compare.target, Target::Value(_))
                && relation(compare, &KeyValue::default());
        }
        found.all(|kv| relation(compare, kv))
    }
}

fn attach(attached: &mut BTreeMap<i64, BTreeSet<Blob>>, kv: &KeyValue) {
    if kv.lease != 0 {
        attached.entry(kv.lease).or_default().insert(kv.key.clone());
    }
}

fn detach(attached: &mut BTreeMap<i64, BTreeSet<Blob>>, kv: &KeyValue) {
    if let Some(keys) = attached.get_mut(&kv.lease) {
        keys.remove(&kv.key);
        if keys.is_empty() {
            attached.remove(&kv.lease);
        }
    }
}

/// Which branch each txn of a nest takes.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn branch<'a>(&self, txn: &'a Txn) -> &'a [Operation] {
        if self.succeeded { &txn.success } else { &txn.failure }
    }
}

/// How two keys stand in the order of a sort target.
pub(crate) fn sort_key(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

fn relation(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        Target::Version(version) => kv.version.cmp(version),
        Target::Create(revision) => kv.create_revision.cmp(revision),
        Target::Mod(revision) => kv.mod_revision.cmp(revision),
        Target::Value(value) => kv.value.cmp(value),
        Target::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
