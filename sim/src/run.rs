//! One run: rough time, then healing, demands, and judgement.
//!
//! A run happens on a fresh thread in its own simulation. In the rough time clients work and the
//! nemesis strikes. Then everything is healed, and *liveness* is demanded: within a bounded simulated
//! time every member acknowledges a put, all members stand at one applied index, a change of members
//! that was begun is done, and every open watch has been told everything. After that comes
//! *safety*: what was recorded is judged by the checker, and the members' states must be equal, to
//! one another and to what the history says. A panic anywhere in the server is a violation as well. At last
//! all members are killed, and what is on their disks is looked at ([`invariants::storage`](crate::invariants::storage)).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use checker::history::Record;
use checker::verdict::{FinalState, Options as Judgement};
use madsim::runtime::Runtime;
use mainstay::proto::etcdserverpb as pb;

use crate::admin::Admin;
use crate::invariants::leaders::Leaders;
use crate::invariants::{Found, Violation, monotonic, storage};
use crate::logs::Logs;
use crate::nemesis::{Fired, Nemesis};
use crate::plan::{Kind, Load, Plan, Temper};
use crate::rng::Rng;
use crate::time::sleep;
use crate::trace::lock;
use crate::workload::draw::Draw;
use crate::workload::history::History;
use crate::workload::inspector::Inspector;
use crate::workload::prober::Prober;
use crate::workload::watcher::{Numbers, Watcher};
use crate::workload::{self, Members, Score, Shared, wire};
use crate::world::World;
use crate::{disk, network};

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print log lines as they come.
    pub echo: bool,
    /// Planted defects to switch on; needs the feature `mutants`.
    pub mutants: Vec<String>,
    /// Write the history here.
    pub history: Option<std::path::PathBuf>,
    /// The scenario's name, if it is one.
    pub scenario: Option<String>,
    /// Record what happens, for the page that shows it.
    pub timeline: Option<crate::timeline::Recorder>,
    /// How long what is demanded may take at most; without it, as long as the plan's elections may.
    pub patience: Option<Duration>,
}

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The rolling hash, and the number of events in it.
    pub hash: (u64, u64),
    /// Simulated time.
    pub simulated: Duration,
    /// What clients did.
    pub score: Score,
    /// Strikes that took effect.
    pub fired: Fired,
    /// The code's rare ways: how often each was passed and taken.
    pub buggified: crate::buggify::Sites,
    /// What went wrong without a strike: see [`ambient`].
    pub ambient: Vec<(&'static str, u64)>,
    /// What the network saw.
    pub network: network::Counters,
    /// What all disks saw together.
    pub disk: disk::Counters,
    /// Records in the history.
    pub records: usize,
    /// The revision reached.
    pub revision: i64,
    /// Watch events judged.
    pub events: usize,
    /// Terms in which a leader was seen.
    pub terms: usize,
    /// Questions that the checker gave up on.
    pub undecided: usize,
    /// How much the checker judged.
    pub judged: checker::verdict::Stats,
    /// How rough the run was.
    pub temper: Option<Temper>,
    /// Whether members and clients spoke TLS.
    pub mtls: bool,
}

/// A run that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What happened until then.
    pub report: Report,
    /// The plan, as text.
    pub plan: String,
    /// What was broken; the first is the first seen.
    pub violations: Vec<Violation>,
    /// One line of state a member, and its newest log lines.
    pub states: Vec<String>,
    /// The command that shows it again.
    pub replay: String,
}

/// Runs a seed on a fresh thread.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    run_plan(Plan::draw(seed), options)
}

/// Runs a plan on a fresh thread.
pub fn run_plan(plan: Plan, options: &Options) -> Result<Report, Box<Failure>> {
    on_fresh_thread(plan, options, |world, base, logs, plan| {
        Box::pin(rough_and_calm(world, base, logs, plan))
    })
}

type Boxed<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;

