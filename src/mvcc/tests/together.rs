//! Readers beside a writer, flushes, compactions and the scrub. What runs when is up to the machine, so
//! nothing here depends on it: only what must hold in every order is asserted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Member, bytes};
use crate::command::{DeleteRange, KeyRange, Op, Put, Range, Refusal, RowId, Txn, TxnOp};
use crate::mvcc::{Budget, Store};
use crate::types::Revision;

const KEYS: u32 = 1500;

/// One round's number is written to the first and the last key at once, so a list that is of one
/// revision has it in both; one key between them comes and goes.
fn round(number: u32) -> Op {
    let value = bytes(&number.to_string());
    let put =
        |key: &str| TxnOp::Put(Put { key: bytes(key), value: value.clone(), ..Put::default() });
    let middle = format!("k{:05}", number * 7 % KEYS);
    let middle = if number.is_multiple_of(3) {
        let range = KeyRange::One(bytes(&middle));
        TxnOp::DeleteRange(DeleteRange { range, prev_kv: false })
    } else {
        put(&middle)
    };
    Op::Txn(Txn { success: vec![put("a"), middle, put("z")], ..Txn::default() })
}

fn check_list(store: &Store, revision: i64) {
    let outcome = match store.range(&Range { revision, ..Range::newest(KeyRange::all()) }) {
        Ok(outcome) => outcome,
        Err(refusal) => return assert!(matches!(refusal, Refusal::Compacted(_)) && revision > 0),
    };
    assert_eq!(outcome.count, u64::try_from(outcome.kvs.len()).expect("few"));
    let (first, last) = (&outcome.kvs[0], &outcome.kvs[outcome.kvs.len() - 1]);
    assert_eq!((&first.key[..], &last.key[..]), (&b"a"[..], &b"z"[..]));
    assert_eq!((&first.value, first.mod_revision), (&last.value, last.mod_revision));
    let at = Revision(if revision > 0 { revision } else { outcome.revision.0 });
    assert!(outcome.kvs.iter().all(|kv| kv.mod_revision <= at));
    match store.count(&KeyRange::all(), at) {
        Ok(count) => assert_eq!(count, outcome.count, "counted at {at}"),
        Err(refusal) => assert!(matches!(refusal, Refusal::Compacted(_))),
    }
}

/// Follows history from the start; what it adds up to at a revision is what a list shows there.
fn follow(store: &Store, stop: &AtomicBool) {
    let mut next = Revision(1);
    let mut living = BTreeMap::new();
    loop {
        let last_round = stop.load(Ordering::Acquire);
        let batch = match store.history(next, Budget { revisions: 50, bytes: 10_000 }) {
            Ok(batch) => batch,
            Err(Refusal::Compacted(compact)) => {
                // Overtaken: begin again from a list, as a client does.
                let outcome = store.range(&Range { revision: compact.0, ..everything() });
                let Ok(outcome) = outcome else { continue };
                living = outcome.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
                next = compact.next();
                continue;
            }
            Err(refusal) => panic!("{refusal}"),
        };
        for (revision, events) in batch.revisions {
            assert_eq!(revision, next.max(Revision(2)), "history leaves nothing out");
            next = revision.next();
            let mut place = RowId::new(revision, 0);
            for event in events {
                assert_eq!(RowId::new(event.revision(), event.sub()), place);
                place.sub += 1;
                match event {
                    crate::command::Event::Put { kv, .. } => living.insert(kv.key, revision),
                    crate::command::Event::Delete { key, .. } => living.remove(&key),
                };
            }
        }
        if let Ok(outcome) = store.range(&Range { revision: next.0 - 1, ..everything() })
            && next.0 > 2
        {
            let listed: Vec<_> =
                outcome.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
            assert_eq!(listed, living.clone().into_iter().collect::<Vec<_>>());
        }
        if last_round && next > store.revision() {
            return;
        }
    }
}

fn everything() -> Range {
    Range::newest(KeyRange::all())
}

#[test]
fn readers_see_one_revision_while_it_is_written_compacted_and_scrubbed() {
    let mut member = Member::new();
    for number in 0..KEYS {
        let key = bytes(&format!("k{number:05}"));
        member.apply(Op::Put(Put { key, ..Put::default() }));
    }
    for number in 1..40 {
        member.apply(round(number));
    }
    let store = member.store().clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                if let Some(job) = store.storage().begin_flush() {
                    job.run().expect("the flush succeeds");
                }
                let step = store.storage().maintenance(|txn| store.scrub_step(txn, 50));
                step.expect("the transaction commits").expect("nothing is damaged");
            }
        });
        let readers = [
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    check_list(&store, 0);
                    check_list(&store, store.revision().0 - 20);
                    check_list(&store, store.compact_revision().map_or(0, |compact| compact.0));
                }
            }),
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let revision = store.revision();
                    match store.hash_kv(revision.0) {
                        Ok(hash) => assert_eq!(hash.hash_revision, revision.0),
                        Err(refusal) => assert!(matches!(refusal, Refusal::Compacted(_))),
                    }
                }
            }),
            scope.spawn(|| follow(&store, &stop)),
        ];
        for number in 40..800 {
            member.apply(round(number));
            if number.is_multiple_of(90) {
                let revision = member.store().revision().0 - 30;
                member.apply(Op::Compact { revision, physical: false });
            }
        }
        stop.store(true, Ordering::Release);
        worker.join().expect("the worker did not panic");
        for reader in readers {
            reader.join().expect("a reader did not panic");
        }
    });
    assert_eq!(store.damage(), None);
    store.check();
    drop(store);
    member.restart();
    check_list(member.store(), 0);
}
