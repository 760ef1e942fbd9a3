//! Everything a seed decides before the first step. Ranges are drawn too (*swarm testing*, Groce et
//! al. 2012): most seeds lack some fault altogether or have a lot of one, since a mixture of all at
//! middling strength hides the rest behind the worst.

use mainstay::raft::Random;

/// Draws on top of the core's generator.
pub(super) trait Draw {
    /// A number from `low` to `high`, both included.
    fn within(&mut self, low: u64, high: u64) -> u64;
    /// True `per_million` times in a million.
    fn chance(&mut self, per_million: u64) -> bool;
    /// One of a slice.
    fn pick<T: Copy>(&mut self, from: &[T]) -> T;
    /// A place in a collection of `len`.
    fn slot(&mut self, len: usize) -> usize;
}

impl Draw for Random {
    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn chance(&mut self, per_million: u64) -> bool {
        self.below(1_000_000) < per_million
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.slot(from.len())]
    }

    fn slot(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a length fits 64 bits");
        usize::try_from(self.below(len)).expect("below a usize")
    }
}

/// The parameters of one seed. Times in microseconds, chances in millionths.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Founding voters.
    pub founders: u64,
    /// Nodes that run, founders and strangers.
    pub universe: u64,
    /// Length of a tick, before a node's own skew.
    pub tick: u64,
    /// Skew of each node's tick, at most, in thousandths.
    pub skew: u64,
    /// `Config::election_ticks`.
    pub election_ticks: u32,
    /// `Config::heartbeat_ticks`.
    pub heartbeat_ticks: u32,
    /// `Config::pre_vote`.
    pub pre_vote: bool,
    /// `Config::hasty_start`.
    pub hasty_start: bool,
    /// `Config::append_bytes_max`.
    pub append_bytes_max: u64,
    /// `Config::inflight_max`.
    pub inflight_max: usize,
    /// `Config::inflight_bytes_max`.
    pub inflight_bytes_max: u64,
    /// `Config::uncommitted_bytes_max`.
    pub uncommitted_bytes_max: u64,
    /// `Config::committed_entries_max`.
    pub committed_entries_max: usize,
    /// Length of the phase with faults, in election timeouts.
    pub rough_timeouts: u64,
    /// Chance that a message is lost.
    pub loss: u64,
    /// Chance that it arrives twice.
    pub duplicate: u64,
    /// Usual delay, at most.
    pub delay: u64,
    /// Chance of a very late arrival.
    pub late: u64,
    /// How late, at most.
    pub late_delay: u64,
    /// Usual time of a write, at most.
    pub disk: u64,
    /// Chance that a write takes much longer.
    pub disk_stall: u64,
    /// How much longer, at most.
    pub disk_stall_time: u64,
    /// Applying takes this long, at most; 0 applies at once.
    pub apply: u64,
    /// Between two client operations, on average.
    pub client: u64,
    /// Largest command.
    pub command_bytes: u64,
    /// Of a thousand client operations: reads.
    pub reads: u64,
    /// Of a thousand client operations: membership changes.
    pub changes: u64,
    /// Of a thousand client operations: transfers.
    pub transfers: u64,
    /// Between two faults, on average.
    pub fault: u64,
    /// Faults that this seed has, each with its weight.
    pub faults: Vec<(Fault, u64)>,
    /// Chance that a broken connection is reported.
    pub reset: u64,
    /// Between two checkpoints of a node's machine, on average.
    pub checkpoint: u64,
    /// Entries kept in memory behind the applied one at a checkpoint.
    pub keep: u64,
    /// Time to carry a snapshot, at most.
    pub snapshot: u64,
    /// Chance that a driver lets work queue after a step.
    pub lazy: u64,
    /// Chance that a hand-over is torn rather than lost at a crash.
    pub torn: u64,
    /// Who lies in wait for leaders and voters.
    pub ambush: Ambush,
    /// Whether the storm is written down for the public spec ([`Plan::for_spec`]): then a power loss
    /// takes nothing that was handed to a disk, and messages that the spec does not know are lost.
    pub recorded: bool,
}

