//! The production half of the runtime: tokio's clock, tasks and sockets.
//!
//! Two lanes, two threads. [`Lane::Serve`] is a current-thread tokio runtime on the thread that
//! called [`Tokio::start`]; [`Lane::Engine`] is another on a thread of its own, so that Raft's
//! heartbeats do not wait behind a burst of requests. (One thread with both costs fewer wake-ups and
//! is the better trade on one core only: see [`ENGINE_THREAD`].) A worker is one OS thread reading a
//! queue. No work-stealing pool anywhere: a hand-over between threads happens where the code says so.
//!
//! Guarantees:
//! - A socket or sleep belongs to the lane whose task made it.
//! - A panic in the engine or in a worker job ends the process. What they guard (the replicated state,
//!   the log) may be half-changed by then, and only a restart re-reads the truth. A panic in a serving
//!   task ends that task only.
//! - [`Tokio::start`] returns after both lanes are gone and the workers' queues are empty, or after
//!   [`WORKERS_WAIT`] if a job hangs.
//!
//! Left out: several serving threads (the target is two cores), Windows.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the one place that names clocks, tasks, threads and sockets"
)]

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use ::tokio::runtime::{Builder, Handle};
use ::tokio::sync::oneshot;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::files::Files;
use super::{Address, Instant, Job, Lane, Listener, Process, Runtime, Stream, TaskHandle, Worker};

/// Whether [`Lane::Engine`] has a thread of its own. Without it a node needs one core only, and its
/// elections depend on how long a turn of serving may take.
pub const ENGINE_THREAD: bool = true;

/// How long [`Tokio::start`] waits at its end for the workers' queues.
pub const WORKERS_WAIT: Duration = Duration::from_secs(10);

/// How long a connection may be silent before the kernel probes it, and the pause between probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Connections the kernel completes ahead of `accept`; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What can be chosen about the production runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Sets `SO_REUSEPORT` on listening sockets (`--socket-reuse-port`).
    pub reuse_port: bool,
}

/// The production runtime. Clones are handles to the same one.
#[derive(Clone)]
pub struct Tokio {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    origin: std::time::Instant,
    serve: Handle,
    engine: Handle,
    random: Mutex<StdRng>,
    /// Cloned into each worker thread; the receiver learns of the last one's end.
    worker_alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Tokio {
    /// Runs `main` on the serving lane, on the calling thread, and returns what it returns.
    ///
    /// # Errors
    /// When the kernel refuses an event queue, a thread or its randomness.
    pub fn start<M, F>(settings: Settings, main: M) -> io::Result<F::Output>
    where
        M: FnOnce(Self) -> F,
        F: Future,
    {
        let serve = Builder::new_current_thread().enable_all().build()?;
        let (worker_alive, workers_gone) = mpsc::channel();
        let engine = if ENGINE_THREAD { Some(EngineThread::start()?) } else { None };
        let runtime = Self {
            shared: Arc::new(Shared {
                settings,
                origin: now(),
                serve: serve.handle().clone(),
                engine: engine.as_ref().map_or(serve.handle(), |e| &e.handle).clone(),
                random: Mutex::new(seeded_by_the_kernel()?),
                worker_alive: Mutex::new(Some(worker_alive)),
            }),
        };
        let output = serve.block_on(main(runtime.clone()));
        // The lanes first: their tasks hold the workers, whose threads end with the last holder.
        drop(engine);
        drop(serve);
        drop(lock(&runtime.shared.worker_alive).take());
        drop(runtime);
        // An error that is not a timeout says that every sender is gone, which is the good end.
        if workers_gone.recv_timeout(WORKERS_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("a worker thread did not end in time");
        }
        Ok(output)
    }

    /// Completes with the name of the first signal that asks the process to end, SIGTERM or SIGINT.
    /// Called from a serving task. From the call on, those signals no longer end the process.
    ///
    /// # Errors
    /// When the kernel refuses the handlers.
    pub fn stop_signal(&self) -> io::Result<impl Future<Output = &'static str> + Send + use<>> {
        use ::tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        Ok(async move {
            ::tokio::select! {
                biased;
                _ = term.recv() => "terminated",
                _ = int.recv() => "interrupt",
            }
        })
    }

    fn handle(&self, lane: Lane) -> &Handle {
        match lane {
            Lane::Serve => &self.shared.serve,
            Lane::Engine => &self.shared.engine,
        }
    }
}

/// The engine's thread; dropping this ends it, with all its tasks.
struct EngineThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl EngineThread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            // An error means that the sender was dropped, which is a stop as well.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process already, see `AbortOnPanic`.
            let _ = thread.join();
        }
    }
}

