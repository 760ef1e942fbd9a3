//! Random logs: two machines that differ in everything local agree, and a crash at any durable place
//! replays into the same state.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Applied, Machine, conf};
use super::{World, bytes, command};
use crate::cluster::{Change, Member};
use crate::command::{
    AlarmAction, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseMark,
    LeaseRemaining, Op, Operand, Put, Txn, TxnOp,
};
use crate::mvcc::ScrubProgress;
use crate::raft::{Entry, Payload};
use crate::types::{Index, LeaseId, NodeId, Term};

/// One entry to be, before its place in the log is known.
#[derive(Clone, Debug)]
enum Draft {
    Op(Op),
    Conf(Change),
    Empty,
    /// A new leader's first entry.
    NewTerm,
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => "[a-e]", 1 => "[a-e]{600}"].prop_map(|s| bytes(&s))
}

fn any_time() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0..20_000u64, 1 => any::<u64>()]
}

fn any_lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![3 => Just(0), 4 => 1..4i64, 1 => Just(-1)].prop_map(LeaseId)
}

fn any_put() -> impl Strategy<Value = Put> {
    (any_key(), "[v-z]{0,3}", any_lease(), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(|(key, value, lease, ignore_value, ignore_lease)| Put {
            key,
            value: if ignore_value { Bytes::new() } else { bytes(&value) },
            lease: if ignore_lease { LeaseId(0) } else { lease },
            prev_kv: true,
            ignore_value,
            ignore_lease,
        })
}

fn any_delete() -> impl Strategy<Value = DeleteRange> {
    (any_key(), prop_oneof![2 => Just(Bytes::new()), 1 => any_key()])
        .prop_map(|(key, end)| DeleteRange { range: KeyRange::from_wire(key, end), prev_kv: true })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![3 => any_put().prop_map(TxnOp::Put), 2 => any_delete().prop_map(TxnOp::DeleteRange)];
    let ops = prop::collection::vec(op, 0..4);
    (any_key(), 0..3i64, ops.clone(), ops).prop_map(|(key, version, success, failure)| Txn {
        compares: vec![Compare {
            range: KeyRange::One(key),
            result: CompareResult::Greater,
            target: CompareTarget::Version,
            operand: Operand::Version(version),
        }],
        success,
        failure,
    })
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let member = (1..6u64).prop_map(NodeId);
    let mark = 0..60u64;
    let term = (1..4u64).prop_map(Term);
    let op = prop_oneof![
        10 => any_put().prop_map(Op::Put),
        4 => any_delete().prop_map(Op::DeleteRange),
        5 => any_txn().prop_map(Op::Txn),
        2 => (0..60i64).prop_map(|revision| Op::Compact { revision, physical: false }),
        4 => (any_lease(), 0..20i64).prop_map(|(id, ttl)| Op::LeaseGrant { id, ttl }),
        2 => any_lease().prop_map(|id| Op::LeaseRevoke { id }),
        3 => (term.clone(), prop::collection::vec((any_lease(), mark.clone()), 0..4)).prop_map(
            |(term, marks)| Op::LeaseExpire {
                term,
                leases: marks.into_iter().map(|(id, mark)| LeaseMark { id, mark }).collect(),
            }
        ),
        3 => (term, any_lease(), mark, any_time(), any_time()).prop_map(
            |(term, id, mark, time_millis, remaining_millis)| {
                let leases = vec![LeaseRemaining { id, mark, remaining_millis }];
                Op::LeaseCheckpoint { term, time_millis, leases }
        }),
        1 => (0..3u8, 0..3i32).prop_map(|(action, alarm)| Op::Alarm {
            action: [AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate]
                [usize::from(action)],
            member: 1,
            alarm,
        }),
        2 => Just(Op::Alarm { action: AlarmAction::Deactivate, member: 1, alarm: 1 }),
        2 => Just(Op::Alarm { action: AlarmAction::Deactivate, member: 1, alarm: 2 }),
        1 => member.clone().prop_map(|member| Op::MemberAttributes {
            member,
            name: format!("m{}", member.0),
            client_urls: vec![],
        }),
        1 => (member.clone(), 1..3u64).prop_map(|(member, store_id)| Op::MemberStoreSet { member, store_id }),
        1 => (0..9u64).prop_map(|n| Op::ClusterVersionSet { version: format!("3.{n}.0") }),
    ];
    let url = |n: u64| vec![format!("http://m{n}")];
    let change = (member, 0..5u8, 1..6u64).prop_map(move |(id, kind, n)| match kind {
        0 | 1 => {
            let learner = kind == 1;
            Change::Add {
                member: Member { learner, ..Member::new(id, url(n)) },
                learners_max: None,
            }
        }
        2 => Change::Promote(id),
        3 => Change::Remove(id),
        _ => Change::Update { id, peer_urls: url(n) },
    });
    prop_oneof![
        30 => op.prop_map(Draft::Op),
        4 => change.prop_map(Draft::Conf),
        1 => Just(Draft::Empty),
        1 => Just(Draft::NewTerm),
    ]
}

pub(super) fn any_log(len: usize) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(any_draft(), 1..len).prop_map(|drafts| {
        let mut term = Term(1);
        let mut grants: BTreeMap<LeaseId, u64> = BTreeMap::new();
        let entry = |(index, draft): (u64, Draft)| {
            let payload = match draft {
                Draft::Empty => Payload::Empty,
                Draft::NewTerm => {
                    term = term.next();
                    Payload::Empty
                }
                Draft::Conf(change) => Payload::ConfChange(conf::conf_change(
                    &change,
                    Some(crate::command::RequestId(index)),
                )),
                Draft::Op(mut op) => {
                    // Half of the marks are made to fit the grant that was proposed last.
                    let fit = |id: LeaseId, mark: &mut u64| {
                        if *mark % 2 == 0 {
                            *mark = grants.get(&id).copied().unwrap_or(*mark);
                        }
                    };
                    match &mut op {
                        Op::LeaseExpire { leases, .. } => {
                            leases.iter_mut().for_each(|l| fit(l.id, &mut l.mark))
                        }
                        Op::LeaseCheckpoint { leases, .. } => {
                            leases.iter_mut().for_each(|l| fit(l.id, &mut l.mark));
                        }
                        Op::LeaseGrant { id, .. } => {
                            grants.entry(*id).or_insert(index);
                        }
                        Op::LeaseRevoke { id } => {
                            grants.remove(id);
                        }
                        _ => {}
                    }
                    command(index, op)
                }
            };
            Entry { term, index: Index(index), payload }
        };
        (1..).zip(drafts).map(entry).collect()
    })
}

