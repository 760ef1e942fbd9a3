//! Leases, judged by the clock of the history and by what was seen of their keys.
//!
//! | checker | rule |
//! |---|---|
//! | `lease-early` | a lease lives at least its TTL after its grant and after each successful renewal |
//! | `lease-renew-after-end` | nobody renews a lease, or attaches a key to it, whose end was seen before |
//! | `lease-ttl` | a grant gives at least what was asked; a TTL answer is at most what was granted and not less than what must be left |
//!
//! That an ended lease's keys go in one revision is found in the replay (`lease-atomic`, `lease-revoke`).
//!
//! A renewal counts from its invocation, the earliest moment the server can have seen it; a loss counts
//! from the moment somebody was shown it. So a slow network can never make an innocent server guilty.
//! That a lease ends at all is a matter of liveness and not judged here. A lease id granted twice in one
//! history is left out: nothing tells its lives apart.

use crate::op::{Operation, Reply};
use crate::explain::puts;
use crate::linear::LeaseEnd;
use crate::ops::{Op, Ops, Outcome};
use crate::verdict::{Options, Verdict, Violation};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;

/// All that concerns one lease.
#[derive(Default)]
struct Life<'a, 'h> {
    grants: Vec<&'a Op<'h>>,
    granted: Option<i64>,
    /// Renewals, and the grant, that were answered: invocation's time and record, and TTL.
    renewals: Vec<(u64, usize, i64)>,
    /// Record at which the earliest revoke was invoked.
    revoke_called: Option<usize>,
    revoke_done: Option<usize>,
    attaches: Vec<&'a Op<'h>>,
    others: Vec<&'a Op<'h>>,
}

/// Judges all leases of a history.
pub(crate) fn check(ops: &Ops<'_>, ends: &[LeaseEnd], options: &Options, verdict: &mut Verdict) {
    let mut lives: BTreeMap<i64, Life<'_, '_>> = BTreeMap::new();
    for op in &ops.all {
        collect(op, &mut lives);
    }
    lives.retain(|_, life| life.grants.len() == 1);
    verdict.stats.leases = lives.len();
    for (&id, life) in &lives {
        let slack = options.lease_slack_ns;
        let mut judge = Judge { id, life, slack, found: &mut verdict.violations };
        for end in ends.iter().filter(|end| end.lease == id) {
            if let Some(seen) = ops.first_seen(end.revision) {
                let how = format!("its keys were gone at r{}", end.revision);
                judge.gone(seen.time, seen.record, &how);
                judge.renewed_after(seen.record, &how);
            }
        }
        if let Some(done) = life.revoke_done {
            judge.renewed_after(done, "it was revoked");
        }
        for op in &life.others {
            judge.answer(op);
        }
    }
}

fn collect<'a, 'h>(op: &'a Op<'h>, lives: &mut BTreeMap<i64, Life<'a, 'h>>) {
    match (op.operation, op.outcome) {
        (_, Outcome::Fail(error)) => {
            // A refused put or renewal may say that the lease is gone.
            if error.contains("requested lease not found") {
                puts(op.operation, &mut |put| {
                    if put.lease != 0 {
                        lives.entry(put.lease).or_default().others.push(op);
                    }
                });
            }
        }
        (Operation::LeaseGrant(grant), Outcome::Ok(Reply::LeaseGrant(reply))) => {
            let life = lives.entry(reply.id).or_default();
            life.grants.push(op);
            life.granted = Some(reply.ttl);
            life.renewals.push((op.call_time, op.call, reply.ttl));
            if reply.ttl < grant.ttl {
                life.others.push(op);
            }
        }
        (Operation::LeaseGrant(grant), _) if grant.id != 0 => {
            lives.entry(grant.id).or_default().grants.push(op);
        }
        (Operation::LeaseRevoke(revoke), outcome) => {
            let life = lives.entry(revoke.id).or_default();
            life.revoke_called = life.revoke_called.or(Some(op.call));
            if let Outcome::Ok(_) = outcome {
                life.revoke_done = life.revoke_done.min(op.ret).or(op.ret);
            }
        }
        (Operation::LeaseKeepAlive(keep), Outcome::Ok(Reply::LeaseKeepAlive(reply))) => {
            let life = lives.entry(keep.id).or_default();
            if reply.ttl > 0 {
                life.renewals.push((op.call_time, op.call, reply.ttl));
            }
            life.others.push(op);
        }
        (Operation::LeaseTimeToLive(ask), Outcome::Ok(_)) => {
            lives.entry(ask.id).or_default().others.push(op);
        }
        (operation, Outcome::Ok(reply)) if reply.changed() => puts(operation, &mut |put| {
            // Which branch of a txn ran does not show here; only plain puts are taken.
            if put.lease != 0 && matches!(operation, Operation::Put(_)) {
                lives.entry(put.lease).or_default().attaches.push(op);
            }
        }),
        _ => {}
    }
}

