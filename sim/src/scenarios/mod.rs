//! Situations written by hand: minimal, each with a name; chance is slow to find the rare.
//!
//! A scenario runs like a seed (fresh thread, own simulation, a judged history), but what happens is
//! written down instead of drawn.

mod damaged_store;
mod disk_loss;
mod durability;
mod forgotten_write;
mod full_disk;
mod leader_kill;
mod learner;
mod removed;
mod removed_leader;
mod slow_snapshot;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use checker::history::What;
use checker::op::{Operation, Put};
use checker::verdict::FinalState;

use crate::admin::Admin;
use crate::disk::Persistence;
use crate::invariants::Violation;
use crate::network::Params;
use crate::plan::{Load, Mask, Plan, Temper, Tuning};
use crate::run::{self, Base, Failure, Options, Outcome, Report};
use crate::time::sleep;
use crate::workload::history::History;
use crate::workload::{number, wire};
use crate::world::{Phase, World};

/// A scenario's result.
pub type Held = Result<Report, Box<Failure>>;

/// All scenarios, by name.
pub const ALL: &[(&str, fn(&Options) -> Held)] = &[
    ("leader-kill", leader_kill::run),
    ("disk-loss", disk_loss::run),
    ("disk-loss-leader", disk_loss::run_leader),
    ("torn-tail", durability::torn_tail),
    ("single-member-power-loss", durability::single_member),
    ("power-loss-in-every-call", durability::every_call),
    ("snapshot-under-compaction", snapshot::run),
    ("full-disk", full_disk::run),
    ("filling-disk", full_disk::filling),
    ("filling-disk-of-one", full_disk::filling_one_of_three),
    ("removed-while-away", removed::run),
    ("removed-leader-thrown-away", removed_leader::run),
    ("promoted-too-soon", learner::promoted_too_soon),
    ("damaged-store", damaged_store::run),
    ("forgotten-write", forgotten_write::run),
    ("slow-snapshot", slow_snapshot::run),
];

/// Plays the scenario of a name, if there is one.
pub fn run(name: &str, options: &Options) -> Option<Held> {
    let (name, scenario) = ALL.iter().find(|(known, _)| *known == name)?;
    Some(scenario(&Options { scenario: Some((*name).to_owned()), ..options.clone() }))
}

/// A plan in which nothing goes wrong by itself.
fn calm(members: u32, seed: u64) -> Plan {
    Plan {
        seed,
        temper: Temper::Calm,
        members,
        tuning: Tuning {
            heartbeat: 100,
            election: 1_000,
            snapshot_count: 10_000,
            catchup: 5_000,
            batch_interval: 100,
            scrub_rows: 1_000,
            scrub_pause: 10,
            progress_interval: 10_000,
            pre_vote: true,
            segment: 64 << 20,
        },
        rough: Duration::ZERO,
        network: Params::default(),
        clocks: Vec::new(),
        disks: Vec::new(),
        faults: Vec::new(),
        overlap: false,
        fault_pause: (0, 0),
        fault_length: (0, 0),
        load: Load {
            clients: 0,
            watchers: 0,
            readers: 0,
            keys: 1,
            value_max: 8,
            think: (1, 1),
            patience: 5_000,
            mix: Vec::new(),
            wander: 0,
            lull: (0, 0),
            ttl: (1, 1),
        },
        buggify: 0,
        mtls: false,
        mask: Mask::default(),
    }
}

/// A stage with members on it, and the one client that acts.
struct Scene {
    world: Arc<World>,
    admin: Admin,
    history: History,
    names: Vec<String>,
    puts: u64,
}

/// What a scenario says when something is not as it must be.
type Act = Result<(), Violation>;

fn must(holds: bool, what: impl Into<String>) -> Act {
    if holds { Ok(()) } else { Err(Violation::new("scenario", what)) }
}

/// Plays a scenario on a plan.
fn play<F>(plan: Plan, options: &Options, act: F) -> Held
where
    F: AsyncFnOnce(&mut Scene) -> Act + Send + 'static,
{
    run::on_fresh_thread(plan, options, move |world, base, _, plan| {
        Box::pin(async move {
            let admin = Admin::new(world.endpoint("director"), Duration::from_secs(5));
            let names = (1..=plan.members).map(|i| format!("m{i}")).collect();
            let history = History::new(world.trace.clone());
            let mut scene = Scene { world: world.clone(), admin, history, names, puts: 0 };
            let result = act(&mut scene).await;
            let result = match result {
                Ok(()) => scene.epilogue().await,
                Err(violation) => Err(violation),
            };
            finish(scene, result, &base).await
        })
    })
}

