//! Strict serializability by revision order.
//!
//! Every acknowledged write carries the revision it made, which is its place in the one order of all
//! writes. So nothing has to be searched for: sort by revision, replay through the model, and look
//! * that no two writes claim one revision (`revision-unique`), and that the order agrees with real time
//!   (`real-time` for writes, `stale-read` for linearizable answers; ops.rs tells how);
//! * that each reply is what the model says, field by field (names in compare.rs; `refused` where etcd
//!   must have refused, `effect` where keys changed that the reply doesn't tell of);
//! * that each revision nobody claims can have been made by somebody (`gap`, `duplicate-apply`,
//!   `lease-atomic`; explain.rs), and that acknowledged revokes took their keys (`lease-revoke`);
//! * that the members' final states are the model's (`final-state`), and with ground truth at hand, that
//!   it agrees (`ground-truth`).
//!
//! Explaining gaps is the one place with a choice. A mismatch goes back to the latest gap whose
//! candidates touch the keys in question and tries the next one (backjumping: gaps that have nothing to
//! do with those keys are not searched). Only when no explanation of the gaps avoids a mismatch is it
//! reported; when the budget ends first, it is reported as undecided.
//!
//! Invariant: after each turn of the loop the store is at some revision r, every acknowledged write up to
//! r is in it, and `choices` has one entry for each gap up to r, ascending.

use crate::compare::Context;
use crate::explain::{Candidate, Cursor, Gaps, Keys, keys_of};
use crate::history::Record;
use crate::model::Etcd;
use crate::op::*;
use crate::ops::{Op, Ops, Outcome};
use crate::timeline::Timeline;
use crate::verdict::{FinalState, Options, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// The rules that compare an operation's revision with what was shown before it began.
pub(crate) fn real_time(ops: &Ops<'_>, violations: &mut Vec<Violation>) {
    for op in &ops.all {
        let Some(reply) = op.reply() else { continue };
        let revision = reply.header().revision;
        let seen = || ops.first_seen(op.floor).map_or(0, |seen| seen.record);
        let evidence = || op.evidence().into_iter().chain([seen()]).collect();
        if reply.changed() {
            if revision <= op.floor {
                let message = format!(
                    "a write got r{revision}, and r{} had been shown before it was invoked",
                    op.floor
                );
                violations.push(Violation::new("real-time", message, evidence()));
            }
        } else if reads_keys(op.operation)
            && !op.operation.serializable()
            && revision < op.floor
        {
            let message = format!(
                "a linearizable answer at r{revision}, and r{} had been shown before it was asked for",
                op.floor
            );
            violations.push(Violation::new("stale-read", message, evidence()));
        }
    }
}

fn reads_keys(operation: &Operation) -> bool {
    matches!(operation, Operation::Range(_) | Operation::DeleteRange(_) | Operation::Txn(_))
}

/// Linearizable reads at a revision below one whose compaction was acknowledged before (`compaction`),
/// and refusals as compacted that no compaction explains.
pub(crate) fn reads_below_compaction(
    ops: &Ops<'_>,
    options: &Options,
    violations: &mut Vec<Violation>,
) {
    let mut asked: Vec<(usize, i64)> = Vec::new();
    let mut done: Vec<(usize, i64)> = Vec::new();
    for op in &ops.all {
        let Operation::Compact(compact) = op.operation else { continue };
        if !matches!(op.outcome, Outcome::Fail(_)) {
            asked.push((op.call, compact.revision));
        }
        if let (Some(ret), Outcome::Ok(_)) = (op.ret, op.outcome) {
            done.push((ret, compact.revision));
        }
    }
    let before = |list: &[(usize, i64)], record: usize| {
        list.iter().filter(|(at, _)| *at < record).map(|(_, revision)| *revision).max()
    };
    for op in &ops.all {
        let Operation::Range(range) = op.operation else { continue };
        if range.revision <= 0 {
            continue;
        }
        match op.outcome {
            Outcome::Ok(_) if !range.serializable => {
                if let Some(compacted) = before(&done, op.call).filter(|r| *r > range.revision) {
                    let message =
                        format!("read at r{}, compacted at r{compacted} before", range.revision);
                    violations.push(Violation::new("compaction", message, op.evidence()));
                }
            }
            Outcome::Fail(error) if error.contains("has been compacted") => {
                let end = op.ret.unwrap_or(usize::MAX);
                let compacted = before(&asked, end).unwrap_or(-1);
                if !options.auto_compaction && compacted <= range.revision {
                    let message = format!(
                        "read at r{} refused as compacted, and only r{compacted} can be",
                        range.revision
                    );
                    violations.push(Violation::new("compaction", message, op.evidence()));
                }
            }
            _ => {}
        }
    }
}

/// How a lease ended, as far as the replay can tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseEnd {
    pub lease: i64,
    pub revision: i64,
}

