//! What goes wrong, and when: draws faults by the plan, strikes, and takes back what lasts.
//!
//! Each strike is a task of its own; by the plan strikes overlap, or the next one waits for the end of the
//! one before (changes of members overlap with everything). A strike is counted only when it took effect: a
//! planted crash that was never reached, or a change of members that was refused, did not fire.
//!
//! The fault atlas: storage faults stay recoverable. A power loss takes what was not synced, and no
//! committed entry rests on that; so any number of machines may lose their power. A disk is lost or
//! replaced one at a time, only while all other members are well, and the next one only when the
//! replacement has caught up: there is always a quorum of copies of every committed entry.

mod alarm;
mod damage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use self::alarm::ABOUT as ALARM_ABOUT;
use crate::admin::Admin;
use crate::disk::Persistence;
use crate::invariants::{Found, Violation};
use crate::network::{Host, Params};
use crate::plan::{CLOCK_RATE_CHANGE, Fault, Temper};
use crate::rng::Rng;
use crate::time::{sleep, within};
use crate::trace::lock;
use crate::workload::Members;
use crate::world::{End, Phase, World};

/// How often each fault took effect.
pub type Fired = BTreeMap<Fault, u64>;

/// What all strikes share.
pub struct Nemesis {
    world: Arc<World>,
    admin: Mutex<Admin>,
    /// Whom clients may call: the members, by name.
    members: Members,
    /// Where violations go that are seen here.
    found: Found,
    fired: Mutex<Fired>,
    /// Until when a slot's process may end by itself, because its disk was made to fail.
    excused: Mutex<BTreeMap<usize, Duration>>,
    /// Slots whose member was removed, or is joining: its process may end for that reason, or refuse to start.
    removed: Mutex<BTreeSet<usize>>,
    /// Slots whose process whoever strikes there will start, and nobody else.
    barred: Mutex<BTreeSet<usize>>,
    /// How often a slot's process refused to start.
    refusals: Mutex<BTreeMap<usize, u64>>,
    /// Crashes planted and not yet seen.
    planted: Mutex<BTreeMap<usize, Fault>>,
    /// Held while members change.
    membership: tokio::sync::Mutex<()>,
    /// How many alarms were raised; held while one is on.
    alarms: tokio::sync::Mutex<u64>,
    over: Mutex<Duration>,
}

/// How long a run that is not brutal waits for its members to serve before faults strike.
const FOUNDING_LIMIT: Duration = Duration::from_secs(20);

/// How long a change of members may take from its first step to its last, in all.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

impl Nemesis {
    /// Prepares to strike by the world's plan.
    pub fn new(world: Arc<World>, members: Members, found: Found) -> Arc<Self> {
        let admin = Admin::new(world.endpoint("nemesis"), Duration::from_secs(2));
        Arc::new(Self {
            world,
            admin: Mutex::new(admin),
            members,
            found,
            fired: Mutex::default(),
            excused: Mutex::default(),
            removed: Mutex::default(),
            barred: Mutex::default(),
            refusals: Mutex::default(),
            planted: Mutex::default(),
            membership: tokio::sync::Mutex::default(),
            alarms: tokio::sync::Mutex::default(),
            over: Mutex::default(),
        })
    }

    /// Returns what took effect so far.
    pub fn fired(&self) -> Fired {
        lock(&self.fired).clone()
    }

    fn fired_one(&self, fault: Fault) {
        *lock(&self.fired).entry(fault).or_default() += 1;
        self.world.trace.note("fault", [fault as u64, 0, 0]);
    }

    fn admin(&self) -> Admin {
        lock(&self.admin).clone()
    }

    fn over(&self) -> Duration {
        *lock(&self.over)
    }

