//! Records paired into operations, and what each operation must have been able to know.
//!
//! The *floor* of an operation is the greatest revision that anybody had been shown before it was
//! invoked, by any reply or watch message: that revision was in force by then. So a write must get a
//! revision above its floor, and a linearizable answer must not be older than its floor. Both real-time
//! rules of the revision order are these two comparisons, found in one pass over the records; «each
//! return is at least the greatest earlier call» is the same statement seen from the other side.

use crate::history::{Record, WatchRecord, What};
use crate::op::{Operation, Reply};
use crate::verdict::Violation;
use std::collections::BTreeMap;

/// How an operation ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'h> {
    Ok(&'h Reply),
    Fail(&'h str),
    Unknown,
}

/// One operation of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op<'h> {
    pub process: u64,
    /// Record of the invocation.
    pub call: usize,
    /// Record of the answer; none while unknown, since the effect may come at any later time.
    pub ret: Option<usize>,
    pub call_time: u64,
    pub ret_time: u64,
    pub operation: &'h Operation,
    pub outcome: Outcome<'h>,
    /// Greatest revision shown to anybody before the invocation.
    pub floor: i64,
}

impl<'h> Op<'h> {
    /// The reply, if there was one.
    pub fn reply(&self) -> Option<&'h Reply> {
        match self.outcome {
            Outcome::Ok(reply) => Some(reply),
            _ => None,
        }
    }

    /// The records a reader should look at.
    pub fn evidence(&self) -> Vec<usize> {
        std::iter::once(self.call).chain(self.ret).collect()
    }
}

/// A moment at which the greatest revision shown grew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub revision: i64,
    pub record: usize,
    pub time: u64,
}

/// The operations of a history in the order of their invocations.
pub(crate) struct Ops<'h> {
    pub all: Vec<Op<'h>>,
    /// Ascending in both revision and record.
    pub seen: Vec<Seen>,
    pub violations: Vec<Violation>,
}

impl Ops<'_> {
    /// The first moment at which anybody was shown `revision` or a later one.
    pub fn first_seen(&self, revision: i64) -> Option<Seen> {
        let at = self.seen.partition_point(|seen| seen.revision < revision);
        self.seen.get(at).copied()
    }

    /// The greatest revision anybody was shown.
    pub fn greatest(&self) -> i64 {
        self.seen.last().map_or(0, |seen| seen.revision)
    }
}

/// Pairs invocations with their ends; a history that breaks the recording rules is reported.
pub(crate) fn pair(records: &[Record]) -> Ops<'_> {
    let mut ops = Ops { all: Vec::new(), seen: Vec::new(), violations: Vec::new() };
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut time = 0;
    for (number, record) in records.iter().enumerate() {
        let mut malformed = |message: String| {
            ops.violations.push(Violation::new("history", message, vec![number]));
        };
        if record.time < time {
            malformed(format!("time goes back from {time} to {}", record.time));
        }
        time = record.time;
        match &record.what {
            What::Invoke(operation) => {
                if let Some(&other) = open.get(&record.process) {
                    let call = ops.all[other].call;
                    malformed(format!(
                        "process {} invokes while its operation of record {call} is open",
                        record.process
                    ));
                }
                open.insert(record.process, ops.all.len());
                ops.all.push(Op {
                    process: record.process,
                    call: number,
                    ret: None,
                    call_time: record.time,
                    ret_time: u64::MAX,
                    operation,
                    outcome: Outcome::Unknown,
                    floor: ops.seen.last().map_or(0, |seen| seen.revision),
                });
            }
            What::Ok(_) | What::Fail(_) | What::Info(_) => {
                let Some(at) = open.remove(&record.process) else {
                    malformed(format!("process {} has no open operation to end", record.process));
                    continue;
                };
                let op = &mut ops.all[at];
                if let What::Ok(reply) = &record.what {
                    if !answers(op.operation, reply) {
                        malformed(format!("{reply:?} is no reply to {:?}", op.operation));
                        continue;
                    }
                    op.outcome = Outcome::Ok(reply);
                    show(&mut ops.seen, reply.header().revision, number, record.time);
                } else if let What::Fail(error) = &record.what {
                    op.outcome = Outcome::Fail(error);
                } else {
                    continue;
                }
                op.ret = Some(number);
                op.ret_time = record.time;
            }
            What::Watch(watch) => {
                let revision = match watch {
                    WatchRecord::Events { events, .. } => {
                        // The header of a response is at least as new, yet a lie in it is the watch
                        // checker's to find: what an event shows is shown for certain.
                        events.iter().map(|event| event.kv.mod_revision).max().unwrap_or(0)
                    }
                    WatchRecord::Progress { header, .. } | WatchRecord::Created { header, .. } => {
                        header.revision
                    }
                    _ => 0,
                };
                show(&mut ops.seen, revision, number, record.time);
            }
        }
    }
    ops
}

fn show(seen: &mut Vec<Seen>, revision: i64, record: usize, time: u64) {
    if revision > seen.last().map_or(0, |seen| seen.revision) {
        seen.push(Seen { revision, record, time });
    }
}

/// Whether the reply is of the kind the operation asks for.
fn answers(operation: &Operation, reply: &Reply) -> bool {
    matches!(
        (operation, reply),
        (Operation::Put(_), Reply::Put(_))
            | (Operation::Range(_), Reply::Range(_))
            | (Operation::DeleteRange(_), Reply::DeleteRange(_))
            | (Operation::Txn(_), Reply::Txn(_))
            | (Operation::Compact(_), Reply::Compact(_))
            | (Operation::LeaseGrant(_), Reply::LeaseGrant(_))
            | (Operation::LeaseRevoke(_), Reply::LeaseRevoke(_))
            | (Operation::LeaseKeepAlive(_), Reply::LeaseKeepAlive(_))
            | (Operation::LeaseTimeToLive(_), Reply::LeaseTimeToLive(_))
    )
}