/// What a run leaves behind for judgement.
#[derive(Default)]
pub struct Outcome {
    /// What was recorded.
    pub records: Vec<Record>,
    /// What the checker is to assume.
    pub judgement: Judgement,
    /// What was seen broken already.
    pub violations: Vec<Violation>,
    /// The figures.
    pub report: Report,
    /// The members' states.
    pub states: Vec<String>,
}

/// The run's common things, shared with whoever has to tell of it after a panic.
#[derive(Clone, Default)]
pub struct Base {
    /// Violations seen while the run goes on.
    pub found: Found,
    patience: Option<Duration>,
    world: Arc<Mutex<Option<Arc<World>>>>,
}

/// Runs a situation on a fresh thread, and judges what it leaves.
pub fn on_fresh_thread<F>(
    plan: Plan,
    options: &Options,
    situation: F,
) -> Result<Report, Box<Failure>>
where
    F: FnOnce(Arc<World>, Base, Logs, Plan) -> Boxed<Outcome> + Send + 'static,
{
    let options = options.clone();
    let thread = std::thread::Builder::new()
        .name(format!("seed {}", plan.seed))
        .stack_size(16 << 20)
        .spawn(move || judged(plan, &options, situation))
        .expect("the system starts a thread");
    thread.join().unwrap_or_else(|_| panic!("the simulator itself panicked"))
}

fn judged<F>(plan: Plan, options: &Options, situation: F) -> Result<Report, Box<Failure>>
where
    F: FnOnce(Arc<World>, Base, Logs, Plan) -> Boxed<Outcome> + 'static,
{
    activate(&options.mutants);
    options.timeline.iter().for_each(crate::timeline::Recorder::install);
    let logs = Logs::new(options.echo);
    let _guard = logs.install();
    let base = Base { patience: options.patience, ..Base::default() };
    let (text, seed) = (plan.to_string(), plan.seed);
    crate::crypto::begin(seed);
    crate::buggify::begin(seed, if plan.mask.no_buggify { 0 } else { plan.buggify });
    let (inner, inner_logs) = (base.clone(), logs.clone());
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        let outcome = runtime.block_on(async move {
            let world = World::new(plan.clone(), 1, inner_logs.clone());
            *lock(&inner.world) = Some(world.clone());
            let outcome = situation(world.clone(), inner, inner_logs, plan).await;
            // Tasks that wait for one another would outlive the runtime, and with them the stores' memory maps.
            world.finish().await;
            let on_disk = storage::check(&world.disks());
            (outcome, on_disk)
        });
        // Dropped here, inside the net for panics.
        drop(runtime);
        outcome
    }));
    let (mut outcome, on_disk) = caught.unwrap_or_else(|panic| {
        let mut outcome = Outcome::default();
        outcome.violations.push(Violation::new("panic", message_of(panic.as_ref())));
        (outcome, Vec::new())
    });
    if let Some(world) = lock(&base.world).take() {
        if outcome.report.hash == (0, 0) {
            outcome.report = figures(&world);
            outcome.states = states_from_logs(&world);
        }
        world.forget();
    }
    outcome.report.seed = seed;
    outcome.report.buggified = crate::buggify::end();
    let taken = between_members(&outcome.report.buggified);
    outcome.report.ambient.extend(taken);
    outcome.violations.splice(0..0, base.found.take());
    outcome.violations.extend(logs.violation().map(|line| Violation::new("protocol", line)));
    if let Some(path) = &options.history
        && let Ok(file) = std::fs::File::create(path)
    {
        // Written for a person to look at; the verdict does not depend on it.
        let _ = checker::history::write(std::io::BufWriter::new(file), &outcome.records);
    }
    judge(&mut outcome);
    outcome.violations.extend(on_disk);
    let Outcome { violations, report, states, .. } = outcome;
    if violations.is_empty() {
        return Ok(report);
    }
    let what = match &options.scenario {
        Some(name) => format!("scenario {name}"),
        None => format!("run --seed {seed}"),
    };
    // NB: the workspace's features, so that nothing is compiled once more after the tests.
    let replay = format!("cargo run --bin sim -- {what}");
    Err(Box::new(Failure { report, plan: text, violations, states, replay }))
}

