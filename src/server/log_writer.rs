//! Group commit: the queue before the Raft log.
//!
//! The driver hands over what Raft wants written and goes on. While one sync runs, hand-overs gather;
//! the next job writes all of them and syncs once. Nobody waits for a batch to fill (DESIGN §3.1).
//!
//! Invariants:
//! - hand-overs are written in the order given;
//! - a ticket is reported only after a sync that covers it and everything before it;
//! - after a failed write or sync nothing more is written and nothing more is reported durable
//!   (the log refuses; the driver stops the member).

use std::sync::{Arc, Mutex, MutexGuard};

use super::room::Room;
use crate::buggify;
use crate::metrics::Metrics;
use crate::raft::{Entry, HardState, Ticket};
use crate::runtime::{Disk, Runtime, Worker};
use crate::storage::log::{Log, LogBatch, LogError, LogRecord, Mark};
use crate::transport::codec;
use crate::types::Index;

/// One hand-over.
#[derive(Default)]
pub(crate) struct HandOver {
    /// What the core calls it; a new beginning of the log has no name.
    pub(crate) ticket: Option<Ticket>,
    /// The log begins anew here, behind an installed snapshot.
    pub(crate) mark: Option<Mark>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) truncate_from: Option<Index>,
    pub(crate) entries: Vec<Entry>,
}

/// What the writer tells the driver.
pub(crate) enum LogReport {
    /// These are durable; and whether a new beginning is among them.
    Durable(Vec<Ticket>, bool),
    /// The log is broken until a restart.
    Failed(LogError),
}

struct Shared<R: Runtime> {
    log: Mutex<Log<R::Disk>>,
    queue: Mutex<Queue>,
    report: Box<dyn Fn(LogReport) + Send + Sync>,
    runtime: R,
    spares: Worker,
    room: Arc<Room>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<HandOver>,
    scheduled: bool,
    broken: bool,
}

/// The log and the worker that writes it.
pub(crate) struct LogWriter<R: Runtime> {
    shared: Arc<Shared<R>>,
    worker: Worker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic with this lock held ends the process")
}

impl<R: Runtime> LogWriter<R>
where
    R::Disk: Disk,
{
    /// Starts the writer of an opened log. Reports go to `report`, on the worker's thread.
    pub(crate) fn new(
        runtime: &R,
        log: Log<R::Disk>,
        room: Arc<Room>,
        metrics: Arc<Metrics>,
        report: impl Fn(LogReport) + Send + Sync + 'static,
    ) -> Self {
        let worker = runtime.worker("log");
        let shared = Arc::new(Shared {
            log: Mutex::new(log),
            queue: Mutex::new(Queue::default()),
            report: Box::new(report),
            runtime: runtime.clone(),
            spares: runtime.worker("log spares"),
            room,
            metrics,
        });
        Self::prepare_spare(&shared);
        Self { shared, worker }
    }

    /// Queues a hand-over.
    pub(crate) fn submit(&self, hand_over: HandOver) {
        let mut queue = lock(&self.shared.queue);
        queue.waiting.push(hand_over);
        if !std::mem::replace(&mut queue.scheduled, true) {
            drop(queue);
            let shared = self.shared.clone();
            self.worker.run(move || write_queue(&shared));
        }
    }

    /// Lets the log forget entries up to `index`, which must be durable in the store.
    pub(crate) fn trim(&self, index: Index) {
        if buggify!("log_trims_later") {
            return;
        }
        let shared = self.shared.clone();
        self.worker.run(move || {
            let trimmed = lock(&shared.log).trim(index);
            if let Err(error) = trimmed {
                lock(&shared.queue).broken = true;
                (shared.report)(LogReport::Failed(error));
            }
        });
    }

    /// With nothing waiting, leaves evidence behind the last batch that it was durable: rot in it is then
    /// told from a torn tail.
    fn seal_if_idle(shared: &Arc<Shared<R>>) {
        if lock(&shared.queue).waiting.is_empty() && !buggify!("log_is_not_sealed") {
            let sealed = lock(&shared.log).seal();
            if let Err(error) = sealed {
                lock(&shared.queue).broken = true;
                (shared.report)(LogReport::Failed(error));
            }
        }
    }

    /// Prepares the next segment ahead of time, on a worker of its own.
    fn prepare_spare(shared: &Arc<Shared<R>>) {
        if buggify!("log_prepares_no_segment") {
            return;
        }
        if let Some(job) = lock(&shared.log).spare_job() {
            shared.spares.run(move || {
                // Without a spare the next rotation makes its segment itself, and reports what is wrong.
                match job.run() {
                    Ok(true) => {}
                    Ok(false) => tracing::debug!("no room to prepare a log segment"),
                    Err(error) => tracing::warn!(%error, "no log segment could be prepared"),
                }
            });
        }
    }
}

