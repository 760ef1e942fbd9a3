//! The store against a slow model, scripts, known answers of a real etcd, and planted damage.

mod damage;
mod known;
mod model;
mod props;
mod scripts;
mod together;

use std::collections::BTreeSet;

use bytes::Bytes;
use tempfile::TempDir;

use crate::command::{Event, Op, Outcome};
use crate::mvcc::{ScrubProgress, Store};
use crate::storage::{Storage, StorageOptions};
use crate::types::{Index, LeaseId, LogPosition, Term};

/// A store in a directory of its own, and the log it is fed from: what was applied and is not yet
/// durable is applied again after a restart.
pub(super) struct Member {
    dir: TempDir,
    store: Option<Store>,
    log: Vec<Op>,
    pub leases: BTreeSet<i64>,
}

impl Member {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        drop(Storage::create(dir.path(), options()).expect("a new store"));
        let mut member =
            Self { dir, store: None, log: Vec::new(), leases: BTreeSet::from([1, 2, 3]) };
        member.open();
        member
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Applies the next entry; the events are also what watchers are told.
    pub fn apply(&mut self, op: Op) -> (Outcome, Vec<Event>) {
        self.log.push(op.clone());
        let index = u64::try_from(self.log.len()).expect("few");
        self.apply_at(&op, index)
    }

    fn apply_at(&self, op: &Op, index: u64) -> (Outcome, Vec<Event>) {
        let store = self.store();
        let leases = |id: LeaseId| self.leases.contains(&id.0);
        let mut writer = store.writer(LogPosition::new(Index(index), Term(1)));
        let outcome = match op {
            Op::Put(put) => writer.put(put, &leases),
            Op::DeleteRange(delete) => writer.delete_range(delete),
            Op::Txn(txn) => writer.txn(txn, &leases),
            Op::Compact { revision, .. } => writer.compact(*revision),
            _ => panic!("not about keys"),
        };
        let finished = writer.finish();
        let events = finished.events;
        store.commit(finished.set, finished.publish);
        (outcome, events)
    }

    pub fn flush(&self) {
        if let Some(job) = self.store().storage().begin_flush() {
            job.run().expect("the flush succeeds");
        }
    }

    /// Takes some steps of the scrub; says whether there is more to do.
    pub fn scrub(&self, rows: usize, steps: usize) -> ScrubProgress {
        let mut progress = ScrubProgress::Idle;
        for _ in 0..steps {
            let step = self.store().storage().maintenance(|txn| self.store().scrub_step(txn, rows));
            progress = step.expect("the transaction commits").expect("nothing is damaged");
            if progress != ScrubProgress::More {
                break;
            }
        }
        progress
    }

    /// Crashes and starts again: what was not durable is replayed from the log.
    pub fn restart(&mut self) {
        let store = self.store.take().expect("the store is open");
        let storage = store.storage().clone();
        drop(store);
        storage.close().wait();
        self.open();
        let from = usize::try_from(self.store().storage().applied().index.0).expect("few");
        for (at, op) in self.log.iter().enumerate().skip(from) {
            self.apply_at(op, u64::try_from(at + 1).expect("few"));
        }
    }

    /// Stops without starting again.
    pub fn stop(&mut self) {
        let storage = self.store.take().expect("the store is open").storage().clone();
        storage.close().wait();
    }

    pub fn open(&mut self) {
        let storage = Storage::open(self.dir.path(), options()).expect("the store opens");
        self.store = Some(Store::open(storage).expect("the store is sound"));
    }
}

pub(super) fn options() -> StorageOptions {
    StorageOptions { map_bytes: 1 << 28, ..StorageOptions::default() }
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
