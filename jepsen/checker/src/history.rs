//! The history: what clients did and saw, one JSON object a line.
//!
//! A *record* is one thing that one process (a logical client) did or learnt at one moment. An operation
//! is an `invoke` and, later, one of
//! * `ok`: it happened, and this is the reply;
//! * `fail`: it surely did not happen (the server said so before anything was proposed or applied);
//! * `info`: nobody knows. It may have happened at any time since the invocation, may happen later, or
//!   never. An invocation without an end is the same.
//!
//! Watches speak by themselves, so each of their messages is a record of its own (`watch`).
//!
//! Rules for whoever records:
//! * The order of the records is real-time order: one is *before* another if its line is. An `invoke` is
//!   written before the request leaves, an end after the reply arrived. [`merge`] brings several
//!   recorders' lists together without inventing an order between equal times.
//! * A process has at most one open operation. After `info` it may go on.
//! * Numbers of streams and watches are the recorder's own, never reused in one history: a server's
//!   watch ids begin at 0 on every stream. The same holds for lease ids that the recorder chooses.
//! * A read whose reply got lost is `info` or `fail`, as one likes: it has no effect.

use crate::blob::Blob;
use crate::op::{Event, Header, Operation, Reply};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Write};

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Monotonic time in nanoseconds, of one clock for the whole history.
    pub time: u64,
    /// The logical client.
    pub process: u64,
    /// The node it was connected to.
    pub node: u64,
    /// What happened.
    pub what: What,
}

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A request leaves.
    Invoke(Operation),
    /// Its reply arrived.
    Ok(Reply),
    /// It surely did not happen; the error's text.
    Fail(String),
    /// Its outcome is unknown; the error's text.
    Info(String),
    /// Something on a watch stream.
    Watch(WatchRecord),
}

/// What happens on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WatchRecord {
    /// The client asks for a watch.
    Create {
        /// The recorder's number of the stream.
        stream: u64,
        /// The recorder's number of the watch.
        watch: u64,
        /// What was asked.
        request: WatchRequest,
    },
    /// The server says that the watch exists.
    Created {
        /// The watch.
        watch: u64,
        /// Its revision is the store's at that moment.
        header: Header,
    },
    /// A response with events.
    Events {
        /// The watch.
        watch: u64,
        /// The header of the response.
        header: Header,
        /// Whether more of the same response follows.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fragment: bool,
        /// The events, in the order they came.
        events: Vec<Event>,
    },
    /// A progress notice, for one watch or (`watch` absent) for all of the stream.
    Progress {
        /// The stream.
        stream: u64,
        /// The watch, unless the notice was for the whole stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        watch: Option<u64>,
        /// Its revision is the bookmark.
        header: Header,
    },
    /// The client asks for the end of the watch.
    CancelRequested {
        /// The watch.
        watch: u64,
    },
    /// The server ended the watch, or refused it.
    Canceled {
        /// The watch.
        watch: u64,
        /// The header of the response.
        header: Header,
        /// The compact revision, if compaction was the reason.
        #[serde(default)]
        compact_revision: i64,
        /// The reason given.
        #[serde(default)]
        reason: String,
    },
    /// The stream broke or was closed; nothing more arrives on it.
    Closed {
        /// The stream.
        stream: u64,
    },
}

/// A request for a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchRequest {
    /// The first key.
    pub key: Blob,
    /// The end of the range, as in `Range`.
    pub range_end: Blob,
    /// The first revision wanted; 0 is «from now on».
    pub start_revision: i64,
    /// Whether events carry the key before them.
    pub prev_kv: bool,
    /// Whether puts are left out.
    pub no_put: bool,
    /// Whether deletes are left out.
    pub no_delete: bool,
    /// Whether progress notices are wanted from time to time.
    pub progress_notify: bool,
    /// Whether a response may be cut into fragments.
    pub fragment: bool,
}

/// Why a history could not be read or written.
#[derive(Debug)]
pub enum HistoryError {
    /// Line `line` (counted from 1) is not a record.
    Line {
        /// The line's number.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// Reading or writing failed at line `line`.
    Io {
        /// The line's number.
        line: usize,
        /// The failure.
        error: std::io::Error,
    },
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryError::Line { line, error } => {
                write!(f, "line {line} of the history is not a record: {error}")
            }
            HistoryError::Io { line, error } => {
                write!(f, "line {line} of the history could not be read or written: {error}")
            }
        }
    }
}

impl std::error::Error for HistoryError {}

/// Reads a history; empty lines are skipped.
pub fn read(mut input: impl BufRead) -> Result<Vec<Record>, HistoryError> {
    let mut records = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        match input.read_until(b'\n', &mut text) {
            Ok(0) => break,
            Ok(_) if text.trim_ascii().is_empty() => {}
            Ok(_) => records.push(
                serde_json::from_slice(text.trim_ascii())
                    .map_err(|error| HistoryError::Line { line, error })?,
            ),
            Err(error) => return Err(HistoryError::Io { line, error }),
        }
    }
    Ok(records)
}

/// Writes a history, one line a record. Give it a buffered writer.
pub fn write<'a>(
    mut output: impl Write,
    records: impl IntoIterator<Item = &'a Record>,
) -> Result<(), HistoryError> {
    let mut text = Vec::new();
    for (index, record) in records.into_iter().enumerate() {
        let line = index + 1;
        text.clear();
        serde_json::to_writer(&mut text, record)
            .map_err(|error| HistoryError::Line { line, error })?;
        text.push(b'\n');
        output.write_all(&text).map_err(|error| HistoryError::Io { line, error })?;
    }
    Ok(())
}

/// Merges the lists of several recorders that share one clock. Of equal times invocations come first,
/// which makes such operations concurrent: an order that nobody saw is not invented. Each recorder's own
/// order is kept where its times grow.
pub fn merge(lists: Vec<Vec<Record>>) -> Vec<Record> {
    let mut all = Vec::new();
    for list in lists {
        let mut ended = BTreeMap::new();
        for record in list {
            let begins =
                matches!(record.what, What::Invoke(_) | What::Watch(WatchRecord::Create { .. }));
            // A process's own next request does follow its last end, at whatever time.
            let follows = ended.get(&record.process) == Some(&record.time);
            if !begins {
                ended.insert(record.process, record.time);
            }
            all.push((record.time, !begins || follows, record));
        }
    }
    all.sort_by_key(|(time, ends, _)| (*time, *ends));
    all.into_iter().map(|(_, _, record)| record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Put;

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let good =
            r#"{"time":1,"process":0,"node":1,"what":{"invoke":{"put":{"key":"a","value":"1"}}}}"#;
        let error = read(format!("{good}\n\n{good}\n{{\"time\":2}}\n").as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("line 4 of the history"), "{error}");
        let typo = good.replace("value", "valeu");
        let error = read(typo.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("unknown field `valeu`"), "{error}");
        assert_eq!(read(good.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn merging_makes_equal_times_concurrent() {
        let record = |process, time, what| Record { time, process, node: 1, what };
        let put = || What::Invoke(Operation::Put(Put::default()));
        let info = || What::Info(String::new());
        let merged = merge(vec![
            vec![record(0, 1, put()), record(0, 5, info())],
            vec![record(1, 5, put()), record(1, 6, info())],
        ]);
        let order: Vec<_> = merged.iter().map(|r| (r.process, r.time)).collect();
        assert_eq!(order, [(0, 1), (1, 5), (0, 5), (1, 6)]);
    }
}
