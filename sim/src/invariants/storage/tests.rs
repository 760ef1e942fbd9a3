//! A small member to plant wrong things in: founded, with keys, a lease, a learner and a compaction in its
//! store, and some more entries in its log.

use std::sync::Arc;

use bytes::Bytes;
use madsim::runtime::Runtime;
use mainstay::cluster::{Change, Member};
use mainstay::command::{Command, DeleteRange, KeyRange, Op, Put, RequestId};
use mainstay::machine::{self, Machine, MachineOptions, bootstrap_entries};
use mainstay::raft::{Entry, Payload};
use mainstay::server::bootstrap::{self, Founding, Places};
use mainstay::storage::log::{HardState, Log, LogBatch, LogOptions, LogRecord};
use mainstay::storage::{Storage, StorageOptions, WriteTxn, generations};
use mainstay::transport::codec;
use mainstay::types::{LeaseId, NodeId, Term};

use super::picture::{Opened, Picture};
use super::{broken, check};
use crate::disk::HostDisk;
use crate::trace::Trace;

const LOG: LogOptions = LogOptions { segment_bytes: 16_384 };

/// What happens to the member: how much of it the store has, and how much is known to be committed.
struct Story {
    founding: Founding,
    entries: Vec<Entry>,
    stored: usize,
    committed: usize,
}

impl Story {
    fn new() -> Self {
        let names = (1..=3).map(|n| (format!("m{n}"), vec![format!("http://m{n}:2380")]));
        let names: Vec<_> = names.collect();
        let (cluster_id, conf, founders) =
            bootstrap_entries(&names, "small").expect("the members differ");
        let id = *conf.voters.first().expect("there are founders");
        let mut index = founders.last().expect("there are founders").index;
        let mut entries = Vec::new();
        let mut add = |payload| {
            index = index.next();
            entries.push(Entry { term: Term(2), index, payload });
        };
        add(Payload::Empty);
        let newcomer = Member::new(NodeId(99), vec!["http://m9:2380".to_owned()]);
        let member = Member { learner: true, ..newcomer };
        let change = Change::Add { member, learners_max: None };
        add(Payload::ConfChange(machine::conf_change(&change, Some(RequestId(1_000)))));
        let mut number = 0;
        let mut command = |op| {
            number += 1;
            let id = RequestId(number);
            let command = Command { id, user: String::new(), auth_revision: 0, op };
            add(Payload::Command(command.encode()));
        };
        command(Op::LeaseGrant { id: LeaseId(7), ttl: 60 });
        let put = |n: u32, lease| {
            let (key, value) = (format!("k{:02}", n % 8), format!("value-{n}"));
            let (key, value) = (Bytes::from(key), Bytes::from(value));
            Op::Put(Put { key, value, lease: LeaseId(lease), ..Put::default() })
        };
        (0..16).for_each(|n| command(put(n, if n % 8 == 5 { 7 } else { 0 })));
        let range = KeyRange::from_wire(Bytes::from("k03"), Bytes::new());
        command(Op::DeleteRange(DeleteRange { range, prev_kv: false }));
        command(Op::Compact { revision: 12, physical: false });
        (16..18).for_each(|n| command(put(n, 0)));
        (18..22).for_each(|n| command(put(n, 0)));
        let stored = entries.len() - 4;
        let committed = entries.len() - 1;
        let founding = Founding { id, cluster_id, entries: founders };
        Self { founding, entries, stored, committed }
    }

    /// Lives through it on a disk, and stops.
    fn happen(&self, host: &Arc<HostDisk>) {
        let (disk, places) = (host.boot(), places(host));
        let lock = bootstrap::take(&disk, &places).expect("nobody has it");
        bootstrap::found(&disk, &places, &self.founding, LOG, || 0x5eed, |_| ()).expect("founded");
        let (mut log, _) = Log::open(disk.clone(), &places.log, LOG).expect("opened");
        let records: Vec<LogRecord> = self.entries.iter().map(record).collect();
        let commit = self.entries[self.committed - 1].index;
        let hard_state = Some(HardState { term: Term(2), vote: None, commit });
        let batch = LogBatch { hard_state, truncate_from: None, entries: &records };
        log.append(batch).expect("a sound log takes entries");
        log.sync().expect("synced");
        log.close().expect("closed");
        let storage = stored(host);
        let options = MachineOptions { cluster_id: self.founding.cluster_id };
        let mut machine = Machine::open(storage.clone(), options).expect("opened");
        machine.apply(&self.entries[..self.stored]);
        storage.begin_flush().expect("there is something to write").run().expect("written");
        drop(machine);
        storage.close().wait();
        drop(lock);
    }
}

