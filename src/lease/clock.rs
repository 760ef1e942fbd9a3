//! The leader's clock for leases: when each runs out, which renewals are granted, what to propose.
//!
//! A plain struct. Time is passed in as a duration since any fixed origin and never goes back; what comes
//! out are [`Proposal`]s for the shell to put into the log. The clock runs from the moment this member has
//! applied the first entry of its own term (everything that earlier leaders began is then decided) until
//! it learns that it leads no more.
//!
//! A lease is in one of these states:
//!
//! ```text
//!            renew                       deadline passes, poll
//!   ┌──────────────────────── alive ───────────────────────────→ ending ──→ Revoked: gone
//!   └→ needs a reset first? ──→ resetting ──→ alive, renewed        │
//!      (what is left stands in the table)                           └─────→ Spared, or never proposed: alive
//! ```
//!
//! Invariants
//! - No renewal is granted in state ending, nor once the deadline has passed.
//! - No renewal is granted while the table holds, or may be about to hold, an end for the lease: a
//!   successor would go by that end and end the lease early.
//! - Every lease that is not ending and whose end is not in the table stands in the report queue exactly once.
//! - While any end is in the table, lease time is written down again at least once in [`Clock::tick`].
//! - A lease has at most one expiry and one reset in flight, and no end is proposed behind a reset.
//! - Every lease that is not ending stands in the expiry queue exactly once: under its deadline, or later
//!   when an expiry came to nothing and is tried again.
//!
//! What it costs: some 150 bytes a lease, O(log leases) an operation; nothing for leases nobody touches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::{Change, Lease, Leases, seconds};
use crate::types::{Index, LeaseId, Term};

/// How the clock proposes.
#[derive(Clone, Copy, Debug)]
pub struct ClockOptions {
    /// How many expiries one [`Clock::poll`] proposes at most.
    pub expiries_per_poll_max: usize,
    /// How many leases one checkpoint entry names at most.
    pub checkpoint_leases_max: usize,
    /// The end of a lease is written down when half its TTL has passed without a renewal, and after this
    /// at the latest.
    pub report_after_max: Duration,
    /// Lease time is written down at most this often, however short the leases whose end is.
    pub tick_min: Duration,
    /// ... and at least this often, however long.
    pub tick_max: Duration,
    /// How long an expiry that came to nothing is not tried again.
    pub expiry_retry: Duration,
}

impl Default for ClockOptions {
    fn default() -> Self {
        Self {
            expiries_per_poll_max: 500,
            checkpoint_leases_max: 1000,
            report_after_max: Duration::from_secs(60),
            tick_min: Duration::from_secs(1),
            tick_max: Duration::from_secs(30),
            expiry_retry: Duration::from_secs(1),
        }
    }
}

/// Something to be put into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// End this lease. One an entry, since each has a revision of its own.
    Expire {
        /// The leader's term.
        term: Term,
        /// Which lease.
        id: LeaseId,
        /// Which grant of it.
        mark: Index,
    },
    /// Write down where lease time stands, and what is left of these leases then, in milliseconds (0: all
    /// of it again).
    Checkpoint {
        /// The leader's term.
        term: Term,
        /// Lease time, in milliseconds.
        time_millis: u64,
        /// The leases, their grants, what is left.
        leases: Vec<(LeaseId, Index, u64)>,
    },
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for its whole TTL again.
    Renewed {
        /// The TTL in seconds.
        ttl: i64,
    },
    /// There is no such lease (the client is told TTL 0).
    Gone,
    /// Not decided yet: an entry that concerns the lease has to be applied first. Poll, and ask again once a
    /// [`Change`] of this lease was seen.
    Wait,
    /// This member does not lead.
    NotLeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    /// An expiry is in the log's hands.
    Ending,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    ttl: Duration,
    ttl_seconds: i64,
    mark: Index,
    deadline: Duration,
    /// When its expiry is to be proposed; in the expiry queue under this. Not before the deadline.
    due: Duration,
    state: State,
    /// The table holds its end.
    reported: bool,
    /// When its end is to be written down; in the report queue under this.
    report_at: Duration,
    /// How many checkpoints with its end are in flight.
    reporting: u32,
    /// A renewal waits for a reset: asked for, or in flight.
    reset: Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    No,
    Wanted,
    InFlight,
}

