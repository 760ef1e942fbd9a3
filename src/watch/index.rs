//! Which watchers want to hear about a key: ranges filed so that one key finds all of them quickly.
//!
//! Watchers of exactly one key are in an ordered map by that key. All other ranges are nodes of a treap
//! (a binary search tree that is a heap by a drawn priority, and so is balanced whatever the order of
//! insertion): ordered by start, each node knowing the farthest end in its subtree. A key descends only
//! where some range still reaches beyond it, which costs O(log ranges + found). Watchers with the same
//! range share a node: a thousand clients that watch one prefix are one node.
//!
//! The priorities come from a counter, not from chance: two nodes that are fed alike answer alike.
//!
//! Invariants
//! - Ranges are not empty; each (range, watcher) is filed at most once; no node is without watchers.
//! - Left subtrees are before, right ones after their node; no child has a higher priority than its parent.
//! - `reach` is the farthest end in a subtree.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::command::{KeyRange, RangeEnd};

/// A watcher's place in the hub.
pub(super) type WatcherKey = u32;

const NONE: u32 = u32::MAX;

/// Ranges and their watchers.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Bytes, Vec<WatcherKey>>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: Root,
    drawn: u64,
    len: usize,
}

#[derive(Debug)]
struct Root(u32);

impl Default for Root {
    fn default() -> Self {
        Self(NONE)
    }
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: RangeEnd,
    reach: RangeEnd,
    priority: u64,
    left: u32,
    right: u32,
    watchers: Vec<WatcherKey>,
}

impl Index {
    /// Files a watcher.
    pub fn insert(&mut self, range: &KeyRange, watcher: WatcherKey) {
        debug_assert!(!range.is_empty(), "an empty range is refused before");
        self.len += 1;
        match range {
            KeyRange::One(key) => file(self.keys.entry(key.clone()).or_default(), watcher),
            KeyRange::Span { start, end } => {
                if let Some(node) = self.find(start, end) {
                    file(&mut self.nodes[place(node)].watchers, watcher);
                    return;
                }
                let node = self.new_node(start.clone(), end.clone(), watcher);
                let (left, right) = self.split(self.root.0, start, end);
                let left = self.merge(left, node);
                self.root.0 = self.merge(left, right);
            }
        }
    }

    /// Takes a watcher out; it must be filed under this range.
    pub fn remove(&mut self, range: &KeyRange, watcher: WatcherKey) {
        self.len -= 1;
        match range {
            KeyRange::One(key) => {
                let watchers = self.keys.get_mut(key).expect("the watcher is filed");
                unfile(watchers, watcher);
                if watchers.is_empty() {
                    self.keys.remove(key);
                }
            }
            KeyRange::Span { start, end } => {
                let node = self.find(start, end).expect("the watcher is filed");
                let watchers = &mut self.nodes[place(node)].watchers;
                unfile(watchers, watcher);
                if watchers.is_empty() {
                    self.root.0 = self.remove_node(self.root.0, node);
                    self.free.push(node);
                }
            }
        }
    }

    /// Calls `found` with each watcher whose range contains `key`, in an order that depends on the history
    /// of this index alone.
    pub fn matching(&self, key: &[u8], found: &mut impl FnMut(WatcherKey)) {
        if let Some(watchers) = self.keys.get(key) {
            watchers.iter().copied().for_each(&mut *found);
        }
        self.stab(self.root.0, key, found);
    }

