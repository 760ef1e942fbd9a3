//! The simulated network: byte streams between nodes whose every delay and loss the seed decides.
//!
//! madsim's own sockets know one latency for all links and refuse a connection over a cut link at
//! once; these streams model what a kernel's TCP does instead:
//!
//! - A *link* is one direction between two nodes. It has a delay range, a loss rate and may be cut.
//!   Loss shows as a retransmission delay, never as missing bytes: TCP is reliable until it resets.
//! - Over a cut link bytes wait, and are sent again with growing pauses. Silence for longer than
//!   [`Params::give_up`] resets the connection, as a kernel's retransmission limit would.
//! - Connecting over a cut link waits and then times out; connecting to a port that nobody listens
//!   on is refused after a round trip.
//! - A killed process resets its connections (the kernel lives on and says so to the peers). A
//!   machine without power says nothing: its peers see silence, and a reset only when they send to
//!   the machine after its restart.
//!
//! Invariants:
//! - bytes of one stream arrive in order, once, unchanged, or not at all after a reset;
//! - a stream of a dead incarnation of a node never delivers again;
//! - at most [`Params::window`] bytes are on their way in one direction; more makes the writer wait.
//!
//! Left out: datagrams (nobody here sends any), bandwidth limits, duplicate packets (TCP hides them;
//! the Raft storm at level 0 duplicates messages instead).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use madsim::time::{Instant, Sleep, TimeHandle};
use mainstay::runtime::{Address, Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::rng::Rng;

/// A simulated machine: servers and clients alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub u32);

/// What the whole network is like in one run.
#[derive(Clone, Debug)]
pub struct Params {
    /// The shortest and longest delay of a packet.
    pub delay: (Duration, Duration),
    /// Of a million packets, how many meet a long queue, and how long that is at the most.
    pub tail: (u32, Duration),
    /// Of a million packets, how many are lost once and sent again.
    pub loss: u32,
    /// The pause before a lost packet is sent again.
    pub retransmit: Duration,
    /// How long a stream may be silent with bytes under way before it is reset.
    pub give_up: Duration,
    /// The bytes that may be under way in one direction.
    pub window: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            delay: (Duration::from_micros(100), Duration::from_millis(2)),
            tail: (0, Duration::ZERO),
            loss: 0,
            retransmit: Duration::from_millis(200),
            give_up: Duration::from_secs(15),
            window: 1 << 20,
        }
    }
}

/// What was seen on the network, for the table of faults that really fired.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Connections made.
    pub connected: u64,
    /// Connections refused or timed out.
    pub refused: u64,
    /// Connections reset by a fault.
    pub resets: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets that were lost once.
    pub lost: u64,
    /// Packets that met a long queue.
    pub delayed: u64,
    /// Packets that waited at a cut link.
    pub held: u64,
}

/// The network of one run. Clones share it.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

struct State {
    params: Params,
    rng: Rng,
    time: TimeHandle,
    epochs: BTreeMap<Host, u64>,
    names: BTreeMap<String, Host>,
    listeners: BTreeMap<(Host, u16), Registered>,
    cut: BTreeSet<(Host, Host)>,
    slow: BTreeMap<(Host, Host), Duration>,
    silent: BTreeSet<Host>,
    connections: BTreeMap<u64, Arc<Mutex<Connection>>>,
    next: u64,
    counters: Counters,
}

struct Registered {
    epoch: u64,
    accept: mpsc::UnboundedSender<SimStream>,
}

/// Both directions of one stream.
struct Connection {
    hosts: [Host; 2],
    pipes: [Pipe; 2],
    reset: bool,
}

/// One direction: from side `i` to side `1 - i`.
#[derive(Default)]
struct Pipe {
    segments: VecDeque<Segment>,
    bytes: usize,
    closed: bool,
    last_arrival: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Segment {
    arrives: Instant,
    sent: Instant,
    backoff: Duration,
    data: Bytes,
}

impl Connection {
    fn wake_all(&mut self) {
        for pipe in &mut self.pipes {
            for waker in [pipe.reader.take(), pipe.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics while it holds it")
}

impl State {
    fn now(&self) -> Instant {
        self.time.now_instant()
    }

    fn delay(&mut self, from: Host, to: Host) -> Duration {
        let (low, high) = self.params.delay;
        let mut delay = self.rng.duration(low, high);
        self.counters.packets += 1;
        if self.rng.chance(self.params.tail.0) {
            self.counters.delayed += 1;
            delay += self.rng.duration(Duration::ZERO, self.params.tail.1);
        }
        if self.rng.chance(self.params.loss) {
            self.counters.lost += 1;
            delay += self.params.retransmit;
        }
        delay + self.slow.get(&(from, to)).copied().unwrap_or_default()
    }

    fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to)) || self.silent.contains(&from) || self.silent.contains(&to)
    }

