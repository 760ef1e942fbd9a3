//! etcd's data model, written down the slow and obvious way: all rows of all time in one list.
//!
//! Nothing here shares code or ideas with the store: a state is had by going through the rows, a count
//! by counting, a hash by the words of the fact sheet. It is what the store is compared with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, KeyValue, Op, OpOutcome, Operand, Outcome,
    Put, Range, RangeOutcome, Refusal, SortOrder, SortTarget, Txn, TxnOp, TxnOutcome,
};
use crate::mvcc::HashKv;
use crate::types::{LeaseId, Revision};

/// A row as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    pub main: i64,
    pub sub: u32,
    pub tombstone: bool,
    /// For a tombstone only the key counts.
    pub kv: KeyValue,
}

type Keys = BTreeMap<Bytes, KeyValue>;

/// A whole etcd.
#[derive(Clone, Debug)]
pub struct Model {
    pub revision: i64,
    /// −1 for never.
    pub compact: i64,
    rows: Vec<ModelRow>,
    live: Keys,
    hashes: Vec<HashKv>,
}

impl Default for Model {
    fn default() -> Self {
        Self { revision: 1, compact: -1, rows: vec![], live: Keys::new(), hashes: vec![] }
    }
}

/// A transaction being run: the model as it was, and what has been written.
struct Run<'m> {
    model: &'m Model,
    rows: Vec<ModelRow>,
    live: Keys,
}

impl Model {
    /// Applies a command; only those that concern keys.
    pub fn apply(&mut self, op: &Op, leases: &BTreeSet<i64>) -> Outcome {
        match op {
            Op::Compact { revision, .. } => return self.compact(*revision),
            Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => {}
            _ => panic!("not about keys"),
        }
        let mut run = Run { model: self, rows: vec![], live: self.live.clone() };
        let result = match op {
            Op::Put(put) => check_lease(put, leases).and_then(|()| {
                let prev = run.put(put)?;
                Ok(Outcome::Put { revision: run.revision(), prev })
            }),
            Op::DeleteRange(delete) => {
                let (deleted, prevs) = run.delete(delete);
                Ok(Outcome::DeleteRange { revision: run.revision(), deleted, prevs })
            }
            Op::Txn(txn) => run.outer(txn, leases).map(Outcome::Txn),
            _ => unreachable!(),
        };
        match result {
            Ok(outcome) => {
                let (rows, live) = (run.rows, run.live);
                if !rows.is_empty() {
                    self.revision += 1;
                }
                self.rows.extend(rows);
                self.live = live;
                outcome
            }
            Err(refusal) => Outcome::Refused(refusal, Revision(self.revision)),
        }
    }

    fn compact(&mut self, revision: i64) -> Outcome {
        let current = Revision(self.revision);
        if revision <= self.compact {
            return Outcome::Refused(Refusal::Compacted(Revision(self.compact.max(0))), current);
        }
        if revision > self.revision {
            return Outcome::Refused(Refusal::FutureRevision, current);
        }
        let tombstone = self.rows.iter().any(|row| row.main == revision && row.tombstone);
        let hash = self.hash_under(self.compact, revision, tombstone);
        self.hashes.push(hash);
        if self.hashes.len() > 10 {
            self.hashes.remove(0);
        }
        self.compact = revision;
        Outcome::Compact { revision: current }
    }

    /// The living keys at a revision.
    pub fn at(&self, revision: i64) -> Keys {
        let mut keys = Keys::new();
        for row in self.rows.iter().take_while(|row| row.main <= revision) {
            if row.tombstone {
                keys.remove(&row.kv.key);
            } else {
                keys.insert(row.kv.key.clone(), row.kv.clone());
            }
        }
        keys
    }

    pub fn range(&self, request: &Range) -> Result<RangeOutcome, Refusal> {
        let at = self.readable(request.revision)?;
        Ok(select(&self.at(at), request, self.revision))
    }

    fn readable(&self, asked: i64) -> Result<i64, Refusal> {
        if asked <= 0 {
            return Ok(self.revision);
        }
        if asked > self.revision {
            return Err(Refusal::FutureRevision);
        }
        if asked < self.compact {
            return Err(Refusal::Compacted(Revision(self.compact)));
        }
        Ok(asked)
    }

    pub fn txn_read_only(&self, txn: &Txn) -> Result<TxnOutcome, Refusal> {
        let mut run = Run { model: self, rows: vec![], live: self.live.clone() };
        run.outer(txn, &BTreeSet::new())
    }

    /// All rows from a revision on.
    pub fn history(&self, from: i64) -> Result<Vec<ModelRow>, Refusal> {
        if from < self.compact {
            return Err(Refusal::Compacted(Revision(self.compact)));
        }
        Ok(self.rows.iter().filter(|row| row.main >= from).cloned().collect())
    }