/// What the replay leaves behind.
pub(crate) struct Replayed {
    pub store: Etcd,
    pub violations: Vec<Violation>,
    pub undecided: Vec<Violation>,
    /// Leases whose keys were removed by neither an acknowledged nor an unknown revoke.
    pub lease_ends: Vec<LeaseEnd>,
    /// Gaps of which nothing was ever shown.
    pub guessed: BTreeSet<i64>,
    pub unclaimed: usize,
}

/// Replays a history in the order of its revisions.
pub(crate) fn replay(
    records: &[Record],
    ops: &Ops<'_>,
    options: &Options,
    truth: Option<&Timeline>,
) -> Replayed {
    let mut store = options.initial.clone().unwrap_or_else(Etcd::with_any_lease);
    store.trust_leases();
    let (mut writes, mut observers) = (Vec::new(), Vec::new());
    for (number, op) in ops.all.iter().enumerate() {
        let Some(reply) = op.reply() else { continue };
        let revision = reply.header().revision;
        if reply.changed() {
            writes.push((revision, number));
        } else if reads_keys(op.operation) || matches!(op.operation, Operation::LeaseRevoke(_)) {
            observers.push((revision, number));
        }
    }
    writes.sort_unstable();
    observers.sort_unstable();
    let ends = options.final_states.iter().map(|state| state.revision).max().unwrap_or(0);
    let base = store.revision();
    let is_gap = |revision: i64| {
        revision > base && writes.binary_search_by_key(&revision, |(at, _)| *at).is_err()
    };
    let gaps = Gaps::new(records, ops, is_gap);
    let mut replay = Replay {
        ops,
        truth,
        last: ops.greatest().max(ends),
        base,
        gaps,
        writes,
        observers,
        store,
        choices: Vec::new(),
        condemned: BTreeMap::new(),
        failure: None,
        preferred: BTreeMap::new(),
        budget: options.search_budget,
    };
    replay.run();
    replay.finish(options)
}

/// Mismatches for which another explanation of the gaps is searched.
const SEARCHES_MAX: usize = 16;

/// What a mismatch is about: an operation, or the maker of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Op(usize),
    Gap(i64),
    Revision(i64),
}

/// A mismatch on the way through the search.
struct Failure {
    subject: Subject,
    at: i64,
    violation: Violation,
    choices: BTreeMap<i64, Candidate>,
}

/// An explained gap.
struct Choice {
    revision: i64,
    chosen: Candidate,
    cursor: Cursor,
    /// Keys of the mismatches that came back to this gap.
    conflict: BTreeSet<Keys>,
}

/// What the loop does after a mismatch.
#[derive(PartialEq)]
enum Next {
    /// It is reported; go on behind it.
    GoOn,
    /// The store went back to an earlier revision.
    Again,
}

struct Replay<'a, 'h> {
    ops: &'a Ops<'h>,
    truth: Option<&'a Timeline>,
    base: i64,
    last: i64,
    gaps: Gaps<'h>,
    /// (revision, operation), ascending.
    writes: Vec<(i64, usize)>,
    observers: Vec<(i64, usize)>,
    store: Etcd,
    choices: Vec<Choice>,
    /// Mismatches that no explanation avoids; `true` if the search was cut short.
    condemned: BTreeMap<Subject, (Violation, bool)>,
    failure: Option<Failure>,
    /// What to try first when a part is replayed again.
    preferred: BTreeMap<i64, Candidate>,
    budget: u64,
}

