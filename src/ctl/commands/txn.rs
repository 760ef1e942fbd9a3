//! `txn`: a transaction from stdin.
//!
//! ```text
//!   mod("key1") > "0"              comparisons
//!                                  an empty line
//!   put key1 "overwritten"         what is done if all of them hold
//!                                  an empty line
//!   get key1                       what is done if not
//!                                  an empty line
//! ```

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;

use clap::{ArgMatches, Command};

use super::{decimal, kv, lossy};
use crate::ctl::cli::{Given, arguments, command};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::lines::{quoted, words};
use crate::ctl::text::quote;
use crate::ctl::{Shell, cli, print};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{Compare, RequestOp, TxnRequest};
use crate::runtime::Runtime;

pub(super) fn definition() -> Command {
    command("txn", "Processes all requests on stdin in one transaction")
        .arg(arguments(""))
        .arg(cli::switch("interactive", "Prompt for each part").short('i'))
}

pub(super) async fn run<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    if !given.arguments().is_empty() {
        return Err(Failure::bad_args("txn command does not accept argument"));
    }
    let client = shell.client()?;
    let request = read(&mut std::io::stdin().lock(), given.flag("interactive"))?;
    let answer = client.txn(request, None).await?;
    shell.show(&answer)
}

/// Reads the three parts.
fn read(stdin: &mut dyn BufRead, interactive: bool) -> Outcome<TxnRequest> {
    let prompt = |text: &str| if interactive { print(text.as_bytes()) } else { Ok(()) };
    let mut request = TxnRequest::default();
    prompt("compares:\n")?;
    while let Some(line) = next_line(stdin)? {
        request.compare.push(compare(&line)?);
    }
    prompt("success requests (get, put, del):\n")?;
    while let Some(line) = next_line(stdin)? {
        request.success.push(op(&line, stdin)?);
    }
    prompt("failure requests (get, put, del):\n")?;
    while let Some(line) = next_line(stdin)? {
        request.failure.push(op(&line, stdin)?);
    }
    Ok(request)
}

/// Reads a line; `None` is an empty one, which ends a part. An input that ends first is an error.
fn next_line(stdin: &mut dyn BufRead) -> Outcome<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stdin.read_until(b'\n', &mut line).map_err(|error| invalid(error.to_string()))?;
    if line.pop() != Some(b'\n') {
        return Err(invalid("EOF"));
    }
    let line = line.trim_ascii().to_vec();
    Ok(Some(line).filter(|line| !line.is_empty()))
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(exit::INVALID_INPUT, text)
}

/// Reads one comparison.
fn compare(line: &[u8]) -> Outcome<Compare> {
    let shown = lossy(line);
    let malformed = || invalid(format!("malformed comparison: {shown}"));
    let open = line.iter().position(|byte| *byte == b'(').ok_or_else(malformed)?;
    let (target, rest) = (&line[..open], &line[open + 1..]);
    let (key, operator, value) = operands(rest).map_err(|(key, operator)| {
        let (target, key, operator) = (lossy(target), quote(&key), lossy(&operator));
        invalid(format!("malformed comparison: {shown}; got {target}({key}) {operator} \"\""))
    })?;
    let number =
        || decimal(&value).map_err(|_| invalid(format!("invalid txn compare request: {shown}")));
    let (target, operand) = match target {
        b"ver" | b"version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        b"c" | b"create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        b"m" | b"mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        b"val" | b"value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        // etcdctl dies of this one, with the same code.
        b"lease" => return Err(Failure::new(2, "a lease cannot be compared")),
        other => {
            let target = lossy(other);
            return Err(invalid(format!(
                "malformed comparison: {shown} (unknown target {target})"
            )));
        }
    };
    let result = match operator.as_slice() {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b"<" => CompareResult::Less,
        b">" => CompareResult::Greater,
        other => return Err(Failure::new(2, format!("unknown result op {}", quote(other)))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Vec::new().into(),
        target_union: Some(operand),
    })
}

