//! The machines of a run and the processes on them.
//!
//! A [`Slot`] is a place for a member: a host name, a machine with a disk and clocks, and at most one
//! process at a time, which is the production server entered through its own `start`. The world can
//! kill a process, cut its power, stop it as SIGTERM would, freeze it, and start it again; it keeps
//! who is a member in which slot, since a wiped disk comes back under a new member id.
//!
//! Invariants:
//! - before a process is killed, its disk and its network are frozen: its destructors change nothing;
//! - before the next one starts in its place, LMDB's environment of the one before is closed (there
//!   may be only one a path and process);
//! - a power loss takes no more than what was not synced, so it needs no care for quorums; a wipe
//!   does, and happens only when all members are well (`nemesis`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;
use madsim::time::TimeHandle;
use mainstay::config;
use mainstay::server::StopReason;
use tokio::sync::oneshot;

use crate::crypto::Files;
use crate::disk::{HostDisk, Persistence};
use crate::logs::Logs;
use crate::network::{Host, Network};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::runtime::{Machine, SimRuntime, Tasks};
use crate::time::{sleep, within};
use crate::trace::{Trace, lock};
use crate::workload::endpoint::{CLIENT_PORT, Endpoint, PROBE_PORT};
use crate::workload::insider::insider;

/// How a process ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to stop, and did.
    Stopped,
    /// It was removed from the cluster.
    Removed,
    /// It gave up, for this reason.
    Failed(String),
    /// It refused to start, for this reason.
    Refused(String),
    /// It died in the middle of something: a planted crash.
    Crashed,
}

/// What a process is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs.
    Down,
    /// `start` has not returned yet.
    Starting,
    /// It serves.
    Serving,
    /// It ended by itself; its remains are not cleared away yet.
    Ended(End),
}

/// A place for a member.
pub struct Slot {
    /// Its host name, and the member's.
    pub name: String,
    /// Its machine in the network.
    pub host: Host,
    /// Its disk.
    pub disk: Arc<HostDisk>,
    /// Its clocks and its disk's speed.
    pub machine: Arc<Mutex<Machine>>,
    node: NodeId,
    state: Arc<Mutex<State>>,
    /// Held while a process is started or ended.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    phase: Phase,
    /// Counts the processes.
    starts: u64,
    /// Whether a process should be running.
    wanted: bool,
    /// What the next process's command line says of the cluster.
    initial_cluster: String,
    initial_state: &'static str,
    stop: Option<oneshot::Sender<()>>,
    /// What a planted crash takes with it; `None` for a mere kill.
    crash_model: Option<Persistence>,
    paused: bool,
}