/// Faults at the moments that matter. Blind chance seldom cuts a leader off between its election and
/// its first commit, let alone three leaders in a row, which is what the schedule of Raft's figure 8
/// takes (mutants.md, R01). Chances in millionths; most seeds have none of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ambush {
    /// Chance that only a few, or nobody, hear a new leader, from the moment of its election on.
    pub election: u64,
    /// Chance that a leader is cut off, or dies, at the moment of its first commit.
    pub commit: u64,
    /// Chance that a voter loses power just after its yes has left, and is back within a tick or two.
    pub vote: u64,
}

/// What may happen to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two halves that do not hear one another.
    Split,
    /// Some links pass one way only.
    OneWay,
    /// Each node hears its two neighbours in a ring.
    Ring,
    /// The leader alone is cut off.
    LeaderAlone,
    /// One node hears all, the others only it.
    Hub,
    /// All links work again.
    Heal,
    /// Power loss, and a restart later.
    Kill,
    /// Power loss of a majority at once.
    KillMany,
    /// A node stands still and goes on later.
    Pause,
    /// One disk is slow for a while.
    SlowDisk,
    /// A connection breaks and comes back.
    Reset,
    /// One kind of message from one node is lost until the links heal.
    Mute,
    /// What one node says is heard a second time, much later.
    Echo,
}

impl Ambush {
    fn draw(rng: &mut Random) -> Self {
        let mut ambush = Self::default();
        if rng.chance(300_000) {
            ambush.election = rng.pick(&[300_000, 800_000]);
            ambush.commit = rng.pick(&[100_000, 300_000, 800_000]);
        }
        if rng.chance(200_000) {
            ambush.vote = rng.pick(&[50_000, 300_000]);
        }
        ambush
    }
}

