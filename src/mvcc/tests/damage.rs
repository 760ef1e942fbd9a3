//! Rot in the store is noticed, loudly, and never answered from.

use super::{Member, bytes};
use crate::command::{DeleteRange, KeyRange, Op, Outcome, Put, Range, Refusal, RowId};
use crate::mvcc::{Budget, Damage, StoreError};
use crate::storage::{Storage, Table};
use crate::types::{LeaseId, Revision};

fn put(key: &str, value: &str) -> Op {
    Op::Put(Put { key: bytes(key), value: bytes(value), ..Put::default() })
}

/// Writes some keys, makes them durable, and lets `harm` change one stored value.
fn harmed(table: Table, nth: usize, harm: impl Fn(&mut Vec<u8>)) -> Member {
    let mut member = Member::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        member.apply(put(key, value));
    }
    member.flush();
    let (key, mut value) = {
        let view = member.store().storage().view();
        let unbounded = std::ops::Bound::Unbounded;
        let (key, value) = view.scan(table, unbounded, unbounded).nth(nth).expect("an entry");
        (key.to_vec(), value.to_vec())
    };
    harm(&mut value);
    let write = |txn: &mut crate::storage::WriteTxn<'_>| match value.is_empty() {
        true => txn.delete(table, &key),
        false => txn.put(table, &key, &value),
    };
    member.store().storage().maintenance(write).expect("the transaction commits");
    member
}

fn flip(value: &mut Vec<u8>) {
    let last = value.len() - 1;
    value[last] ^= 1;
}

fn one(key: &str) -> KeyRange {
    KeyRange::One(bytes(key))
}

fn everything() -> Range {
    Range::newest(KeyRange::all())
}

#[test]
fn a_rotten_row_is_refused_by_every_read_and_told_once() {
    let member = harmed(Table::Rows, 1, flip);
    let store = member.store();
    assert!(store.range(&Range::newest(KeyRange::One(bytes("a")))).is_ok());
    assert_eq!(store.damage(), None);
    assert_eq!(store.range(&everything()), Err(Refusal::Damaged));
    assert_eq!(store.get(b"b"), Err(Refusal::Damaged));
    assert_eq!(store.history(Revision(2), Budget::default()), Err(Refusal::Damaged));
    assert_eq!(store.hash_kv(0), Err(Refusal::Damaged));
    assert!(matches!(store.damage(), Some(Damage::Row(id)) if id.main == Revision(3)));
}

#[test]
fn a_missing_row_is_noticed() {
    let member = harmed(Table::Rows, 1, Vec::clear);
    let store = member.store();
    assert_eq!(store.range(&everything()), Err(Refusal::Damaged));
    assert!(matches!(store.damage(), Some(Damage::MissingRow(_))));
    let member = harmed(Table::Rows, 1, Vec::clear);
    assert_eq!(member.store().history(Revision(2), Budget::default()), Err(Refusal::Damaged));
    assert_eq!(member.store().damage(), Some(&Damage::MissingRevision(Revision(3))));
    let member = harmed(Table::Rows, 3, Vec::clear);
    assert_eq!(member.store().history(Revision(2), Budget::default()), Err(Refusal::Damaged));
}

#[test]
fn a_missing_row_in_the_past_of_a_key_is_noticed() {
    let member = harmed(Table::Rows, 0, Vec::clear);
    let store = member.store();
    assert!(store.range(&everything()).is_ok(), "nothing of the present is missing");
    let past = Range { revision: 2, ..everything() };
    assert_eq!(store.range(&past), Err(Refusal::Damaged));
}

