//! Configuration: from a command line and an environment to a [`Config`], or to a refusal.
//!
//! The whole way is a function, [`parse`]: it opens no file, reads no clock, prints nothing. What has
//! to be printed comes back as text or as [`LogLine`]s, what has to be done as an [`Exit`]. Whether
//! files named in flags exist is found out by whoever opens them.
//!
//! The rules, in the order in which they apply:
//! - Flags are written as in Go (`-x v`, `--x=v`; booleans take a value only after `=`). A flag that
//!   is unknown or has a bad value ends with a message and the usage, exit 2.
//! - An argument that is no flag is an error, exit 1. Then comes `--version`.
//! - A variable `ETCD_SOME_FLAG` stands for `--some-flag`. One setting given in both ways is an error
//!   even where they agree; an empty variable is none; one that no flag answers to is warned about.
//! - Settings are then held against one another (`validate`), defaults filled in (`resolve`),
//!   and those that ask for what is not there refused (`not_yet`).
//!
//! Invariants:
//! - The accepted language, the texts and the exit codes are etcd's, so that unit files, charts and
//!   the people behind them need no change. Help texts are our own.
//! - A `Config` in hand has passed every check that needs no I/O, except those of bootstrap
//!   ([`Config::check_bootstrap`]), which do not concern a member that has a log.
//! - No flag is taken and ignored, unless ignoring it is right (`not_yet`).
//!
//! The parser is made by hand because clap, which the other command lines use, can neither take Go's
//! syntax (`-name x`, `--auto-tls=false` but not `--auto-tls false`) nor say Go's sentences, and its
//! handling of the environment knows no conflict between the two.
//!
//! Left out: configuration files, DNS lookups (the caller's, see [`Config::addresses_to_resolve`]),
//! and the subcommands `gateway` and `grpc-proxy`.

mod bootstrap;
mod environment;
mod features;
mod flags;
pub(crate) mod goflag;
mod identity;
mod listeners;
mod logline;
mod not_yet;
mod raw;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;
mod url;
mod validate;

use std::collections::BTreeMap;

pub use features::{Feature, FeatureGates, Stage};
pub use identity::{cluster_id, member_id, member_id_at};
pub use logline::{LogFormat, LogLevel, LogLine, LogOutput};
pub use settings::{
    AuthToken, AutoCompaction, ClusterState, Config, Discovery, TlsSettings, TlsVersion, Tracing,
};
pub use url::{Scheme, Url, texts};

use goflag::{Flags, Stop, quote};
use raw::Raw;
use validate::{Complaint, Logging};

/// The version of etcd that this server stands in for.
pub const ETCD_VERSION: &str = "3.7.1";

/// A configuration, and what to log first.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The configuration.
    pub config: Config,
    /// Lines to log as soon as there is a log. Those that the configured level hides are not in it.
    pub log: Vec<LogLine>,
}

/// The end of the process before it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// What to write to standard output.
    pub stdout: String,
    /// What to write to standard error, before the log.
    pub stderr: String,
    /// What to log.
    pub log: Vec<LogLine>,
    /// The shape of the log.
    pub log_format: LogFormat,
    /// Whether the log goes to standard output instead of standard error.
    pub log_to_stdout: bool,
}

impl Exit {
    /// Returns all that is to be written to standard output and to standard error. `timestamp` goes
    /// into the log lines as it is.
    pub fn render(&self, timestamp: &str) -> (String, String) {
        let (mut stdout, mut stderr) = (self.stdout.clone(), self.stderr.clone());
        let log = if self.log_to_stdout { &mut stdout } else { &mut stderr };
        for line in &self.log {
            log.push_str(&line.render(self.log_format, timestamp));
            log.push('\n');
        }
        (stdout, stderr)
    }
}

