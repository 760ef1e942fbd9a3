//! Damage to what was durable: every bit of a log, every file of it. Refused with the place named,
//! or without any effect; never a log that silently forgets what it acknowledged.

use super::*;

/// A log of several segments with everything in it. Returns what it holds, what it held before its
/// last batch, and where in the last segment that batch begins.
fn sample(disk: &MemDisk, sealed: bool) -> (Model, Model, usize) {
    let options = LogOptions { segment_bytes: 1152 };
    let mut s = Session::create(disk, options).expect("created");
    for index in 1..=9 {
        s.append(&[entry(index, index / 4 + 1, 150)]).expect("pending");
        s.hard_state(HardState {
            term: Term(index / 4 + 1),
            vote: Some(NodeId(index)),
            commit: Index(index / 2),
        })
        .expect("pending");
        if index == 4 {
            s.trim(2).expect("pending");
        }
        s.sync().expect("synced");
    }
    s.append(&[entry(8, 4, 20)]).expect("pending");
    s.sync().expect("synced");
    let before = s.synced.clone();
    let start = usize::try_from(s.log().current.tail).expect("small");
    let count = s.log().segments.len();
    s.append(&[entry(9, 4, 20), entry(10, 4, 0)]).expect("pending");
    s.sync().expect("synced");
    assert!(count >= 3 && s.log().segments.len() == count, "the last batch begins no segment");
    if sealed {
        s.log.take().expect("open").close().expect("closed");
    }
    (s.synced, before, start)
}

fn files(disk: &MemDisk) -> Vec<PathBuf> {
    disk.list(dir()).expect("listed").iter().map(|name| dir().join(name)).collect()
}

/// Flips every bit of every file, one at a time, and returns for how many the log lost its last batch.
fn sweep(sealed: bool) -> (usize, usize) {
    let disk = MemDisk::default();
    let (whole, before, start) = sample(&disk, sealed);
    let (mut refused, mut shortened) = (0, 0);
    let last = files(&disk).pop().expect("there are segments");
    for path in files(&disk) {
        for at in 0..disk.read(&path).len() {
            for bit in 0..8 {
                let damaged = disk.copy();
                damaged.flip(&path, at, bit);
                match reopen(&damaged) {
                    Err(LogError::Rot { segment, offset, .. }) => {
                        assert!(segment == path || offset > 0, "{segment:?} for {path:?}");
                        refused += 1;
                    }
                    Err(LogError::Version { .. }) => panic!("a flipped version is damage"),
                    Err(other) => panic!("{path:?} byte {at} bit {bit}: {other}"),
                    Ok(found) if Model::of(&found) == whole => {}
                    Ok(found) => {
                        assert!(!sealed, "{path:?} byte {at} bit {bit}: something was lost");
                        assert_eq!(Model::of(&found), before, "{path:?} byte {at} bit {bit}");
                        assert!(path == last && at >= start, "only the last batch is undecidable");
                        assert!(found.repaired.is_some());
                        shortened += 1;
                    }
                }
            }
        }
    }
    (refused, shortened)
}

#[test]
pub(super) fn every_flipped_bit_of_a_closed_log_is_found_or_harmless() {
    let (refused, shortened) = sweep(true);
    assert!(refused > 10_000, "{refused}");
    assert_eq!(shortened, 0);
}

#[test]
pub(super) fn flipped_bits_shorten_a_log_that_was_not_closed_by_its_last_batch_at_most() {
    let (refused, shortened) = sweep(false);
    assert!(refused > 10_000, "{refused}");
    assert!(shortened > 0, "the undecidable case exists: see the module's argument");
}

#[test]
pub(super) fn a_zeroed_sector_under_later_batches_is_refused() {
    let disk = MemDisk::default();
    let (whole, ..) = sample(&disk, true);
    let paths = files(&disk);
    for path in &paths {
        for sector in 0..disk.read(path).len() / disk::SECTOR {
            let damaged = disk.copy();
            let mut bytes = damaged.read(path);
            let zeroed = &mut bytes[sector * disk::SECTOR..][..disk::SECTOR];
            let blank = zeroed.iter().all(|&byte| byte == 0);
            zeroed.fill(0);
            damaged.put(path, bytes);
            match reopen(&damaged) {
                Ok(found) => assert_eq!(Model::of(&found), whole),
                Err(error) => assert!(!blank && matches!(error, LogError::Rot { .. }), "{error}"),
            }
        }
    }
}

