//! Cycles between transactions, after Adya and Elle.
//!
//! Who saw whose version orders transactions without any look at their revisions in common:
//! * *ww*: one wrote the version after the other's;
//! * *wr*: one read what the other wrote;
//! * *rw*: one overwrote what the other had read;
//! * *rt*: one ended before the other began.
//!
//! A strictly serializable history has no cycle of such edges. Strongly connected components (Tarjan)
//! find the cycles, and a shortest one of each component is reported (`serial`), with its class: G0 (ww
//! only), G1c (ww and wr), G-single (one rw), G2 (more), each with «-realtime» if an rt edge is needed.
//!
//! The order of a key's versions comes from etcd's mod revisions (a whole history), from the lists
//! read ([`list_append`]), or from transactions that read and then write ([`registers`], unique values).
//! Where a version's writer is unknown, edges go to the next one that is known: never wrong, only fewer.

use crate::blob::Blob;
use crate::op::{Operation, Range, Reply, Txn};
use crate::ops::{Op, Ops};
use crate::verdict::{Options, Verdict, Violation};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// A version of a key; 0 is the one before all writes.
pub type Version = u64;

/// What a transaction read and wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// When it was invoked.
    pub call: usize,
    /// When it returned; none if its outcome is unknown or it was allowed to be stale (no rt edges).
    pub ret: Option<usize>,
    /// Keys and the versions read, other than its own.
    pub reads: Vec<(Blob, Version)>,
    /// Keys and the versions written.
    pub writes: Vec<(Blob, Version)>,
}

/// What an edge is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Edge {
    Ww,
    Wr,
    Rw,
    Rt,
}

/// A cycle: each transaction's place, with the edge to the next (the last one's leads to the first).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The transactions and edges.
    pub steps: Vec<(usize, Edge)>,
}

impl Cycle {
    /// Adya's class of the cycle.
    pub fn class(&self) -> &'static str {
        let has = |edge| self.steps.iter().filter(|(_, other)| *other == edge).count();
        match (has(Edge::Rw), has(Edge::Wr), has(Edge::Rt)) {
            (0, 0, 0) => "G0",
            (0, _, 0) => "G1c",
            (1, _, 0) => "G-single",
            (_, _, 0) => "G2",
            (0, 0, _) => "G0-realtime",
            (0, _, _) => "G1c-realtime",
            (1, _, _) => "G-single-realtime",
            _ => "G2-realtime",
        }
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.class())?;
        self.steps.iter().try_for_each(|(at, edge)| {
            write!(f, " T{at} -{}→", format!("{edge:?}").to_lowercase())
        })?;
        write!(f, " T{}", self.steps[0].0)
    }
}

/// For each key, pairs of a version and one that comes after it.
type Successors = BTreeMap<Blob, BTreeMap<Version, BTreeSet<Version>>>;

/// Finds a shortest cycle in each set of transactions that have one.
pub fn cycles(transactions: &[Transaction], orders: &BTreeMap<Blob, Vec<Version>>) -> Vec<Cycle> {
    let written: BTreeSet<(&Blob, Version)> =
        transactions.iter().flat_map(|txn| txn.writes.iter().map(|(key, v)| (key, *v))).collect();
    let mut successors = Successors::new();
    for (key, order) in orders {
        let mut next = None;
        for &version in order.iter().rev() {
            if let Some(next) = next {
                let after = successors.entry(key.clone()).or_default();
                after.entry(version).or_default().insert(next);
            }
            if written.contains(&(key, version)) {
                next = Some(version);
            }
        }
    }
    Graph::new(transactions, &successors).cycles()
}

struct Graph {
    edges: Vec<Vec<(usize, Edge)>>,
}

