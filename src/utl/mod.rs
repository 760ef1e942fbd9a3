//! `mainstayutl`: what can be learnt of a data directory while its member is stopped, in etcdutl's words.
//!
//! - `hashkv DATA_DIR`: the hash of the keys as the store has them, the number that `endpoint hashkv`
//!   gives for the same revision.
//! - `version`, `help`.
//!
//! The directory is locked as the server locks it, so a running member is refused and left in peace, and
//! no table is written. NB: the store follows the log. What a killed member had acknowledged and not yet
//! brought over stands in its log only, and counts once it has been started again.
//!
//! Left out so far: etcd's own files (snapshots, databases), hence `snapshot`, `defrag`, `migrate`; a file
//! is refused with a sentence that says so.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, ColorChoice, Command, value_parser};
use serde_json::Value;

use crate::command::Refusal;
use crate::config::ETCD_VERSION;
use crate::ctl::cli::{self, Given, integer, text};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::show::{Format, Lines, Object, Show, Style, render};
use crate::ctl::text::table;
use crate::mvcc::{HashKv, Store};
use crate::runtime::Disk;
use crate::storage::{Storage, StorageOptions, generations};

/// The program's name in its own texts.
pub const NAME: &str = "mainstayutl";

/// Returns the whole command's definition.
#[must_use]
pub fn definition() -> Command {
    let directory =
        Arg::new("paths").num_args(0..).value_parser(value_parser!(PathBuf)).value_name("DATA_DIR");
    Command::new(NAME)
        .about("An administrative command line utility for Mainstay's data directories.")
        .color(ColorChoice::Never)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .infer_subcommands(true)
        .args_override_self(true)
        .arg(
            text("write-out", "the output format (fields, json, protobuf, simple, table)")
                .short('w')
                .default_value("simple")
                .global(true),
        )
        .subcommand(
            Command::new("hashkv")
                .about("Prints the KV history hash of a stopped member's data directory")
                .arg(directory)
                .arg(
                    integer("rev", "maximum revision to hash (default: latest revision)")
                        .default_value("0"),
                ),
        )
        .subcommand(Command::new("version").about("Prints the version"))
        .subcommand(
            Command::new("help").about("Help about any command").arg(cli::arguments("command")),
        )
}

/// Runs one command line, the program's name first, and returns the exit code.
pub fn run<D: Disk>(disk: &D, args: &[OsString]) -> u8 {
    let mut definition = definition();
    let matches = match definition.try_get_matches_from_mut(args) {
        Ok(matches) => matches,
        Err(error) => {
            let stop = cli::stop(&error, args);
            if stop.code == 0 {
                print!("{}", stop.text)
            } else {
                eprint!("{}", stop.text)
            }
            return stop.code;
        }
    };
    let outcome = match matches.subcommand() {
        Some(("hashkv", given)) => hashkv(disk, given),
        Some(("version", _)) => Ok(version().into_bytes()),
        _ => Ok(definition.render_help().to_string().into_bytes()),
    };
    let printed = outcome.and_then(|bytes| {
        let failed = |error| Failure::new(exit::ERROR, format!("write stdout: {error}"));
        std::io::stdout().lock().write_all(&bytes).map_err(failed)
    });
    match printed {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("Error: {}", failure.text);
            failure.code
        }
    }
}

fn version() -> String {
    let api = ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(api, _)| api);
    format!("etcdutl version: {ETCD_VERSION}\nAPI version: {api}\n")
}

fn hashkv<D: Disk>(disk: &D, given: &ArgMatches) -> Outcome<Vec<u8>> {
    let paths: Vec<&PathBuf> = given.get_many("paths").unwrap_or_default().collect();
    let [dir] = paths.as_slice() else {
        return Err(Failure::bad_args("hashkv command needs 1 argument: a data directory"));
    };
    let format = Format::of(given.string("write-out"))
        .ok_or_else(|| Failure::new(exit::BAD_FEATURE, "unsupported output format"))?;
    let hash = hash(disk, dir, given.number("rev"))?;
    render(&Hash(hash), &Style { format, hex: false })
}

/// Hashes the keys of a stopped member.
fn hash<D: Disk>(disk: &D, dir: &Path, revision: i64) -> Outcome<HashKv> {
    let failed = |text: String| Failure::new(exit::ERROR, text);
    let (member, shown) = (dir.join("member"), dir.display());
    let stores = member.join("store");
    if !disk.exists(&stores) {
        return Err(failed(format!(
            "{shown} is not a data directory of Mainstay (files of etcd cannot be read yet)"
        )));
    }
    let lock = disk.lock(&member.join("lock")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            failed(format!("{shown} is in use: stop the member first"))
        }
        _ => failed(format!("{}: {error}", member.join("lock").display())),
    })?;
    let current = generations::current(disk, &stores).map_err(|error| failed(error.to_string()))?;
    let options = StorageOptions { keep: Some(Box::new(lock)), ..StorageOptions::default() };
    let storage = Storage::open(&current, options).map_err(|error| failed(error.to_string()))?;
    let store = Store::open(storage).map_err(|error| failed(error.to_string()))?;
    store.hash_kv(revision).map_err(|refusal| {
        failed(match refusal {
            Refusal::Compacted(_) => "mvcc: required revision has been compacted".to_owned(),
            Refusal::FutureRevision => "mvcc: required revision is a future revision".to_owned(),
            other => format!("{shown}: {other:?}"),
        })
    })
}

/// The answer.
struct Hash(HashKv);

impl Hash {
    fn row(&self) -> Vec<String> {
        let HashKv { hash, compact_revision, hash_revision } = self.0;
        vec![hash.to_string(), hash_revision.to_string(), compact_revision.to_string()]
    }
}

impl Show for Hash {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        format!("{}\n", self.row().join(", ")).into_bytes()
    }

    fn fields(&self, _style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines
            .put("Hash", self.0.hash)
            .put("Hash revision", self.0.hash_revision)
            .put("Compact revision", self.0.compact_revision);
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        Object::default()
            .always("hash", self.0.hash)
            .always("hashRevision", self.0.hash_revision)
            .always("compactRevision", self.0.compact_revision)
            .done()
    }

    fn table(&self) -> Option<String> {
        Some(table(&["hash", "hash revision", "compact revision"], &[self.row()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn the_hash_is_printed_as_etcdutl_prints_it() {
        let hash = Hash(HashKv { hash: 7, compact_revision: -1, hash_revision: 38 });
        let text = |format| {
            let bytes = render(&hash, &Style { format, hex: false });
            bytes.map(|bytes| String::from_utf8(bytes).expect("text")).map_err(|it| it.code)
        };
        assert_eq!(text(Format::Simple), Ok("7, 38, -1\n".to_owned()));
        assert_eq!(
            text(Format::Json),
            Ok("{\"hash\":7,\"hashRevision\":38,\"compactRevision\":-1}\n".to_owned())
        );
        let fields = "\"Hash\" : 7\n\"Hash revision\" : 38\n\"Compact revision\" : -1\n";
        assert_eq!(text(Format::Fields), Ok(fields.to_owned()));
        assert_eq!(text(Format::Protobuf), Err(exit::BAD_FEATURE));
    }
}