/// Where a batch ends, the bytes alone look like an orderly end of the log.
#[test]
pub(super) fn a_segment_that_was_cut_off_is_refused_wherever_the_cut_is() {
    for closed in [true, false] {
        let disk = MemDisk::default();
        sample(&disk, closed);
        for path in files(&disk).iter().filter(|path| path.extension() == Some("log".as_ref())) {
            let bytes = disk.read(path);
            for len in 0..bytes.len() {
                let damaged = disk.copy();
                damaged.put(path, bytes[..len].to_vec());
                match reopen(&damaged) {
                    Err(LogError::Rot { segment, .. }) => assert_eq!(segment, *path, "at {len}"),
                    other => panic!("cut at {len}: {other:?}"),
                }
            }
        }
    }
}

/// A disk may call a write done that it never did, or did elsewhere. Seed 21000265 of the whole-server
/// simulation: what stood in its place was a seal, and that reads like a batch.
#[test]
pub(super) fn a_write_that_the_disk_lost_is_found_once_the_log_is_closed() {
    for sealed in [false, true] {
        for later in 0..3 {
            let disk = MemDisk::default();
            let options = LogOptions { segment_bytes: 8192 };
            let mut s = Session::create(&disk, options).expect("created");
            s.append(&[entry(1, 1, 50)]).expect("pending");
            s.sync().expect("synced");
            if sealed {
                s.log.as_mut().expect("open").seal().expect("written");
            }
            let path = files(&disk).pop().expect("there is a segment");
            let (before, start) = (disk.read(&path), s.log().current.tail);
            s.append(&[entry(2, 1, 90)]).expect("pending");
            s.sync().expect("synced");
            let end = s.log().current.tail;
            for index in 3..3 + later {
                s.append(&[entry(index, 1, 10)]).expect("pending");
                s.sync().expect("synced");
            }
            s.log.take().expect("open").close().expect("closed");
            let place =
                usize::try_from(start).expect("small")..usize::try_from(end).expect("small");
            let mut bytes = disk.read(&path);
            bytes[place.clone()].copy_from_slice(&before[place]);
            disk.put(&path, bytes);
            let found = reopen(&disk);
            assert!(
                matches!(found, Err(LogError::Rot { .. })),
                "sealed {sealed}, {later} later: {:?}",
                found.map(|found| Model::of(&found))
            );
        }
    }
}

#[test]
pub(super) fn a_lost_segment_is_refused() {
    let disk = MemDisk::default();
    sample(&disk, false);
    let paths = files(&disk);
    let found: Vec<String> = paths
        .iter()
        .map(|path| {
            let damaged = disk.copy();
            damaged.lose(path);
            match reopen(&damaged) {
                Err(LogError::MissingSegment { number, .. }) => format!("segment {number}"),
                Err(LogError::MissingEntries { from, upto, .. }) => format!("{from} to {upto}"),
                Err(other) => panic!("{other}"),
                Ok(recovered) => format!("ends at {}", recovered.last()),
            }
        })
        .collect();
    // The first one lost: the mark covers what was in it, or not. The last one lost: the log alone can
    // tell by the commit index at best; what the store has applied tells more.
    assert_eq!(found, ["i3 to i4", "segment 2", "ends at i8@t3"]);
}

#[test]
pub(super) fn a_commit_index_beyond_the_end_is_refused() {
    let disk = MemDisk::default();
    let mut s = Session::create(&disk, OPTIONS).expect("created");
    s.append(&[entry(1, 1, 5)]).expect("pending");
    s.hard_state(HardState { term: Term(1), vote: None, commit: Index(2) }).expect("pending");
    s.sync().expect("synced");
    s.log = None;
    let Err(LogError::TooShort { known, .. }) = reopen(&disk) else { panic!("opened") };
    assert_eq!(known.index, Index(2));
}

#[test]
pub(super) fn arbitrary_bytes_are_refused_without_a_panic() {
    let mut dice = Dice(5);
    let disk = MemDisk::default();
    sample(&disk, true);
    for path in files(&disk) {
        for _ in 0..200 {
            let damaged = disk.copy();
            let mut bytes = damaged.read(&path);
            for _ in 0..1 + dice.roll(20) {
                let at = usize::try_from(dice.roll(bytes.len() as u64)).expect("small");
                bytes[at] = u8::try_from(dice.roll(256)).expect("a byte");
            }
            let keep = usize::try_from(dice.roll(bytes.len() as u64 + 1)).expect("small");
            if dice.roll(3) == 0 {
                bytes.truncate(keep);
            }
            damaged.put(&path, bytes);
            let _ = reopen(&damaged);
        }
    }
}