/// Ends the process when dropped by a panic. The panic's message is out by then.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Runtime for Tokio {
    type Stream = Socketed;
    type Listener = Listening;
    type Disk = Files;

    fn now(&self) -> Instant {
        Instant(self.shared.origin.elapsed())
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + Send + 'static {
        ::tokio::time::sleep(d)
    }

    fn random_u64(&self) -> u64 {
        lock(&self.shared.random).next_u64()
    }

    fn spawn(
        &self,
        lane: Lane,
        _name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        let abort = match lane {
            Lane::Serve => self.handle(lane).spawn(task).abort_handle(),
            Lane::Engine => {
                let fatal = async move {
                    let _guard = AbortOnPanic;
                    task.await;
                };
                self.handle(lane).spawn(fatal).abort_handle()
            }
        };
        TaskHandle::new(move || abort.abort())
    }

    fn worker(&self, name: &'static str) -> Worker {
        let (queue, jobs) = mpsc::channel::<Job>();
        let alive = lock(&self.shared.worker_alive).clone();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _alive = alive;
                let _guard = AbortOnPanic;
                while let Ok(job) = jobs.recv() {
                    job();
                }
            })
            .expect("the kernel gives the few threads a node asks for at its start");
        // The thread ends only with the last sender, or the process with it: the send can't fail.
        Worker::new(move |job| queue.send(job).expect("the worker's thread outlives its senders"))
    }

    async fn listen(&self, at: &Address) -> io::Result<Listening> {
        match at {
            Address::Tcp { host, port } => {
                let address = self.address_to_bind(host, *port).await?;
                let listener = bind(address, host.is_empty(), self.shared.settings.reuse_port)?;
                Ok(Listening::Tcp(TcpListener::from_std(listener.into())?, host.clone()))
            }
            Address::Unix(path) => {
                // A socket's name outlives its process, and would make every later bind fail.
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                Ok(Listening::Unix(UnixListener::bind(path)?, path.clone()))
            }
        }
    }

    async fn connect(&self, to: &Address) -> io::Result<Socketed> {
        match to {
            Address::Tcp { host, port } => {
                let host = if host.is_empty() { "localhost" } else { host.as_str() };
                tuned(TcpStream::connect((host, *port)).await?)
            }
            Address::Unix(path) => Ok(Socketed::Unix(UnixStream::connect(path).await?)),
        }
    }

    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(literal) = host.parse() {
            return Ok(vec![literal]);
        }
        Ok(::tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect())
    }

    fn disk(&self) -> Files {
        Files
    }

    fn process(&self) -> Option<Process> {
        super::process::read()
    }

    fn crash_point(&self, _name: &'static str) {}
}

impl Tokio {
    /// Chooses the one address that a host to listen at stands for: all of them for the empty name,
    /// and an IPv4 address where a name has both kinds, as Go does.
    async fn address_to_bind(&self, host: &str, port: u16) -> io::Result<SocketAddr> {
        if host.is_empty() {
            return Ok((Ipv6Addr::UNSPECIFIED, port).into());
        }
        let found = self.resolve(host).await?;
        let best = found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied();
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no such host: {host}"));
        Ok((best.ok_or_else(unknown)?, port).into())
    }
}

