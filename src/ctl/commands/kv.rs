//! `get`, `put`, `del`, `compaction`. What makes a request of matches is shared with `txn`.

use std::io::Read;
use std::time::Duration;

use clap::{ArgMatches, Command};

use super::{decimal, hex_lease, range};
use crate::ctl::cli::{Given, arguments, command, integer, switch, text};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::show::Format;
use crate::ctl::show::kv::ValuesOnly;
use crate::ctl::text::quote;
use crate::ctl::{Shell, print};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use crate::runtime::Runtime;

pub(super) fn get() -> Command {
    command("get", "Gets the key or a range of keys")
        .arg(arguments("key [range_end]"))
        .arg(text("consistency", "Linearizable(l) or Serializable(s)").default_value("l"))
        .arg(text("order", "Order of results; ASCEND or DESCEND (ASCEND by default)"))
        .arg(text("sort-by", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"))
        .arg(integer("limit", "Maximum number of results").default_value("0"))
        .arg(switch("prefix", "Get keys with matching prefix"))
        .arg(switch("from-key", "Get keys that are not below the given key, byte by byte"))
        .arg(integer("rev", "Specify the kv revision").default_value("0"))
        .arg(switch("keys-only", "Get only the keys"))
        .arg(switch("count-only", "Get only the count"))
        .arg(switch("print-value-only", "Only write values in the \"simple\" output format"))
        .arg(integer("min-create-rev", "Minimum create revision").default_value("0"))
        .arg(integer("max-create-rev", "Maximum create revision").default_value("0"))
        .arg(integer("min-mod-rev", "Minimum modification revision").default_value("0"))
        .arg(integer("max-mod-rev", "Maximum modification revision").default_value("0"))
        .arg(switch("stream", "Read in pieces, by the streaming call"))
}

pub(super) fn put() -> Command {
    command("put", "Puts the given key into the store")
        .arg(arguments("key [value, or else stdin]"))
        .arg(text("lease", "lease ID (in hexadecimal) to attach to the key").default_value("0"))
        .arg(switch("prev-kv", "return the previous key-value pair before modification"))
        .arg(switch("ignore-value", "updates the key using its current value"))
        .arg(switch("ignore-lease", "updates the key using its current lease"))
}

pub(super) fn del() -> Command {
    command("del", "Removes the specified key or range of keys [key, range_end)")
        .arg(arguments("key [range_end]"))
        .arg(switch("prefix", "delete keys with matching prefix"))
        .arg(switch("from-key", "delete keys that are not below the given key, byte by byte"))
        .arg(switch("prev-kv", "return deleted key-value pairs"))
        .arg(switch("range", "delete a range without the warning and its two seconds"))
}

pub(super) fn compaction() -> Command {
    command("compaction", "Compacts the event history")
        .arg(arguments("revision"))
        .arg(switch("physical", "wait until the old revisions are gone from the store"))
}

const EITHER: &str = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const ONE_ARGUMENT: &str =
    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

/// Makes a read of a command's matches.
pub(super) fn range_request(given: &ArgMatches) -> Outcome<RangeRequest> {
    let mut args = given.arguments().into_iter();
    let Some(key) = args.next() else {
        return Err(Failure::bad_args(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    };
    let (prefix, from_key) = (given.flag("prefix"), given.flag("from-key"));
    if prefix && from_key {
        return Err(Failure::bad_args(EITHER));
    }
    if given.flag("keys-only") && given.flag("count-only") {
        return Err(Failure::bad_args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = match given.string("consistency") {
        "l" => false,
        "s" => true,
        other => {
            let quoted = quote(other.as_bytes());
            return Err(bad_feature(format!("unknown consistency flag {quoted}")));
        }
    };
    let end = args.next();
    if end.is_some() && (prefix || from_key) {
        return Err(Failure::bad_args(ONE_ARGUMENT));
    }
    let order = match given.string("order").to_ascii_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(bad_feature(format!("bad sort order {}", given.string("order")))),
    };
    let target = match given.string("sort-by").to_ascii_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(bad_feature(format!("bad sort target {}", given.string("sort-by")))),
    };
    // Keys come in this order anyway.
    let is_natural = target == SortTarget::Key && order == SortOrder::Ascend;
    let order = if is_natural { SortOrder::None } else { order };
    for (what, least, most) in [
        ("CreateRev", "min-create-rev", "max-create-rev"),
        ("ModRev", "min-mod-rev", "max-mod-rev"),
    ] {
        let (least, most) = (given.number(least), given.number(most));
        if least > 0 && most > 0 && least > most {
            return Err(bad_feature(format!("getMin{what}(={least}) > getMax{what}(={most})")));
        }
    }
    let (key, range_end) = range(key, end, prefix, from_key);
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: given.number("limit"),
        revision: given.number("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: given.flag("keys-only"),
        count_only: given.flag("count-only"),
        min_mod_revision: given.number("min-mod-rev"),
        max_mod_revision: given.number("max-mod-rev"),
        min_create_revision: given.number("min-create-rev"),
        max_create_revision: given.number("max-create-rev"),
    })
}

fn bad_feature(text: String) -> Failure {
    Failure::new(exit::BAD_FEATURE, text)
}

/// Makes a write of a command's matches; a missing value is read from `stdin` to its end.
pub(super) fn put_request(given: &ArgMatches, stdin: &mut dyn Read) -> Outcome<PutRequest> {
    const NEEDS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let mut args = given.arguments().into_iter();
    let Some(key) = args.next() else { return Err(Failure::bad_args(NEEDS)) };
    let value = args.next();
    let ignore_value = given.flag("ignore-value");
    if ignore_value && value.is_some() {
        return Err(Failure::bad_args(
            "put command needs only 1 argument when 'ignore-value' is set",
        ));
    }
    let value = match value {
        _ if ignore_value => Vec::new(),
        Some(value) => value,
        None => {
            let mut value = Vec::new();
            stdin.read_to_end(&mut value).map_err(|_| Failure::bad_args(NEEDS))?;
            if value.is_empty() {
                return Err(Failure::bad_args(NEEDS));
            }
            value
        }
    };
    let lease = hex_lease(given.string("lease").as_bytes()).map_err(|error| {
        Failure::bad_args(format!("bad lease ID ({error}), expecting ID in Hex"))
    })?;
    Ok(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: given.flag("prev-kv"),
        ignore_value,
        ignore_lease: given.flag("ignore-lease"),
    })
}

/// Makes a deletion of a command's matches.
pub(super) fn delete_request(given: &ArgMatches) -> Outcome<DeleteRangeRequest> {
    let mut args = given.arguments();
    if args.is_empty() || args.len() > 2 {
        return Err(Failure::bad_args(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    }
    let (prefix, from_key) = (given.flag("prefix"), given.flag("from-key"));
    if prefix && from_key {
        return Err(Failure::bad_args(EITHER));
    }
    let end = (args.len() == 2).then(|| args.remove(1));
    if end.is_some() && (prefix || from_key) {
        return Err(Failure::bad_args(ONE_ARGUMENT));
    }
    let (key, range_end) = range(args.remove(0), end, prefix, from_key);
    Ok(DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: given.flag("prev-kv"),
    })
}

pub(super) async fn run_get<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let request = range_request(given)?;
    let client = shell.client()?;
    let answer = if given.flag("stream") {
        client.range_stream(request, shell.limit()).await?
    } else {
        client.range(request, shell.limit()).await?
    };
    // Both refusals come after the request, as in etcdctl.
    if given.flag("count-only") && shell.style.format != Format::Fields {
        return Err(Failure::bad_args("--count-only is only for `--write-out=fields`"));
    }
    if given.flag("print-value-only") {
        if !shell.is_simple() {
            return Err(Failure::bad_args("print-value-only is only for `--write-out=simple`"));
        }
        return shell.show(&ValuesOnly(answer));
    }
    shell.show(&answer)
}

pub(super) async fn run_put<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let request = put_request(given, &mut std::io::stdin().lock())?;
    let answer = shell.client()?.put(request, shell.limit()).await?;
    shell.show(&answer)
}

/// How long a person has to interrupt the deletion of a range.
const RANGE_PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run_del<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let request = delete_request(given)?;
    if let [from, to] = given.arguments().as_slice()
        && !given.flag("range")
    {
        eprintln!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within \
             next 2 seconds to cancel. You can provide `--range` flag to avoid the warning.",
            quote(from),
            quote(to)
        );
        shell.runtime.sleep(RANGE_PAUSE).await;
    }
    let answer = shell.client()?.delete_range(request, shell.limit()).await?;
    shell.show(&answer)
}

pub(super) async fn run_compaction<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let args = given.arguments();
    let [revision] = args.as_slice() else {
        return Err(Failure::bad_args("compaction command needs 1 argument"));
    };
    let revision = decimal(revision).map_err(|error| Failure::new(exit::ERROR, error))?;
    let request = CompactionRequest { revision, physical: given.flag("physical") };
    shell.client()?.compact(request, shell.limit()).await?;
    print(format!("compacted revision {revision}\n").as_bytes())
}
