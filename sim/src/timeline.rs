//! A run as a page that a person can read: members with role and term, clients' operations, faults as
//! bands, log lines, what goes between members on demand, and where it broke.
//!
//! While a run is recorded, whoever knows something drops it here ([`Recorder`] is installed for the
//! run's thread; without one, the calls do nothing, and never does one change the run). The page is one
//! file without anything outside it: `page.html` with the recording in it as JSON.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use checker::history::{Record, WatchRecord, What};
use checker::op::Operation;
use madsim::time::TimeHandle;

use crate::plan::Fault;
use crate::run::Failure;
use crate::trace::lock;

/// Takes in what happens. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Recording>>);

#[derive(Debug, Default)]
struct Recording {
    lines: Vec<Line>,
    processes: Vec<Process>,
    strikes: Vec<Band>,
    broken: Vec<(f64, String)>,
    packets: Vec<Packet>,
}

/// What one member sent another: from when to when, and how many bytes.
#[derive(Debug)]
struct Packet {
    sent: f64,
    at: f64,
    from: u32,
    to: u32,
    kind: &'static str,
    bytes: usize,
}

/// Hosts from here on are clients'.
const CLIENTS_FROM: u32 = 1_000;

/// More packets than this are too many for a page; those that come later are left out.
const PACKETS_MAX: usize = 60_000;

/// A log line.
#[derive(Debug)]
struct Line {
    at: f64,
    who: String,
    level: String,
    text: String,
    fields: String,
}

/// A process begins or ends.
#[derive(Debug)]
struct Process {
    at: f64,
    host: u64,
    starts: bool,
    power: bool,
}

/// A fault, from when it struck to when it was taken back.
#[derive(Debug)]
struct Band {
    fault: Fault,
    from: f64,
    to: Option<f64>,
    fired: bool,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

fn with(act: impl FnOnce(&mut Recording, f64)) {
    RECORDER.with_borrow(|recorder| {
        let Some(recorder) = recorder else { return };
        let at = TimeHandle::try_current().map_or(0.0, |time| time.elapsed().as_secs_f64());
        act(&mut lock(&recorder.0), at);
    });
}

/// Something was noted in the trace: the beginnings and ends of processes are of interest.
pub(crate) fn noted(what: &str, numbers: [u64; 3]) {
    if what == "start" || what == "end" {
        let [host, second, _] = numbers;
        let starts = what == "start";
        with(|recording, at| {
            let power = !starts && second == 1;
            recording.processes.push(Process { at, host, starts, power });
        });
    }
}

/// A packet arrived `took` after it was sent.
pub(crate) fn arrived(
    from: u32,
    to: u32,
    took: std::time::Duration,
    kind: &'static str,
    bytes: usize,
) {
    if from >= CLIENTS_FROM || to >= CLIENTS_FROM {
        return;
    }
    with(|recording, at| {
        if recording.packets.len() < PACKETS_MAX {
            let sent = at - took.as_secs_f64();
            recording.packets.push(Packet { sent, at, from, to, kind, bytes });
        }
    });
}

/// A member logged a line.
pub(crate) fn logged(who: &str, level: &str, text: &str, fields: &str) {
    with(|recording, at| {
        recording.lines.push(Line {
            at,
            who: who.to_owned(),
            level: level.to_owned(),
            text: text.to_owned(),
            fields: fields.trim().to_owned(),
        });
    });
}

/// A fault strikes. Returns its number, for [`strike_over`].
pub(crate) fn strike(fault: Fault) -> usize {
    let mut number = 0;
    with(|recording, from| {
        number = recording.strikes.len();
        recording.strikes.push(Band { fault, from, to: None, fired: false });
    });
    number
}

/// It was taken back, and took effect or did not.
pub(crate) fn strike_over(number: usize, fired: bool) {
    with(|recording, at| {
        if let Some(band) = recording.strikes.get_mut(number) {
            (band.to, band.fired) = (Some(at), fired);
        }
    });
}

/// A check found something while the run went on.
pub(crate) fn broken(checker: &str) {
    with(|recording, at| recording.broken.push((at, checker.to_owned())));
}

const PAGE: &str = include_str!("timeline/page.html");

impl Recorder {
    /// Records what happens on this thread from now on.
    pub(crate) fn install(&self) {
        RECORDER.set(Some(self.clone()));
    }