/// Opens the listening socket. With `any`, a machine without IPv6 gets the IPv4 wildcard instead.
fn bind(address: SocketAddr, any: bool, reuse_port: bool) -> io::Result<Socket> {
    let attempt = |address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Without it a restart would have to wait until old connections have left TIME_WAIT.
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    match attempt(address) {
        Err(error) if any && error.kind() != io::ErrorKind::AddrInUse => {
            attempt((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

/// Sets what every TCP connection gets: no Nagle delay, kernel probes when silent.
fn tuned(stream: TcpStream) -> io::Result<Socketed> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&probes)?;
    Ok(Socketed::Tcp(stream))
}

/// A listening socket of the kernel.
#[derive(Debug)]
pub enum Listening {
    /// A TCP port, with the host as it was asked for.
    Tcp(TcpListener, String),
    /// A Unix-domain socket and its path, which is removed with it.
    Unix(UnixListener, PathBuf),
}

impl Listener for Listening {
    type Stream = Socketed;

    async fn accept(&mut self) -> io::Result<Socketed> {
        match self {
            Self::Tcp(listener, _) => tuned(listener.accept().await?.0),
            Self::Unix(listener, _) => Ok(Socketed::Unix(listener.accept().await?.0)),
        }
    }

    fn local_addr(&self) -> Address {
        match self {
            Self::Tcp(listener, host) => match listener.local_addr() {
                Ok(bound) => Address::tcp(bound.ip().to_string(), bound.port()),
                Err(_) => Address::tcp(host.clone(), 0),
            },
            Self::Unix(_, path) => Address::Unix(path.clone()),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody may have removed it already; nothing depends on it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connected socket of the kernel.
#[derive(Debug)]
pub enum Socketed {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix-domain connection.
    Unix(UnixStream),
}

impl Stream for Socketed {
    fn peer_addr(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map(|a| a.to_string()).unwrap_or_default(),
            Self::Unix(_) => String::new(),
        }
    }
}

impl AsyncRead for Socketed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socketed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // The kernel has what was written.
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn seeded_by_the_kernel() -> io::Result<StdRng> {
    let mut seed = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut seed)
        .map_err(|_| io::Error::other("the kernel gives no randomness"))?;
    Ok(StdRng::from_seed(seed))
}

/// Locks a mutex whose contents are whole at every moment, so that a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn run<F: Future>(main: impl FnOnce(Tokio) -> F) -> F::Output {
        Tokio::start(Settings::default(), main).expect("a runtime")
    }

    async fn echoes_once(runtime: Tokio, at: Address) -> String {
        let mut listener = runtime.listen(&at).await.expect("listen");
        let bound = listener.local_addr();
        runtime.spawn(Lane::Serve, "echo", async move {
            let mut stream = listener.accept().await.expect("accept");
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.expect("read");
            stream.write_all(&bytes).await.expect("write");
        });
        let mut stream = runtime.connect(&bound).await.expect("connect");
        stream.write_all(b"hello").await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        if let Socketed::Tcp(stream) = &stream {
            assert!(stream.nodelay().expect("option"));
        }
        answer
    }

    #[test]
    fn tcp_connections_carry_bytes_without_delay() {
        for host in ["127.0.0.1", "localhost", ""] {
            assert_eq!(run(|rt| echoes_once(rt, Address::tcp(host, 0))), "hello", "{host}");
        }
    }

    #[test]
    fn unix_sockets_replace_a_stale_name_and_remove_their_own() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("node:1");
        std::fs::write(&path, "stale").expect("write");
        assert_eq!(run(|rt| echoes_once(rt, Address::Unix(path.clone()))), "hello");
        assert!(!path.exists());
    }

    #[test]
    fn a_port_in_use_is_an_error_at_once() {
        run(|rt| async move {
            let first = rt.listen(&Address::tcp("127.0.0.1", 0)).await.expect("listen");
            let error = rt.listen(&first.local_addr()).await.expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        });
    }

    #[test]
    fn the_engine_lane_has_its_own_thread() {
        run(|rt| async move {
            let (tell, told) = oneshot::channel();
            rt.spawn(Lane::Engine, "who", async move {
                let name = std::thread::current().name().map(str::to_owned);
                tell.send(name).expect("receiver waits");
            });
            assert_eq!(told.await.expect("told").as_deref(), Some("engine"));
        });
    }

    #[test]
    fn worker_jobs_run_in_order_and_are_finished_at_the_end() {
        let done = Arc::new(Mutex::new(Vec::new()));
        run(|rt| {
            let worker = rt.worker("log");
            for i in 0..100 {
                let done = done.clone();
                worker.run(move || {
                    if i == 0 {
                        std::thread::sleep(Duration::from_millis(30));
                    }
                    lock(&done).push(i);
                });
            }
            async {}
        });
        assert_eq!(*lock(&done), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn an_aborted_task_stops_and_a_dropped_handle_does_not_stop_one() {
        run(|rt| async move {
            let (kept, mut keeps) = ::tokio::sync::mpsc::channel::<()>(1);
            let forever = rt.spawn(Lane::Engine, "forever", async move {
                let _kept = kept;
                std::future::pending::<()>().await;
            });
            let (tell, told) = oneshot::channel();
            let clock = rt.clone();
            drop(rt.spawn(Lane::Serve, "detached", async move {
                clock.sleep(Duration::from_millis(1)).await;
                tell.send(()).expect("receiver waits");
            }));
            told.await.expect("the detached task ran on");
            forever.abort();
            assert_eq!(keeps.recv().await, None);
        });
    }

    #[test]
    fn two_runtimes_draw_different_numbers() {
        let draw = || run(|rt| async move { (rt.random_u64(), rt.random_u64()) });
        assert_ne!(draw(), draw());
    }
}
