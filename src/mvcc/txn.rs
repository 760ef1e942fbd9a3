//! Transactions: which branch runs, and whether it may.
//!
//! Before anything is written the whole path is decided: the compares of the outer transaction, then of
//! each nested one on the branch that will run, all against the state before the transaction. Then every
//! operation on the path is checked (keys that must exist, leases, revisions to read at). Only then does
//! the branch run, so an operation that cannot succeed leaves nothing half done.
//!
//! Quirks that are etcd's and kept:
//! - A compare of values never holds on a missing key; other targets compare a missing key as 0.
//! - An operand of the wrong kind counts as zero or empty; an unknown relation always holds; with an
//!   unknown target both sides count as equal.
//! - A range inside a transaction may name a negative revision, which is compared with the compact
//!   revision (−1 if there is none) before it means «newest».

use std::cmp::Ordering;

use super::frame::{Copier, Damage, Flow, Found, Frame, Way};
use super::read::Retry;
use super::store::Store;
use crate::command::{
    Compare, CompareResult, CompareTarget, OpOutcome, Operand, Range, RangeOutcome, Refusal, Txn,
    TxnOp, TxnOutcome,
};
use crate::types::Revision;

/// Which branch of a transaction runs, and which of those nested in that branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub succeeded: bool,
    /// For each nested transaction of the branch, in order.
    pub nested: Vec<Path>,
}

/// Decides the whole path.
pub(super) fn decide(frame: &Frame<'_, '_>, txn: &Txn) -> Result<Path, Damage> {
    let mut succeeded = true;
    for compare in &txn.compares {
        if !holds(frame, compare)? {
            succeeded = false;
            break;
        }
    }
    let mut nested = Vec::new();
    for op in branch(txn, succeeded) {
        if let TxnOp::Txn(inner) = op {
            nested.push(decide(frame, inner)?);
        }
    }
    Ok(Path { succeeded, nested })
}

/// The operations that run.
pub(super) fn branch(txn: &Txn, succeeded: bool) -> &[TxnOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Calls `check` for every operation on the path, nested ones included, until one is refused.
pub(super) fn check_path<E>(
    txn: &Txn,
    path: &Path,
    check: &mut dyn FnMut(&TxnOp) -> Result<(), E>,
) -> Result<(), E> {
    let mut nested = path.nested.iter();
    for op in branch(txn, path.succeeded) {
        match op {
            TxnOp::Txn(inner) => {
                let path = nested.next().expect("the path has every nested transaction");
                check_path(inner, path, check)?;
            }
            op => check(op)?,
        }
    }
    Ok(())
}

/// Judges the revision that a range inside a transaction asks for.
pub(super) fn check_range(
    range: &Range,
    current: Revision,
    compact: Option<Revision>,
) -> Result<(), Refusal> {
    let asked = range.revision;
    if asked == 0 {
        return Ok(());
    }
    if asked > current.0 {
        return Err(Refusal::FutureRevision);
    }
    if asked < compact.map_or(-1, |compact| compact.0) {
        return Err(Refusal::Compacted(compact.unwrap_or_default()));
    }
    Ok(())
}

/// Tells whether a compare holds for every key of its range; an empty range is like a missing key.
fn holds(frame: &Frame<'_, '_>, compare: &Compare) -> Result<bool, Damage> {
    let mut any = false;
    let mut all = true;
    let each = |_: &[u8], found: Found<'_>| {
        any = true;
        all = holds_for(frame, compare, &found)?;
        Ok(if all { Flow::Go } else { Flow::Stop })
    };
    frame.walk_living(&compare.range, None, Way::Up, each)?;
    if any {
        return Ok(all);
    }
    if compare.target == CompareTarget::Value {
        return Ok(false);
    }
    Ok(relates(compare.result, number(compare, &Properties::default())))
}