    /// Writes the page of a run: its plan, its history, and how it failed, if it did.
    pub fn write(
        &self,
        path: &Path,
        plan: &str,
        history: &[Record],
        failure: Option<&Failure>,
    ) -> io::Result<()> {
        let data = json(&lock(&self.0), plan, history, failure);
        // A `</script>` within a string must not end the page's.
        let data = data.replace("</", "<\\/");
        std::fs::write(path, PAGE.replacen("/*DATA*/null", &data, 1))
    }
}

/// Quotes a text for JSON.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(",\n"))
}

fn json(
    recording: &Recording,
    plan: &str,
    history: &[Record],
    failure: Option<&Failure>,
) -> String {
    let seconds = |record: &Record| record.time as f64 / 1e9;
    let times = recording.lines.iter().map(|line| line.at).chain(history.iter().map(seconds));
    let end = times.fold(1.0, f64::max);
    let lines = recording.lines.iter().map(|line| {
        let Line { at, who, level, text, fields } = line;
        let text = quoted(&format!("{text} {fields}"));
        format!("[{at:.6},{},{},{text}]", quoted(who), quoted(level))
    });
    let faults = recording.strikes.iter().map(|band| {
        let Band { fault, from, to, fired } = band;
        let to = to.unwrap_or(end);
        format!("[{from:.6},{to:.6},{},{fired}]", quoted(fault.name()))
    });
    let broken = marks(recording, history, failure, end)
        .into_iter()
        .map(|(at, checker, text)| format!("[{at:.6},{},{}]", quoted(&checker), quoted(&text)));
    let packets = recording.packets.iter().map(|packet| {
        let Packet { sent, at, from, to, kind, bytes } = packet;
        format!("[{sent:.6},{at:.6},\"m{from}\",\"m{to}\",\"{kind}\",{bytes}]")
    });
    let verdict = failure.map_or("held".to_owned(), |f| format!("BROKEN; replay: {}", f.replay));
    format!(
        "{{\"end\":{end:.6},\"plan\":{},\"verdict\":{},\"members\":{},\"faults\":{},\"clients\":{},\
         \"lines\":{},\"packets\":{},\"broken\":{}}}",
        quoted(plan),
        quoted(&verdict),
        list(members(recording, end)),
        list(faults),
        list(clients(history, end)),
        list(lines),
        list(packets),
        list(broken),
    )
}

/// Where the run broke: as it was seen, or at the evidence in the history.
fn marks(
    recording: &Recording,
    history: &[Record],
    failure: Option<&Failure>,
    end: f64,
) -> Vec<(f64, String, String)> {
    let mut seen = recording.broken.iter();
    let mut marks = Vec::new();
    for violation in failure.iter().flat_map(|failure| &failure.violations) {
        // The verdict names the records it rests on, the last of them last.
        let evidence = violation.message.rsplit("record ").next();
        let evidence = evidence.and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        let evidence = evidence.and_then(|at| history.get(at)).map(|r| r.time as f64 / 1e9);
        let live = seen.clone().find(|(_, checker)| *checker == violation.checker).map(|b| b.0);
        if live.is_some() {
            seen.next();
        }
        // A log line that is a violation begins with its time.
        let logged = violation.message.split_whitespace().next();
        let logged = logged.filter(|_| violation.checker == "protocol");
        let at = live.or(evidence).or(logged.and_then(|word| word.parse().ok())).unwrap_or(end);
        marks.push((at, violation.checker.clone(), violation.message.clone()));
    }
    marks
}

/// What a member was, from when to when.
struct Spans {
    spans: Vec<String>,
    since: f64,
    kind: &'static str,
    term: u64,
    leader: String,
}

impl Spans {
    fn turn(&mut self, at: f64, kind: &'static str) {
        if at > self.since {
            let Self { since, kind, term, leader, .. } = self;
            let leader = quoted(leader);
            self.spans.push(format!("[{since:.6},{at:.6},{},{term},{leader}]", quoted(kind)));
        }
        (self.since, self.kind) = (at, kind);
    }
}

