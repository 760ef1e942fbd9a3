//! The simulated network: byte streams between machines whose every delay and loss the seed decides.
//!
//! madsim's own sockets know one latency for all links and refuse a connection over a cut link at
//! once; these streams model what a kernel's TCP does instead. A *link* is one direction between two
//! machines; a *packet* is what one write sends, or the end of a stream (FIN), or its abort (RST). One
//! task, the *pump*, delivers each packet when it is due:
//!
//! - Loss shows as a retransmission delay, never as missing bytes: TCP is reliable until it resets.
//! - Over a cut link a packet is sent again with growing pauses. A sender that has heard nothing back
//!   for [`Params::give_up`] resets its own side; the other side learns it only when it sends.
//! - Connecting over a cut link waits and then times out; connecting to a port that nobody listens
//!   on is refused after a round trip.
//! - A killed process's kernel closes its streams, by FIN or RST, which travel like all packets. A
//!   machine without power says nothing: its peers see silence, and an RST once they send to it after
//!   its restart.
//!
//! Invariants:
//! - bytes of one stream arrive in order, once, unchanged, or not at all after a reset;
//! - a stream of a dead process never delivers anything written after its death;
//! - at most [`Params::window`] bytes are on their way or unread in one direction; more makes the
//!   writer wait.
//!
//! Left out: datagrams (nobody here sends any), bandwidth, duplicate packets (TCP hides them; the
//! storm at level 0 duplicates messages instead).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use madsim::time::{Instant, TimeHandle};
use mainstay::runtime::{Address, Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::rng::Rng;
use crate::time::{Alarm, Sleep};
use crate::trace::{Trace, lock};

/// A simulated machine: servers and clients alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub u32);

/// What the whole network is like.
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
    /// How long a sender hears nothing back before it gives a stream up.
    pub give_up: Duration,
    /// The bytes that may be under way or unread in one direction.
    pub window: usize,
    /// The most bytes that one write takes.
    pub segment: usize,
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
            segment: 1 << 16,
        }
    }
}

/// What was seen on the network, for the table of faults that really fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections made.
    pub connected: u64,
    /// Those of them on which HTTP/2 was spoken.
    pub http2: u64,
    /// Those on which a TLS handshake was begun.
    pub tls: u64,
    /// Those on which HTTP/1.1 was, by probes.
    pub http1: u64,
    /// Those on which anything else was spoken.
    pub foreign: u64,
    /// Connections refused.
    pub refused: u64,
    /// Connections not made because of silence.
    pub timed_out: u64,
    /// Sides of streams that were reset, for whatever reason.
    pub resets: u64,
    /// Sides of streams that gave up after silence.
    pub gave_up: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets that were lost once.
    pub lost: u64,
    /// Packets that met a long queue.
    pub delayed: u64,
    /// Packets that met a cut link.
    pub held: u64,
    /// Writes of which only a part was taken.
    pub short_writes: u64,
    /// Writes that had to wait until the other side had read.
    pub full_windows: u64,
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
    trace: Trace,
    epochs: BTreeMap<Host, u64>,
    names: BTreeMap<String, Host>,
    listeners: BTreeMap<(Host, u16), mpsc::UnboundedSender<SimStream>>,
    cut: BTreeSet<(Host, Host)>,
    slow: BTreeMap<(Host, Host), Duration>,
    silent: BTreeSet<Host>,
    connections: BTreeMap<u64, Connection>,
    /// The first packet of each pipe that has any, by when it is due.
    due: BTreeMap<(Instant, u64), (u64, usize)>,
    next: u64,
    pump: Arc<Alarm>,
    counters: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    /// Its owner has let it go, or died.
    Closed,
    /// Broken; the owner has not let it go yet.
    Reset,
}

struct Connection {
    hosts: [Host; 2],
    sides: [Side; 2],
    /// `pipes[i]` leads from side `i` to the other.
    pipes: [Pipe; 2],
}