impl Graph {
    fn new(transactions: &[Transaction], successors: &Successors) -> Self {
        let mut graph = Graph { edges: vec![Vec::new(); transactions.len()] };
        let mut writers: BTreeMap<(&Blob, Version), usize> = BTreeMap::new();
        for (at, txn) in transactions.iter().enumerate() {
            writers.extend(txn.writes.iter().map(|(key, version)| ((key, *version), at)));
        }
        let after = |key: &Blob, version: Version| {
            let all = successors.get(key).and_then(|after| after.get(&version));
            let known = all.into_iter().flatten().filter_map(|next| writers.get(&(key, *next)));
            known.copied().collect::<Vec<usize>>()
        };
        for (at, txn) in transactions.iter().enumerate() {
            for (key, version) in &txn.writes {
                after(key, *version).into_iter().for_each(|next| graph.add(at, next, Edge::Ww));
            }
            for (key, version) in &txn.reads {
                if let Some(&writer) = writers.get(&(key, *version)) {
                    graph.add(writer, at, Edge::Wr);
                }
                after(key, *version).into_iter().for_each(|next| graph.add(at, next, Edge::Rw));
            }
        }
        graph.add_real_time(transactions);
        graph
    }

    fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges[from].push((to, edge));
        }
    }

    /// Adds the edges of real time that follow from no others: from each transaction that ended before
    /// and whose end no other's whole span lies behind.
    fn add_real_time(&mut self, transactions: &[Transaction]) {
        let mut moments: Vec<(usize, bool, usize)> = Vec::new();
        for (at, txn) in transactions.iter().enumerate() {
            if let Some(ret) = txn.ret {
                moments.push((txn.call, false, at));
                moments.push((ret, true, at));
            }
        }
        moments.sort_unstable();
        let mut frontier: BTreeSet<usize> = BTreeSet::new();
        let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (_, ends, at) in moments {
            if ends {
                for other in before.remove(&at).unwrap_or_default() {
                    frontier.remove(&other);
                }
                frontier.insert(at);
            } else {
                frontier.iter().for_each(|&other| self.add(other, at, Edge::Rt));
                before.insert(at, frontier.iter().copied().collect());
            }
        }
    }

    fn cycles(&self) -> Vec<Cycle> {
        let (component, count) = self.components();
        let mut sizes = vec![0usize; count];
        component.iter().for_each(|&c| sizes[c] += 1);
        let mut done = BTreeSet::new();
        let mut found = Vec::new();
        for at in 0..self.edges.len() {
            let c = component[at];
            if sizes[c] > 1 && done.insert(c) {
                found.push(self.shortest(c, &component));
            }
        }
        found
    }

    /// The shortest cycle through some members of a component; edges of data go before those of time.
    fn shortest(&self, wanted: usize, component: &[usize]) -> Cycle {
        let members = (0..component.len()).filter(|&at| component[at] == wanted);
        let found = members.take(64).map(|start| {
            let mut from: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
            let mut queue = VecDeque::from([start]);
            while let Some(at) = queue.pop_front() {
                for &(to, edge) in &self.edges[at] {
                    if component[to] == wanted && !from.contains_key(&to) {
                        from.insert(to, (at, edge));
                        queue.push_back(to);
                    }
                }
                if from.contains_key(&start) {
                    break;
                }
            }
            let mut steps = Vec::new();
            let mut at = start;
            loop {
                let (before, edge) = from[&at];
                steps.push((before, edge));
                at = before;
                if at == start {
                    break;
                }
            }
            steps.reverse();
            Cycle { steps }
        });
        found
            .min_by_key(|cycle| {
                let times = cycle.steps.iter().filter(|(_, edge)| *edge == Edge::Rt).count();
                (cycle.steps.len(), times)
            })
            .expect("a component has members")
    }

    /// Tarjan's strongly connected components, without recursion.
    fn components(&self) -> (Vec<usize>, usize) {
        const UNSEEN: usize = usize::MAX;
        let n = self.edges.len();
        let (mut index, mut low, mut component) = (vec![UNSEEN; n], vec![0; n], vec![UNSEEN; n]);
        let (mut stack, mut path, mut counter, mut count) = (Vec::new(), Vec::new(), 0, 0);
        for root in 0..n {
            if index[root] != UNSEEN {
                continue;
            }
            path.push((root, 0));
            while let Some(&mut (at, ref mut edge)) = path.last_mut() {
                if *edge == 0 {
                    index[at] = counter;
                    low[at] = counter;
                    counter += 1;
                    stack.push(at);
                }
                if let Some(&(to, _)) = self.edges[at].get(*edge) {
                    *edge += 1;
                    if index[to] == UNSEEN {
                        path.push((to, 0));
                    } else if component[to] == UNSEEN {
                        low[at] = low[at].min(index[to]);
                    }
                    continue;
                }
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    low[parent] = low[parent].min(low[at]);
                }
                if low[at] == index[at] {
                    while let Some(member) = stack.pop() {
                        component[member] = count;
                        if member == at {
                            break;
                        }
                    }
                    count += 1;
                }
            }
        }
        (component, count)
    }
}

