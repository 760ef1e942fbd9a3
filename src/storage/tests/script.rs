//! Golden scripts: overlay, batches and views, one situation a file (`src/storage/testscripts/`).
//!
//! Commands: `apply key=value key= …` (empty removes; `table:key` names another table than keys, `~n`
//! in a key stands for n times its last letter), `begin` and `commit` for the two halves of a flush,
//! `abandon` for a job that never runs, `get k`, `scan from to`, `rev from to` (`-` is no bound), `scrub k`,
//! `layers k` (which layer says what), `state`, `reopen`.

use std::fmt::Write as _;

use super::*;

struct Script {
    dir: tempfile::TempDir,
    storage: Option<Storage>,
    job: Option<FlushJob>,
}

/// Reads `table:key`.
fn place(word: &str) -> (Table, Bytes) {
    let (table, key) = match word.split_once(':') {
        Some((table, key)) => (Table::from_name(table).expect("a table's name"), key),
        None => (Table::Keys, word),
    };
    let mut bytes = Vec::new();
    let mut parts = key.split('~');
    bytes.extend(parts.next().expect("there is a first part").bytes());
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let count: usize = part[..digits].parse().expect("a number after ~");
        let last = *bytes.last().expect("a letter before ~");
        bytes.resize(bytes.len() + count - 1, last);
        bytes.extend(part[digits..].bytes());
    }
    (table, bytes.into())
}

/// Prints a key so that it can be read again.
fn show(key: &[u8]) -> String {
    let mut out = String::new();
    for run in key.chunk_by(|a, b| a == b) {
        let letter = char::from(run[0]);
        match run.len() {
            1..=3 => out.extend(std::iter::repeat_n(letter, run.len())),
            n => write!(out, "{letter}~{n}").expect("a string takes everything"),
        }
    }
    out
}

impl Script {
    fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("open")
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "apply" => {
                let writes = words[1..].iter().map(|word| {
                    let (key, value) = word.split_once('=').expect("key=value");
                    let (table, key) = place(key);
                    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
                    Write { table, key, value: value.filter(|v| !v.is_empty()) }
                });
                apply(self.storage(), writes.collect());
                self.state()
            }
            "begin" => {
                match self.storage().begin_flush() {
                    Some(job) => self.job = Some(job),
                    None => return "nothing to begin".into(),
                }
                self.state()
            }
            "commit" => {
                let job = self.job.take().expect("begun");
                format!("committed {}\n{}", job.run().expect("written"), self.state())
            }
            "abandon" => {
                self.job = None;
                self.state()
            }
            "state" => self.state(),
            "get" => {
                let (table, key) = place(words[1]);
                match self.storage().view().get(table, &key) {
                    Some(Data::Shared(value)) => format!("{} (overlay)", show(value)),
                    Some(Data::Mapped(value)) => format!("{} (stored)", show(value)),
                    None => "none".into(),
                }
            }
            "scan" | "rev" => {
                let bounds = [words[1], words[2]].map(|word| (word != "-").then(|| place(word)));
                let table = bounds.iter().flatten().next().map_or(Table::Keys, |(table, _)| *table);
                let [from, to] = &bounds;
                let from = from.as_ref().map_or(Bound::Unbounded, |(_, k)| Bound::Included(&k[..]));
                let to = to.as_ref().map_or(Bound::Unbounded, |(_, k)| Bound::Excluded(&k[..]));
                let view = self.storage().view();
                let scan = match words[0] {
                    "scan" => view.scan(table, from, to),
                    _ => view.scan_rev(table, from, to),
                };
                let entries: Vec<String> =
                    scan.map(|(k, v)| format!("{}={}", show(&k), show(&v))).collect();
                if entries.is_empty() { "nothing".into() } else { entries.join(" ") }
            }
            "scrub" => {
                let (table, key) = place(words[1]);
                self.storage().maintenance(|txn| txn.delete(table, &key)).expect("written");
                String::new()
            }
            "stored" => {
                let all = self.storage().maintenance(|txn| {
                    let scan = txn.scan(Table::Keys, Bound::Unbounded, Bound::Unbounded);
                    scan.map(|(k, v)| format!("{}={}", show(k), show(v))).collect::<Vec<_>>()
                });
                format!("stored: {}", all.expect("read").join(" "))
            }
            "reopen" => {
                self.job = None;
                let storage = self.storage.take().expect("open");
                self.storage = Some(reopen(storage, self.dir.path()));
                self.state()
            }
            other => panic!("no command {other}"),
        }
    }

    fn state(&self) -> String {
        let storage = self.storage();
        storage.check();
        let (applied, durable) = (storage.applied(), storage.durable());
        format!("applied {applied}, durable {durable}, trim below {}", storage.trim_floor())
    }
}

/// Runs one script and returns it with what it prints now.
fn replay(text: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = Some(open(dir.path()));
    let mut script = Script { dir, storage, job: None };
    let (mut out, mut printed) = (String::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "---" {
            out += &format!("---\n{}", std::mem::take(&mut printed));
            if lines.by_ref().any(str::is_empty) {
                out.push('\n');
            }
            continue;
        }
        out += &format!("{line}\n");
        if !line.is_empty() && !line.starts_with('#') {
            let silent = line.strip_prefix('(').and_then(|line| line.strip_suffix(')'));
            let answer = script.run(silent.unwrap_or(line));
            if silent.is_none() && !answer.is_empty() {
                printed += &format!("{answer}\n");
            }
        }
    }
    out
}

#[test]
fn scripts_print_what_they_did() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storage/testscripts");
    let files = std::fs::read_dir(&dir).expect("there are scripts");
    let mut paths: Vec<_> = files.map(|file| file.expect("listed").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut different = Vec::new();
    for path in paths {
        let wanted = std::fs::read_to_string(&path).expect("readable");
        let got = replay(&wanted);
        if got != wanted {
            if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
                std::fs::write(&path, got).expect("written");
            } else {
                different.push(format!("{}:\n{got}", path.display()));
            }
        }
    }
    assert!(different.is_empty(), "scripts print something else now:\n{}", different.join("\n"));
}
