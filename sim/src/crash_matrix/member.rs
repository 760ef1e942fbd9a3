//! A member as the matrix sees it: the real log, the real store, the real start; a story of entries that
//! it lives through; and what it has promised.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay::cluster::{Change, Member as ClusterMember};
use mainstay::command::{Command, DeleteRange, KeyRange, Op, Put, Range, RequestId};
use mainstay::machine::{self, Machine, MachineOptions, bootstrap_entries};
use mainstay::raft::{Entry, HardState, Payload};
use mainstay::runtime::Lock;
use mainstay::server::bootstrap::{self, Founding, Places};
use mainstay::storage::log::{self, Log, LogBatch, LogOptions, LogRecord, Mark};
use mainstay::storage::{Storage, StorageOptions};
use mainstay::transport::codec;
use mainstay::types::{ClusterId, Index, LeaseId, LogPosition, NodeId, Term};

use crate::disk::{HostDisk, SimDisk};

/// Small segments: rotation is near.
pub(super) const LOG: LogOptions = LogOptions { segment_bytes: 3_072 };

/// Everything that ever happens, and what must be seen after each entry of it.
pub(super) struct Reference {
    pub(super) cluster: ClusterId,
    pub(super) own: NodeId,
    pub(super) entries: Vec<Entry>,
    /// By index, from 0.
    pictures: Vec<Vec<String>>,
}

/// How many founders' entries the story begins with.
pub(super) const FOUNDERS: u64 = 3;

impl Reference {
    /// Writes the story and lives through it once, without a crash, in a store of its own.
    pub(super) fn new() -> Self {
        let names = (1..=FOUNDERS).map(|n| (format!("m{n}"), vec![format!("http://m{n}:2380")]));
        let names: Vec<_> = names.collect();
        let (cluster, conf, mut entries) =
            bootstrap_entries(&names, "matrix").expect("the members differ");
        let own = *conf.voters.first().expect("there are founders");
        let term = Term(2);
        let mut add = |payload| {
            let index = Index(u64::try_from(entries.len()).expect("few") + 1);
            entries.push(Entry { term, index, payload });
        };
        add(Payload::Empty);
        let put = |key: String, value: String, lease| {
            let (key, value) = (Bytes::from(key), Bytes::from(value));
            Op::Put(Put { key, value, lease: LeaseId(lease), ..Put::default() })
        };
        let mut ops = vec![Op::LeaseGrant { id: LeaseId(7), ttl: 60 }];
        for n in 0..24 {
            let lease = if n % 5 == 0 { 7 } else { 0 };
            // Some are long: a torn write has sectors to lose.
            let times = if n % 4 == 0 { 700 } else { 12 };
            ops.push(put(format!("k{:02}", n % 9), format!("{n}").repeat(times), lease));
        }
        let range = KeyRange::from_wire(Bytes::from("k03"), Bytes::from("k05"));
        ops.push(Op::DeleteRange(DeleteRange { range, prev_kv: false }));
        ops.push(Op::Compact { revision: 20, physical: false });
        for n in 24..30 {
            ops.push(put(format!("k{:02}", n % 9), format!("{n}").repeat(300), 0));
        }
        for (n, op) in (1..).zip(ops) {
            let command = Command { id: RequestId(n), user: String::new(), auth_revision: 0, op };
            add(Payload::Command(command.encode()));
        }
        let newcomer = ClusterMember::new(NodeId(99), vec!["http://m9:2380".to_owned()]);
        let change =
            Change::Add { member: ClusterMember { learner: true, ..newcomer }, learners_max: None };
        add(Payload::ConfChange(machine::conf_change(&change, Some(RequestId(1_000)))));
        for n in 30..34 {
            let op = put(format!("k{:02}", n % 9), format!("{n}").repeat(12), 0);
            let id = RequestId(n);
            let command = Command { id, user: String::new(), auth_revision: 0, op };
            add(Payload::Command(command.encode()));
        }
        let mut reference = Self { cluster, own, entries, pictures: Vec::new() };
        reference.live_through();
        reference
    }

    fn live_through(&mut self) {
        let dir = crate::temporary_dir();
        let storage = Storage::create(dir.path(), StorageOptions::default()).expect("created");
        let options = MachineOptions { cluster_id: self.cluster };
        let mut machine = Machine::open(storage, options).expect("an empty store opens");
        self.pictures.push(picture(&machine));
        for entry in &self.entries {
            machine.apply(std::slice::from_ref(entry));
            self.pictures.push(picture(&machine));
        }
        close(machine);
    }

