//! `watch`: events as they come, with a command for each if wanted, or several watches by hand.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Stdio;

use clap::{Arg, ArgMatches, Command, value_parser};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::range;
use crate::client::{Client, WatchSpec};
use crate::ctl::cli::{Given, arguments, command, integer, switch};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::lines::words;
use crate::ctl::show::watch::kind;
use crate::ctl::show::{Style, render};
use crate::ctl::text::quote;
use crate::ctl::{Shell, print};
use crate::proto::etcdserverpb::WatchResponse;
use crate::runtime::{Lane, Runtime, Worker};

pub(super) fn definition() -> Command {
    command("watch", "Watches events stream on keys or prefixes")
        .arg(arguments("key [range_end]"))
        .arg(
            Arg::new("exec")
                .last(true)
                .num_args(0..)
                .value_parser(value_parser!(OsString))
                .value_name("exec-command arg1 arg2 …")
                .help("Run for each event, which it finds in its environment"),
        )
        .arg(switch("interactive", "Read watches from stdin").short('i'))
        .arg(switch("prefix", "Watch on a prefix if prefix is set"))
        .arg(integer("rev", "Revision to start watching").default_value("0"))
        .arg(switch("prev-kv", "get the previous key-value pair before the event happens"))
        .arg(switch("progress-notify", "get periodic watch progress notification from server"))
}

/// One watch that was asked for.
struct Wanted {
    spec: WatchSpec,
    exec: Vec<OsString>,
}

const KEY: &str = "ETCDCTL_WATCH_KEY";
const RANGE_END: &str = "ETCDCTL_WATCH_RANGE_END";

/// Makes a watch of a command's matches; key and range may come from the environment instead.
fn wanted(
    given: &ArgMatches,
    words: &[OsString],
    environment: &BTreeMap<String, String>,
) -> Result<Wanted, String> {
    let mut args = given.arguments();
    let exec: Vec<OsString> =
        given.get_many::<OsString>("exec").unwrap_or_default().cloned().collect();
    if words.last().is_some_and(|word| word == "--") {
        return Err("bad number of arguments (found separator --, but no commands)".to_owned());
    }
    let variable = |name| environment.get(name).filter(|value| !value.is_empty());
    match (variable(KEY), variable(RANGE_END)) {
        (Some(_), _) if !args.is_empty() => {
            return Err("bad number of arguments (found conflicting environment key)".to_owned());
        }
        (Some(key), end) => {
            args =
                [Some(key), end].into_iter().flatten().map(|it| it.clone().into_bytes()).collect();
        }
        (None, Some(end)) => {
            return Err(format!("{KEY} is empty but got {RANGE_END}={}", quote(end.as_bytes())));
        }
        (None, None) => {}
    }
    if args.is_empty() {
        return Err("bad number of arguments".to_owned());
    }
    // NB: a third argument makes the second one nothing, as in etcdctl.
    let end = (args.len() == 2).then(|| args.remove(1));
    if end.is_some() && given.flag("prefix") {
        return Err("`range_end` and `--prefix` are mutually exclusive".to_owned());
    }
    let key = args.remove(0);
    let (key, range_end) = range(key, end, given.flag("prefix"), false);
    let spec = WatchSpec {
        key: key.into(),
        range_end: range_end.into(),
        revision: given.number("rev"),
        prev_kv: given.flag("prev-kv"),
        progress_notify: given.flag("progress-notify"),
    };
    Ok(Wanted { spec, exec })
}

pub(super) async fn run<R: Runtime>(
    shell: &Shell<R>,
    given: &ArgMatches,
    args: &[OsString],
    environment: &BTreeMap<String, String>,
) -> Outcome<u8> {
    if given.flag("interactive") {
        return interactive(shell).await;
    }
    let wanted = wanted(given, args, environment).map_err(Failure::bad_args)?;
    // Nobody asks for progress by hand here.
    let (_keep, progress) = broadcast::channel(1);
    let worker = shell.runtime.worker("exec");
    watch(&shell.client()?, wanted, &shell.style, progress, &worker).await?;
    Err(Failure::new(exit::INTERRUPTED, "watch is canceled by the server"))
}

/// Reads watches from stdin and runs them side by side.
async fn interactive<R: Runtime>(shell: &Shell<R>) -> Outcome<u8> {
    let client = shell.client()?;
    let (ask, _) = broadcast::channel(16);
    let mut lines = lines_of_stdin(&shell.runtime);
    while let Some(line) = lines.recv().await {
        let words: Vec<OsString> = words(&line).into_iter().map(OsString::from_vec).collect();
        match words.first().map(|word| word.as_bytes()) {
            // NB: it counts the watches there are; one that is still being made may miss it.
            Some(b"progress") => drop(ask.send(())),
            Some(b"watch") => {
                let read = definition().args_override_self(true).try_get_matches_from(&words);
                let read = read.map_err(|error| error.kind().to_string());
                let wanted = read.and_then(|given| wanted(&given, &words, &BTreeMap::new()));
                match wanted {
                    Ok(wanted) => start(shell, &client, wanted, ask.subscribe()),
                    Err(error) => {
                        let line = String::from_utf8_lossy(&line);
                        eprintln!("Invalid command {} ({error})", line.trim_end());
                    }
                }
            }
            _ => {
                let line = String::from_utf8_lossy(&line);
                eprintln!("Invalid command {} (only support watch and progress)", line.trim_end());
            }
        }
    }
    Err(Failure::new(exit::INVALID_INPUT, "error reading watch request line: EOF"))
}