    /// Returns how many watchers are filed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether no watcher is filed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn stab(&self, node: u32, key: &[u8], found: &mut impl FnMut(WatcherKey)) {
        if node == NONE {
            return;
        }
        let here = &self.nodes[place(node)];
        if !here.reach.is_after(key) {
            return;
        }
        self.stab(here.left, key, found);
        if here.start.as_ref() <= key {
            if here.end.is_after(key) {
                here.watchers.iter().copied().for_each(&mut *found);
            }
            self.stab(here.right, key, found);
        }
    }

    fn find(&self, start: &Bytes, end: &RangeEnd) -> Option<u32> {
        let mut node = self.root.0;
        while node != NONE {
            let here = &self.nodes[place(node)];
            node = match by_range((start, end), (&here.start, &here.end)) {
                Ordering::Less => here.left,
                Ordering::Greater => here.right,
                Ordering::Equal => return Some(node),
            };
        }
        None
    }

    fn new_node(&mut self, start: Bytes, end: RangeEnd, watcher: WatcherKey) -> u32 {
        self.drawn += 1;
        let node = Node {
            start,
            reach: end.clone(),
            end,
            priority: scatter(self.drawn),
            left: NONE,
            right: NONE,
            watchers: vec![watcher],
        };
        if let Some(free) = self.free.pop() {
            self.nodes[place(free)] = node;
            return free;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("there are fewer ranges than that")
    }

    /// Splits a subtree into what is before the range and what is after it.
    fn split(&mut self, node: u32, start: &Bytes, end: &RangeEnd) -> (u32, u32) {
        if node == NONE {
            return (NONE, NONE);
        }
        let here = &self.nodes[place(node)];
        let (left, right) = (here.left, here.right);
        if by_range((&here.start, &here.end), (start, end)) == Ordering::Less {
            let (between, after) = self.split(right, start, end);
            self.nodes[place(node)].right = between;
            self.update(node);
            (node, after)
        } else {
            let (before, between) = self.split(left, start, end);
            self.nodes[place(node)].left = between;
            self.update(node);
            (before, node)
        }
    }

    /// Joins two subtrees, all of `left` being before all of `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.nodes[place(left)].priority >= self.nodes[place(right)].priority {
            let inner = self.nodes[place(left)].right;
            self.nodes[place(left)].right = self.merge(inner, right);
            self.update(left);
            left
        } else {
            let inner = self.nodes[place(right)].left;
            self.nodes[place(right)].left = self.merge(left, inner);
            self.update(right);
            right
        }
    }

    fn remove_node(&mut self, at: u32, gone: u32) -> u32 {
        if at == gone {
            let (left, right) = (self.nodes[place(at)].left, self.nodes[place(at)].right);
            return self.merge(left, right);
        }
        let (here, target) = (&self.nodes[place(at)], &self.nodes[place(gone)]);
        let (left, right) = (here.left, here.right);
        if by_range((&target.start, &target.end), (&here.start, &here.end)) == Ordering::Less {
            self.nodes[place(at)].left = self.remove_node(left, gone);
        } else {
            self.nodes[place(at)].right = self.remove_node(right, gone);
        }
        self.update(at);
        at
    }

    fn update(&mut self, node: u32) {
        let here = &self.nodes[place(node)];
        let mut reach = &here.end;
        for child in [here.left, here.right] {
            if child != NONE {
                let other = &self.nodes[place(child)].reach;
                if by_end(other, reach) == Ordering::Greater {
                    reach = other;
                }
            }
        }
        let reach = reach.clone();
        self.nodes[place(node)].reach = reach;
    }

    /// Asserts the invariants; `each` is told every filed range and watcher.
    pub fn check(&self, each: &mut impl FnMut(KeyRange, WatcherKey)) {
        let mut count = 0;
        for (key, watchers) in &self.keys {
            assert!(!watchers.is_empty(), "a key without watchers");
            count += watchers.len();
            watchers.iter().for_each(|w| each(KeyRange::One(key.clone()), *w));
        }
        count += self.check_node(self.root.0, each).0;
        assert_eq!(count, self.len, "the index has lost count");
    }

    fn check_node(
        &self,
        node: u32,
        each: &mut impl FnMut(KeyRange, WatcherKey),
    ) -> (usize, Option<RangeEnd>) {
        if node == NONE {
            return (0, None);
        }
        let here = &self.nodes[place(node)];
        assert!(!here.watchers.is_empty(), "a range without watchers");
        let (left, left_reach) = self.check_node(here.left, each);
        let range = KeyRange::Span { start: here.start.clone(), end: here.end.clone() };
        here.watchers.iter().for_each(|w| each(range.clone(), *w));
        let (right, right_reach) = self.check_node(here.right, each);
        for (child, before) in [(here.left, true), (here.right, false)] {
            if child != NONE {
                let child = &self.nodes[place(child)];
                assert!(child.priority <= here.priority, "a child above its parent");
                let order = by_range((&child.start, &child.end), (&here.start, &here.end));
                assert_eq!(order == Ordering::Less, before, "ranges out of order");
            }
        }
        let ends = [left_reach, right_reach].into_iter().flatten().chain([here.end.clone()]);
        let reach = ends.max_by(by_end).expect("the node itself has an end");
        assert_eq!(reach, here.reach, "a wrong reach");
        (left + right + here.watchers.len(), Some(reach))
    }
}

