//! Golden scripts: one situation a file, in `testscripts/`. A block of commands, `---`, what happened.
//! `UPDATE_GOLDENFILES=1` writes what happens now, and the diff is what gets reviewed.
//!
//! | command | does |
//! |---|---|
//! | `put K V [lease=N] [prev] [ignore_value] [ignore_lease]` | writes; `K` may be `x*600` for a long key |
//! | `del K [END] [prev]` | deletes; `END` is a key, or `..` for «no end» |
//! | `txn [if C…] [then OP…] [else OP…]` | `C` = `version(a)=1`, `OP` = `put(a,1)` `del(a,b)` `get(a,b,rev=3)` or `[ if … ]` |
//! | `range K [END] [rev=] [limit=] [sort=desc:mod] [keys] [count] [min_mod=] …` | reads |
//! | `reads …` | runs a transaction as a read-only one |
//! | `compact N`, `flush`, `restart`, `scrub [rows=N] [steps=N]`, `hold`, `release` | |
//! | `history N [revisions=N]`, `hash N…` | reads the past |
//! | `rows`, `keys`, `counts` | shows what is stored |
//! | `times N put K V` | repeats; `#` in it is the number of the round |

use std::fmt::Write as _;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Member, bytes};
use crate::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, Event, KeyRange, KeyValue, Op, OpOutcome,
    Operand, Outcome, Put, Range, RangeOutcome, SortOrder, SortTarget, Txn, TxnOp, TxnOutcome,
};
use crate::mvcc::codec::{KeyState, Row, parse_row_key};
use crate::mvcc::{Budget, Hold};
use crate::storage::Table;
use crate::types::{LeaseId, Revision};