    /// The entries from one index to another, both included.
    pub(super) fn story(&self, from: u64, to: u64) -> &[Entry] {
        let place = |index: u64| usize::try_from(index).expect("a small number");
        &self.entries[place(from) - 1..place(to)]
    }

    /// What must be seen after an entry.
    pub(super) fn picture(&self, index: Index) -> &[String] {
        &self.pictures[usize::try_from(index.0).expect("a small number")]
    }
}

/// Everything that a client can learn of a machine: its tables, every key at every revision, and the
/// hashes.
pub(super) fn picture(machine: &Machine) -> Vec<String> {
    let reader = machine.reader();
    let store = reader.store();
    let mut lines = vec![
        format!("{} {} {:?}", reader.applied(), store.revision(), store.compact_revision()),
        format!("{:?}", reader.leases()),
        format!("{:?} {:?}", reader.alarms(), reader.members()),
        format!("{:?} {}", machine.conf_state(), store.live_keys()),
    ];
    for lease in reader.leases() {
        lines.push(format!("{:?}", reader.lease_keys(lease.id)));
    }
    for revision in 0..=store.revision().0 {
        lines.push(format!("{revision}: {:?}", store.hash_kv(revision)));
        let all = Range { revision, ..Range::newest(KeyRange::all()) };
        lines.push(format!("{revision}: {:?}", store.range(&all)));
    }
    lines
}

/// Closes a machine's store: one path, one environment a process.
pub(super) fn close(machine: Machine) {
    let closing = machine.storage().close();
    drop(machine);
    closing.wait();
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) mark: LogPosition,
    pub(super) hard: HardState,
    pub(super) entries: Vec<Entry>,
}

impl Content {
    fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.mark, Entry::position)
    }
}

/// What others rely on, and what is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Promise {
    /// The member exists.
    pub(super) founded: bool,
    /// The log, as of the last acknowledged sync.
    pub(super) synced: Content,
    /// And with what is under way.
    pub(super) next: Content,
    /// The store was acknowledged to hold this much.
    pub(super) stored: Index,
    /// And may hold this much.
    pub(super) stored_next: Index,
    /// A snapshot is being installed: the log may have to begin anew there.
    pub(super) installs: Option<LogPosition>,
}

/// The member that an operation works on.
pub(super) struct Stage<'a> {
    pub(super) reference: &'a Reference,
    pub(super) disk: SimDisk,
    pub(super) places: Places,
    pub(super) log: Option<Log<SimDisk>>,
    pub(super) machine: Option<Machine>,
    lock: Option<Lock>,
    pub(super) promise: Promise,
}

pub(super) type Act = Result<(), String>;

/// Turns any error into its words.
pub(super) fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn places(root: &Path) -> Places {
    Places::new(&root.join("data"), None)
}

impl<'a> Stage<'a> {
    /// Starts a process on a machine; nothing is opened yet.
    pub(super) fn new(host: &Arc<HostDisk>, reference: &'a Reference) -> Self {
        Self {
            reference,
            disk: host.boot(),
            places: places(host.root()),
            log: None,
            machine: None,
            lock: None,
            promise: Promise::default(),
        }
    }

    /// Opens the member that is there, unless the operation makes it.
    pub(super) fn open(&mut self, fresh: bool) {
        if fresh {
            return;
        }
        let lock = bootstrap::take(&self.disk, &self.places).expect("nobody has it");
        let booted = bootstrap::boot(&self.disk, &self.places, lock, LOG, 1);
        let booted = booted.expect("the prepared member starts");
        let content = Content {
            mark: booted.restored.base,
            hard: booted.restored.hard_state,
            entries: booted.restored.entries,
        };
        let stored = booted.machine.applied().index;
        self.promise = Promise {
            founded: true,
            synced: content.clone(),
            next: content,
            stored,
            stored_next: stored,
            installs: None,
        };
        (self.log, self.machine, self.lock) =
            (Some(booted.log), Some(booted.machine), Some(booted.lock));
    }

