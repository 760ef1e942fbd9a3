//! The abstract runtime: everything a node asks of the machine it runs on, as small traits.
//!
//! A node needs a clock, randomness, tasks, one or two ordered worker threads, byte-stream sockets
//! and a disk. It takes them all from one value, its [`Runtime`], and from nowhere else. There are
//! two implementations: [`tokio`] for production (feature `real`), and a simulated one in `sim/`, in
//! which one seed decides every delay, every interleaving and every fault. The traits name neither.
//!
//! Vocabulary: a *lane* says which thread a task shares with whom ([`Lane`]); a *worker* runs
//! synchronous jobs in the order given ([`Worker`]), and is where the disk is touched; a *crash
//! point* names a moment between two effects that a simulated power loss likes to hit.
//!
//! Invariants that users rely on:
//! - [`Runtime::now`] never goes back. [`Runtime::wall`] may: nothing is ordered by it.
//! - A dropped [`TaskHandle`] leaves its task running; only [`TaskHandle::abort`] ends one early,
//!   and then only at one of the task's awaits.
//! - Jobs of one [`Worker`] run one at a time and in the order of the calls to [`Worker::run`].
//! - [`DiskFile::write_at`] writes all bytes or reports an error; what [`DiskFile::sync_data`] has not
//!   covered may be lost, in part and out of order, at a power loss. A new or renamed name is durable
//!   only after [`Disk::sync_dir`] of its directory.
//! - The disk is synchronous. It is called from worker jobs and at start, never from a task that
//!   serves requests.
//! - Streams come with Nagle's delay switched off.
//!
//! What is left out: UDP, asynchronous files, process control, signals (only a `main` has those).
//! Channels, `Notify` and `select!` (always `biased;`) are tokio's own, since they need no runtime.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::ops::{Add, AddAssign, Sub};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ::tokio::io::{AsyncRead, AsyncWrite};
use rustls::crypto::CryptoProvider;

pub mod buggify;
#[cfg(feature = "real")]
pub mod files;
pub mod latest;
#[cfg(feature = "real")]
mod process;
#[cfg(feature = "real")]
pub mod tokio;