/// Everything the shell is told, as text, whatever the batches were.
pub(super) fn told(applied: &[Applied]) -> Vec<String> {
    let mut lines = Vec::new();
    for part in applied {
        lines.extend(part.events.iter().map(|event| format!("{event:?}")));
    }
    for part in applied {
        lines.extend(part.outcomes.iter().map(|outcome| format!("{outcome:?}")));
    }
    for part in applied {
        lines.extend(part.conf.iter().map(|conf| format!("{conf:?}")));
    }
    for part in applied {
        lines.extend(part.leases.iter().map(|change| format!("{change:?}")));
    }
    lines
}

/// Everything a client can learn of a state: hashes at all revisions that can be asked, and the tables.
pub(super) fn picture(machine: &Machine) -> Vec<String> {
    let reader = machine.reader();
    let store = reader.store();
    let mut lines = vec![
        format!("{} {} {:?}", reader.applied(), store.revision(), store.compact_revision()),
        format!("{:?} {:?} {:?}", reader.leases(), reader.alarms(), reader.members()),
        format!("{:?} {}", machine.conf_state(), store.live_keys()),
    ];
    for lease in reader.leases() {
        lines.push(format!("{:?}", reader.lease_keys(lease.id)));
    }
    for revision in 0..=store.revision().0 {
        lines.push(format!("{revision}: {:?}", store.hash_kv(revision)));
    }
    lines
}

pub(super) fn scrub(world: &mut World, rows: usize) {
    let machine = world.machine();
    let store = machine.reader().store();
    let progress = machine.storage().maintenance(|txn| store.scrub_step(txn, rows)).unwrap();
    assert!(matches!(progress, Ok(ScrubProgress::Idle | ScrubProgress::More)), "{progress:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 10,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// One applies entry by entry and keeps all in memory; the other in batches, flushes, scrubs and is
    /// restarted at any time. Nobody can tell them apart.
    #[test]
    fn machines_that_differ_in_everything_local_agree(
        log in any_log(60),
        local in prop::collection::vec((1..5usize, 0..6u8), 60),
    ) {
        let mut calm = World::new();
        calm.log = log.clone();
        let calm_told: Vec<Applied> =
            log.iter().map(|entry| calm.machine().apply(std::slice::from_ref(entry))).collect();
        calm.machine().check();

        let mut busy = World::new();
        busy.log = log.clone();
        let mut busy_told = Vec::new();
        let mut rest = &log[..];
        for (batch, disturbance) in local {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            rest = later;
            busy_told.push(busy.machine().apply(now));
            match disturbance {
                0 => {
                    busy.flush();
                }
                1 => {
                    busy.flush();
                    scrub(&mut busy, 3);
                }
                2 => scrub(&mut busy, 100),
                3 => {
                    // What was told once is not told again after a restart: what is replayed is dropped here.
                    let applied = busy.machine().applied().index;
                    busy.crash();
                    let applied = usize::try_from(applied.0).unwrap();
                    busy.machine().apply(&log[..applied]);
                }
                _ => {}
            }
        }
        prop_assert!(rest.is_empty(), "the batches take the whole log");
        busy.machine().check();
        prop_assert_eq!(told(&busy_told), told(&calm_told));
        prop_assert_eq!(picture(busy.machine()), picture(calm.machine()));
        // Once more with all of it scrubbed.
        busy.flush();
        for _ in 0..20 {
            scrub(&mut busy, 50);
        }
        prop_assert_eq!(picture(busy.machine()), picture(calm.machine()));
    }

    /// After a crash the store stands at some durable entry; from each of them the log leads to the same
    /// state, also when it is fed from its very beginning.
    #[test]
    fn the_log_replays_from_every_durable_index(log in any_log(30)) {
        let mut whole = World::new();
        whole.machine().apply(&log);
        let wanted = picture(whole.machine());
        for durable in 0..=log.len() {
            let mut world = World::new();
            let first = world.machine().apply(&log[..durable]);
            let position = world.flush();
            prop_assert_eq!(position, first.position);
            // Applied, told, and lost.
            world.machine().apply(&log[..(durable + 3).min(log.len())]);
            world.crash();
            prop_assert_eq!(world.machine().applied(), position);
            let again = world.machine().apply(&log[..durable]);
            prop_assert!(told(&[again]).is_empty(), "what is durable is not applied again");
            world.machine().apply(&log);
            world.machine().check();
            prop_assert_eq!(picture(world.machine()), wanted.clone());
        }
    }
}