    /// Makes the member, with the founders' entries in it.
    pub(super) fn found(&mut self) -> Act {
        let lock = said(bootstrap::take(&self.disk, &self.places))?;
        self.lock = Some(lock);
        let entries = self.reference.story(1, FOUNDERS).to_vec();
        let last = entries.last().expect("there are founders").position();
        let (id, cluster_id) = (self.reference.own, self.reference.cluster);
        let hard = HardState { term: last.term, vote: None, commit: last.index };
        let content = Content { mark: last, hard, entries: Vec::new() };
        (self.promise.synced, self.promise.next) = (content.clone(), content);
        (self.promise.stored, self.promise.stored_next) = (last.index, last.index);
        let founding = Founding { id, cluster_id, entries };
        said(bootstrap::found(&self.disk, &self.places, &founding, LOG, || 0x5eed, |_| ()))?;
        self.promise.founded = true;
        Ok(())
    }

    pub(super) fn log(&mut self) -> &mut Log<SimDisk> {
        self.log.as_mut().expect("the member is open")
    }

    pub(super) fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the member is open")
    }

    /// Appends entries, cutting the log before them if need be, and syncs as the log's writer does.
    pub(super) fn append(&mut self, entries: &[Entry], hard: Option<HardState>) -> Act {
        self.pend(entries, hard)?;
        self.sync()
    }

    /// Appends without a sync.
    pub(super) fn pend(&mut self, entries: &[Entry], hard: Option<HardState>) -> Act {
        let records: Vec<LogRecord> = entries.iter().map(record).collect();
        let next = &mut self.promise.next;
        let mut truncate_from = None;
        if let Some(first) = entries.first() {
            if first.index <= next.last().index {
                truncate_from = Some(first.index);
            }
            next.entries.retain(|entry| entry.index < first.index);
            next.entries.extend(entries.iter().cloned());
        }
        next.hard = hard.unwrap_or(next.hard);
        let hard_state = hard.map(stored);
        said(self.log().append(LogBatch { hard_state, truncate_from, entries: &records }))
    }

    /// Syncs what was appended; from then on it is promised.
    pub(super) fn sync(&mut self) -> Act {
        said(self.log().sync())?;
        self.promise.synced = self.promise.next.clone();
        Ok(())
    }

    /// Applies entries that the log holds, in memory.
    pub(super) fn apply(&mut self, upto: u64) {
        let from = self.machine().applied().index.0 + 1;
        let entries = self.reference.story(from, upto).to_vec();
        self.machine().apply(&entries);
    }

    /// Brings what was applied into LMDB.
    pub(super) fn flush(&mut self) -> Act {
        let storage = self.machine().storage();
        if let Some(job) = storage.begin_flush() {
            self.promise.stored_next = job.position().index;
            said(job.run())?;
            self.promise.stored = self.promise.stored_next;
        }
        Ok(())
    }

    /// Lets the log forget, as the driver does after a flush.
    pub(super) fn trim(&mut self, upto: u64) -> Act {
        let upto = Index(upto);
        let next = &mut self.promise.next;
        if upto > next.mark.index {
            let term = next.entries.iter().find(|entry| entry.index == upto);
            next.mark = LogPosition::new(upto, term.expect("it is in the log").term);
            next.entries.retain(|entry| entry.index > upto);
        }
        said(self.log().trim(upto)).map(drop)
    }

    /// Sets the log behind an installed snapshot.
    pub(super) fn mark_installed(&mut self, position: LogPosition) -> Act {
        self.promise.next.mark = position;
        self.promise.next.entries.clear();
        said(self.log().mark(Mark { position, conf: Bytes::new(), installed: true }))?;
        self.sync()
    }

    /// Lets go of everything; a dead process's destructors change nothing.
    pub(super) fn close(mut self) {
        self.log = None;
        if let Some(machine) = self.machine.take() {
            close(machine);
        }
    }
}

fn record(entry: &Entry) -> LogRecord {
    let (kind, data) = codec::encode_payload(&entry.payload);
    let kind = u8::try_from(kind).expect("there are three kinds of entries");
    LogRecord { index: entry.index, term: entry.term, kind, data }
}

fn stored(hard: HardState) -> log::HardState {
    log::HardState { term: hard.term, vote: hard.vote, commit: hard.commit }
}

/// How an image came back.
pub(super) enum Came {
    /// As promised.
    Back,
    /// As no member, and none was promised.
    Fresh,
    /// With an error.
    Refused(String),
}

