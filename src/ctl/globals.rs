//! The flags that every command has, and the environment variables that stand in for them.
//!
//! `ETCDCTL_` and the flag's name in capitals. A variable that is empty or cannot be read counts as
//! absent; one whose flag is given as well is an error, even if they agree. Commands that talk to no
//! server do not look at the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::cli::{duration, integer, list, read_bool, read_duration, read_integer, switch, text};
use super::failure::{Failure, Outcome, exit};

/// Their values.
#[derive(Clone, Debug)]
pub(crate) struct Globals {
    pub endpoints: Vec<String>,
    pub debug: bool,
    pub write_out: String,
    pub hex: bool,
    pub dial_timeout: Duration,
    pub command_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub max_request_bytes: Option<usize>,
    pub max_recv_bytes: Option<usize>,
    pub insecure_transport: bool,
    pub insecure_skip_tls_verify: bool,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub cacert: Option<PathBuf>,
}

/// Their definitions. They are hidden from each command's help; `options` lists them.
pub(crate) fn flags() -> Vec<Arg> {
    let flags = vec![
        list("endpoints", "gRPC endpoints").default_value("127.0.0.1:2379"),
        switch("debug", "print every flag's value to stderr"),
        text("write-out", "the output format (fields, json, protobuf, simple, table)")
            .short('w')
            .default_value("simple"),
        switch("hex", "print byte strings as hex encoded strings"),
        duration("dial-timeout", "the limit for one attempt to connect").default_value("2s"),
        duration("command-timeout", "the limit for a short command").default_value("5s"),
        duration("keepalive-time", "silence after which the server is pinged").default_value("2s"),
        duration("keepalive-timeout", "how long that ping may go unanswered").default_value("6s"),
        integer("max-request-bytes", "the largest request; 0 for 2 MiB").default_value("0"),
        integer("max-recv-bytes", "the largest answer; 0 for any").default_value("0"),
        switch("insecure-transport", "no TLS unless an endpoint or a certificate asks for it")
            .default_value("true"),
        switch("insecure-discovery", "accepted for scripts; there is no discovery here")
            .default_value("true"),
        switch("insecure-skip-tls-verify", "accept any certificate (for tests only)"),
        text("cert", "the client's own certificate"),
        text("key", "the client's own key"),
        text("cacert", "the CAs that the server's certificate must come from"),
    ];
    flags.into_iter().map(|flag| flag.global(true).hide(true)).collect()
}

/// Prepared matches: what the command line said, and the environment where it said nothing.
pub(crate) struct Merged<'a> {
    matches: &'a ArgMatches,
    environment: &'a BTreeMap<String, String>,
}

impl<'a> Merged<'a> {
    /// Checks the environment against the command line. `names` are the inherited flags.
    pub(crate) fn new(
        matches: &'a ArgMatches,
        environment: &'a BTreeMap<String, String>,
        names: &[&str],
    ) -> Outcome<Self> {
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix("ETCDCTL_") else { continue };
            let name = rest.to_ascii_lowercase().replace('_', "-");
            let known = names.contains(&name.as_str());
            if matches!(rest, "WATCH_KEY" | "WATCH_RANGE_END") {
                continue;
            }
            if !known {
                let line = serde_json::json!({
                    "level": "warn", "msg": "unrecognized environment variable",
                    "environment-variable": format!("{variable}={value}"),
                });
                eprintln!("{line}");
            } else if !value.is_empty() && Self::is_given(matches, &name) {
                let text = "conflicting environment variable is shadowed by corresponding \
                            command-line flag (either unset environment variable or disable flag)";
                let line = serde_json::json!({
                    "level": "fatal", "msg": text, "environment-variable": variable,
                });
                let mut failure = Failure::new(exit::ERROR, "");
                failure.detail = Some(line.to_string());
                return Err(failure);
            }
        }
        Ok(Self { matches, environment })
    }

    fn is_given(matches: &ArgMatches, name: &str) -> bool {
        matches.value_source(name) == Some(ValueSource::CommandLine)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let variable = format!("ETCDCTL_{}", name.to_ascii_uppercase().replace('-', "_"));
        self.environment.get(&variable).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn get<T: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let from_environment = self.variable(name).and_then(read);
        from_environment.or_else(|| self.matches.get_one::<T>(name).cloned())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name, |value| read_bool(value).ok()).unwrap_or(false)
    }

    fn text(&self, name: &str) -> String {
        self.get(name, |value| Some(value.to_owned())).unwrap_or_default()
    }

    fn duration(&self, name: &str) -> Duration {
        self.get(name, |value| read_duration(value).ok()).unwrap_or_default()
    }

    fn size(&self, name: &str) -> Option<usize> {
        let value = self.get(name, |value| read_integer(value).ok()).unwrap_or(0);
        usize::try_from(value).ok().filter(|value| *value > 0)
    }

    /// A file's name. One that is given and empty is an error: a script's variable was not set.
    fn file(&self, name: &str) -> Outcome<Option<PathBuf>> {
        let value = self.text(name);
        if value.is_empty() {
            if Self::is_given(self.matches, name) {
                return Err(Failure::bad_args(format!(
                    "empty string is passed to --{name} option"
                )));
            }
            return Ok(None);
        }
        Ok(Some(value.into()))
    }
}

impl Globals {
    /// Reads them all.
    pub(crate) fn read(merged: &Merged<'_>) -> Outcome<Self> {
        let from_environment = merged
            .variable("endpoints")
            .map(|it| it.split(',').map(str::to_owned).collect::<Vec<_>>());
        let from_flags =
            || merged.matches.get_many::<String>("endpoints").unwrap_or_default().cloned();
        Ok(Self {
            endpoints: from_environment.unwrap_or_else(|| from_flags().collect()),
            debug: merged.flag("debug"),
            write_out: merged.text("write-out"),
            hex: merged.flag("hex"),
            dial_timeout: merged.duration("dial-timeout"),
            command_timeout: merged.duration("command-timeout"),
            keepalive_time: merged.duration("keepalive-time"),
            keepalive_timeout: merged.duration("keepalive-timeout"),
            max_request_bytes: merged.size("max-request-bytes"),
            max_recv_bytes: merged.size("max-recv-bytes"),
            insecure_transport: merged.flag("insecure-transport"),
            insecure_skip_tls_verify: merged.flag("insecure-skip-tls-verify"),
            cert: merged.file("cert")?,
            key: merged.file("key")?,
            cacert: merged.file("cacert")?,
        })
    }

    /// Prints every flag as the variable that would set it, for `--debug`.
    pub(crate) fn explain(merged: &Merged<'_>, names: &[&str]) {
        for name in names {
            let variable = format!("ETCDCTL_{}", name.to_ascii_uppercase().replace('-', "_"));
            let raw = || {
                let values = merged.matches.get_raw(name)?;
                let texts: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
                Some(if *name == "endpoints" {
                    format!("[{}]", texts.join(","))
                } else {
                    texts.join(",")
                })
            };
            let value = merged.variable(name).map(str::to_owned).or_else(raw).unwrap_or_default();
            eprintln!("{variable}={value}");
        }
    }
}

/// The names of the global flags.
pub(crate) fn names() -> Vec<String> {
    let named = |flag: Arg| flag.get_id().to_string();
    flags()
        .into_iter()
        .filter(|it| !matches!(it.get_action(), ArgAction::Help))
        .map(named)
        .collect()
}
