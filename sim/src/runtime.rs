//! The simulated half of the abstract runtime: madsim's tasks and time, our own network and disk.
//!
//! One [`SimRuntime`] is one process on one machine. Its tasks belong to the machine's madsim node, so
//! that killing the node ends them all. Its clock is the simulation's, bent by the machine's
//! [`ClockParams`]: an offset that may jump (wall clock) and a rate (both clocks, fixed for a
//! process's life). Workers are tasks that run each job after a delay drawn from the machine's
//! [`DiskParams`]; a job itself takes no simulated time, so what a crash can cut in two is decided by
//! the disk's operation counter and by crash points.
//!
//! Invariant: nothing here asks the real machine for time, randomness or threads.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::task::AbortHandle;
use madsim::time::TimeHandle;
use mainstay::runtime::{Address, Instant, Lane, Runtime, TaskHandle, Worker};
use tokio::sync::mpsc;

use crate::disk::SimDisk;
use crate::network::{Port, SimListener, SimStream};
use crate::rng::Rng;
use crate::time::Sleep;
use crate::trace::lock;

/// How a machine's clocks go.
#[derive(Clone, Copy, Debug)]
pub struct ClockParams {
    /// The wall clock's distance from the simulation's time, in milliseconds. May change: a jump.
    pub offset_ms: i64,
    /// The simulation's time at which the wall clock stands still, if it does.
    pub frozen_at: Option<Duration>,
    /// How fast both clocks go, in millionths of the right rate. Taken up by the next process.
    pub rate_ppm: u32,
}

impl Default for ClockParams {
    fn default() -> Self {
        Self { offset_ms: 0, frozen_at: None, rate_ppm: 1_000_000 }
    }
}

/// How long a machine's disk takes.
#[derive(Clone, Copy, Debug)]
pub struct DiskParams {
    /// The shortest and longest time of a job.
    pub job: (Duration, Duration),
    /// Until when, in the simulation's time, no job ends at all.
    pub stalled_until: Duration,
}

impl Default for DiskParams {
    fn default() -> Self {
        let job = (Duration::from_micros(200), Duration::from_millis(3));
        Self { job, stalled_until: Duration::ZERO }
    }
}

/// What the nemesis may change on a machine while it runs, and what it can see there.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Its clocks.
    pub clock: ClockParams,
    /// Its disk's speed.
    pub disk: DiskParams,
    /// The crash point at which the process is to die, and how many times it may pass before.
    pub crash_at: Option<(String, u64)>,
    /// How often each crash point was passed.
    pub points: BTreeMap<&'static str, u64>,
}

/// A process's view of its simulated machine. Clones are the same process.
#[derive(Clone)]
pub struct SimRuntime {
    port: Port,
    disk: SimDisk,
    machine: Arc<Mutex<Machine>>,
    rng: Arc<Mutex<Rng>>,
    time: TimeHandle,
    rate: u64,
    /// Where its tasks are noted, if no machine of its own ends them.
    tasks: Option<Tasks>,
}

/// Tasks to be ended with a run. Tasks that wait for one another keep each other alive beyond it.
pub type Tasks = Arc<Mutex<Vec<AbortHandle>>>;

/// The wall clock's start: 2026-01-01, so that certificates and ids look like today's.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

const RIGHT_RATE: u64 = 1_000_000;

impl SimRuntime {
    /// Starts a process's view; to be called in the run's simulation.
    pub fn new(port: Port, disk: SimDisk, machine: Arc<Mutex<Machine>>, rng: Rng) -> Self {
        let rate = u64::from(lock(&machine).clock.rate_ppm.max(1));
        let rng = Arc::new(Mutex::new(rng));
        Self { port, disk, machine, rng, time: TimeHandle::current(), rate, tasks: None }
    }

    /// Notes its tasks, so that they can be ended with the run.
    #[must_use]
    pub fn noting(self, tasks: Tasks) -> Self {
        Self { tasks: Some(tasks), ..self }
    }
}

