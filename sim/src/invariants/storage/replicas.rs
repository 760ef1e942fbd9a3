//! Members that have applied the same entries hold the same, byte for byte (Raft, figure 3: state machine
//! safety; a machine is a function of its log).
//!
//! The stores stand where their last commits left them. So each is first brought forward by its own log, in
//! memory, up to the entry that any of the members knows to be committed. Members that come to one
//! entry are compared. What is a member's own is left out: fences of counts, links between rows, and
//! rows that no reader can reach any more.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstay::command::RowId;
use mainstay::raft::Entry;
use mainstay::storage::Table;
use mainstay::transport::codec;
use mainstay::types::{Index, LogPosition, Revision, Term};

use super::picture::{Opened, Tables};
use crate::invariants::Violation;

/// A member's state at an entry.
#[derive(Clone, Debug)]
pub struct Replica {
    name: String,
    cluster: u64,
    at: LogPosition,
    tables: Tables,
}

/// Brings every member forward as far as its log has what is known to be committed.
pub fn replay(opened: &mut [Opened]) -> Vec<Replica> {
    // By cluster: what is committed, as one of its members' logs has it.
    let mut committed: BTreeMap<(u64, Index), Term> = BTreeMap::new();
    for one in opened.iter() {
        let (cluster, log) = (one.picture.log.metadata.cluster, &one.picture.log);
        let upto = log.hard_state.commit.max(one.picture.applied.index);
        let known = log.entries.iter().filter(|entry| entry.index <= upto);
        committed.extend(known.map(|entry| ((cluster, entry.index), entry.term)));
    }
    opened.iter_mut().map(|one| bring_forward(one, &committed)).collect()
}

fn bring_forward(one: &mut Opened, committed: &BTreeMap<(u64, Index), Term>) -> Replica {
    let cluster = one.picture.log.metadata.cluster;
    let applied = one.machine.applied().index;
    let log = one.picture.log.entries.iter().filter(|entry| entry.index > applied);
    let sure = log.take_while(|entry| committed.get(&(cluster, entry.index)) == Some(&entry.term));
    let entries: Vec<Entry> = sure
        .map(|entry| {
            let payload = codec::decode_payload(entry.kind.into(), entry.data.clone());
            let payload = payload.expect("what was written to the log reads back");
            Entry { term: entry.term, index: entry.index, payload }
        })
        .collect();
    let tables = if entries.is_empty() {
        one.picture.tables.clone()
    } else {
        one.machine.apply(&entries);
        Tables::read(&one.machine.storage())
    };
    Replica { name: one.picture.name.clone(), cluster, at: one.machine.applied(), tables }
}

/// What is the same on all members.
#[derive(Debug, PartialEq, Eq)]
struct Shared<'a> {
    revision: Option<Revision>,
    compact: Option<Revision>,
    /// Rows that a reader can reach: whether they are tombstones, and what they say.
    rows: BTreeMap<RowId, (bool, &'a Bytes)>,
    alike: &'a BTreeMap<Table, Vec<(Bytes, Bytes)>>,
}

impl<'a> Shared<'a> {
    fn of(tables: &'a Tables) -> Self {
        let facts = &tables.facts;
        let compact = facts.compact.unwrap_or(Revision(0));
        let mut newest_below: BTreeMap<&Bytes, RowId> = BTreeMap::new();
        for row in tables.rows.iter().filter(|row| row.id.main <= compact) {
            newest_below.insert(&row.key, row.id);
        }
        let reachable = tables.rows.iter().filter(|row| {
            let below = row.id.main < compact;
            !below || (!row.tombstone && newest_below.get(&row.key) == Some(&row.id))
        });
        Self {
            revision: facts.revision,
            compact: facts.compact,
            rows: reachable.map(|row| (row.id, (row.tombstone, &row.body))).collect(),
            alike: &tables.alike,
        }
    }

    /// Says where the first difference is.
    fn differs(&self, other: &Self) -> String {
        for (id, row) in &self.rows {
            if other.rows.get(id) != Some(row) {
                return format!("row {id}: {row:?} and {:?}", other.rows.get(id));
            }
        }
        if let Some(id) = other.rows.keys().find(|id| !self.rows.contains_key(id)) {
            return format!("row {id}: none and {:?}", other.rows[id]);
        }
        for table in Table::ALL {
            let (ours, theirs) = (self.alike.get(&table), other.alike.get(&table));
            if ours != theirs {
                return format!("table {}: {ours:?} and {theirs:?}", table.name());
            }
        }
        let (revision, compact) = (self.revision, self.compact);
        format!("{revision:?}, {compact:?} and {:?}, {:?}", other.revision, other.compact)
    }
}

/// Judges the members of a run.
pub fn check(replicas: &[Replica]) -> Option<Violation> {
    let mut first: BTreeMap<(u64, LogPosition), &Replica> = BTreeMap::new();
    for replica in replicas {
        let other = first.entry((replica.cluster, replica.at)).or_insert(replica);
        let (here, there) = (Shared::of(&replica.tables), Shared::of(&other.tables));
        if here != there {
            let (name, by, at) = (&replica.name, &other.name, replica.at);
            let text = format!("{name} and {by} at {at}: {}", here.differs(&there));
            return Some(Violation::new("equal-tables", text));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::{member, opened, picture};
    use super::*;
    use mainstay::types::LeaseId;

    fn replica(name: &str, at: LogPosition, tables: Tables) -> Replica {
        Replica { name: name.to_owned(), cluster: 1, at, tables }
    }

    #[test]
    fn members_that_differ_at_one_entry_are_seen() {
        let one = picture();
        let at = one.applied;
        let with = |at: LogPosition, change: fn(&mut Tables)| {
            let mut tables = one.tables.clone();
            change(&mut tables);
            let both = [replica("m1", one.applied, one.tables.clone()), replica("m2", at, tables)];
            check(&both).map(|violation| violation.checker)
        };
        let broken = Some("equal-tables".to_owned());
        assert_eq!(with(at, |_| ()), None);
        let value: fn(&mut Tables) = |tables| {
            let row = tables.rows.last_mut().expect("there are rows");
            row.body = Bytes::from("another value");
        };
        assert_eq!(with(at, value), broken);
        let elsewhere = LogPosition::new(at.index.next(), at.term);
        assert_eq!(with(elsewhere, value), None, "at another entry they may");
        assert_eq!(with(at, |tables| drop(tables.rows.pop())), broken);
        assert_eq!(with(at, |tables| drop(tables.alike.remove(&Table::Members))), broken);
        // What is a member's own.
        assert_eq!(with(at, |tables| tables.counts.clear()), None);
        assert_eq!(with(at, |tables| tables.rows.last_mut().expect("some").prev = None), None);
    }

    #[test]
    fn a_member_is_brought_forward_by_its_log() {
        member(|host| {
            let mut all = vec![opened(host)];
            let (stored, commit) = (all[0].picture.applied, all[0].picture.log.hard_state.commit);
            assert!(stored.index < commit, "the store lags behind");
            let replicas = replay(&mut all);
            assert_eq!(replicas[0].at.index, commit);
            assert!(replicas[0].tables.facts.revision > all[0].picture.tables.facts.revision);
            assert!(replicas[0].tables.leases.get(LeaseId(7)).is_some());
            assert!(check(&replicas).is_none());
            all.into_iter().for_each(Opened::close);
        });
    }
}