async fn finish(scene: Scene, result: Result<Vec<FinalState>, Violation>, base: &Base) -> Outcome {
    let mut outcome = Outcome::default();
    match result {
        Ok(states) => outcome.judgement.final_states = states,
        Err(violation) => base.found.add(violation),
    }
    outcome.records = scene.history.take();
    outcome.report = run::figures(&scene.world);
    outcome.states = run::describe(&scene.world, &scene.names).await;
    outcome
}

impl Scene {
    fn at(&self, name: &str) -> usize {
        self.world.slot(name).expect("scenarios name members that exist")
    }

    /// Starts all members and waits until they serve.
    async fn raise(&mut self) -> Act {
        for name in self.names.clone() {
            self.world.start(self.at(&name)).await;
        }
        self.all_serve(Duration::from_secs(30)).await
    }

    async fn all_serve(&mut self, limit: Duration) -> Act {
        let until = self.world.time.elapsed() + limit;
        loop {
            let phases: Vec<Phase> =
                self.names.iter().map(|name| self.world.phase(self.at(name))).collect();
            if phases.iter().all(|phase| *phase == Phase::Serving) {
                return Ok(());
            }
            let ended = phases.iter().any(|phase| matches!(phase, Phase::Ended(_)));
            if ended || self.world.time.elapsed() > until {
                return must(false, format!("members do not serve: {phases:?}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a member's process has ended by itself, and returns how it is doing then.
    async fn end_of(&self, i: usize, limit: Duration) -> Phase {
        let until = self.world.time.elapsed() + limit;
        loop {
            let phase = self.world.phase(i);
            if matches!(phase, Phase::Ended(_)) || self.world.time.elapsed() >= until {
                return phase;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a leader and returns its name.
    async fn leader(&mut self) -> Result<String, Violation> {
        for _ in 0..200 {
            let up: Vec<String> = self
                .names
                .iter()
                .filter(|name| self.world.phase(self.at(name)) == Phase::Serving)
                .cloned()
                .collect();
            if let Some(leader) = self.admin.leader(&up).await {
                return Ok(leader);
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(Violation::new("scenario", "no leader in 10 s"))
    }

    /// Asks a member for its id; 0 if it does not answer.
    async fn id(&mut self, name: &str) -> u64 {
        let status = self.admin.status(name).await;
        status.ok().and_then(|status| status.header).map_or(0, |header| header.member_id)
    }

    /// Waits until the members have been connected for as long as a change of members asks for.
    async fn settle(&self) {
        sleep(Duration::from_secs(6)).await;
    }

    /// Puts a fresh value through a member, once; says whether it was acknowledged.
    async fn put(&mut self, name: &str, key: &str) -> bool {
        self.put_padded(name, key, 0).await.is_ok()
    }

    /// Puts a fresh value, with so many zeros before it, through a member, once; an error says why it was not
    /// acknowledged.
    async fn put_padded(&mut self, name: &str, key: &str, bytes: usize) -> Result<(), String> {
        self.puts += 1;
        let value = format!("{}v{}", "0".repeat(bytes), self.puts);
        let node = number(name);
        let put = Put { key: key.into(), value: value.clone().into(), ..Put::default() };
        self.history.record(1, node, What::Invoke(Operation::Put(put)));
        match self.admin.put(name, key, &value).await {
            Ok(reply) => {
                self.history.record(1, node, What::Ok(wire::put_reply(&reply)));
                Ok(())
            }
            Err(text) => {
                self.history.record(1, node, What::Info(text.clone()));
                Err(text)
            }
        }
    }

    /// Puts through a member until it is acknowledged, and returns how long that took.
    async fn put_until_done(
        &mut self,
        name: &str,
        key: &str,
        limit: Duration,
    ) -> Result<Duration, Violation> {
        let began = self.world.time.elapsed();
        while !self.put(name, key).await {
            let took = self.world.time.elapsed() - began;
            if took > limit {
                let text = format!("no put through {name} was acknowledged in {took:?}");
                return Err(Violation::new("liveness", text));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(self.world.time.elapsed() - began)
    }

    /// Cuts the power of some members in one instant and starts them again.
    async fn power_cycle(&mut self, names: &[String], model: Persistence) -> Act {
        for name in names {
            self.world.power_loss(self.at(name), model).await;
        }
        for name in names {
            self.world.start(self.at(name)).await;
        }
        self.all_serve(Duration::from_secs(60)).await
    }

    /// Whatever the scenario, at its end members are alike, and what they hold is what the history says.
    async fn epilogue(&mut self) -> Result<Vec<FinalState>, Violation> {
        let names = self.names.clone();
        let limit = run::bound(&self.world.plan);
        run::demand(&self.world, &mut self.admin, &names, &self.history, limit).await
    }
}