/// Reads `"key") op "value"`; or what there is of key and operator.
fn operands(text: &[u8]) -> Result<(Vec<u8>, Vec<u8>, Vec<u8>), (Vec<u8>, Vec<u8>)> {
    let Some((key, rest)) = quoted(text) else { return Err((Vec::new(), Vec::new())) };
    let Some(rest) = rest.strip_prefix(b")") else { return Err((key, Vec::new())) };
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    let (operator, rest) = (rest[..end].to_vec(), rest[end..].trim_ascii_start());
    match quoted(rest) {
        Some((value, _)) => Ok((key, operator, value)),
        None => Err((key, operator)),
    }
}

/// Reads one request: a command's line, by the command's own definition.
fn op(line: &[u8], stdin: &mut dyn BufRead) -> Outcome<RequestOp> {
    let words = words(line);
    let shown = lossy(line);
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let definition = match words[0].as_slice() {
        b"get" => kv::get(),
        b"put" => kv::put(),
        b"del" => kv::del(),
        _ => return Err(invalid(format!("invalid txn request: {shown}"))),
    };
    let arguments: Vec<OsString> = words.iter().cloned().map(OsString::from_vec).collect();
    let given = definition
        .args_override_self(true)
        .try_get_matches_from(arguments)
        .map_err(|_| invalid(format!("invalid txn request: {shown}")))?;
    let request = match words[0].as_slice() {
        b"get" => Request::RequestRange(kv::range_request(&given)?),
        b"put" => Request::RequestPut(kv::put_request(&given, stdin)?),
        _ => Request::RequestDeleteRange(kv::delete_request(&given)?),
    };
    Ok(RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Result<TxnRequest, (u8, String)> {
        read(&mut text.as_bytes(), false).map_err(|failure| (failure.code, failure.text))
    }

    #[test]
    fn a_transaction_has_three_parts() {
        let text = "mod(\"k\") > \"3\"\nvalue(\"k\") = \"a b\"\n\nput k 'v w' --prev-kv\nget k --prefix\n\ndel k z\n\n";
        let request = outcome(text).expect("it parses");
        assert_eq!(request.compare[0].target_union, Some(TargetUnion::ModRevision(3)));
        assert_eq!(request.compare[1].target_union, Some(TargetUnion::Value("a b".into())));
        let Some(Request::RequestPut(put)) = &request.success[0].request else { panic!("a put") };
        assert_eq!((&put.value[..], put.prev_kv), (&b"v w"[..], true));
        let Some(Request::RequestRange(get)) = &request.success[1].request else { panic!("a get") };
        assert_eq!(&get.range_end[..], b"l");
        let Some(Request::RequestDeleteRange(del)) = &request.failure[0].request else {
            panic!("a deletion")
        };
        assert_eq!(&del.range_end[..], b"z");
    }

    #[test]
    fn what_is_wrong_ends_it_with_etcdctls_code() {
        let cases = [
            ("mod(\"k\") > \"0\"\n", 3, "EOF"),
            ("mod \"k\"\n", 3, "malformed comparison: mod \"k\""),
            ("x(\"k\") = \"1\"\n", 3, "malformed comparison: x(\"k\") = \"1\" (unknown target x)"),
            ("mod(\"k\") = \"one\"\n", 3, "invalid txn compare request: mod(\"k\") = \"one\""),
            ("mod(\"k\") >= \"1\"\n", 2, "unknown result op \">=\""),
            ("lease(\"k\") = \"1\"\n", 2, "a lease cannot be compared"),
            ("\nget\n", 3, "invalid txn compare request: get"),
            ("\nlist k\n", 3, "invalid txn request: list k"),
            ("\nput k v --nope\n", 3, "invalid txn request: put k v --nope"),
            ("\nget k --order=UP\n", 4, "bad sort order UP"),
        ];
        for (text, code, sentence) in cases {
            assert_eq!(outcome(text), Err((code, sentence.to_owned())), "{text}");
        }
    }
}