/// Switches on planted defects for this thread.
#[cfg(feature = "mutants")]
pub fn activate(names: &[String]) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    mainstay::mutants::activate(&names);
}

/// Switches on planted defects for this thread: there are none in this build.
#[cfg(not(feature = "mutants"))]
pub fn activate(names: &[String]) {
    assert!(names.is_empty(), "planted defects need the feature `mutants`");
}

pub(crate) fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
        .to_owned()
}

/// Judges what was recorded.
fn judge(outcome: &mut Outcome) {
    if outcome.records.is_empty() {
        return;
    }
    outcome.violations.extend(monotonic::check(&outcome.records));
    let verdict = checker::verdict::check(&outcome.records, &outcome.judgement);
    outcome.report.records = outcome.records.len();
    outcome.report.revision = verdict.stats.revision;
    outcome.report.events = verdict.stats.events;
    outcome.report.undecided = verdict.undecided.len();
    outcome.report.judged = verdict.stats.clone();
    for violation in &verdict.violations {
        let mut text = violation.to_string();
        let prefix = format!("{}: ", violation.checker);
        text = text.strip_prefix(&prefix).unwrap_or(&text).to_owned();
        for at in violation.evidence.iter().take(6) {
            text.push_str(&format!("\n      record {at}: {:?}", outcome.records.get(*at)));
        }
        outcome.violations.push(Violation::new(violation.checker, text));
    }
}

pub(crate) fn figures(world: &World) -> Report {
    let mut disk = disk::Counters::default();
    for slot in &world.slots {
        disk.add(&slot.disk.counters());
    }
    Report {
        seed: world.plan.seed,
        temper: Some(world.plan.temper),
        mtls: world.plan.mtls,
        hash: world.trace.sum(),
        simulated: world.time.elapsed(),
        network: world.network.counters(),
        ambient: ambient(&world.plan, &world.network.counters(), &disk),
        disk,
        ..Report::default()
    }
}

/// Counts what is wrong with the machines and links of a run all the time, or follows from what strikes:
/// how often each took effect; of clocks, how many run so.
fn ambient(
    plan: &Plan,
    network: &network::Counters,
    disk: &disk::Counters,
) -> Vec<(&'static str, u64)> {
    let clocks = |wrong: fn(i64, u32) -> bool| {
        plan.clocks.iter().filter(|(offset, rate)| wrong(*offset, *rate)).count() as u64
    };
    let [nothing, all, prefix, subset, torn] = disk.met;
    vec![
        ("packet-loss", network.lost),
        ("long-queue", network.delayed),
        ("packet-meets-cut", network.held),
        ("short-write", network.short_writes),
        ("full-window", network.full_windows),
        ("silence-ends-stream", network.gave_up),
        ("connect-timeout", network.timed_out),
        ("connect-refused", network.refused),
        ("unsynced-lost", nothing),
        ("unsynced-kept", all),
        ("unsynced-end-lost", prefix),
        ("unsynced-reordered", subset),
        ("unsynced-torn", torn),
        ("unsynced-name-lost", disk.lost_names),
        ("clock-ahead", clocks(|offset, _| offset > 0)),
        ("clock-behind", clocks(|offset, _| offset < 0)),
        ("clock-fast", clocks(|_, rate| rate > 1_000_000)),
        ("clock-slow", clocks(|_, rate| rate < 1_000_000)),
    ]
}

/// Counts what befell messages between members: the network's streams do none of it, the code's rare ways do.
fn between_members(sites: &crate::buggify::Sites) -> [(&'static str, u64); 4] {
    let of = |site| sites.get(site).map_or(0, |passes| passes.fired);
    [
        ("message-lost", of("message_is_lost") + of("transport_loses_a_batch")),
        ("message-repeated", of("message_comes_twice")),
        ("message-reordered", of("messages_come_in_reverse")),
        ("snapshot-damaged", of("snapshot_loses_a_table_row")),
    ]
}

fn states_from_logs(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, slot) in world.slots.iter().enumerate() {
        lines.push(format!("{}: {:?}", slot.name, world.phase(i)));
        lines.extend(world.logs.recent(&slot.name).into_iter().map(|line| format!("    {line}")));
    }
    lines
}

