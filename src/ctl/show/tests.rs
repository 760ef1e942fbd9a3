//! The formats, checked against what etcdctl prints for the same answers.

use super::*;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    LeaseGrantResponse, Member, MemberListResponse, PutResponse, RangeResponse, ResponseOp,
    TxnResponse, WatchResponse,
};
use crate::proto::mvccpb::Event;

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 11, member_id: 22, revision: 5, raft_term: 2 })
}

fn kv() -> KeyValue {
    KeyValue {
        key: "a".into(),
        create_revision: 5,
        mod_revision: 5,
        version: 1,
        value: "1".into(),
        lease: 0,
    }
}

fn text(answer: &impl Show, format: Format, hex: bool) -> String {
    let bytes = render(answer, &Style { format, hex })
        .unwrap_or_else(|failure| format!("{}: {}", failure.code, failure.text).into_bytes());
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_read_in_every_format() {
    let answer = RangeResponse { header: header(), kvs: vec![kv()], more: false, count: 1 };
    assert_eq!(text(&answer, Format::Simple, false), "a\n1\n");
    assert_eq!(text(&answer, Format::Simple, true), "\\x61\n\\x31\n");
    assert_eq!(
        text(&answer, Format::Fields, false),
        "\"ClusterID\" : 11\n\"MemberID\" : 22\n\"Revision\" : 5\n\"RaftTerm\" : 2\n\
         \"Key\" : \"a\"\n\"CreateRevision\" : 5\n\"ModRevision\" : 5\n\"Version\" : 1\n\
         \"Value\" : \"1\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n"
    );
    assert_eq!(
        text(&answer, Format::Json, true),
        "{\"header\":{\"cluster_id\":11,\"member_id\":22,\"revision\":5,\"raft_term\":2},\
         \"kvs\":[{\"key\":\"YQ==\",\"create_revision\":5,\"mod_revision\":5,\"version\":1,\
         \"value\":\"MQ==\"}],\"count\":1}\n"
    );
    let protobuf = render(&answer, &Style { format: Format::Protobuf, hex: false }).expect("bytes");
    let expected = b"\x0a\x08\x08\x0b\x10\x16\x18\x05\x20\x02\x12\x0c\x0a\x01a\x10\x05\x18\x05\
                     \x20\x01\x2a\x011\x20\x01";
    assert_eq!(protobuf, expected);
    assert_eq!(text(&answer, Format::Table, false), "4: table not supported as output format");
}

#[test]
fn a_transaction_shows_the_wrapper_of_each_answer() {
    let inner = Some(ResponseHeader { revision: 5, ..ResponseHeader::default() });
    let put = PutResponse { header: inner, prev_kv: Some(kv()) };
    let responses = vec![ResponseOp { response: Some(Response::ResponsePut(put)) }];
    let answer = TxnResponse { header: header(), succeeded: true, responses };
    assert_eq!(text(&answer, Format::Simple, false), "SUCCESS\n\nOK\na\n1\n");
    let json = text(&answer, Format::Json, false);
    let tail = "\"succeeded\":true,\"responses\":[{\"Response\":{\"response_put\":{\"header\":\
                {\"revision\":5},\"prev_kv\":{\"key\":\"YQ==\",\"create_revision\":5,\
                \"mod_revision\":5,\"version\":1,\"value\":\"MQ==\"}}}}]}\n";
    assert!(json.ends_with(tail), "{json}");
}

#[test]
fn a_watch_has_the_names_of_gos_struct() {
    let event =
        Event { r#type: 1, kv: Some(KeyValue { key: "<a>".into(), ..kv() }), prev_kv: None };
    let answer = WatchResponse { header: header(), events: vec![event], ..Default::default() };
    assert_eq!(text(&answer, Format::Simple, false), "DELETE\n<a>\n1\n");
    let json = text(&answer, Format::Json, false);
    assert!(json.starts_with("{\"Header\":{\"cluster_id\":11,"), "{json}");
    let tail =
        "\"CompactRevision\":0,\"Canceled\":false,\"Created\":false,\"CancelReason\":\"\"}\n";
    assert!(json.ends_with(tail), "{json}");
    let none = WatchResponse { header: header(), ..Default::default() };
    assert!(text(&none, Format::Json, false).contains("\"Events\":[]"));
}

#[test]
fn a_lease_prints_zeros_and_its_protobuf_is_the_header_alone() {
    let answer = LeaseGrantResponse { header: header(), id: 0x1f, ttl: 60, error: String::new() };
    assert_eq!(
        text(&answer, Format::Simple, false),
        "lease 000000000000001f granted with TTL(60s)\n"
    );
    assert!(text(&answer, Format::Json, false).ends_with("\"ID\":31,\"TTL\":60,\"Error\":\"\"}\n"));
    let protobuf = render(&answer, &Style { format: Format::Protobuf, hex: false }).expect("bytes");
    assert_eq!(protobuf, b"\x08\x0b\x10\x16\x18\x05\x20\x02");
}

#[test]
fn members_in_hex_are_text_and_always_there() {
    let member = Member {
        id: 255,
        name: String::new(),
        peer_urls: vec!["http://h:1".to_owned()],
        client_urls: vec![],
        is_learner: true,
    };
    let answer = MemberListResponse {
        header: Some(ResponseHeader { revision: 0, ..header().expect("made above") }),
        members: vec![member],
    };
    assert_eq!(text(&answer, Format::Simple, false), "ff, unstarted, , http://h:1, , true\n");
    assert_eq!(
        text(&answer, Format::Json, true),
        "{\"header\":{\"cluster_id\":\"b\",\"member_id\":\"16\",\"raft_term\":2},\
         \"members\":[{\"ID\":\"ff\",\"peerURLs\":[\"http://h:1\"],\"isLearner\":true}]}\n"
    );
}