/// Starts on an image, twice, and compares what is there with what was promised. An error is a promise
/// broken.
pub(super) fn recover(
    host: &Arc<HostDisk>,
    reference: &Reference,
    promise: &Promise,
) -> Result<Came, String> {
    let first = match look(host, reference, promise)? {
        Ok(seen) => seen,
        Err(came) => return Ok(came),
    };
    // Nothing that the first start returned may have been in the page cache only.
    let mut rng = crate::rng::Rng::new(0, "again");
    host.power_loss(crate::disk::Persistence::Nothing, &mut rng);
    match look(host, reference, promise)? {
        Ok(seen) if seen == first => Ok(Came::Back),
        Ok(seen) => Err(format!("the second start finds {seen:?}, the first one {first:?}")),
        Err(Came::Refused(error)) => Err(format!("only the second start refuses: {error}")),
        Err(_) => Err("the second start finds no member".to_owned()),
    }
}

/// Starts once. Returns the log's content and the store's place, or how else it came back.
fn look(
    host: &Arc<HostDisk>,
    reference: &Reference,
    promise: &Promise,
) -> Result<Result<(Content, Index), Came>, String> {
    let disk = host.boot();
    let places = places(host.root());
    let lock = match bootstrap::take(&disk, &places) {
        Ok(lock) => lock,
        Err(error) => return Ok(Err(Came::Refused(error.to_string()))),
    };
    if !bootstrap::exists(&disk, &places) {
        if promise.founded {
            return Err("the member is gone".to_owned());
        }
        return Ok(Err(Came::Fresh));
    }
    let boot = || bootstrap::boot(&disk, &places, lock, LOG, 1);
    let booted = match catch_unwind(AssertUnwindSafe(boot)) {
        Ok(Ok(booted)) => booted,
        Ok(Err(error)) => return Ok(Err(Came::Refused(error.to_string()))),
        Err(_) => return Err("the start panics".to_owned()),
    };
    let applied = booted.machine.applied();
    let found = Content {
        mark: booted.restored.base,
        hard: booted.restored.hard_state,
        entries: booted.restored.entries,
    };
    let mut machine = booted.machine;
    let verdict = judge(reference, promise, &found, applied, &mut machine);
    drop(booted.log);
    close(machine);
    host.freeze();
    verdict.map(|()| Ok((found, applied.index)))
}

fn judge(
    reference: &Reference,
    promise: &Promise,
    found: &Content,
    applied: LogPosition,
    machine: &mut Machine,
) -> Result<(), String> {
    let begins_anew = promise.installs.is_some_and(|at| {
        let kept = promise.synced.hard;
        let (term, commit) = (kept.term.max(at.term), at.index);
        let hard = HardState { term, commit, ..kept };
        *found == Content { mark: at, hard, entries: Vec::new() }
    });
    if *found != promise.synced && *found != promise.next && !begins_anew {
        return Err(format!(
            "the log holds {}, promised was {} or {}",
            brief(found),
            brief(&promise.synced),
            brief(&promise.next)
        ));
    }
    if applied.index < promise.stored || applied.index > promise.stored_next {
        let (from, to) = (promise.stored, promise.stored_next);
        return Err(format!("the store stands at {applied}, not between {from} and {to}"));
    }
    compare(reference, applied.index, machine)?;
    // What is committed is replayed; of a conflict's loser there is nothing in the story.
    let entries: Vec<Entry> = found
        .entries
        .iter()
        .filter(|entry| reference.entries.get(place(entry.index)).is_some_and(|e| e == *entry))
        .cloned()
        .collect();
    machine.apply(&entries);
    let end = machine.applied().index;
    machine.check();
    compare(reference, end, machine)
}

fn place(index: Index) -> usize {
    usize::try_from(index.0).expect("a small number") - 1
}

fn compare(reference: &Reference, at: Index, machine: &Machine) -> Result<(), String> {
    let (seen, wanted) = (picture(machine), reference.picture(at));
    if seen == wanted {
        return Ok(());
    }
    let differs = seen.iter().zip(wanted).find(|(a, b)| a != b);
    Err(format!("the store at {at} answers wrongly: (is, should be) {differs:?}"))
}

fn brief(content: &Content) -> String {
    let entries: Vec<String> =
        content.entries.iter().map(|entry| entry.position().to_string()).collect();
    format!("after {} {:?} [{}]", content.mark, content.hard, entries.join(" "))
}

/// Starts on an image and loses power in a call of that.
pub(super) fn boot_and_die(host: &Arc<HostDisk>, call: u64) {
    let disk = host.boot();
    host.crash_in(call);
    let places = places(host.root());
    let Ok(lock) = bootstrap::take(&disk, &places) else { return };
    if !bootstrap::exists(&disk, &places) {
        return;
    }
    if let Ok(booted) = bootstrap::boot(&disk, &places, lock, LOG, 1) {
        drop(booted.log);
        close(booted.machine);
    }
}