#[derive(Default)]
struct Pipe {
    /// Packets under way.
    queue: VecDeque<Packet>,
    /// Bytes that have arrived and were not read.
    inbox: VecDeque<Bytes>,
    /// Bytes under way and unread.
    bytes: usize,
    last_arrival: Option<Instant>,
    /// Since when nothing came back for what was delivered.
    unanswered: Option<Instant>,
    sent: bool,
    fin_sent: bool,
    fin_received: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Packet {
    arrives: Instant,
    sent: Instant,
    backoff: Duration,
    what: What,
}

enum What {
    Data(Bytes),
    Fin,
    Rst,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
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

    fn epoch(&self, host: Host) -> u64 {
        self.epochs.get(&host).copied().unwrap_or_default()
    }

    /// Puts a packet on its way from one side of a connection.
    fn send(&mut self, id: u64, side: usize, what: What) {
        let Some(hosts) = self.connections.get(&id).map(|c| c.hosts) else { return };
        let (from, to) = (hosts[side], hosts[1 - side]);
        if self.silent.contains(&from) {
            return;
        }
        let now = self.now();
        let due = now + self.delay(from, to);
        let connection = self.connections.get_mut(&id).expect("it was there a moment ago");
        let pipe = &mut connection.pipes[side];
        let arrives = pipe.last_arrival.map_or(due, |last| last.max(due));
        pipe.last_arrival = Some(arrives);
        let first = pipe.queue.is_empty();
        pipe.queue.push_back(Packet { arrives, sent: now, backoff: Duration::ZERO, what });
        if first {
            self.schedule(arrives, id, side);
        }
    }

    fn schedule(&mut self, at: Instant, id: u64, side: usize) {
        self.next += 1;
        self.due.insert((at, self.next), (id, side));
        self.pump.ring_at(&self.time, at);
    }

    /// Delivers everything that is due.
    fn pump(&mut self) {
        let now = self.now();
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let (id, side) = entry.remove();
            self.deliver(id, side, now);
        }
    }

    /// Delivers the first packet of a pipe, or finds that it has to be sent again.
    fn deliver(&mut self, id: u64, side: usize, now: Instant) {
        let Some(hosts) = self.connections.get(&id).map(|c| c.hosts) else { return };
        let (from, to) = (hosts[side], hosts[1 - side]);
        let (cut, mute) = (self.is_cut(from, to), self.is_cut(to, from));
        let give_up = self.params.give_up;
        let connection = self.connections.get_mut(&id).expect("it was there a moment ago");
        let pipe = &mut connection.pipes[side];
        let Some(packet) = pipe.queue.front_mut() else { return };
        if packet.arrives > now {
            // Scheduled for a packet that a reset has taken; this one has its own time.
            return;
        }
        if cut {
            self.counters.held += 1;
            if now - packet.sent > give_up {
                self.give_up(id, side);
                return;
            }
            let (shortest, longest) = (Duration::from_millis(50), Duration::from_secs(2));
            packet.backoff = (packet.backoff * 2).clamp(shortest, longest);
            packet.arrives = now + packet.backoff;
            let at = packet.arrives;
            pipe.last_arrival = pipe.last_arrival.max(Some(at));
            self.schedule(at, id, side);
            return;
        }
        let packet = pipe.queue.pop_front().expect("it was just looked at");
        let (what, took) = (packet.what, now - packet.sent);
        let next = pipe.queue.front().map(|packet| packet.arrives.max(now));
        let (kind, len) = match &what {
            What::Data(data) => ("data", data.len()),
            What::Fin => ("fin", 0),
            What::Rst => ("rst", 0),
        };
        self.trace.note(kind, [id, side as u64, len as u64]);
        crate::timeline::arrived(from.0, to.0, took, kind, len);
        let silence = if mute { Some(*pipe.unanswered.get_or_insert(now)) } else { None };
        pipe.unanswered = silence;
        let mut answer = false;
        match (connection.sides[1 - side], what) {
            (Side::Open, What::Data(data)) => {
                pipe.inbox.push_back(data);
                wake(&mut pipe.reader);
            }
            (Side::Open, What::Fin) => {
                pipe.fin_received = true;
                wake(&mut pipe.reader);
            }
            (Side::Open, What::Rst) => self.reset_side(id, 1 - side),
            (_, What::Data(_)) => answer = true,
            (_, What::Fin | What::Rst) => {}
        }
        if answer {
            self.send(id, 1 - side, What::Rst);
        }
        if let Some(next) = next {
            self.schedule(next, id, side);
        }
        if silence.is_some_and(|since| now - since > give_up) {
            self.give_up(id, side);
        }
        self.remove_if_over(id);
    }

