//! Tests of the log: a model of what was acknowledged, and a disk that loses power.

mod crash;
mod fixture;
#[cfg(feature = "mutants")]
mod mutants;
mod rot;

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::*;
use crate::storage::tests::disk::{self, MemDisk};
use crate::types::{NodeId, Term};

const OPTIONS: LogOptions = LogOptions { segment_bytes: 4096 };

fn dir() -> &'static Path {
    Path::new("/log")
}

fn segment(number: u64) -> PathBuf {
    segment_path(dir(), number)
}

fn entry(index: u64, term: u64, len: usize) -> LogRecord {
    let byte = u8::try_from((index * 7 + term) % 251).expect("below 251");
    let data = Bytes::from(vec![byte; len]);
    LogRecord { index: Index(index), term: Term(term), kind: byte % 3, data }
}

/// What the log is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    hard_state: HardState,
    mark: Option<Mark>,
    entries: Vec<LogRecord>,
}

impl Model {
    fn of(recovered: &Recovered) -> Self {
        Self {
            hard_state: recovered.hard_state,
            mark: recovered.mark.clone(),
            entries: recovered.entries.clone(),
        }
    }

    fn marked(&self) -> u64 {
        self.mark.as_ref().map_or(0, |mark| mark.position.index.0)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.marked(), |entry| entry.index.0)
    }

    fn cut_beginning(&mut self, mark: Mark) {
        if mark.installed {
            self.entries.clear();
        }
        self.entries.retain(|entry| entry.index > mark.position.index);
        self.mark = Some(Mark { installed: false, ..mark });
    }
}

/// A small generator of numbers: the tests must not depend on another crate's.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // Steele, Lea and Flood's SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A log being used, with what it was told and what it acknowledged.
struct Session {
    disk: MemDisk,
    options: LogOptions,
    log: Option<Log<MemDisk>>,
    /// What is acknowledged.
    synced: Model,
    /// What was handed over since, as well.
    next: Model,
    /// Whether a sync of `next` has begun and not ended well: it may be durable or not.
    in_flight: bool,
    boots: u64,
}

impl Session {
    fn create(disk: &MemDisk, options: LogOptions) -> Result<Self, LogError> {
        let log = Log::create(disk.clone(), dir(), options, (11, 22), 33, None)?;
        Ok(Self {
            disk: disk.clone(),
            options,
            log: Some(log),
            synced: Model::default(),
            next: Model::default(),
            in_flight: false,
            boots: 1,
        })
    }

    fn log(&mut self) -> &mut Log<MemDisk> {
        self.log.as_mut().expect("the log is open")
    }

    fn append(&mut self, entries: &[LogRecord]) -> Result<(), LogError> {
        let truncate_from = entries.first().map(|e| e.index).filter(|i| i.0 <= self.next.last());
        if let Some(from) = truncate_from {
            self.next.entries.retain(|entry| entry.index < from);
        }
        self.next.entries.extend_from_slice(entries);
        self.log().append(LogBatch { truncate_from, entries, ..LogBatch::default() })
    }

    fn hard_state(&mut self, hard_state: HardState) -> Result<(), LogError> {
        self.next.hard_state = hard_state;
        self.log().append(LogBatch { hard_state: Some(hard_state), ..LogBatch::default() })
    }

    fn install(&mut self, index: u64, term: u64) -> Result<(), LogError> {
        let position = LogPosition::new(Index(index), Term(term));
        let mark = Mark { position, conf: Bytes::from(vec![9; 21]), installed: true };
        self.next.cut_beginning(mark.clone());
        self.log().mark(mark)
    }

    fn trim(&mut self, index: u64) -> Result<(), LogError> {
        if let Some(entry) = self.next.entries.iter().find(|entry| entry.index.0 == index) {
            let position = LogPosition::new(entry.index, entry.term);
            self.next.cut_beginning(Mark { position, conf: Bytes::new(), installed: false });
        }
        self.log().trim(Index(index)).map(drop)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.in_flight = true;
        self.log().sync()?;
        self.in_flight = false;
        self.synced = self.next.clone();
        self.log().check();
        assert_eq!(self.log().last().0, self.synced.last());
        Ok(())
    }

