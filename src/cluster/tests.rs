//! Scripts of the membership's rules. Each change travels through its entry's context, as in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;

use super::reconfig::{self, Sight};
use super::{Alarm, Alarms, Change, Member, Membership, membership};
use crate::lease::golden::{self, Interpreter, Line};
use crate::storage::{Table, Write};
use crate::types::{ClusterId, Index, NodeId};

struct World {
    membership: Membership,
    alarms: Alarms,
    rows: BTreeMap<(Table, Bytes), Bytes>,
}

impl World {
    fn new() -> Self {
        let membership = Membership::new(ClusterId(0xc1));
        let mut world = Self { alarms: Alarms::default(), rows: BTreeMap::new(), membership };
        let row = world.membership.cluster_row();
        world.store(vec![row], &mut String::new());
        world
    }

    fn store(&mut self, writes: Vec<Write>, out: &mut String) {
        for write in writes {
            let name = format!("{}/{}", write.table.name(), write.key.escape_ascii());
            match write.value {
                Some(value) => {
                    let _ = writeln!(out, "stored {name} {}", String::from_utf8_lossy(&value));
                    self.rows.insert((write.table, write.key), value);
                }
                None => {
                    let _ = writeln!(out, "dropped {name}");
                    self.rows
                        .remove(&(write.table, write.key))
                        .expect("only what is there is dropped");
                }
            }
        }
    }

    fn load(&self) -> (Membership, Alarms) {
        let rows =
            self.rows.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let membership = Membership::load(rows.clone()).expect("the rows are ours");
        let alarms = rows.filter(|row| row.0 == Table::Alarms).map(|(_, key, value)| (key, value));
        (membership, Alarms::load(alarms).expect("the rows are ours"))
    }

    fn change(&mut self, change: &Change, out: &mut String) {
        let change = Change::parse(change.kind(), change.id(), &change.context())
            .expect("it was written so");
        let mut writes = Vec::new();
        match self.membership.apply(&change, &mut writes) {
            Ok(()) => self.store(writes, out),
            Err(error) => {
                assert!(writes.is_empty(), "a refused change wrote something");
                let _ = writeln!(out, "refused: {error}");
            }
        }
    }
}

fn urls(line: &Line) -> Vec<String> {
    line.options.iter().filter(|(key, _)| key == "url").map(|(_, value)| value.clone()).collect()
}

fn ids(line: &Line, key: &str) -> BTreeSet<NodeId> {
    let list = line.get(key).unwrap_or_default().split(',').filter(|id| !id.is_empty());
    list.map(|id| NodeId(id.parse().expect("a member's id"))).collect()
}

fn verdict(result: Result<(), reconfig::Unwise>) -> String {
    result.map_or_else(|error| format!("refused: {error}"), |()| "may be proposed".into())
}

impl Interpreter for World {
    fn run(&mut self, line: &Line) -> String {
        let mut out = String::new();
        let id = || NodeId(line.arg(0).parse().expect("a member's id"));
        let sight = || {
            let settled = ids(line, "settled");
            let mut connected = ids(line, "connected");
            connected.extend(&settled);
            Sight { own: NodeId(line.number("own", 1)), settled, connected }
        };
        match line.name.as_str() {
            "bootstrap" => {
                let members: Vec<_> = line
                    .options
                    .iter()
                    .map(|(name, url)| (name.clone(), vec![url.clone()]))
                    .collect();
                match membership::bootstrap(&members, "token") {
                    Ok((cluster, changes)) => {
                        let _ = writeln!(out, "cluster {:x}", cluster.0);
                        changes.iter().for_each(|change| self.change(change, &mut out));
                    }
                    Err(name) => out = format!("refused: {name}"),
                }
            }
            "add" => {
                let mut member = Member::new(id(), urls(line));
                member.learner = line.has("learner");
                let learners_max = line.get("max").map(|max| max.parse().expect("a number"));
                self.change(&Change::Add { member, learners_max }, &mut out);
            }
            "promote" => self.change(&Change::Promote(id()), &mut out),
            "remove" => self.change(&Change::Remove(id()), &mut out),
            "update" => self.change(&Change::Update { id: id(), peer_urls: urls(line) }, &mut out),
            "publish" => {
                let mut writes = Vec::new();
                let name = line.get("name").unwrap_or_default();
                if !self.membership.publish(id(), name, &urls(line), &mut writes) {
                    out.push_str("no such member\n");
                }
                self.store(writes, &mut out);
            }
            "tie" => {
                let mut writes = Vec::new();
                if let Err(error) =
                    self.membership.tie_store(id(), line.number("store", 0), &mut writes)
                {
                    let _ = writeln!(out, "refused: {error}");
                }
                self.store(writes, &mut out);
            }
            "version" => {
                let mut writes = Vec::new();
                self.membership.set_version(line.arg(0).parse().expect("a version"), &mut writes);
                self.store(writes, &mut out);
            }
            "alarm" => {
                let alarm =
                    Alarm { kind: line.number("kind", 1), member: line.number("member", 1) };
                let mut writes = Vec::new();
                let done = match line.arg(0) {
                    "on" => self.alarms.activate(alarm, &mut writes).into_iter().collect(),
                    "off" => self.alarms.deactivate(alarm, &mut writes).into_iter().collect(),
                    _ => self.alarms.list(alarm.kind),
                };
                self.store(writes, &mut out);
                for Alarm { kind, member } in done {
                    let _ = writeln!(out, "kind {kind} of member {member}");
                }
            }
            "may_add" => {
                out = verdict(reconfig::may_add(&self.membership, line.has("learner"), &sight()))
            }
            "may_remove" => out = verdict(reconfig::may_remove(&self.membership, id(), &sight())),
            "may_promote" => {
                let matched = line.get("matched").map(|m| Index(m.parse().expect("an index")));
                let last = Index(line.number("last", 100));
                out = verdict(reconfig::may_promote(
                    &self.membership,
                    matched,
                    last,
                    !line.has("lax"),
                ));
            }
            "list" => {
                for member in self.membership.members() {
                    let _ = writeln!(out, "{}", member.to_json());
                }
            }
            other => panic!("no command {other}"),
        }
        self.membership.check();
        assert_eq!(
            self.load(),
            (self.membership.clone(), self.alarms.clone()),
            "memory and rows differ"
        );
        if out.is_empty() { "nothing".into() } else { out }
    }
}

#[test]
fn scripts_print_what_they_say() {
    golden::check_all("src/cluster/testscripts", World::new);
}

#[test]
fn damaged_rows_are_named_and_not_guessed() {
    let bytes = Bytes::from_static;
    for (table, key, value) in [
        (Table::Members, bytes(b"zz"), bytes(b"{}")),
        (Table::Members, bytes(b"8"), bytes(b"{")),
        (Table::Members, bytes(b"8"), bytes(br#"{"id":9}"#)),
        (Table::MembersRemoved, bytes(b"-1"), bytes(b"removed")),
        (Table::Cluster, bytes(b"clusterVersion"), bytes(b"three")),
        (Table::Cluster, bytes(b"clusterID"), bytes(b"1234567")),
    ] {
        let error =
            Membership::load([(table, key.clone(), value)].into_iter()).expect_err("it is damaged");
        assert_eq!((error.table, error.key), (table, key));
    }
    assert!(Alarms::load([(bytes(b"1234"), Bytes::new())].into_iter()).is_err());
}
