//! Golden scripts. Each command is one entry; what is printed is what the shell is told.

use std::fmt::Write as _;

use bytes::Bytes;

use super::super::{Applied, HashRound, conf};
use super::{World, bytes};
use crate::cluster::{Change, Member};
use crate::command::{
    AlarmAction, Compare, CompareResult, CompareTarget, DeleteRange, Event, KeyRange, LeaseMark,
    LeaseRemaining, Op, Operand, Outcome, Put, RequestId, Txn, TxnOp,
};
use crate::lease::Change as LeaseChange;
use crate::lease::golden::{self, Interpreter, Line};
use crate::raft::{ConfChange, ConfChangeKind, Payload};
use crate::types::{LeaseId, NodeId, Term};

fn range(line: &Line, place: usize) -> KeyRange {
    let end = line.get("end").unwrap_or_default().replace("\\0", "\0");
    KeyRange::from_wire(bytes(line.arg(place)), bytes(&end))
}

fn put(line: &Line) -> Put {
    let (key, value) = line.options.first().expect("put key=value");
    Put {
        key: bytes(key),
        value: bytes(value),
        lease: LeaseId(line.number("lease", 0)),
        ignore_lease: line.has("ignore_lease"),
        ..Put::default()
    }
}

/// `txn if=key then=key:value else=key:value thendel=key`: `if` asks whether the key exists.
fn txn(line: &Line) -> Txn {
    let mut txn = Txn::default();
    for (word, value) in &line.options {
        let op = || match value.split_once(':') {
            Some((key, value)) => {
                let (value, lease) = value.split_once('@').unwrap_or((value, "0"));
                let lease = LeaseId(lease.parse().expect("a lease id"));
                TxnOp::Put(Put { key: bytes(key), value: bytes(value), lease, ..Put::default() })
            }
            None => TxnOp::DeleteRange(DeleteRange {
                range: KeyRange::One(bytes(value)),
                prev_kv: false,
            }),
        };
        match word.as_str() {
            "if" => txn.compares.push(Compare {
                range: KeyRange::One(bytes(value)),
                result: CompareResult::Greater,
                target: CompareTarget::Create,
                operand: Operand::Create(0),
            }),
            "then" => txn.success.push(op()),
            "else" => txn.failure.push(op()),
            other => panic!("txn {other}"),
        }
    }
    txn
}

fn op(line: &Line) -> Option<Op> {
    let id = || LeaseId(line.arg(0).parse().expect("a lease id"));
    let term = || Term(line.number("term", 1));
    let mark = line.number("mark", 0);
    Some(match line.name.as_str() {
        "put" => Op::Put(put(line)),
        "del" => Op::DeleteRange(DeleteRange { range: range(line, 0), prev_kv: false }),
        "txn" => Op::Txn(txn(line)),
        "compact" => {
            Op::Compact { revision: line.arg(0).parse().expect("a revision"), physical: false }
        }
        "grant" => Op::LeaseGrant { id: id(), ttl: line.number("ttl", 10) },
        "revoke" => Op::LeaseRevoke { id: id() },
        "expire" => {
            let marks = line.options.iter().filter(|(key, _)| key == "lease");
            let leases = marks.map(|(_, text)| {
                let (id, mark) = text.split_once('@').expect("lease=id@mark");
                LeaseMark { id: LeaseId(id.parse().unwrap()), mark: mark.parse().unwrap() }
            });
            Op::LeaseExpire { term: term(), leases: leases.collect() }
        }
        "checkpoint" => {
            let remaining_millis = line.number("left", 0);
            let leases = vec![LeaseRemaining { id: id(), mark, remaining_millis }];
            Op::LeaseCheckpoint { term: term(), time_millis: line.number("time", 0), leases }
        }
        "alarm" => Op::Alarm {
            action: match line.arg(0) {
                "on" => AlarmAction::Activate,
                "off" => AlarmAction::Deactivate,
                "get" => AlarmAction::Get,
                _ => AlarmAction::Unknown(9),
            },
            member: line.number("member", 1),
            alarm: match line.arg(1) {
                "nospace" => 1,
                "corrupt" => 2,
                _ => 0,
            },
        },
        "version" => Op::ClusterVersionSet { version: line.arg(0).into() },
        "publish" => Op::MemberAttributes {
            member: NodeId(line.arg(0).parse().expect("a member's id")),
            name: line.get("name").unwrap_or_default().into(),
            client_urls: line.get("url").map(str::to_owned).into_iter().collect(),
        },
        "tie" => Op::MemberStoreSet {
            member: NodeId(line.arg(0).parse().expect("a member's id")),
            store_id: line.number("store", 0),
        },
        "ask" => Op::KeyspaceHashAsk { round: 7, revision: line.number("at", 1) },
        _ => return None,
    })
}

