//! Scripts of the lease table and the leader's clock together: the log between them is simulated.
//!
//! Time stands where `at` puts it, in seconds. Proposals of `poll` and `hand_over` wait in a log; `apply`
//! applies them in order, as entries of the term given or of the term they name. What is printed: writes
//! to the tables (`stored`, `dropped`), what the entry did, proposals, answers.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::golden::{self, Interpreter, Line};
use super::{Change, Clock, ClockOptions, Lease, Leases, Proposal, Renewal};
use crate::storage::Write;
use crate::types::{Index, LeaseId, LogPosition, Term};

struct World {
    leases: Leases,
    rows: std::collections::BTreeMap<Bytes, Bytes>,
    clock: Clock,
    now: Duration,
    log: VecDeque<Proposal>,
    index: Index,
    term: Term,
}

impl World {
    fn new() -> Self {
        Self {
            leases: Leases::default(),
            rows: Default::default(),
            clock: Clock::new(ClockOptions::default()),
            now: Duration::ZERO,
            log: VecDeque::new(),
            index: Index(0),
            term: Term(1),
        }
    }

    fn store(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write.value {
                Some(value) => self.rows.insert(write.key, value),
                None => self.rows.remove(&write.key),
            };
        }
    }

    fn changed(&mut self, change: Change, out: &mut String) {
        let _ = match change {
            Change::Granted(id, lease) => {
                writeln!(out, "{id} granted: {}", print(&lease, self.leases.time()))
            }
            Change::Revoked(id) => writeln!(out, "{id} revoked"),
            Change::Checkpointed(id, lease) => {
                writeln!(out, "{id} written: {}", print(&lease, self.leases.time()))
            }
            Change::Spared(id) => writeln!(out, "{id} spared"),
        };
        self.clock.on(&change, self.now);
    }

    fn apply(&mut self, proposal: Proposal, term: Option<Term>, out: &mut String) {
        self.index = self.index.next();
        let position = LogPosition::new(self.index, term.unwrap_or(proposal.term()));
        let mut writes = Vec::new();
        let mut changes = Vec::new();
        match proposal {
            Proposal::Expire { term, id, mark } => {
                if self.leases.may_expire(position, term, id, mark) {
                    self.leases.revoke(id, &mut writes);
                    changes.push(Change::Revoked(id));
                } else {
                    changes.push(Change::Spared(id));
                }
            }
            Proposal::Checkpoint { term, time_millis, leases } => {
                self.leases.advance(position, term, time_millis, &mut writes);
                for entry in leases {
                    match self.leases.checkpoint(position, term, entry, &mut writes) {
                        Some(lease) => changes.push(Change::Checkpointed(entry.0, lease)),
                        None => out.push_str(&format!("{} not written\n", entry.0)),
                    }
                }
            }
        }
        self.store(writes);
        changes.into_iter().for_each(|change| self.changed(change, out));
    }

    fn propose(&mut self, proposals: Vec<Proposal>, out: &mut String) {
        for proposal in proposals {
            let _ = match &proposal {
                Proposal::Expire { term, id, mark } => {
                    writeln!(out, "expire {id} of {mark} in {term}")
                }
                Proposal::Checkpoint { term, time_millis, leases } => {
                    let list: Vec<_> =
                        leases.iter().map(|(id, _, millis)| format!(" {id}:{millis}ms")).collect();
                    writeln!(out, "checkpoint at {time_millis}ms{} in {term}", list.concat())
                }
            };
            self.log.push_back(proposal);
        }
    }
}