impl Plan {
    /// Draws everything.
    pub fn draw(rng: &mut Random) -> Self {
        let founders = rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 7]);
        let strangers = rng.pick(&[0, 0, 1, 1, 2, 3]);
        let tick = rng.pick(&[5_000, 10_000, 20_000, 50_000]);
        let election_ticks = rng.pick(&[5u32, 8, 10, 10, 16]);
        let heartbeat_ticks = rng.pick(&[1u32, 1, 1, 2]);
        let timeout = tick * u64::from(election_ticks);
        // Half the seeds have each nuisance, and those have it to very different degrees.
        let mut maybe = |of: &[u64]| if rng.chance(500_000) { rng.pick(of) } else { 0 };
        let loss = maybe(&[1_000, 10_000, 50_000, 150_000]);
        let duplicate = maybe(&[1_000, 20_000, 100_000]);
        let late = maybe(&[1_000, 10_000, 50_000, 100_000]);
        let disk_stall = maybe(&[1_000, 10_000, 100_000]);
        let apply = maybe(&[tick / 2, tick * 3, timeout]);
        let changes = maybe(&[5, 30, 100]);
        let transfers = maybe(&[3, 20]);
        let torn = maybe(&[300_000, 1_000_000]);
        let lazy = maybe(&[50_000, 400_000]);
        let ambush = Ambush::draw(rng);
        // An entry at a time is how the tail of an old term is acknowledged without the new one's.
        let sips = ambush.election > 0 && rng.chance(700_000);
        let kinds = [
            Fault::Split,
            Fault::OneWay,
            Fault::Ring,
            Fault::LeaderAlone,
            Fault::Hub,
            Fault::Kill,
            Fault::KillMany,
            Fault::Pause,
            Fault::SlowDisk,
            Fault::Reset,
            Fault::Mute,
            Fault::Echo,
        ];
        let mut faults = vec![(Fault::Heal, rng.within(1, 4))];
        for kind in kinds {
            if rng.chance(600_000) {
                faults.push((kind, rng.within(1, 4)));
            }
        }
        Self {
            founders,
            universe: founders + strangers,
            tick,
            skew: rng.pick(&[0, 20, 200]),
            election_ticks,
            heartbeat_ticks,
            pre_vote: rng.chance(800_000),
            append_bytes_max: if sips { 1 } else { rng.pick(&[1, 300, 2_000, 1 << 20]) },
            inflight_max: if sips { 1 } else { rng.pick(&[1, 2, 4, 16, 64]) },
            inflight_bytes_max: rng.pick(&[200, 4_000, 1 << 20]),
            uncommitted_bytes_max: rng.pick(&[500, 20_000, 1 << 20]),
            committed_entries_max: rng.pick(&[1, 2, 8, 1_000]),
            rough_timeouts: rng.within(15, 60),
            loss,
            duplicate,
            delay: rng.pick(&[tick / 20, tick / 4, tick, tick * 3]),
            late,
            late_delay: rng.pick(&[timeout / 2, timeout * 2, timeout * 6]),
            disk: rng.pick(&[tick / 50, tick / 10, tick / 2, tick * 2]),
            disk_stall,
            disk_stall_time: rng.pick(&[timeout / 3, timeout, timeout * 4]),
            apply,
            client: rng.pick(&[tick / 3, tick, tick * 4]),
            command_bytes: rng.pick(&[8, 60, 400]),
            reads: rng.pick(&[0, 100, 400]),
            changes,
            transfers,
            fault: rng.pick(&[timeout / 2, timeout, timeout * 3]),
            faults,
            reset: rng.pick(&[0, 500_000, 1_000_000]),
            checkpoint: rng.pick(&[timeout / 4, timeout, timeout * 5]),
            keep: rng.pick(&[0, 2, 20, 1_000]),
            snapshot: rng.pick(&[tick, timeout / 2, timeout * 2]),
            lazy,
            torn,
            ambush,
            hasty_start: rng.chance(500_000),
            recorded: false,
        }
    }

    /// What the public spec can follow: see [`super::tla`] for what is left out, and why. A short storm
    /// with few heartbeats, since the spec is checked line by line.
    pub fn for_spec(rng: &mut Random) -> Self {
        let founders = rng.pick(&[1, 3, 3, 3, 3, 3, 3, 5]);
        let mut plan = Self::draw(rng);
        let timeout = plan.timeout();
        plan.faults.retain(|(fault, _)| *fault != Fault::Echo);
        Self {
            founders,
            universe: founders,
            pre_vote: false,
            heartbeat_ticks: plan.election_ticks / 3,
            rough_timeouts: rng.within(8, 20),
            duplicate: 0,
            changes: 0,
            lazy: 0,
            torn: 0,
            keep: u64::MAX,
            client: rng.pick(&[timeout / 8, timeout / 3]),
            reads: rng.pick(&[0, 100]),
            recorded: true,
            ..plan
        }
    }

    /// The load by which the storm's speed is told, whatever else the seed says: three members with
    /// etcd's timing, 10 operations a second, a fault of any kind every ten seconds, for ten minutes.
    pub fn standard(rng: &mut Random) -> Self {
        let tick = 100_000;
        let timeout = tick * 10;
        let kinds = [
            Fault::Heal,
            Fault::Split,
            Fault::OneWay,
            Fault::LeaderAlone,
            Fault::Kill,
            Fault::KillMany,
            Fault::Pause,
            Fault::SlowDisk,
            Fault::Reset,
        ];
        Self {
            founders: 3,
            universe: 3,
            tick,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            hasty_start: true,
            append_bytes_max: 1 << 20,
            inflight_max: 64,
            inflight_bytes_max: 1 << 20,
            uncommitted_bytes_max: 1 << 20,
            committed_entries_max: 1_000,
            rough_timeouts: 600,
            loss: 1_000,
            duplicate: 1_000,
            delay: 5_000,
            late: 1_000,
            late_delay: timeout,
            disk: 5_000,
            disk_stall: 1_000,
            disk_stall_time: timeout,
            apply: 0,
            client: tick,
            command_bytes: 60,
            reads: 100,
            changes: 0,
            transfers: 3,
            fault: timeout * 10,
            faults: kinds.iter().map(|kind| (*kind, 1)).collect(),
            reset: 500_000,
            checkpoint: timeout * 5,
            keep: 1_000,
            snapshot: timeout / 2,
            lazy: 50_000,
            torn: 300_000,
            ambush: Ambush::default(),
            ..Self::draw(rng)
        }
    }

    /// Returns the longest time by which an echo comes after what it repeats.
    pub fn echo_longest(&self) -> u64 {
        self.timeout() * 4
    }

    /// Returns the shortest election timeout.
    pub fn timeout(&self) -> u64 {
        self.tick * u64::from(self.election_ticks)
    }
}