impl Replay<'_, '_> {
    fn run(&mut self) {
        for (revision, number) in self.observers.clone() {
            if revision >= self.base {
                break;
            }
            let message = format!("answered at r{revision}, before the history began");
            let violation = Violation::new("stale-read", message, self.ops.all[number].evidence());
            self.condemned.insert(Subject::Op(number), (violation, false));
        }
        self.observe(self.base);
        while self.store.revision() < self.last {
            let revision = self.store.revision() + 1;
            if self.failure.is_some() {
                self.budget = self.budget.saturating_sub(1);
            }
            let first = self.writes.partition_point(|(at, _)| *at < revision);
            let next = match self.writes.get(first) {
                Some(&(at, number)) if at == revision => {
                    self.claimed_twice(first);
                    self.write(revision, number)
                }
                _ => self.gap(revision),
            };
            if next == Next::Again {
                continue;
            }
            if self.store.revision() < revision {
                // Nothing sensible can be said about later revisions.
                break;
            }
            if self.observe(revision) == Next::GoOn
                && self.failure.as_ref().is_some_and(|failure| failure.at <= revision)
            {
                // The mismatch is behind us: an explanation without it was found.
                self.failure = None;
                self.preferred.clear();
            }
        }
    }

    fn claimed_twice(&mut self, first: usize) {
        let (revision, number) = self.writes[first];
        for &(at, other) in &self.writes[first + 1..] {
            if at != revision {
                break;
            }
            let message = format!("two acknowledged writes claim r{revision}");
            let (a, b) = (self.ops.all[number].evidence(), self.ops.all[other].evidence());
            let violation = Violation::new("revision-unique", message, [a, b].concat());
            self.condemned.insert(Subject::Op(other), (violation, false));
        }
    }

    /// Replays an acknowledged write.
    fn write(&mut self, revision: i64, number: usize) -> Next {
        let op = &self.ops.all[number];
        let reply = op.reply().expect("writes are acknowledged");
        let found = match self.store.step(op.operation) {
            Err(refusal) => {
                Some(("refused", format!("acknowledged, the model refuses with «{refusal}»")))
            }
            Ok(expected) => {
                let context = Context { store: &self.store, serializable: false, revision, inner: false };
                let found = context.diff(op.operation, &expected, reply);
                let found = found.map(|found| (found.checker, found.message));
                found.or_else(|| {
                    (self.store.revision() != revision)
                        .then(|| ("effect", "acknowledged, the model changes nothing".into()))
                })
            }
        };
        if let Some((checker, message)) = found {
            let keys = keys_of(&self.store, op);
            let words = format!("{message}; at r{revision} of {:?}", op.operation);
            let violation = Violation::new(checker, words, op.evidence());
            // The state behind a wrong branch is anybody's guess.
            let lost = checker == "txn-branch" || self.store.revision() != revision;
            if self.mismatch(Subject::Op(number), violation, keys) == Next::Again {
                return Next::Again;
            }
            if lost {
                self.store.undo_to(revision - 1);
            }
        }
        self.compare_with_truth(revision, number);
        Next::GoOn
    }

    /// Holds an acknowledged write against the ground truth, which has the last word on the state.
    fn compare_with_truth(&mut self, revision: i64, number: usize) {
        let Some(truth) = self.truth else { return };
        let evidence = self.ops.all[number].evidence();
        if revision > truth.revision() {
            let message = format!("acknowledged at r{revision}, and the log ends at r{}", truth.revision());
            let violation = Violation::new("lost-write", message, evidence);
            self.condemned.insert(Subject::Revision(revision), (violation, false));
            return;
        }
        if self.store.timeline().at(revision) == truth.at(revision) {
            return;
        }
        let made: Vec<Change> = self.store.timeline().at(revision).to_vec();
        let message = format!("r{revision} is {:?}, the model makes {made:?}", truth.at(revision));
        let violation = Violation::new("ground-truth", message, evidence);
        self.condemned.insert(Subject::Revision(revision), (violation, false));
        self.store.undo_to(revision - 1);
        self.store.force(truth.at(revision));
    }