#[test]
fn scripts_print_what_they_did() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mvcc/testscripts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("the scripts are there")
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "only {} scripts", files.len());
    let update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
    let mut failures = String::new();
    for path in files {
        let script = std::fs::read_to_string(&path).expect("a readable script");
        let played = play(&script);
        if update && played != script {
            std::fs::write(&path, &played).expect("a writable script");
        } else if played != script {
            let _ = writeln!(failures, "{}:", path.display());
            let (old, new): (Vec<_>, Vec<_>) = (script.lines().collect(), played.lines().collect());
            for at in 0..old.len().max(new.len()) {
                if old.get(at) != new.get(at) {
                    let _ = writeln!(failures, "  {:?}\n  {:?}", old.get(at), new.get(at));
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "scripts print something else now:\n{failures}");
}

fn play(script: &str) -> String {
    let mut world = World { member: Member::new(), hold: None };
    let mut out = String::new();
    let mut printed = String::new();
    let mut skipping = false;
    for line in script.lines() {
        let line = line.trim_end();
        if line == "---" {
            out.push_str("---\n");
            out.push_str(&std::mem::take(&mut printed));
            skipping = true;
        } else if skipping && !line.is_empty() {
            // The old answer.
        } else {
            skipping = false;
            let _ = writeln!(out, "{line}");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.strip_prefix('(').and_then(|line| line.strip_suffix(')')) {
                Some(quiet) => drop(world.run(quiet)),
                None => printed.push_str(&world.run(line)),
            }
        }
    }
    assert!(printed.is_empty(), "the last block has no ---: {script}");
    out
}

struct World {
    member: Member,
    hold: Option<Hold>,
}

/// The words of a command: plain ones and `name=value`.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn plain(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().copied().filter(|word| !word.contains('='))
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> i64 {
        self.value(name).map_or(0, |value| value.parse().expect("a number"))
    }
}

impl World {
    fn run(&mut self, line: &str) -> String {
        let mut out = String::new();
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let words = Words(words.collect());
        match command {
            "put" => self.apply(Op::Put(parse_put(&words)), &mut out),
            "del" => {
                let range = key_range(&mut words.plain().filter(|word| *word != "prev"));
                let prev_kv = words.has("prev");
                self.apply(Op::DeleteRange(DeleteRange { range, prev_kv }), &mut out);
            }
            "txn" => {
                let txn = parse_txn(&mut words.0.iter().copied());
                self.apply(Op::Txn(txn), &mut out);
            }
            "reads" => {
                let txn = parse_txn(&mut words.0.iter().copied());
                match self.member.store().txn_read_only(&txn) {
                    Ok(outcome) => print_txn(&outcome, 0, &mut out),
                    Err(refusal) => writeln!(out, "{refusal}").expect("a string"),
                }
            }
            "range" => {
                let request = parse_range(&words);
                match self.member.store().range(&request) {
                    Ok(outcome) => print_range(&outcome, "", &mut out),
                    Err(refusal) => writeln!(out, "{refusal}").expect("a string"),
                }
            }
            "compact" => {
                let revision = words.0[0].parse().expect("a revision");
                self.apply(Op::Compact { revision, physical: false }, &mut out);
            }
            "flush" => self.member.flush(),
            "restart" => {
                self.member.restart();
                let store = self.member.store();
                let compact = store.compact_revision().map_or("never".into(), |c| c.to_string());
                let _ = writeln!(out, "at {}, compacted {compact}", store.revision());
            }
            "scrub" => {
                let steps = words.value("steps").map_or(1000, |n| n.parse().expect("a number"));
                let rows = words.value("rows").map_or(1000, |n| n.parse().expect("a number"));
                let progress = self.member.scrub(rows, steps);
                let done = self.member.store().scrubbed();
                let done = done.map_or("nothing".into(), |done| done.to_string());
                let _ = writeln!(out, "scrub: {progress:?}, {done} done");
            }
            "hold" => self.hold = Some(self.member.store().hold_scrub()),
            "release" => self.hold = None,
            "history" => self.history(&words, &mut out),
            "hash" => {
                for revision in &words.0 {
                    let revision = revision.parse().expect("a revision");
                    let _ = match self.member.store().hash_kv(revision) {
                        Ok(hash) => writeln!(
                            out,
                            "hash {:08x} of r{} under r{}",
                            hash.hash, hash.hash_revision, hash.compact_revision
                        ),
                        Err(refusal) => writeln!(out, "{refusal}"),
                    };
                }
            }
            "rows" => self.rows(&mut out),
            "keys" => self.keys(&mut out),
            "counts" => {
                let store = self.member.store();
                store.check();
                let view = store.storage().view();
                let buckets = view.scan(Table::Counts, Bound::Unbounded, Bound::Unbounded).count();
                drop(view);
                let _ = writeln!(out, "{} live, {buckets} stored buckets", store.live_keys());
            }
            "times" => {
                let rest = words.0[1..].join(" ");
                for round in 0..words.0[0].parse::<u32>().expect("a number") {
                    let _ = self.run(&rest.replace('#', &format!("{round:04}")));
                }
                let _ = writeln!(out, "at {}", self.member.store().revision());
            }
            other => panic!("no such command: {other}"),
        }
        out
    }

    fn apply(&mut self, op: Op, out: &mut String) {
        let (outcome, events) = self.member.apply(op);
        match outcome {
            Outcome::Put { revision, prev } => {
                let prev = prev.map_or(String::new(), |prev| format!(", was {}", show(&prev)));
                let _ = writeln!(out, "put at {revision}{prev}");
            }
            Outcome::DeleteRange { revision, deleted, prevs } => {
                let _ = writeln!(out, "deleted {deleted} at {revision}");
                for prev in prevs {
                    let _ = writeln!(out, "  was {}", show(&prev));
                }
            }
            Outcome::Txn(outcome) => print_txn(&outcome, 0, out),
            Outcome::Compact { revision } => {
                let _ = writeln!(out, "compacted at {revision}");
            }
            Outcome::Refused(refusal, revision) => {
                let _ = writeln!(out, "{refusal} at {revision}");
            }
            other => panic!("unexpected {other:?}"),
        }
        for event in events {
            let _ = writeln!(out, "  event {}", show_event(&event));
        }
    }

    fn history(&self, words: &Words<'_>, out: &mut String) {
        let revisions = words.value("revisions").map_or(1000, |n| n.parse().expect("a number"));
        let budget = Budget { revisions, ..Budget::default() };
        let mut next = Revision(words.0[0].parse().expect("a revision"));
        loop {
            match self.member.store().history(next, budget) {
                Err(refusal) => {
                    let _ = writeln!(out, "{refusal}");
                    return;
                }
                Ok(batch) => {
                    for (revision, events) in &batch.revisions {
                        let _ = writeln!(out, "{revision}");
                        for event in events {
                            let prev = self.member.store().previous(event).expect("no damage");
                            let prev =
                                prev.map_or(String::new(), |p| format!(", was {}", show(&p)));
                            let _ = writeln!(out, "  {}{prev}", show_event(event));
                        }
                    }
                    let _ = writeln!(out, "next {} of {}", batch.next, batch.upto);
                    next = batch.next;
                    if next > batch.upto {
                        return;
                    }
                }
            }
        }
    }

    fn rows(&self, out: &mut String) {
        let view = self.member.store().storage().view();
        for (key, stored) in view.scan(Table::Rows, Bound::Unbounded, Bound::Unbounded) {
            let id = parse_row_key(&key).expect("a row key");
            let row = Row::decode(&key, &stored).expect("a sound row");
            let body = crate::mvcc::codec::Body::parse(row.body).expect("a sound body");
            let _ =
                write!(out, "{id} {}{}", shorten(body.key), if row.tombstone { " †" } else { "" });
            if let Some(prev) = row.prev {
                let _ = write!(out, " ← {prev}");
            }
            for anchor in row.chain.anchors {
                let _ = write!(out, " ⇐ {anchor}");
            }
            out.push('\n');
        }
    }

    fn keys(&self, out: &mut String) {
        let view = self.member.store().storage().view();
        for (key, stored) in view.scan(Table::Keys, Bound::Unbounded, Bound::Unbounded) {
            let state = KeyState::decode(&key, &stored).expect("a sound key");
            let _ = write!(out, "{} → {}", shorten(&key), state.id);
            if state.tombstone {
                out.push_str(" †");
            } else {
                let _ = write!(out, " created {} version {}", state.create, state.version);
            }
            let _ = writeln!(out, " depth {}", state.chain.depth);
        }
    }
}

fn parse_put(words: &Words<'_>) -> Put {
    let flags = ["prev", "ignore_value", "ignore_lease"];
    let mut plain = words.plain().filter(|word| !flags.contains(word));
    Put {
        key: key(plain.next().expect("a key")),
        value: plain.next().map_or(Bytes::new(), key),
        lease: LeaseId(words.number("lease")),
        prev_kv: words.has("prev"),
        ignore_value: words.has("ignore_value"),
        ignore_lease: words.has("ignore_lease"),
    }
}

fn parse_range(words: &Words<'_>) -> Range {
    let flags = ["keys", "count"];
    let range = key_range(&mut words.plain().filter(|word| !flags.contains(word)));
    let (order, target) = words.value("sort").unwrap_or("none:key").split_once(':').expect("a:b");
    Range {
        range,
        revision: words.number("rev"),
        limit: words.number("limit"),
        sort: (
            match order {
                "none" => SortOrder::None,
                "asc" => SortOrder::Ascend,
                "desc" => SortOrder::Descend,
                other => panic!("no order {other}"),
            },
            match target {
                "key" => SortTarget::Key,
                "version" => SortTarget::Version,
                "create" => SortTarget::Create,
                "mod" => SortTarget::Mod,
                "value" => SortTarget::Value,
                other => panic!("no target {other}"),
            },
        ),
        keys_only: words.has("keys"),
        count_only: words.has("count"),
        min_mod: words.number("min_mod"),
        max_mod: words.number("max_mod"),
        min_create: words.number("min_create"),
        max_create: words.number("max_create"),
    }
}

fn parse_txn<'a>(words: &mut dyn Iterator<Item = &'a str>) -> Txn {
    let mut txn = Txn::default();
    let mut part = "then";
    while let Some(word) = words.next() {
        match word {
            "if" | "then" | "else" => part = word,
            "]" => break,
            "[" => {
                let inner = TxnOp::Txn(parse_txn(words));
                if part == "then" { &mut txn.success } else { &mut txn.failure }.push(inner);
            }
            compare if part == "if" => txn.compares.push(parse_compare(compare)),
            op => {
                if part == "then" { &mut txn.success } else { &mut txn.failure }.push(parse_op(op))
            }
        }
    }
    txn
}