    fn give_up(&mut self, id: u64, side: usize) {
        self.counters.gave_up += 1;
        self.reset_side(id, side);
        self.remove_if_over(id);
    }

    /// Breaks one side: its owner sees an error, and what it had under way is gone.
    fn reset_side(&mut self, id: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.pipes[side].queue.clear();
        if connection.sides[side] == Side::Open {
            connection.sides[side] = Side::Reset;
            self.counters.resets += 1;
        }
        wake(&mut connection.pipes[side].writer);
        wake(&mut connection.pipes[1 - side].reader);
    }

    /// The owner of one side lets it go, or dies: its kernel tells the other side.
    fn close_side(&mut self, id: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was = std::mem::replace(&mut connection.sides[side], Side::Closed);
        let unread = !connection.pipes[1 - side].inbox.is_empty();
        let fin_sent = connection.pipes[side].fin_sent;
        if was == Side::Open {
            if unread {
                self.send(id, side, What::Rst);
            } else if !fin_sent {
                self.send(id, side, What::Fin);
            }
        }
        self.remove_if_over(id);
    }

    fn remove_if_over(&mut self, id: u64) {
        let over = self.connections.get(&id).is_some_and(|c| {
            !c.sides.contains(&Side::Open) && c.pipes.iter().all(|pipe| pipe.queue.is_empty())
        });
        if over {
            self.connections.remove(&id);
        }
    }

    fn connections_of(&self, host: Host) -> Vec<(u64, usize)> {
        let sides = self
            .connections
            .iter()
            .flat_map(|(id, c)| [(*id, 0, c.hosts[0]), (*id, 1, c.hosts[1])]);
        sides.filter(|(_, _, h)| *h == host).map(|(id, side, _)| (id, side)).collect()
    }
}

impl Network {
    /// Creates a network without hosts, in the current simulation; its pump is a task of the caller's.
    pub fn new(params: Params, rng: Rng, trace: Trace) -> Self {
        let state = State {
            params,
            rng,
            time: TimeHandle::current(),
            trace,
            epochs: BTreeMap::new(),
            names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            silent: BTreeSet::new(),
            connections: BTreeMap::new(),
            due: BTreeMap::new(),
            next: 0,
            pump: Arc::default(),
            counters: Counters::default(),
        };
        let network = Self { state: Arc::new(Mutex::new(state)) };
        let (pumped, alarm) = (network.clone(), lock(&network.state).pump.clone());
        drop(madsim::task::spawn(std::future::poll_fn(move |cx| {
            alarm.set(cx.waker());
            lock(&pumped.state).pump();
            Poll::<()>::Pending
        })));
        network
    }

    /// Gives a host a name that can be connected to.
    pub fn add_host(&self, host: Host, name: &str) {
        let mut state = lock(&self.state);
        state.epochs.entry(host).or_default();
        state.names.insert(name.to_owned(), host);
    }