fn scale(d: Duration, by: u64, of: u64) -> Duration {
    let ns = d.as_nanos() * u128::from(by) / u128::from(of);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// How long the simulation takes until a clock of this rate has gone on by `d`: rounded up, or whoever sleeps
/// until a moment of its own clock and wakes a nanosecond early would sleep for nothing, for ever.
fn lasting(d: Duration, rate: u64) -> Duration {
    let ns = (d.as_nanos() * u128::from(RIGHT_RATE)).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

impl Runtime for SimRuntime {
    type Stream = SimStream;
    type Listener = SimListener;
    type Disk = SimDisk;

    fn now(&self) -> Instant {
        Instant(scale(self.time.elapsed(), self.rate, RIGHT_RATE))
    }

    fn cryptography(&self) -> rustls::crypto::CryptoProvider {
        crate::crypto::provider()
    }

    fn wall(&self) -> Duration {
        let clock = lock(&self.machine).clock;
        let elapsed = clock.frozen_at.unwrap_or_else(|| self.time.elapsed());
        let shown = EPOCH + scale(elapsed, self.rate, RIGHT_RATE);
        let shifted = i64::try_from(shown.as_millis()).unwrap_or(i64::MAX);
        let shifted = shifted.saturating_add(clock.offset_ms);
        Duration::from_millis(u64::try_from(shifted).unwrap_or(0))
    }

    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + Send + 'static {
        Sleep::new(&self.time, lasting(d, self.rate))
    }

    fn random_u64(&self) -> u64 {
        lock(&self.rng).next_u64()
    }

    fn spawn(
        &self,
        _lane: Lane,
        _name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        let handle = madsim::task::spawn(task);
        let abort = handle.abort_handle();
        if let Some(tasks) = &self.tasks {
            lock(tasks).push(handle.abort_handle());
        }
        // Dropping madsim's handle leaves the task running, as the runtime's contract says.
        TaskHandle::new(move || abort.abort())
    }

    fn worker(&self, name: &'static str) -> Worker {
        let (queue, mut jobs) = mpsc::unbounded_channel::<mainstay::runtime::Job>();
        let runtime = self.clone();
        drop(self.spawn(Lane::Engine, name, async move {
            while let Some(job) = jobs.recv().await {
                let (low, high) = lock(&runtime.machine).disk.job;
                let delay = lock(&runtime.rng).duration(low, high);
                Sleep::new(&runtime.time, delay).await;
                loop {
                    let stalled_until = lock(&runtime.machine).disk.stalled_until;
                    let now = runtime.time.elapsed();
                    if stalled_until <= now {
                        break;
                    }
                    Sleep::new(&runtime.time, stalled_until - now).await;
                }
                job();
            }
        }));
        Worker::new(move |job| {
            // A worker that is gone belongs to a killed process: its jobs go with it.
            let _ = queue.send(job);
        })
    }

    async fn listen(&self, at: &Address) -> io::Result<SimListener> {
        match at {
            Address::Tcp { port, .. } => self.port.listen(*port),
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn connect(&self, to: &Address) -> io::Result<SimStream> {
        match to {
            Address::Tcp { host, port } => self.port.connect(host, *port).await,
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn disk(&self) -> SimDisk {
        self.disk.clone()
    }

    fn crash_point(&self, name: &'static str) {
        let mut machine = lock(&self.machine);
        *machine.points.entry(name).or_default() += 1;
        let Some((at, left)) = &mut machine.crash_at else { return };
        if at != name {
            return;
        }
        if *left > 0 {
            *left -= 1;
            return;
        }
        machine.crash_at = None;
        drop(machine);
        self.disk.host().crash();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_when_its_clock_says_so_and_not_before() {
        for rate in [950_000, 999_999, RIGHT_RATE, 1_000_001, 1_050_000] {
            for began in [0, 1, 999_999_999, 1_234_567_891] {
                for wanted in [1, 2, 19, 1_000_003] {
                    let before = scale(Duration::from_nanos(began), rate, RIGHT_RATE);
                    let slept = lasting(Duration::from_nanos(wanted), rate);
                    let after = scale(Duration::from_nanos(began) + slept, rate, RIGHT_RATE);
                    assert!(
                        after >= before + Duration::from_nanos(wanted),
                        "{rate} {began} {wanted}"
                    );
                }
            }
        }
    }
}
