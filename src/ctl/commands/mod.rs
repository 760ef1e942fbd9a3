//! The commands, one definition and one function each.

mod basic;
mod cluster;
mod endpoint;
mod kv;
mod lease;
mod txn;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgMatches, Command};

use super::Shell;
use super::failure::{Failure, Outcome, exit};
use super::globals::{self, Globals, Merged};
use crate::runtime::Runtime;

/// The definitions, by name.
pub(crate) fn all() -> Vec<Command> {
    vec![
        cluster::alarm(),
        kv::compaction(),
        basic::completion(),
        kv::del(),
        endpoint::group(),
        kv::get(),
        basic::help(),
        lease::group(),
        cluster::member(),
        cluster::move_leader(),
        basic::options(),
        kv::put(),
        txn::definition(),
        basic::version(),
        watch::definition(),
    ]
}

/// Runs what was parsed, and returns the exit code.
pub(crate) async fn dispatch<R: Runtime>(
    runtime: R,
    args: &[OsString],
    environment: &BTreeMap<String, String>,
    matches: &ArgMatches,
) -> Outcome<u8> {
    let (name, below) = matches.subcommand().expect("the parser has seen to it");
    match name {
        "version" => return basic::print_version(),
        "completion" => return basic::print_completion(below),
        "help" => return basic::print_help(below),
        "options" => return basic::print_options(),
        _ => {}
    }
    let (child, deepest) = below.subcommand().unwrap_or(("", below));
    let names = globals::names();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    if name == "endpoint" {
        names.push("cluster");
    }
    let merged = Merged::new(deepest, environment, &names)?;
    let globals = Globals::read(&merged)?;
    if globals.debug {
        Globals::explain(&merged, &names);
    }
    let shell = Shell::new(runtime, globals)?;
    let given = deepest;
    match (name, child) {
        ("get", _) => kv::run_get(&shell, given).await?,
        ("put", _) => kv::run_put(&shell, given).await?,
        ("del", _) => kv::run_del(&shell, given).await?,
        ("compaction", _) => kv::run_compaction(&shell, given).await?,
        ("txn", _) => txn::run(&shell, given).await?,
        ("watch", _) => return watch::run(&shell, given, args, environment).await,
        ("lease", "grant") => lease::run_grant(&shell, given).await?,
        ("lease", "revoke") => lease::run_revoke(&shell, given).await?,
        ("lease", "timetolive") => lease::run_timetolive(&shell, given).await?,
        ("lease", "list") => lease::run_list(&shell).await?,
        ("lease", "keep-alive") => lease::run_keep_alive(&shell, given).await?,
        ("member", "list") => cluster::run_list(&shell, given).await?,
        ("member", "add") => cluster::run_add(&shell, given).await?,
        ("member", "remove") => cluster::run_remove(&shell, given).await?,
        ("member", "update") => cluster::run_update(&shell, given).await?,
        ("member", "promote") => cluster::run_promote(&shell, given).await?,
        ("move-leader", _) => cluster::run_move_leader(&shell, given).await?,
        ("alarm", "list") => cluster::run_alarm_list(&shell).await?,
        ("alarm", "disarm") => cluster::run_alarm_disarm(&shell).await?,
        ("endpoint", "health") => endpoint::run_health(&shell, merged.flag("cluster")).await?,
        ("endpoint", "status") => endpoint::run_status(&shell, merged.flag("cluster")).await?,
        ("endpoint", "hashkv") => {
            endpoint::run_hashkv(&shell, merged.flag("cluster"), given).await?;
        }
        _ => return Err(Failure::new(exit::ERROR, format!("{name} {child} is not there"))),
    }
    Ok(0)
}

/// Shows arguments that are text to people.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads an id in hex; the error is Go's.
fn hex_id(text: &[u8]) -> Result<u64, String> {
    hex_digits(text, "ParseUint", |digits| u64::from_str_radix(digits, 16))
}

/// Reads a signed id in hex.
fn hex_lease(text: &[u8]) -> Result<i64, String> {
    hex_digits(text, "ParseInt", |digits| i64::from_str_radix(digits, 16))
}

fn hex_digits<T>(
    text: &[u8],
    function: &str,
    read: impl Fn(&str) -> Result<T, std::num::ParseIntError>,
) -> Result<T, String> {
    let told =
        |why: &str| format!("strconv.{function}: parsing {}: {why}", super::text::quote(text));
    let digits = std::str::from_utf8(text).map_err(|_| told("invalid syntax"))?;
    read(digits).map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            told("value out of range")
        }
        _ => told("invalid syntax"),
    })
}

/// Reads a decimal number; the error is Go's.
fn decimal(text: &[u8]) -> Result<i64, String> {
    hex_digits(text, "ParseInt", str::parse)
}

/// The end of the range of all keys with this prefix.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let Some(last) = prefix.iter().rposition(|byte| *byte != 0xff) else { return vec![0] };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// A key and its range, as `--prefix` and `--from-key` make them.
fn range(key: Vec<u8>, end: Option<Vec<u8>>, prefix: bool, from_key: bool) -> (Vec<u8>, Vec<u8>) {
    match (key.is_empty(), prefix, from_key) {
        (true, true, _) | (true, _, true) => (vec![0], vec![0]),
        (false, true, _) => {
            let end = prefix_end(&key);
            (key, end)
        }
        (false, _, true) => (key, vec![0]),
        (_, false, false) => (key, end.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_after_its_last_byte_that_can_grow() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), [0]);
        assert_eq!(range(vec![], None, true, false), (vec![0], vec![0]));
        assert_eq!(range(b"a".to_vec(), None, false, true), (b"a".to_vec(), vec![0]));
    }

    #[test]
    fn ids_are_hex_and_refusals_are_gos() {
        assert_eq!(hex_id(b"ff"), Ok(255));
        assert_eq!(
            hex_lease(b"xyz"),
            Err("strconv.ParseInt: parsing \"xyz\": invalid syntax".to_owned())
        );
        assert_eq!(
            hex_lease(b"ffffffffffffffff"),
            Err("strconv.ParseInt: parsing \"ffffffffffffffff\": value out of range".to_owned())
        );
    }
}
