//! Reading the log back, and telling a torn tail from rot (the argument is in the module above).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::error::{At, LogError};
use super::record::{
    ALIGN, BATCH_HEADER, BATCH_MAGIC, BatchHeader, HardState, LogRecord, Mark, Metadata, Record,
    SEGMENT_HEADER, SegmentHeader, TERMINATOR, take,
};
use super::segment_path;
use crate::runtime::{Disk, DiskFile, OpenHow};
use crate::types::{Index, LogPosition, Term};

/// What a log holds when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is; the boot counter is already the new one.
    pub metadata: Metadata,
    /// The newest hard state; the default if none was ever written.
    pub hard_state: HardState,
    /// Where the log begins; `None` if at its first entry.
    pub mark: Option<Mark>,
    /// The entries after the mark, without a gap.
    pub entries: Vec<LogRecord>,
    /// What was cut off, if the last write before a crash was incomplete.
    pub repaired: Option<TornTail>,
}

/// An incomplete last write, which nobody was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub segment: PathBuf,
    /// Where in it the write began.
    pub offset: u64,
}

impl Recovered {
    /// Returns the last entry, or the mark's if there is none.
    pub fn last(&self) -> LogPosition {
        let mark = self.mark.as_ref().map_or(LogPosition::default(), |mark| mark.position);
        self.entries.last().map_or(mark, |entry| LogPosition::new(entry.index, entry.term))
    }
}

/// The state that the records so far amount to.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) metadata: Option<Metadata>,
    pub(super) hard_state: Option<HardState>,
    pub(super) mark: Option<Mark>,
    /// The index of the first of `entries`, or of the next entry.
    first: u64,
    pub(super) entries: VecDeque<LogRecord>,
    /// For each segment read: its number and the greatest index in it.
    pub(super) segments: VecDeque<(u64, Index)>,
}

impl Replay {
    fn marked(&self) -> u64 {
        self.mark.as_ref().map_or(0, |mark| mark.position.index.0)
    }

    fn end(&self) -> u64 {
        let count = u64::try_from(self.entries.len()).expect("a length fits 64 bits");
        self.first + count
    }

    /// Returns the index of the last entry.
    pub(super) fn last(&self) -> Index {
        Index(self.end() - 1)
    }

    /// Takes one record in, or says how it contradicts those before.
    fn add(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Metadata(new) => {
                if self.metadata.is_some_and(|old| {
                    (old.cluster, old.member) != (new.cluster, new.member) || old.boot > new.boot
                }) {
                    return Err("the log changes its owner or goes back in boots");
                }
                self.metadata = Some(new);
            }
            Record::HardState(new) => {
                if self.hard_state.is_some_and(|old| old.term > new.term) {
                    return Err("the term goes back");
                }
                self.hard_state = Some(new);
            }
            Record::Truncate(from) => {
                if from.0 <= self.marked() || from.0 > self.end() {
                    return Err("a truncation outside the log");
                }
                let keep = usize::try_from(from.0.saturating_sub(self.first));
                self.entries.truncate(keep.expect("no more than there are entries"));
                self.first = self.first.min(from.0);
            }
            Record::Mark(new) => {
                if new.position.index.0 < self.marked() {
                    return Err("the beginning of the log goes back");
                }
                if new.installed {
                    self.entries.clear();
                } else if new.position.index.0 >= self.end() {
                    return Err("the beginning of the log passes its end");
                }
                let next = new.position.index.0 + 1;
                while self.entries.front().is_some_and(|entry| entry.index.0 < next) {
                    self.entries.pop_front();
                }
                // Entries of segments that are gone stay missing unless the mark covers them.
                self.first = if new.installed { next } else { self.first.max(next) };
                self.mark = Some(Mark { installed: false, ..new });
            }
            Record::Entry(entry) => {
                if entry.index.0 != self.end() || entry.index.0 <= self.marked() {
                    return Err("an entry that does not follow the one before");
                }
                if self.entries.back().is_some_and(|before| before.term > entry.term) {
                    return Err("an entry of an older term than the one before");
                }
                if let Some((_, max)) = self.segments.back_mut() {
                    *max = (*max).max(entry.index);
                }
                self.entries.push_back(entry);
            }
        }
        Ok(())
    }
}

/// Where writing goes on.
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) seed: u32,
    pub(super) offset: u64,
    /// The number of the last batch, and the checksum of its header.
    pub(super) seq: u64,
    pub(super) chain: u32,
    pub(super) torn: Option<TornTail>,
}

