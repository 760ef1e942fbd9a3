//! Linearizability without any hint about the order: the search of Wing and Gong with Lowe's cache, as
//! known from Porcupine.
//!
//! All calls and returns stand in one list in real-time order. The search walks it: a call whose effect
//! the model allows now is *linearized* (it and its return leave the list, the walk starts over); at the
//! return of an operation not linearized yet the last linearized one is taken back and the walk goes on
//! behind it. A pair (set of linearized operations, state) seen before is not entered again.
//!
//! An operation of unknown outcome has no return: it may be linearized at any time after its call, or
//! never. The search is exponential in the number of operations open at once, so it has a budget.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A sequential object.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// An operation together with what it returned, if that is known.
    type Op;

    /// The state before everything.
    fn init(&self) -> Self::State;
    /// The state after the operation, or none if it can't return what it returned.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// One operation with its place in real time.
#[derive(Clone, Debug)]
pub struct Call<Op> {
    /// When it was invoked.
    pub call: usize,
    /// When it returned; none if its outcome is unknown.
    pub ret: Option<usize>,
    /// What was done and returned.
    pub op: Op,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is an order that explains everything.
    Ok,
    /// There is none. The longest explained part got stuck at the return of this call.
    Violation {
        /// Its place in the given list.
        stuck: usize,
        /// How many operations the longest part explains.
        explained: usize,
    },
    /// The budget ended first.
    Undecided,
}

/// Searches for an order of the calls that the model allows, in at most `budget` steps.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Op>], budget: u64) -> Outcome {
    Search::new(model, calls).run(budget)
}

const NONE: usize = usize::MAX;

/// A set of linearized operations (its words, and how many full ones stand before them) and a state.
type Noted<State> = (Box<[u64]>, usize, State);

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    /// Entry 2·i is the call of i, 2·i+1 its return; the last entry is the head of the list.
    next: Vec<usize>,
    prev: Vec<usize>,
    done: Vec<u64>,
    /// Sum (xor) of the marks of the linearized operations: changes in one step.
    done_hash: u64,
    seen: HashMap<u64, Vec<Noted<M::State>>>,
}