fn holds_for(frame: &Frame<'_, '_>, compare: &Compare, found: &Found<'_>) -> Result<bool, Damage> {
    let ordering = if compare.target == CompareTarget::Value {
        let operand = match &compare.operand {
            Operand::Value(value) => value.as_ref(),
            _ => &[],
        };
        frame.key_value(found, &mut Copier::default())?.value.as_ref().cmp(operand)
    } else {
        let properties = Properties {
            version: found.version,
            create: found.create.0,
            modified: found.id.main.0,
            lease: found.lease.0,
        };
        number(compare, &properties)
    };
    Ok(relates(compare.result, ordering))
}

/// The numbers of a key that can be compared; all 0 for a missing one.
#[derive(Default)]
struct Properties {
    version: i64,
    create: i64,
    modified: i64,
    lease: i64,
}

fn number(compare: &Compare, key: &Properties) -> Ordering {
    let operand = |fits: Option<i64>| fits.unwrap_or(0);
    match compare.target {
        CompareTarget::Version => key.version.cmp(&operand(match compare.operand {
            Operand::Version(number) => Some(number),
            _ => None,
        })),
        CompareTarget::Create => key.create.cmp(&operand(match compare.operand {
            Operand::Create(number) => Some(number),
            _ => None,
        })),
        CompareTarget::Mod => key.modified.cmp(&operand(match compare.operand {
            Operand::Mod(number) => Some(number),
            _ => None,
        })),
        CompareTarget::Lease => key.lease.cmp(&operand(match compare.operand {
            Operand::Lease(number) => Some(number),
            _ => None,
        })),
        CompareTarget::Value | CompareTarget::Unknown(_) => Ordering::Equal,
    }
}

fn relates(result: CompareResult, ordering: Ordering) -> bool {
    match result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::Unknown(_) => true,
    }
}

impl Store {
    /// Runs a transaction that only reads, all of it at one revision.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`] or [`Refusal::Compacted`] for a range that cannot be read,
    /// [`Refusal::Damaged`].
    ///
    /// # Panics
    /// If the transaction has a write: that is for the log.
    pub fn txn_read_only(&self, txn: &Txn) -> Result<TxnOutcome, Refusal> {
        assert!(txn.is_read_only(), "a transaction that writes goes through the log");
        self.again(|| {
            let entered = self.enter();
            let (current, compact) = (entered.revision, entered.compact);
            let path = decide(&entered.frame(current), txn)
                .map_err(|damage| Retry::Never(self.damaged(damage)))?;
            drop(entered);
            check_path(txn, &path, &mut |op| match op {
                TxnOp::Range(range) => check_range(range, current, compact),
                _ => Ok(()),
            })?;
            self.run_read_only(txn, &path, current, true)
        })
    }

    fn run_read_only(
        &self,
        txn: &Txn,
        path: &Path,
        current: Revision,
        outer: bool,
    ) -> Result<TxnOutcome, Retry> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in branch(txn, path.succeeded) {
            responses.push(match op {
                TxnOp::Range(range) => OpOutcome::Range(self.range_pinned(range, current)?),
                TxnOp::Txn(inner) => {
                    let path = nested.next().expect("the path has every nested transaction");
                    OpOutcome::Txn(self.run_read_only(inner, path, current, false)?)
                }
                TxnOp::Put(_) | TxnOp::DeleteRange(_) => unreachable!("the caller looked"),
            });
        }
        let revision = if outer { current } else { Revision(0) };
        Ok(TxnOutcome { revision, succeeded: path.succeeded, responses })
    }

    /// Reads a range as if `current` were the current revision.
    fn range_pinned(&self, request: &Range, current: Revision) -> Result<RangeOutcome, Retry> {
        let newest = request.revision <= 0;
        let at = if newest { current } else { Revision(request.revision) };
        let published = self.inner.published();
        if let Some(compact) = published.compact
            && at < compact
        {
            let refusal = Refusal::Compacted(compact);
            return Err(if newest { Retry::Again(refusal) } else { Retry::Never(refusal) });
        }
        self.range_with(request, at, current, published).map_err(|stop| self.stopped(stop, newest))
    }
}