struct Judge<'j, 'a, 'h> {
    id: i64,
    life: &'j Life<'a, 'h>,
    slack: u64,
    found: &'j mut Vec<Violation>,
}

impl Judge<'_, '_, '_> {
    fn report(&mut self, checker: &'static str, message: String, evidence: Vec<usize>) {
        self.found.push(Violation::new(checker, message, evidence));
    }

    /// The latest end that renewals invoked before `record` promise: time and record of the renewal.
    fn promised(&self, record: usize) -> Option<(u64, usize)> {
        let before = self.life.renewals.iter().filter(|(_, call, _)| *call < record);
        before
            .filter_map(|&(time, call, ttl)| {
                let ttl = u64::try_from(ttl).ok()?.saturating_mul(SECOND);
                Some((time.saturating_add(ttl), call))
            })
            .max()
    }

    /// The lease was seen gone in `record`.
    fn gone(&mut self, time: u64, record: usize, how: &str) {
        if self.life.revoke_called.is_some_and(|called| called < record) {
            return;
        }
        if let Some((until, renewal)) = self.promised(record)
            && until > time.saturating_add(self.slack)
        {
            let message = format!(
                "lease {}: {how} {} ms before its time",
                self.id,
                (until - time) / 1_000_000
            );
            self.report("lease-early", message, vec![renewal, record]);
        }
    }

    fn renewed_after(&mut self, end: usize, how: &str) {
        let after = |call: usize| call > end;
        let renewal = self.life.renewals.iter().skip(1).map(|(_, call, _)| *call).find(|c| after(*c));
        let attach = self.life.attaches.iter().map(|op| op.call).find(|call| after(*call));
        for (call, what) in [(renewal, "renewed"), (attach, "given a key")] {
            if let Some(call) = call {
                let message = format!("lease {} was {what} after {how}", self.id);
                self.report("lease-renew-after-end", message, vec![end, call]);
            }
        }
    }

    fn answer(&mut self, op: &Op<'_>) {
        let end = op.ret.unwrap_or(op.call);
        let granted = self.life.granted;
        match (op.operation, op.reply()) {
            (Operation::LeaseGrant(grant), Some(Reply::LeaseGrant(reply))) => {
                let message = format!("lease {}: asked {} s, got {}", self.id, grant.ttl, reply.ttl);
                self.report("lease-ttl", message, op.evidence());
            }
            (_, Some(Reply::LeaseKeepAlive(reply))) => {
                if reply.ttl == 0 {
                    self.gone(op.ret_time, end, "a renewal found it gone");
                } else if granted.is_some_and(|granted| granted != reply.ttl) {
                    let message = format!("lease {}: granted {granted:?}, renewed {}", self.id, reply.ttl);
                    self.report("lease-ttl", message, op.evidence());
                }
            }
            (_, Some(Reply::LeaseTimeToLive(reply))) => {
                if reply.ttl < 0 {
                    self.gone(op.ret_time, end, "a TTL answer said it was gone");
                    return;
                }
                let mut wrong = reply.ttl > reply.granted_ttl;
                wrong |= granted.is_some_and(|granted| granted != reply.granted_ttl);
                // Whole seconds, cut: one may be missing.
                let least = self.promised(op.call).map_or(0, |(until, _)| {
                    until.saturating_sub(op.ret_time.saturating_add(self.slack)) / SECOND
                });
                let told = u64::try_from(reply.ttl).expect("not negative here");
                let revoked = self.life.revoke_called.is_some_and(|called| called < end);
                wrong |= !revoked && told + 1 < least;
                if wrong {
                    let message = format!(
                        "lease {}: {} s left of {}, granted {granted:?}, at least {least} s must be left",
                        self.id, reply.ttl, reply.granted_ttl
                    );
                    self.report("lease-ttl", message, op.evidence());
                }
            }
            (_, None) => self.gone(op.ret_time, end, "a put was told so and"),
            _ => {}
        }
    }
}
