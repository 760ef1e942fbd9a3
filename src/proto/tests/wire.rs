//! Golden bytes. A field begins with its number × 8 + wire type (0 varint, 2 length and bytes), itself a
//! varint: `0a` is field 1 with a length, `10` is field 2 as a number.

use bytes::Bytes;
use prost::Message;

use crate::proto::*;
use crate::proto::{etcdserverpb as pb, internal};

/// -1 as a varint: negative numbers always take ten bytes.
const MINUS_ONE: &str = "ff ff ff ff ff ff ff ff ff 01";

/// Asserts that the message encodes to these bytes, in hex, and that they decode to the message.
#[track_caller]
fn golden<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, hex: &str) {
    assert_eq!(to_hex(&message.encode_to_vec()), hex);
    assert_eq!(decode::<M>(hex), message);
}

#[track_caller]
fn decode<M: Message + Default>(hex: &str) -> M {
    M::decode(Bytes::from(from_hex(hex))).expect("the bytes are well-formed")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn from_hex(hex: &str) -> Vec<u8> {
    let byte = |text| u8::from_str_radix(text, 16).expect("two hex digits");
    hex.split_whitespace().map(byte).collect()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn key_values_are_stored_in_field_order_without_zeros() {
    let kv = mvccpb::KeyValue {
        key: bytes("k"),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: bytes("v"),
        lease: 300,
    };
    golden(kv.clone(), "0a 01 6b 10 02 18 03 20 02 2a 01 76 30 ac 02");
    golden(mvccpb::KeyValue { lease: 0, ..kv }, "0a 01 6b 10 02 18 03 20 02 2a 01 76");
}

#[test]
fn tombstones_hold_the_key_alone() {
    golden(mvccpb::KeyValue { key: bytes("k"), ..Default::default() }, "0a 01 6b");
}

#[test]
fn events_leave_out_the_put_type() {
    let kv = mvccpb::KeyValue { key: bytes("k"), mod_revision: 5, ..Default::default() };
    let mut event = mvccpb::Event { kv: Some(kv), ..Default::default() };
    golden(event.clone(), "12 05 0a 01 6b 18 05");
    event.set_type(mvccpb::event::EventType::Delete);
    golden(event, "08 01 12 05 0a 01 6b 18 05");
}

#[test]
fn users_keep_empty_options_and_roles_keep_order() {
    let user = authpb::User {
        name: bytes("root"),
        roles: vec!["a".into(), "b".into()],
        options: Some(authpb::UserAddOptions::default()),
        ..Default::default()
    };
    golden(user, "0a 04 72 6f 6f 74 1a 01 61 1a 01 62 22 00");
    let permission = authpb::Permission {
        perm_type: authpb::permission::Type::Readwrite.into(),
        key: bytes("a"),
        range_end: bytes("b"),
    };
    let role = authpb::Role { name: bytes("r"), key_permission: vec![permission] };
    golden(role, "0a 01 72 12 08 08 02 12 01 61 1a 01 62");
}

#[test]
fn range_requests_use_the_numbers_one_to_thirteen() {
    let request = pb::RangeRequest {
        key: bytes("k"),
        range_end: bytes("\0"),
        limit: 10,
        revision: 7,
        sort_order: pb::range_request::SortOrder::Descend.into(),
        sort_target: pb::range_request::SortTarget::Value.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 2,
        min_create_revision: 3,
        max_create_revision: 4,
    };
    golden(
        request,
        "0a 01 6b 12 01 00 18 0a 20 07 28 02 30 04 38 01 40 01 48 01 50 01 58 02 60 03 68 04",
    );
}

#[test]
fn transactions_nest_and_the_compare_range_end_is_field_64() {
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Value.into(),
        key: bytes("k"),
        target_union: Some(pb::compare::TargetUnion::Value(bytes("v"))),
        range_end: bytes("l"),
    };
    let put = pb::PutRequest { key: bytes("k"), ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(pb::request_op::Request::RequestPut(put))],
        failure: vec![op(pb::request_op::Request::RequestTxn(pb::TxnRequest::default()))],
    };
    golden(txn, "0a 0e 08 01 10 03 1a 01 6b 3a 01 76 82 04 01 6c 12 05 12 03 0a 01 6b 1a 02 22 00");
}

