//! Strict serializability by revision order.
//!
//! Every acknowledged write carries the revision it made, which is its place in the one order of all
//! writes. So nothing has to be searched for: sort by revision, replay through the model, and look
//! * that no two writes claim one revision (`revision-unique`), and that the order agrees with real time
//!   (realtime.rs);
//! * that each reply is what the model says, field by field (names in compare.rs; `refused` where etcd
//!   must have refused, `effect` where keys changed that the reply doesn't tell of);
//! * that each revision nobody claims can have been made by somebody (`gap`, `duplicate-apply`,
//!   `lease-atomic`; explain.rs), and that acknowledged revokes took their keys (`lease-revoke`);
//! * that the members' final states are the model's (`final-state`), and with ground truth at hand, that
//!   it agrees (`ground-truth`).
//!
//! Explaining gaps is the one place with a choice. A mismatch goes back to the latest gap that could be
//! explained otherwise with effect on the keys in question (backjumping), and only if that fails tries
//! every explanation. Only when no explanation of the gaps avoids a mismatch is it reported; when the
//! budget ends first, it is reported as undecided.
//!
//! Invariant: after each turn of the loop the store is at some revision r, every acknowledged write up to
//! r is in it, and `choices` has one entry for each gap up to r, ascending.

use crate::blob::Blob;
use crate::compare::Context;
use crate::explain::{Candidate, Cursor, Doubt, Gaps, Keys, keys_of};
use crate::history::Record;
use crate::model::Etcd;
use crate::op::*;
use crate::ops::{Op, Ops};
use crate::realtime::reads_keys;
use crate::timeline::Timeline;
use crate::verdict::{FinalState, Options, Violation};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Gaps that somebody else may have made, and the keys this may concern.
    pub guessed: BTreeMap<i64, BTreeSet<Keys>>,
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
    let last = ops.greatest().max(ends);
    let claimed = i64::try_from(writes.len()).expect("fits");
    let gaps = Gaps::new(records, ops, &options.final_states, last - base > claimed, is_gap);
    let mut replay = Replay {
        ops,
        truth,
        states: &options.final_states,
        last,
        base,
        gaps,
        writes,
        observers,
        store,
        choices: Vec::new(),
        condemned: BTreeMap::new(),
        excused: BTreeSet::new(),
        failure: None,
        preferred: BTreeMap::new(),
        searched: BTreeSet::new(),
        hints: (0, 0),
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
    /// What watches and final states show of a revision.
    Shown(i64),
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
    states: &'h [FinalState],
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
    /// Gaps that only a lying watch left unexplained: the watch checker has the word on them.
    excused: BTreeSet<i64>,
    failure: Option<Failure>,
    /// What to try first when a part is replayed again.
    preferred: BTreeMap<i64, Candidate>,
    /// Mismatches for which other explanations with the same keys were searched in vain.
    searched: BTreeSet<Subject>,
    budget: u64,
    /// Where the last looks into `writes` and `observers` ended.
    hints: (usize, usize),
}

/// The first entry at or behind a revision; mostly a few steps behind the last look.
fn seek(list: &[(i64, usize)], hint: usize, revision: i64) -> usize {
    let behind = |at: usize| at == 0 || list[at - 1].0 < revision;
    let near = (hint..list.len().min(hint + 64)).find(|&at| list[at].0 >= revision);
    match near {
        Some(at) if behind(at) => at,
        _ => list.partition_point(|(at, _)| *at < revision),
    }
}