    /// Waits until all members serve, but not for ever.
    async fn wait_for_members(&self) {
        let limit = self.world.time.elapsed() + FOUNDING_LIMIT;
        let founders = 0..self.world.plan.members as usize;
        while founders.clone().any(|i| self.world.phase(i) != Phase::Serving)
            && self.world.time.elapsed() < limit
        {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sleeps, but not beyond the rough time.
    async fn hold(&self, length: Duration) {
        let left = self.over().saturating_sub(self.world.time.elapsed());
        sleep(length.min(left)).await;
    }

    /// Strikes until the rough time is over, heals, and returns when the last strike has ended: a
    /// change of members that was begun is brought to its end by a healed cluster.
    pub async fn run(self: &Arc<Self>) {
        let plan = self.world.plan.clone();
        let mut rng = Rng::new(plan.seed, "nemesis");
        let mut strikes = Vec::new();
        let mut number = 0;
        if plan.temper != Temper::Brutal {
            self.wait_for_members().await;
        }
        *lock(&self.over) = self.world.time.elapsed() + plan.rough;
        while self.world.time.elapsed() < self.over() && !self.found.any() {
            let pause = rng.between(plan.fault_pause.0, plan.fault_pause.1);
            self.hold(Duration::from_millis(pause)).await;
            let total: u64 = plan.faults.iter().map(|(_, weight)| weight).sum();
            if total == 0 || self.world.time.elapsed() >= self.over() {
                continue;
            }
            let mut at = rng.below(total);
            let fault = plan.faults.iter().find(|(_, weight)| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit
            });
            let fault = fault.expect("the weights add up").0;
            let length =
                Duration::from_millis(rng.between(plan.fault_length.0, plan.fault_length.1));
            let strike = Strike {
                nemesis: self.clone(),
                rng: Rng::new(rng.next_u64(), fault.name()),
                length,
            };
            number += 1;
            if !plan.mask.deals(number - 1, fault) {
                // What is left out of a failing seed takes its time all the same.
                self.hold(if plan.overlap { Duration::ZERO } else { length }).await;
                continue;
            }
            let mut strike = madsim::task::spawn_local(strike.run(fault));
            // A change of members takes its time, and is to meet other faults.
            if plan.overlap || matches!(fault, Fault::Wipe | Fault::Grow) {
                strikes.push(strike);
            } else {
                let left = self.over().saturating_sub(self.world.time.elapsed());
                // What takes longer, a member being replaced, needs the others healed.
                if within(left + Duration::from_millis(1), &mut strike).await.is_none() {
                    strikes.push(strike);
                }
            }
        }
        // Strikes that hold until now take back what they did, in their own order.
        sleep(Duration::from_millis(1)).await;
        self.heal().await;
        for strike in strikes {
            // A strike that was cancelled struck nothing more.
            let _ = strike.await;
        }
    }

    /// Watches over the processes: what ends by itself is judged and started again.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            sleep(Duration::from_millis(100)).await;
            for i in 0..self.world.slots.len() {
                // One unexplained end is enough: what refuses to start would do so for ever.
                if self.found.any() {
                    return;
                }
                if let Some(end) = self.world.supervise(i).await {
                    self.judge_end(i, &end);
                }
            }
        }
    }

    fn judge_end(&self, i: usize, end: &End) {
        let name = &self.world.slots[i].name;
        let now = self.world.time.elapsed();
        let excused = lock(&self.excused).get(&i).is_some_and(|until| *until > now);
        let removed = lock(&self.removed).contains(&i);
        if matches!(end, End::Refused(_)) {
            *lock(&self.refusals).entry(i).or_default() += 1;
        }
        match end {
            End::Crashed => {
                if let Some(fault) = lock(&self.planted).remove(&i) {
                    self.fired_one(fault);
                }
            }
            End::Removed if removed => {}
            End::Failed(_) | End::Refused(_) if excused || removed => {}
            End::Stopped | End::Removed | End::Failed(_) | End::Refused(_) => {
                let text = format!("{name} ended by itself for no reason of ours: {end:?}");
                self.found.add(Violation::new("unexplained-end", text));
            }
        }
    }

    /// Takes everything back: links, disks, power, processes.
    pub async fn heal(&self) {
        let world = &self.world;
        crate::buggify::quiet();
        world.network.heal_all();
        world.network.set_params(Params { give_up: Duration::from_secs(10), ..Params::default() });
        for (i, slot) in world.slots.iter().enumerate() {
            slot.disk.set_full(false);
            slot.disk.fail_writes(0);
            let mut machine = lock(&slot.machine);
            machine.disk = crate::runtime::DiskParams::default();
            machine.clock.frozen_at = None;
            drop(machine);
            world.disarm(i);
            world.resume(i);
        }
        let names = lock(&self.members).clone();
        for name in names {
            if let Some(i) = world.slot(&name).filter(|i| !lock(&self.barred).contains(i)) {
                world.start(i).await;
            }
        }
    }
}