#[test]
fn a_zero_in_a_oneof_is_written() {
    let compare = pb::Compare {
        key: bytes("k"),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    golden(compare, "1a 01 6b 20 00");
}

#[test]
fn a_present_but_empty_header_is_not_an_absent_one() {
    let put = pb::PutResponse {
        header: Some(pb::ResponseHeader { revision: 2, ..Default::default() }),
        prev_kv: None,
    };
    let response = pb::TxnResponse {
        header: Some(pb::ResponseHeader::default()),
        succeeded: true,
        responses: vec![pb::ResponseOp {
            response: Some(pb::response_op::Response::ResponsePut(put)),
        }],
    };
    golden(response, "0a 00 10 01 1a 06 12 04 0a 02 18 02");
    golden(pb::DefragmentResponse { header: None }, "");
}

#[test]
fn transactions_nested_beyond_all_reason_are_an_error_and_not_a_stack_overflow() {
    let nested = |depth| {
        let mut txn = pb::TxnRequest::default();
        for _ in 0..depth {
            let request = Some(pb::request_op::Request::RequestTxn(txn));
            txn = pb::TxnRequest { success: vec![pb::RequestOp { request }], ..Default::default() };
        }
        txn
    };
    let fits = nested(40);
    assert_eq!(pb::TxnRequest::decode(Bytes::from(fits.encode_to_vec())), Ok(fits));
    // Encoded by hand: encoding it from Rust values would recurse as deep.
    let mut deep = Vec::new();
    for _ in 0..100_000 {
        let mut op = vec![0x22];
        prost::encoding::encode_varint(deep.len() as u64, &mut op);
        let mut outer = vec![0x12];
        prost::encoding::encode_varint((op.len() + deep.len()) as u64, &mut outer);
        outer.extend(op);
        deep.splice(0..0, outer);
        if deep.len() > 64 * 1024 {
            break;
        }
    }
    assert!(pb::TxnRequest::decode(Bytes::from(deep)).is_err());
}

#[test]
fn watch_messages_have_packed_filters_and_events_at_eleven() {
    let create = pb::WatchCreateRequest {
        key: bytes("k"),
        filters: vec![0, 1],
        watch_id: -1,
        ..Default::default()
    };
    let request = pb::watch_request::RequestUnion::CreateRequest(create);
    let request = pb::WatchRequest { request_union: Some(request) };
    golden(request.clone(), &format!("0a 12 0a 01 6b 2a 02 00 01 38 {MINUS_ONE}"));
    // Some clients write the list one number at a time.
    assert_eq!(
        decode::<pb::WatchRequest>(&format!("0a 12 0a 01 6b 28 00 28 01 38 {MINUS_ONE}")),
        request
    );

    let progress = pb::watch_request::RequestUnion::ProgressRequest(Default::default());
    golden(pb::WatchRequest { request_union: Some(progress) }, "1a 00");

    let response = pb::WatchResponse {
        watch_id: -1,
        canceled: true,
        cancel_reason: "x".into(),
        events: vec![mvccpb::Event { kv: Some(Default::default()), ..Default::default() }],
        ..Default::default()
    };
    golden(response, &format!("10 {MINUS_ONE} 20 01 32 01 78 5a 02 12 00"));
}

#[test]
fn lease_messages() {
    golden(pb::LeaseGrantRequest { ttl: 60, id: 1 }, "08 3c 10 01");
    golden(
        pb::LeaseTimeToLiveResponse {
            header: None,
            id: 5,
            ttl: -1,
            granted_ttl: 60,
            keys: vec![bytes(""), bytes("a")],
        },
        &format!("10 05 18 {MINUS_ONE} 20 3c 2a 00 2a 01 61"),
    );
    golden(leasepb::Lease { id: 1, ttl: 60, remaining_ttl: 10 }, "08 01 10 3c 18 0a");
}

#[test]
fn members_and_their_urls() {
    let member = pb::Member {
        id: 300,
        name: "m".into(),
        peer_urls: vec!["p".into()],
        client_urls: vec!["c".into()],
        is_learner: true,
    };
    golden(member, "08 ac 02 12 01 6d 1a 01 70 22 01 63 28 01");
}

#[test]
fn maintenance_messages() {
    let status = pb::StatusResponse {
        version: "3".into(),
        errors: vec!["e".into()],
        db_size_quota: 1,
        downgrade_info: Some(pb::DowngradeInfo::default()),
        ..Default::default()
    };
    golden(status, "12 01 33 42 01 65 60 01 6a 00");
    let hash =
        pb::HashKvResponse { header: None, hash: u32::MAX, compact_revision: -1, hash_revision: 7 };
    golden(hash, &format!("10 ff ff ff ff 0f 18 {MINUS_ONE} 20 07"));
    let snapshot = pb::SnapshotResponse {
        header: None,
        remaining_bytes: 32,
        blob: bytes("ab"),
        version: "3.7.0".into(),
    };
    golden(snapshot, "10 20 1a 02 61 62 22 05 33 2e 37 2e 30");
    golden(pb::AlarmMember { member_id: 1, alarm: pb::AlarmType::Nospace.into() }, "08 01 10 01");
}

#[test]
fn auth_messages_number_the_hash_differently() {
    let add = pb::AuthUserAddRequest {
        name: "u".into(),
        password: String::new(),
        options: Some(authpb::UserAddOptions { no_password: true }),
        hashed_password: "h".into(),
    };
    golden(add, "0a 01 75 1a 02 08 01 22 01 68");
    let change = pb::AuthUserChangePasswordRequest {
        name: "u".into(),
        password: String::new(),
        hashed_password: "h".into(),
    };
    golden(change, "0a 01 75 1a 01 68");
}

#[test]
fn log_requests_put_the_header_at_100() {
    let put = pb::PutRequest { key: bytes("k"), value: bytes("v"), ..Default::default() };
    let request = pb::InternalRaftRequest {
        header: Some(pb::RequestHeader { id: 7, ..Default::default() }),
        put: Some(put),
        ..Default::default()
    };
    golden(request, "22 06 0a 01 6b 12 01 76 a2 06 02 08 07");
}

#[test]
fn log_requests_use_the_high_numbers_for_auth_and_membership() {
    let enable = pb::InternalRaftRequest {
        id: 7,
        auth_enable: Some(pb::AuthEnableRequest {}),
        ..Default::default()
    };
    golden(enable, "08 07 c2 3e 00");
    let attributes = membershippb::ClusterMemberAttrSetRequest {
        member_id: 1,
        member_attributes: Some(membershippb::Attributes {
            name: "m".into(),
            client_urls: vec!["c".into()],
        }),
    };
    let publish =
        pb::InternalRaftRequest { cluster_member_attr_set: Some(attributes), ..Default::default() };
    golden(publish, "aa 51 0a 08 01 12 06 0a 01 6d 12 01 63");
}

#[test]
fn our_own_log_commands_sit_in_field_20000() {
    let revoke = internal::LeaseRevokeIf {
        term: 4,
        leases: vec![internal::LeaseMark { id: 7, granted_index: 9 }],
    };
    let extension = internal::Extension {
        origin: Some(internal::RequestOrigin { member: 1, boot: 2, sequence: 3 }),
        command_number: 10,
        command: Some(internal::extension::Command::LeaseRevokeIf(revoke)),
    };
    let request = pb::InternalRaftRequest { mainstay: Some(extension), ..Default::default() };
    golden(request, "82 e2 09 14 0a 06 08 01 10 02 18 03 10 0a 52 08 08 04 12 04 08 07 10 09");
}

#[test]
fn an_unknown_log_command_leaves_its_number() {
    let extension = decode::<internal::Extension>("10 63 9a 06 00");
    assert_eq!(extension.command, None);
    assert_eq!(extension.command_number, 99);
}

#[test]
fn log_entries_are_read_with_and_without_their_zero_type() {
    use raftpb::EntryType::EntryNormal;
    let entry = raftpb::Entry {
        r#type: Some(EntryNormal.into()),
        term: Some(1),
        index: Some(2),
        data: Some(bytes("d")),
    };
    golden(entry.clone(), "08 00 10 01 18 02 22 01 64");
    let newer = raftpb::Entry { r#type: None, ..entry };
    assert_eq!(newer.r#type(), EntryNormal);
    golden(newer, "10 01 18 02 22 01 64");
}

#[test]
fn configurations_list_their_voters_unpacked() {
    let state = raftpb::ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        auto_leave: Some(false),
        ..Default::default()
    };
    golden(state.clone(), "08 01 08 02 10 03 28 00");
    assert_eq!(decode::<raftpb::ConfState>("0a 02 01 02 12 01 03 28 00"), state);

    let change = raftpb::ConfChange {
        id: Some(5),
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddLearnerNode.into()),
        node_id: Some(2),
        context: Some(bytes("{}")),
    };
    golden(change, "08 05 10 03 18 02 22 02 7b 7d");
    let joint = raftpb::ConfChangeV2 {
        transition: Some(raftpb::ConfChangeTransition::JointImplicit.into()),
        changes: vec![raftpb::ConfChangeSingle {
            r#type: Some(raftpb::ConfChangeType::ConfChangeRemoveNode.into()),
            node_id: Some(2),
        }],
        context: Some(bytes("c")),
    };
    golden(joint, "08 01 12 04 08 01 10 02 1a 01 63");
}

#[test]
fn raft_messages_of_etcd() {
    let append = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgApp.into()),
        to: Some(2),
        from: Some(1),
        term: Some(3),
        log_term: Some(2),
        index: Some(9),
        entries: vec![raftpb::Entry { term: Some(3), index: Some(10), ..Default::default() }],
        commit: Some(8),
        vote: Some(5),
        ..Default::default()
    };
    golden(append, "08 03 10 02 18 01 20 03 28 02 30 09 3a 04 10 03 18 0a 40 08 68 05");
    golden(
        raftpb::HardState { term: Some(1), vote: Some(2), commit: Some(3) },
        "08 01 10 02 18 03",
    );
}