/// Each member's life, told from its processes and its log lines.
fn members(recording: &Recording, end: f64) -> Vec<String> {
    let hosts: BTreeMap<u64, String> =
        recording.processes.iter().map(|p| (p.host, format!("m{}", p.host))).collect();
    // Ids as they log themselves; a member that was replaced has had several.
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for line in &recording.lines {
        if let Some(id) = field(&line.fields, "local_member_id") {
            names.insert(id, &line.who);
        }
    }
    let life = |host: u64, name: &str| {
        let mut events: Vec<(f64, usize, bool)> = Vec::new();
        let processes = recording.processes.iter().enumerate();
        events.extend(processes.filter(|(_, p)| p.host == host).map(|(i, p)| (p.at, i, true)));
        let lines = recording.lines.iter().enumerate();
        events.extend(lines.filter(|(_, l)| l.who == name).map(|(i, l)| (l.at, i, false)));
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut spans =
            Spans { spans: Vec::new(), since: 0.0, kind: "down", term: 0, leader: String::new() };
        let mut own = "";
        for (at, i, is_process) in events {
            if is_process {
                let process = &recording.processes[i];
                let down = if process.power { "no power" } else { "down" };
                spans.turn(at, if process.starts { "starting" } else { down });
                continue;
            }
            let line = &recording.lines[i];
            if let Some(id) = field(&line.fields, "local_member_id") {
                own = id;
            }
            match line.text.as_str() {
                "elected leader" => {
                    let leader = field(&line.fields, "leader").unwrap_or_default();
                    spans.turn(at, if leader == own { "leader" } else { "follower" });
                    spans.leader = names.get(leader).copied().unwrap_or(leader).to_owned();
                    spans.term = number(&line.fields, "term").unwrap_or(spans.term);
                }
                "lost leader" => {
                    spans.turn(at, "no leader");
                    spans.leader.clear();
                    spans.term = number(&line.fields, "term").unwrap_or(spans.term);
                }
                _ => {}
            }
        }
        let last = spans.kind;
        spans.turn(end, last);
        format!("{{\"name\":{},\"spans\":{}}}", quoted(name), list(spans.spans))
    };
    hosts.iter().map(|(host, name)| life(*host, name)).collect()
}

/// Finds a field's value in a line's `name=value` pairs.
fn field<'l>(fields: &'l str, name: &str) -> Option<&'l str> {
    let mut pairs = fields.split(' ').filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.trim_matches('"'))
}

fn number(fields: &str, name: &str) -> Option<u64> {
    field(fields, name)?.parse().ok()
}

/// Each client's operations, from request to answer.
fn clients(history: &[Record], end: f64) -> Vec<String> {
    let mut open: BTreeMap<u64, (&Record, &Operation)> = BTreeMap::new();
    let mut lanes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut add = |process, from: f64, to: f64, outcome: &str, node, short: &str, text: &str| {
        lanes.entry(process).or_default().push(format!(
            "[{from:.6},{to:.6},{},{node},{},{}]",
            quoted(outcome),
            quoted(short),
            quoted(text)
        ));
    };
    for record in history {
        let at = record.time as f64 / 1e9;
        let outcome = match &record.what {
            What::Invoke(operation) => {
                open.insert(record.process, (record, operation));
                continue;
            }
            What::Watch(watch) => {
                let (short, text) = (watch_name(watch), shorten(&format!("{watch:?}")));
                add(record.process, at, at, "watch", record.node, short, &text);
                continue;
            }
            What::Ok(_) => "ok",
            What::Fail(_) => "fail",
            What::Info(_) => "unknown",
        };
        let Some((begun, operation)) = open.remove(&record.process) else { continue };
        let text = format!("{operation:?}\n→ {:?}", record.what);
        let from = begun.time as f64 / 1e9;
        add(record.process, from, at, outcome, record.node, name(operation), &shorten(&text));
    }
    for (process, (begun, operation)) in open {
        let text = shorten(&format!("{operation:?}\nnever answered"));
        let from = begun.time as f64 / 1e9;
        add(process, from, end, "unknown", begun.node, name(operation), &text);
    }
    let lane = |(process, operations): (u64, Vec<String>)| {
        let name = match process {
            9_999 => "judge".to_owned(),
            1_000.. => format!("watcher {}", process - 1_000),
            _ => format!("client {process}"),
        };
        format!("{{\"name\":{},\"ops\":{}}}", quoted(&name), list(operations))
    };
    lanes.into_iter().map(lane).collect()
}