fn write_queue<R: Runtime>(shared: &Arc<Shared<R>>) {
    let batch = {
        let mut queue = lock(&shared.queue);
        queue.scheduled = false;
        std::mem::take(&mut queue.waiting)
    };
    if buggify!("log_syncs_each_hand_over") {
        batch.into_iter().for_each(|hand_over| write_batch(shared, &[hand_over]));
    } else {
        write_batch(shared, &batch);
    }
}

fn write_batch<R: Runtime>(shared: &Arc<Shared<R>>, batch: &[HandOver]) {
    if lock(&shared.queue).broken {
        return;
    }
    shared.runtime.crash_point("log_before_write");
    // NB: the guard must be gone before the arms run, which take the lock again.
    let written = write_all(shared, batch);
    match written {
        Ok(bytes) => {
            shared.room.spend(bytes);
            shared.runtime.crash_point("log_synced");
            let tickets = batch.iter().filter_map(|hand_over| hand_over.ticket).collect();
            let marked = batch.iter().any(|hand_over| hand_over.mark.is_some());
            (shared.report)(LogReport::Durable(tickets, marked));
            LogWriter::seal_if_idle(shared);
            LogWriter::prepare_spare(shared);
        }
        Err(error) => {
            lock(&shared.queue).broken = true;
            (shared.report)(LogReport::Failed(error));
        }
    }
}

/// Writes and syncs; returns about how many bytes.
fn write_all<R: Runtime>(shared: &Shared<R>, batch: &[HandOver]) -> Result<usize, LogError> {
    let (mut log, mut bytes) = (lock(&shared.log), 0);
    for hand_over in batch {
        if let Some(mark) = &hand_over.mark {
            log.mark(mark.clone())?;
        }
        let records: Vec<LogRecord> = hand_over.entries.iter().map(record).collect();
        bytes += records.iter().map(|record| record.data.len()).sum::<usize>();
        log.append(LogBatch {
            hard_state: hand_over.hard_state.map(stored),
            truncate_from: hand_over.truncate_from,
            entries: &records,
        })?;
    }
    let began = shared.runtime.now();
    log.sync()?;
    shared.metrics.log_sync.observe(shared.runtime.now() - began);
    shared.metrics.log_bytes.add_len(bytes);
    Ok(bytes)
}

fn record(entry: &Entry) -> LogRecord {
    let (kind, data) = codec::encode_payload(&entry.payload);
    let kind = u8::try_from(kind).expect("there are three types of entries");
    LogRecord { index: entry.index, term: entry.term, kind, data }
}

/// Reads an entry back from its record.
pub(crate) fn entry(record: LogRecord) -> Result<Entry, codec::CodecError> {
    let payload = codec::decode_payload(i32::from(record.kind), record.data)?;
    Ok(Entry { term: record.term, index: record.index, payload })
}

pub(crate) fn stored(state: HardState) -> crate::storage::log::HardState {
    crate::storage::log::HardState { term: state.term, vote: state.vote, commit: state.commit }
}

/// Reads the hard state back.
pub(crate) fn restored(state: crate::storage::log::HardState) -> HardState {
    HardState { term: state.term, vote: state.vote, commit: state.commit }
}
