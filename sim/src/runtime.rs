//! The simulated half of the abstract runtime: madsim's tasks and time, our own network and disk.
//!
//! One [`SimRuntime`] is one process on one machine. Its tasks belong to the machine's madsim node, so
//! that killing the node ends them all. Its clock is the simulation's, bent by the machine's
//! [`ClockParams`]: an offset that may jump (wall clock) and a rate (both clocks). Workers are tasks
//! that run each job after a delay drawn from the machine's [`DiskParams`]; a job itself takes no
//! simulated time, so what a crash can cut in two is decided by the disk's operation counter.
//!
//! Invariant: nothing here asks the real machine for time, randomness or threads.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use madsim::time::TimeHandle;
use mainstay::runtime::{Address, Instant, Lane, Runtime, TaskHandle, Worker};
use tokio::sync::mpsc;

use crate::disk::SimDisk;
use crate::network::{Host, Network, SimListener, SimStream};
use crate::rng::Rng;

/// How a machine's clocks go.
#[derive(Clone, Copy, Debug)]
pub struct ClockParams {
    /// The wall clock's distance from the simulation's time, in milliseconds. May change: a jump.
    pub offset_ms: i64,
    /// How fast both clocks go, in millionths of the right rate.
    pub rate_ppm: u32,
}

impl Default for ClockParams {
    fn default() -> Self {
        Self { offset_ms: 0, rate_ppm: 1_000_000 }
    }
}

/// How long a machine's disk takes.
#[derive(Clone, Copy, Debug)]
pub struct DiskParams {
    /// The shortest and longest time of a job.
    pub job: (Duration, Duration),
}

impl Default for DiskParams {
    fn default() -> Self {
        Self { job: (Duration::from_micros(200), Duration::from_millis(3)) }
    }
}

/// What the nemesis may change on a machine while it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Its clocks.
    pub clock: ClockParams,
    /// Its disk's speed.
    pub disk: DiskParams,
}

/// A process's view of its simulated machine. Clones are the same process.
#[derive(Clone)]
pub struct SimRuntime {
    host: Host,
    network: Network,
    disk: SimDisk,
    machine: Arc<Mutex<Machine>>,
    rng: Arc<Mutex<Rng>>,
    time: TimeHandle,
}

/// The wall clock's start: 2026-01-01, so that certificates and ids look like today's.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics while it holds it")
}

impl SimRuntime {
    /// Starts a process's view; to be called in a task of the machine's madsim node.
    pub fn new(
        host: Host,
        network: Network,
        disk: SimDisk,
        machine: Arc<Mutex<Machine>>,
        rng: Rng,
    ) -> Self {
        let rng = Arc::new(Mutex::new(rng));
        Self { host, network, disk, machine, rng, time: TimeHandle::current() }
    }

    fn rate(&self) -> u64 {
        u64::from(lock(&self.machine).clock.rate_ppm.max(1))
    }
}

fn scale(d: Duration, by: u64, of: u64) -> Duration {
    let ns = d.as_nanos() * u128::from(by) / u128::from(of.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

impl Runtime for SimRuntime {
    type Stream = SimStream;
    type Listener = SimListener;
    type Disk = SimDisk;

    fn now(&self) -> Instant {
        // NB: the rate is fixed for a process's life, or this clock would go back when it changes.
        Instant(scale(self.time.elapsed(), self.rate(), 1_000_000))
    }

    fn wall(&self) -> Duration {
        let clock = lock(&self.machine).clock;
        let shifted = (EPOCH + self.time.elapsed()).as_millis();
        let shifted = i64::try_from(shifted).unwrap_or(i64::MAX) + clock.offset_ms;
        Duration::from_millis(u64::try_from(shifted).unwrap_or(0))
    }

    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + Send + 'static {
        let d = scale(d, 1_000_000, self.rate());
        self.time.sleep(d)
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
                runtime.time.sleep(delay).await;
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
            Address::Tcp { port, .. } => self.network.listen(self.host, *port),
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn connect(&self, to: &Address) -> io::Result<SimStream> {
        match to {
            Address::Tcp { host, port } => self.network.connect(self.host, host, *port).await,
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn disk(&self) -> SimDisk {
        self.disk.clone()
    }

    fn crash_point(&self, _name: &'static str) {}
}
