//! The plan of a run: everything that the seed decides before the first event.
//!
//! Swarm testing (Groce and others, 2012): a run does not use all kinds of operations and faults with
//! fixed weights; it first draws *which* kinds there are and how often, and what ranges delays and
//! sizes come from. So some seeds know only power losses and tiny values, others only partitions.
//!
//! Chance alone would make nearly every run so rough that nobody is ever answered, and an unanswered
//! client proves nothing. So the first draw is the run's [`Temper`]. In most runs the background is what
//! a cluster is sized for (timeouts that fit the delays and the disks) and the faults are the strikes of
//! the nemesis, with time between them to recover; the rest are rough throughout.
//!
//! A plan prints itself; the verdict of a failed run begins with it.

use std::fmt;
use std::time::Duration;

use crate::network::Params;
use crate::rng::Rng;

/// Everything that is decided beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How rough it is.
    pub temper: Temper,
    /// Members at the beginning: 1, 3 or 5.
    pub members: u32,
    /// What the members are started with.
    pub tuning: Tuning,
    /// How long faults strike.
    pub rough: Duration,
    /// The network while they do.
    pub network: Params,
    /// Each member's clock: offset in milliseconds and rate in millionths.
    pub clocks: Vec<(i64, u32)>,
    /// Each member's disk: the shortest and longest time of a job, in microseconds.
    pub disks: Vec<(u64, u64)>,
    /// The kinds of faults that strike, with weights.
    pub faults: Vec<(Fault, u64)>,
    /// Whether a fault may strike while others last.
    pub overlap: bool,
    /// The pause between two faults (from the end of the one before, unless they overlap), in milliseconds.
    pub fault_pause: (u64, u64),
    /// How long a fault that lasts does, in milliseconds.
    pub fault_length: (u64, u64),
    /// What clients do.
    pub load: Load,
    /// Of a million of the code's rare ways, how many are active: see [`crate::buggify`].
    pub buggify: u32,
    /// Whether everybody speaks TLS with everybody: in one of sixteen runs, since handshakes cost the processor
    /// more than all the rest of a run.
    pub mtls: bool,
    /// What of the faults is left out; nothing, unless somebody makes a failing seed small.
    pub mask: Mask,
}

/// What a failing seed is made to do without (see [`crate::shrink`]): strikes are waited out instead of
/// being dealt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// Only these kinds are dealt.
    pub faults: Option<Vec<Fault>>,
    /// Only these strikes are dealt, by their number in the run, from 0.
    pub strikes: Option<Vec<u64>>,
    /// Whether the run ends with its rough time, without healing and demands.
    pub no_demands: bool,
    /// Whether the code takes none of its rare ways.
    pub no_buggify: bool,
}

impl Mask {
    /// Tells whether a strike is dealt.
    pub fn deals(&self, number: u64, fault: Fault) -> bool {
        self.faults.as_ref().is_none_or(|kept| kept.contains(&fault))
            && self.strikes.as_ref().is_none_or(|kept| kept.contains(&number))
    }
}