/// An operation of a list-append transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListOp {
    /// Appends a value that nobody else appends to this key (not 0).
    Append(Blob, u64),
    /// Reads the whole list.
    Read(Blob, Vec<u64>),
}

/// A transaction on lists; one of unknown outcome has no `ret`, and its reads are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListTransaction {
    /// When it was invoked.
    pub call: usize,
    /// When it returned.
    pub ret: Option<usize>,
    /// What it did, in order.
    pub ops: Vec<ListOp>,
}

/// Judges list-append transactions: `serial` for cycles, `serial-order` for lists that are not prefixes
/// of one another or hold a value twice, `serial-phantom` for values that nobody appended.
pub fn list_append(transactions: &[ListTransaction]) -> Vec<Violation> {
    let mut orders: BTreeMap<Blob, Vec<Version>> = BTreeMap::new();
    let mut appended: BTreeSet<(&Blob, u64)> = BTreeSet::new();
    let mut found = Vec::new();
    for txn in transactions {
        for op in &txn.ops {
            match op {
                ListOp::Append(key, value) => {
                    appended.insert((key, *value));
                }
                ListOp::Read(key, values) if txn.ret.is_some() => {
                    let longest = orders.entry(key.clone()).or_default();
                    let common = longest.iter().zip(values).all(|(a, b)| a == b);
                    let unique = values.iter().collect::<BTreeSet<_>>().len() == values.len();
                    if !common || !unique {
                        let message = format!("{key} was read as {values:?} and as {longest:?}");
                        found.push(Violation::new("serial-order", message, vec![txn.call]));
                    } else if values.len() > longest.len() {
                        longest.clone_from(values);
                    }
                }
                ListOp::Read(..) => {}
            }
        }
    }
    for (key, order) in &mut orders {
        for value in order.iter().filter(|value| !appended.contains(&(key, **value))) {
            let message = format!("{key} holds {value}, which nobody appended");
            found.push(Violation::new("serial-phantom", message, Vec::new()));
        }
        order.insert(0, 0);
    }
    let plain: Vec<Transaction> = transactions.iter().map(plain_list).collect();
    found.extend(cycles(&plain, &orders).iter().map(|cycle| report(cycle, &plain)));
    found
}

fn plain_list(txn: &ListTransaction) -> Transaction {
    let mut plain = Transaction { call: txn.call, ret: txn.ret, ..Transaction::default() };
    for op in &txn.ops {
        match op {
            ListOp::Append(key, value) => plain.writes.push((key.clone(), *value)),
            ListOp::Read(key, values) if txn.ret.is_some() => {
                let version = values.last().copied().unwrap_or(0);
                if !plain.writes.contains(&(key.clone(), version)) {
                    plain.reads.push((key.clone(), version));
                }
            }
            ListOp::Read(..) => {}
        }
    }
    plain
}

