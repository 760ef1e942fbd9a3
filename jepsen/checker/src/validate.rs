//! What etcd refuses before it looks at any state: missing keys, contradictory flags, txns that are too
//! large or that write a key twice.

use crate::blob::Blob;
use crate::model::Refusal;
use crate::op::*;
use std::collections::BTreeSet;

/// Largest number of operations (or compares) at one level of a txn.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Refuses what is wrong whatever the state.
pub(crate) fn validate(op: &Operation) -> Result<(), Refusal> {
    match op {
        Operation::Txn(txn) => {
            validate_txn(txn, TXN_OPERATIONS_MAX)?;
            writes(&txn.success)?;
            writes(&txn.failure)?;
            Ok(())
        }
        op => validate_simple(op),
    }
}

fn validate_simple(op: &Operation) -> Result<(), Refusal> {
    match op {
        Operation::Put(put) if put.key.is_empty() => Err(Refusal::EmptyKey),
        Operation::Put(put) if put.ignore_value && !put.value.is_empty() => {
            Err(Refusal::ValueProvided)
        }
        Operation::Put(put) if put.ignore_lease && put.lease != 0 => Err(Refusal::LeaseProvided),
        Operation::Range(range) if range.key.is_empty() => Err(Refusal::EmptyKey),
        Operation::DeleteRange(delete) if delete.key.is_empty() => Err(Refusal::EmptyKey),
        _ => Ok(()),
    }
}

fn validate_txn(txn: &Txn, room: usize) -> Result<(), Refusal> {
    let used = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let room = room.checked_sub(used).ok_or(Refusal::TooManyOps)?;
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Operation::Txn(inner) => validate_txn(inner, room)?,
            Operation::Put(_) | Operation::Range(_) | Operation::DeleteRange(_) => {
                validate_simple(op)?;
            }
            _ => return Err(Refusal::NotInTxn),
        }
    }
    Ok(())
}

type Deletes<'a> = Vec<(&'a Blob, &'a Blob)>;

/// The keys put and the ranges deleted by a branch, refusing a key touched twice. As in etcd the end of
/// an open range is taken literally here, so that such a delete conflicts with nothing.
fn writes(branch: &[Operation]) -> Result<(BTreeSet<&Blob>, Deletes<'_>), Refusal> {
    let hit = |deletes: &Deletes<'_>, key: &Blob| {
        deletes.iter().any(|(start, end)| match end.is_empty() {
            true => key == *start,
            false => key >= *start && key < *end,
        })
    };
    let mut deletes: Deletes<'_> = branch
        .iter()
        .filter_map(|op| match op {
            Operation::DeleteRange(delete) => Some((&delete.key, &delete.range_end)),
            _ => None,
        })
        .collect();
    let mut puts = BTreeSet::new();
    for op in branch {
        let Operation::Txn(inner) = op else { continue };
        let (then_puts, then_deletes) = writes(&inner.success)?;
        let (else_puts, else_deletes) = writes(&inner.failure)?;
        if then_puts.iter().chain(&else_puts).any(|key| puts.contains(key) || hit(&deletes, key)) {
            return Err(Refusal::DuplicateKey);
        }
        puts.extend(then_puts);
        puts.extend(else_puts);
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in branch {
        let Operation::Put(put) = op else { continue };
        if hit(&deletes, &put.key) || !puts.insert(&put.key) {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}