/// Long values are no use to a reader.
fn shorten(text: &str) -> String {
    const MOST: usize = 600;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Put(_) => "put",
        Operation::Range(_) => "range",
        Operation::DeleteRange(_) => "delete",
        Operation::Txn(_) => "txn",
        Operation::Compact(_) => "compact",
        Operation::LeaseGrant(_) => "grant",
        Operation::LeaseRevoke(_) => "revoke",
        Operation::LeaseKeepAlive(_) => "keep-alive",
        Operation::LeaseTimeToLive(_) => "time-to-live",
    }
}

fn watch_name(watch: &WatchRecord) -> &'static str {
    match watch {
        WatchRecord::Create { .. } => "watch",
        WatchRecord::Created { .. } => "created",
        WatchRecord::Events { .. } => "events",
        WatchRecord::Progress { .. } => "progress",
        _ => "end of watch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{self, Options};
    use crate::shrink::Cuts;

    #[test]
    fn texts_are_quoted_so_that_no_script_ends_early() {
        assert_eq!(quoted("a\"b\\c\n</script>\u{2028}"), "\"a\\\"b\\\\c\\u000a</script>\\u2028\"");
    }

    #[test]
    fn a_recorded_run_is_the_same_run_and_its_page_shows_it() {
        let recorder = Recorder::default();
        let dir = crate::temporary_dir();
        let (page, history) = (dir.path().join("t.html"), dir.path().join("h"));
        let plan =
            Cuts { rough: Some(std::time::Duration::from_secs(2)), ..Cuts::default() }.apply(4);
        let plain = run::run_plan(plan.clone(), &Options::default()).expect("the seed holds");
        let options = Options {
            timeline: Some(recorder.clone()),
            history: Some(history.clone()),
            ..Options::default()
        };
        let told = run::run_plan(plan, &options).expect("the seed holds");
        assert_eq!(plain.hash, told.hash, "being watched changes nothing");
        let records = checker::history::read(std::io::BufReader::new(
            std::fs::File::open(history).expect("it was written"),
        ));
        recorder.write(&page, "plan </script>", &records.expect("a history"), None).unwrap();
        let text = std::fs::read_to_string(page).unwrap();
        assert!(!text.contains("/*DATA*/null"), "the recording is in the page");
        assert_eq!(text.matches("</script>").count(), 1, "nothing ends the script early");
        for part in ["\"name\":\"m1\"", "\"leader\"", "\"client 0\"", "elected leader", "\"held\""]
        {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn a_member_is_told_from_its_lines() {
        let line = |at, text: &str, fields: &str| Line {
            at,
            who: "m2".to_owned(),
            level: "INFO".to_owned(),
            text: text.to_owned(),
            fields: fields.to_owned(),
        };
        let recording = Recording {
            processes: vec![
                Process { at: 1.0, host: 2, starts: true, power: false },
                Process { at: 5.0, host: 2, starts: false, power: true },
            ],
            lines: vec![
                line(1.5, "starting etcd server", "local_member_id=\"ab\" commit_index=3"),
                line(2.0, "elected leader", "term=2 leader=\"ab\""),
                line(3.0, "lost leader", "term=3"),
                line(4.0, "elected leader", "term=4 leader=\"cd\""),
            ],
            ..Recording::default()
        };
        let [life] = &members(&recording, 6.0)[..] else { panic!("one member") };
        let spans = [
            "[0.000000,1.000000,\"down\",0,\"\"]",
            "[1.000000,2.000000,\"starting\",0,\"\"]",
            "[2.000000,3.000000,\"leader\",2,\"m2\"]",
            "[3.000000,4.000000,\"no leader\",3,\"\"]",
            "[4.000000,5.000000,\"follower\",4,\"cd\"]",
            "[5.000000,6.000000,\"no power\",4,\"cd\"]",
        ];
        assert_eq!(*life, format!("{{\"name\":\"m2\",\"spans\":[{}]}}", spans.join(",\n")));
    }
}