/// Judges transactions on registers with unique values (a version is the value), ordered only by those
/// that read a key and then wrote it.
pub fn registers(transactions: &[Transaction]) -> Vec<Violation> {
    let mut successors = Successors::new();
    for txn in transactions {
        for (key, from) in &txn.reads {
            for (_, to) in txn.writes.iter().filter(|(other, _)| other == key) {
                let after = successors.entry(key.clone()).or_default();
                after.entry(*from).or_default().insert(*to);
            }
        }
    }
    let found = Graph::new(transactions, &successors).cycles();
    found.iter().map(|cycle| report(cycle, transactions)).collect()
}

fn report(cycle: &Cycle, transactions: &[Transaction]) -> Violation {
    let evidence = cycle.steps.iter().map(|(at, _)| transactions[*at].call).collect();
    Violation::new("serial", cycle.to_string(), evidence)
}

/// Judges the acknowledged operations of a history, versions being mod revisions.
pub(crate) fn check(ops: &Ops<'_>, options: &Options, verdict: &mut Verdict) {
    let part = &ops.all[..ops.all.len().min(options.serial_operations)];
    // A key that may vanish has several versions that look alike: absent.
    let mut mortal: BTreeSet<(&Blob, &[u8])> = BTreeSet::new();
    for op in &ops.all {
        mortal_keys(op.operation, &mut mortal);
    }
    let fresh = options.initial.is_none();
    let born_absent = |key: &Blob| {
        fresh && !mortal.iter().any(|(start, end)| crate::op::in_range(key, start, end))
    };
    let transactions: Vec<Transaction> =
        part.iter().filter_map(|op| transaction(op, &born_absent)).collect();
    let mut orders: BTreeMap<Blob, BTreeSet<Version>> = BTreeMap::new();
    for (key, version) in transactions.iter().flat_map(|txn| txn.reads.iter().chain(&txn.writes)) {
        orders.entry(key.clone()).or_default().insert(*version);
    }
    let orders = orders.into_iter().map(|(key, set)| (key, set.into_iter().collect())).collect();
    verdict.stats.transactions = transactions.len();
    let found = cycles(&transactions, &orders);
    verdict.violations.extend(found.iter().map(|cycle| report(cycle, &transactions)));
}

fn mortal_keys<'h>(operation: &'h Operation, mortal: &mut BTreeSet<(&'h Blob, &'h [u8])>) {
    match operation {
        Operation::DeleteRange(delete) => {
            mortal.insert((&delete.key, &delete.range_end));
        }
        Operation::Put(put) if put.lease != 0 => {
            mortal.insert((&put.key, b""));
        }
        Operation::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).for_each(|op| mortal_keys(op, mortal));
        }
        _ => {}
    }
}

fn transaction(op: &Op<'_>, born_absent: &dyn Fn(&Blob) -> bool) -> Option<Transaction> {
    let reply = op.reply()?;
    let ret = op.ret.filter(|_| !op.operation.serializable());
    let mut txn = Transaction { call: op.call, ret, ..Transaction::default() };
    let own = Version::try_from(reply.header().revision).ok()?;
    add(op.operation, reply, own, born_absent, &mut txn);
    txn.reads.retain(|(_, version)| *version != own || !reply.changed());
    (!txn.reads.is_empty() || !txn.writes.is_empty()).then_some(txn)
}

fn add(
    operation: &Operation,
    reply: &Reply,
    own: Version,
    born_absent: &dyn Fn(&Blob) -> bool,
    txn: &mut Transaction,
) {
    match (operation, reply) {
        (Operation::Put(put), _) => txn.writes.push((put.key.clone(), own)),
        (Operation::DeleteRange(delete), Reply::DeleteRange(reply)) => {
            if delete.range_end.is_empty() && reply.deleted > 0 {
                txn.writes.push((delete.key.clone(), own));
            }
            txn.writes.extend(reply.prev_kvs.iter().map(|kv| (kv.key.clone(), own)));
        }
        (Operation::Range(range), Reply::Range(reply)) if range.revision == 0 => {
            for kv in &reply.kvs {
                if let Ok(version) = Version::try_from(kv.mod_revision) {
                    txn.reads.push((kv.key.clone(), version));
                }
            }
            if reply.count == 0 && single(range) && born_absent(&range.key) {
                txn.reads.push((range.key.clone(), 0));
            }
        }
        (Operation::Txn(Txn { success, failure, .. }), Reply::Txn(reply)) => {
            let branch = if reply.succeeded { success } else { failure };
            for (op, reply) in branch.iter().zip(&reply.responses) {
                add(op, reply, own, born_absent, txn);
            }
        }
        _ => {}
    }
}

