//! Single keys judged as registers by the search in wgl.rs, which looks at no revision: a second opinion
//! beside the revision order, and the one that would notice if revisions themselves were made up.
//!
//! A key is taken if all that touches it can be read as read, write, delete or compare-and-set of one
//! value; a key with a lease, in a range or in a larger txn is left to the revision order. A history cut
//! after some operations stays sound: what has not returned by then is unknown.
//!
//! An unknown put whose value nobody ever saw is left out when no failed compare could depend on it: an
//! order that has it works without it, and each one left in doubles the search.

use crate::blob::Blob;
use crate::op::{CompareResult, Operation, Reply, Target, Txn};
use crate::ops::{Op, Ops, Outcome};
use crate::verdict::{Options, Verdict, Violation};
use crate::wgl::{self, Call, Model};
use std::collections::{BTreeMap, BTreeSet};

/// A register that holds a value or nothing.
pub struct Register;

/// An operation on a register, with its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOp {
    /// Found this.
    Read(Option<Blob>),
    /// Wrote this; nothing is a delete.
    Write(Option<Blob>),
    /// Removed something (true), or found nothing to remove.
    Removed(bool),
    /// Wrote `to` if the value was `from`, and said whether it did, if it said.
    CompareAndSet {
        /// The value compared with.
        from: Blob,
        /// The value written.
        to: Blob,
        /// Whether it was written.
        done: Option<bool>,
    },
}

impl Model for Register {
    type State = Option<Blob>;
    type Op = RegisterOp;

    fn init(&self) -> Option<Blob> {
        None
    }

    fn step(&self, state: &Option<Blob>, op: &RegisterOp) -> Option<Option<Blob>> {
        match op {
            RegisterOp::Read(found) => (found == state).then(|| state.clone()),
            RegisterOp::Write(value) => Some(value.clone()),
            RegisterOp::Removed(something) => (state.is_some() == *something).then_some(None),
            RegisterOp::CompareAndSet { from, to, done } => {
                let holds = state.as_ref() == Some(from);
                match done {
                    Some(done) if *done != holds => None,
                    _ if holds => Some(Some(to.clone())),
                    _ => Some(state.clone()),
                }
            }
        }
    }
}

/// Judges the keys used most (`register`).
pub(crate) fn check(ops: &Ops<'_>, options: &Options, verdict: &mut Verdict) {
    if options.initial.is_some() || options.register_keys == 0 {
        return;
    }
    let mut keys: BTreeMap<&Blob, Vec<usize>> = BTreeMap::new();
    let mut unfit: Vec<(&Blob, &[u8])> = Vec::new();
    for (number, op) in ops.all.iter().enumerate() {
        if matches!(op.outcome, Outcome::Fail(_)) {
            continue;
        }
        match convert(op) {
            Fit::Key(key) => keys.entry(key).or_default().push(number),
            Fit::Ignored => {}
            // Reads of ranges tell more than a register knows, and what they tell is true anyhow.
            Fit::No if !op.operation.mutates() => {}
            Fit::No => op.operation.touches(&mut |start, end| unfit.push((start, end))),
        }
    }
    unfit.sort_unstable();
    unfit.dedup();
    keys.retain(|key, _| !unfit.iter().any(|(start, end)| crate::op::in_range(key, start, end)));
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_key(|(key, list)| (std::cmp::Reverse(list.len()), *key));
    for (key, list) in keys.into_iter().take(options.register_keys) {
        judge(key, &list, ops, options, verdict);
    }
}

fn judge(key: &Blob, list: &[usize], ops: &Ops<'_>, options: &Options, verdict: &mut Verdict) {
    let cut = match list.get(options.register_operations) {
        Some(&first_left_out) => ops.all[first_left_out].call,
        None => usize::MAX,
    };
    let list = &list[..list.len().min(options.register_operations)];
    let calls: Vec<Call<RegisterOp>> = list
        .iter()
        .filter_map(|&number| {
            let op = &ops.all[number];
            let ret = op.ret.filter(|ret| *ret < cut);
            let reply = op.reply().filter(|_| ret.is_some());
            let converted = register_op(op.operation, reply)?;
            Some(Call { call: op.call, ret, op: converted })
        })
        .collect();
    let calls = without_unseen(calls);
    verdict.stats.register_keys += 1;
    verdict.stats.register_operations += calls.len();
    match wgl::search(&Register, &calls, options.register_budget) {
        wgl::Outcome::Ok => {}
        wgl::Outcome::Violation { stuck, explained } => {
            let evidence = calls.get(stuck).map(|call| [Some(call.call), call.ret]);
            let evidence = evidence.into_iter().flatten().flatten().collect();
            let message = format!(
                "no order explains the {} operations on {key}; the longest part has {explained}",
                calls.len()
            );
            verdict.violations.push(Violation::new("register", message, evidence));
        }
        wgl::Outcome::Undecided => {
            let message =
                format!("{key}: {} operations in {} steps", calls.len(), options.register_budget);
            verdict.undecided.push(Violation::new("register", message, Vec::new()));
        }
    }
}