    fn reset_where(&mut self, broken: impl Fn(&Connection) -> bool) {
        let mut gone = Vec::new();
        for (id, connection) in &self.connections {
            let mut connection = lock(connection);
            if !connection.reset && broken(&connection) {
                connection.reset = true;
                connection.wake_all();
                gone.push(*id);
            }
        }
        self.counters.resets += gone.len() as u64;
        for id in gone {
            self.connections.remove(&id);
        }
    }
}

impl Network {
    /// Creates a network without hosts; the time is the current simulation's.
    pub fn new(params: Params, rng: Rng) -> Self {
        let state = State {
            params,
            rng,
            time: TimeHandle::current(),
            epochs: BTreeMap::new(),
            names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            silent: BTreeSet::new(),
            connections: BTreeMap::new(),
            next: 0,
            counters: Counters::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Gives a host a name that can be connected to.
    pub fn add_host(&self, host: Host, name: &str) {
        let mut state = lock(&self.state);
        state.epochs.insert(host, 0);
        state.names.insert(name.to_owned(), host);
    }

    /// Cuts one direction between two hosts.
    pub fn cut(&self, from: Host, to: Host) {
        lock(&self.state).cut.insert((from, to));
    }

    /// Heals one direction between two hosts.
    pub fn heal(&self, from: Host, to: Host) {
        lock(&self.state).cut.remove(&(from, to));
    }

    /// Heals every cut and slow link. Hosts without power stay silent.
    pub fn heal_all(&self) {
        let mut state = lock(&self.state);
        state.cut.clear();
        state.slow.clear();
    }

    /// Adds a delay to every packet in one direction.
    pub fn slow(&self, from: Host, to: Host, by: Duration) {
        lock(&self.state).slow.insert((from, to), by);
    }

    /// Changes what the network is like from now on.
    pub fn set_params(&self, params: Params) {
        lock(&self.state).params = params;
    }

    /// Resets every connection between two hosts.
    pub fn reset_between(&self, a: Host, b: Host) {
        lock(&self.state).reset_where(|c| c.hosts == [a, b] || c.hosts == [b, a]);
    }

    /// A process died: its ports close, and its connections reset, as the kernel under it does.
    pub fn kill(&self, host: Host) {
        let mut state = lock(&self.state);
        *state.epochs.entry(host).or_default() += 1;
        state.listeners.retain(|(h, _), _| *h != host);
        state.reset_where(|c| c.hosts.contains(&host));
    }

    /// A machine lost its power: it says nothing more until [`Network::power_on`].
    pub fn power_off(&self, host: Host) {
        let mut state = lock(&self.state);
        *state.epochs.entry(host).or_default() += 1;
        state.listeners.retain(|(h, _), _| *h != host);
        state.silent.insert(host);
    }

    /// Power is back: what peers still think connected is reset.
    pub fn power_on(&self, host: Host) {
        let mut state = lock(&self.state);
        if state.silent.remove(&host) {
            state.reset_where(|c| c.hosts.contains(&host));
        }
    }

    /// Returns what was seen so far.
    pub fn counters(&self) -> Counters {
        lock(&self.state).counters
    }

    /// Opens a listening port on a host. A second listener on it is refused as a kernel does.
    pub fn listen(&self, host: Host, port: u16) -> io::Result<SimListener> {
        let mut state = lock(&self.state);
        let epoch = state.epochs.get(&host).copied().unwrap_or_default();
        if state.listeners.get(&(host, port)).is_some_and(|l| !l.accept.is_closed()) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "address already in use"));
        }
        let (accept, accepted) = mpsc::unbounded_channel();
        state.listeners.insert((host, port), Registered { epoch, accept });
        Ok(SimListener { accepted, port, _network: self.clone() })
    }

    /// Connects from a host to a named host's port.
    pub async fn connect(&self, from: Host, name: &str, port: u16) -> io::Result<SimStream> {
        let (to, give_up, time) = {
            let state = lock(&self.state);
            let host = state.names.get(name).copied().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no such host {name}"))
            })?;
            (host, state.params.give_up, state.time.clone())
        };
        let start = time.now_instant();
        let mut pause = Duration::from_millis(200);
        loop {
            // One round trip: the two packets of the handshake, each over its own direction.
            let trip = {
                let mut state = lock(&self.state);
                state.delay(from, to) + state.delay(to, from)
            };
            time.sleep(trip).await;
            if let Some(answer) = self.handshake(from, to, port) {
                return answer;
            }
            if time.now_instant() - start > give_up {
                lock(&self.state).counters.refused += 1;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
            }
            time.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(3));
        }
    }
}

impl Network {
    /// The handshake's packets arrive, unless the link is cut either way.
    fn handshake(&self, from: Host, to: Host, port: u16) -> Option<io::Result<SimStream>> {
        let mut state = lock(&self.state);
        if state.is_cut(from, to) || state.is_cut(to, from) {
            state.counters.held += 1;
            return None;
        }
        Some(state.establish(self, from, to, port))
    }
}