    /// Starts a process on a host: what earlier ones still try to do has no effect any more.
    pub fn boot(&self, host: Host) -> Port {
        let mut state = lock(&self.state);
        let epoch = state.epochs.entry(host).or_default();
        *epoch += 1;
        let epoch = *epoch;
        drop(state);
        Port { network: self.clone(), host, epoch }
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

    /// Resets every connection between two hosts, both sides at once; returns how many there were.
    pub fn reset_between(&self, a: Host, b: Host) -> usize {
        let mut state = lock(&self.state);
        let met: Vec<u64> = state
            .connections
            .iter()
            .filter(|(_, c)| c.hosts == [a, b] || c.hosts == [b, a])
            .map(|(id, _)| *id)
            .collect();
        for id in &met {
            state.reset_side(*id, 0);
            state.reset_side(*id, 1);
            state.remove_if_over(*id);
        }
        met.len()
    }

    /// A process died: its ports close, and the kernel under it closes its streams.
    pub fn kill(&self, host: Host) {
        let mut state = lock(&self.state);
        state.end_process(host);
        for (id, side) in state.connections_of(host) {
            state.close_side(id, side);
        }
    }

    /// A machine lost its power: it says nothing more until [`Network::power_on`].
    pub fn power_off(&self, host: Host) {
        let mut state = lock(&self.state);
        state.end_process(host);
        state.silent.insert(host);
        for (id, side) in state.connections_of(host) {
            let connection = state.connections.get_mut(&id).expect("it was just listed");
            connection.pipes[side].queue.clear();
            connection.sides[side] = Side::Closed;
            state.remove_if_over(id);
        }
    }

    /// Power is back: what peers send on connections of before is answered by a reset.
    pub fn power_on(&self, host: Host) {
        lock(&self.state).silent.remove(&host);
    }

    /// Returns what was seen so far.
    pub fn counters(&self) -> Counters {
        lock(&self.state).counters
    }
}

impl State {
    fn end_process(&mut self, host: Host) {
        *self.epochs.entry(host).or_default() += 1;
        self.listeners.retain(|(h, _), _| *h != host);
    }

    /// A SYN arrived: makes the connection, or says why not. The far side is for the listener.
    fn establish(
        &mut self,
        network: &Network,
        from: Host,
        to: Host,
        port: u16,
    ) -> Option<[SimStream; 2]> {
        if self.listeners.get(&(to, port)).is_none_or(mpsc::UnboundedSender::is_closed) {
            self.counters.refused += 1;
            return None;
        }
        let id = self.next;
        self.next += 1;
        let (hosts, sides) = ([from, to], [Side::Open; 2]);
        self.connections.insert(id, Connection { hosts, sides, pipes: Default::default() });
        self.counters.connected += 1;
        let stream = |side, name| SimStream { network: network.clone(), id, side, name };
        let near = stream(0, format!("{}:{port}", self.name(to)));
        let far = stream(1, format!("{}:{}", self.name(from), 40_000 + id % 20_000));
        Some([near, far])
    }

    fn name(&self, host: Host) -> &str {
        self.names.iter().find(|(_, h)| **h == host).map_or("unnamed", |(name, _)| name)
    }
}

/// The network as one process of a host sees it.
#[derive(Clone)]
pub struct Port {
    network: Network,
    host: Host,
    epoch: u64,
}

impl Port {
    /// Returns the host.
    pub fn host(&self) -> Host {
        self.host
    }

    /// Says whether the process is still alive.
    pub fn alive(&self) -> bool {
        lock(&self.network.state).epoch(self.host) == self.epoch
    }

