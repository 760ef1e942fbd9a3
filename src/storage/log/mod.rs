//! Raft's durable log: entries, hard state, and where the log begins, in a few files.
//!
//! **The idea.** What is appended gathers in memory; [`Log::sync`] writes it as one *batch*, with one
//! write and one sync, and only then is any of it promised to anybody. Batches follow one another in
//! *segments*, files of fixed size that are filled with zeros beforehand or recycled, so that a sync
//! has no metadata to write. When a segment is full, the next one begins with the whole state that is
//! not entries (owner, mark, hard state), so that old segments can go without being looked at.
//!
//! **Vocabulary.** A *batch* is what one sync makes durable, whole or not at all. The *mark* names the
//! last entry the log does not hold; dropping the beginning moves it (*trim*), a snapshot from outside
//! replaces the log by it (*install*). The *chain* is the checksum of a batch's header, carried by the
//! next header. A *spare* is a file that is ready to become a segment.
//!
//! **Invariants.**
//! - At any moment at most one batch is not synced: batch *n + 1* is written only after batch *n* is
//!   synced. (A seal is no exception: it stands where the next batch will be written, over it.)
//! - A segment gets its name only after its header and first batch are synced, and the name is synced
//!   before anything else is written to it.
//! - Segment numbers have no gap; the oldest go first, each for good before the next.
//! - Opening makes durable whatever it read before anything is written after it: a batch that a killed
//!   process left in the page cache must not follow one that is on disk.
//! - After a failed write or sync nothing more is written ([`LogError::Poisoned`]). After a failed
//!   sync the kernel may have dropped the pages and call the next sync a success.
//!
//! **Torn tail or rot?** A crash may keep any subset of the sectors of the last batch; nobody was
//! promised it, and it is cut. A flipped bit in a batch that was synced must never be cut, nor
//! anything after it: this member's vote and acknowledgements rest on it. Recovery reads up to the
//! first place where no sound batch stands and asks for *evidence* that something was durable there:
//!
//! 1. A later segment. It was begun after the end of this one was durable, and its header tells number
//!    and chain of the last batch before it.
//! 2. A later batch anywhere in this segment. Headers check out alone (the seed comes from the segment,
//!    not from the chain), so a damaged batch does not hide those behind it; they name their number and
//!    their place; and by the first invariant batch *n + 1* was not written before *n* was synced. One that
//!    chains to another batch than the last one here is evidence too: a write that the disk lost leaves the
//!    seal over which it was written, which reads like an empty batch of that number.
//! 3. A sound header here that chains to another batch than the one before it.
//! 4. This being the first batch of a segment.
//! 5. A file that is shorter than its header says. It had that length before it had its name.
//! 6. The commit index in the hard state, and what the store has applied (whoever opens both compares them,
//!    `server/bootstrap.rs`): both name entries that were durable here.
//!
//! With evidence the log refuses to open, naming segment and offset. Without, the batch is the last
//! one, and may have been unsynced: it is cut. What remains undecidable is damage to exactly the last
//! batch that was synced, as long as nothing follows it. Refusing there would turn every power loss
//! into a member that has to be rebuilt, with all members of a cluster losing power together; cutting
//! is wrong only if a crash and damage meet in the last few hundred bytes. [`Log::seal`] narrows that
//! to the time the log is busy: it writes an empty batch behind the last one, evidence by rule 2, without
//! a sync of its own; [`Log::close`] does so with a sync, and puts another at the end of the file, so that
//! after an orderly end every flipped bit and every lost sector is found. Nothing here can tell that the
//! last segment is gone as a whole, up to a commit index or an applied entry that was in it.
//!
//! **Left out.** Reading entries back (the core keeps what is above the mark), compression, encryption.

mod error;
mod record;
mod recover;
mod spare;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

pub use error::LogError;
pub use record::{HardState, LOG_VERSION, LogRecord, Mark, Metadata};
pub use recover::{Recovered, TornTail};
pub use spare::SpareJob;

