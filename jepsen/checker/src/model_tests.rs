//! The sequential model against the rules of etcd's outside, one rule a test.

use super::*;
use crate::validate::TXN_OPERATIONS_MAX;

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

fn range(key: &str, end: &str) -> Range {
    Range { key: key.into(), range_end: end.into(), ..Range::default() }
}

fn store(keys: &[(&str, &str)]) -> Etcd {
    let mut store = Etcd::default();
    for (key, value) in keys {
        store.step(&put(key, value)).unwrap();
    }
    store
}

fn read(store: &mut Etcd, range: Range) -> RangeReply {
    match store.step(&Operation::Range(range)).unwrap() {
        Reply::Range(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn keys(reply: &RangeReply) -> String {
    reply.kvs.iter().map(|kv| kv.key.to_string()).collect::<Vec<_>>().join(" ")
}

fn run(store: &mut Etcd, txn: Txn) -> TxnReply {
    match store.step(&Operation::Txn(txn)).unwrap() {
        Reply::Txn(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn first_write_is_revision_two_and_generations_start_anew() {
    let mut s = store(&[("a", "1"), ("a", "2")]);
    assert_eq!(s.revision(), 3);
    let kv = s.get(b"a").unwrap().clone();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    s.step(&Operation::DeleteRange(DeleteRange { key: "a".into(), ..Default::default() })).unwrap();
    s.step(&put("a", "3")).unwrap();
    let kv = s.get(b"a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn an_empty_delete_makes_no_revision() {
    let mut s = store(&[("a", "1")]);
    let delete = DeleteRange { key: "b".into(), range_end: "c".into(), ..Default::default() };
    let reply = s.step(&Operation::DeleteRange(delete)).unwrap();
    assert_eq!((reply.header().revision, s.revision()), (2, 2));
}

#[test]
fn range_ends_mean_what_etcd_means() {
    let mut s = store(&[("a", ""), ("b", ""), ("c", "")]);
    assert_eq!(keys(&read(&mut s, range("a", ""))), "a");
    assert_eq!(keys(&read(&mut s, range("b", "\0"))), "b c");
    assert_eq!(keys(&read(&mut s, range("\0", "\0"))), "a b c");
    assert_eq!(keys(&read(&mut s, range("c", "a"))), "");
    assert_eq!(keys(&read(&mut s, range("c", "c"))), "");
}

#[test]
fn count_ignores_limit_and_filters_and_more_does_not() {
    let mut s = store(&[("a", ""), ("b", ""), ("c", "")]);
    let limited = read(&mut s, Range { limit: 2, ..range("\0", "\0") });
    assert_eq!((keys(&limited).as_str(), limited.count, limited.more), ("a b", 3, true));
    let filtered = read(&mut s, Range { limit: 2, max_mod_revision: 3, ..range("\0", "\0") });
    assert_eq!((keys(&filtered).as_str(), filtered.count, filtered.more), ("a b", 3, false));
    let counted = read(&mut s, Range { limit: 1, count_only: true, ..range("\0", "\0") });
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 3, false));
}

#[test]
fn no_order_with_a_target_cuts_in_key_order_first() {
    let mut s = store(&[("a", "9"), ("b", "8"), ("c", "7"), ("d", "6")]);
    let by_value = Range { limit: 2, sort_target: SortTarget::Value, ..range("\0", "\0") };
    let reply = read(&mut s, by_value.clone());
    assert_eq!((keys(&reply).as_str(), reply.more), ("c b", true));
    let reply = read(&mut s, Range { sort_order: SortOrder::Ascend, ..by_value });
    assert_eq!(keys(&reply), "d c");
}

#[test]
fn old_revisions_read_until_they_are_compacted() {
    let mut s = store(&[("a", "1"), ("a", "2"), ("a", "3")]);
    let at = |revision| Operation::Range(Range { revision, ..range("a", "") });
    assert_eq!(s.step(&at(5)), Err(Refusal::FutureRevision));
    s.step(&Operation::Compact(Compact { revision: 3, physical: false })).unwrap();
    assert_eq!(s.step(&at(2)), Err(Refusal::Compacted));
    let reply = read(&mut s, Range { revision: 3, ..range("a", "") });
    assert_eq!((&*reply.kvs[0].value, reply.header.revision), (&b"2"[..], 4));
    let again = Operation::Compact(Compact { revision: 3, physical: false });
    assert_eq!(s.step(&again), Err(Refusal::Compacted));
    let late = Operation::Compact(Compact { revision: 5, physical: false });
    assert_eq!(s.step(&late), Err(Refusal::FutureRevision));
}

#[test]
fn a_txn_is_one_revision_and_its_reads_see_its_writes() {
    let mut s = store(&[("a", "1")]);
    let get = || Operation::Range(range("a", ""));
    let reply = run(
        &mut s,
        Txn { success: vec![get(), put("a", "2"), get(), put("b", "1")], ..Txn::default() },
    );
    let inner: Vec<i64> = reply.responses.iter().map(|r| r.header().revision).collect();
    assert_eq!((reply.header.revision, inner), (3, vec![2, 3, 3, 3]));
    let Reply::Range(seen) = &reply.responses[2] else { panic!() };
    assert_eq!(&*seen.kvs[0].value, b"2");
    let idle = run(&mut s, Txn { success: vec![get()], ..Txn::default() });
    assert_eq!((idle.header.revision, s.revision()), (3, 3));
}

fn compare(key: &str, result: CompareResult, target: Target) -> Compare {
    Compare { key: key.into(), range_end: Blob::default(), result, target }
}

#[test]
fn compares_treat_missing_keys_as_zero_except_for_values() {
    let mut s = store(&[("a", "1"), ("b", "1")]);
    let mut holds =
        |compare| run(&mut s, Txn { compare: vec![compare], ..Txn::default() }).succeeded;
    assert!(holds(compare("x", CompareResult::Equal, Target::Version(0))));
    assert!(!holds(compare("x", CompareResult::NotEqual, Target::Value("1".into()))));
    assert!(holds(compare("a", CompareResult::Less, Target::Mod(3))));
    let all = |value: &str| Compare {
        range_end: Blob::new(OPEN_END),
        ..compare("a", CompareResult::Equal, Target::Value(value.into()))
    };
    assert!(holds(all("1")));
    assert!(!holds(all("2")));
}

#[test]
fn nested_compares_look_at_the_state_before_the_txn() {
    let mut s = store(&[]);
    let inner = Txn {
        compare: vec![compare("a", CompareResult::Equal, Target::Version(0))],
        success: vec![put("b", "unseen")],
        failure: vec![put("b", "seen")],
    };
    let reply =
        run(&mut s, Txn { success: vec![put("a", "1"), Operation::Txn(inner)], ..Txn::default() });
    assert_eq!(&*s.get(b"b").unwrap().value, b"unseen");
    assert_eq!(reply.responses[1].header().revision, 0);
}

#[test]
fn a_branch_may_not_write_a_key_twice() {
    let mut s = store(&[("k", "1")]);
    let mut txn = |success| s.step(&Operation::Txn(Txn { success, ..Txn::default() }));
    let delete = |key: &str, end: &str| {
        let (key, range_end) = (key.into(), end.into());
        Operation::DeleteRange(DeleteRange { key, range_end, prev_kv: false })
    };
    assert_eq!(txn(vec![put("a", "1"), put("a", "2")]), Err(Refusal::DuplicateKey));
    assert_eq!(txn(vec![delete("a", "z"), put("k", "2")]), Err(Refusal::DuplicateKey));
    let nested = |op| Operation::Txn(Txn { success: vec![op], ..Txn::default() });
    assert_eq!(txn(vec![nested(put("k", "1")), put("k", "2")]), Err(Refusal::DuplicateKey));
    let either =
        Txn { success: vec![put("k", "3")], failure: vec![put("k", "4")], ..Txn::default() };
    assert!(txn(vec![Operation::Txn(either)]).is_ok());
    // The open end is taken literally by etcd's scan, so this one passes and both happen, in order.
    assert!(txn(vec![delete("k", "\0"), put("k", "2")]).is_ok());
    assert_eq!(s.get(b"k").unwrap().version, 1);
    let many = vec![delete("x", ""); TXN_OPERATIONS_MAX + 1];
    let many = Operation::Txn(Txn { success: many, ..Txn::default() });
    assert_eq!(s.step(&many), Err(Refusal::TooManyOps));
}

#[test]
fn put_flags_keep_value_and_lease_and_leases_take_their_keys_along() {
    let mut s = store(&[]);
    let grant = LeaseGrant { id: 7, ttl: 1 };
    let Reply::LeaseGrant(granted) = s.step(&Operation::LeaseGrant(grant.clone())).unwrap() else {
        panic!()
    };
    assert_eq!((granted.ttl, s.revision()), (2, 1));
    assert_eq!(s.step(&Operation::LeaseGrant(grant)), Err(Refusal::LeaseExists));
    let leased = |key: &str, lease| {
        Operation::Put(Put { key: key.into(), value: "v".into(), lease, ..Put::default() })
    };
    assert_eq!(s.step(&leased("a", 8)), Err(Refusal::LeaseNotFound));
    s.step(&leased("a", 7)).unwrap();
    s.step(&leased("b", 7)).unwrap();
    let keep = Put { key: "a".into(), ignore_value: true, ignore_lease: true, ..Put::default() };
    s.step(&Operation::Put(keep.clone())).unwrap();
    assert_eq!((s.get(b"a").unwrap().lease, &*s.get(b"a").unwrap().value), (7, &b"v"[..]));
    let missing = Operation::Put(Put { key: "x".into(), ..keep });
    assert_eq!(s.step(&missing), Err(Refusal::KeyNotFound));
    s.step(&put("b", "free")).unwrap();
    s.step(&leased("c", 7)).unwrap();
    let before = s.revision();
    s.step(&Operation::LeaseRevoke(LeaseRevoke { id: 7 })).unwrap();
    assert_eq!(s.revision(), before + 1);
    let gone: Vec<_> = s.timeline().at(before + 1).iter().map(|c| c.kv.key.to_string()).collect();
    assert_eq!(gone, ["a", "c"]);
    assert!(s.get(b"b").is_some());
}

#[test]
fn undoing_gives_back_the_very_same_state() {
    for seed in 0..50 {
        let plan =
            crate::generate::Plan { unknown_percent: 0, ..crate::generate::Plan::rich(seed) };
        let history = crate::generate::generate(&plan);
        let mut s = Etcd::with_any_lease();
        let mut states = vec![s.clone()];
        for (_, changes) in &history.truth.revisions {
            s.force(changes);
            states.push(s.clone());
        }
        for state in states.iter().rev() {
            s.undo_to(state.revision());
            assert_eq!(&s, state, "seed {seed}");
        }
    }
}
