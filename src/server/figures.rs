//! What a batch of applied entries adds to the member's figures.
//!
//! The machine does not count: outcomes and events say all there is to say, and they are the same at every
//! member, as the figures are then.

use crate::command::{Event, OpOutcome, Outcome, TxnOutcome};
use crate::lease::Change;
use crate::machine::Applied;
use crate::metrics::Metrics;

/// Operations on keys, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ops {
    ranges: u64,
    puts: u64,
    deletes: u64,
    /// Keys that the deletes deleted.
    deleted: u64,
}

impl Ops {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Put { .. } => Self { puts: 1, ..Self::default() },
            Outcome::DeleteRange { deleted, .. } => {
                Self { deletes: 1, deleted: *deleted, ..Self::default() }
            }
            Outcome::Txn(txn) => {
                let mut ops = Self::default();
                ops.add_txn(txn);
                ops
            }
            _ => Self::default(),
        }
    }

    fn add_txn(&mut self, txn: &TxnOutcome) {
        for response in &txn.responses {
            match response {
                OpOutcome::Range(_) => self.ranges += 1,
                OpOutcome::Put { .. } => self.puts += 1,
                OpOutcome::DeleteRange { deleted, .. } => {
                    self.deletes += 1;
                    self.deleted += deleted;
                }
                OpOutcome::Txn(txn) => self.add_txn(txn),
            }
        }
    }
}

/// Counts a batch. Like etcd, a key that goes with its lease counts as a delete of its own, and a
/// transaction only if it did more than one thing.
pub(super) fn count(metrics: &Metrics, applied: &Applied) {
    let (mut deleted, mut put_bytes) = (0, 0);
    for event in applied.events.iter().flat_map(|(_, events)| events) {
        match event {
            Event::Put { kv, .. } => put_bytes += kv.key.len() + kv.value.len(),
            Event::Delete { .. } => deleted += 1,
        }
    }
    metrics.put_bytes.add_len(put_bytes);
    let mut all = Ops::default();
    for (_, outcome) in &applied.outcomes {
        let ops = Ops::of(outcome);
        all.ranges += ops.ranges;
        all.puts += ops.puts;
        all.deletes += ops.deletes;
        all.deleted += ops.deleted;
        if ops.ranges + ops.puts + ops.deletes > 1 {
            metrics.txns.inc();
        }
    }
    metrics.ranges.add(all.ranges);
    metrics.puts.add(all.puts);
    metrics.deletes.add(all.deletes + deleted - all.deleted.min(deleted));
    for change in &applied.leases {
        match change {
            Change::Granted(..) => metrics.leases_granted.inc(),
            Change::Revoked(_) => metrics.leases_revoked.inc(),
            Change::Checkpointed(..) | Change::Spared(_) => {}
        }
    }
    let expired = applied.outcomes.iter().map(|(_, outcome)| match outcome {
        Outcome::LeaseExpire { revoked, .. } => revoked.len(),
        _ => 0,
    });
    metrics.leases_expired.add_len(expired.sum());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{KeyValue, RequestId};
    use crate::types::{LeaseId, Revision};

    fn put(key: &'static str, value: &'static str) -> Event {
        let (key, value) =
            (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
        Event::Put { kv: KeyValue { key, value, ..KeyValue::default() }, sub: 0, prev: None }
    }

    fn delete(key: &'static str) -> Event {
        let key = Bytes::from_static(key.as_bytes());
        Event::Delete { key, revision: Revision(1), sub: 0, prev: None }
    }

    #[test]
    fn operations_are_counted_as_etcd_counts_them() {
        let revision = Revision(1);
        let deleted = |deleted| OpOutcome::DeleteRange { revision, deleted, prevs: Vec::new() };
        let inner = TxnOutcome { responses: vec![deleted(0)], ..TxnOutcome::default() };
        let responses =
            vec![OpOutcome::Put { revision, prev: None }, deleted(2), OpOutcome::Txn(inner)];
        let single = vec![OpOutcome::Put { revision, prev: None }];
        let outcomes = vec![
            Outcome::Put { revision, prev: None },
            Outcome::DeleteRange { revision, deleted: 0, prevs: Vec::new() },
            Outcome::Txn(TxnOutcome { responses, ..TxnOutcome::default() }),
            Outcome::Txn(TxnOutcome { responses: single, ..TxnOutcome::default() }),
            Outcome::LeaseExpire { revision, revoked: vec![LeaseId(7)] },
        ];
        let applied = Applied {
            // The last delete is of a key that hung on the lease.
            events: vec![
                (revision, vec![put("a", "12")]),
                (revision, vec![put("b", ""), delete("c"), delete("d")]),
                (revision, vec![put("e", "1")]),
                (revision, vec![delete("f")]),
            ],
            outcomes: outcomes.into_iter().map(|outcome| (RequestId(1), outcome)).collect(),
            leases: vec![Change::Revoked(LeaseId(7))],
            ..Applied::default()
        };
        let metrics = Metrics::new(&[], false);
        count(&metrics, &applied);
        assert_eq!((metrics.puts.get(), metrics.put_bytes.get()), (3, 6));
        assert_eq!(metrics.deletes.get(), 3 + 1);
        assert_eq!((metrics.txns.get(), metrics.ranges.get()), (1, 0));
        assert_eq!((metrics.leases_revoked.get(), metrics.leases_expired.get()), (1, 1));
    }
}