use crate::buggify;
use crate::runtime::{Disk, DiskFile, Lock, OpenHow};
use crate::types::{Index, LogPosition};
use bytes::Bytes;
use error::At;
use record::{ALIGN, BATCH_HEADER, BatchHeader, SEGMENT_HEADER, SegmentHeader, TERMINATOR};
use recover::Tail;
use spare::Spares;

/// How to keep the log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// The size of a segment. A larger batch gets a larger segment of its own.
    pub segment_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// What to append. Truncation comes before the entries; the rest has no order.
#[derive(Clone, Debug, Default)]
pub struct LogBatch<'a> {
    /// The new hard state.
    pub hard_state: Option<HardState>,
    /// Drops the entries from here on.
    pub truncate_from: Option<Index>,
    /// Entries that follow the last one.
    pub entries: &'a [LogRecord],
}

/// A log open for writing, owned by one worker. The lock file and the files go with it.
pub struct Log<D: Disk> {
    disk: D,
    dir: PathBuf,
    options: LogOptions,
    salt: u64,
    metadata: Metadata,
    /// What is durable, and what the pending batch makes of it.
    synced: Head,
    next: Head,
    /// Oldest first; the last one is being written.
    segments: VecDeque<SegmentInfo>,
    current: Current<D::File>,
    seq: u64,
    chain: u32,
    /// Room for a batch header, then the records that were appended since the last sync.
    pending: Vec<u8>,
    records: u32,
    /// The greatest index of an entry among them.
    pending_max: Index,
    /// Where each term begins among the entries above the mark (or a little before it).
    terms: VecDeque<LogPosition>,
    spares: Spares,
    poisoned: Option<String>,
    _lock: Lock,
}

/// What every segment begins with, beside the owner.
#[derive(Clone, Debug, Default)]
struct Head {
    mark: Option<Mark>,
    hard_state: Option<HardState>,
    last: Index,
}

impl Head {
    fn marked(&self) -> Index {
        self.mark.as_ref().map_or(Index(0), |mark| mark.position.index)
    }
}

struct SegmentInfo {
    number: u64,
    /// The greatest index of an entry in it; 0 if there is none.
    max: Index,
}

struct Current<F> {
    file: F,
    path: PathBuf,
    seed: u32,
    /// Where the next batch goes.
    tail: u64,
    /// Where the segment is full.
    end: u64,
}

/// A pending buffer that grew beyond this is given back after the sync.
const PENDING_KEEP: usize = 4 << 20;