/// All that a node takes from the machine it runs on.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// A connected byte stream.
    type Stream: Stream;
    /// A socket that accepts streams.
    type Listener: Listener<Stream = Self::Stream>;
    /// The file system.
    type Disk: Disk;

    /// Reads the monotonic clock.
    fn now(&self) -> Instant;

    /// Reads the wall clock, as time since the Unix epoch. It may jump, either way.
    fn wall(&self) -> Duration;

    /// Completes once `d` has passed on the monotonic clock.
    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + Send + 'static;

    /// Draws a number; unpredictable in production, decided by the seed in simulation.
    fn random_u64(&self) -> u64;

    /// Starts a task. It runs until it returns, is aborted, or the runtime ends.
    fn spawn(
        &self,
        lane: Lane,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle;

    /// Starts a worker: a thread of its own in production, a task in simulation.
    fn worker(&self, name: &'static str) -> Worker;

    /// Opens a listening socket. Port 0 asks for a free one, see [`Listener::local_addr`].
    fn listen(&self, at: &Address) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Connects to a listening socket; bounded by no timeout of its own.
    fn connect(&self, to: &Address) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Looks up a host's addresses. By default only literals are understood.
    fn resolve(&self, host: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send {
        let literal = host.parse().map(|address| vec![address]).map_err(|_| {
            io::Error::new(io::ErrorKind::Unsupported, "this runtime resolves no host names")
        });
        std::future::ready(literal)
    }

    /// Returns the cryptography that TLS is done with; in simulation one whose randomness is the seed's.
    fn cryptography(&self) -> CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    /// Returns the handle to the disk.
    fn disk(&self) -> Self::Disk;

    /// Returns what the kernel knows of this process; `None` where there is none of its own, as in simulation.
    fn process(&self) -> Option<Process> {
        None
    }

    /// Marks a moment between two effects. Nothing in production; a place to die in simulation.
    fn crash_point(&self, name: &'static str);
}

/// What the kernel knows of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time used.
    pub cpu: Duration,
    /// When it began, since the Unix epoch.
    pub started: Duration,
    /// Memory in use.
    pub resident_bytes: u64,
    /// Address space in use.
    pub virtual_bytes: u64,
    /// The most address space it may use; `u64::MAX` for no limit.
    pub virtual_bytes_max: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// The most it may open.
    pub descriptors_max: u64,
    /// Bytes received over IP by all of its network name space.
    pub received_bytes: u64,
    /// Bytes sent there.
    pub sent_bytes: u64,
}

/// Which tasks share a thread: [`Lane::Serve`] is client and peer I/O, [`Lane::Engine`] is Raft and
/// apply. A burst of requests on one does not delay the other by more than the kernel's scheduling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Sockets, TLS, HTTP, request handling.
    Serve,
    /// The driver loop: Raft, applying, watch dispatch.
    Engine,
}

/// A moment of the monotonic clock, as the time since an origin that means nothing by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub Duration);

impl Instant {
    /// Returns the time from `earlier` to this moment, zero if `earlier` is in fact later.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// The time between; zero if `earlier` is later, as [`Instant::saturating_since`].
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// A task that was spawned. Dropping the handle leaves the task running.
pub struct TaskHandle {
    abort: Box<dyn Fn() + Send + Sync>,
}

impl TaskHandle {
    /// Wraps a runtime's own way to end a task early.
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self { abort: Box::new(abort) }
    }

    /// Ends the task at its next await, dropping its future. Harmless if it is over already.
    pub fn abort(&self) {
        (self.abort)();
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskHandle")
    }
}

/// A job for a [`Worker`].
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs synchronous jobs one after the other, in the order given. Clones feed the same queue; the
/// worker ends when the last clone is gone and the queue is empty.
#[derive(Clone)]
pub struct Worker {
    queue: Arc<dyn Fn(Job) + Send + Sync>,
}

impl Worker {
    /// Wraps a runtime's queue of jobs.
    pub fn new(queue: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self { queue: Arc::new(queue) }
    }

    /// Queues a job. It reports its result, if any, by a channel or callback it has captured.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        (self.queue)(Box::new(job));
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

/// A place to listen at or connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A TCP port of a host given by name or by address (IPv6 without brackets).
    Tcp {
        /// The host's name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix-domain socket, by its path.
    Unix(PathBuf),
}

impl Address {
    /// Names a TCP port.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address: want host:port, [ipv6]:port or unix:path")]
pub struct BadAddress;

impl FromStr for Address {
    type Err = BadAddress;

    /// Reads what `Display` prints: `host:port`, `[ipv6]:port`, `unix:path`.
    fn from_str(s: &str) -> Result<Self, BadAddress> {
        if let Some(path) = s.strip_prefix("unix:") {
            return if path.is_empty() { Err(BadAddress) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = s.rsplit_once(':').ok_or(BadAddress)?;
        let port = port.parse().map_err(|_| BadAddress)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or(BadAddress)?,
            None if host.contains(':') => return Err(BadAddress),
            None => host,
        };
        Ok(Self::tcp(host, port))
    }
}

/// A connected byte stream with Nagle's delay off.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Returns the other end's address, `host:port`, for logs; may be empty for a Unix socket.
    fn peer_addr(&self) -> String;
}

/// A socket that accepts streams.
pub trait Listener: Send + 'static {
    /// What is accepted.
    type Stream: Stream;

    /// Waits for the next connection. An error says that *one* connection was lost or that the
    /// process is short of descriptors; the caller pauses a moment and goes on.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Returns the address really bound, with the port chosen if 0 was asked.
    fn local_addr(&self) -> Address;
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file or an existing one cut to nothing, for reading and writing.
    Create,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// The file system. Synchronous: for worker jobs and for the start, never for a serving task.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Opens a file. Creating a name is durable only after [`Disk::sync_dir`].
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Self::File>;

    /// Lists the names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file or directory over whatever file has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and its missing parents, readable by the owner only.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Says whether the path exists.
    fn exists(&self, path: &Path) -> bool;

    /// Takes an exclusive lock on a file, creating it if need be. `WouldBlock` if somebody has it.
    fn lock(&self, path: &Path) -> io::Result<Lock>;

    /// Returns the bytes that may still be written under a directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file, read and written at offsets. There is no cursor.
pub trait DiskFile: Send + 'static {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf`, or reports an error (after which any part of it may have been written).
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns the length.
    fn len(&self) -> io::Result<u64>;

    /// Says whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A held file lock; released when dropped, or by the kernel when the process ends.
pub struct Lock {
    _held: Box<dyn Any + Send + Sync>,
}

impl Lock {
    /// Wraps what keeps the lock.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// The answer of [`timeout`] when the time was up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Awaits `future` for at most `limit`; it is dropped when the time is up.
pub async fn timeout<R: Runtime, F: Future>(
    runtime: &R,
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(runtime.sleep(limit));
    ::tokio::select! {
        biased;
        output = &mut future => Ok(output),
        () = &mut sleep => Err(Elapsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print() {
        for text in ["localhost:2379", "127.0.0.1:0", "[::1]:2380", "unix:/tmp/x:1", "unix:rel"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "host", "::1:80", "[::1:80", "host:99999", "host:", "unix:"] {
            assert_eq!(text.parse::<Address>(), Err(BadAddress), "{text}");
        }
    }

    #[test]
    fn instants_never_give_a_negative_time() {
        let early = Instant(Duration::from_secs(3));
        let late = early + Duration::from_secs(2);
        assert_eq!(late - early, Duration::from_secs(2));
        assert_eq!(early - late, Duration::ZERO);
        assert!(early < late);
    }
}
