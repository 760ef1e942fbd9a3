//! Order of revisions against order in time.
//!
//! | checker | rule |
//! |---|---|
//! | `real-time` | a write gets a revision above everything that was shown before it was invoked |
//! | `stale-read` | a linearizable answer is not older than what was shown before it was asked for |
//! | `compaction` | nobody reads below an acknowledged compaction, or is refused without one |
//!
//! What was shown before an operation is its *floor* (ops.rs).

use crate::op::Operation;
use crate::ops::{Ops, Outcome};
use crate::verdict::{Options, Violation};

/// The rules that compare an operation's revision with what was shown before it began.
pub(crate) fn real_time(ops: &Ops<'_>, violations: &mut Vec<Violation>) {
    for op in &ops.all {
        let Some(reply) = op.reply() else { continue };
        let revision = reply.header().revision;
        let seen = || ops.first_seen(op.floor).map_or(0, |seen| seen.record);
        let evidence = || op.evidence().into_iter().chain([seen()]).collect();
        if reply.changed() {
            if revision <= op.floor {
                let message = format!(
                    "a write got r{revision}, and r{} had been shown before it was invoked",
                    op.floor
                );
                violations.push(Violation::new("real-time", message, evidence()));
            }
        } else if reads_keys(op.operation) && !op.operation.serializable() && revision < op.floor {
            let message = format!(
                "a linearizable answer at r{revision}, and r{} had been shown before it was asked for",
                op.floor
            );
            violations.push(Violation::new("stale-read", message, evidence()));
        }
    }
}

/// Whether the answer shows keys as of one revision.
pub(crate) fn reads_keys(operation: &Operation) -> bool {
    matches!(operation, Operation::Range(_) | Operation::DeleteRange(_) | Operation::Txn(_))
}

/// Linearizable reads at a revision below one whose compaction was acknowledged before (`compaction`),
/// and refusals as compacted that no compaction explains.
pub(crate) fn reads_below_compaction(
    ops: &Ops<'_>,
    options: &Options,
    violations: &mut Vec<Violation>,
) {
    let mut asked: Vec<(usize, i64)> = Vec::new();
    let mut done: Vec<(usize, i64)> = Vec::new();
    for op in &ops.all {
        let Operation::Compact(compact) = op.operation else { continue };
        if !matches!(op.outcome, Outcome::Fail(_)) {
            asked.push((op.call, compact.revision));
        }
        if let (Some(ret), Outcome::Ok(_)) = (op.ret, op.outcome) {
            done.push((ret, compact.revision));
        }
    }
    let before = |list: &[(usize, i64)], record: usize| {
        list.iter().filter(|(at, _)| *at < record).map(|(_, revision)| *revision).max()
    };
    for op in &ops.all {
        let Operation::Range(range) = op.operation else { continue };
        if range.revision <= 0 {
            continue;
        }
        match op.outcome {
            Outcome::Ok(_) if !range.serializable => {
                if let Some(compacted) = before(&done, op.call).filter(|r| *r > range.revision) {
                    let message =
                        format!("read at r{}, compacted at r{compacted} before", range.revision);
                    violations.push(Violation::new("compaction", message, op.evidence()));
                }
            }
            Outcome::Fail(error) if error.contains("has been compacted") => {
                let end = op.ret.unwrap_or(usize::MAX);
                let compacted = before(&asked, end).unwrap_or(-1);
                if !options.auto_compaction && compacted <= range.revision {
                    let message = format!(
                        "read at r{} refused as compacted, and only r{compacted} can be",
                        range.revision
                    );
                    violations.push(Violation::new("compaction", message, op.evidence()));
                }
            }
            _ => {}
        }
    }
}