/// The pause of those who only read between two reads, in milliseconds.
const READERS_THINK: (u64, u64) = (3, 15);

/// How long the demands may take.
pub(crate) fn bound(plan: &Plan) -> Duration {
    Duration::from_millis(plan.tuning.election * 40) + Duration::from_secs(90)
}

/// The whole of a run.
async fn rough_and_calm(world: Arc<World>, base: Base, _logs: Logs, plan: Plan) -> Outcome {
    let names: Vec<String> = (1..=plan.members).map(|i| format!("m{i}")).collect();
    let members: Members = Arc::new(Mutex::new(names));
    let history = History::new(world.trace.clone());
    let score = Arc::new(Mutex::new(Score::default()));
    let compacted = Arc::<std::sync::atomic::AtomicI64>::default();
    let leases = Arc::<Mutex<std::collections::BTreeSet<i64>>>::default();
    let shared = |stop: &Arc<AtomicBool>| Shared {
        history: history.clone(),
        members: members.clone(),
        stop: stop.clone(),
        score: score.clone(),
        compacted: compacted.clone(),
        leases: leases.clone(),
    };
    let (stop_clients, stop_watchers) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    for i in 0..world.slots.len().min(plan.members as usize) {
        world.start(i).await;
    }
    let mut clients = Vec::new();
    for c in 0..u64::from(plan.load.clients) {
        let rng = Rng::new(plan.seed, &format!("load {c}"));
        let draw = Draw::new(rng, plan.load.clone(), c);
        clients.push(madsim::task::spawn_local(workload::client(
            c,
            world.endpoint(&format!("c{c}")),
            draw,
            plan.load.think,
            Duration::from_millis(plan.load.patience),
            plan.load.wander,
            shared(&stop_clients),
        )));
    }
    for r in 0..u64::from(plan.load.readers) {
        let load = Load { mix: vec![(Kind::Get, 1)], lull: (0, 0), ..plan.load.clone() };
        let draw = Draw::new(Rng::new(plan.seed, &format!("read {r}")), load, 500 + r);
        clients.push(madsim::task::spawn_local(workload::client(
            500 + r,
            world.endpoint(&format!("r{r}")),
            draw,
            READERS_THINK,
            Duration::from_millis(plan.load.patience),
            plan.load.wander,
            shared(&stop_clients),
        )));
    }
    let mut watchers = Vec::new();
    let numbers = Numbers::default();
    for w in 0..u64::from(plan.load.watchers) {
        let watcher = Watcher {
            process: 1_000 + w,
            endpoint: world.endpoint(&format!("w{w}")),
            rng: Rng::new(plan.seed, &format!("watch {w}")),
            keys: plan.load.keys,
            shared: shared(&stop_watchers),
            numbers: numbers.clone(),
            found: base.found.clone(),
            seen: 0,
        };
        watchers.push(madsim::task::spawn_local(watcher.run()));
    }
    let inspector = Inspector {
        endpoint: world.endpoint("inspector"),
        rng: Rng::new(plan.seed, "inspector"),
        shared: shared(&stop_clients),
        found: base.found.clone(),
        patience: Duration::from_millis(plan.load.patience),
    };
    clients.push(madsim::task::spawn_local(inspector.run()));
    let prober = Prober {
        endpoint: world.endpoint("prober"),
        rng: Rng::new(plan.seed, "prober"),
        shared: shared(&stop_clients),
        found: base.found.clone(),
        patience: Duration::from_millis(plan.load.patience),
        tls: plan.mtls,
    };
    clients.push(madsim::task::spawn_local(prober.run()));
    let leaders = Arc::new(Mutex::new(Leaders::default()));
    world.background(observe(
        Admin::new(world.endpoint("observer"), Duration::from_millis(500)),
        Rng::new(plan.seed, "observer"),
        members.clone(),
        leaders.clone(),
        base.found.clone(),
    ));
    let nemesis = Nemesis::new(world.clone(), members.clone(), base.found.clone());
    world.background(nemesis.clone().supervise());
    nemesis.run().await;

    stop_clients.store(true, Ordering::SeqCst);
    // Once more: a strike that took long, like a stop, may have left its member down.
    nemesis.heal().await;
    for client in clients {
        // A client ends when its last operation has; a cancelled one has none.
        let _ = client.await;
    }
    let mut outcome = Outcome::default();
    if !base.found.any() && !plan.mask.no_demands {
        let limit = base.patience.unwrap_or_else(|| bound(&plan));
        let mut admin = Admin::new(world.endpoint("judge"), Duration::from_secs(5).min(limit));
        let names = lock(&members).clone();
        match demand(&world, &mut admin, &names, &history, limit).await {
            Ok(states) => {
                let last = states.iter().map(|state| state.revision).max();
                outcome.judgement.watch_complete_to = last;
                outcome.judgement.final_states = states;
            }
            Err(violation) => base.found.add(violation),
        }
    }
    stop_watchers.store(true, Ordering::SeqCst);
    for watcher in watchers {
        // Without demands nobody waits for what it has yet to be told; nor once something is broken.
        if plan.mask.no_demands || base.found.any() {
            watcher.abort();
        }
        let _ = watcher.await;
    }
    let drift = plan.drift_max();
    // What is granted is at least one and a half election timeouts, in whole seconds.
    let least = (plan.tuning.election * 3 / 2).div_ceil(1_000);
    let ttl_max = u64::try_from(plan.load.ttl.1).unwrap_or(0).max(least) * 1_000_000_000;
    outcome.judgement.lease_slack_ns = ttl_max / 1_000_000 * drift * 2;
    outcome.records = history.take();
    outcome.report = figures(&world);
    outcome.report.score = lock(&score).clone();
    outcome.report.fired = nemesis.fired();
    outcome.report.terms = lock(&leaders).terms();
    let names = lock(&members).clone();
    outcome.states = describe(&world, &names).await;
    outcome
}