fn single(range: &Range) -> bool {
    range.range_end.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(call: usize, ret: usize, ops: &[ListOp]) -> ListTransaction {
        ListTransaction { call, ret: Some(ret), ops: ops.to_vec() }
    }

    fn append(key: &str, value: u64) -> ListOp {
        ListOp::Append(key.into(), value)
    }

    fn read(key: &str, values: &[u64]) -> ListOp {
        ListOp::Read(key.into(), values.to_vec())
    }

    fn class(found: &[Violation]) -> Vec<String> {
        found.iter().map(|v| v.message.split(':').next().unwrap().to_string()).collect()
    }

    #[test]
    fn serial_lists_have_no_cycle() {
        let txns = [
            list(0, 1, &[append("x", 1), append("y", 1)]),
            list(2, 5, &[read("x", &[1]), append("x", 2)]),
            list(3, 4, &[read("x", &[1]), read("y", &[1])]),
            list(6, 7, &[read("x", &[1, 2])]),
        ];
        assert_eq!(list_append(&txns), []);
    }

    #[test]
    fn write_skew_is_a_cycle_of_two_overwrites() {
        let txns = [
            list(0, 3, &[read("x", &[]), read("y", &[]), append("x", 1)]),
            list(1, 2, &[read("x", &[]), read("y", &[]), append("y", 1)]),
            list(4, 5, &[read("x", &[1]), read("y", &[1])]),
        ];
        assert_eq!(class(&list_append(&txns)), ["G2"]);
    }

    #[test]
    fn each_class_of_cycle_is_told_apart() {
        let g0 = [
            list(0, 3, &[append("x", 1), append("y", 2)]),
            list(1, 2, &[append("x", 2), append("y", 1)]),
            list(4, 5, &[read("x", &[1, 2]), read("y", &[1, 2])]),
        ];
        assert_eq!(class(&list_append(&g0)), ["G0"]);
        let g1c = [
            list(0, 3, &[append("x", 1), read("y", &[1])]),
            list(1, 2, &[append("y", 1), read("x", &[1])]),
        ];
        assert_eq!(class(&list_append(&g1c)), ["G1c"]);
        let stale = [
            list(0, 1, &[append("x", 1)]),
            list(2, 3, &[read("x", &[])]),
            list(4, 5, &[read("x", &[1])]),
        ];
        assert_eq!(class(&list_append(&stale)), ["G-single-realtime"]);
    }

    #[test]
    fn lists_that_disagree_and_values_from_nowhere_are_reported() {
        let torn = [
            list(0, 1, &[append("x", 1), append("x", 2)]),
            list(2, 3, &[read("x", &[1, 2])]),
            list(4, 5, &[read("x", &[2, 1])]),
        ];
        assert!(list_append(&torn).iter().any(|v| v.checker == "serial-order"));
        let phantom = [list(0, 1, &[read("x", &[7])])];
        assert_eq!(list_append(&phantom)[0].checker, "serial-phantom");
    }

    #[test]
    fn a_lost_update_on_unique_registers_is_a_cycle() {
        let txn = |call, reads: &[u64], writes: &[u64]| Transaction {
            call,
            ret: Some(call + 10),
            reads: reads.iter().map(|v| ("x".into(), *v)).collect(),
            writes: writes.iter().map(|v| ("x".into(), *v)).collect(),
        };
        assert_eq!(registers(&[txn(0, &[0], &[1]), txn(1, &[1], &[2])]), []);
        assert_eq!(class(&registers(&[txn(0, &[0], &[1]), txn(1, &[0], &[2])])), ["G2"]);
    }
}