impl State {
    fn establish(
        &mut self,
        network: &Network,
        from: Host,
        to: Host,
        port: u16,
    ) -> io::Result<SimStream> {
        let epoch = self.epochs.get(&to).copied().unwrap_or_default();
        let accept = match self.listeners.get(&(to, port)) {
            Some(listener) if listener.epoch == epoch => listener.accept.clone(),
            _ => {
                self.counters.refused += 1;
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
            }
        };
        let connection = Arc::new(Mutex::new(Connection {
            hosts: [from, to],
            pipes: [Pipe::default(), Pipe::default()],
            reset: false,
        }));
        let id = self.next;
        self.next += 1;
        self.connections.insert(id, connection.clone());
        self.counters.connected += 1;
        let side = |side: usize, name: String| SimStream {
            network: network.clone(),
            id,
            connection: connection.clone(),
            side,
            name,
            sleep: None,
        };
        let far = side(1, format!("host{}:{}", from.0, 40_000 + id % 20_000));
        if accept.send(far).is_err() {
            self.counters.refused += 1;
            self.connections.remove(&id);
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        }
        Ok(side(0, format!("host{}:{port}", to.0)))
    }
}

/// A listening port of a simulated host.
pub struct SimListener {
    accepted: mpsc::UnboundedReceiver<SimStream>,
    port: u16,
    _network: Network,
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<SimStream> {
        match self.accepted.recv().await {
            Some(stream) => Ok(stream),
            // The host was killed: its task is about to be dropped and never accepts again.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> Address {
        Address::tcp("0.0.0.0", self.port)
    }
}

/// One side of a simulated connection.
pub struct SimStream {
    network: Network,
    id: u64,
    connection: Arc<Mutex<Connection>>,
    side: usize,
    name: String,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stream for SimStream {
    fn peer_addr(&self) -> String {
        self.name.clone()
    }
}

fn reset_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut state = lock(&this.network.state);
        let mut connection = lock(&this.connection);
        if connection.reset {
            return Poll::Ready(Err(reset_error()));
        }
        let now = state.now();
        let hosts = connection.hosts;
        let (from, to) = (hosts[1 - this.side], hosts[this.side]);
        let cut = state.is_cut(from, to);
        let pipe = &mut connection.pipes[1 - this.side];
        let mut taken = 0;
        let mut wait = None;
        let mut silent_for = Duration::ZERO;
        while buf.remaining() > 0 {
            let Some(segment) = pipe.segments.front_mut() else { break };
            if segment.arrives > now {
                wait = Some(segment.arrives);
                break;
            }
            if cut {
                // The packet meets the cut: it will be sent again, later and later.
                state.counters.held += 1;
                silent_for = now - segment.sent;
                segment.backoff =
                    (segment.backoff * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
                segment.arrives = now + segment.backoff;
                wait = Some(segment.arrives);
                break;
            }
            let n = segment.data.len().min(buf.remaining());
            buf.put_slice(&segment.data[..n]);
            segment.data.advance(n);
            taken += n;
            if segment.data.is_empty() {
                pipe.segments.pop_front();
            }
        }
        if taken > 0 {
            pipe.bytes -= taken;
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if silent_for > state.params.give_up {
            connection.reset = true;
            connection.wake_all();
            state.connections.remove(&this.id);
            state.counters.resets += 1;
            return Poll::Ready(Err(reset_error()));
        }
        if wait.is_none() && pipe.closed {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        let time = state.time.clone();
        drop(connection);
        drop(state);
        if let Some(at) = wait {
            let mut sleep = Box::pin(time.sleep_until(at));
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            this.sleep = Some(sleep);
        }
        Poll::Pending
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.network.state);
        let mut connection = lock(&self.connection);
        if connection.reset || connection.pipes[self.side].closed {
            return Poll::Ready(Err(reset_error()));
        }
        let hosts = connection.hosts;
        let room = state.params.window.saturating_sub(connection.pipes[self.side].bytes);
        if room == 0 {
            connection.pipes[self.side].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = data.len().min(room);
        let delay = state.delay(hosts[self.side], hosts[1 - self.side]);
        let now = state.now();
        let pipe = &mut connection.pipes[self.side];
        let arrives = pipe.last_arrival.map_or(now + delay, |last| last.max(now + delay));
        pipe.last_arrival = Some(arrives);
        pipe.bytes += n;
        pipe.segments.push_back(Segment {
            arrives,
            sent: now,
            backoff: Duration::ZERO,
            data: Bytes::copy_from_slice(&data[..n]),
        });
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = lock(&self.connection);
        let side = self.side;
        connection.pipes[side].closed = true;
        if let Some(reader) = connection.pipes[side].reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = lock(&self.network.state);
        let mut connection = lock(&self.connection);
        if connection.reset {
            return;
        }
        let (own, other) = (self.side, 1 - self.side);
        connection.pipes[own].closed = true;
        if !connection.pipes[other].segments.is_empty() || connection.pipes[other].closed {
            // Unread bytes at close reset the connection; and both sides closed is the end of it.
            connection.reset = !connection.pipes[other].closed;
            state.connections.remove(&self.id);
        }
        connection.wake_all();
    }
}