    /// What a key was before the revision of the event of a row.
    pub fn previous(&self, row: &ModelRow) -> Option<KeyValue> {
        let creates = !row.tombstone && row.kv.create_revision.0 == row.main;
        if creates || row.main - 1 < self.compact {
            return None;
        }
        self.at(row.main - 1).remove(&row.kv.key)
    }

    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Refusal> {
        if let Some(hash) = self.hashes.iter().find(|hash| hash.hash_revision == revision) {
            return Ok(*hash);
        }
        if revision < 0 {
            return Ok(HashKv {
                hash: crc32c::crc32c(b"key"),
                compact_revision: self.compact,
                hash_revision: revision,
            });
        }
        let at = if revision == 0 { self.revision } else { self.readable(revision)? };
        Ok(self.hash_under(self.compact, at, false))
    }

    /// The hash by the words of the fact sheet, over what a complete scrub leaves.
    fn hash_under(&self, compact: i64, revision: i64, keeps_tombstone: bool) -> HashKv {
        let newest_at = |at: i64| {
            let mut newest: BTreeMap<&Bytes, (i64, u32, bool)> = BTreeMap::new();
            for row in self.rows.iter().take_while(|row| row.main <= at) {
                newest.insert(&row.kv.key, (row.main, row.sub, row.tombstone));
            }
            newest
        };
        let kept = newest_at(compact);
        let physical = self.rows.iter().filter(|row| {
            row.main > compact
                || kept.get(&row.kv.key).is_some_and(|(main, sub, tombstone)| {
                    (*main, *sub) == (row.main, row.sub) && (!tombstone || *main == compact)
                })
        });
        let newest = newest_at(revision);
        let keep: BTreeSet<(i64, u32)> = newest
            .values()
            .filter(|(_, _, tombstone)| !tombstone)
            .map(|(main, sub, _)| (*main, *sub))
            .collect();
        let mut crc = crc32c::crc32c(b"key");
        for row in physical {
            if row.main > revision {
                continue;
            }
            if row.main <= compact
                && (!keep.is_empty() || keeps_tombstone)
                && !keep.contains(&(row.main, row.sub))
            {
                continue;
            }
            if row.main == compact && row.tombstone {
                continue;
            }
            let mut key = u64::try_from(row.main).expect("positive").to_be_bytes().to_vec();
            key.push(b'_');
            key.extend_from_slice(&u64::from(row.sub).to_be_bytes());
            if row.tombstone {
                key.push(b't');
            }
            let value = prost::Message::encode_to_vec(&crate::proto::mvccpb::KeyValue {
                key: row.kv.key.clone(),
                create_revision: row.kv.create_revision.0,
                mod_revision: if row.tombstone { 0 } else { row.kv.mod_revision.0 },
                version: row.kv.version,
                value: row.kv.value.clone(),
                lease: row.kv.lease.0,
            });
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &key), &value);
        }
        HashKv { hash: crc, compact_revision: compact, hash_revision: revision }
    }
}

fn check_lease(put: &Put, leases: &BTreeSet<i64>) -> Result<(), Refusal> {
    if put.lease.0 == 0 || leases.contains(&put.lease.0) {
        Ok(())
    } else {
        Err(Refusal::LeaseNotFound)
    }
}