/// Asks every member how it is, again and again, and holds the answers against one another.
async fn observe(
    mut admin: Admin,
    mut rng: Rng,
    members: Members,
    leaders: Arc<Mutex<Leaders>>,
    found: Found,
) {
    loop {
        sleep(Duration::from_millis(150)).await;
        let names = lock(&members).clone();
        if rng.below(8) == 0
            && let Some(violation) = compare_hashes(&mut admin, &mut rng, &names).await
        {
            found.add(violation);
        }
        for name in names {
            let Ok(status) = admin.status(&name).await else { continue };
            let own = status.header.as_ref().map_or(0, |h| h.member_id);
            let broken = lock(&leaders).see(own, status.raft_term, status.leader);
            if let Some(violation) = broken {
                found.add(violation);
            }
        }
    }
}

/// Asks two members for the hash of their keys, while clients write. It must be the same at one revision and
/// one compaction.
async fn compare_hashes(admin: &mut Admin, rng: &mut Rng, names: &[String]) -> Option<Violation> {
    let (one, other) =
        (names.get(rng.index(names.len().max(1)))?, names.get(rng.index(names.len()))?);
    let newest = admin.status(one).await.ok()?.header?.revision;
    let revision = (newest - i64::try_from(rng.below(5)).unwrap_or(0)).max(1);
    let hash = admin.hash_kv(one, revision).await.ok()?;
    let same = admin.hash_kv(other, revision).await.ok()?;
    let alike = |a: &pb::HashKvResponse, b: &pb::HashKvResponse| {
        (a.compact_revision, a.hash_revision) == (b.compact_revision, b.hash_revision)
    };
    if !alike(&hash, &same) || hash.hash == same.hash {
        return None;
    }
    // NB: at exactly a compaction's revision both may be right: who has applied it tells the hash remembered of
    // it, under the compaction before (seed 31000194).
    for name in [one, other] {
        let now = admin.hash_kv(name, 0).await.ok()?;
        if now.hash_revision <= revision || now.compact_revision != hash.compact_revision {
            return None;
        }
    }
    let text = format!("{one} and {other} at r{revision}: {hash:?}, {same:?}");
    Some(Violation::new("equal-hash", text))
}