/// Makes a configuration of the command line (`args[0]` is the program) and the environment.
pub fn parse(args: &[String], env: &BTreeMap<String, String>) -> Result<Parsed, Exit> {
    let mut raw = Raw::default();
    let rest = match goflag::cut(args.get(1..).unwrap_or_default(), &mut raw) {
        Ok(rest) => rest,
        Err(Stop::Help) => {
            let stderr = format!("{USAGE}\n");
            return Err(Exit { stdout: flags::help(), stderr, ..Exit::default() });
        }
        Err(Stop::Refused(message)) => {
            let stderr = format!("{message}\n{USAGE}\n");
            return Err(Exit { code: 2, stderr, ..Exit::default() });
        }
    };
    let mut log = Vec::new();
    if let Some(word) = rest.first() {
        let complaint = Complaint::Verify(format!("{} is not a valid flag", quote(word)));
        return Err(refuse(args, log, &Logging::default(), complaint));
    }
    if raw.version {
        return Err(Exit { stdout: version(), ..Exit::default() });
    }
    if let Some(file) = env.get("ETCD_CONFIG_FILE").filter(|file| !file.is_empty())
        && raw.config_file.is_empty()
    {
        raw.set("config-file", file).expect("the flag takes any text");
    }
    if !raw.config_file.is_empty() {
        let complaint = not_yet::check(&raw).expect_err("configuration files are not read").into();
        return Err(refuse(args, log, &Logging::default(), complaint));
    }
    match environment::apply(&mut raw, env, &mut log) {
        Ok(()) => {}
        Err(environment::Refusal::Conflict) => {
            return Err(Exit { code: 1, log, ..Exit::default() });
        }
        Err(environment::Refusal::BadValue(text)) => {
            return Err(refuse(args, log, &Logging::default(), text.into()));
        }
    }
    resolve::raise_peer_timeouts(&mut raw, &mut log);
    let logging = match validate::fallback(&raw).and_then(|()| validate::logging(&raw)) {
        Ok(logging) => logging,
        Err(complaint) => return Err(refuse(args, log, &Logging::default(), complaint)),
    };
    let checked = validate::check(&raw, &mut log);
    resolve::warn_of_deprecated(&raw, &mut log);
    if let Err(complaint) = checked {
        return Err(refuse(args, log, &logging, complaint));
    }
    log.push(running(args));
    match resolve::resolve(&raw, &logging, &mut log) {
        Ok(config) => Ok(Parsed { config, log: shown(log, logging.level) }),
        Err(complaint) => Err(refuse(args, log, &logging, complaint)),
    }
}

/// The line that every start and every refusal has.
fn running(args: &[String]) -> LogLine {
    LogLine::new(LogLevel::Info, "Running: ", vec![("args", args.into())])
}

/// Drops what the level hides.
fn shown(log: Vec<LogLine>, level: LogLevel) -> Vec<LogLine> {
    log.into_iter().filter(|line| line.early || line.level >= level).collect()
}

/// Tells a complaint in its way.
fn refuse(args: &[String], mut log: Vec<LogLine>, logging: &Logging, why: Complaint) -> Exit {
    let code = match &why {
        Complaint::Panic(text) => {
            let stderr = format!("panic: {text}\n");
            return Exit { code: 2, stderr, log, ..Exit::default() };
        }
        _ => 1,
    };
    let line = running(args);
    if log.iter().all(|other| other.message != line.message) {
        log.push(line);
    }
    let error = |text: &str| vec![("error", text.into())];
    match why {
        Complaint::Start(text) => {
            log.push(LogLine::new(LogLevel::Fatal, "discovery failed", error(&text)));
        }
        Complaint::NoAdvertisedClientUrls => {
            let text =
                "--advertise-client-urls is required when --listen-client-urls is set explicitly";
            for message in ["failed to verify flags", "advertise client URLs are not set"] {
                log.push(LogLine::new(LogLevel::Warn, message, error(text)));
            }
        }
        Complaint::Verify(text) | Complaint::Panic(text) => {
            log.push(LogLine::new(LogLevel::Warn, "failed to verify flags", error(&text)));
        }
    }
    Exit {
        code,
        log: shown(log, logging.level),
        log_format: logging.format,
        log_to_stdout: logging.outputs.first() == Some(&LogOutput::Stdout),
        ..Exit::default()
    }
}

/// What `--version` prints: etcd's four lines, since tools cut them apart.
fn version() -> String {
    let (os, arch) = match (std::env::consts::OS, std::env::consts::ARCH) {
        (os, "x86_64") => (os, "amd64"),
        (os, "aarch64") => (os, "arm64"),
        (os, "powerpc64") => (os, "ppc64le"),
        other => other,
    };
    let revision = concat!("mainstay-", env!("CARGO_PKG_VERSION"));
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {revision}\nGo Version: none (Rust)\n\
         Go OS/Arch: {os}/{arch}\n"
    )
}

/// The block of text after a refused flag, and before the list of `--help`.
const USAGE: &str = "Usage:

  mainstay [flags]
    Run a server.

  mainstay --version
    Print the version.

  mainstay -h | --help
    Print this and all flags.

Each flag --some-flag may be given as the environment variable ETCD_SOME_FLAG instead.
";
