//! The whole judgement of a history.

use crate::history::Record;
use crate::model::Etcd;
use crate::op::{Change, KeyValue};
use crate::ops::{self, Outcome};
use crate::timeline::Timeline;
use crate::{lease, linear, registers, serial, watch};
use std::collections::BTreeMap;
use std::fmt;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The check that found it, by a name that tests and mutation hunts may rely on.
    pub checker: &'static str,
    /// What is wrong, in words.
    pub message: String,
    /// The numbers of the records that show it, counted from 0.
    pub evidence: Vec<usize>,
}

impl Violation {
    /// A violation found by `checker`.
    pub fn new(checker: &'static str, message: impl Into<String>, evidence: Vec<usize>) -> Self {
        Violation { checker, message: message.into(), evidence }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (records {:?})", self.checker, self.message, self.evidence)
    }
}

/// What really happened, where somebody knows: the changes of each revision in ascending order, without
/// holes, from the first revision of the history. A simulation passes its apply log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroundTruth {
    /// Revision and its changes.
    pub revisions: Vec<(i64, Vec<Change>)>,
}

impl GroundTruth {
    /// Adds the next revision.
    pub fn push(&mut self, revision: i64, changes: Vec<Change>) {
        self.revisions.push((revision, changes));
    }
}

/// The state of one member after the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalState {
    /// The member.
    pub node: u64,
    /// Its revision.
    pub revision: i64,
    /// Its compact revision, as given with the hash.
    pub compact_revision: i64,
    /// HashKV at that revision, if asked for.
    pub hash: Option<u32>,
    /// All its keys in order, if read.
    pub kvs: Option<Vec<KeyValue>>,
}

/// What to assume and how hard to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store before the history; a fresh one unless given (with [`Etcd::with_any_lease`]'s habit).
    pub initial: Option<Etcd>,
    /// Whether compactions happen that no record asks for.
    pub auto_compaction: bool,
    /// Watches still open at the end must have delivered everything up to this revision.
    pub watch_complete_to: Option<i64>,
    /// The states of members after the run.
    pub final_states: Vec<FinalState>,
    /// By how much a lease may end before its time, for clocks that run at another rate.
    pub lease_slack_ns: u64,
    /// Steps for finding out who made the revisions that nobody claims.
    pub search_budget: u64,
    /// Keys, of those used most, whose histories are also judged without looking at revisions.
    pub register_keys: usize,
    /// Operations a key that are judged so.
    pub register_operations: usize,
    /// Steps for each such key.
    pub register_budget: u64,
    /// Operations, from the beginning, among which cycles are searched for.
    pub serial_operations: usize,
    /// Violations a checker may report.
    pub violations_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            initial: None,
            auto_compaction: false,
            watch_complete_to: None,
            final_states: Vec::new(),
            lease_slack_ns: 0,
            search_budget: 2_000_000,
            register_keys: 4,
            register_operations: 1_000,
            register_budget: 200_000,
            serial_operations: 100_000,
            violations_max: 20,
        }
    }
}

/// How much was judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records in the history.
    pub records: usize,
    /// Operations invoked.
    pub operations: usize,
    /// Operations answered, refused for certain, and of unknown outcome.
    pub ok: usize,
    /// See `ok`.
    pub failed: usize,
    /// See `ok`.
    pub unknown: usize,
    /// The last revision the replay reached.
    pub revision: i64,
    /// Revisions that no acknowledged write claims.
    pub unclaimed: usize,
    /// Those of them explained by nothing but a guess that nothing contradicts.
    pub guessed: usize,
    /// Watches judged.
    pub watches: usize,
    /// Watch events judged.
    pub events: usize,
    /// Leases judged.
    pub leases: usize,
    /// Keys judged as registers, and their operations.
    pub register_keys: usize,
    /// See `register_keys`.
    pub register_operations: usize,
    /// Transactions in the search for cycles.
    pub transactions: usize,
}

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// What could not be decided within the budgets; `checker` names who gave up.
    pub undecided: Vec<Violation>,
    /// How much was judged.
    pub stats: Stats,
}