    /// Explains a revision that nobody claims.
    fn gap(&mut self, revision: i64) -> Next {
        if self.condemned.contains_key(&Subject::Gap(revision)) {
            return self.give_up(revision);
        }
        if let Some(chosen) = self.preferred.remove(&revision)
            && self.gaps.apply(&mut self.store, self.ops, revision, chosen)
        {
            self.choose(Choice { revision, chosen, cursor: Cursor::default(), conflict: BTreeSet::new() });
            return Next::GoOn;
        }
        self.store.undo_to(revision - 1);
        if let Some((chosen, cursor)) = self.next_candidate(revision, Cursor::default()) {
            self.choose(Choice { revision, chosen, cursor, conflict: BTreeSet::new() });
            return Next::GoOn;
        }
        let truth = self.truth_at(revision);
        let (checker, message, evidence) =
            self.gaps.unexplained(&self.store, self.ops, revision, truth);
        let violation = Violation::new(checker, message, evidence);
        let keys = self.gaps.candidate_keys(self.ops, revision);
        match self.mismatch(Subject::Gap(revision), violation, keys) {
            Next::Again => Next::Again,
            Next::GoOn => self.give_up(revision),
        }
    }

    /// Goes on behind an unexplained gap if somebody knows what happened; else the replay ends here.
    fn give_up(&mut self, revision: i64) -> Next {
        if let Some(truth) = self.truth
            && revision <= truth.revision()
        {
            self.store.force(truth.at(revision));
        }
        Next::GoOn
    }

    fn truth_at(&self, revision: i64) -> Option<&[Change]> {
        self.truth.filter(|truth| revision <= truth.revision()).map(|truth| truth.at(revision))
    }

    fn next_candidate(&mut self, revision: i64, cursor: Cursor) -> Option<(Candidate, Cursor)> {
        let truth = self.truth.filter(|truth| revision <= truth.revision());
        let truth = truth.map(|truth| truth.at(revision));
        self.gaps.next(&mut self.store, self.ops, revision, cursor, truth, &mut self.budget)
    }

    fn choose(&mut self, choice: Choice) {
        if let Candidate::Op(number) = choice.chosen {
            self.gaps.used[number] = true;
        }
        self.choices.push(choice);
    }

    /// Checks every answer given at a revision, the store being there.
    fn observe(&mut self, revision: i64) -> Next {
        let mut at = self.observers.partition_point(|(at, _)| *at < revision);
        while let Some(&(_, number)) = self.observers.get(at).filter(|(at, _)| *at == revision) {
            at += 1;
            let op = &self.ops.all[number];
            let Some((checker, message)) = self.judge_answer(op, revision) else { continue };
            let keys = keys_of(&self.store, op);
            let words = format!("{message}; at r{revision}, {:?}", op.operation);
            let violation = Violation::new(checker, words, op.evidence());
            if self.mismatch(Subject::Op(number), violation, keys) == Next::Again {
                return Next::Again;
            }
        }
        Next::GoOn
    }

    fn judge_answer(&mut self, op: &Op<'_>, revision: i64) -> Option<(&'static str, String)> {
        if let Operation::LeaseRevoke(revoke) = op.operation {
            let left = self.store.attached(revoke.id).count();
            return (left > 0).then(|| {
                ("lease-revoke", format!("lease {} is revoked and {left} keys remain", revoke.id))
            });
        }
        let reply = op.reply().expect("observers were answered");
        let expected = match self.store.step(op.operation) {
            Ok(expected) => expected,
            Err(refusal) => {
                return Some(("refused", format!("answered, the model refuses with «{refusal}»")));
            }
        };
        let serializable = op.operation.serializable();
        let context = Context { store: &self.store, serializable, revision, inner: false };
        let found = context.diff(op.operation, &expected, reply);
        let changed = self.store.revision() != revision;
        self.store.undo_to(revision);
        found.map(|found| (found.checker, found.message)).or_else(|| {
            changed.then(|| ("effect", "the model changes keys, the answer says none changed".into()))
        })
    }

    /// Takes a mismatch: goes back to a gap that could be explained otherwise, or reports it.
    fn mismatch(&mut self, subject: Subject, violation: Violation, keys: BTreeSet<Keys>) -> Next {
        if self.condemned.contains_key(&subject) {
            return Next::GoOn;
        }
        let from = self.gaps.relevant_from(self.ops, &keys);
        let decided = self.choices.last().is_none_or(|choice| choice.revision < from);
        // Each search that fails costs a replay; after so many mismatches one more is not worth it.
        let tired = self.budget == 0 || self.condemned.len() >= SEARCHES_MAX;
        if decided || (tired && self.failure.is_none()) {
            self.condemned.insert(subject, (violation, !decided));
            return Next::GoOn;
        }
        if self.failure.is_none() {
            let choices = self.choices.iter().map(|choice| (choice.revision, choice.chosen));
            self.failure = Some(Failure {
                subject,
                at: self.store.revision(),
                violation,
                choices: choices.collect(),
            });
        }
        self.go_back(keys);
        Next::Again
    }

