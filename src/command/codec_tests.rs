//! The stored form reads back, whatever the command, and is etcd's for etcd's commands.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    (bytes(), bytes()).prop_map(|(key, end)| KeyRange::from_wire(key, end))
}

fn put() -> impl Strategy<Value = Put> {
    (bytes(), bytes(), any::<i64>(), any::<[bool; 3]>()).prop_map(
        |(key, value, lease, [prev_kv, ignore_value, ignore_lease])| Put {
            key,
            value,
            lease: LeaseId(lease),
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn range() -> impl Strategy<Value = Range> {
    let sort = (
        prop::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]),
        prop::sample::select(vec![
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ]),
    );
    (key_range(), any::<[i64; 6]>(), sort, any::<[bool; 2]>()).prop_map(
        |(range, [revision, limit, min_mod, max_mod, min_create, max_create], sort, flags)| Range {
            range,
            revision,
            limit,
            sort,
            keys_only: flags[0],
            count_only: flags[1],
            min_mod,
            max_mod,
            min_create,
            max_create,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
        (4..100i32).prop_map(CompareResult::Unknown),
    ];
    let target = prop_oneof![
        Just(CompareTarget::Version),
        Just(CompareTarget::Create),
        Just(CompareTarget::Mod),
        Just(CompareTarget::Value),
        Just(CompareTarget::Lease),
        (5..100i32).prop_map(CompareTarget::Unknown),
    ];
    let operand = prop_oneof![
        Just(Operand::Nothing),
        any::<i64>().prop_map(Operand::Version),
        any::<i64>().prop_map(Operand::Create),
        any::<i64>().prop_map(Operand::Mod),
        bytes().prop_map(Operand::Value),
        any::<i64>().prop_map(Operand::Lease),
    ];
    (key_range(), result, target, operand).prop_map(|(range, result, target, operand)| Compare {
        range,
        result,
        target,
        operand,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let flat = prop_oneof![
        range().prop_map(TxnOp::Range),
        put().prop_map(TxnOp::Put),
        (key_range(), any::<bool>())
            .prop_map(|(range, prev_kv)| TxnOp::DeleteRange(DeleteRange { range, prev_kv })),
    ];
    let op = flat.prop_recursive(3, 12, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| TxnOp::Txn(Txn { compares, success, failure }))
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
}

fn op() -> impl Strategy<Value = Op> {
    let text = "[a-z0-9.:/]{0,12}";
    let action = prop_oneof![
        Just(AlarmAction::Get),
        Just(AlarmAction::Activate),
        Just(AlarmAction::Deactivate),
        (3..9i32).prop_map(AlarmAction::Unknown),
    ];
    prop_oneof![
        put().prop_map(Op::Put),
        (key_range(), any::<bool>())
            .prop_map(|(range, prev_kv)| Op::DeleteRange(DeleteRange { range, prev_kv })),
        txn().prop_map(Op::Txn),
        (any::<i64>(), any::<bool>())
            .prop_map(|(revision, physical)| Op::Compact { revision, physical }),
        (any::<i64>(), any::<i64>()).prop_map(|(id, ttl)| Op::LeaseGrant { id: LeaseId(id), ttl }),
        any::<i64>().prop_map(|id| Op::LeaseRevoke { id: LeaseId(id) }),
        (any::<u64>(), vec((any::<i64>(), any::<u64>()), 0..4)).prop_map(|(term, leases)| {
            let mark = |(id, mark)| LeaseMark { id: LeaseId(id), mark };
            Op::LeaseExpire { term: Term(term), leases: leases.into_iter().map(mark).collect() }
        }),
        (any::<[u64; 2]>(), vec((any::<i64>(), any::<u64>(), any::<u64>()), 0..4)).prop_map(
            |([term, time_millis], leases)| {
                let rest = |(id, mark, remaining_millis)| LeaseRemaining {
                    id: LeaseId(id),
                    mark,
                    remaining_millis,
                };
                let leases = leases.into_iter().map(rest).collect();
                Op::LeaseCheckpoint { term: Term(term), time_millis, leases }
            }
        ),
        (action, any::<u64>(), any::<i32>()).prop_map(|(action, member, alarm)| Op::Alarm {
            action,
            member,
            alarm
        }),
        text.prop_map(|version| Op::ClusterVersionSet { version }),
        (any::<u64>(), text, vec(text, 0..3)).prop_map(|(member, name, client_urls)| {
            Op::MemberAttributes { member: NodeId(member), name, client_urls }
        }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(member, store_id)| Op::MemberStoreSet { member: NodeId(member), store_id }),
        (any::<u64>(), any::<i64>())
            .prop_map(|(round, revision)| Op::KeyspaceHashAsk { round, revision }),
        (any::<[u64; 2]>(), any::<[i64; 2]>(), any::<u32>()).prop_map(
            |([round, member], [revision, compact_revision], hash)| Op::KeyspaceHashReport {
                round,
                member: NodeId(member),
                revision,
                compact_revision,
                hash,
            }
        ),
    ]
}

proptest! {
    #[test]
    fn every_command_reads_back(id: u64, user in "[a-z]{0,5}", auth_revision: u64, op in op()) {
        let command = Command { id: RequestId(id), user, auth_revision, op };
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn hostile_bytes_do_not_panic(junk in vec(any::<u8>(), 0..80)) {
        let _ = Command::decode(&junk.into());
    }
}

fn command(op: Op) -> Command {
    Command { id: RequestId(0x1234), user: String::new(), auth_revision: 0, op }
}

#[test]
fn a_put_is_stored_as_etcd_stores_it() {
    let put =
        Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), ..Put::default() };
    let stored = command(Op::Put(put)).encode();
    // Field 4 (put) with its fields 1 and 2, then field 100 (header) with its field 1.
    assert_eq!(stored[..], *b"\x22\x06\x0a\x01k\x12\x01v\xa2\x06\x03\x08\xb4\x24");
}

#[test]
fn what_is_not_one_known_command_is_refused() {
    let decode =
        |request: pb::InternalRaftRequest| Command::decode(&request.encode_to_vec().into());
    let empty = pb::InternalRaftRequest::default();
    assert_eq!(decode(empty.clone()), Err(DecodeError::Empty));
    let both = pb::InternalRaftRequest {
        put: Some(Default::default()),
        txn: Some(Default::default()),
        ..empty.clone()
    };
    assert_eq!(decode(both), Err(DecodeError::Several("put", "txn")));
    let auth = pb::InternalRaftRequest { auth_enable: Some(Default::default()), ..empty.clone() };
    assert_eq!(decode(auth), Err(DecodeError::Unknown("auth_enable")));
    let hollow = pb::TxnRequest { success: vec![Default::default()], ..Default::default() };
    let hollow = pb::InternalRaftRequest { txn: Some(hollow), ..empty };
    assert_eq!(decode(hollow), Err(DecodeError::EmptyTxnOp));
    assert!(matches!(
        Command::decode(&Bytes::from_static(b"\xff")),
        Err(DecodeError::Malformed(_))
    ));
}

#[test]
fn transactions_read_back_as_deep_as_they_are_let_in() {
    let mut txn = Txn::default();
    for _ in 1..TXN_DEPTH_MAX {
        txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
    }
    assert_eq!(txn.depth(), TXN_DEPTH_MAX);
    let command = command(Op::Txn(txn));
    assert_eq!(Command::decode(&command.encode()), Ok(command));
}