/// One fault, being dealt.
struct Strike {
    nemesis: Arc<Nemesis>,
    rng: Rng,
    length: Duration,
}

impl Strike {
    fn world(&self) -> &Arc<World> {
        &self.nemesis.world
    }

    /// The slots of members, in order.
    fn slots(&self) -> Vec<usize> {
        let names = lock(&self.nemesis.members).clone();
        names.iter().filter_map(|name| self.world().slot(name)).collect()
    }

    /// A member whose process runs, if any.
    fn any(&mut self) -> Option<usize> {
        let running: Vec<usize> = self
            .slots()
            .into_iter()
            .filter(|i| self.world().wanted(*i) && self.world().phase(*i) == Phase::Serving)
            .collect();
        if running.is_empty() { None } else { Some(*self.rng.pick(&running)) }
    }

    async fn leader(&self) -> Option<usize> {
        let names = lock(&self.nemesis.members).clone();
        let mut awake = Vec::new();
        for name in names {
            let i = self.world().slot(&name)?;
            if self.world().phase(i) == Phase::Serving && !self.world().paused(i) {
                awake.push(name);
            }
        }
        let leader = self.nemesis.admin().leader(&awake).await?;
        self.world().slot(&leader)
    }

    fn hosts(&self) -> Vec<Host> {
        self.slots().into_iter().map(|i| self.world().slots[i].host).collect()
    }

    async fn run(mut self, fault: Fault) {
        let band = crate::timeline::strike(fault);
        let fired = self.deal(fault).await;
        crate::timeline::strike_over(band, fired);
        if fired {
            self.nemesis.fired_one(fault);
        }
    }

