//! The rot sweep: one bit of every byte of a small member's files is flipped, and the member is started
//! on it, asked everything, fed its last entries, and started again.
//!
//! Two-sided: a flip is either *harmless*, every answer is the right one, or it is *noticed*: the start
//! refuses, a read is refused, or the member stops. What must not be is a *wrong* answer. LMDB reads
//! its pages without checksums and may follow a rotten page number anywhere, also out of its map, so each
//! probe runs in a process of its own that may die ([`probe`]); death is noticed as well, but not a
//! good way to tell anybody, and is counted apart.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mainstay::machine::Machine;
use mainstay::mvcc::ScrubProgress;
use mainstay::server::bootstrap::{self, Places};

use super::member::{LOG, Reference, Stage, close, picture};
use super::{Machine as Computer, operations};

/// What became of one flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every answer is right, also after more entries and a restart.
    Harmless,
    /// The start refuses.
    Refused,
    /// A read is refused, or the member stops.
    Noticed,
    /// The process dies of a signal, or hangs and has to be killed.
    Died,
    /// Nothing is noticed at first; after more entries and a restart it is.
    NoticedLater,
    /// A wrong answer.
    Wrong,
    /// A wrong answer after more entries and a restart.
    WrongLater,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Harmless,
        Self::Refused,
        Self::Noticed,
        Self::NoticedLater,
        Self::Died,
        Self::Wrong,
        Self::WrongLater,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Refused => "refused",
            Self::Noticed => "noticed",
            Self::NoticedLater => "noticed later",
            Self::Died => "died",
            Self::Wrong => "wrong",
            Self::WrongLater => "wrong later",
        }
    }

    /// Tells whether it must not be.
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::Wrong | Self::WrongLater)
    }
}

/// The sums of a sweep over one file.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// The file, below the data directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// How many bits were flipped, one at a time.
    pub flips: u64,
    /// How it went.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Where it went wrong or the process died, with what was seen.
    pub places: Vec<(u64, Verdict, String)>,
}

/// Sweeps over the files of a small member: every `step`-th byte of the store's and the log's. `program`
/// is this one, whose hidden command [`probe`]s.
pub fn sweep(program: &Path, step: u64) -> Vec<Sweep> {
    let dir = crate::temporary_dir();
    let template = dir.path().join("template");
    std::fs::create_dir(&template).expect("the directory is new");
    prepare(&template);
    files(&template).into_iter().map(|file| sweep_file(program, &template, &file, step)).collect()
}

/// Makes the member to be damaged: most of the story in the store, all of it in the log, closed as at an
/// orderly end.
fn prepare(root: &Path) {
    super::in_simulation(|| {
        let reference = Reference::new();
        let computer = Computer::new(None);
        operations::mostly_stored(&mut Stage::new(&computer.host, &reference));
        super::copy(&computer.root(), root);
    });
}

/// The store's file and the log's segments.
fn files(root: &Path) -> Vec<String> {
    let places = Places::new(&root.join("data"), None);
    let below = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("the directory is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("one").path()).collect();
        paths.sort();
        paths
    };
    let mut found = Vec::new();
    for path in below(&places.stores) {
        if path.is_dir() {
            found.push(path.join("data.mdb"));
        } else {
            found.push(path);
        }
    }
    found.extend(
        below(&places.log).into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")),
    );
    let name = |path: PathBuf| {
        path.strip_prefix(root).expect("it is below").to_str().expect("plain names").to_owned()
    };
    found.into_iter().map(name).collect()
}

/// How long one probe may take. Most take some milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn sweep_file(program: &Path, template: &Path, file: &str, step: u64) -> Sweep {
    let bytes = std::fs::metadata(template.join(file)).expect("it was just listed").len();
    let mut sweep = Sweep { file: file.to_owned(), bytes, ..Sweep::default() };
    let mut next = 0;
    while next < bytes {
        let mut child = Command::new(program)
            .args(["rot-probe", "--template"])
            .arg(template)
            .args(["--file", file, "--from", &next.to_string(), "--step", &step.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program can start itself");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (send, lines_in_time) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        while let Ok(line) = lines_in_time.recv_timeout(PATIENCE) {
            let mut words = line.splitn(3, ' ');
            let (Some(at), Some(verdict)) = (words.next(), words.next()) else { break };
            let at: u64 = at.parse().expect("a probe tells its place first");
            let verdict = Verdict::ALL.into_iter().find(|v| v.name().replace(' ', "-") == verdict);
            let verdict = verdict.expect("a probe tells one of the verdicts");
            sweep.add(at, verdict, words.next().unwrap_or_default().to_owned());
            next = at + step;
        }
        // It has ended, or it hangs.
        let _ = child.kill();
        let status = child.wait().expect("it was started here");
        drop(lines_in_time);
        let _ = reader.join();
        if next < bytes {
            sweep.add(next, Verdict::Died, status.to_string());
            next += step;
        }
    }
    sweep
}