impl<'h> Replay<'_, 'h> {
    fn run(&mut self) {
        self.claimed_twice();
        let early = self.observers.partition_point(|(revision, _)| *revision < self.base);
        for &(revision, number) in &self.observers[..early] {
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
            let first = seek(&self.writes, self.hints.0, revision);
            self.hints.0 = first;
            let next = match self.writes.get(first) {
                Some(&(at, number)) if at == revision => self.write(revision, number),
                _ => self.gap(revision),
            };
            if next == Next::GoOn {
                if self.store.revision() < revision {
                    // Nothing sensible can be said about later revisions.
                    break;
                }
                if self.pass(revision) == Next::GoOn {
                    continue;
                }
            }
            // The gap that was explained otherwise has answers, too.
            while let Some(choice) = self.choices.last()
                && choice.revision == self.store.revision()
                && self.pass(choice.revision) == Next::Again
            {}
        }
    }

    /// Checks what was answered and shown at a revision, and goes on behind it if nothing speaks against it.
    fn pass(&mut self, revision: i64) -> Next {
        let next = self.observe(revision);
        if next == Next::GoOn && self.failure.as_ref().is_some_and(|failure| failure.at <= revision)
        {
            // The mismatch is behind us: an explanation without it was found.
            self.failure = None;
            self.preferred.clear();
        }
        next
    }

    /// Finds revisions that several acknowledged writes claim, also behind the end of the replay.
    fn claimed_twice(&mut self) {
        for pair in self.writes.windows(2) {
            let [(revision, one), (same, other)] = *pair else { continue };
            if revision == same {
                let message = format!("two acknowledged writes claim r{revision}");
                let (a, b) = (self.ops.all[one].evidence(), self.ops.all[other].evidence());
                let violation = Violation::new("revision-unique", message, [a, b].concat());
                self.condemned.insert(Subject::Op(other), (violation, false));
            }
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
                let context =
                    Context { store: &self.store, serializable: false, revision, inner: false };
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
            let message =
                format!("acknowledged at r{revision}, and the log ends at r{}", truth.revision());
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
            self.choose(revision, chosen, Cursor::default(), BTreeSet::new());
            return Next::GoOn;
        }
        self.store.undo_to(revision - 1);
        if let Some((chosen, cursor)) = self.next_candidate(revision, Cursor::default()) {
            self.choose(revision, chosen, cursor, BTreeSet::new());
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

    /// Goes on behind a gap that can't be explained: with somebody who fits if watches are not believed,
    /// or with what somebody knows to have happened; else the replay ends here.
    fn give_up(&mut self, revision: i64) -> Next {
        if let Some((chosen, cursor)) = self.next_candidate(revision, Cursor::LAST_RESORT) {
            self.excused.insert(revision);
            self.choose(revision, chosen, cursor, BTreeSet::new());
            return Next::GoOn;
        }
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

    fn choose(
        &mut self,
        revision: i64,
        chosen: Candidate,
        cursor: Cursor,
        conflict: BTreeSet<Keys>,
    ) {
        if let Candidate::Op(number) = chosen {
            self.gaps.used[number] = true;
        }
        self.choices.push(Choice { revision, chosen, cursor, conflict });
    }

    /// Checks every answer given at a revision, the store being there.
    fn observe(&mut self, revision: i64) -> Next {
        let mut at = seek(&self.observers, self.hints.1, revision);
        self.hints.1 = at;
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
        if self.truth.is_some() || self.choices.is_empty() {
            return Next::GoOn;
        }
        // What watches and final states show may speak against a guess. If it is they that are wrong,
        // their own checkers say so: the words here are only printed if the search gave up.
        if let Some(event) = self.gaps.contradicted(&self.store) {
            let keys = BTreeSet::from([(event.kv.key.clone(), Blob::default())]);
            let words = format!("r{revision} does not fit the event of {}", event.kv.key);
            let silent = Violation::new("watch", words, Vec::new());
            if self.mismatch(Subject::Shown(revision), silent, keys) == Next::Again {
                return Next::Again;
            }
        }
        let mut states = self.states.iter().filter(|state| state.revision == revision);
        if states.any(|state| state.kvs.as_ref().is_some_and(|kvs| !self.store.all().eq(kvs))) {
            let keys = BTreeSet::from([(Blob::new(OPEN_END), Blob::new(OPEN_END))]);
            let words = format!("r{revision} does not fit a member's keys");
            let silent = Violation::new("final-state", words, Vec::new());
            return self.mismatch(Subject::Shown(revision), silent, keys);
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
            changed
                .then(|| ("effect", "the model changes keys, the answer says none changed".into()))
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
        let subject = self.failure.as_ref().expect("going back follows a mismatch").subject;
        // First only explanations that concern the keys in question: nearly always enough. Others can
        // matter too, since whoever is moved makes room for somebody else.
        let narrow = !self.searched.contains(&subject);
        let mut from = self.gaps.relevant_from(self.ops, &keys);
        while self.budget > 0
            && let Some(choice) = self.pop()
        {
            if choice.revision < from {
                continue;
            }
            let Choice { revision, chosen, mut cursor, mut conflict } = choice;
            conflict.extend(keys);
            let any = !narrow || self.gaps.concerns(self.ops, chosen, &conflict);
            while let Some((other, next)) = self.next_candidate(revision, cursor) {
                if any || self.gaps.concerns(self.ops, other, &conflict) {
                    self.choose(revision, other, next, conflict);
                    return;
                }
                self.store.undo_to(revision - 1);
                cursor = next;
            }
            // Whoever took this gap's candidates away, or changed what they do, is to blame as well.
            if !narrow {
                conflict.extend(self.gaps.candidate_keys(self.ops, revision));
            }
            keys = conflict;
            from = self.gaps.relevant_from(self.ops, &keys);
        }
        // No way round the first mismatch, or no budget to find one: look further, or report it, and go
        // the first way.
        let first = self.failure.take().expect("going back follows a mismatch");
        while self.pop().is_some() {}
        if !narrow || self.budget == 0 {
            self.condemned.insert(first.subject, (first.violation, self.budget == 0));
        }
        self.searched.insert(first.subject);
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
        for revision in &self.excused {
            self.condemned.remove(&Subject::Gap(*revision));
        }
        let (mut violations, mut undecided) = (Vec::new(), Vec::new());
        for (subject, (violation, open)) in std::mem::take(&mut self.condemned) {
            match subject {
                Subject::Shown(_) if !open => {}
                _ if open => undecided.push(violation),
                _ => violations.push(violation),
            }
        }
        let mut lease_ends = Vec::new();
        let mut guessed: BTreeMap<i64, BTreeSet<Keys>> = BTreeMap::new();
        let mut past = if self.choices.is_empty() { Etcd::default() } else { self.store.clone() };
        for Choice { revision, chosen, .. } in self.choices.iter().rev() {
            past.undo_to(*revision);
            let truth = self.truth.filter(|truth| *revision <= truth.revision());
            let truth = truth.map(|truth| truth.at(*revision));
            match (self.gaps.doubt(&mut past, self.ops, *revision, *chosen, truth), chosen) {
                (Doubt::What, _) => {
                    guessed.insert(*revision, self.gaps.candidate_keys(self.ops, *revision));
                }
                (Doubt::None, Candidate::Lease(lease)) => {
                    lease_ends.push(LeaseEnd { lease: *lease, revision: *revision });
                }
                _ => {}
            }
        }
        // A key may have left its lease at an earlier gap, if somebody else made that: then another lease ended.
        let may_have_left = |key: &Blob, revision: i64| {
            let attached =
                self.store.timeline().get(key, revision - 1).map_or(0, |kv| kv.mod_revision);
            guessed.range(attached..revision).any(|(at, _)| {
                let keys = self.gaps.operations_keys(self.ops, *at);
                keys.iter().any(|(start, end)| in_range(key, start, end))
            })
        };
        lease_ends.retain(|end: &LeaseEnd| {
            let ended = self.store.timeline().at(end.revision);
            !ended.iter().any(|change| may_have_left(&change.kv.key, end.revision))
        });
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
        // Whether another explanation of the gaps may still fit a state: the search for one was cut short.
        let open =
            |revision| matches!(self.condemned.get(&Subject::Shown(revision)), Some((_, true)));
        for (number, state) in states.iter().enumerate() {
            let FinalState { node, revision, .. } = state;
            if *revision < claimed {
                let (_, op) = self.writes[self.writes.len() - 1];
                let message =
                    format!("node {node} ends at r{revision}, r{claimed} was acknowledged");
                let evidence = self.ops.all[op].evidence();
                found.push((Violation::new("final-state", message, evidence), false));
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
                    let violation = Violation::new("final-state", message, Vec::new());
                    found.push((violation, open(*revision)));
                }
            }
            for other in &states[..number] {
                let comparable =
                    (other.revision, other.compact_revision) == (*revision, state.compact_revision);
                if comparable
                    && let (Some(a), Some(b)) = (other.hash, state.hash)
                    && a != b
                {
                    let message = format!(
                        "nodes {} and {node} hash to {a:08x} and {b:08x} at r{revision}",
                        other.node
                    );
                    found.push((Violation::new("final-state", message, Vec::new()), false));
                }
            }
        }
        for (number, violation) in found.into_iter().enumerate() {
            let subject = Subject::Revision(-1 - i64::try_from(number).expect("few"));
            self.condemned.insert(subject, violation);
        }
    }
}