    /// Ends the process, orderly or not, and opens the log again; the page cache lives on.
    fn restart(&mut self, orderly: bool) -> Result<(), LogError> {
        let log = self.log.take().expect("the log is open");
        if orderly {
            self.in_flight = true;
            log.close()?;
            self.in_flight = false;
            self.synced = self.next.clone();
        } else {
            drop(log);
            self.next = self.synced.clone();
        }
        let (log, recovered) = Log::open(self.disk.clone(), dir(), self.options)?;
        self.boots += 1;
        assert_eq!(recovered.metadata.boot, self.boots);
        assert_eq!(Model::of(&recovered), self.synced);
        log.check();
        self.log = Some(log);
        Ok(())
    }

    /// Does something random.
    fn step(&mut self, dice: &mut Dice) -> Result<(), LogError> {
        let term = self.next.hard_state.term.0.max(1);
        let (marked, last) = (self.next.marked(), self.next.last());
        match dice.roll(20) {
            0..=6 => {
                let first = match dice.roll(5) {
                    0 if last > marked => marked + 1 + dice.roll(last - marked),
                    _ => last + 1,
                };
                let len = 1 + dice.roll(4);
                let size = [10, 100, 700][usize::try_from(dice.roll(3)).expect("small")];
                let one = |i| entry(i, term, usize::try_from(size + i % 9).expect("small"));
                self.append(&(first..first + len).map(one).collect::<Vec<_>>())
            }
            7..=9 => {
                let term = Term(term + dice.roll(2));
                let vote = Some(NodeId(dice.roll(3))).filter(|n| n.0 > 0);
                // Nothing that was ever acknowledged as committed is truncated by this test's appends.
                self.hard_state(HardState { term, vote, commit: Index(marked) })
            }
            10..=14 => self.sync(),
            15 => self.log().seal(),
            16 if last > marked => self.trim(marked + 1 + dice.roll(last - marked)),
            17 => match self.log().spare_job() {
                Some(job) => job.run().map(drop),
                None => Ok(()),
            },
            18 => self.restart(dice.roll(2) == 0),
            19 if dice.roll(4) == 0 => self.install(last + dice.roll(5), term),
            _ => Ok(()),
        }
    }
}

fn reopen(disk: &MemDisk) -> Result<Recovered, LogError> {
    Log::open(disk.clone(), dir(), OPTIONS).map(|(_, recovered)| recovered)
}

#[test]
fn entries_hard_state_and_mark_come_back() {
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    s.append(&[entry(1, 1, 5), entry(2, 1, 0), entry(3, 2, 9)]).expect("pending");
    s.hard_state(HardState { term: Term(2), vote: Some(NodeId(7)), commit: Index(2) }).expect("ok");
    s.sync().expect("synced");
    s.trim(1).expect("pending");
    s.append(&[entry(3, 3, 8), entry(4, 3, 1)]).expect("pending");
    s.sync().expect("synced");
    s.restart(true).expect("the same comes back");
    let recovered = {
        s.log = None;
        reopen(&disk).expect("opens")
    };
    assert_eq!(recovered.metadata, Metadata { cluster: 11, member: 22, boot: 3 });
    assert_eq!(
        recovered.mark.as_ref().map(|m| m.position),
        Some(LogPosition::new(Index(1), Term(1)))
    );
    assert_eq!(recovered.entries, [entry(2, 1, 0), entry(3, 3, 8), entry(4, 3, 1)]);
    assert_eq!(recovered.repaired, None);
    assert_eq!(recovered.last(), LogPosition::new(Index(4), Term(3)));
}

#[test]
fn what_was_not_synced_does_not_come_back() {
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    s.append(&[entry(1, 1, 5)]).expect("pending");
    s.log = None;
    assert_eq!(reopen(&disk).expect("opens").entries, []);
}

#[test]
fn a_log_is_opened_once_and_created_once() {
    let disk = MemDisk::default();
    assert!(matches!(reopen(&disk), Err(LogError::Missing(_))));
    let s = Session::create(&disk, OPTIONS).expect("created");
    assert!(matches!(reopen(&disk), Err(LogError::Locked(_))));
    drop(s);
    assert!(matches!(Session::create(&disk, OPTIONS), Err(LogError::Exists(_))));
    reopen(&disk).expect("opens");
}