impl Sweep {
    fn add(&mut self, at: u64, verdict: Verdict, words: String) {
        self.flips += 1;
        *self.verdicts.entry(verdict).or_default() += 1;
        if verdict.is_wrong() || verdict == Verdict::Died {
            self.places.push((at, verdict, words));
        }
    }
}

/// Flips a bit of a file's bytes from `from` on, one at a time, and prints what became of each.
pub fn probe(template: &Path, file: &str, from: u64, step: u64) {
    std::panic::set_hook(Box::new(|_| {}));
    super::in_simulation(|| {
        let reference = Reference::new();
        let bytes = std::fs::metadata(template.join(file)).expect("the file is there").len();
        let mut at = from;
        while at < bytes {
            let computer = Computer::new(Some(template));
            let bit = u8::try_from(at % 8).expect("below eight");
            computer.host.flip(&computer.root().join(file), at, bit).expect("the file is there");
            let (verdict, words) = judge(&computer, &reference);
            println!("{at} {} {words}", verdict.name().replace(' ', "-"));
            at += step;
        }
    });
}

fn judge(computer: &Computer, reference: &Reference) -> (Verdict, String) {
    let first = match look(computer, reference, true) {
        Ok(Seen::Right) => return second(computer, reference),
        Ok(other) => other,
        Err(_) => Seen::Noticed,
    };
    match first {
        Seen::Refused => (Verdict::Refused, String::new()),
        Seen::Wrong(words) => (Verdict::Wrong, words),
        _ => (Verdict::Noticed, String::new()),
    }
}

fn second(computer: &Computer, reference: &Reference) -> (Verdict, String) {
    match look(computer, reference, false) {
        Ok(Seen::Right) => (Verdict::Harmless, String::new()),
        Ok(Seen::Wrong(words)) => (Verdict::WrongLater, words),
        _ => (Verdict::NoticedLater, String::new()),
    }
}

enum Seen {
    Right,
    Refused,
    Noticed,
    Wrong(String),
}

/// Starts, asks everything, and with `goes_on` applies the rest of the story and brings it to the file.
/// `Err` is a panic: the member stops.
fn look(computer: &Computer, reference: &Reference, goes_on: bool) -> std::thread::Result<Seen> {
    let disk = computer.host.boot();
    let places = Places::new(&computer.root().join("data"), None);
    let act = AssertUnwindSafe(|| {
        let Ok(lock) = bootstrap::take(&disk, &places) else { return Seen::Refused };
        let Ok(booted) = bootstrap::boot(&disk, &places, lock, LOG, 1) else {
            return Seen::Refused;
        };
        drop(booted.log);
        let mut machine = booted.machine;
        let seen = asked(&machine, reference);
        let seen = match seen {
            Seen::Right if goes_on => go_on(&mut machine, reference),
            seen => seen,
        };
        close(machine);
        seen
    });
    let seen = catch_unwind(act);
    computer.host.freeze();
    seen
}

/// Holds every answer against the right one. A refusal is no wrong answer.
fn asked(machine: &Machine, reference: &Reference) -> Seen {
    let (seen, wanted) = (picture(machine), reference.picture(machine.applied().index));
    if seen == wanted {
        return Seen::Right;
    }
    let wrong = seen
        .iter()
        .zip(wanted)
        .find(|(seen, wanted)| seen != wanted && !seen.contains("Err(Damaged)"));
    match wrong {
        Some((seen, wanted)) => Seen::Wrong(format!("{seen} instead of {wanted}")),
        None if seen.len() != wanted.len() => Seen::Wrong("answers are missing".to_owned()),
        None => Seen::Noticed,
    }
}

fn go_on(machine: &mut Machine, reference: &Reference) -> Seen {
    machine.apply(&reference.entries);
    let (storage, store) = (machine.storage(), machine.reader().store());
    if storage.begin_flush().is_some_and(|job| job.run().is_err()) {
        return Seen::Noticed;
    }
    loop {
        match storage.maintenance(|txn| store.scrub_step(txn, 100)) {
            Ok(Ok(ScrubProgress::Idle)) => break,
            Ok(Ok(_)) => {}
            _ => return Seen::Noticed,
        }
    }
    drop(storage);
    asked(machine, reference)
}