    /// Deals the fault, takes it back if it lasts, and says whether it took effect (planted crashes
    /// are counted when they are seen).
    async fn deal(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::IsolateOne => {
                let Some(i) = self.any() else { return false };
                self.isolate(i, true, true).await
            }
            Fault::IsolateLeader => {
                let Some(i) = self.leader().await else { return false };
                self.isolate(i, true, true).await
            }
            Fault::Deaf => {
                let Some(i) = self.any() else { return false };
                self.isolate(i, true, false).await
            }
            Fault::Mute => {
                let Some(i) = self.any() else { return false };
                self.isolate(i, false, true).await
            }
            Fault::Halves | Fault::Bridge | Fault::Ring => self.partition(fault).await,
            Fault::OneWay => {
                let mut hosts = self.hosts();
                if hosts.len() < 2 {
                    return false;
                }
                self.rng.shuffle(&mut hosts);
                self.cut_for_a_while(vec![(hosts[0], hosts[1])]).await
            }
            Fault::Swizzle => self.swizzle().await,
            Fault::CutClients => {
                let Some(i) = self.any() else { return false };
                let host = self.world().slots[i].host;
                let some: Vec<Host> = self
                    .world()
                    .client_hosts()
                    .into_iter()
                    .filter(|_| self.rng.below(2) == 0)
                    .collect();
                let links = some.into_iter().flat_map(|c| [(c, host), (host, c)]).collect();
                self.cut_for_a_while(links).await
            }
            Fault::Reset => {
                let Some(i) = self.any() else { return false };
                let host = self.world().slots[i].host;
                let mut others = self.hosts();
                others.extend(self.world().client_hosts());
                let other = *self.rng.pick(&others);
                self.world().network.reset_between(host, other) > 0
            }
            Fault::SlowLink => {
                let hosts = self.hosts();
                let (from, to) = (*self.rng.pick(&hosts), *self.rng.pick(&hosts));
                let by = self.rng.duration(Duration::from_millis(10), Duration::from_secs(1));
                self.world().network.slow(from, to, by);
                self.nemesis.hold(self.length).await;
                self.world().network.slow(from, to, Duration::ZERO);
                from != to
            }
            Fault::Storm => {
                let calm = self.world().plan.network.clone();
                let storm = Params {
                    loss: 150_000,
                    tail: (200_000, Duration::from_millis(800)),
                    ..calm.clone()
                };
                self.world().network.set_params(storm);
                self.nemesis.hold(self.length).await;
                self.world().network.set_params(calm);
                true
            }
            Fault::Kill => {
                let Some(i) = self.any() else { return false };
                self.down_for_a_while(vec![i], None).await
            }
            Fault::KillLeader => {
                let Some(i) = self.leader().await else { return false };
                self.down_for_a_while(vec![i], None).await
            }
            Fault::KillAll => {
                let all = self.slots();
                self.down_for_a_while(all, None).await
            }
            Fault::RestartStorm => {
                let Some(i) = self.any() else { return false };
                for _ in 0..self.rng.between(2, 6) {
                    self.world().kill(i).await;
                    self.world().start(i).await;
                    let gap = self.rng.between(1, 500);
                    self.nemesis.hold(Duration::from_millis(gap)).await;
                }
                true
            }
            Fault::Stop => {
                let Some(i) = self.any() else { return false };
                let (clean, _) = self.world().stop(i, Duration::from_secs(30)).await;
                if !clean && !self.world().paused(i) {
                    let text = format!("{} did not stop in 30 s", self.world().slots[i].name);
                    self.nemesis.found.add(Violation::new("graceful-stop", text));
                }
                self.nemesis.hold(self.length).await;
                self.world().start(i).await;
                true
            }
            Fault::Pause => {
                let Some(i) = self.any() else { return false };
                self.pause(i, self.length).await
            }
            Fault::PauseLeader => {
                let Some(i) = self.leader().await else { return false };
                let length = self.rng.duration(Duration::from_secs(2), Duration::from_secs(12));
                self.pause(i, length).await
            }
            Fault::SlowCpu => {
                let Some(i) = self.any() else { return false };
                self.slow_cpu(i).await
            }
            Fault::DieInCall
            | Fault::PowerLossInCall
            | Fault::PowerLossInSync
            | Fault::DieAtPoint => {
                self.plant(fault);
                false
            }
            Fault::PowerLoss => {
                let Some(i) = self.any() else { return false };
                let model = *self.rng.pick(&Persistence::ALL);
                self.down_for_a_while(vec![i], Some(model)).await
            }
            Fault::PowerLossAll => {
                let all = self.slots();
                let model = *self.rng.pick(&Persistence::ALL);
                self.down_for_a_while(all, Some(model)).await
            }
            Fault::SlowDisk | Fault::StallDisk => self.slow_disk(fault).await,
            Fault::FullDisk | Fault::WriteError | Fault::SyncError => self.bad_disk(fault).await,
            Fault::Wipe => self.wipe().await.is_some(),
            Fault::Grow => self.grow().await.is_some(),
            Fault::Alarm => self.alarm().await.is_some(),
            Fault::MoveLeader => {
                let Some(leader) = self.leader().await else { return false };
                let from = self.world().slots[leader].name.clone();
                let mut admin = self.nemesis.admin();
                let Ok(members) = admin.member_list(&from).await else { return false };
                let to = self.rng.pick(&members).id;
                admin.move_leader(&from, to).await.is_ok()
            }
            Fault::ClockJump => {
                let Some(i) = self.any() else { return false };
                let size = *self.rng.pick(&[100, 5_000, 600_000, 40_000_000]);
                let jump = i64::try_from(self.rng.below(2 * size)).unwrap_or(0)
                    - i64::try_from(size).unwrap_or(0);
                lock(&self.world().slots[i].machine).clock.offset_ms += jump;
                true
            }
            Fault::ClockFreeze => {
                let Some(i) = self.any() else { return false };
                let machine = self.world().slots[i].machine.clone();
                lock(&machine).clock.frozen_at = Some(self.world().time.elapsed());
                self.nemesis.hold(self.length).await;
                lock(&machine).clock.frozen_at = None;
                true
            }
            Fault::ReadError => {
                let Some(i) = self.any() else { return false };
                self.read_error(i).await
            }
            Fault::RotOnRead
            | Fault::RotAtRest
            | Fault::RotOnWrite
            | Fault::MisdirectedWrite
            | Fault::LostWrite
            | Fault::TruncatedFile => self.damage(fault).await.unwrap_or(false),
            Fault::ClockRate => {
                let Some(i) = self.any() else { return false };
                let rate = 1_000_000 - CLOCK_RATE_CHANGE + self.rng.below(2 * CLOCK_RATE_CHANGE);
                lock(&self.world().slots[i].machine).clock.rate_ppm =
                    u32::try_from(rate).unwrap_or(1_000_000);
                self.world().kill(i).await;
                self.world().start(i).await;
                true
            }
        }
    }

    async fn isolate(&mut self, i: usize, deaf: bool, mute: bool) -> bool {
        let own = self.world().slots[i].host;
        let mut links = Vec::new();
        for other in self.hosts().into_iter().filter(|host| *host != own) {
            if deaf {
                links.push((other, own));
            }
            if mute {
                links.push((own, other));
            }
        }
        self.cut_for_a_while(links).await
    }

    async fn cut_for_a_while(&mut self, links: Vec<(Host, Host)>) -> bool {
        for (from, to) in &links {
            self.world().network.cut(*from, *to);
        }
        self.nemesis.hold(self.length).await;
        for (from, to) in &links {
            self.world().network.heal(*from, *to);
        }
        !links.is_empty()
    }

    async fn partition(&mut self, fault: Fault) -> bool {
        let mut hosts = self.hosts();
        if hosts.len() < 3 {
            return false;
        }
        self.rng.shuffle(&mut hosts);
        let n = hosts.len();
        let cut_at = 1 + self.rng.index(n - 1);
        let meet = |a: usize, b: usize| match fault {
            Fault::Halves => (a < cut_at) == (b < cut_at),
            Fault::Bridge => a == 0 || b == 0 || (a <= n / 2) == (b <= n / 2),
            _ => (a + 1) % n == b || (b + 1) % n == a,
        };
        let mut links = Vec::new();
        for a in 0..n {
            for b in (0..n).filter(|b| *b != a && !meet(a, *b)) {
                links.push((hosts[a], hosts[b]));
            }
        }
        self.cut_for_a_while(links).await
    }

    async fn swizzle(&mut self) -> bool {
        let hosts = self.hosts();
        let mut links: Vec<(Host, Host)> = hosts
            .iter()
            .flat_map(|a| hosts.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a != b)
            .collect();
        if links.is_empty() {
            return false;
        }
        self.rng.shuffle(&mut links);
        let step = self.length / u32::try_from(2 * links.len()).unwrap_or(1);
        for (from, to) in links.clone() {
            self.world().network.cut(from, to);
            self.nemesis.hold(step).await;
        }
        self.rng.shuffle(&mut links);
        for (from, to) in links {
            self.world().network.heal(from, to);
            self.nemesis.hold(step).await;
        }
        true
    }

    async fn down_for_a_while(&mut self, slots: Vec<usize>, model: Option<Persistence>) -> bool {
        for i in &slots {
            match model {
                Some(model) => self.world().power_loss(*i, model).await,
                None => self.world().kill(*i).await,
            }
        }
        self.nemesis.hold(self.length).await;
        for i in &slots {
            // A member may have been removed in the meantime; its place stays empty then.
            if self.slots().contains(i) {
                self.world().start(*i).await;
            }
        }
        !slots.is_empty()
    }

    async fn pause(&mut self, i: usize, length: Duration) -> bool {
        self.world().pause(i);
        self.nemesis.hold(length).await;
        self.world().resume(i);
        true
    }

    fn plant(&mut self, fault: Fault) {
        let Some(i) = self.any() else { return };
        let model = match fault {
            Fault::PowerLossInCall => Some(*self.rng.pick(&Persistence::ALL)),
            Fault::DieAtPoint if self.rng.below(2) == 0 => Some(*self.rng.pick(&Persistence::ALL)),
            _ => None,
        };
        if fault == Fault::PowerLossInSync {
            let n = self.rng.between(1, 40);
            let model = *self.rng.pick(&Persistence::ALL);
            self.world().lose_power_in_sync(i, n, model);
        } else if fault == Fault::DieAtPoint {
            let points: Vec<&str> =
                lock(&self.world().slots[i].machine).points.keys().copied().collect();
            if points.is_empty() {
                return;
            }
            let point = *self.rng.pick(&points);
            let passes = self.rng.below(10);
            self.world().die_at_point(i, point, passes, model);
        } else {
            let n = if self.rng.below(2) == 0 {
                self.rng.between(1, 20)
            } else {
                self.rng.between(1, 300)
            };
            self.world().die_in_call(i, n, model);
        }
        lock(&self.nemesis.planted).insert(i, fault);
    }

    /// The process runs for some milliseconds, and then does not for some more, again and again.
    async fn slow_cpu(&mut self, i: usize) -> bool {
        let until = self.world().time.elapsed() + self.length;
        let longest = *self.rng.pick(&[20, 80, 300]);
        while self.world().time.elapsed() < until.min(self.nemesis.over()) {
            self.world().pause(i);
            sleep(Duration::from_millis(self.rng.between(1, longest))).await;
            self.world().resume(i);
            sleep(Duration::from_millis(self.rng.between(1, 20))).await;
        }
        true
    }

    async fn slow_disk(&mut self, fault: Fault) -> bool {
        let Some(i) = self.any() else { return false };
        let machine = self.world().slots[i].machine.clone();
        if fault == Fault::StallDisk {
            lock(&machine).disk.stalled_until = self.world().time.elapsed() + self.length;
            return true;
        }
        let before = lock(&machine).disk.job;
        let slow = self.rng.duration(Duration::from_millis(20), Duration::from_millis(600));
        lock(&machine).disk.job = (slow / 4, slow);
        self.nemesis.hold(self.length).await;
        lock(&machine).disk.job = before;
        true
    }

    async fn bad_disk(&mut self, fault: Fault) -> bool {
        let Some(i) = self.any() else { return false };
        let disk = self.world().slots[i].disk.clone();
        let before = disk.counters();
        let excuse = |nemesis: &Nemesis, beyond: Duration| {
            lock(&nemesis.excused).insert(i, nemesis.world.time.elapsed() + beyond);
        };
        let slack = Duration::from_secs(30);
        match fault {
            Fault::FullDisk => {
                excuse(&self.nemesis, self.length + slack);
                disk.set_full(true);
                self.nemesis.hold(self.length).await;
                disk.set_full(false);
            }
            Fault::WriteError => {
                excuse(&self.nemesis, self.length + slack);
                disk.fail_writes(self.rng.between(1, 3));
                self.nemesis.hold(self.length).await;
                disk.fail_writes(0);
            }
            _ => {
                excuse(&self.nemesis, self.length + slack);
                disk.fail_sync();
                self.nemesis.hold(self.length).await;
            }
        }
        let after = disk.counters();
        after.full > before.full || after.errors > before.errors
    }

    /// Says whether all members run, agree on a leader, and are nowhere far behind.
    async fn all_well(&self) -> bool {
        let mut admin = self.nemesis.admin();
        let names = lock(&self.nemesis.members).clone();
        let mut seen = Vec::new();
        for name in &names {
            let Ok(status) = admin.status(name).await else { return false };
            seen.push((status.leader, status.raft_applied_index, status.is_learner));
        }
        let newest = seen.iter().map(|(_, applied, _)| *applied).max().unwrap_or(0);
        seen.iter().all(|(leader, applied, learner)| {
            *leader != 0 && *leader == seen[0].0 && applied + 50 >= newest && !learner
        })
    }

    /// Loses a member's disk, proves that it is not let back in under its old id, and replaces it.
    async fn wipe(&mut self) -> Option<()> {
        let nemesis = self.nemesis.clone();
        let _change = nemesis.membership.try_lock().ok()?;
        if self.slots().len() < 3 || !self.all_well().await {
            return None;
        }
        let i = self.any()?;
        let name = self.world().slots[i].name.clone();
        let mut admin = self.nemesis.admin();
        let status = admin.status(&name).await.ok()?;
        let id = status.header?.member_id;
        lock(&self.nemesis.removed).insert(i);
        self.world().wipe(i).await;
        lock(&self.nemesis.members).retain(|other| *other != name);
        let others = lock(&self.nemesis.members).clone();
        if self.rng.below(2) == 0 {
            self.try_to_come_back(i).await;
        }
        self.leave(&others, id).await;
        self.join(i, &others).await;
        Some(())
    }

    /// A wiped member starts under its old command line: it must not serve.
    async fn try_to_come_back(&mut self, i: usize) {
        self.world().start(i).await;
        let until = self.world().time.elapsed() + Duration::from_secs(5);
        while self.world().time.elapsed() < until {
            sleep(Duration::from_millis(50)).await;
            if self.world().phase(i) == Phase::Serving {
                let name = &self.world().slots[i].name;
                let text = format!("{name} lost its disk and serves under its old id");
                self.nemesis.found.add(Violation::new("wiped-voter-refused", text));
                break;
            }
        }
        self.world().wipe(i).await;
    }

    /// Does a change of members through any member that will do it.
    async fn change<T>(
        &mut self,
        through: &[String],
        act: impl AsyncFn(&mut Admin, &str) -> Result<T, String>,
    ) -> Option<T> {
        let until = self.world().time.elapsed() + CHANGE_LIMIT;
        let mut admin = self.nemesis.admin();
        let mut last = String::new();
        while self.world().time.elapsed() < until && !self.nemesis.found.any() {
            let member = self.rng.pick(through).clone();
            match act(&mut admin, &member).await {
                Ok(done) => return Some(done),
                Err(text) => last = text,
            }
            sleep(Duration::from_millis(200)).await;
        }
        if !self.nemesis.found.any() {
            let text =
                format!("a change of members did not come about in {CHANGE_LIMIT:?}: {last}");
            self.nemesis.found.add(Violation::new("membership-liveness", text));
        }
        None
    }

    /// Removes a member.
    async fn leave(&mut self, through: &[String], id: u64) {
        let gone =
            async |admin: &mut Admin, member: &str| match admin.member_remove(member, id).await {
                // Done by an earlier attempt whose answer got lost.
                Err(text) if text.contains("member not found") => Ok(()),
                other => other,
            };
        self.change(through, gone).await;
    }

    /// Adds a member in an empty slot, starts it, and waits until it is a voter and has caught up.
    async fn join(&mut self, i: usize, others: &[String]) {
        let name = self.world().slots[i].name.clone();
        let url = self.world().peer_url(&name);
        // Until it serves it may refuse to start: whom it asks may be down, or not know of it yet.
        lock(&self.nemesis.removed).insert(i);
        // One member that adds a voter can tell nobody, not even whether it did so, until that one runs.
        let learner = self.rng.below(2) == 0 || others.len() == 1;
        let listed = self.change(others, async |admin, member| {
            // An attempt whose answer got lost may have worked: look before trying again.
            let members = admin.member_list(member).await?;
            if members.iter().any(|m| m.peer_urls.contains(&url)) {
                return Ok(members);
            }
            admin.member_add(member, &url, learner).await.map(|reply| reply.members)
        });
        let Some(listed) = listed.await else { return };
        let id = listed.iter().find(|m| m.peer_urls.contains(&url)).map_or(0, |m| m.id);
        let cluster: Vec<String> = listed
            .iter()
            .filter_map(|m| {
                let url = m.peer_urls.first()?;
                let host = url.split_once("://")?.1.split(':').next()?;
                Some(format!("{host}={url}"))
            })
            .collect();
        if listed.iter().any(|m| m.id == id && m.is_learner) && self.rng.below(2) == 0 {
            self.promote_too_soon(others, id, &url).await;
        }
        // Somebody may have brought the process back meanwhile, as what it was: then it founded a directory.
        self.world().wipe(i).await;
        self.world().prepare_to_join(i, cluster.join(","));
        self.world().start(i).await;
        if listed.iter().any(|m| m.id == id && m.is_learner) {
            let promoted = self.change(others, async |admin, member| {
                let members = admin.member_list(member).await?;
                if members.iter().any(|m| m.id == id && !m.is_learner) {
                    return Ok(());
                }
                admin.member_promote(member, id).await
            });
            promoted.await;
        }
        self.wait_until_it_serves(i).await;
        lock(&self.nemesis.removed).remove(&i);
        lock(&self.nemesis.members).push(name);
        let until = self.world().time.elapsed() + CHANGE_LIMIT;
        while !self.all_well().await
            && self.world().time.elapsed() < until
            && !self.nemesis.found.any()
        {
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Waits until a process serves, as long as a change of members may take.
    async fn wait_until_it_serves(&self, i: usize) {
        let until = self.world().time.elapsed() + CHANGE_LIMIT;
        while self.world().phase(i) != Phase::Serving && self.world().time.elapsed() < until {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A learner whose process was never started must not become a voter: not when asked for, and not by an
    /// update of its URLs.
    async fn promote_too_soon(&mut self, others: &[String], id: u64, url: &str) {
        let mut admin = self.nemesis.admin();
        let through = self.rng.pick(others).clone();
        let asked = if self.rng.below(2) == 0 {
            admin.member_promote(&through, id).await
        } else {
            admin.member_update(&through, id, url).await
        };
        let listed = admin.member_list(&through).await.unwrap_or_default();
        if listed.iter().any(|m| m.id == id && !m.is_learner) {
            let text = format!("{id:x} never ran and is a voter; the answer was {asked:?}");
            self.nemesis.found.add(Violation::new("promotion", text));
        }
    }

    /// Adds a member in a spare slot and removes another one: the cluster moves.
    async fn grow(&mut self) -> Option<()> {
        let nemesis = self.nemesis.clone();
        let _change = nemesis.membership.try_lock().ok()?;
        let spare = (0..self.world().slots.len()).find(|i| !self.slots().contains(i))?;
        if !self.all_well().await {
            return None;
        }
        let others = lock(&self.nemesis.members).clone();
        self.world().wipe(spare).await;
        self.join(spare, &others).await;
        let leaver = *self.rng.pick(&self.slots());
        let name = self.world().slots[leaver].name.clone();
        let mut admin = self.nemesis.admin();
        let status = admin.status(&name).await.ok()?;
        let id = status.header?.member_id;
        lock(&self.nemesis.removed).insert(leaver);
        let through = lock(&self.nemesis.members).clone();
        self.leave(&through, id).await;
        lock(&self.nemesis.members).retain(|other| *other != name);
        self.nemesis.hold(self.length).await;
        self.world().wipe(leaver).await;
        Some(())
    }
}
