//! The fence between modules: one crate has no compiler to keep imports pointing one way, so this test
//! reads the source and does. It also keeps clocks, tasks and engines in the files that own them.
//!
//! It is a ratchet: what is allowed beside the rules is listed with its reason, and the list only shrinks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module may import of the others, beside `types`, `mutants` and itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("raft", &[]),
    ("proto", &[]),
    ("runtime", &[]),
    ("config", &[]),
    ("command", &["proto"]),
    ("storage", &["runtime"]),
    ("mvcc", &["command", "storage", "metrics"]),
    ("lease", &["command", "storage"]),
    ("cluster", &["command", "storage", "raft"]),
    ("watch", &["command", "mvcc", "storage"]),
    (
        "machine",
        // `watch` only in tests and in the text.
        &["command", "mvcc", "lease", "cluster", "storage", "raft", "watch", "proto", "metrics"],
    ),
    ("metrics", &[]),
    ("net", &["runtime", "metrics"]),
    // NB: `server` for its boxed future, `machine` for a snapshot's pieces, both plain data.
    (
        "transport",
        &["net", "proto", "raft", "runtime", "config", "machine", "server", "storage", "metrics"],
    ),
    (
        "server",
        &[
            "machine",
            "watch",
            "raft",
            "transport",
            "runtime",
            "storage",
            "command",
            "cluster",
            "lease",
            "mvcc",
            "metrics",
        ],
    ),
    (
        "api",
        &[
            "server",
            "proto",
            "command",
            "cluster",
            "config",
            "watch",
            "lease",
            "machine",
            "runtime",
            "transport",
            "mvcc",
            "metrics",
        ],
    ),
    ("http", &["server", "api", "command", "raft", "proto", "cluster", "metrics", "runtime"]),
    ("client", &["net", "proto", "runtime"]),
    // `config` for Go's literals, durations and quoting, and for the version.
    ("ctl", &["client", "net", "proto", "runtime", "config"]),
    // `ctl` for how arguments are read and answers printed.
    ("utl", &["ctl", "command", "config", "mvcc", "runtime", "storage"]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .expect("the source is there")
        .map(|e| e.expect("readable").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Every file of `src/` with its path from there.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let text = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("it is below").display().to_string();
        (name, std::fs::read_to_string(&path).expect("readable"))
    };
    paths.into_iter().map(text).collect()
}

/// A file's code without its comments' lines.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// A file's own tests come last; they may import and wait as they like.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

fn is_test(name: &str) -> bool {
    name.contains("test")
        || name.ends_with("golden.rs")
        || name.ends_with("model.rs")
        || name == "tidy.rs"
}

#[test]
fn imports_point_one_way() {
    let rules: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut sins = Vec::new();
    for (name, text) in files() {
        let module = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let Some(allowed) = rules.get(module) else { continue };
        if is_test(&name) {
            continue;
        }
        let text = without_tests(&text);
        for (number, line) in code(text) {
            for part in line.split("crate::").skip(1) {
                let other: String =
                    part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let known = rules.contains_key(other.as_str());
                if known
                    && other != module
                    && other != "types"
                    && !allowed.contains(&other.as_str())
                {
                    sins.push(format!("{name}:{}: {module} imports {other}", number + 1));
                }
            }
        }
    }
    assert!(sins.is_empty(), "imports against the order:\n{}", sins.join("\n"));
}

#[test]
fn engines_and_clocks_stay_in_their_files() {
    let rules: &[(&str, &[&str])] = &[
        ("heed::", &["storage/"]),
        // hyper's timer counts in the standard library's instants; the glue counts from one of them.
        ("Instant::now(", &["runtime/", "net/glue.rs"]),
        ("SystemTime::now(", &["runtime/", "bin/"]),
        ("thread_rng(", &[]),
        ("tokio::spawn(", &["runtime/"]),
        ("tokio::time::", &["runtime/"]),
        ("thread::spawn(", &["runtime/"]),
        ("cfg(madsim", &[]),
        ("todo!(", &[]),
        ("unimplemented!(", &[]),
    ];
    let mut sins = Vec::new();
    for (name, text) in files() {
        if is_test(&name) {
            continue;
        }
        let text = without_tests(&text);
        for (number, line) in code(text) {
            for (word, homes) in rules {
                if line.contains(word) && !homes.iter().any(|home| name.starts_with(home)) {
                    sins.push(format!("{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(sins.is_empty(), "out of place:\n{}", sins.join("\n"));
}

#[test]
fn every_select_is_biased_and_every_file_says_what_it_is() {
    let mut sins = Vec::new();
    for (name, text) in files() {
        if !text.starts_with("//!") && name != "lib.rs" {
            sins.push(format!("{name}: no module text"));
        }
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let opens = line.contains("select! {") && !line.trim_start().starts_with("//");
            if opens && name != "tidy.rs" {
                let next = lines.get(number + 1).map_or("", |next| next.trim());
                if next != "biased;" {
                    sins.push(format!("{name}:{}: select! without biased;", number + 1));
                }
            }
        }
    }
    assert!(sins.is_empty(), "untidy:\n{}", sins.join("\n"));
}