/// All machines of a run.
pub struct World {
    /// The run's plan.
    pub plan: Plan,
    /// The simulation's clock.
    pub time: TimeHandle,
    /// The rolling hash.
    pub trace: Trace,
    /// The network.
    pub network: Network,
    /// The members' places, in order.
    pub slots: Vec<Slot>,
    /// The log lines.
    pub logs: Logs,
    handle: Handle,
    clients_disk: Arc<HostDisk>,
    /// The certificates, if there is TLS.
    tls: Option<Files>,
    clients: Mutex<BTreeMap<String, Host>>,
    /// The clients' tasks, and those in the background.
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

const PEER_PORT: u16 = 2380;

/// How long LMDB's environment of a dead process may take to close, in simulated time.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

impl World {
    /// Makes the machines of a plan, with spare ones beside; nothing runs yet.
    pub fn new(plan: Plan, spares: u32, logs: Logs) -> Arc<Self> {
        let trace = Trace::new();
        let network =
            Network::new(plan.network.clone(), Rng::new(plan.seed, "network"), trace.clone());
        let dir = crate::temporary_dir();
        let handle = Handle::current();
        let names = (1..=plan.members + spares).map(|i| format!("m{i}")).collect();
        let tls = plan.mtls.then(|| Files::make(dir.path(), names));
        let urls: Vec<String> = (1..=plan.members)
            .map(|i| format!("m{i}={}", peer_url(&plan, &format!("m{i}"))))
            .collect();
        let mut slots = Vec::new();
        for i in 1..=plan.members + spares {
            let name = format!("m{i}");
            let host = Host(i);
            let at = usize::try_from(i - 1).expect("a handful of members");
            let node = handle.create_node().name(&name).build().id();
            let machine = Arc::new(Mutex::new(machine_of(&plan, at)));
            network.add_host(host, &name);
            logs.name(node.to_string().parse().unwrap_or(0), &name);
            let disk = new_disk(dir.path(), &name, &trace);
            let state = Arc::new(Mutex::new(State {
                phase: Phase::Down,
                starts: 0,
                wanted: false,
                initial_cluster: urls.join(","),
                initial_state: "new",
                stop: None,
                crash_model: None,
                paused: false,
            }));
            let (silenced, crashed) = (network.clone(), state.clone());
            disk.on_crash(move || {
                let mut state = lock(&crashed);
                // A machine without power says nothing any more; a killed process's kernel does.
                if state.crash_model.is_some() {
                    silenced.power_off(host);
                } else {
                    silenced.kill(host);
                }
                state.phase = Phase::Ended(End::Crashed);
            });
            slots.push(Slot {
                name,
                host,
                disk,
                machine,
                node,
                state,
                turn: tokio::sync::Mutex::default(),
            });
        }
        let clients_disk = new_disk(dir.path(), "clients", &trace);
        Arc::new(Self {
            time: TimeHandle::current(),
            plan,
            trace,
            network,
            slots,
            logs,
            handle,
            clients_disk,
            tls,
            clients: Mutex::default(),
            tasks: Tasks::default(),
            _dir: dir,
        })
    }

    /// Makes a client's machine.
    pub fn endpoint(&self, name: &str) -> Endpoint {
        let mut clients = lock(&self.clients);
        let next = Host(1_000 + u32::try_from(clients.len()).expect("a handful of clients"));
        let host = *clients.entry(name.to_owned()).or_insert(next);
        self.network.add_host(host, name);
        let rng = Rng::new(self.plan.seed, &format!("client {name}"));
        let port = self.network.boot(host);
        let runtime = SimRuntime::new(port, self.clients_disk.boot(), Arc::default(), rng);
        Endpoint::new(runtime.noting(self.tasks.clone()), self.tls.as_ref().map(Files::client))
    }

    /// Returns the URL that a member is reached at by others.
    pub fn peer_url(&self, name: &str) -> String {
        peer_url(&self.plan, name)
    }

    /// Runs something beside the run, at the longest until its end.
    pub fn background(&self, task: impl Future<Output = ()> + 'static) {
        lock(&self.tasks).push(madsim::task::spawn_local(task).abort_handle());
    }

    /// Returns the machines of the clients.
    pub fn client_hosts(&self) -> Vec<Host> {
        lock(&self.clients).values().copied().collect()
    }

    /// Returns the slot of a name.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name == name)
    }

    /// Returns what the process in a slot is at.
    pub fn phase(&self, i: usize) -> Phase {
        lock(&self.slots[i].state).phase.clone()
    }

    /// Says whether a process should be running in a slot.
    pub fn wanted(&self, i: usize) -> bool {
        lock(&self.slots[i].state).wanted
    }

    /// Says whether the process in a slot is frozen.
    pub fn paused(&self, i: usize) -> bool {
        lock(&self.slots[i].state).paused
    }

    /// Says what the next start in a slot is to say of the cluster.
    pub fn prepare_to_join(&self, i: usize, initial_cluster: String) {
        let mut state = lock(&self.slots[i].state);
        state.initial_cluster = initial_cluster;
        state.initial_state = "existing";
    }

    /// Starts a process in a slot, if none runs there.
    pub async fn start(&self, i: usize) {
        let _turn = self.slots[i].turn.lock().await;
        lock(&self.slots[i].state).wanted = true;
        if self.phase(i) == Phase::Down {
            self.boot(i);
        }
    }

    /// Kills the process in a slot: its kernel lives on.
    pub async fn kill(&self, i: usize) {
        let _turn = self.slots[i].turn.lock().await;
        lock(&self.slots[i].state).wanted = false;
        self.end(i, None).await;
    }