fn place(node: u32) -> usize {
    usize::try_from(node).expect("32 bits fit")
}

fn file(watchers: &mut Vec<WatcherKey>, watcher: WatcherKey) {
    let at = watchers.binary_search(&watcher).expect_err("a watcher is filed once");
    watchers.insert(at, watcher);
}

fn unfile(watchers: &mut Vec<WatcherKey>, watcher: WatcherKey) {
    let at = watchers.binary_search(&watcher).expect("the watcher is filed");
    watchers.remove(at);
}

fn by_range(a: (&Bytes, &RangeEnd), b: (&Bytes, &RangeEnd)) -> Ordering {
    a.0.cmp(b.0).then_with(|| by_end(a.1, b.1))
}

fn by_end(a: &RangeEnd, b: &RangeEnd) -> Ordering {
    match (a, b) {
        (RangeEnd::Open, RangeEnd::Open) => Ordering::Equal,
        (RangeEnd::Open, RangeEnd::Before(_)) => Ordering::Greater,
        (RangeEnd::Before(_), RangeEnd::Open) => Ordering::Less,
        (RangeEnd::Before(a), RangeEnd::Before(b)) => a.cmp(b),
    }
}

/// Spreads consecutive numbers over 64 bits (the finaliser of splitmix64).
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_range() -> impl Strategy<Value = KeyRange> {
        let key = "[a-d]{0,3}".prop_map(|s| Bytes::from(s.into_bytes()));
        let end = prop_oneof![
            3 => "[a-e]{1,3}".prop_map(|s| Bytes::from(s.into_bytes())),
            1 => Just(Bytes::from_static(&[0])),
            2 => Just(Bytes::new()),
        ];
        (key, end).prop_map(|(key, end)| KeyRange::from_wire(key, end))
    }

    proptest! {
        #[test]
        fn a_key_finds_exactly_the_ranges_that_contain_it(
            steps in prop::collection::vec((any_range(), any::<prop::sample::Index>(), 0..3), 1..80),
            keys in prop::collection::vec("[a-e]{0,4}", 12),
        ) {
            let mut index = Index::default();
            let mut model: Vec<(KeyRange, WatcherKey)> = Vec::new();
            for (next, (range, which, kind)) in (0..).zip(steps) {
                if kind == 0 && !model.is_empty() {
                    let (range, watcher) = model.swap_remove(which.index(model.len()));
                    index.remove(&range, watcher);
                } else if !range.is_empty() {
                    index.insert(&range, next);
                    model.push((range, next));
                }
                let mut filed = Vec::new();
                index.check(&mut |range, watcher| filed.push((range, watcher)));
                prop_assert_eq!(filed.len(), model.len());
                prop_assert!(model.iter().all(|entry| filed.contains(entry)));
            }
            for key in keys {
                let mut found = Vec::new();
                index.matching(key.as_bytes(), &mut |watcher| found.push(watcher));
                found.sort_unstable();
                let mut wanted: Vec<_> = model
                    .iter()
                    .filter(|(range, _)| range.contains(key.as_bytes()))
                    .map(|(_, watcher)| *watcher)
                    .collect();
                wanted.sort_unstable();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