    /// Opens a listening port. A second listener on it is refused as a kernel does.
    pub fn listen(&self, port: u16) -> io::Result<SimListener> {
        if !self.alive() {
            return Err(reset_error());
        }
        let mut state = lock(&self.network.state);
        if state.listeners.get(&(self.host, port)).is_some_and(|l| !l.is_closed()) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "address already in use"));
        }
        let (accept, accepted) = mpsc::unbounded_channel();
        state.listeners.insert((self.host, port), accept);
        Ok(SimListener { accepted, port })
    }

    /// Connects to a named host's port.
    pub async fn connect(&self, name: &str, port: u16) -> io::Result<SimStream> {
        let (to, give_up, time) = {
            let state = lock(&self.network.state);
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
                let mut state = lock(&self.network.state);
                state.delay(self.host, to) + state.delay(to, self.host)
            };
            Sleep::new(&time, trip).await;
            if !self.alive() {
                std::future::pending::<()>().await;
            }
            if let Some(answer) = self.handshake(to, port) {
                return answer;
            }
            if time.now_instant() - start > give_up {
                lock(&self.network.state).counters.timed_out += 1;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
            }
            Sleep::new(&time, pause).await;
            pause = (pause * 2).min(Duration::from_secs(3));
        }
    }

    /// The handshake's packets arrive, unless the link is cut either way.
    fn handshake(&self, to: Host, port: u16) -> Option<io::Result<SimStream>> {
        let mut state = lock(&self.network.state);
        if state.is_cut(self.host, to) || state.is_cut(to, self.host) {
            state.counters.held += 1;
            return None;
        }
        let made = state.establish(&self.network, self.host, to, port);
        let accept = state.listeners.get(&(to, port)).cloned();
        // NB: a stream that nobody takes is dropped here, and its destructor takes the lock again.
        drop(state);
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        Some(match (made, accept) {
            (Some([near, far]), Some(accept)) => {
                accept.send(far).map(|()| near).map_err(|_| refused())
            }
            _ => Err(refused()),
        })
    }
}

/// A listening port of a simulated host.
pub struct SimListener {
    accepted: mpsc::UnboundedReceiver<SimStream>,
    port: u16,
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<SimStream> {
        match self.accepted.recv().await {
            Some(stream) => Ok(stream),
            // The process was killed: its task is about to be dropped and never accepts again.
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
    side: usize,
    name: String,
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.network.state);
        let Some(connection) = state.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset_error()));
        };
        if connection.sides[self.side] == Side::Closed {
            return Poll::Ready(Err(reset_error()));
        }
        let pipe = &mut connection.pipes[1 - self.side];
        let before = buf.remaining();
        while buf.remaining() > 0
            && let Some(data) = pipe.inbox.front_mut()
        {
            let n = data.len().min(buf.remaining());
            buf.put_slice(&data[..n]);
            data.advance(n);
            if data.is_empty() {
                pipe.inbox.pop_front();
            }
        }
        let taken = before - buf.remaining();
        if taken > 0 {
            pipe.bytes -= taken;
            wake(&mut pipe.writer);
            return Poll::Ready(Ok(()));
        }
        if connection.sides[self.side] == Side::Reset {
            return Poll::Ready(Err(reset_error()));
        }
        if pipe.fin_received || before == 0 {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How a record of a TLS handshake begins (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.network.state);
        let (window, segment) = (state.params.window, state.params.segment);
        let Some(connection) = state.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset_error()));
        };
        let pipe = &mut connection.pipes[self.side];
        if connection.sides[self.side] != Side::Open || pipe.fin_sent {
            return Poll::Ready(Err(reset_error()));
        }
        let n = data.len().min(window.saturating_sub(pipe.bytes)).min(segment);
        if n == 0 && !data.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            state.counters.full_windows += 1;
            return Poll::Pending;
        }
        pipe.bytes += n;
        let first = !std::mem::replace(&mut pipe.sent, true);
        state.counters.short_writes += u64::from(n < data.len());
        if first && self.side == 0 {
            // As far as it goes: a first write may be a few bytes.
            let begins = |with: &[u8]| data[..n].iter().zip(with).all(|(a, b)| a == b);
            match data.first() {
                _ if begins(HTTP2_PREFACE) => state.counters.http2 += 1,
                _ if begins(b"GET ") => state.counters.http1 += 1,
                Some(&TLS_HANDSHAKE) => state.counters.tls += 1,
                _ => state.counters.foreign += 1,
            }
        }
        state.send(self.id, self.side, What::Data(Bytes::copy_from_slice(&data[..n])));
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.network.state);
        let Some(connection) = state.connections.get_mut(&self.id) else {
            return Poll::Ready(Ok(()));
        };
        let open = connection.sides[self.side] == Side::Open;
        if open && !std::mem::replace(&mut connection.pipes[self.side].fin_sent, true) {
            state.send(self.id, self.side, What::Fin);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        lock(&self.network.state).close_side(self.id, self.side);
    }
}

#[cfg(test)]
mod tests;