    /// Takes the power away from a slot's machine; what was not synced is lost by the model.
    pub async fn power_loss(&self, i: usize, model: Persistence) {
        let _turn = self.slots[i].turn.lock().await;
        lock(&self.slots[i].state).wanted = false;
        self.end(i, Some(model)).await;
    }

    /// Loses a slot's disk.
    pub async fn wipe(&self, i: usize) {
        let _turn = self.slots[i].turn.lock().await;
        lock(&self.slots[i].state).wanted = false;
        self.end(i, None).await;
        self.slots[i].disk.wipe();
    }

    /// Asks the process in a slot to stop, as SIGTERM does, and waits until it has, or `limit`. Says whether
    /// it ended in time, and whether by itself and whole, so that its log is closed.
    pub async fn stop(&self, i: usize, limit: Duration) -> (bool, bool) {
        let _turn = self.slots[i].turn.lock().await;
        let stop = {
            let mut state = lock(&self.slots[i].state);
            state.wanted = false;
            state.stop.take()
        };
        if let Some(stop) = stop {
            let _ = stop.send(());
        }
        let until = self.time.elapsed() + limit;
        let mut clean = true;
        while matches!(self.phase(i), Phase::Starting | Phase::Serving) {
            if self.time.elapsed() > until {
                clean = false;
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let whole = self.phase(i) == Phase::Ended(End::Stopped);
        self.end(i, None).await;
        (clean, whole)
    }

    /// Gives the process in a slot no processor any more.
    pub fn pause(&self, i: usize) {
        let mut state = lock(&self.slots[i].state);
        if matches!(state.phase, Phase::Starting | Phase::Serving) && !state.paused {
            state.paused = true;
            self.handle.pause(self.slots[i].node);
        }
    }

    /// Lets the process in a slot go on.
    pub fn resume(&self, i: usize) {
        let mut state = lock(&self.slots[i].state);
        if std::mem::take(&mut state.paused) {
            self.handle.resume(self.slots[i].node);
        }
    }

    /// Plants a crash: the process dies in its `n`-th disk call from now, or, with a model, the
    /// machine loses its power there.
    pub fn die_in_call(&self, i: usize, n: u64, model: Option<Persistence>) {
        lock(&self.slots[i].state).crash_model = model;
        self.slots[i].disk.crash_in(n);
    }

    /// Plants a loss of power in the `n`-th sync from now: what it was to make durable is written, and is not.
    pub fn lose_power_in_sync(&self, i: usize, n: u64, model: Persistence) {
        lock(&self.slots[i].state).crash_model = Some(model);
        self.slots[i].disk.crash_in_sync(n);
    }

    /// Takes back what was planted in a slot and has not struck: crashes, and damage by the disk.
    pub fn disarm(&self, i: usize) {
        let slot = &self.slots[i];
        slot.disk.spare();
        slot.disk.crash_in(u64::MAX);
        lock(&slot.machine).crash_at = None;
    }

    /// Plants a crash at a crash point.
    pub fn die_at_point(&self, i: usize, point: &str, passes: u64, model: Option<Persistence>) {
        lock(&self.slots[i].state).crash_model = model;
        lock(&self.slots[i].machine).crash_at = Some((point.to_owned(), passes));
    }

    /// Clears away what ended by itself, and starts it again if it should be running: what an init
    /// system does. Returns how a process ended, if one did.
    pub async fn supervise(&self, i: usize) -> Option<End> {
        let slot = &self.slots[i];
        let Phase::Ended(end) = self.phase(i) else { return None };
        let Ok(_turn) = slot.turn.try_lock() else { return None };
        let model = {
            let mut state = lock(&slot.state);
            if end == End::Crashed { state.crash_model.take() } else { None }
        };
        self.end(i, model).await;
        if end == End::Removed {
            lock(&slot.state).wanted = false;
        }
        if self.wanted(i) {
            self.boot(i);
        }
        Some(end)
    }

    /// Starts a process; the caller has the turn, and nothing runs there.
    fn boot(&self, i: usize) {
        let slot = &self.slots[i];
        let (starts, initial_cluster, initial_state, stopped) = {
            let mut state = lock(&slot.state);
            state.starts += 1;
            state.phase = Phase::Starting;
            state.crash_model = None;
            let (stop, stopped) = oneshot::channel();
            state.stop = Some(stop);
            (state.starts, state.initial_cluster.clone(), state.initial_state, stopped)
        };
        lock(&slot.machine).crash_at = None;
        self.trace.note("start", [u64::from(slot.host.0), starts, 0]);
        self.network.power_on(slot.host);
        let port = self.network.boot(slot.host);
        let disk = slot.disk.boot();
        let rng = Rng::new(self.plan.seed, &format!("process {} {starts}", slot.name));
        let runtime = SimRuntime::new(port, disk.clone(), slot.machine.clone(), rng);
        let args = self.command_line(slot, &initial_cluster, initial_state);
        let parsed = config::parse(&args, &BTreeMap::new());
        let mut config = parsed.unwrap_or_else(|exit| panic!("the plan's flags: {exit:?}")).config;
        config.log_segment_bytes = Some(self.plan.tuning.segment);
        self.handle.restart(slot.node);
        let node: NodeHandle = self.handle.get_node(slot.node).expect("it was made at the start");
        let state = slot.state.clone();
        let chance = Rng::new(self.plan.seed, &format!("insider {} {starts}", slot.name));
        drop(node.spawn(async move {
            let end = serve(config, runtime, stopped, &state, chance).await;
            let mut state = lock(&state);
            // A planted crash has set the phase already; a dead process reports nothing.
            if disk.alive() {
                state.phase = Phase::Ended(end);
            }
        }));
    }

    /// Ends the process in a slot for good, however it is doing; the caller has the turn.
    async fn end(&self, i: usize, model: Option<Persistence>) {
        let slot = &self.slots[i];
        self.trace.note("end", [u64::from(slot.host.0), u64::from(model.is_some()), 0]);
        slot.disk.freeze();
        match model {
            Some(_) => self.network.power_off(slot.host),
            None => self.network.kill(slot.host),
        }
        self.resume(i);
        self.handle.kill(slot.node);
        // The futures of a killed node are dropped when it would next have run.
        sleep(Duration::from_millis(1)).await;
        let closed = within(CLOSE_LIMIT, async {
            while !stores_closed(slot.disk.root()) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(closed.await.is_some(), "{}: the dead process keeps its store open", slot.name);
        if let Some(model) = model {
            let mut rng = Rng::new(self.plan.seed ^ lock(&slot.state).starts, &slot.name);
            slot.disk.power_loss(model, &mut rng);
        }
        let mut state = lock(&slot.state);
        state.phase = Phase::Down;
        state.stop = None;
        state.crash_model = None;
    }

    /// The command line of a member, as a person would write it.
    fn command_line(&self, slot: &Slot, initial_cluster: &str, state: &str) -> Vec<String> {
        let (name, tuning) = (&slot.name, &self.plan.tuning);
        let client = format!("{}://{name}:{CLIENT_PORT}", scheme(&self.plan));
        let peer = self.peer_url(name);
        let data_dir = slot.disk.root().join("data").display().to_string();
        let flags = [
            ("name", name.clone()),
            ("data-dir", data_dir),
            ("listen-client-urls", client.replace(name, "0.0.0.0")),
            ("advertise-client-urls", client),
            ("listen-metrics-urls", format!("http://0.0.0.0:{PROBE_PORT}")),
            ("listen-peer-urls", peer.replace(name, "0.0.0.0")),
            ("initial-advertise-peer-urls", peer),
            ("initial-cluster", initial_cluster.to_owned()),
            ("initial-cluster-state", state.to_owned()),
            ("initial-cluster-token", "sim".to_owned()),
            ("heartbeat-interval", tuning.heartbeat.to_string()),
            ("election-timeout", tuning.election.to_string()),
            ("snapshot-count", tuning.snapshot_count.to_string()),
            ("snapshot-catchup-entries", tuning.catchup.to_string()),
            ("backend-batch-interval", format!("{}ms", tuning.batch_interval)),
            ("compaction-batch-limit", tuning.scrub_rows.to_string()),
            ("compaction-sleep-interval", format!("{}ms", tuning.scrub_pause)),
            ("watch-progress-notify-interval", format!("{}ms", tuning.progress_interval)),
            ("pre-vote", tuning.pre_vote.to_string()),
            ("strict-reconfig-check", "true".to_owned()),
        ];
        let mut args = vec!["mainstay".to_owned()];
        args.extend(flags.map(|(flag, value)| format!("--{flag}={value}")));
        if let Some(files) = &self.tls {
            for side in ["", "peer-"] {
                args.push(format!("--{side}cert-file={}", files.certificate.display()));
                args.push(format!("--{side}key-file={}", files.key.display()));
                args.push(format!("--{side}trusted-ca-file={}", files.authority.display()));
                args.push(format!("--{side}client-cert-auth"));
            }
        }
        args
    }

    /// Ends everything.
    pub async fn finish(&self) {
        for i in 0..self.slots.len() {
            self.kill(i).await;
        }
        lock(&self.tasks).drain(..).for_each(|task| task.abort());
        // An aborted task is dropped when it would next have run.
        sleep(Duration::from_millis(1)).await;
    }

    /// Returns the disks of the members' places, with their machines' names.
    pub fn disks(&self) -> Vec<(&str, &Arc<HostDisk>)> {
        self.slots.iter().map(|slot| (&slot.name[..], &slot.disk)).collect()
    }

    /// Removes the disks from the program's tables, after which they no longer are under the model.
    pub fn forget(&self) {
        for slot in &self.slots {
            slot.disk.forget();
        }
        self.clients_disk.forget();
    }
}

/// Runs the production server in a process of its own until it ends.
async fn serve(
    config: config::Config,
    runtime: SimRuntime,
    stopped: oneshot::Receiver<()>,
    state: &Mutex<State>,
    chance: Rng,
) -> End {
    let starting = mainstay::start::start(config, runtime);
    let mut stopped = std::pin::pin!(async {
        // A world that drops the sender does not mean to stop the process.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let mut server = tokio::select! {
        biased;
        () = &mut stopped => return End::Stopped,
        started = starting => match started {
            Ok(server) => server,
            Err(error) => return End::Refused(error.to_string()),
        },
    };
    {
        let mut state = lock(state);
        if state.phase == Phase::Starting {
            state.phase = Phase::Serving;
        }
    }
    let inside = insider(server.handle().clone(), chance);
    tokio::select! {
        biased;
        () = &mut stopped => {
            server.stop().await;
            End::Stopped
        }
        () = inside => unreachable!("it goes on for as long as the member"),
        reason = server.stopped() => match reason {
            StopReason::Removed => {
                server.stop().await;
                End::Removed
            }
            StopReason::Failed(error) => End::Failed(error),
            StopReason::Stopped => End::Stopped,
        },
    }
}

/// The URL that a member is reached at by others.
fn peer_url(plan: &Plan, name: &str) -> String {
    format!("{}://{name}:{PEER_PORT}", scheme(plan))
}

fn scheme(plan: &Plan) -> &'static str {
    if plan.mtls { "https" } else { "http" }
}

fn machine_of(plan: &Plan, i: usize) -> Machine {
    let mut machine = Machine::default();
    if let Some((offset_ms, rate_ppm)) = plan.clocks.get(i) {
        machine.clock.offset_ms = *offset_ms;
        machine.clock.rate_ppm = *rate_ppm;
    }
    if let Some((low, high)) = plan.disks.get(i) {
        machine.disk.job = (Duration::from_micros(*low), Duration::from_micros(*high));
    }
    machine
}

fn new_disk(dir: &Path, name: &str, trace: &Trace) -> Arc<HostDisk> {
    let root = dir.join(name);
    std::fs::create_dir(&root).expect("a fresh temporary directory takes names");
    HostDisk::new(root, trace.clone())
}

/// Says whether no LMDB environment under a machine's root is open in this program.
fn stores_closed(root: &Path) -> bool {
    let mut open = false;
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            } else if entry.file_name() == "data.mdb" {
                open |= mainstay::storage::closing(&dir).is_some_and(|c| !c.is_closed());
            }
        }
    }
    !open
}
