//! The leader's side of leases: owns the clock that the state machine must not have.
//!
//! [`lease::Clock`] decides; this shell gives it the time, carries its proposals to Raft, tells it what
//! became of them, and keeps the callers whose renewal has to wait for an entry.
//!
//! Invariants:
//! - the clock runs only while this member leads and has applied the first entry of its own term;
//! - every waiting renewal is asked again when a lease changes, and at the latest when it expires.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::ServeError;
use crate::command::{Op, Outcome, RequestId};
use crate::lease::{self, Clock, ClockOptions, Proposal, Renewal};
use crate::machine::Machine;
use crate::raft::Entry;
use crate::runtime::Instant;
use crate::types::{LeaseId, Term};

/// The shortest time between two looks at the clock: many leases share one turn.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

type RenewReply = oneshot::Sender<Result<Renewal, ServeError>>;

/// See the module's text.
pub(crate) struct LeaseShell {
    clock: Clock,
    last_poll: Option<Instant>,
    in_flight: BTreeMap<RequestId, Proposal>,
    waiting: Vec<(LeaseId, RenewReply)>,
}

impl LeaseShell {
    pub(crate) fn new(options: ClockOptions) -> Self {
        let clock = Clock::new(options);
        Self { clock, last_poll: None, in_flight: BTreeMap::new(), waiting: Vec::new() }
    }

    /// This member leads no more, or not yet.
    pub(crate) fn follow(&mut self) {
        if crate::mutant!("E22") {
            // The old leader's clock goes on, and what it proposes is forwarded.
            return;
        }
        self.clock.stop();
        self.in_flight.clear();
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Ok(Renewal::NotLeader));
        }
    }

    /// Starts the clock once an entry of the leader's own term is among those applied.
    pub(crate) fn lead_if_first(
        &mut self,
        machine: &Machine,
        applied: &[Entry],
        term: Term,
        now: Instant,
    ) {
        if self.clock.leads() != Some(term) && applied.iter().any(|entry| entry.term == term) {
            machine.reader().with_leases(|leases| self.clock.lead(term, now.0, leases));
        }
    }

    /// Follows an applied change.
    pub(crate) fn on(&mut self, change: &lease::Change, now: Instant) {
        self.clock.on(change, now.0);
        self.ask_again(now);
    }

    fn ask_again(&mut self, now: Instant) {
        for (id, reply) in std::mem::take(&mut self.waiting) {
            self.renew(id, now, reply);
        }
    }

    /// Renews a lease, or lets the caller wait. The caller has passed a read barrier after its request
    /// came in, so this member led at that moment.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant, reply: RenewReply) {
        match self.clock.renew(id, now.0) {
            Renewal::Wait => self.waiting.push((id, reply)),
            answer => drop(reply.send(Ok(answer))),
        }
    }

    /// Tells what is left of a lease.
    pub(crate) fn remaining(
        &self,
        id: LeaseId,
        now: Instant,
        reply: oneshot::Sender<Result<Option<u64>, ServeError>>,
    ) {
        let answer = if self.clock.leads().is_some() {
            let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            Ok(self.clock.remaining(id, now.0).map(millis))
        } else {
            Err(ServeError::NotLeader)
        };
        let _ = reply.send(answer);
    }

    /// Returns when the clock next has something to say.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.clock.leads()?;
        let at = Instant(self.clock.next_poll()?);
        Some(self.last_poll.map_or(at, |last| at.max(last + POLL_INTERVAL)))
    }

    /// Returns what is to be proposed now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Op> {
        if self.wake_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.last_poll = Some(now);
        self.clock.poll(now.0).into_iter().map(Op::from).collect()
    }

    /// Returns what is to be proposed right before leadership is handed over.
    pub(crate) fn hand_over(&mut self, now: Instant) -> Vec<Op> {
        self.clock.hand_over(now.0).into_iter().map(Op::from).collect()
    }

    /// An operation of ours was given an id and proposed.
    pub(crate) fn proposed(&mut self, id: RequestId, op: &Op) {
        let proposal = match op {
            Op::LeaseExpire { term, leases } => leases.first().map(|lease| Proposal::Expire {
                term: *term,
                id: lease.id,
                mark: lease.mark.into(),
            }),
            Op::LeaseCheckpoint { term, time_millis, leases } => Some(Proposal::Checkpoint {
                term: *term,
                time_millis: *time_millis,
                leases: leases.iter().map(|l| (l.id, l.mark.into(), l.remaining_millis)).collect(),
            }),
            _ => None,
        };
        if let Some(proposal) = proposal {
            self.in_flight.insert(id, proposal);
        }
    }

    /// Raft did not take a proposal.
    pub(crate) fn refused(&mut self, id: RequestId, now: Instant) {
        if let Some(proposal) = self.in_flight.remove(&id) {
            self.clock.refused(&proposal, now.0);
        }
    }

    /// A proposal was applied; the clock learned of it by the change of the table.
    pub(crate) fn resolved(&mut self, id: RequestId, _outcome: &Outcome, now: Instant) {
        if self.in_flight.remove(&id).is_some() {
            self.ask_again(now);
        }
    }

    /// The member stops.
    pub(crate) fn stop(&mut self) {
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Err(ServeError::Stopped));
        }
    }
}
