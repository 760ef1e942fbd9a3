//! The environment as a second source of flags: `ETCD_INITIAL_CLUSTER` for `--initial-cluster`.

use std::collections::{BTreeMap, BTreeSet};

use super::flags;
use super::goflag::{Flags, quote};
use super::logline::{LogLevel, LogLine};
use super::raw::Raw;

/// What all variables begin with.
const PREFIX: &str = "ETCD_";

/// Why the environment cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A variable and a flag set the same thing; the fatal line is in the log.
    Conflict,
    /// A variable's value was refused, with this sentence.
    BadValue(String),
}

/// Returns the variable that stands for a flag.
pub(super) fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// Sets the flags that the command line left alone.
///
/// Of several bad values the last one is reported, by the order of the flags' names, and a conflict
/// goes before all of them.
pub(super) fn apply(
    raw: &mut Raw,
    env: &BTreeMap<String, String>,
    log: &mut Vec<LogLine>,
) -> Result<(), Refusal> {
    let mut env = env.clone();
    // `ETCD_VERSION` is what images call the version they carry, never a wish to see it printed.
    if let Some(value) = env.get("ETCD_VERSION").filter(|value| !value.is_empty()).cloned() {
        env.remove("ETCD_VERSION");
        let fields = vec![("key", "ETCD_VERSION".into()), ("value", value.into())];
        let text = "cannot set special environment variable";
        log.push(LogLine::warn(text, fields).early());
    }
    let on_command_line: BTreeSet<String> = raw.given.iter().map(|flag| variable(flag)).collect();
    let (mut used, mut bad) = (BTreeSet::new(), None);
    let mut names: Vec<&str> = flags::FLAGS.iter().map(|flag| flag.name).collect();
    names.sort_unstable();
    for name in names {
        let key = variable(name);
        let Some(value) = env.get(&key).filter(|value| !value.is_empty()) else { continue };
        if on_command_line.contains(&key) {
            continue;
        }
        match raw.set(name, value) {
            Ok(()) => {
                let fields = vec![
                    ("variable-name", key.as_str().into()),
                    ("variable-value", value.as_str().into()),
                ];
                let text = "recognized and used environment variable";
                log.push(LogLine::new(LogLevel::Info, text, fields).early());
            }
            Err(why) => bad = Some(format!("invalid value {} for {key}: {why}", quote(value))),
        }
        used.insert(key);
    }
    for (key, value) in env.iter().filter(|(key, _)| !used.contains(*key)) {
        // NB: even an empty variable conflicts, although it sets nothing.
        if on_command_line.contains(key) {
            let text = "conflicting environment variable is shadowed by corresponding \
                        command-line flag (either unset environment variable or disable flag))";
            let fields = vec![("environment-variable", key.as_str().into())];
            log.push(LogLine::new(LogLevel::Fatal, text, fields).early());
            return Err(Refusal::Conflict);
        }
        if key.starts_with(PREFIX) {
            let fields = vec![("environment-variable", format!("{key}={value}").into())];
            let text = "unrecognized environment variable";
            log.push(LogLine::warn(text, fields).early());
        }
    }
    bad.map_or(Ok(()), |text| Err(Refusal::BadValue(text)))
}