fn parse_compare(text: &str) -> Compare {
    let (target, rest) = text.split_once('(').expect("target(key)…");
    let (keys, rest) = rest.split_once(')').expect("target(key)…");
    let (relation, operand) = rest.split_at(if rest.starts_with("!=") { 2 } else { 1 });
    let number = || operand.parse().expect("a number");
    let (target, operand) = match target {
        "version" => (CompareTarget::Version, Operand::Version(number())),
        "create" => (CompareTarget::Create, Operand::Create(number())),
        "mod" => (CompareTarget::Mod, Operand::Mod(number())),
        "value" => (CompareTarget::Value, Operand::Value(bytes(operand))),
        "lease" => (CompareTarget::Lease, Operand::Lease(number())),
        "unknown" => (CompareTarget::Unknown(9), Operand::Version(number())),
        "mismatched" => (CompareTarget::Version, Operand::Create(number())),
        other => panic!("no target {other}"),
    };
    let result = match relation {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        "?" => CompareResult::Unknown(9),
        other => panic!("no relation {other}"),
    };
    Compare { range: key_range(&mut keys.split(',')), result, target, operand }
}

fn parse_op(text: &str) -> TxnOp {
    let (name, rest) = text.split_once('(').expect("op(…)");
    let words = Words(rest.strip_suffix(')').expect("op(…)").split(',').collect());
    match name {
        "put" => TxnOp::Put(parse_put(&words)),
        "get" => TxnOp::Range(parse_range(&words)),
        "del" => TxnOp::DeleteRange(DeleteRange {
            range: key_range(&mut words.plain().filter(|word| *word != "prev")),
            prev_kv: words.has("prev"),
        }),
        other => panic!("no operation {other}"),
    }
}