impl<D: Disk> Log<D> {
    /// Creates a log for a member. `salt` is a random number; it keeps bytes of other logs, and of
    /// clients, from ever being taken for this one's. The directory is made if need be; where its
    /// parent is new as well, making that durable is the caller's.
    ///
    /// `begin` is for a store that already holds entries: the log begins behind them, and with that hard
    /// state. It is in the first batch, so that no crash leaves a log that begins anywhere else; beside
    /// such a store an empty one looks as if it had lost its end.
    pub fn create(
        disk: D,
        dir: &Path,
        options: LogOptions,
        (cluster, member): (u64, u64),
        salt: u64,
        begin: Option<(LogPosition, HardState)>,
    ) -> Result<Self, LogError> {
        disk.create_dir_all(dir).at(dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).at(parent)?;
        }
        let lock = lock(&disk, dir)?;
        if !segment_numbers(&disk, dir)?.is_empty() {
            return Err(LogError::Exists(dir.to_owned()));
        }
        let metadata = Metadata { cluster, member, boot: 1 };
        let spares = Spares::adopt(&disk, dir, options.segment_bytes)?;
        let head = begin.map_or_else(Head::default, |(position, hard_state)| Head {
            mark: Some(Mark { position, conf: Bytes::new(), installed: false }),
            hard_state: Some(hard_state),
            last: position.index,
        });
        let pending = new_pending();
        let first = Begin { number: 1, salt, metadata, first_seq: 1, chain: 0, head: &head };
        let begun = begin_segment(&disk, dir, options, &spares, first, &pending, 0)?;
        Ok(Self {
            salt,
            metadata,
            synced: head.clone(),
            next: head,
            segments: VecDeque::from([SegmentInfo { number: 1, max: Index(0) }]),
            current: begun.current,
            seq: 1,
            chain: begun.chain,
            pending,
            records: 0,
            pending_max: Index(0),
            terms: VecDeque::new(),
            spares,
            poisoned: None,
            _lock: lock,
            disk,
            dir: dir.to_owned(),
            options,
        })
    }

    /// Opens a log, counts the boot, and returns what it holds. Whatever is returned is durable.
    pub fn open(disk: D, dir: &Path, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        if !disk.exists(dir) {
            return Err(LogError::Missing(dir.to_owned()));
        }
        let lock = lock(&disk, dir)?;
        let numbers = segment_numbers(&disk, dir)?;
        if numbers.is_empty() {
            return Err(LogError::Missing(dir.to_owned()));
        }
        let (replay, tail) = recover::read_all(&disk, dir, &numbers)?;
        let spares = Spares::adopt(&disk, dir, options.segment_bytes)?;
        let current = reopen(&disk, dir, options, &tail)?;
        let last = replay.last();
        let segments =
            replay.segments.into_iter().map(|(number, max)| SegmentInfo { number, max }).collect();
        let head = Head { mark: replay.mark.clone(), hard_state: replay.hard_state, last };
        let mut terms = VecDeque::new();
        replay.entries.iter().for_each(|entry| note_term(&mut terms, entry));
        let owner = replay.metadata.expect("checked when it was read");
        let mut log = Self {
            salt: tail.salt,
            metadata: Metadata { boot: owner.boot + 1, ..owner },
            synced: head.clone(),
            next: head,
            segments,
            current,
            seq: tail.seq,
            chain: tail.chain,
            pending: new_pending(),
            records: 0,
            pending_max: Index(0),
            terms,
            spares,
            poisoned: None,
            _lock: lock,
            disk,
            dir: dir.to_owned(),
            options,
        };
        record::put_metadata(&mut log.pending, &log.metadata);
        log.records = 1;
        log.sync()?;
        let recovered = Recovered {
            metadata: log.metadata,
            hard_state: replay.hard_state.unwrap_or_default(),
            mark: replay.mark,
            entries: replay.entries.into(),
            repaired: tail.torn,
        };
        Ok((log, recovered))
    }

    /// Returns whose log it is, and the number of this boot.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// Returns the index of the last durable entry, or the mark's.
    pub fn last(&self) -> Index {
        self.synced.last
    }

    /// Returns the number of segments and the bytes they take, spares not counted.
    pub fn size(&self) -> (usize, u64) {
        let count = self.segments.len();
        (count, u64::try_from(count).expect("fits") * self.options.segment_bytes)
    }

    /// Adds to the pending batch. Nothing is written, and nothing promised, before [`Log::sync`]. The
    /// one error is that the log is poisoned.
    ///
    /// # Panics
    /// If the entries do not follow the log or the truncation is outside it: the caller's bug.
    pub fn append(&mut self, batch: LogBatch<'_>) -> Result<(), LogError> {
        self.check_poison()?;
        if let Some(from) = batch.truncate_from.filter(|&from| from <= self.next.last) {
            assert!(from > self.next.marked(), "a truncation from {from}, at or below the mark");
            record::put_truncate(&mut self.pending, from);
            self.records += 1;
            self.next.last = from.prev().expect("an index above the mark is not 0");
            while self.terms.back().is_some_and(|run| run.index >= from) {
                self.terms.pop_back();
            }
        }
        for entry in batch.entries {
            let expected = self.next.last.next();
            assert!(entry.index == expected, "the entry {} where {expected} is next", entry.index);
            record::put_entry(&mut self.pending, entry);
            self.records += 1;
            self.next.last = entry.index;
            self.pending_max = self.pending_max.max(entry.index);
            note_term(&mut self.terms, entry);
        }
        if let Some(hard_state) = batch.hard_state {
            let old = self.next.hard_state.unwrap_or_default().term;
            assert!(hard_state.term >= old, "term regression {old} → {}", hard_state.term);
            record::put_hard_state(&mut self.pending, &hard_state);
            self.records += 1;
            self.next.hard_state = Some(hard_state);
        }
        Ok(())
    }

    /// Adds a new beginning to the pending batch: the store holds everything up to it, durably.
    ///
    /// # Panics
    /// If the beginning goes back, or passes the end of the log without being an installed one.
    pub fn mark(&mut self, mark: Mark) -> Result<(), LogError> {
        self.check_poison()?;
        let (at, end) = (mark.position.index, self.next.last);
        assert!(at >= self.next.marked(), "the mark goes back to {at}");
        assert!(mark.installed || at <= end, "the mark {at} passes the end of the log, {end}");
        record::put_mark(&mut self.pending, &mark);
        self.records += 1;
        if mark.installed {
            self.next.last = at;
            self.terms.clear();
        }
        while self.terms.get(1).is_some_and(|run| run.index <= at.next()) {
            self.terms.pop_front();
        }
        self.next.mark = Some(Mark { installed: false, ..mark });
        Ok(())
    }

    /// Makes everything appended so far durable: one write, one sync. Without anything pending, it has
    /// nothing to do.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.records == 0 {
            return Ok(());
        }
        let result = self.write_pending();
        if result.is_ok() && buggify!("log_checks_itself") {
            self.check();
        }
        self.keep(result)
    }

    /// Writes an empty batch behind the last one, without a sync: evidence that the last one was
    /// durable (rule 2 above). The next batch is written over it. Meant for when nothing is waiting.
    pub fn seal(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.records > 0 || self.current.tail + SEAL_BYTES > self.current.end {
            return Ok(());
        }
        self.seal_at(self.current.tail)
    }

    /// Seals the log durably, with a second seal at the very end of the file: whatever befalls the sectors
    /// where the log ends leaves that one. Then closes it.
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        self.seal()?;
        let Current { tail, end, .. } = self.current;
        if tail + 2 * SEAL_BYTES <= end {
            self.seal_at((end - SEAL_BYTES) / ALIGN as u64 * ALIGN as u64)?;
        }
        self.current.file.sync_data().at(&self.current.path)
    }

    fn seal_at(&mut self, offset: u64) -> Result<(), LogError> {
        let mut seal = [0; BATCH_HEADER + TERMINATOR.len()];
        let header = &mut seal[..BATCH_HEADER];
        BatchHeader::fill(header, self.current.seed, self.seq + 1, offset, self.chain, 0);
        let written = self.current.file.write_at(&seal, offset).at(&self.current.path);
        self.keep(written)
    }

    /// Lets the log forget the entries up to `upto`, which the store holds durably: adds the mark to
    /// the pending batch, and recycles the segments that hold no entry above the *durable* mark, which
    /// is an earlier one as a rule. Returns how many; each costs a rename and a sync of the directory.
    pub fn trim(&mut self, upto: Index) -> Result<usize, LogError> {
        self.check_poison()?;
        let upto = upto.min(self.next.last);
        if upto > self.next.marked() {
            let run = self.terms.iter().rev().find(|run| run.index <= upto);
            let term = run.expect("every entry above the mark belongs to a run").term;
            let position = LogPosition::new(upto, term);
            self.mark(Mark { position, conf: Bytes::new(), installed: false })?;
        }
        let mut count = 0;
        while self.segments.len() > 1 && self.segments[0].max <= self.synced.marked() {
            let path = segment_path(&self.dir, self.segments[0].number);
            let bytes = self.options.segment_bytes;
            let result = self.spares.recycle(&self.disk, &self.dir, &path, bytes);
            self.keep(result)?;
            self.segments.pop_front();
            count += 1;
        }
        Ok(count)
    }

    /// Returns the job that prepares the next segment, if there is none ready. The caller runs it on
    /// a worker other than this log's.
    pub fn spare_job(&self) -> Option<SpareJob<D>> {
        self.spares.job(&self.disk, &self.dir, self.options.segment_bytes)
    }

    /// Asserts what must hold between any two calls.
    pub fn check(&self) {
        assert!(self.synced.marked() <= self.synced.last, "the mark passes the last entry");
        assert!(self.next.marked() <= self.next.last, "the pending mark passes the last entry");
        let above = self.next.marked() < self.next.last;
        let known = self.terms.front().is_some_and(|run| run.index <= self.next.marked().next());
        assert!(!above || known, "the terms {:?} do not reach down to the mark", self.terms);
        assert!(self.current.tail <= self.current.end, "the segment is written beyond its end");
        assert!((self.records == 0) == (self.pending.len() == BATCH_HEADER), "records miscounted");
        for pair in self.segments.iter().zip(self.segments.iter().skip(1)) {
            assert!(pair.0.number + 1 == pair.1.number, "a gap between segments");
        }
    }

    fn write_pending(&mut self) -> Result<(), LogError> {
        let end = self.current.tail + u64::try_from(self.pending.len()).expect("fits");
        if end <= self.current.end && !buggify!("log_begins_a_segment_early") {
            let Current { seed, tail, .. } = self.current;
            let crc = BatchHeader::fill(
                &mut self.pending,
                seed,
                self.seq + 1,
                tail,
                self.chain,
                self.records,
            );
            if end + TERMINATOR.len() as u64 <= self.current.end {
                self.pending.extend_from_slice(&TERMINATOR);
            }
            let cut = buggify!("log_writes_in_two", self.pending.len() / 2, 0);
            let (first, rest) = self.pending.split_at(cut);
            if !first.is_empty() {
                self.current.file.write_at(first, tail).at(&self.current.path)?;
            }
            self.current.file.write_at(rest, tail + cut as u64).at(&self.current.path)?;
            self.current.file.sync_data().at(&self.current.path)?;
            if buggify!("log_syncs_twice") {
                self.current.file.sync_data().at(&self.current.path)?;
            }
            self.current.tail = end;
            self.chain = crc;
        } else {
            let number = self.segments.back().expect("one is being written").number + 1;
            let begin = Begin {
                number,
                salt: self.salt,
                metadata: self.metadata,
                first_seq: self.seq + 1,
                chain: self.chain,
                head: &self.synced,
            };
            let (disk, dir, spares) = (&self.disk, &self.dir, &self.spares);
            let more = &self.pending;
            let begun = begin_segment(disk, dir, self.options, spares, begin, more, self.records)?;
            self.segments.push_back(SegmentInfo { number, max: Index(0) });
            self.current = begun.current;
            self.chain = begun.chain;
        }
        self.seq += 1;
        let written = self.segments.back_mut().expect("one is being written");
        // Entries that were truncated since count too: too great is only too careful.
        written.max = written.max.max(std::mem::take(&mut self.pending_max));
        self.synced.clone_from(&self.next);
        self.pending.truncate(BATCH_HEADER);
        if self.pending.capacity() > PENDING_KEEP || buggify!("log_keeps_no_buffer") {
            self.pending = new_pending();
        }
        self.records = 0;
        Ok(())
    }

    /// Remembers a failure.
    fn keep<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
        }
        result
    }

    fn check_poison(&self) -> Result<(), LogError> {
        match &self.poisoned {
            None => Ok(()),
            Some(cause) => Err(LogError::Poisoned(cause.clone())),
        }
    }
}