fn start<R: Runtime>(
    shell: &Shell<R>,
    client: &Client<R>,
    wanted: Wanted,
    progress: broadcast::Receiver<()>,
) {
    let (client, style) = (client.clone(), shell.style);
    let worker = shell.runtime.worker("exec");
    shell.runtime.spawn(Lane::Serve, "watch", async move {
        if let Err(failure) = watch(&client, wanted, &style, progress, &worker).await {
            eprintln!("Error: {}", failure.text);
            std::process::exit(failure.code.into());
        }
    });
}

/// Reads whole lines on a thread of their own; the channel closes at the end of the input.
fn lines_of_stdin<R: Runtime>(runtime: &R) -> mpsc::Receiver<Vec<u8>> {
    let (tell, lines) = mpsc::channel(16);
    runtime.worker("stdin").run(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match stdin.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {}
                _ => return,
            }
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Prints a watch until the server ends it.
async fn watch<R: Runtime>(
    client: &Client<R>,
    wanted: Wanted,
    style: &Style,
    mut progress: broadcast::Receiver<()>,
    worker: &Worker,
) -> Outcome {
    let mut watcher = client.watch(wanted.spec);
    loop {
        let answer = tokio::select! {
            biased;
            Ok(()) = progress.recv() => {
                watcher.request_progress().await;
                continue;
            }
            answer = watcher.next() => answer,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("watch was canceled ({error})");
                return Ok(());
            }
        };
        if answer.created && !answer.canceled {
            continue;
        }
        if answer.canceled {
            eprintln!("watch was canceled ({})", why_canceled(&answer));
        } else if let Some(header) = &answer.header
            && answer.events.is_empty()
            && answer.compact_revision == 0
        {
            print(format!("progress notify: {}\n", header.revision).as_bytes())?;
        }
        print(&render(&answer, style)?)?;
        execute(&wanted.exec, &answer, worker).await?;
        if answer.canceled {
            return Ok(());
        }
    }
}

fn why_canceled(answer: &WatchResponse) -> String {
    if answer.compact_revision != 0 {
        return "etcdserver: mvcc: required revision has been compacted".to_owned();
    }
    match answer.cancel_reason.as_str() {
        "" => "etcdserver: mvcc: required revision is a future revision".to_owned(),
        reason if reason.starts_with("etcdserver: ") => reason.to_owned(),
        reason => format!("rpc error: code = FailedPrecondition desc = {reason}"),
    }
}

/// Runs the command once for each event, one after the other.
async fn execute(exec: &[OsString], answer: &WatchResponse, worker: &Worker) -> Outcome {
    let [program, args @ ..] = exec else { return Ok(()) };
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    for event in &answer.events {
        let kv = event.kv.clone().unwrap_or_default();
        let mut child = std::process::Command::new(program);
        child
            .args(args)
            // NB: the quotes belong to the values.
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quote(kind(event).as_bytes()))
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value))
            .stdin(Stdio::null());
        let (tell, ended) = oneshot::channel();
        // On a thread of its own, so that the connection is looked after meanwhile.
        worker.run(move || drop(tell.send(child.status())));
        let why = match ended.await {
            Ok(Ok(status)) if status.success() => continue,
            Ok(Ok(status)) => match status.code() {
                Some(code) => format!("exit status {code}"),
                None => status.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "not run".to_owned(),
        };
        let words: Vec<String> = exec.iter().map(|word| quote(word.as_bytes())).collect();
        let text = format!("command [{}] error ({why})", words.join(" "));
        eprintln!("{text}");
        std::process::exit(exit::ERROR.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, variables: &[(&str, &str)]) -> Result<(Vec<u8>, Vec<u8>, usize), String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let given = definition().try_get_matches_from(&words).expect("it parses");
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        wanted(&given, &words, &variables.iter().map(pair).collect())
            .map(|it| (it.spec.key.to_vec(), it.spec.range_end.to_vec(), it.exec.len()))
    }

    #[test]
    fn key_range_and_command_come_from_where_they_may() {
        let end = |text: &str| text.as_bytes().to_vec();
        assert_eq!(read("watch a b", &[]), Ok((end("a"), end("b"), 0)));
        assert_eq!(read("watch a --prefix -- echo x", &[]), Ok((end("a"), end("b"), 2)));
        assert_eq!(
            read("watch -- echo", &[(KEY, "k"), (RANGE_END, "z")]),
            Ok((end("k"), end("z"), 1))
        );
        let cases: [(&str, &[(&str, &str)], &str); 5] = [
            ("watch", &[], "bad number of arguments"),
            ("watch a --", &[], "bad number of arguments (found separator --, but no commands)"),
            (
                "watch a",
                &[(KEY, "k")],
                "bad number of arguments (found conflicting environment key)",
            ),
            (
                "watch a",
                &[(RANGE_END, "z")],
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\"z\"",
            ),
            ("watch a b --prefix", &[], "`range_end` and `--prefix` are mutually exclusive"),
        ];
        for (line, variables, text) in cases {
            assert_eq!(read(line, variables), Err(text.to_owned()), "{line}");
        }
    }
}