#[test]
fn records_of_etcds_files() {
    golden(walpb::Record { r#type: Some(4), crc: Some(0), data: None }, "08 04 10 00");
    let snapshot = walpb::Snapshot {
        index: Some(1),
        term: Some(1),
        conf_state: Some(raftpb::ConfState { voters: vec![1], ..Default::default() }),
    };
    golden(snapshot, "08 01 10 01 1a 02 08 01");
    golden(snappb::Snapshot { crc: Some(7), data: Some(bytes("d")) }, "08 07 12 01 64");
    golden(pb::Metadata { node_id: Some(0), cluster_id: Some(2) }, "08 00 10 02");
}

#[test]
fn election_lock_and_health() {
    let leader = v3electionpb::LeaderKey { name: bytes("e"), key: bytes("k"), rev: 2, lease: 3 };
    golden(leader, "0a 01 65 12 01 6b 18 02 20 03");
    let header = Some(pb::ResponseHeader { revision: 2, ..Default::default() });
    golden(v3lockpb::LockResponse { header, key: bytes("k") }, "0a 02 18 02 12 01 6b");

    let serving = health::health_check_response::ServingStatus::Serving;
    let serving = health::HealthCheckResponse { status: serving.into() };
    golden(serving, "08 01");
    let statuses = [("a".to_owned(), serving)].into();
    golden(health::HealthListResponse { statuses }, "0a 07 0a 01 61 12 02 08 01");
}

#[test]
fn peer_batches_and_snapshot_chunks() {
    let heartbeat = internal::Heartbeat { commit: 5, round: 6 };
    let batch = internal::PeerBatch {
        hello: None,
        messages: vec![internal::RaftEnvelope {
            from: 1,
            to: 2,
            term: 3,
            kind: Some(internal::raft_envelope::Kind::Heartbeat(heartbeat)),
        }],
    };
    golden(batch, "12 0d 08 01 10 02 18 03 82 01 04 08 05 10 06");
    let trailer = internal::SnapshotTrailer { row_count: 3, crc32c: 9 };
    let part = internal::snapshot_chunk::Part::Trailer(trailer);
    golden(internal::SnapshotChunk { part: Some(part) }, "22 04 08 03 10 09");
}

#[test]
fn a_kind_of_peer_message_that_is_not_known_decodes_to_none() {
    let envelope = decode::<internal::RaftEnvelope>("08 01 10 02 18 03 9a 06 00");
    assert_eq!((envelope.from, envelope.to, envelope.term), (1, 2, 3));
    assert_eq!(envelope.kind, None);
}

#[test]
fn unknown_enum_numbers_survive() {
    use pb::compare::CompareResult;
    let compare = decode::<pb::Compare>("08 09");
    assert_eq!(compare.result, 9);
    assert!(CompareResult::try_from(compare.result).is_err());
    assert_eq!(compare.result(), CompareResult::Equal, "the getter makes the default of it");
    golden(compare, "08 09");

    let message = decode::<raftpb::Message>("08 63");
    assert_eq!(message.r#type, Some(99));
    golden(message, "08 63");
}

#[test]
fn unknown_fields_are_dropped() {
    let kv = decode::<mvccpb::KeyValue>("0a 01 6b 9a 06 02 78 78 18 05");
    assert_eq!(to_hex(&kv.encode_to_vec()), "0a 01 6b 18 05");
}

#[test]
fn a_field_that_claims_more_bytes_than_there_are_is_an_error() {
    assert!(mvccpb::KeyValue::decode(Bytes::from(from_hex("0a 05 6b"))).is_err());
    assert!(mvccpb::KeyValue::decode(Bytes::from(from_hex("0a ff ff ff ff 0f 6b"))).is_err());
}

#[test]
fn decoded_keys_share_the_buffer_they_came_in() {
    let buffer = Bytes::from(from_hex("0a 01 6b"));
    let kv = mvccpb::KeyValue::decode(buffer.clone()).expect("the bytes are well-formed");
    assert_eq!(kv.key.as_ptr(), buffer[2..].as_ptr());
}