fn key_range<'a>(words: &mut dyn Iterator<Item = &'a str>) -> KeyRange {
    let start = key(words.next().expect("a key"));
    match words.next() {
        None => KeyRange::One(start),
        Some("..") => KeyRange::from_wire(start, Bytes::from_static(&[0])),
        Some(end) => KeyRange::from_wire(start, key(end)),
    }
}

fn key(text: &str) -> Bytes {
    match text.split_once('*') {
        Some((unit, times)) => Bytes::from(unit.repeat(times.parse().expect("a number"))),
        None => bytes(text),
    }
}

fn shorten(text: &[u8]) -> String {
    let shown = text.escape_ascii().to_string();
    if shown.len() <= 24 { shown } else { format!("{}…({})", &shown[..8], text.len()) }
}

fn show(kv: &KeyValue) -> String {
    let lease = if kv.lease.0 == 0 { String::new() } else { format!(" {}", kv.lease) };
    format!(
        "{}={} created {} modified {} version {}{lease}",
        shorten(&kv.key),
        shorten(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version
    )
}

fn show_event(event: &Event) -> String {
    match event {
        Event::Put { kv, sub, .. } => {
            let create = if event.is_create() { " (new)" } else { "" };
            format!("{}.{sub} put {}{create}", kv.mod_revision, show(kv))
        }
        Event::Delete { key, revision, sub, .. } => {
            format!("{revision}.{sub} del {}", shorten(key))
        }
    }
}

fn print_range(outcome: &RangeOutcome, indent: &str, out: &mut String) {
    for kv in &outcome.kvs {
        let _ = writeln!(out, "{indent}{}", show(kv));
    }
    let more = if outcome.more { ", more" } else { "" };
    let _ = writeln!(out, "{indent}count {}{more} at {}", outcome.count, outcome.revision);
}

fn print_txn(outcome: &TxnOutcome, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let branch = if outcome.succeeded { "then" } else { "else" };
    let _ = writeln!(out, "{indent}{branch} at {}", outcome.revision);
    let inner = "  ".repeat(depth + 1);
    for response in &outcome.responses {
        match response {
            OpOutcome::Range(range) => print_range(range, &inner, out),
            OpOutcome::Put { revision, prev } => {
                let prev =
                    prev.as_ref().map_or(String::new(), |prev| format!(", was {}", show(prev)));
                let _ = writeln!(out, "{inner}put at {revision}{prev}");
            }
            OpOutcome::DeleteRange { revision, deleted, prevs } => {
                let _ = writeln!(out, "{inner}deleted {deleted} at {revision}");
                for prev in prevs {
                    let _ = writeln!(out, "{inner}  was {}", show(prev));
                }
            }
            OpOutcome::Txn(outcome) => print_txn(outcome, depth + 1, out),
        }
    }
}
