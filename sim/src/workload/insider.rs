//! What no request asks for, and what a log may hold all the same: operations of other versions of the server,
//! and such that a caller should have kept back. Each is proposed from within a member, and has one outcome,
//! whatever there is; all members pass over it alike.
//!
//! # Panics
//! At another outcome: that is a violation, and ends the run.

use std::time::Duration;

use mainstay::command::{AlarmAction, Op, Outcome, Refusal};
use mainstay::server::{Handle, ServeError};
use mainstay::types::{LeaseId, NodeId};

use crate::rng::Rng;
use crate::time::sleep;

/// A member that no cluster has.
const NOBODY: NodeId = NodeId(77);

/// Proposes for as long as the member runs.
pub async fn insider(handle: Handle, mut rng: Rng) {
    loop {
        sleep(Duration::from_millis(rng.between(300, 8_000))).await;
        let ops = ops(&mut rng);
        let (op, due) = rng.pick(&ops);
        let refusal = match handle.propose(op.clone()).await {
            Ok(Outcome::Done { .. }) => None,
            Ok(Outcome::Alarm { alarms, .. }) if alarms.is_empty() => None,
            Err(ServeError::Refused(refusal, _)) => Some(refusal),
            Ok(other) => panic!("{op:?} came to {other:?}"),
            // Nobody knows what became of it, and it changes nothing.
            Err(_) => continue,
        };
        // A store without room, or one that an operator calls corrupt, refuses before it looks.
        let shut = matches!(refusal, Some(Refusal::NoSpace | Refusal::Corrupt));
        assert!(shut || refusal == *due, "{op:?} came to {refusal:?}, not {due:?}");
    }
}

/// Operations, and the refusals that are due.
fn ops(rng: &mut Rng) -> Vec<(Op, Option<Refusal>)> {
    let (round, revision) = (rng.next_u64(), 3);
    let mut ops = vec![
        (Op::KeyspaceHashAsk { round, revision }, None),
        (
            Op::KeyspaceHashReport {
                round,
                member: NOBODY,
                revision,
                compact_revision: -1,
                hash: 7,
            },
            None,
        ),
        (Op::Alarm { action: AlarmAction::Unknown(9), member: NOBODY.0, alarm: 1 }, None),
        (Op::LeaseGrant { id: LeaseId(0), ttl: 9 }, Some(Refusal::LeaseNotFound)),
        (Op::MemberStoreSet { member: NOBODY, store_id: 1 }, Some(Refusal::MemberNotFound)),
        (
            Op::MemberAttributes { member: NOBODY, name: "x".to_owned(), client_urls: Vec::new() },
            Some(Refusal::MemberNotFound),
        ),
    ];
    // Rare, because each member calls it an error, which would crowd out a failing run's last lines.
    if rng.below(12) == 0 {
        ops.push((Op::ClusterVersionSet { version: "three".to_owned() }, None));
    }
    ops
}
