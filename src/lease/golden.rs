//! A small runner for golden scripts, for this crate's tests only.
//!
//! A script is a story: comment lines, then blocks. A block is some command lines, a line `---`, and
//! what the commands printed; an empty line ends it. A command in parentheses runs silently (set-up).
//! With `UPDATE_GOLDENFILES=1` the files are rewritten with what the code prints now, and the diff is
//! what gets reviewed. Without it, any difference fails the test and shows both texts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One command line: a name, bare words, and `key=value` words, each in the order written.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// The first word.
    pub name: String,
    /// The words without `=`.
    pub args: Vec<String>,
    /// The words with `=`, split at the first one.
    pub options: Vec<(String, String)>,
}

impl Line {
    fn parse(text: &str) -> Line {
        let mut words = text.split_whitespace();
        let name = words.next().expect("the line is not empty").to_owned();
        let mut line = Line { name, args: Vec::new(), options: Vec::new() };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    line.options.push((key.to_owned(), value.to_owned()));
                }
                _ => line.args.push(word.to_owned()),
            }
        }
        line
    }

    /// Returns the value of `key=value`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Returns the number of `key=number`, or `default` when it is absent.
    pub fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> T {
        match self.get(key) {
            None => default,
            Some(text) => text.parse().ok().unwrap_or_else(|| panic!("{key}={text}: not a number")),
        }
    }

    /// Returns the bare word at `place`.
    pub fn arg(&self, place: usize) -> &str {
        self.args.get(place).unwrap_or_else(|| panic!("{}: argument {place} is missing", self.name))
    }

    /// Tells whether the bare word `flag` is there.
    pub fn has(&self, flag: &str) -> bool {
        self.args.iter().any(|a| a == flag)
    }
}

/// Something that executes script commands and says what happened, one line an effect.
pub(crate) trait Interpreter {
    /// Runs one command; the answer may have several lines or none.
    fn run(&mut self, line: &Line) -> String;
}

/// Runs every script in `dir` (under the crate's root), each with a fresh interpreter.
pub(crate) fn check_all<I: Interpreter>(dir: &str, fresh: impl Fn() -> I) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no scripts", root.display());
    let update = std::env::var_os("UPDATE_GOLDENFILES").is_some_and(|v| v == "1");
    let mut failures = String::new();
    for path in files {
        let wanted = std::fs::read_to_string(&path).unwrap();
        let got = replay(&path, &wanted, &mut fresh());
        if got == wanted {
            continue;
        }
        if update {
            std::fs::write(&path, got).unwrap();
        } else {
            let _ = writeln!(failures, "{}:\n{}", path.display(), difference(&wanted, &got));
        }
    }
    assert!(failures.is_empty(), "scripts print something else now:\n{failures}");
}

fn replay(path: &Path, script: &str, interpreter: &mut impl Interpreter) -> String {
    let mut out = String::new();
    let mut printed = String::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if trimmed == "---" {
            out.push_str("---\n");
            out.push_str(&printed);
            printed.clear();
            for old in lines.by_ref() {
                if old.trim().is_empty() {
                    out.push('\n');
                    break;
                }
            }
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let silent = trimmed.starts_with('(') && trimmed.ends_with(')');
        let command = if silent { &trimmed[1..trimmed.len() - 1] } else { trimmed };
        let answer = interpreter.run(&Line::parse(command));
        if silent {
            continue;
        }
        for effect in answer.lines() {
            assert!(!effect.trim().is_empty(), "{}: an effect is empty", path.display());
            printed.push_str(effect.trim_end());
            printed.push('\n');
        }
    }
    assert!(printed.is_empty(), "{}: the last block has no `---`", path.display());
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn difference(wanted: &str, got: &str) -> String {
    let mut text = String::new();
    let (wanted, got): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), got.lines().collect());
    for place in 0..wanted.len().max(got.len()) {
        let (old, new) = (wanted.get(place), got.get(place));
        if old != new {
            let _ = writeln!(text, "line {}:\n  wanted {old:?}\n  got    {new:?}", place + 1);
        }
    }
    text
}