    fn go_back(&mut self, mut keys: BTreeSet<Keys>) {
        let mut from = self.gaps.relevant_from(self.ops, &keys);
        while self.budget > 0
            && let Some(choice) = self.pop()
        {
            if choice.revision < from {
                continue;
            }
            let Choice { revision, cursor, mut conflict, .. } = choice;
            conflict.extend(keys);
            if let Some((chosen, cursor)) = self.next_candidate(revision, cursor) {
                self.choose(Choice { revision, chosen, cursor, conflict });
                return;
            }
            // Whoever took this gap's candidates away, or changed what they do, is to blame as well.
            conflict.extend(self.gaps.candidate_keys(self.ops, revision));
            keys = conflict;
            from = self.gaps.relevant_from(self.ops, &keys);
        }
        // No way round the first mismatch, or no budget to find one: report it, and go the first way.
        let first = self.failure.take().expect("going back follows a mismatch");
        while self.pop().is_some() {}
        self.condemned.insert(first.subject, (first.violation, self.budget == 0));
        self.preferred = first.choices;
    }

    fn pop(&mut self) -> Option<Choice> {
        let choice = self.choices.pop()?;
        if let Candidate::Op(number) = choice.chosen {
            self.gaps.used[number] = false;
        }
        self.store.undo_to(choice.revision - 1);
        Some(choice)
    }

    fn finish(mut self, options: &Options) -> Replayed {
        self.final_states(&options.final_states);
        let (mut violations, mut undecided) = (Vec::new(), Vec::new());
        for (violation, open) in self.condemned.into_values() {
            if open { &mut undecided } else { &mut violations }.push(violation);
        }
        let mut lease_ends = Vec::new();
        let mut guessed = BTreeSet::new();
        for choice in &self.choices {
            if let Candidate::Lease(lease) = choice.chosen {
                lease_ends.push(LeaseEnd { lease, revision: choice.revision });
            }
            if self.truth.is_none() && !self.gaps.witnessed(choice.revision) {
                guessed.insert(choice.revision);
            }
        }
        Replayed {
            unclaimed: self.choices.len(),
            store: self.store,
            violations,
            undecided,
            lease_ends,
            guessed,
        }
    }

    fn final_states(&mut self, states: &[FinalState]) {
        let claimed = self.writes.last().map_or(0, |(revision, _)| *revision);
        let mut found = Vec::new();
        for (number, state) in states.iter().enumerate() {
            let FinalState { node, revision, .. } = state;
            if *revision < claimed {
                let (_, op) = self.writes[self.writes.len() - 1];
                let message = format!("node {node} ends at r{revision}, r{claimed} was acknowledged");
                found.push(Violation::new("final-state", message, self.ops.all[op].evidence()));
            }
            if let Some(kvs) = &state.kvs
                && *revision <= self.store.revision()
            {
                let model = self.store.timeline().range(b"\0", b"\0", *revision);
                let first = model.zip(kvs).find(|(a, b)| a != b);
                let count = self.store.timeline().range(b"\0", b"\0", *revision).count();
                if first.is_some() || count != kvs.len() {
                    let message = format!(
                        "node {node} at r{revision} holds {} keys, the model {count}; first \
                         difference (model, node): {first:?}",
                        kvs.len()
                    );
                    found.push(Violation::new("final-state", message, Vec::new()));
                }
            }
            for other in &states[..number] {
                let comparable =
                    (other.revision, other.compact_revision) == (*revision, state.compact_revision);
                if comparable && let (Some(a), Some(b)) = (other.hash, state.hash) && a != b {
                    let message = format!(
                        "nodes {} and {node} hash to {a:08x} and {b:08x} at r{revision}",
                        other.node
                    );
                    found.push(Violation::new("final-state", message, Vec::new()));
                }
            }
        }
        for (number, violation) in found.into_iter().enumerate() {
            let subject = Subject::Revision(-1 - i64::try_from(number).expect("few"));
            self.condemned.insert(subject, (violation, false));
        }
    }
}
