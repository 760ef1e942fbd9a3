//! The history that all clients write, in the order in which things happened.

use std::sync::{Arc, Mutex};

use checker::history::{Record, What};
use madsim::time::TimeHandle;

use crate::trace::{Trace, lock};

/// The history of a run. Clones share it.
#[derive(Clone)]
pub struct History {
    records: Arc<Mutex<Vec<Record>>>,
    time: TimeHandle,
    trace: Trace,
}

impl History {
    /// Starts an empty history.
    pub fn new(trace: Trace) -> Self {
        Self { records: Arc::default(), time: TimeHandle::current(), trace }
    }

    /// Adds what happened just now.
    pub fn record(&self, process: u64, node: u64, what: What) {
        let kind = match &what {
            What::Invoke(_) => "invoke",
            What::Ok(_) => "ok",
            What::Fail(_) => "fail",
            What::Info(_) => "info",
            What::Watch(_) => "watch",
        };
        let revision = match &what {
            What::Ok(reply) => reply.header().revision,
            _ => 0,
        };
        self.trace.note(kind, [process, node, revision.unsigned_abs()]);
        let time = u64::try_from(self.time.elapsed().as_nanos()).unwrap_or(u64::MAX);
        lock(&self.records).push(Record { time, process, node, what });
    }

    /// Takes everything recorded.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *lock(&self.records))
    }

    /// Returns how much was recorded.
    pub fn len(&self) -> usize {
        lock(&self.records).len()
    }

    /// Says whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