#[test]
fn trimmed_segments_are_recycled_and_their_old_bytes_never_parse() {
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    if let Some(job) = s.log().spare_job() {
        job.run().expect("made");
    }
    // Batches of one size, so that what an earlier use left behind lies exactly where the next batch
    // would be looked for.
    for index in 1..200 {
        s.append(&[entry(index, 1, 200)]).expect("pending");
        s.trim(index.saturating_sub(3)).expect("trimmed");
        s.sync().expect("synced");
        assert!(s.log().size().0 <= 3, "old segments go");
        if index % 10 == 0 {
            s.restart(index % 20 == 0).expect("reopens");
        }
    }
    let files = disk.list(dir()).expect("listed");
    assert!(files.len() <= 5, "no file is left over: {files:?}");

    // Take the terminator away: the old batch behind it still does not count.
    let number = s.log().segments.back().expect("one").number;
    let tail = usize::try_from(s.log().current.tail).expect("small");
    s.log = None;
    let bytes = disk.read(&segment(number));
    let stale = (tail..bytes.len()).step_by(8).find(|&at| bytes[at..].starts_with(b"MLB1"));
    let stale = stale.expect("the file was used before and the old batches lie behind the tail");
    let mut bytes = bytes.clone();
    bytes.copy_within(stale.., tail);
    disk.put(&segment(number), bytes);
    let recovered = reopen(&disk).expect("opens");
    assert_eq!(Model::of(&recovered), s.synced);
    assert!(recovered.repaired.is_some(), "it looks like a torn write, and nothing is lost");
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    for index in 1..=4 {
        s.append(&[entry(index, 1, 3_000 * usize::try_from(index).expect("small"))]).expect("ok");
        s.sync().expect("synced");
    }
    s.restart(false).expect("reopens");
    s.append(&[entry(5, 1, 10)]).expect("ok");
    s.trim(4).expect("ok");
    s.sync().expect("synced");
    s.trim(4).expect("ok");
    assert_eq!(s.log().size().0, 1);
    s.restart(false).expect("reopens");
}

#[test]
fn nothing_is_written_after_a_failed_sync() {
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    s.append(&[entry(1, 1, 5)]).expect("pending");
    disk.set_fuse(Some(1)); // The write passes, the sync does not.
    assert!(matches!(s.log().sync(), Err(LogError::Io { .. })));
    disk.set_fuse(None);
    let before = disk.operations();
    assert!(matches!(s.log().sync(), Err(LogError::Poisoned(_))));
    assert!(matches!(s.append(&[entry(2, 1, 5)]), Err(LogError::Poisoned(_))));
    assert!(matches!(s.log().trim(Index(1)), Err(LogError::Poisoned(_))));
    assert!(matches!(s.log().seal(), Err(LogError::Poisoned(_))));
    assert_eq!(disk.operations(), before);
}

#[test]
#[should_panic(expected = "the entry i3 where i2 is next")]
fn a_gap_between_entries_is_refused() {
    let mut s = Session::create(&MemDisk::default(), OPTIONS).expect("created");
    let _ = s.append(&[entry(1, 1, 5), entry(3, 1, 5)]);
}

#[test]
fn a_spare_takes_no_room_that_is_needed() {
    let names = |disk: &MemDisk| disk.list(dir()).expect("listed");
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    let before = names(&disk);
    disk.set_room(usize::MAX, (64 << 20) + OPTIONS.segment_bytes - 1);
    let job = s.log().spare_job().expect("there is none");
    assert!(!job.run().expect("it only looks"), "too little would be left");
    assert_eq!(names(&disk), before);
    // It is asked for after each batch: for a while nobody tries again.
    assert!((0..1000).all(|_| s.log().spare_job().is_none()));
    // Half a spare, for want of room that the disk says there is, does not stay.
    disk.set_room(1000, u64::MAX);
    let job = s.log().spare_job().expect("the while is over");
    assert!(matches!(job.run(), Err(LogError::Io { .. })));
    assert_eq!(names(&disk), before);
    assert!(s.log().spare_job().is_none());
    // The log goes on without, and with one when there is room again.
    disk.set_room(usize::MAX, u64::MAX);
    s.append(&[entry(1, 1, 100)]).expect("pending");
    s.sync().expect("synced");
    let job = (0..1000).find_map(|_| s.log().spare_job()).expect("in the end");
    assert!(job.run().expect("there is room"));
    assert_eq!(names(&disk).len(), before.len() + 1);
}
