//! Hashes that a real etcd (3.4.23) gave for these operations. It has no memory of compactions and
//! refuses the compact revision itself, so only revisions above it are asked for; there all versions
//! agree.

use super::{Member, bytes};
use crate::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Operand, Outcome, Put, Txn,
    TxnOp,
};
use crate::mvcc::ScrubProgress;
use crate::types::Revision;

fn put(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

fn delete(key: &str) -> DeleteRange {
    DeleteRange { range: KeyRange::One(bytes(key)), prev_kv: false }
}

fn check(member: &Member, compact: i64, hashes: &[(i64, u32)]) {
    for &(revision, expected) in hashes {
        let hash = member.store().hash_kv(revision).expect("the revision can be hashed");
        assert_eq!((hash.hash, hash.compact_revision), (expected, compact), "at {revision}");
    }
}

#[test]
fn hashes_are_those_of_a_real_etcd() {
    let mut member = Member::new();
    member.apply(Op::Put(put("a", "1")));
    member.apply(Op::Put(put("b", "2")));
    member.apply(Op::Put(put("a", "3")));
    member.apply(Op::DeleteRange(delete("a")));
    member.apply(Op::Put(put("a", "4")));
    let compare = Compare {
        range: KeyRange::One(bytes("b")),
        result: CompareResult::Greater,
        target: CompareTarget::Version,
        operand: Operand::Version(0),
    };
    let success =
        vec![TxnOp::Put(put("c", "5")), TxnOp::DeleteRange(delete("b")), TxnOp::Put(put("d", "6"))];
    let txn = Txn { compares: vec![compare], success, failure: vec![] };
    let (outcome, _) = member.apply(Op::Txn(txn));
    assert!(matches!(outcome, Outcome::Txn(outcome) if outcome.succeeded));
    member.apply(Op::Put(put("e", "7")));
    let before = [
        (0, 3_857_801_869),
        (1, 1_084_519_789),
        (2, 2_587_454_935),
        (3, 1_827_592_406),
        (4, 2_069_675_932),
        (5, 1_346_927_904),
        (6, 243_047_511),
        (7, 190_214_752),
        (8, 3_857_801_869),
    ];
    check(&member, -1, &before);
    let after = |member: &mut Member, compact, hashes: &[(i64, u32)]| {
        member.apply(Op::Compact { revision: compact, physical: false });
        check(member, compact, hashes);
        member.flush();
        member.scrub(2, 3);
        check(member, compact, hashes);
        member.scrub(1000, 1000);
        assert_eq!(member.store().scrubbed().map(|done| done.0), Some(compact));
        check(member, compact, hashes);
    };
    let hashes = [
        (0, 1_911_997_797),
        (5, 2_051_293_682),
        (6, 1_255_909_052),
        (7, 2_033_646_768),
        (8, 1_911_997_797),
    ];
    after(&mut member, 4, &hashes);
    after(&mut member, 5, &[(0, 1_446_415_587), (6, 3_059_177_743), (7, 686_483_103)]);
    after(&mut member, 7, &[(0, 1_894_835_213), (8, 1_894_835_213)]);
    let all = DeleteRange { range: KeyRange::all(), prev_kv: false };
    let (outcome, _) = member.apply(Op::DeleteRange(all));
    assert!(matches!(outcome, Outcome::DeleteRange { deleted: 4, .. }));
    check(&member, 7, &[(0, 1_938_573_589), (8, 1_894_835_213), (9, 1_938_573_589)]);
    member.restart();
    check(&member, 7, &[(9, 1_938_573_589)]);
}

/// Issue: for a moment after a compaction, HashKV was that of no state: the scrub counted as done before its
/// transaction had committed, and its rows, still there, were hashed.
#[test]
fn the_hash_is_the_same_at_every_moment_of_the_scrub() {
    let mut member = Member::new();
    for round in 0..4 {
        for key in ["a", "b", "c"] {
            member.apply(Op::Put(put(key, &round.to_string())));
        }
        member.apply(Op::DeleteRange(delete("b")));
    }
    let newest = member.store().revision().0;
    for compact in [newest - 5, newest - 1] {
        member.apply(Op::Compact { revision: compact, physical: false });
        let store = member.store();
        let hashes =
            || [0, compact, compact + 1, newest].map(|revision| store.hash_kv(revision).ok());
        let wanted = hashes();
        member.flush();
        let mut more = true;
        while more {
            let step = store.storage().maintenance(|txn| {
                // Two steps in one transaction, both seen by others before it commits.
                for _ in 0..2 {
                    let progress = store.scrub_step(txn, 3).expect("nothing is damaged");
                    assert_eq!(hashes(), wanted, "while r{compact} is scrubbed");
                    more = progress == ScrubProgress::More;
                }
            });
            step.expect("the transaction commits");
            assert_eq!(hashes(), wanted, "between steps of r{compact}");
        }
        assert_eq!(store.scrubbed().map(|done| done.0), Some(compact));
    }
}

/// Issue: rows of a compaction with ten later ones were removed without its hash, though the tenth was not durable
/// yet. A crash took that one back, the compaction counted again as one to be hashed, and the member stopped for
/// ever: «the store has no row for revision r2» (seed 210008405, all members at once).
#[test]
fn a_compaction_is_forgotten_only_when_ten_later_ones_are_durable() {
    let mut member = Member::new();
    for value in 0..20 {
        member.apply(Op::Put(put("a", &value.to_string())));
    }
    let compact = |member: &mut Member, revision| {
        member.apply(Op::Compact { revision, physical: false });
    };
    (4..14).for_each(|revision| compact(&mut member, revision));
    member.flush();
    compact(&mut member, 14);
    // Enough to be at the rows of the first one, were it forgotten, and not to be through with them.
    assert_eq!(member.scrub(1, 3), ScrubProgress::More);
    // What was not durable is gone, and the scrub may run before it is there again.
    member.stop();
    member.open();
    assert_eq!(member.scrub(1000, 1000), ScrubProgress::Idle);
    assert_eq!(member.store().scrubbed(), Some(Revision(13)));
}

#[cfg(feature = "mutants")]
#[test]
fn planted_haste_to_forget_is_seen() {
    use crate::mutants::assert_seen;

    assert_seen!("M09", a_compaction_is_forgotten_only_when_ten_later_ones_are_durable);
}