fn change(line: &Line) -> Option<ConfChange> {
    let id = || NodeId(line.arg(0).parse().expect("a member's id"));
    let urls = || line.get("url").map(str::to_owned).into_iter().collect::<Vec<_>>();
    let request = line.get("request").map(|id| RequestId(id.parse().expect("a request's id")));
    let change = match line.name.as_str() {
        "add" => {
            let mut member = Member::new(id(), urls());
            member.learner = line.has("learner");
            Change::Add { member, learners_max: None }
        }
        "promote" => Change::Promote(id()),
        "remove" => Change::Remove(id()),
        "update" => Change::Update { id: id(), peer_urls: urls() },
        // replace 2 by=4 url=…
        "replace" => {
            let by = Member::new(NodeId(line.number("by", 0)), urls());
            let changes = [Change::Add { member: by, learners_max: None }, Change::Remove(id())];
            return conf::joint_change(&changes, request);
        }
        "leave_joint" => return Some(ConfChange::leave_joint()),
        "nonsense" => return Some(ConfChange::update(Bytes::from_static(b"\xff"))),
        _ => return None,
    };
    Some(conf::conf_change(&change, request))
}

pub(super) fn print(applied: &Applied, out: &mut String) {
    for (revision, events) in &applied.events {
        let list: Vec<String> = events.iter().map(print_event).collect();
        let _ = writeln!(out, "{revision}: {}", list.join(", "));
    }
    for (_, outcome) in &applied.outcomes {
        let _ = match outcome {
            Outcome::Refused(refusal, revision) => {
                writeln!(out, "refused {refusal:?} at {revision}")
            }
            Outcome::Put { revision, .. } => writeln!(out, "ok at {revision}"),
            Outcome::DeleteRange { revision, deleted, .. } => {
                writeln!(out, "ok, {deleted} deleted at {revision}")
            }
            Outcome::Txn(txn) => writeln!(out, "{} at {}", txn.succeeded, txn.revision),
            other => writeln!(out, "{other:?}"),
        };
    }
    for change in &applied.leases {
        let _ = match change {
            LeaseChange::Granted(id, lease) => {
                writeln!(out, "{id} granted {}s by {}", lease.granted_seconds, lease.mark)
            }
            LeaseChange::Revoked(id) => writeln!(out, "{id} revoked"),
            LeaseChange::Checkpointed(id, lease) => {
                writeln!(out, "{id} has {:?} left", lease.life(std::time::Duration::ZERO))
            }
            LeaseChange::Spared(id) => writeln!(out, "{id} spared"),
        };
    }
    for (index, result) in &applied.conf {
        let _ = match result {
            Err(refusal) => writeln!(out, "{index}: members refused: {refusal:?}"),
            Ok(change) => match &change.kind {
                ConfChangeKind::Members(items) => writeln!(out, "{index}: members {items:?}"),
                other => writeln!(out, "{index}: members {other:?}"),
            },
        };
    }
    for round in &applied.hash_rounds {
        if let HashRound::Ask { round, revision } = round {
            let _ = writeln!(out, "round {round}: hash at {revision}");
        }
    }
}

fn print_event(event: &Event) -> String {
    let key = event.key().escape_ascii();
    match event {
        Event::Put { kv, .. } => format!("put {key}={}", kv.value.escape_ascii()),
        Event::Delete { .. } => format!("del {key}"),
    }
}

impl Interpreter for World {
    fn run(&mut self, line: &Line) -> String {
        let mut out = String::new();
        if let Some(op) = op(line) {
            print(&self.apply_op(op), &mut out);
        } else if let Some(change) = change(line) {
            print(&self.apply_conf(change), &mut out);
        } else {
            match line.name.as_str() {
                "noop" => print(&self.apply(Payload::Empty), &mut out),
                "garbage" => {
                    let payload = Payload::Command(Bytes::from_static(b"\xff\xff\xff"));
                    print(&self.apply(payload), &mut out);
                }
                "term" => self.term = Term(line.arg(0).parse().expect("a term")),
                "flush" => {
                    let _ = writeln!(out, "durable {}", self.flush());
                }
                "crash" => {
                    self.crash();
                    let _ = writeln!(out, "applied {}", self.machine().applied());
                }
                "replay" => print(&self.replay(), &mut out),
                "applied" => {
                    let _ = writeln!(out, "{}", self.machine().applied());
                }
                "leases" => {
                    let reader = self.machine().reader();
                    for lease in reader.leases() {
                        let keys: Vec<String> = reader
                            .lease_keys(lease.id)
                            .iter()
                            .map(|k| k.escape_ascii().to_string())
                            .collect();
                        let _ = writeln!(out, "{}: keys {}", lease.id, keys.join(" "));
                    }
                }
                "members" => {
                    let members = self.machine().reader().members();
                    for member in members.members() {
                        let _ = writeln!(out, "{}", member.to_json());
                    }
                    let version = members.version().map_or("none".into(), |v| v.to_string());
                    let _ = writeln!(out, "version {version}");
                }
                "conf" => {
                    let conf = self.machine().conf_state();
                    let _ = write!(out, "voters {:?} learners {:?}", conf.voters, conf.learners);
                    if conf.is_joint() {
                        let _ = write!(out, " outgoing {:?}", conf.voters_outgoing);
                    }
                }
                "get" => {
                    let store = self.machine().reader().store();
                    let kv =
                        store.get(line.arg(0).as_bytes()).expect("the newest revision is there");
                    out = kv.map_or("nothing".into(), |kv| {
                        format!("{}={} {}", line.arg(0), kv.value.escape_ascii(), kv.lease)
                    });
                }
                other => panic!("no command {other}"),
            }
        }
        self.machine().check();
        if out.is_empty() && line.name != "term" { "nothing to tell".into() } else { out }
    }
}

#[test]
fn scripts_print_what_they_say() {
    golden::check_all("src/machine/testscripts", World::new);
}