const SEAL_BYTES: u64 = (BATCH_HEADER + TERMINATOR.len()) as u64;

/// What a new segment is to begin with.
struct Begin<'a> {
    number: u64,
    salt: u64,
    metadata: Metadata,
    first_seq: u64,
    chain: u32,
    head: &'a Head,
}

struct Begun<F> {
    current: Current<F>,
    chain: u32,
}

/// Writes header and first batch to a spare, syncs it, and only then gives it its name.
fn begin_segment<D: Disk>(
    disk: &D,
    dir: &Path,
    options: LogOptions,
    spares: &Spares,
    begin: Begin<'_>,
    pending: &[u8],
    pending_records: u32,
) -> Result<Begun<D::File>, LogError> {
    // The header comes last, since it tells the length, and the checksums begin from it.
    let mut bytes = vec![0; SEGMENT_HEADER + BATCH_HEADER];
    let mut records = pending_records + 1;
    record::put_metadata(&mut bytes, &begin.metadata);
    if let Some(mark) = &begin.head.mark {
        record::put_mark(&mut bytes, mark);
        records += 1;
    }
    if let Some(hard_state) = &begin.head.hard_state {
        record::put_hard_state(&mut bytes, hard_state);
        records += 1;
    }
    bytes.extend_from_slice(&pending[BATCH_HEADER..]);
    let tail = u64::try_from(bytes.len()).expect("fits");
    let end = options.segment_bytes.max(tail + TERMINATOR.len() as u64);
    let header = SegmentHeader {
        number: begin.number,
        salt: begin.salt,
        boot: begin.metadata.boot,
        first_seq: begin.first_seq,
        last_index: begin.head.last,
        chain: begin.chain,
        units: u32::try_from(end / ALIGN as u64).unwrap_or(u32::MAX),
    };
    let (header, seed) = header.encode();
    bytes[..SEGMENT_HEADER].copy_from_slice(&header);
    let (first, batch) = (SEGMENT_HEADER as u64, &mut bytes[SEGMENT_HEADER..]);
    let chain = BatchHeader::fill(batch, seed, begin.first_seq, first, begin.chain, records);
    bytes.extend_from_slice(&TERMINATOR);

    let (from, fresh) = match spares.take() {
        Some(spare) => (spare, false),
        None => (spares.new_name(dir), true),
    };
    let how = if fresh { OpenHow::Create } else { OpenHow::Write };
    let file = disk.open(&from, how).at(&from)?;
    file.write_at(&bytes, 0).at(&from)?;
    if fresh {
        file.set_len(end).at(&from)?;
    }
    file.sync_data().at(&from)?;
    let path = segment_path(dir, begin.number);
    disk.rename(&from, &path).at(&path)?;
    disk.sync_dir(dir).at(dir)?;
    Ok(Begun { current: Current { file, path, seed, tail, end }, chain })
}