/// Reads all segments, in the order of their numbers, of which there is at least one.
pub(super) fn read_all<D: Disk>(
    disk: &D,
    dir: &Path,
    numbers: &[u64],
) -> Result<(Replay, Tail), LogError> {
    let mut replay = Replay { first: 1, ..Replay::default() };
    let mut tail: Option<Tail> = None;
    let mut following = numbers.iter().skip(1);
    let mut next = Some(Segment::open(disk, dir, numbers[0])?);
    while let Some(mut segment) = next {
        next = following.next().map(|&number| Segment::open(disk, dir, number)).transpose()?;
        match &tail {
            None => replay.first = segment.header.last_index.0 + 1,
            Some(before) if !segment.follows(before) => {
                if crate::mutant!("R07") {
                    break;
                }
                // The segment before was complete when this one was begun, and it is not now.
                let what = "the next segment proves that more was durable here";
                let (segment, offset) = (segment_path(dir, before.number), before.offset);
                return Err(LogError::Rot { segment, offset, what });
            }
            Some(_) => {}
        }
        if let Some(next) = &next
            && next.header.number != segment.header.number + 1
        {
            let number = segment.header.number + 1;
            return Err(LogError::MissingSegment { dir: dir.into(), number });
        }
        replay.segments.push_back((segment.header.number, Index(0)));
        let mut end = segment.replay(&mut replay, next.as_ref().map(|n| n.header.first_seq))?;
        if next.is_none() {
            segment.judge(&mut end)?;
        }
        tail = Some(end);
    }
    let tail = tail.expect("there is a segment");
    let Some(mark_end) = replay.first.checked_sub(1) else {
        return Err(segment_contradiction(dir, tail.number, "an entry with the index 0"));
    };
    if mark_end != replay.marked() {
        let (from, upto) = (Index(replay.marked() + 1), Index(mark_end));
        return Err(LogError::MissingEntries { dir: dir.into(), from, upto });
    }
    if replay.metadata.is_none() {
        return Err(segment_contradiction(dir, tail.number, "no record says whose log this is"));
    }
    let commit = replay.hard_state.unwrap_or_default().commit;
    if commit > replay.last() && !crate::mutant!("R06") {
        let last = replay.entries.back().map_or(Term(0), |entry| entry.term);
        let last = LogPosition::new(replay.last(), last);
        return Err(LogError::TooShort { last, known: LogPosition::new(commit, Term(0)) });
    }
    Ok((replay, tail))
}

fn segment_contradiction(dir: &Path, number: u64, what: &'static str) -> LogError {
    LogError::Contradiction { segment: segment_path(dir, number), offset: 0, what }
}

/// One segment being read.
struct Segment<F> {
    path: PathBuf,
    window: Window<F>,
    header: SegmentHeader,
    seed: u32,
}

impl<F: DiskFile> Segment<F> {
    fn open<D: Disk<File = F>>(disk: &D, dir: &Path, number: u64) -> Result<Self, LogError> {
        let path = segment_path(dir, number);
        let file = disk.open(&path, OpenHow::Read).at(&path)?;
        let mut window = Window::new(file).at(&path)?;
        // A segment gets its name only after its header is durable: there is no torn header.
        match SegmentHeader::decode(window.bytes(0, SEGMENT_HEADER).at(&path)?) {
            Ok((header, _)) if header.number == number && window.len < header.len() => {
                let what = "the file ends here, and once was longer";
                Err(LogError::Rot { segment: path, offset: window.len, what })
            }
            Ok((header, seed)) if header.number == number => {
                Ok(Self { path, window, header, seed })
            }
            Err(Some(found)) => Err(LogError::Version { segment: path, found }),
            _ => Err(LogError::Rot { segment: path, offset: 0, what: "no segment header" }),
        }
    }

    fn rot(&self, offset: u64, what: &'static str) -> LogError {
        LogError::Rot { segment: self.path.clone(), offset, what }
    }

    /// Says whether this segment was begun where the one before was read to end.
    fn follows(&self, before: &Tail) -> bool {
        let end = (before.seq + 1, before.chain, before.salt);
        end == (self.header.first_seq, self.header.chain, self.header.salt) || crate::mutant!("S03")
    }

    /// Replays the batches up to the first place where no sound one stands, or to the batch with which
    /// the next segment begins. (A seal may still stand in its place here, or what was cut there.)
    fn replay(&mut self, replay: &mut Replay, until: Option<u64>) -> Result<Tail, LogError> {
        let mut tail = Tail {
            number: self.header.number,
            salt: self.header.salt,
            seed: self.seed,
            offset: SEGMENT_HEADER as u64,
            seq: self.header.first_seq - 1,
            chain: self.header.chain,
            torn: None,
        };
        while let Some(header) = self.batch_header(tail.offset)? {
            if header.seq != tail.seq + 1 || until == Some(header.seq) {
                break;
            }
            // The header is sound, so a wrong chain is no torn write: the batch before is not the one
            // that this one was written after.
            if header.chain != tail.chain && !crate::mutant!("S03") {
                return Err(self.rot(tail.offset, "a batch that follows another one than is here"));
            }
            let Some(mut payload) = self.payload(tail.offset, &header)? else { break };
            if tail.offset == SEGMENT_HEADER as u64 && header.records == 0 {
                return Err(self.rot(tail.offset, "a segment that begins with nothing"));
            }
            let mut contradiction = None;
            for _ in 0..header.records {
                let added = match take(&mut payload) {
                    Some(record) => replay.add(record),
                    None => Err("a record that does not parse"),
                };
                contradiction = contradiction.or(added.err());
            }
            if let Some(what) = contradiction {
                let (segment, offset) = (self.path.clone(), tail.offset);
                return Err(LogError::Contradiction { segment, offset, what });
            }
            tail.offset += BATCH_HEADER as u64 + u64::from(header.payload_len);
            (tail.seq, tail.chain) = (header.seq, header.crc);
        }
        Ok(tail)
    }

