//! What needs no server: `version`, `help`, `options`, `completion`.

use std::str::FromStr;

use clap::{ArgMatches, Command};
use clap_complete::{Shell, generate};

use crate::config::ETCD_VERSION;
use crate::ctl::cli::{Given, arguments, command, group, root};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::{NAME, globals, print};

pub(super) fn version() -> Command {
    command("version", "Prints the version").arg(arguments(""))
}

pub(super) fn completion() -> Command {
    SHELLS.iter().fold(
        group("completion", "Generate the autocompletion script for the specified shell"),
        |group, shell| group.subcommand(command(shell, "Prints the script for this shell")),
    )
}

const SHELLS: [&str; 4] = ["bash", "fish", "powershell", "zsh"];

/// Prints the script that teaches a shell the commands, made of the definitions that parse them.
pub(super) fn print_completion(given: &ArgMatches) -> Outcome<u8> {
    let shell = given.subcommand_name().and_then(|name| Shell::from_str(name).ok());
    let shell = shell.ok_or_else(|| Failure::new(exit::ERROR, "unknown shell"))?;
    let mut script = Vec::new();
    generate(shell, &mut root(), NAME, &mut script);
    print(&script)?;
    Ok(0)
}

pub(super) fn help() -> Command {
    command("help", "Help about any command").arg(arguments("command"))
}

pub(super) fn options() -> Command {
    command("options", "Lists the flags that every command has").arg(arguments(""))
}

/// The version is the one whose behaviour this is, in the words that scripts cut it from.
pub(super) fn print_version() -> Outcome<u8> {
    let api = ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(api, _)| api);
    print(format!("etcdctl version: {ETCD_VERSION}\nAPI version: {api}\n").as_bytes())?;
    Ok(0)
}

pub(super) fn print_options() -> Outcome<u8> {
    let flags = globals::flags().into_iter().map(|flag| flag.hide(false));
    let mut listed = Command::new(NAME)
        .help_template("The following options can be passed to any command:\n\n{options}\n")
        .disable_help_flag(true)
        .args(flags);
    print(listed.render_help().to_string().as_bytes())?;
    Ok(0)
}

/// Explains a command, or all of them.
pub(super) fn print_help(given: &ArgMatches) -> Outcome<u8> {
    let mut root = root();
    // Makes the commands below know their full names.
    root.build();
    let mut at = &mut root;
    for word in given.arguments() {
        let word = String::from_utf8_lossy(&word).into_owned();
        if at.find_subcommand(&word).is_none() {
            eprintln!("Unknown help topic {word}");
            break;
        }
        at = at.find_subcommand_mut(&word).expect("found above");
    }
    print(at.render_help().to_string().as_bytes())?;
    Ok(0)
}