/// Opens the last segment for writing at its tail, and makes durable what was read.
fn reopen<D: Disk>(
    disk: &D,
    dir: &Path,
    options: LogOptions,
    tail: &Tail,
) -> Result<Current<D::File>, LogError> {
    let path = segment_path(dir, tail.number);
    let file = disk.open(&path, OpenHow::Write).at(&path)?;
    file.sync_data().at(&path)?;
    disk.sync_dir(dir).at(dir)?;
    let end = options.segment_bytes.max(tail.offset);
    Ok(Current { file, path, seed: tail.seed, tail: tail.offset, end })
}

/// Notes an entry in the list of where terms begin.
fn note_term(terms: &mut VecDeque<LogPosition>, entry: &LogRecord) {
    if terms.back().is_none_or(|run| run.term != entry.term) {
        terms.push_back(LogPosition::new(entry.index, entry.term));
    }
}

fn new_pending() -> Vec<u8> {
    vec![0; BATCH_HEADER]
}

fn lock<D: Disk>(disk: &D, dir: &Path) -> Result<Lock, LogError> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => LogError::Locked(dir.to_owned()),
        _ => LogError::Io { path, source },
    })
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// Returns the numbers of the segments in a directory, ascending.
fn segment_numbers<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut numbers: Vec<u64> = disk
        .list(dir)
        .at(dir)?
        .iter()
        .filter_map(|name| name.strip_suffix(".log").filter(|hex| hex.len() == 16))
        .filter_map(|hex| u64::from_str_radix(hex, 16).ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