/// Reads at the compact revision what the compaction must have left.
#[test]
fn a_row_that_compaction_keeps_is_missed() {
    let compacted = |harm: Option<(i64, Table)>| {
        let mut member = Member::new();
        for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            member.apply(put(key, value));
        }
        member.apply(Op::DeleteRange(DeleteRange { range: one("b"), prev_kv: false }));
        member.apply(Op::Compact { revision: 5, physical: false });
        member.flush();
        member.scrub(100, 10);
        // A second compaction takes the tombstone of `b`.
        member.apply(put("d", "4"));
        member.apply(Op::Compact { revision: 6, physical: false });
        // Before it does, so that the new row of `b` names it.
        for key in ["a", "b"] {
            member.apply(put(key, "5"));
        }
        member.flush();
        member.scrub(100, 10);
        if let Some((main, table)) = harm {
            let row = crate::mvcc::codec::row_key(RowId::new(Revision(main), 0));
            let storage = member.store().storage();
            storage.maintenance(|txn| txn.delete(table, &row)).expect("deleted");
        }
        member
    };
    let past = Range { revision: 6, ..everything() };
    let member = compacted(None);
    let found = member.store().range(&past).expect("nothing is missing");
    assert_eq!(found.kvs.len(), 3, "`b` was deleted, and all its rows then are gone");
    assert!(member.store().hash_kv(0).is_ok() && member.store().hash_kv(7).is_ok());

    // The row of `a` then, which only its newer row names; that of `c`, which nothing does but the index.
    let member = compacted(Some((2, Table::Rows)));
    assert!(member.store().range(&everything()).is_ok(), "nothing of the present is missing");
    assert_eq!(member.store().range(&past), Err(Refusal::Damaged));
    assert!(matches!(member.store().damage(), Some(Damage::MissingRow(id)) if id.main.0 == 2));
    for (main, revision) in [(2, 0), (2, 7), (4, 0), (4, 7), (6, 0)] {
        let member = compacted(Some((main, Table::Rows)));
        assert_eq!(member.store().hash_kv(revision), Err(Refusal::Damaged), "{main}, {revision}");
        assert!(matches!(member.store().damage(), Some(Damage::Live { counted: 4, .. })));
    }
}

#[test]
fn a_hash_misses_a_revision() {
    for nth in 0..4 {
        let member = harmed(Table::Rows, nth, Vec::clear);
        let missing = Revision(2 + i64::try_from(nth).expect("few"));
        assert_eq!(member.store().hash_kv(0), Err(Refusal::Damaged));
        assert_eq!(member.store().damage(), Some(&Damage::MissingRevision(missing)));
    }
}

#[test]
fn a_walk_misses_a_key_of_the_index() {
    for nth in 0..3 {
        let missed = Some(&Damage::Live { found: 2, counted: 3 });
        let member = harmed(Table::Keys, nth, Vec::clear);
        assert_eq!(member.store().range(&everything()), Err(Refusal::Damaged));
        assert_eq!(member.store().damage(), missed);
        for revision in [2, 3, 4] {
            let member = harmed(Table::Keys, nth, Vec::clear);
            let past = Range { revision, ..everything() };
            assert_eq!(member.store().range(&past), Err(Refusal::Damaged));
        }
    }
}

#[test]
fn a_store_without_its_newest_row_does_not_open() {
    let mut member = harmed(Table::Rows, 3, Vec::clear);
    member.stop();
    let storage = Storage::open(member.dir(), super::options()).expect("the tables open");
    let opened = crate::mvcc::Store::open(storage);
    let missing = Damage::MissingRevision(Revision(5));
    assert!(matches!(opened, Err(StoreError::Damage(damage)) if damage == missing));
}

#[test]
fn a_rotten_index_entry_is_noticed() {
    let member = harmed(Table::Keys, 0, flip);
    assert_eq!(member.store().get(b"a"), Err(Refusal::Damaged));
    assert!(matches!(member.store().damage(), Some(Damage::Key(key)) if key[..] == *b"a"));
}

#[test]
fn applying_over_damage_ends_the_member() {
    let mut member = harmed(Table::Keys, 0, flip);
    let result =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| member.apply(put("a", "5"))));
    assert!(result.is_err());
    assert!(member.store().damage().is_some());
}

#[test]
fn a_store_with_rotten_facts_does_not_open() {
    for table in [Table::Counts, Table::Meta] {
        // Storage's own facts come first in Meta.
        let nth = if table == Table::Meta { 2 } else { 0 };
        let mut member = harmed(table, nth, flip);
        member.stop();
        let storage = Storage::open(member.dir(), super::options()).expect("the tables open");
        let opened = crate::mvcc::Store::open(storage);
        assert!(matches!(opened, Err(StoreError::Damage(_))), "{table:?}: {opened:?}");
    }
}

#[test]
fn an_empty_key_is_refused_at_apply() {
    let mut member = Member::new();
    let (outcome, events) = member.apply(put("", "v"));
    assert_eq!(outcome, Outcome::Refused(Refusal::KeyNotProvided, Revision(1)));
    assert!(events.is_empty());
    let unknown = Put { key: bytes("k"), lease: LeaseId(-7), ..Put::default() };
    let (outcome, _) = member.apply(Op::Put(unknown));
    assert_eq!(outcome, Outcome::Refused(Refusal::LeaseNotFound, Revision(1)));
}