impl Verdict {
    /// Whether no promise was seen broken.
    pub fn is_ok(&self) -> bool {
        self.violations.is_empty()
    }

    /// Whether the named check found something.
    pub fn found(&self, checker: &str) -> bool {
        self.violations.iter().any(|violation| violation.checker == checker)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))?;
        self.undecided.iter().try_for_each(|open| writeln!(f, "undecided: {open}"))?;
        write!(f, "{:?}", self.stats)
    }
}

/// Judges a history.
pub fn check(records: &[Record], options: &Options) -> Verdict {
    check_with_truth(records, options, None)
}

/// Judges a history beside what really happened.
pub fn check_with_truth(
    records: &[Record],
    options: &Options,
    truth: Option<&GroundTruth>,
) -> Verdict {
    let ops = ops::pair(records);
    let mut verdict = Verdict { violations: ops.violations.clone(), ..Verdict::default() };
    let stats = &mut verdict.stats;
    stats.records = records.len();
    stats.operations = ops.all.len();
    for op in &ops.all {
        match op.outcome {
            Outcome::Ok(_) => stats.ok += 1,
            Outcome::Fail(_) => stats.failed += 1,
            Outcome::Unknown => stats.unknown += 1,
        }
    }
    let base = options.initial.as_ref().map_or(1, Etcd::revision);
    let known = truth.and_then(|truth| match timeline(base, truth) {
        Ok(timeline) => Some(timeline),
        Err(violation) => {
            verdict.violations.push(violation);
            None
        }
    });

    linear::real_time(&ops, &mut verdict.violations);
    let replay = linear::replay(records, &ops, options, known.as_ref());
    verdict.violations.extend(replay.violations);
    verdict.undecided.extend(replay.undecided);
    verdict.stats.revision = replay.store.revision();
    verdict.stats.unclaimed = replay.unclaimed;
    verdict.stats.guessed = replay.guessed.len();

    linear::reads_below_compaction(&ops, options, &mut verdict.violations);
    lease::check(&ops, &replay.lease_ends, options, &mut verdict);
    let judge = watch::Judge {
        timeline: known.as_ref().unwrap_or(replay.store.timeline()),
        guessed: &replay.guessed,
        ops: &ops,
        options,
    };
    judge.check(records, &mut verdict);
    registers::check(&ops, options, &mut verdict);
    serial::check(&ops, options, &mut verdict);

    limit(&mut verdict.violations, options.violations_max);
    verdict
}

/// Sorts by the first record of evidence, drops repetitions, and keeps the first few of each checker.
fn limit(violations: &mut Vec<Violation>, most: usize) {
    violations.sort_by(|a, b| (&a.evidence, a).cmp(&(&b.evidence, b)));
    violations.dedup();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    violations.retain(|violation| {
        let count = counts.entry(violation.checker).or_default();
        *count += 1;
        *count <= most
    });
}

/// The ground truth as a timeline, refused if it has holes.
fn timeline(base: i64, truth: &GroundTruth) -> Result<Timeline, Violation> {
    let mut timeline = Timeline::new(base);
    for (revision, changes) in &truth.revisions {
        if *revision <= base {
            continue;
        }
        let next = timeline.revision() + 1;
        if *revision != next {
            let message = format!("the ground truth jumps to r{revision}, where r{next} was due");
            return Err(Violation::new("ground-truth", message, Vec::new()));
        }
        if let Some(change) = changes.iter().find(|change| change.kv.mod_revision != next) {
            let message = format!("the ground truth of r{next} holds {change:?}");
            return Err(Violation::new("ground-truth", message, Vec::new()));
        }
        timeline.push(changes.iter().cloned());
    }
    Ok(timeline)
}