impl Run<'_> {
    fn revision(&self) -> Revision {
        Revision(self.model.revision + i64::from(!self.rows.is_empty()))
    }

    fn add(&mut self, tombstone: bool, kv: KeyValue) {
        let main = self.model.revision + 1;
        let sub = u32::try_from(self.rows.len()).expect("few");
        self.rows.push(ModelRow { main, sub, tombstone, kv });
    }

    fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, Refusal> {
        let old = self.live.get(&put.key).cloned();
        if old.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let main = Revision(self.model.revision + 1);
        let mut kv = KeyValue {
            key: put.key.clone(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: put.value.clone(),
            lease: put.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if put.ignore_value {
                kv.value = old.value.clone();
            }
            if put.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.live.insert(put.key.clone(), kv.clone());
        self.add(false, kv);
        Ok(old.filter(|_| put.prev_kv))
    }

    fn delete(&mut self, delete: &DeleteRange) -> (u64, Vec<KeyValue>) {
        let doomed: Vec<KeyValue> =
            self.live.values().filter(|kv| delete.range.contains(&kv.key)).cloned().collect();
        for kv in &doomed {
            self.live.remove(&kv.key);
            self.add(true, KeyValue { key: kv.key.clone(), ..KeyValue::default() });
        }
        let deleted = u64::try_from(doomed.len()).expect("few");
        (deleted, if delete.prev_kv { doomed } else { vec![] })
    }

    fn outer(&mut self, txn: &Txn, leases: &BTreeSet<i64>) -> Result<TxnOutcome, Refusal> {
        let before = self.model.live.clone();
        let (revision, compact) = (self.model.revision, self.model.compact);
        self.check(&before, txn, &mut |op| match op {
            TxnOp::Put(put) => {
                if (put.ignore_value || put.ignore_lease) && !before.contains_key(&put.key) {
                    return Err(Refusal::KeyNotFound);
                }
                check_lease(put, leases)
            }
            TxnOp::Range(range) if range.revision == 0 => Ok(()),
            TxnOp::Range(range) if range.revision > revision => Err(Refusal::FutureRevision),
            TxnOp::Range(range) if range.revision < compact => {
                Err(Refusal::Compacted(Revision(compact.max(0))))
            }
            _ => Ok(()),
        })?;
        let mut outcome = self.run(&before, txn)?;
        outcome.revision = self.revision();
        Ok(outcome)
    }

    fn check(
        &self,
        before: &Keys,
        txn: &Txn,
        check: &mut dyn FnMut(&TxnOp) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let succeeded = txn.compares.iter().all(|compare| holds(before, compare));
        for op in if succeeded { &txn.success } else { &txn.failure } {
            match op {
                TxnOp::Txn(inner) => self.check(before, inner, check)?,
                op => check(op)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, before: &Keys, txn: &Txn) -> Result<TxnOutcome, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| holds(before, compare));
        let mut responses = vec![];
        for op in if succeeded { &txn.success } else { &txn.failure } {
            responses.push(match op {
                TxnOp::Range(range) => {
                    let current = self.revision().0;
                    let keys = if range.revision <= 0 {
                        self.live.clone()
                    } else {
                        self.model.at(range.revision)
                    };
                    OpOutcome::Range(select(&keys, range, current))
                }
                TxnOp::Put(put) => {
                    let prev = self.put(put)?;
                    OpOutcome::Put { revision: self.revision(), prev }
                }
                TxnOp::DeleteRange(delete) => {
                    let (deleted, prevs) = self.delete(delete);
                    OpOutcome::DeleteRange { revision: self.revision(), deleted, prevs }
                }
                TxnOp::Txn(inner) => OpOutcome::Txn(self.run(before, inner)?),
            });
        }
        Ok(TxnOutcome { revision: Revision(0), succeeded, responses })
    }
}

fn holds(keys: &Keys, compare: &Compare) -> bool {
    let hit: Vec<&KeyValue> = keys.values().filter(|kv| compare.range.contains(&kv.key)).collect();
    if hit.is_empty() {
        return compare.target != CompareTarget::Value && relates(compare, &KeyValue::default());
    }
    hit.into_iter().all(|kv| relates(compare, kv))
}

fn relates(compare: &Compare, kv: &KeyValue) -> bool {
    let (left, right) = match (compare.target, &compare.operand) {
        (CompareTarget::Version, Operand::Version(n)) => (kv.version, *n),
        (CompareTarget::Version, _) => (kv.version, 0),
        (CompareTarget::Create, Operand::Create(n)) => (kv.create_revision.0, *n),
        (CompareTarget::Create, _) => (kv.create_revision.0, 0),
        (CompareTarget::Mod, Operand::Mod(n)) => (kv.mod_revision.0, *n),
        (CompareTarget::Mod, _) => (kv.mod_revision.0, 0),
        (CompareTarget::Lease, Operand::Lease(n)) => (kv.lease.0, *n),
        (CompareTarget::Lease, _) => (kv.lease.0, 0),
        (CompareTarget::Value, operand) => {
            let right: &[u8] = if let Operand::Value(value) = operand { value } else { &[] };
            (0, -(kv.value[..].cmp(right) as i64))
        }
        (CompareTarget::Unknown(_), _) => (0, 0),
    };
    match compare.result {
        CompareResult::Equal => left == right,
        CompareResult::NotEqual => left != right,
        CompareResult::Greater => left > right,
        CompareResult::Less => left < right,
        CompareResult::Unknown(_) => true,
    }
}

/// etcd's reading order: the store's own limit, filters, sort, limit.
fn select(keys: &Keys, request: &Range, current: i64) -> RangeOutcome {
    let hit: Vec<KeyValue> =
        keys.values().filter(|kv| request.range.contains(&kv.key)).cloned().collect();
    let count = u64::try_from(hit.len()).expect("few");
    let revision = Revision(current);
    if request.count_only {
        return RangeOutcome { kvs: vec![], count, more: false, revision };
    }
    let (order, target) = request.sort;
    let filters = [request.min_mod, request.max_mod, request.min_create, request.max_create];
    let mut kvs = hit;
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && order == SortOrder::None && filters == [0; 4] {
        kvs.truncate(limit + 1);
    }
    kvs.retain(|kv| {
        let (modified, create) = (kv.mod_revision.0, kv.create_revision.0);
        !(request.min_mod != 0 && modified < request.min_mod
            || request.max_mod != 0 && modified > request.max_mod
            || request.min_create != 0 && create < request.min_create
            || request.max_create != 0 && create > request.max_create)
    });
    if order != SortOrder::None || target != SortTarget::Key {
        let descend = order == SortOrder::Descend;
        kvs.sort_by(|a, b| {
            let (a, b) = if descend { (b, a) } else { (a, b) };
            match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            }
        });
    }
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Bytes::new();
            if target != SortTarget::Value {
                kv.lease = LeaseId(0);
            }
        }
    }
    RangeOutcome { kvs, count, more, revision }
}
