//! Small histories told step by step, for tests: each step is right, and a test then spoils one.

use crate::blob::Blob;
use crate::history::{Record, WatchRecord, WatchRequest, What};
use crate::model::Etcd;
use crate::op::*;
use crate::verdict::{GroundTruth, Options, Verdict, check, check_with_truth};

/// A history being told.
pub(crate) struct Story {
    pub records: Vec<Record>,
    pub store: Etcd,
    pub options: Options,
    time: u64,
}

/// A second, in the history's nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

impl Story {
    pub fn new() -> Self {
        let options = Options::default();
        Story { records: Vec::new(), store: Etcd::default(), options, time: 1 }
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: u64) {
        self.time += time;
    }

    /// Adds a record and returns its number.
    pub fn add(&mut self, process: u64, what: What) -> usize {
        self.time += 1000;
        self.records.push(Record { time: self.time, process, node: 1, what });
        self.records.len() - 1
    }

    /// Invokes, applies and answers; returns the number of the answer.
    pub fn run(&mut self, process: u64, operation: Operation) -> usize {
        let reply = self.store.step(&operation).expect("a story is right until it is spoilt");
        self.add(process, What::Invoke(operation));
        self.add(process, What::Ok(reply))
    }

    /// Invokes an operation that never answers, applied now or never.
    pub fn lose(&mut self, process: u64, operation: Operation, applied: bool) {
        if applied {
            self.store.step(&operation).expect("a story is right until it is spoilt");
        }
        self.add(process, What::Invoke(operation));
        self.add(process, What::Info("lost".into()));
    }

    pub fn put(&mut self, process: u64, key: &str, value: &str) -> usize {
        self.run(process, put(key, value))
    }

    pub fn get(&mut self, process: u64, key: &str) -> usize {
        self.run(process, get(key))
    }

    /// Changes an answer.
    pub fn edit(&mut self, record: usize, edit: impl FnOnce(&mut Reply)) {
        match &mut self.records[record].what {
            What::Ok(reply) => edit(reply),
            other => panic!("record {record} is {other:?}"),
        }
    }

    /// Changes the answer to a range.
    pub fn edit_range(&mut self, record: usize, edit: impl FnOnce(&mut RangeReply)) {
        self.edit(record, |reply| match reply {
            Reply::Range(reply) => edit(reply),
            other => panic!("{other:?} is no range"),
        });
    }

    /// Opens a watch on its own stream; returns the number of «created».
    pub fn watch(&mut self, watch: u64, request: WatchRequest) -> usize {
        self.add(99, What::Watch(WatchRecord::Create { stream: watch, watch, request }));
        let header = self.header(self.store.revision());
        self.add(99, What::Watch(WatchRecord::Created { watch, header }))
    }

    pub fn header(&self, revision: i64) -> Header {
        Header { revision, member: 1, term: 1 }
    }

    /// All events of some revisions, with prev_kv.
    pub fn events_of(&self, revisions: std::ops::RangeInclusive<i64>) -> Vec<Event> {
        let timeline = self.store.timeline();
        let changes = revisions.flat_map(|at| timeline.at(at).iter().map(move |c| (at, c)));
        changes
            .map(|(at, change)| Event {
                kind: change.kind,
                kv: change.kv.clone(),
                prev_kv: timeline.get(&change.kv.key, at - 1).cloned(),
            })
            .collect()
    }

    /// Delivers events in one response.
    pub fn deliver(&mut self, watch: u64, events: Vec<Event>) -> usize {
        let header = self.header(self.store.revision());
        self.add(99, What::Watch(WatchRecord::Events { watch, header, fragment: false, events }))
    }

    pub fn progress(&mut self, watch: u64, revision: i64) -> usize {
        let header = self.header(revision);
        let notice = WatchRecord::Progress { stream: watch, watch: Some(watch), header };
        self.add(99, What::Watch(notice))
    }

    pub fn cancel(&mut self, watch: u64, compact_revision: i64) -> usize {
        let (header, reason) = (self.header(0), String::new());
        self.add(99, What::Watch(WatchRecord::Canceled { watch, header, compact_revision, reason }))
    }

    /// What really happened.
    pub fn truth(&self) -> GroundTruth {
        let timeline = self.store.timeline();
        let revisions = (2..=timeline.revision()).map(|at| (at, timeline.at(at).to_vec()));
        GroundTruth { revisions: revisions.collect() }
    }

    pub fn verdict(&self) -> Verdict {
        check(&self.records, &self.options)
    }

    /// The story is accepted, with and without ground truth.
    #[track_caller]
    pub fn assert_right(&self) {
        let verdict = self.verdict();
        assert!(verdict.is_ok(), "{verdict}");
        let verdict = check_with_truth(&self.records, &self.options, Some(&self.truth()));
        assert!(verdict.is_ok(), "with ground truth: {verdict}");
    }

    /// The named checker rejects the story.
    #[track_caller]
    pub fn assert_found(&self, checker: &str) {
        let verdict = self.verdict();
        assert!(verdict.found(checker), "`{checker}` found nothing\n{verdict}");
    }

    /// The named checker rejects the story, and no other does.
    #[track_caller]
    pub fn assert_only(&self, checker: &str) {
        let verdict = self.verdict();
        let all = verdict.violations.iter().all(|violation| violation.checker == checker);
        assert!(all && verdict.found(checker), "`{checker}` alone was expected\n{verdict}");
    }
}

pub(crate) fn put(key: &str, value: &str) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

pub(crate) fn leased(key: &str, value: &str, lease: i64) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), lease, ..Put::default() })
}

pub(crate) fn get(key: &str) -> Operation {
    Operation::Range(Range { key: key.into(), ..Range::default() })
}

pub(crate) fn everything() -> Range {
    Range { key: Blob::new(OPEN_END), range_end: Blob::new(OPEN_END), ..Range::default() }
}

pub(crate) fn delete(key: &str, range_end: &str) -> Operation {
    let (key, range_end) = (key.into(), range_end.into());
    Operation::DeleteRange(DeleteRange { key, range_end, prev_kv: true })
}

/// If the key has this value, then `success`, else `failure`.
pub(crate) fn when(
    key: &str,
    value: &str,
    success: Vec<Operation>,
    failure: Vec<Operation>,
) -> Operation {
    let compare = Compare {
        key: key.into(),
        range_end: Blob::default(),
        result: CompareResult::Equal,
        target: Target::Value(value.into()),
    };
    Operation::Txn(Txn { compare: vec![compare], success, failure })
}

pub(crate) fn both(success: Vec<Operation>) -> Operation {
    Operation::Txn(Txn { success, ..Txn::default() })
}

pub(crate) fn grant(id: i64, ttl: i64) -> Operation {
    Operation::LeaseGrant(LeaseGrant { id, ttl })
}

pub(crate) fn keep_alive(id: i64) -> Operation {
    Operation::LeaseKeepAlive(LeaseKeepAlive { id })
}

pub(crate) fn revoke(id: i64) -> Operation {
    Operation::LeaseRevoke(LeaseRevoke { id })
}

pub(crate) fn compact(revision: i64) -> Operation {
    Operation::Compact(Compact { revision, physical: false })
}

pub(crate) fn watch_all() -> WatchRequest {
    WatchRequest {
        key: Blob::new(OPEN_END),
        range_end: Blob::new(OPEN_END),
        start_revision: 1,
        prev_kv: true,
        ..WatchRequest::default()
    }
}
