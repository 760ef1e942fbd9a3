//! How arguments are read: clap's definitions with the habits of etcdctl's parser. Flags stand anywhere,
//! `--flag=v` and `--flag v` mean the same, the last of two wins, booleans take a value only after `=`,
//! numbers are Go literals, and a command's name may be cut to any prefix that is its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, ColorChoice, Command, value_parser};

use super::{NAME, commands, globals};
use crate::config::goflag;

/// The whole program.
pub(crate) fn root() -> Command {
    Command::new(NAME)
        .about("A command line client for Mainstay and etcd 3.")
        .after_help(OPTIONS_HINT)
        .color(ColorChoice::Never)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .infer_subcommands(true)
        .args_override_self(true)
        .allow_external_subcommands(true)
        .args(globals::flags())
        .subcommands(commands::all())
}

/// The line under every help text.
pub(crate) const OPTIONS_HINT: &str = "Use \"mainstayctl options\" for a list of global command-line \
                                       options (applies to all commands).";

/// Why there is nothing to run: help to print (code 0) or an error.
pub(crate) struct Stop {
    pub code: u8,
    pub text: String,
}

/// Reads a command line.
pub(crate) fn parse(args: &[OsString]) -> Result<ArgMatches, Stop> {
    let mut root = root();
    let matches = root.try_get_matches_from_mut(args).map_err(|error| stop(&error, args))?;
    match matches.subcommand() {
        None => Err(Stop { code: 0, text: root.render_help().to_string() }),
        Some((name, _)) if root.find_subcommand(name).is_none() => Err(Stop {
            code: 1,
            text: format!(
                "Error: unknown command {} for \"{NAME}\"\nRun '{NAME} --help' for usage.\n",
                goflag::quote(name)
            ),
        }),
        Some((name, below)) => {
            let Some(parent) = root.find_subcommand_mut(name) else { return Ok(matches) };
            if !parent.has_subcommands() {
                return Ok(matches);
            }
            // A group alone, or with a word it does not know, explains itself and is content.
            match below.subcommand() {
                Some((child, _)) if parent.find_subcommand(child).is_some() => Ok(matches),
                _ => Err(Stop { code: 0, text: parent.render_help().to_string() }),
            }
        }
    }
}

/// Tells clap's error in the words of etcdctl's parser.
pub(crate) fn stop(error: &clap::Error, args: &[OsString]) -> Stop {
    if matches!(error.kind(), ErrorKind::DisplayHelp) {
        return Stop { code: 0, text: error.render().to_string() };
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg).unwrap_or_default();
    // `--rev <rev>`, as clap shows it.
    let name = flag.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let sentence = match error.kind() {
        ErrorKind::UnknownArgument => match name.strip_prefix("--") {
            Some(_) => format!("unknown flag: {name}"),
            None => {
                let short = name.strip_prefix('-').unwrap_or(&name);
                let first = short.chars().next().unwrap_or('-');
                let whole = args.iter().map(|arg| arg.to_string_lossy()).find(|arg| {
                    arg.starts_with('-') && !arg.starts_with("--") && arg.contains(first)
                });
                format!("unknown shorthand flag: '{first}' in {}", whole.unwrap_or_default())
            }
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {name}"),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            let value = goflag::quote(&value);
            format!("invalid argument {value} for \"{name}\" flag: {}", cause.unwrap_or_default())
        }
        _ => {
            let whole = error.render().to_string();
            whole.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    let usage = error.render().to_string();
    let usage =
        usage.lines().find(|line| line.starts_with("Usage:")).unwrap_or_default().to_owned();
    Stop { code: 1, text: format!("Error: {sentence}\n{usage}\n") }
}

/// Makes a command.
pub(crate) fn command(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about).after_help(OPTIONS_HINT)
}

/// Makes a command that only groups others.
pub(crate) fn group(name: &'static str, about: &'static str) -> Command {
    command(name, about).allow_external_subcommands(true)
}

/// A command's arguments: any number of any bytes. How many are right is the command's own matter.
pub(crate) fn arguments(help: &'static str) -> Arg {
    Arg::new("arguments").num_args(0..).value_parser(value_parser!(OsString)).value_name(help)
}

/// A boolean.
pub(crate) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .value_parser(read_bool)
        .hide_possible_values(true)
        .value_name("bool")
}