/// A number that is the operation's own in the hash of a set of operations.
fn mark(i: usize) -> u64 {
    let mut x = (i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op>]) -> Self {
        let mut entries: Vec<(usize, usize)> = Vec::with_capacity(calls.len() * 2);
        for (i, call) in calls.iter().enumerate() {
            entries.push((call.call, 2 * i));
            entries.extend(call.ret.map(|ret| (ret, 2 * i + 1)));
        }
        entries.sort_unstable();
        let head = calls.len() * 2;
        let mut search = Search {
            model,
            calls,
            next: vec![NONE; head + 1],
            prev: vec![NONE; head + 1],
            done: vec![0; calls.len().div_ceil(64)],
            done_hash: 0,
            seen: HashMap::new(),
        };
        let mut last = head;
        for (_, entry) in entries {
            search.next[last] = entry;
            search.prev[entry] = last;
            last = entry;
        }
        search
    }

    fn run(mut self, mut budget: u64) -> Outcome {
        let head = self.calls.len() * 2;
        let mut state = self.model.init();
        let mut taken: Vec<(usize, M::State)> = Vec::new();
        let mut left = self.calls.iter().filter(|call| call.ret.is_some()).count();
        let mut best = (0, NONE);
        let mut at = self.next[head];
        while left > 0 {
            if budget == 0 {
                return Outcome::Undecided;
            }
            budget -= 1;
            let i = at / 2;
            if at != NONE && at.is_multiple_of(2) {
                let after = self.model.step(&state, &self.calls[i].op);
                self.toggle(i);
                if let Some(after) = after
                    && self.enter(&after)
                {
                    taken.push((i, std::mem::replace(&mut state, after)));
                    left -= usize::from(self.calls[i].ret.is_some());
                    self.unlink(i);
                    at = self.next[head];
                } else {
                    self.toggle(i);
                    at = self.next[at];
                }
                continue;
            }
            // A return that nothing explains (or the end of the list, before all have returned).
            if best.1 == NONE || taken.len() > best.0 {
                best = (taken.len(), i);
            }
            let Some((back, before)) = taken.pop() else {
                return Outcome::Violation { stuck: best.1, explained: best.0 };
            };
            state = before;
            left += usize::from(self.calls[back].ret.is_some());
            self.toggle(back);
            self.relink(back);
            at = self.next[2 * back];
        }
        Outcome::Ok
    }

    fn toggle(&mut self, i: usize) {
        self.done[i / 64] ^= 1 << (i % 64);
        self.done_hash ^= mark(i);
    }

    /// Notes the pair of the present set and `state`; false if it was noted before.
    fn enter(&mut self, state: &M::State) -> bool {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        self.done_hash.hash(&mut hasher);
        // Stored without the full words in front and the empty ones behind: mostly a word or two.
        let first = self.done.iter().take_while(|word| **word == u64::MAX).count();
        let last =
            self.done.iter().rposition(|word| *word != 0).map_or(first, |at| (at + 1).max(first));
        let words = &self.done[first..last];
        let known = self.seen.entry(hasher.finish()).or_default();
        if known.iter().any(|(w, f, s)| *f == first && **w == *words && s == state) {
            return false;
        }
        known.push((words.into(), first, state.clone()));
        true
    }

    fn unlink(&mut self, i: usize) {
        for entry in [2 * i, 2 * i + 1] {
            if self.prev[entry] != NONE {
                let (prev, next) = (self.prev[entry], self.next[entry]);
                self.next[prev] = next;
                if next != NONE {
                    self.prev[next] = prev;
                }
            }
        }
    }

    /// Undoes `unlink`; right only in the reverse order of the unlinks.
    fn relink(&mut self, i: usize) {
        for entry in [2 * i + 1, 2 * i] {
            if self.prev[entry] != NONE {
                let (prev, next) = (self.prev[entry], self.next[entry]);
                self.next[prev] = entry;
                if next != NONE {
                    self.prev[next] = entry;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter whose `Some(n)` is a read of n and `None` an increment.
    struct Counter;
    impl Model for Counter {
        type State = u32;
        type Op = Option<u32>;
        fn init(&self) -> u32 {
            0
        }
        fn step(&self, state: &u32, op: &Option<u32>) -> Option<u32> {
            match op {
                None => Some(state + 1),
                Some(n) => (n == state).then_some(*state),
            }
        }
    }

    fn call(call: usize, ret: Option<usize>, op: Option<u32>) -> Call<Option<u32>> {
        Call { call, ret, op }
    }

    #[test]
    fn overlapping_calls_may_take_either_order() {
        let calls = [call(0, Some(3), None), call(1, Some(2), Some(0)), call(4, Some(5), Some(1))];
        assert_eq!(search(&Counter, &calls, 1000), Outcome::Ok);
    }

    #[test]
    fn a_read_after_a_return_must_see_it() {
        let calls = [call(0, Some(1), None), call(2, Some(3), Some(0))];
        assert_eq!(search(&Counter, &calls, 1000), Outcome::Violation { stuck: 1, explained: 1 });
    }

    #[test]
    fn an_unknown_call_happens_late_or_never() {
        let late = [call(0, None, None), call(1, Some(2), Some(0)), call(3, Some(4), Some(1))];
        assert_eq!(search(&Counter, &late, 1000), Outcome::Ok);
        let back = [call(0, None, None), call(1, Some(2), Some(1)), call(3, Some(4), Some(0))];
        assert!(matches!(search(&Counter, &back, 1000), Outcome::Violation { .. }));
    }

    #[test]
    fn the_budget_ends_a_search() {
        let calls: Vec<_> = (0..40).map(|i| call(i, Some(100 + i), None)).collect();
        let calls = [calls, vec![call(200, Some(201), Some(7))]].concat();
        assert_eq!(search(&Counter, &calls, 30), Outcome::Undecided);
    }
}