/// Leaves out unknown puts that nobody can have noticed.
fn without_unseen(calls: Vec<Call<RegisterOp>>) -> Vec<Call<RegisterOp>> {
    let mut seen: BTreeSet<Blob> = BTreeSet::new();
    let mut sensitive = false;
    for call in &calls {
        match &call.op {
            RegisterOp::Read(value) => seen.extend(value.clone()),
            RegisterOp::CompareAndSet { from, done, .. } => {
                seen.insert(from.clone());
                sensitive |= *done == Some(false);
            }
            RegisterOp::Removed(_) => sensitive = true,
            RegisterOp::Write(_) => {}
        }
    }
    let kept = |call: &Call<RegisterOp>| match &call.op {
        RegisterOp::Write(Some(value)) if call.ret.is_none() => sensitive || seen.contains(value),
        _ => true,
    };
    calls.into_iter().filter(kept).collect()
}

enum Fit<'h> {
    /// An operation on this key alone.
    Key(&'h Blob),
    /// Of no concern to any key's value, or a stale read.
    Ignored,
    /// Too much for a register.
    No,
}

fn convert<'h>(op: &Op<'h>) -> Fit<'h> {
    match op.operation {
        Operation::Put(put) if put.lease == 0 && !put.ignore_value && !put.ignore_lease => {
            Fit::Key(&put.key)
        }
        Operation::DeleteRange(delete) if delete.range_end.is_empty() => Fit::Key(&delete.key),
        Operation::Range(range) => {
            let plain = range.range_end.is_empty() && range.revision == 0 && !range.keys_only;
            let whole = [
                range.min_mod_revision,
                range.max_mod_revision,
                range.min_create_revision,
                range.max_create_revision,
            ] == [0; 4];
            if range.serializable || range.count_only || !plain || !whole {
                return Fit::Ignored;
            }
            Fit::Key(&range.key)
        }
        Operation::Txn(txn) => cas(txn).map_or(Fit::No, |(key, _, _)| Fit::Key(key)),
        Operation::Put(_) | Operation::DeleteRange(_) => Fit::No,
        _ => Fit::Ignored,
    }
}

/// A txn that compares one key's value, puts that key, and otherwise does nothing (or reads it).
fn cas(txn: &Txn) -> Option<(&Blob, &Blob, &Blob)> {
    let ([compare], [Operation::Put(put)]) = (&txn.compare[..], &txn.success[..]) else {
        return None;
    };
    let Target::Value(from) = &compare.target else { return None };
    let plain = put.lease == 0 && !put.ignore_value && !put.ignore_lease;
    let same = compare.key == put.key && compare.range_end.is_empty();
    (plain && same && compare.result == CompareResult::Equal && txn.failure.is_empty())
        .then_some((&put.key, from, &put.value))
}

/// The operation as a register sees it; none if it is unknown and without effect.
fn register_op(operation: &Operation, reply: Option<&Reply>) -> Option<RegisterOp> {
    match (operation, reply) {
        (Operation::Put(put), _) => Some(RegisterOp::Write(Some(put.value.clone()))),
        (Operation::DeleteRange(_), Some(Reply::DeleteRange(reply))) => {
            Some(RegisterOp::Removed(reply.deleted > 0))
        }
        (Operation::DeleteRange(_), _) => Some(RegisterOp::Write(None)),
        (Operation::Range(_), Some(Reply::Range(reply))) => {
            Some(RegisterOp::Read(reply.kvs.first().map(|kv| kv.value.clone())))
        }
        (Operation::Txn(txn), reply) => {
            let (_, from, to) = cas(txn)?;
            let done = match reply {
                Some(Reply::Txn(reply)) => Some(reply.succeeded),
                _ => None,
            };
            Some(RegisterOp::CompareAndSet { from: from.clone(), to: to.clone(), done })
        }
        _ => None,
    }
}