/// Text.
pub(crate) fn text(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).allow_hyphen_values(true).value_name("string")
}

/// A list: commas or repetition.
pub(crate) fn list(name: &'static str, help: &'static str) -> Arg {
    text(name, help).action(ArgAction::Append).value_delimiter(',')
}

/// A number.
pub(crate) fn integer(name: &'static str, help: &'static str) -> Arg {
    text(name, help).value_parser(read_integer).value_name("int")
}

/// A length of time.
pub(crate) fn duration(name: &'static str, help: &'static str) -> Arg {
    text(name, help).value_parser(read_duration).value_name("duration")
}

pub(crate) fn read_bool(value: &str) -> Result<bool, String> {
    goflag::parse_bool(value).ok_or_else(|| {
        format!("strconv.ParseBool: parsing {}: invalid syntax", goflag::quote(value))
    })
}

pub(crate) fn read_integer(value: &str) -> Result<i64, String> {
    goflag::parse_int(value)
        .map_err(|error| format!("strconv.ParseInt: parsing {}: {error}", goflag::quote(value)))
}

pub(crate) fn read_duration(value: &str) -> Result<Duration, String> {
    let nanoseconds = goflag::parse_duration(value)?;
    Ok(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
}

/// What a command finds in its matches.
pub(crate) trait Given {
    fn arguments(&self) -> Vec<Vec<u8>>;
    fn flag(&self, name: &str) -> bool;
    fn number(&self, name: &str) -> i64;
    fn string(&self, name: &str) -> &str;
}

impl Given for ArgMatches {
    fn arguments(&self) -> Vec<Vec<u8>> {
        let values = self.get_many::<OsString>("arguments").unwrap_or_default();
        values.map(|value| OsStr::as_bytes(value).to_vec()).collect()
    }

    fn flag(&self, name: &str) -> bool {
        self.get_one::<bool>(name).copied().unwrap_or(false)
    }

    fn number(&self, name: &str) -> i64 {
        self.get_one::<i64>(name).copied().unwrap_or(0)
    }

    fn string(&self, name: &str) -> &str {
        self.get_one::<String>(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<ArgMatches, Stop> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_definitions_are_consistent() {
        root().debug_assert();
    }

    #[test]
    fn flags_stand_anywhere_and_names_may_be_short() {
        let matches = read("ctl compact --hex 5 --physical -w json").ok().expect("it parses");
        let (name, below) = matches.subcommand().expect("a command");
        assert_eq!(name, "compaction");
        assert_eq!(below.arguments(), [b"5".to_vec()]);
        assert!(below.flag("physical") && below.flag("hex"));
        assert_eq!(below.string("write-out"), "json");
    }

    #[test]
    fn errors_are_told_in_the_words_of_go() {
        let error = |line: &str| match read(line) {
            Ok(_) => panic!("{line} parses"),
            Err(stop) => (stop.code, stop.text.lines().next().unwrap_or_default().to_owned()),
        };
        assert_eq!(
            error("ctl nonsense"),
            (1, "Error: unknown command \"nonsense\" for \"mainstayctl\"".to_owned())
        );
        assert_eq!(error("ctl get --nope"), (1, "Error: unknown flag: --nope".to_owned()));
        assert_eq!(
            error("ctl get -x a"),
            (1, "Error: unknown shorthand flag: 'x' in -x".to_owned())
        );
        assert_eq!(error("ctl get --rev"), (1, "Error: flag needs an argument: --rev".to_owned()));
        assert_eq!(
            error("ctl get --rev=x a"),
            (1, "Error: invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())
        );
        assert_eq!(error("ctl lease nonsense").0, 0);
        assert_eq!(error("ctl").0, 0);
    }
}