/// One line a member, and its newest log lines.
pub(crate) async fn describe(world: &Arc<World>, members: &[String]) -> Vec<String> {
    let mut admin = Admin::new(world.endpoint("judge"), Duration::from_secs(2));
    let mut lines = Vec::new();
    for (i, slot) in world.slots.iter().enumerate() {
        let member = if members.contains(&slot.name) { "member" } else { "not a member" };
        let state = match admin.status(&slot.name).await {
            Ok(s) => format!(
                "{:x} t{} leader {:x} i{} applied i{} r{} {}",
                s.header.as_ref().map_or(0, |h| h.member_id),
                s.raft_term,
                s.leader,
                s.raft_index,
                s.raft_applied_index,
                s.header.as_ref().map_or(0, |h| h.revision),
                s.errors.join(", "),
            ),
            Err(error) => error,
        };
        lines.push(format!("{} ({member}, {:?}): {state}", slot.name, world.phase(i)));
        lines.extend(world.logs.recent(&slot.name).into_iter().map(|line| format!("    {line}")));
    }
    lines
}

/// Demands of a healed cluster that it works and is of one mind, within `limit`; returns the members'
/// states.
pub(crate) async fn demand(
    world: &Arc<World>,
    admin: &mut Admin,
    names: &[String],
    history: &History,
    limit: Duration,
) -> Result<Vec<FinalState>, Violation> {
    Demands { world, admin, names, history }.all(limit).await
}

/// What is demanded of a healed cluster.
struct Demands<'a> {
    world: &'a Arc<World>,
    admin: &'a mut Admin,
    names: &'a [String],
    history: &'a History,
}

/// The process number of the one who demands.
const JUDGE: u64 = 9_999;

