//! Brings what was applied to the store's file, and old revisions out of it, without ever being waited
//! for.
//!
//! A batch is closed after [`FLUSH_INTERVAL`] or at [`FLUSH_BYTES`] of overlay, and written by the
//! `store` worker in one transaction together with the applied index. Physical compaction runs on the
//! same worker in steps of [`Settings::scrub_rows`](super::Settings) with a pause between them.
//!
//! Invariants:
//! - one batch or scrub step at a time; the worker owns every write transaction;
//! - scrubbing follows flushing: rows that are not in the file yet are not looked for there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::event::Event;
use crate::buggify;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::mvcc::{Damage, ScrubProgress};
use crate::runtime::{Instant, Worker};
use crate::storage::StorageError;
use crate::types::{Index, LogPosition};

/// How long an applied entry stays in memory alone, at the most (etcd's commit interval is 100 ms;
/// here nothing waits for it, and a longer one saves writing pages twice).
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// How much may be in memory alone before a batch is closed early.
const FLUSH_BYTES: usize = 8 << 20;

/// See the module's text.
pub(crate) struct Keeper {
    worker: Worker,
    events: mpsc::UnboundedSender<Event>,
    scrub_rows: usize,
    scrub_pause: Duration,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Fn() -> Instant + Send + Sync>,
    /// When the oldest change that is not in a closed batch was applied.
    dirty_since: Option<Instant>,
    busy: bool,
    /// When the next scrub step may run, if there is something to scrub.
    scrub_at: Option<Instant>,
    trim: Option<Index>,
}

/// Whether there is more to scrub; damage stops the member like any failed write.
fn scrub_outcome(
    done: Result<Result<ScrubProgress, Damage>, StorageError>,
) -> Result<bool, String> {
    match done {
        Ok(Ok(progress)) => Ok(progress != ScrubProgress::Idle),
        Ok(Err(damage)) => Err(damage.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a turn brought.
#[derive(Default)]
pub(crate) struct Turn {
    /// The log is no longer needed up to this index.
    pub(crate) flushed_below: Option<Index>,
}

impl Keeper {
    pub(crate) fn new(
        worker: Worker,
        events: mpsc::UnboundedSender<Event>,
        scrub_rows: usize,
        scrub_pause: Duration,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Fn() -> Instant + Send + Sync>,
    ) -> Self {
        Self {
            worker,
            events,
            scrub_rows,
            scrub_pause,
            metrics,
            clock,
            dirty_since: None,
            busy: false,
            scrub_at: Some(Instant::default()),
            trim: None,
        }
    }

    /// Entries were applied.
    pub(crate) fn applied(&mut self, machine: &Machine, now: Instant) {
        self.dirty_since.get_or_insert(now);
        if self.scrub_at.is_none() && machine.reader().store().scrub_pending() {
            self.scrub_at = Some(now);
        }
    }

    /// The store was replaced by a snapshot, which is in its file as a whole.
    pub(crate) fn replaced(&mut self) {
        self.dirty_since = None;
        self.scrub_at = Some(Instant::default());
    }

    /// A batch is in the file.
    pub(crate) fn flushed(&mut self, _position: LogPosition) {
        self.busy = false;
        self.trim = Some(Index(0)).filter(|_| !buggify!("store_forgets_to_trim"));
        // A compaction may have become durable with this batch: only now can its rows be removed.
        self.scrub_at = Some(Instant::default());
    }

    /// A scrub step is done.
    pub(crate) fn scrubbed(&mut self, more: bool, now: Instant) {
        self.busy = false;
        self.scrub_at = more.then_some(now + self.scrub_pause);
    }

    /// Returns when there is something to do.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        if self.busy {
            return None;
        }
        let flush = self.dirty_since.map(|since| since + FLUSH_INTERVAL);
        flush.into_iter().chain(self.scrub_at).min()
    }

    /// Starts what is due.
    pub(crate) fn turn(&mut self, now: Instant, machine: &Machine) -> Turn {
        let storage = machine.storage();
        let trimmed = self.trim.take().map(|_| storage.trim_floor());
        let due = self.dirty_since.is_some_and(|since| now >= since + FLUSH_INTERVAL)
            || (self.dirty_since.is_some()
                && (storage.overlay_bytes() >= FLUSH_BYTES || buggify!("store_flushes_early")));
        if !self.busy && due && buggify!("store_flushes_late") {
            self.dirty_since = Some(now);
        } else if !self.busy && due {
            self.dirty_since = None;
            if let Some(job) = storage.begin_flush() {
                self.busy = true;
                let (events, metrics) = (self.events.clone(), self.metrics.clone());
                let clock = self.clock.clone();
                self.worker.run(move || {
                    let began = clock();
                    let flushed = job.run();
                    metrics.store_commit.observe(clock() - began);
                    // A driver that is gone needs no report.
                    let _ = events.send(Event::Flushed(flushed));
                });
            }
        } else if !self.busy && self.scrub_at.is_some_and(|at| now >= at) {
            if buggify!("scrub_waits") {
                self.scrub_at = Some(now + FLUSH_INTERVAL);
            } else if machine.reader().store().scrub_pending() {
                self.busy = true;
                self.scrub_at = None;
                let (storage, store) = (storage.clone(), machine.reader().store().clone());
                let rows = buggify!("scrub_takes_one_row", 1, self.scrub_rows);
                let events = self.events.clone();
                self.worker.run(move || {
                    let done = storage.maintenance(|txn| store.scrub_step(txn, rows));
                    let _ = events.send(Event::Scrubbed(scrub_outcome(done)));
                });
            } else {
                self.scrub_at = None;
            }
        }
        Turn { flushed_below: trimmed }
    }

    /// Runs `job` on the store's worker, in order with batches and scrub steps.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.worker.run(job);
    }
}