/// The clock. See the module's text.
#[derive(Debug)]
pub struct Clock {
    options: ClockOptions,
    /// The term this member leads in, if it leads.
    term: Option<Term>,
    /// When the clock was started, and the lease time of then.
    started: (Duration, Duration),
    /// When lease time was last proposed to be written down.
    ticked: Duration,
    timers: BTreeMap<LeaseId, Timer>,
    /// The leases whose end the table holds, by TTL.
    reported: BTreeSet<(Duration, LeaseId)>,
    expiries: BTreeSet<(Duration, LeaseId)>,
    reports: BTreeSet<(Duration, LeaseId)>,
    resets: BTreeSet<LeaseId>,
}

impl Clock {
    /// Makes a clock that stands still.
    pub fn new(options: ClockOptions) -> Self {
        Self {
            options,
            term: None,
            started: (Duration::ZERO, Duration::ZERO),
            ticked: Duration::ZERO,
            timers: BTreeMap::new(),
            reported: BTreeSet::new(),
            expiries: BTreeSet::new(),
            reports: BTreeSet::new(),
            resets: BTreeSet::new(),
        }
    }

    /// Starts the clock: this member has applied the first entry of the term that it leads. Each lease lives
    /// for what the table says is left, counted from now: lease time goes on from where the table has it.
    pub fn lead(&mut self, term: Term, now: Duration, leases: &Leases) {
        self.stop();
        self.term = Some(term);
        self.started = (now, leases.time());
        self.ticked = now;
        for (id, lease) in leases.iter() {
            self.start(id, lease, now);
        }
    }

    /// Stops the clock: this member leads no more. Waiting renewals are answered [`Renewal::NotLeader`] when
    /// they ask again.
    pub fn stop(&mut self) {
        *self = Self::new(self.options);
    }

    /// Returns the term the clock runs in.
    pub fn leads(&self) -> Option<Term> {
        self.term
    }

    /// Follows what an applied entry did to a lease.
    pub fn on(&mut self, change: &Change, now: Duration) {
        if self.term.is_none() {
            return;
        }
        match change {
            Change::Granted(id, lease) => self.start(*id, lease, now),
            Change::Revoked(id) => {
                self.remove(*id);
            }
            Change::Checkpointed(id, lease) => self.on_checkpoint(*id, lease, now),
            Change::Spared(id) => self.revive(*id, now),
        }
    }

    /// Takes back a proposal that the node refused to take: it is certain not to come to anything.
    pub fn refused(&mut self, proposal: &Proposal, now: Duration) {
        if self.term != Some(proposal.term()) {
            return;
        }
        match proposal {
            Proposal::Expire { id, .. } => self.revive(*id, now),
            Proposal::Checkpoint { leases, .. } => {
                // NB: lease time, if it was in there, waits for its next turn.
                for (id, _, millis) in leases {
                    let Some(timer) = self.timers.get_mut(id) else { continue };
                    if *millis == 0 {
                        timer.reset = Reset::Wanted;
                        self.resets.insert(*id);
                    } else {
                        timer.reporting = timer.reporting.saturating_sub(1);
                    }
                }
            }
        }
    }