    fn batch_header(&mut self, offset: u64) -> Result<Option<BatchHeader>, LogError> {
        let bytes = self.window.bytes(offset, BATCH_HEADER).at(&self.path)?;
        Ok(BatchHeader::decode(bytes, self.seed, offset))
    }

    /// Reads the records of a batch if they are sound.
    fn payload(&mut self, offset: u64, header: &BatchHeader) -> Result<Option<&[u8]>, LogError> {
        let at = offset + BATCH_HEADER as u64;
        let len = header.payload_len;
        let fits = u64::from(len) <= self.window.len.saturating_sub(at);
        if !fits && !crate::mutant!("E06") {
            return Ok(None);
        }
        let len = usize::try_from(len).expect("a batch fits the address space");
        let payload = self.window.bytes(at, len).at(&self.path)?;
        Ok(Some(payload).filter(|payload| {
            payload.len() == len && len.is_multiple_of(ALIGN) && header.covers(self.seed, payload)
        }))
    }

    /// Decides, for the last segment, whether what stops at `tail` may be cut.
    fn judge(&mut self, tail: &mut Tail) -> Result<(), LogError> {
        if tail.offset == SEGMENT_HEADER as u64 {
            // The first batch was durable before the segment had its name.
            return Err(self.rot(tail.offset, "the first batch of a segment"));
        }
        if !crate::mutant!("R07") && self.has_later_batch(tail)? {
            return Err(self.rot(tail.offset, "a later batch proves that more was durable here"));
        }
        let end = self.window.bytes(tail.offset, TERMINATOR.len()).at(&self.path)?;
        if !end.iter().all(|&byte| byte == 0) {
            if crate::mutant!("E05") {
                return Err(self.rot(tail.offset, "the last write"));
            }
            tail.torn = Some(TornTail { segment: self.path.clone(), offset: tail.offset });
        }
        Ok(())
    }

    /// Looks for any batch written after the one that is missing at `tail`.
    fn has_later_batch(&mut self, tail: &Tail) -> Result<bool, LogError> {
        let mut from = tail.offset;
        while from < self.window.len {
            let bytes = self.window.bytes(from, WINDOW).at(&self.path)?;
            let read = bytes.len() as u64;
            let begins: Vec<u64> = (from..)
                .step_by(BLOCK)
                .zip(bytes.chunks(BLOCK))
                // A segment that is new is blank behind its tail; this is the quick way over that.
                .filter(|(_, block)| block.iter().fold(0, |any, byte| any | byte) != 0)
                .flat_map(|(at, block)| (at..).step_by(ALIGN).zip(block.chunks(ALIGN)))
                .filter_map(|(at, word)| word.starts_with(&BATCH_MAGIC).then_some(at))
                .collect();
            for at in begins {
                // NB: one of the next number may say that the last batch read is not the one that was written:
                // a seal, say, over which a batch was written that the disk then lost.
                let proves = |header: BatchHeader| {
                    let next = header.seq == tail.seq + 1;
                    header.seq > tail.seq + 1 || (next && header.chain != tail.chain)
                };
                if self.batch_header(at)?.is_some_and(proves) {
                    return Ok(true);
                }
            }
            from += read.max(1);
        }
        Ok(false)
    }
}

/// Reads a file through a buffer that moves with the reader.
struct Window<F> {
    file: F,
    len: u64,
    start: u64,
    buffer: Vec<u8>,
}

const WINDOW: usize = 1 << 20;

/// What is looked at together when a segment is searched.
const BLOCK: usize = 4096;

impl<F: DiskFile> Window<F> {
    fn new(file: F) -> std::io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, len, start: 0, buffer: Vec::new() })
    }

    /// Returns the bytes at a place, fewer at the end of the file.
    fn bytes(&mut self, offset: u64, len: usize) -> std::io::Result<&[u8]> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        if let Some(at) = at.filter(|at| at.saturating_add(len) <= self.buffer.len()) {
            return Ok(&self.buffer[at..at + len]);
        }
        self.buffer.resize(len.max(WINDOW.min(left)), 0);
        let mut filled = 0;
        while filled < self.buffer.len() {
            let at = offset + u64::try_from(filled).expect("fits");
            match self.file.read_at(&mut self.buffer[filled..], at)? {
                0 => break,
                read => filled += read,
            }
        }
        self.buffer.truncate(filled);
        self.start = offset;
        Ok(&self.buffer[..len.min(filled)])
    }
}