impl Interpreter for World {
    fn run(&mut self, line: &Line) -> String {
        let mut out = String::new();
        let id = || LeaseId(line.arg(0).parse().expect("a lease id"));
        match line.name.as_str() {
            "at" => self.now = Duration::from_secs_f64(line.arg(0).parse().expect("seconds")),
            "grant" => {
                self.index = self.index.next();
                let mut writes = Vec::new();
                match self.leases.grant(self.index, id(), line.number("ttl", 10), &mut writes) {
                    Ok(lease) => self.changed(Change::Granted(id(), lease), &mut out),
                    Err(error) => out = format!("refused: {error:?}"),
                }
                self.store(writes);
            }
            "revoke" => {
                self.index = self.index.next();
                let mut writes = Vec::new();
                if self.leases.revoke(id(), &mut writes) {
                    self.changed(Change::Revoked(id()), &mut out);
                } else {
                    out.push_str("no such lease");
                }
                self.store(writes);
            }
            // A new leader: the one before it took its clock along.
            "lead" => {
                self.term = Term(line.number("term", self.term.0));
                self.clock.lead(self.term, self.now, &self.leases);
            }
            "stop" => self.clock.stop(),
            "restart" => {
                let rows: Vec<_> = self.rows.clone().into_iter().collect();
                self.leases = Leases::load(rows.into_iter()).expect("the rows are ours");
            }
            "renew" => {
                out = match self.clock.renew(id(), self.now) {
                    Renewal::Renewed { ttl } => format!("renewed for {ttl}s"),
                    other => format!("{other:?}").to_lowercase(),
                }
            }
            "poll" => {
                let proposals = self.clock.poll(self.now);
                self.propose(proposals, &mut out);
            }
            "hand_over" => {
                let proposals = self.clock.hand_over(self.now);
                self.propose(proposals, &mut out);
            }
            "apply" => {
                let term = line.get("term").map(|t| Term(t.parse().expect("a term")));
                let count = line.number("count", self.log.len());
                for proposal in self.log.drain(..count).collect::<Vec<_>>() {
                    self.apply(proposal, term, &mut out);
                }
            }
            "refuse" => {
                for proposal in std::mem::take(&mut self.log) {
                    self.clock.refused(&proposal, self.now);
                }
            }
            "remaining" => {
                out = self
                    .clock
                    .remaining(id(), self.now)
                    .map_or("gone".into(), |r| format!("{r:?}"));
            }
            "order" => out = format!("{:?}", self.clock.by_remaining()),
            "next" => out = format!("{:?}", self.clock.next_poll()),
            "table" => {
                for (id, lease) in self.leases.iter() {
                    let _ = writeln!(out, "{id}: {}", print(lease, self.leases.time()));
                }
            }
            other => panic!("no command {other}"),
        }
        self.leases.check();
        self.clock.check();
        let rows: Vec<_> = self.rows.clone().into_iter().collect();
        let stored = Leases::load(rows.into_iter()).expect("the rows are ours");
        assert_eq!(stored, self.leases, "memory and rows differ");
        if out.is_empty() && !["at", "lead", "stop", "restart"].contains(&line.name.as_str()) {
            out.push_str("nothing");
        }
        out
    }
}

fn print(lease: &Lease, time: Duration) -> String {
    let rest = lease.until.map_or("all".into(), |_| format!("{:?}", lease.life(time)));
    format!("{}s, {rest} left, mark {}", lease.granted_seconds, lease.mark)
}

#[test]
fn scripts_print_what_they_say() {
    golden::check_all("src/lease/testscripts", World::new);
}

#[test]
fn a_damaged_row_is_named_and_not_guessed() {
    let row = |key: &'static [u8], value: &'static [u8]| {
        (Bytes::from_static(key), Bytes::from_static(value))
    };
    for (key, value) in [
        row(b"1234567", &[0; 24]),
        row(b"12345678", &[0; 23]),
        row(b"12345678", &[0; 25]),
        row(&[0; 8], &[0; 7]),
    ] {
        assert_eq!(Leases::load([(key.clone(), value)].into_iter()), Err(key));
    }
}

/// Runs a cluster's leases for a while, the leader polled each 50 ms and all it proposes applied at once;
/// returns how many entries that came to. `renew_every` is how often owners renew.
fn entries(count: i64, ttl: i64, renew_every: Option<Duration>, lasting: Duration) -> usize {
    let mut world = World::new();
    let mut out = String::new();
    for id in 1..=count {
        let mut writes = Vec::new();
        world.leases.grant(Index(1), LeaseId(id), ttl, &mut writes).expect("ids are new");
    }
    world.clock.lead(Term(1), world.now, &world.leases);
    let mut entries = 0;
    let owners = if renew_every.is_some() { count } else { 0 };
    let mut renewed = vec![Duration::ZERO; usize::try_from(owners).expect("few")];
    while world.now < lasting {
        world.now += Duration::from_millis(50);
        for (last, id) in renewed.iter_mut().zip(1..) {
            if renew_every.is_some_and(|every| world.now >= *last + every)
                && let Renewal::Renewed { .. } = world.clock.renew(LeaseId(id), world.now)
            {
                *last = world.now;
            }
        }
        if world.clock.next_poll().is_some_and(|at| at <= world.now) {
            for proposal in world.clock.poll(world.now) {
                entries += 1;
                world.apply(proposal, None, &mut out);
                out.clear();
            }
        }
    }
    world.clock.check();
    assert_eq!(i64::try_from(world.leases.len()), Ok(count), "a lease ended early");
    entries
}

#[test]
fn ten_thousand_silent_leases_cost_an_entry_each_half_minute() {
    let spent = entries(10_000, 3_600, None, Duration::from_secs(1_800));
    // Ten for the ends, the rest for lease time.
    assert!((60..=75).contains(&spent), "{spent} entries in half an hour");
}

#[test]
fn owners_who_renew_by_thirds_cost_no_entries() {
    for ttl in [3, 10, 60, 119] {
        let third = super::table::seconds(ttl) / 3;
        assert_eq!(entries(5, ttl, Some(third), Duration::from_secs(600)), 0, "of {ttl} s");
    }
}