/// What a member's command line says beyond names and addresses.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// `--heartbeat-interval`, in milliseconds.
    pub heartbeat: u64,
    /// `--election-timeout`, in milliseconds.
    pub election: u64,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`.
    pub catchup: u64,
    /// `--backend-batch-interval`, in milliseconds.
    pub batch_interval: u64,
    /// `--compaction-batch-limit`.
    pub scrub_rows: u64,
    /// `--compaction-sleep-interval`, in milliseconds.
    pub scrub_pause: u64,
    /// `--watch-progress-notify-interval`, in milliseconds.
    pub progress_interval: u64,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// The length of a file of the log.
    pub segment: u64,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients that read and write.
    pub clients: u32,
    /// Clients that watch.
    pub watchers: u32,
    /// Clients that only read, and hardly pause: what is shown right after a change of leader, they see.
    pub readers: u32,
    /// Keys.
    pub keys: u64,
    /// The longest value.
    pub value_max: u64,
    /// The pause between two operations, in milliseconds.
    pub think: (u64, u64),
    /// How long a client waits for an answer, in milliseconds.
    pub patience: u64,
    /// The kinds of operations, with weights.
    pub mix: Vec<(Kind, u64)>,
    /// Of a million operations, how many go to another member than the one before.
    pub wander: u32,
    /// How often all clients pause together, and for how long, in milliseconds; 0 for never.
    pub lull: (u64, u64),
    /// The shortest and longest TTL asked for, in seconds.
    pub ttl: (i64, i64),
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All kinds.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// Returns its name.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

kinds! {
    /// How rough a run is.
    Temper {
        /// Nothing goes wrong.
        Calm = "calm",
        /// Faults strike a cluster that is well between them.
        Fair = "fair",
        /// Slow links, slow disks, short timeouts and faults without a pause, all at once.
        Brutal = "brutal",
    }
}

kinds! {
    /// The kinds of operations.
    Kind {
        /// Put one key.
        Put = "put",
        /// Read one key or some, linearizably.
        Get = "get",
        /// Read from the member's own state.
        SerializableGet = "serializable-get",
        /// Read at an older revision.
        HistoricalGet = "historical-get",
        /// Delete a key or some.
        Delete = "delete",
        /// Compare and set one key.
        CompareAndSet = "cas",
        /// A transaction over several keys.
        Txn = "txn",
        /// A transaction that only reads.
        ReadTxn = "read-txn",
        /// Grant a lease and hang a key on it.
        Lease = "lease",
        /// Renew a lease.
        KeepAlive = "keep-alive",
        /// Revoke a lease.
        Revoke = "revoke",
        /// Ask what is left of a lease.
        TimeToLive = "time-to-live",
        /// Compact.
        Compact = "compact",
    }
}

kinds! {
    /// The kinds of faults.
    Fault {
        /// One member hears and is heard by nobody.
        IsolateOne = "isolate-one",
        /// The leader is.
        IsolateLeader = "isolate-leader",
        /// Two parts that do not hear one another.
        Halves = "halves",
        /// Each member hears only its neighbours in a ring: every member sees a different majority.
        Ring = "ring",
        /// Two parts that share one member.
        Bridge = "bridge",
        /// One link is cut in one direction.
        OneWay = "one-way",
        /// A member hears nobody, but is heard.
        Deaf = "deaf",
        /// A member is heard by nobody, but hears.
        Mute = "mute",
        /// Links are cut one after the other, and healed in another order.
        Swizzle = "swizzle",
        /// Clients lose their way to a member.
        CutClients = "cut-clients",
        /// Connections between two machines are reset.
        Reset = "reset",
        /// One link is slow.
        SlowLink = "slow-link",
        /// A burst of losses and delays everywhere.
        Storm = "storm",
        /// A process is killed, and started again.
        Kill = "kill",
        /// The leader's is.
        KillLeader = "kill-leader",
        /// All are.
        KillAll = "kill-all",
        /// One is, again and again.
        RestartStorm = "restart-storm",
        /// A process is stopped by SIGTERM, and started again.
        Stop = "stop",
        /// A process gets no processor for a while.
        Pause = "pause",
        /// The leader's gets none for longer than leases and elections last.
        PauseLeader = "pause-leader",
        /// A process dies in the n-th disk call from now.
        DieInCall = "die-in-call",
        /// A process dies at a crash point.
        DieAtPoint = "die-at-point",
        /// A machine loses its power.
        PowerLoss = "power-loss",
        /// All do.
        PowerLossAll = "power-loss-all",
        /// A machine loses its power in the n-th disk call from now.
        PowerLossInCall = "power-loss-in-call",
        /// A disk is slow.
        SlowDisk = "slow-disk",
        /// A disk does nothing for a while.
        StallDisk = "stall-disk",
        /// A disk is full for a while.
        FullDisk = "full-disk",
        /// Writes fail.
        WriteError = "write-error",
        /// A sync fails.
        SyncError = "sync-error",
        /// A disk is lost; the member is removed, and another takes its place.
        Wipe = "wipe",
        /// A member is added as a learner, promoted, and another removed.
        Grow = "grow",
        /// Leadership is moved.
        MoveLeader = "move-leader",
        /// A wall clock jumps.
        ClockJump = "clock-jump",
        /// A clock's rate changes (with the next start).
        ClockRate = "clock-rate",
        /// A wall clock stands still for a while.
        ClockFreeze = "clock-freeze",
        /// A process gets the processor only now and then.
        SlowCpu = "slow-cpu",
        /// A machine loses its power in the n-th sync from now: between a write and its durability.
        PowerLossInSync = "power-loss-in-sync",
        /// Reads fail while a process starts.
        ReadError = "read-error",
        /// A bit is flipped in what is read while a process starts.
        RotOnRead = "rot-on-read",
        /// A bit of the log at rest is flipped.
        RotAtRest = "rot-at-rest",
        /// A bit is flipped in what is written to the log.
        RotOnWrite = "rot-on-write",
        /// A write to the log lands elsewhere in its file.
        MisdirectedWrite = "misdirected-write",
        /// A write to the log is lost, and nobody says so.
        LostWrite = "lost-write",
        /// A file of the log is cut off.
        TruncatedFile = "truncated-file",
        /// An operator raises an alarm that keeps writes out, and takes it back.
        Alarm = "alarm",
    }
}

/// Draws with an emphasis on the small: a range of orders of magnitude first.
fn skewed(rng: &mut Rng, low: u64, high: u64) -> u64 {
    let mut high = high;
    while high > low * 2 && rng.below(2) == 0 {
        high /= 2;
    }
    rng.between(low, high.max(low))
}

/// Draws a range within bounds.
fn range(rng: &mut Rng, low: u64, high: u64) -> (u64, u64) {
    let (a, b) = (skewed(rng, low, high), skewed(rng, low, high));
    (a.min(b), a.max(b))
}

/// Draws which kinds there are, and their weights; at least one.
fn some<T: Copy>(rng: &mut Rng, all: &[T], per_million: u32) -> Vec<(T, u64)> {
    let mut chosen: Vec<(T, u64)> =
        all.iter().filter(|_| rng.chance(per_million)).map(|kind| (*kind, 1)).collect();
    if chosen.is_empty() {
        chosen.push((*rng.pick(all), 1));
    }
    for (_, weight) in &mut chosen {
        *weight = rng.between(1, 8);
    }
    chosen
}

impl Plan {
    /// Draws a run's plan.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, "plan");
        let temper = match rng.below(20) {
            0 => Temper::Calm,
            1..=15 => Temper::Fair,
            _ => Temper::Brutal,
        };
        let brutal = temper == Temper::Brutal;
        let members = *rng.pick(&[1, 3, 3, 3, 3, 3, 3, 3, 5, 5]);
        let density = *rng.pick(&[100_000, 250_000, 500_000, 900_000]);
        let mut faults = some(rng, Fault::ALL, density);
        if temper == Temper::Calm {
            faults.clear();
        }
        // It needs five members, so it is dealt oftener there.
        for (_, weight) in faults.iter_mut().filter(|(f, _)| members == 5 && *f == Fault::Ring) {
            *weight *= 8;
        }
        let network = draw_network(rng, brutal);
        let buggify = match temper {
            Temper::Calm => 0,
            _ => *Rng::new(seed, "buggify").pick(&[0, 50_000, 150_000, 400_000]),
        };
        let disk_longest = if brutal { 20_000 } else { *rng.pick(&[500, 2_000, 2_000, 10_000]) };
        let drift = *rng.pick(&[0, 0, 1_000, 50_000]);
        let offset = *rng.pick(&[0, 500, 60_000, 86_400_000]);
        let mut clocks = Vec::new();
        let mut disks = Vec::new();
        for _ in 0..members {
            let shift = i64::try_from(rng.below(2 * offset + 1)).unwrap_or(0)
                - i64::try_from(offset).unwrap_or(0);
            let rate = 1_000_000 - drift + rng.below(2 * drift + 1);
            clocks.push((shift, u32::try_from(rate).unwrap_or(1_000_000)));
            disks.push(range(rng, 50, disk_longest));
        }
        // A step of the protocol is a message there and back and a write on each side of it.
        let step = 2 * network.delay.1 + 2 * Duration::from_micros(disk_longest);
        Self {
            seed,
            temper,
            members,
            tuning: Tuning::draw(rng, if brutal { Duration::ZERO } else { step }),
            rough: Duration::from_millis(rng.between(6_000, 24_000)),
            network,
            clocks,
            disks,
            faults,
            overlap: brutal || rng.below(4) == 0,
            fault_pause: if brutal { range(rng, 50, 1_500) } else { range(rng, 300, 4_000) },
            fault_length: range(rng, 100, if brutal { 8_000 } else { 3_000 }),
            load: Load::draw(rng, brutal),
            buggify,
            mtls: Rng::new(seed, "tls").below(16) == 0,
            mask: Mask::default(),
        }
    }

    /// By how much the members' clocks may differ in rate from the simulation's, in millionths.
    pub fn drift_max(&self) -> u64 {
        let of = |rate: u32| u64::from(rate.abs_diff(1_000_000));
        let drawn = self.clocks.iter().map(|(_, rate)| of(*rate)).max().unwrap_or(0);
        let changes = self.faults.iter().any(|(fault, _)| *fault == Fault::ClockRate);
        if changes { drawn.max(CLOCK_RATE_CHANGE) } else { drawn }
    }
}

/// By how much [`Fault::ClockRate`] changes a rate at the most, in millionths.
pub const CLOCK_RATE_CHANGE: u64 = 50_000;

fn draw_network(rng: &mut Rng, brutal: bool) -> Params {
    // One machine room, one city, or far apart.
    let longest = *rng.pick(&[1_000, 1_000, 4_000, 4_000, 20_000]);
    let (low, high) = range(rng, 50, if brutal { 20_000 } else { longest });
    let (tails, tail_longest, losses): (&[u32], u64, &[u32]) = if brutal {
        (&[0, 5_000, 50_000], 1_500, &[0, 1_000, 10_000, 50_000])
    } else {
        (&[0, 0, 200, 2_000], 300, &[0, 0, 100, 1_000])
    };
    Params {
        delay: (Duration::from_micros(low), Duration::from_micros(high)),
        tail: (*rng.pick(tails), Duration::from_millis(rng.between(10, tail_longest))),
        loss: *rng.pick(losses),
        retransmit: Duration::from_millis(rng.between(20, 300)),
        give_up: Duration::from_secs(skewed(rng, 1, 20)),
        window: *rng.pick(&[16 << 10, 256 << 10, 4 << 20]),
        segment: *rng.pick(&[1_400, 16 << 10, 64 << 10, 1 << 20]),
    }
}

impl Tuning {
    /// Draws; an election timeout is to hold ten `step`s.
    fn draw(rng: &mut Rng, step: Duration) -> Self {
        let least = u64::try_from(step.as_millis()).unwrap_or(0);
        let heartbeat = (*rng.pick(&[20, 50, 100, 100])).max(least);
        Self {
            heartbeat,
            election: heartbeat * *rng.pick(if least == 0 { &[5, 10, 20] } else { &[10, 10, 20] }),
            snapshot_count: skewed(rng, 5, 10_000),
            // So few that whoever was away for a moment needs a snapshot, in a third of the runs.
            catchup: if rng.below(3) == 0 { rng.between(1, 20) } else { skewed(rng, 1, 5_000) },
            batch_interval: skewed(rng, 5, 500),
            scrub_rows: skewed(rng, 1, 1_000),
            scrub_pause: skewed(rng, 1, 20),
            progress_interval: skewed(rng, 200, 10_000),
            pre_vote: rng.chance(900_000),
            // Mostly so short that some end within the run.
            segment: *rng.pick(&[64 << 10, 64 << 10, 256 << 10, 256 << 10, 1 << 20, 64 << 20]),
        }
    }
}

impl Load {
    fn draw(rng: &mut Rng, brutal: bool) -> Self {
        let density = *rng.pick(&[300_000, 600_000, 900_000]);
        let mut mix = some(rng, Kind::ALL, density);
        // A run in which nothing is written judges nothing.
        mix.push((Kind::Put, rng.between(4, 12)));
        mix.push((Kind::Get, rng.between(1, 8)));
        let value_longest = *rng.pick(&[64, 64, 2_000, 40_000]);
        let hurry = *rng.pick(&[50, 100, 200]);
        let shortest = i64::try_from(rng.between(1, 3)).unwrap_or(1);
        Self {
            clients: u32::try_from(rng.between(2, 8)).unwrap_or(2),
            watchers: u32::try_from(rng.below(4) + rng.below(2)).unwrap_or(0),
            readers: *rng.pick(&[0, 0, 0, 2]),
            keys: skewed(rng, 1, 60),
            value_max: skewed(rng, 8, value_longest),
            think: range(rng, 2, hurry),
            patience: if brutal { rng.between(300, 8_000) } else { rng.between(1_000, 6_000) },
            mix,
            wander: *rng.pick(&[0, 50_000, 300_000, 1_000_000]),
            lull: *rng.pick(&[(0, 0), (0, 0), (2_000, 700), (6_000, 3_000)]),
            ttl: (shortest, shortest + i64::try_from(rng.below(8)).unwrap_or(0)),
        }
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[(T, u64)]) -> fmt::Result {
    for (i, (item, weight)) in items.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{item}×{weight}")?;
    }
    Ok(())
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuning { heartbeat, election, snapshot_count, catchup, .. } = self.tuning;
        writeln!(
            f,
            "seed {}: {}, {} members, {:?} of faults; heartbeat {heartbeat} ms, election {election} ms, \
             snapshot every {snapshot_count}, catch-up {catchup}, commit every {} ms, scrub {} rows \
             every {} ms, progress every {} ms, pre-vote {}, log files of {} B",
            self.seed,
            self.temper,
            self.members,
            self.rough,
            self.tuning.batch_interval,
            self.tuning.scrub_rows,
            self.tuning.scrub_pause,
            self.tuning.progress_interval,
            self.tuning.pre_vote,
            self.tuning.segment,
        )?;
        writeln!(f, "  network {:?}", self.network)?;
        writeln!(f, "  clocks (ms, ppm) {:?}; disks (µs) {:?}", self.clocks, self.disks)?;
        let alone = if self.overlap { "" } else { ", one at a time" };
        let (pause, length) = (self.fault_pause, self.fault_length);
        write!(f, "  faults every {pause:?} ms for {length:?} ms{alone}: ")?;
        list(f, &self.faults)?;
        write!(f, "; {} of a million rare ways", self.buggify)?;
        if self.mtls {
            write!(f, "; mTLS")?;
        }
        if self.mask != Mask::default() {
            write!(f, "; of those only {:?}", self.mask)?;
        }
        let load = &self.load;
        write!(
            f,
            "\n  {} clients, {} watchers, {} readers, {} keys, values to {} B, think {:?} ms, patience {} ms, \
             wander {} ppm, lulls {:?} ms, TTL {:?} s: ",
            load.clients,
            load.watchers,
            load.readers,
            load.keys,
            load.value_max,
            load.think,
            load.patience,
            load.wander,
            load.lull,
            load.ttl
        )?;
        list(f, &load.mix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_always_draws_the_same_plan_and_seeds_differ() {
        let plans: BTreeSet<String> = (0..200).map(|seed| Plan::draw(seed).to_string()).collect();
        assert_eq!(plans.len(), 200);
        assert_eq!(Plan::draw(7).to_string(), Plan::draw(7).to_string());
    }

    #[test]
    fn in_most_plans_the_timeouts_fit_the_delays_and_the_disks() {
        let fits = |seed: &u64| {
            let plan = Plan::draw(*seed);
            let disk = plan.disks.iter().map(|(_, longest)| *longest).max().unwrap_or(0);
            let step = 2 * plan.network.delay.1 + 2 * Duration::from_micros(disk);
            Duration::from_millis(plan.tuning.election) >= 10 * step
        };
        let fitting = (0..500).filter(fits).count();
        assert!((375..500).contains(&fitting), "{fitting} of 500");
    }

    #[test]
    fn every_kind_of_fault_and_operation_is_in_at_least_a_tenth_of_the_plans() {
        for fault in Fault::ALL {
            let with = |seed: &u64| Plan::draw(*seed).faults.iter().any(|(f, _)| f == fault);
            assert!((0..500).filter(with).count() > 50, "{fault}");
        }
        for kind in Kind::ALL {
            let with = |seed: &u64| Plan::draw(*seed).load.mix.iter().any(|(k, _)| k == kind);
            assert!((0..500).filter(with).count() > 50, "{kind}");
        }
    }
}
