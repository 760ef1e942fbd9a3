//! The machine's tests share one world: a machine on a real store in a directory of its own, and the log
//! that it was fed, so that it can be restarted and replayed.

mod properties;
mod scripts;
mod snapshots;

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::{Applied, Machine, MachineOptions};
use crate::command::{Command, Op, RequestId};
use crate::raft::{ConfChange, Entry, Payload};
use crate::storage::{Storage, StorageOptions};
use crate::types::{ClusterId, Index, LogPosition, Term};

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

/// A machine and its log.
pub(super) struct World {
    pub machine: Option<Machine>,
    pub log: Vec<Entry>,
    pub term: Term,
    pub dir: Arc<TempDir>,
}

impl World {
    pub fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut world = Self { machine: None, log: Vec::new(), term: Term(1), dir };
        world.open();
        world
    }

    pub fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the machine is open")
    }

    /// Makes the entry that would come next.
    pub fn entry(&self, payload: Payload) -> Entry {
        let index = Index(u64::try_from(self.log.len()).unwrap() + 1);
        Entry { term: self.term, index, payload }
    }

    pub fn apply(&mut self, payload: Payload) -> Applied {
        let entry = self.entry(payload);
        self.log.push(entry.clone());
        self.machine().apply(&[entry])
    }

    pub fn apply_op(&mut self, op: Op) -> Applied {
        let payload = self.command(op);
        self.apply(payload)
    }

    pub fn apply_conf(&mut self, change: ConfChange) -> Applied {
        self.apply(Payload::ConfChange(change))
    }

    pub fn command(&self, op: Op) -> Payload {
        command(u64::try_from(self.log.len()).unwrap() + 1, op)
    }

    pub fn open(&mut self) {
        let storage = open_storage(self.dir.path());
        self.machine =
            Some(Machine::open(storage, MachineOptions { cluster_id: CLUSTER }).unwrap());
    }

    /// Forgets everything that is not durable, as a crash does, and opens again.
    pub fn crash(&mut self) {
        let closing = self.machine().storage().close();
        self.machine = None;
        closing.wait();
        self.open();
    }

    pub fn flush(&mut self) -> LogPosition {
        let storage = self.machine().storage();
        match storage.begin_flush() {
            Some(job) => job.run().unwrap(),
            None => storage.durable(),
        }
    }

    /// Applies what the log has beyond what is applied.
    pub fn replay(&mut self) -> Applied {
        let log = self.log.clone();
        self.machine().apply(&log)
    }
}

pub(super) fn open_storage(dir: &std::path::Path) -> Storage {
    let options = StorageOptions { map_bytes: 1 << 30, ..StorageOptions::default() };
    Storage::open_or_create(dir, options).unwrap()
}

pub(super) fn command(id: u64, op: Op) -> Payload {
    let command = Command { id: RequestId(id), user: String::new(), auth_revision: 0, op };
    Payload::Command(command.encode())
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