impl Demands<'_> {
    async fn all(&mut self, limit: Duration) -> Result<Vec<FinalState>, Violation> {
        let until = self.world.time.elapsed() + limit;
        for name in self.names.to_vec() {
            self.put_through(&name, until).await?;
        }
        let revision = self.converge(until).await?;
        for name in self.names {
            self.ready(name, until).await?;
        }
        self.equal_hashes(revision).await
    }

    /// A member says that it is ready. Whether it is a learner does not matter here.
    async fn ready(&mut self, name: &str, until: Duration) -> Result<(), Violation> {
        let mut last = String::new();
        while self.world.time.elapsed() <= until {
            match self.admin.probe(name, "/readyz?exclude=non_learner").await {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => last = format!("{status} {body:?}"),
                Err(error) => last = error,
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(Violation::new(
            "ready",
            format!("{name} is healed and does not say that it is ready: {last}"),
        ))
    }

    /// A put through every member is acknowledged.
    async fn put_through(&mut self, name: &str, until: Duration) -> Result<(), Violation> {
        use checker::history::What;
        use checker::op::{Operation, Put};
        let mut last = String::new();
        for attempt in 0.. {
            if self.world.time.elapsed() > until {
                let text = format!("no put through {name} was acknowledged after healing: {last}");
                return Err(Violation::new("liveness", text));
            }
            let value = format!("judge-{name}-{attempt}");
            let put = Put { key: "k00".into(), value: value.clone().into(), ..Put::default() };
            let node = workload::number(name);
            self.history.record(JUDGE, node, What::Invoke(Operation::Put(put)));
            match self.admin.put(name, "k00", &value).await {
                Ok(reply) => {
                    self.history.record(JUDGE, node, What::Ok(wire::put_reply(&reply)));
                    return Ok(());
                }
                Err(text) => {
                    self.history.record(JUDGE, node, What::Info(text.clone()));
                    last = text;
                }
            }
            // Raised by a request that nobody was answered: it may come through as late as any other.
            if last.contains("database space exceeded") || last.contains("corrupt cluster") {
                self.disarm(name).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Takes back every alarm that the nemesis may have raised.
    async fn disarm(&mut self, name: &str) {
        use pb::alarm_request::AlarmAction;
        let none = pb::AlarmMember::default();
        let alarms = self.admin.alarm(name, AlarmAction::Get, none).await.unwrap_or_default();
        for on in
            alarms.into_iter().filter(|on| crate::nemesis::ALARM_ABOUT.contains(&on.member_id))
        {
            // If this fails, the next refused put comes here again.
            let _ = self.admin.alarm(name, AlarmAction::Deactivate, on).await;
        }
    }

    /// All members stand at one applied index and one leader. Leases go on ending meanwhile.
    async fn converge(&mut self, until: Duration) -> Result<i64, Violation> {
        let mut last = String::new();
        while self.world.time.elapsed() <= until {
            let mut seen = Vec::new();
            for name in self.names {
                match self.admin.status(name).await {
                    Ok(s) => seen.push((
                        s.raft_applied_index,
                        s.leader,
                        s.header.map_or(0, |h| h.revision),
                    )),
                    Err(error) => last = format!("{name}: {error}"),
                }
            }
            if seen.len() == self.names.len() && seen.iter().all(|s| *s == seen[0] && s.1 != 0) {
                return Ok(seen[0].2);
            }
            last = format!("(applied, leader, revision) {seen:?} {last}");
            sleep(Duration::from_millis(100)).await;
        }
        Err(Violation::new("convergence", format!("members do not come together: {last}")))
    }

    /// HashKV is equal on all members, at the last revision and at some before.
    async fn equal_hashes(&mut self, revision: i64) -> Result<Vec<FinalState>, Violation> {
        let mut states = Vec::new();
        let mut compacted = 0;
        for name in self.names {
            let mut state =
                FinalState { node: workload::number(name), revision, ..FinalState::default() };
            let hash = self.ask(name, revision).await?;
            state.hash = Some(hash.0);
            state.compact_revision = hash.1;
            compacted = compacted.max(hash.1);
            let keys = self.admin.all_keys(name, revision).await.map_err(|error| {
                Violation::new("liveness", format!("{name} does not list its keys: {error}"))
            })?;
            state.kvs = Some(keys.kvs.iter().map(wire::key_value).collect());
            states.push(state);
        }
        let low = compacted.max(1);
        let mut rng = Rng::new(self.world.plan.seed, "hashes");
        let mut revisions = vec![revision];
        for _ in 0..3 {
            let span = u64::try_from(revision - low).unwrap_or(0);
            revisions.push(low + i64::try_from(rng.below(span + 1)).unwrap_or(0));
        }
        for at in revisions {
            let mut hashes = BTreeMap::new();
            for name in self.names {
                hashes.insert(name.clone(), self.ask(name, at).await?);
            }
            let first = hashes.values().next().copied();
            if hashes.values().any(|hash| Some(*hash) != first) {
                let text = format!("(hash, compact revision) at r{at} differ: {hashes:?}");
                return Err(Violation::new("equal-hash", text));
            }
        }
        Ok(states)
    }

    async fn ask(&mut self, name: &str, revision: i64) -> Result<(u32, i64), Violation> {
        let mut last = String::new();
        for _ in 0..5 {
            match self.admin.hash_kv(name, revision).await {
                Ok(reply) => return Ok((reply.hash, reply.compact_revision)),
                Err(error) => last = error,
            }
            sleep(Duration::from_millis(200)).await;
        }
        Err(Violation::new("equal-hash", format!("{name} gives no hash at r{revision}: {last}")))
    }
}