    /// Renews a lease, or says why not yet. The shell has made sure, after the request came in, that this
    /// member still leads.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Renewal {
        if self.term.is_none() {
            return Renewal::NotLeader;
        }
        let Some(timer) = self.timers.get_mut(&id) else { return Renewal::Gone };
        let over = timer.state == State::Ending || timer.deadline <= now;
        if over && !crate::mutant!("E23") {
            return Renewal::Wait;
        }
        if timer.reported || timer.reporting > 0 || timer.reset != Reset::No {
            if timer.reset == Reset::No {
                timer.reset = Reset::Wanted;
                self.resets.insert(id);
            }
            return Renewal::Wait;
        }
        let (old_due, old_report) = (timer.due, timer.report_at);
        timer.deadline = now + timer.ttl;
        timer.due = timer.deadline;
        timer.report_at = report_at(now, timer.ttl, &self.options);
        let ttl = timer.ttl_seconds;
        if timer.state == State::Alive {
            self.expiries.remove(&(old_due, id));
            self.expiries.insert((timer.due, id));
            self.reports.remove(&(old_report, id));
            self.reports.insert((timer.report_at, id));
        }
        Renewal::Renewed { ttl }
    }

    /// Returns how long a lease still lives; zero when its time is over but its end is not applied yet.
    pub fn remaining(&self, id: LeaseId, now: Duration) -> Option<Duration> {
        self.timers.get(&id).map(|timer| timer.deadline.saturating_sub(now))
    }

    /// Returns all leases, the one with the least time left first.
    pub fn by_remaining(&self) -> Vec<LeaseId> {
        let mut leases: Vec<_> = self.timers.iter().map(|(id, t)| (t.deadline, *id)).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns when [`poll`](Self::poll) next has something to say, if nothing else happens. A moment that
    /// has passed means now; the shell leaves some milliseconds between two polls, so that a refused
    /// proposal is not a busy loop and many leases share one turn.
    pub fn next_poll(&self) -> Option<Duration> {
        if !self.resets.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = |queue: &BTreeSet<(Duration, LeaseId)>| queue.first().map(|(at, _)| *at);
        let moments = [first(&self.expiries), first(&self.reports), self.next_tick()];
        moments.into_iter().flatten().min()
    }

    /// How far lease time in the table may lag: an eighth of the shortest TTL of all the leases that go by
    /// it, within bounds.
    pub fn tick(&self) -> Option<Duration> {
        let (shortest, _) = self.reported.first()?;
        Some((*shortest / 8).clamp(self.options.tick_min, self.options.tick_max))
    }

    fn next_tick(&self) -> Option<Duration> {
        Some(self.ticked + self.tick()?)
    }

    /// Lease time, rounded down: what is left by it is rounded up.
    fn time_millis(&self, now: Duration) -> u64 {
        let (at, time) = self.started;
        u64::try_from((time + now.saturating_sub(at)).as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns what should be proposed now and counts it as proposed.
    pub fn poll(&mut self, now: Duration) -> Vec<Proposal> {
        let Some(term) = self.term else { return Vec::new() };
        let mut proposals = Vec::new();
        // Resets first: a client waits for each.
        let resets: Vec<_> = std::mem::take(&mut self.resets)
            .into_iter()
            .filter_map(|id| {
                let timer = self.timers.get_mut(&id)?;
                timer.reset = Reset::InFlight;
                Some((id, timer.mark, 0))
            })
            .collect();
        self.push_checkpoints(term, now, resets, &mut proposals);
        let most = crate::buggify!("lease_ends_one_by_one", 1, self.options.expiries_per_poll_max);
        for _ in 0..most {
            let Some(&(due, id)) = self.expiries.first() else { break };
            if due > now || crate::buggify!("lease_ends_later") {
                break;
            }
            self.expiries.pop_first();
            let timer = self.timers.get_mut(&id).expect("a queued lease has a timer");
            timer.state = State::Ending;
            self.reports.remove(&(timer.report_at, id));
            proposals.push(Proposal::Expire { term, id, mark: timer.mark });
        }
        let reports = self.due_reports(now);
        self.push_checkpoints(term, now, reports, &mut proposals);
        if self.next_tick().is_some_and(|at| at <= now) {
            self.push_checkpoint(term, now, Vec::new(), &mut proposals);
        }
        if crate::buggify!("lease_clock_checks_itself") {
            self.check();
        }
        proposals
    }

    /// Returns checkpoints of everything that has moved, to be proposed right before leadership is handed to
    /// another member: it then resumes where this one stopped.
    pub fn hand_over(&mut self, now: Duration) -> Vec<Proposal> {
        let Some(term) = self.term else { return Vec::new() };
        let mut leases = Vec::new();
        for (id, timer) in &mut self.timers {
            let rest = timer.deadline.saturating_sub(now);
            if timer.state == State::Ending || timer.reset != Reset::No {
                continue;
            }
            // For those whose end is in the table, lease time says it all.
            if timer.reported {
                continue;
            }
            if let Some(millis) = remainder(rest, timer.ttl) {
                timer.reporting += 1;
                leases.push((*id, timer.mark, millis));
            }
        }
        let mut proposals = Vec::new();
        if leases.is_empty() && !self.reported.is_empty() {
            self.push_checkpoint(term, now, leases, &mut proposals);
        } else {
            self.push_checkpoints(term, now, leases, &mut proposals);
        }
        proposals
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(self.term.is_some() || self.timers.is_empty(), "a standing clock has timers");
        let (mut alive, mut waiting, mut known) = (0, 0, 0);
        for (id, timer) in &self.timers {
            assert!(timer.due >= timer.deadline, "{id}: due before its time: {timer:?}");
            let queued = self.expiries.contains(&(timer.due, *id));
            assert_eq!(
                queued,
                timer.state == State::Alive,
                "{id}: queue and state differ: {timer:?}"
            );
            alive += usize::from(queued);
            let reports = self.reports.contains(&(timer.report_at, *id));
            let wanted = timer.state == State::Alive && !timer.reported;
            assert_eq!(reports, wanted, "{id}: report queue: {timer:?}");
            waiting += usize::from(reports);
            let reported = self.reported.contains(&(timer.ttl, *id));
            assert_eq!(reported, timer.reported, "{id}: the reported: {timer:?}");
            known += usize::from(reported);
            assert_eq!(self.resets.contains(id), timer.reset == Reset::Wanted, "{id}: {timer:?}");
        }
        assert_eq!(alive, self.expiries.len(), "the expiry queue has strangers");
        assert_eq!(waiting, self.reports.len(), "the report queue has strangers");
        assert_eq!(known, self.reported.len(), "the reported have strangers");
    }

    fn start(&mut self, id: LeaseId, lease: &Lease, now: Duration) {
        self.remove(id);
        let ttl = seconds(lease.granted_seconds);
        let (started, time) = self.started;
        let deadline = now + lease.life(time + now.saturating_sub(started));
        let reported = lease.until.is_some();
        let timer = Timer {
            ttl,
            ttl_seconds: lease.granted_seconds,
            mark: lease.mark,
            deadline,
            due: deadline,
            state: State::Alive,
            reported,
            report_at: report_at(now, ttl, &self.options),
            reporting: 0,
            reset: Reset::No,
        };
        self.expiries.insert((deadline, id));
        if reported {
            self.reported.insert((ttl, id));
        } else {
            self.reports.insert((timer.report_at, id));
        }
        self.timers.insert(id, timer);
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(timer) = self.timers.remove(&id) {
            self.expiries.remove(&(timer.due, id));
            self.reports.remove(&(timer.report_at, id));
            self.reported.remove(&(timer.ttl, id));
            self.resets.remove(&id);
        }
    }

    /// An expiry came to nothing: the lease is alive, and ends a little later if its time is still over.
    fn revive(&mut self, id: LeaseId, now: Duration) {
        let Some(timer) = self.timers.get_mut(&id) else { return };
        if timer.state == State::Alive {
            return;
        }
        timer.state = State::Alive;
        timer.due = timer.deadline.max(now + self.options.expiry_retry);
        self.expiries.insert((timer.due, id));
        if !timer.reported {
            self.reports.insert((timer.report_at, id));
        }
    }

    fn on_checkpoint(&mut self, id: LeaseId, lease: &Lease, now: Duration) {
        let Some(timer) = self.timers.get_mut(&id) else { return };
        self.reports.remove(&(timer.report_at, id));
        timer.reported = lease.until.is_some();
        if timer.reported {
            timer.reporting = timer.reporting.saturating_sub(1);
        } else {
            // A reset: every end was proposed before it, so none comes after it.
            timer.reporting = 0;
            if timer.reset == Reset::InFlight {
                timer.reset = Reset::No;
            }
        }
        if timer.reported {
            self.reported.insert((timer.ttl, id));
            return;
        }
        self.reported.remove(&(timer.ttl, id));
        timer.report_at = report_at(now, timer.ttl, &self.options);
        if timer.state == State::Alive {
            self.reports.insert((timer.report_at, id));
        }
    }

    fn due_reports(&mut self, now: Duration) -> Vec<(LeaseId, Index, u64)> {
        let mut leases = Vec::new();
        while let Some(&(at, id)) = self.reports.first() {
            if at > now || leases.len() == self.options.checkpoint_leases_max {
                break;
            }
            self.reports.pop_first();
            let timer = self.timers.get_mut(&id).expect("a queued lease has a timer");
            // Should this one come to nothing, it has another turn.
            timer.report_at = report_at(now, timer.ttl, &self.options);
            self.reports.insert((timer.report_at, id));
            let rest = timer.deadline.saturating_sub(now);
            // NB: nothing is reported behind a reset that a renewal waits for, or the renewal would find the
            // end again, wait again, and so on as long as the client is unlucky.
            if timer.reset == Reset::No
                && timer.reporting == 0
                && let Some(millis) = remainder(rest, timer.ttl)
            {
                timer.reporting += 1;
                leases.push((id, timer.mark, millis));
            }
        }
        leases
    }

    fn push_checkpoint(
        &mut self,
        term: Term,
        now: Duration,
        leases: Vec<(LeaseId, Index, u64)>,
        proposals: &mut Vec<Proposal>,
    ) {
        self.ticked = now;
        proposals.push(Proposal::Checkpoint { term, time_millis: self.time_millis(now), leases });
    }

    fn push_checkpoints(
        &mut self,
        term: Term,
        now: Duration,
        leases: Vec<(LeaseId, Index, u64)>,
        proposals: &mut Vec<Proposal>,
    ) {
        for some in leases.chunks(self.options.checkpoint_leases_max) {
            self.push_checkpoint(term, now, some.to_vec(), proposals);
        }
    }
}

impl Proposal {
    /// The term of the leader that made it.
    pub fn term(&self) -> Term {
        match self {
            Self::Expire { term, .. } | Self::Checkpoint { term, .. } => *term,
        }
    }
}

/// When the end of a lease is written down that was granted or renewed now: after half the TTL, so that an
/// owner who renews each third is never written down. Moments are rounded up to whole steps, so that leases
/// of one kind share an entry.
fn report_at(now: Duration, ttl: Duration, options: &ClockOptions) -> Duration {
    let at = now + (ttl / 2).min(options.report_after_max);
    let step = (ttl / 32).clamp(Duration::from_millis(100), Duration::from_secs(10));
    let steps = at.as_nanos().div_ceil(step.as_nanos());
    let rounded = u64::try_from(steps * step.as_nanos()).map(Duration::from_nanos);
    rounded.unwrap_or(at)
}

/// What a checkpoint says: milliseconds, rounded up, since it may lengthen a lease by one and never shorten
/// it. `None` when nothing is left or nothing is gone: both would read as a reset.
fn remainder(rest: Duration, ttl: Duration) -> Option<u64> {
    let millis = u64::try_from(rest.as_nanos().div_ceil(1_000_000)).ok()?;
    (millis > 0 && u128::from(millis) < ttl.as_millis()).then_some(millis)
}