fn places(host: &Arc<HostDisk>) -> Places {
    Places::new(&host.root().join("data"), None)
}

fn record(entry: &Entry) -> LogRecord {
    let (kind, data) = codec::encode_payload(&entry.payload);
    let kind = u8::try_from(kind).expect("there are three kinds of entries");
    LogRecord { index: entry.index, term: entry.term, kind, data }
}

/// Opens the store that is in force.
fn stored(host: &Arc<HostDisk>) -> Storage {
    let dir = generations::current(&host.boot(), &places(host).stores).expect("there is one");
    Storage::open(&dir, StorageOptions::default()).expect("opened")
}

/// Makes the member, and shows its disk.
pub(super) fn member<T>(show: impl FnOnce(&Arc<HostDisk>) -> T) -> T {
    let dir = crate::temporary_dir();
    let root = dir.path().join("m1");
    std::fs::create_dir(&root).expect("the directory is new");
    let runtime = Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async {
        let host = HostDisk::new(root, Trace::new());
        Story::new().happen(&host);
        let shown = show(&host);
        host.forget();
        shown
    })
}

pub(super) fn opened(host: &Arc<HostDisk>) -> Opened {
    Opened::open("m1", host).expect("it reads").expect("there is a member")
}

/// Returns what is on the member's disk.
pub(super) fn picture() -> Picture {
    member(|host| {
        let opened = opened(host);
        let picture = opened.picture.clone();
        opened.close();
        picture
    })
}

/// Returns the checks that fire on what is on the disk, changed.
pub(super) fn fires(change: impl FnOnce(&mut Picture)) -> Vec<String> {
    let mut picture = picture();
    change(&mut picture);
    broken(&picture).into_iter().map(|violation| violation.checker).collect()
}

/// Returns the checks that fire on a disk whose store was changed behind the member's back.
pub(super) fn fires_on(change: impl FnOnce(&mut WriteTxn<'_>)) -> Vec<String> {
    member(|host| {
        let storage = stored(host);
        storage.maintenance(change).expect("committed");
        storage.close().wait();
        names(host)
    })
}

/// Returns the checks that fire on a disk where a bit was flipped in the last place of such bytes, in a file
/// of the store or of the log.
pub(super) fn flipped(part: &str, bytes: &[u8]) -> Vec<String> {
    member(|host| {
        let places = places(host);
        let files = if part == "log" { &places.log } else { &places.stores };
        for path in walk(files) {
            let held = std::fs::read(&path).expect("it reads");
            let at = held.windows(bytes.len()).rposition(|window| window == bytes);
            if let Some(at) = at {
                host.flip(&path, at as u64, 2).expect("flipped");
                return names(host);
            }
        }
        panic!("no file of the {part} holds these bytes");
    })
}

fn names(host: &Arc<HostDisk>) -> Vec<String> {
    check(&[("m1", host)]).into_iter().map(|violation| violation.checker).collect()
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the directory is there").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(walk(&path)),
            path => found.push(path),
        }
    }
    found
}

#[test]
fn a_sound_disk_holds_and_one_without_a_member_is_passed_over() {
    assert_eq!(fires(|_| ()), Vec::<String>::new());
    let sound = fires_on(|_| ());
    assert_eq!(sound, Vec::<String>::new());
    let wiped = member(|host| {
        host.wipe();
        names(host)
    });
    assert_eq!(wiped, Vec::<String>::new());
}

#[test]
fn a_disk_that_does_not_read_is_seen() {
    assert_eq!(flipped("log", b"value-3"), ["disk-read"]);
    let nothing_in_force = member(|host| {
        std::fs::remove_file(places(host).stores.join("CURRENT")).expect("removed");
        names(host)
    });
    assert_eq!(nothing_in_force, ["disk-read"]);
}
