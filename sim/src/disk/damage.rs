//! Disks that lie: what no contract allows, and what happens all the same. Reads that fail, rot in what is read,
//! written or at rest, writes that are lost or land elsewhere, files that were cut off.
//!
//! Writes are damaged in files of the log only. LMDB reads its file by the memory map, and has the crash
//! matrix's sweep.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::HostDisk;
use crate::trace::lock;

/// What a disk may do to a write and call it done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDamage {
    /// One bit is flipped.
    Rot,
    /// It lands elsewhere in the file, on a sector's boundary.
    Misdirected,
    /// It is not written at all.
    Lost,
}

/// One bit of a read is flipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadDamage {
    /// How many reads pass before.
    after: u64,
    /// Decides which bit.
    noise: u64,
}

impl HostDisk {
    /// Lets the next `n` reads fail with an I/O error, over restarts.
    pub fn fail_reads(&self, n: u64) {
        lock(&self.state).fail_reads = n;
    }

    /// Flips a bit in one read to come, over restarts; the file itself is right.
    pub fn damage_read(&self, after: u64, noise: u64) {
        lock(&self.state).read_damage = Some(ReadDamage { after, noise });
    }

    /// Damages the next write to a file of the log, without a word.
    pub fn damage_write(&self, how: WriteDamage, noise: u64) {
        lock(&self.state).write_damage = Some((how, noise));
    }

    /// Flips a bit of the log at rest, among the bytes that say something.
    pub fn rot_log(&self, noise: u64) {
        let Some(path) = self.a_segment(noise) else { return };
        let bytes = std::fs::read(&path).expect("a segment is read");
        let said: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        if let Some(at) =
            said.get(usize::try_from(noise / 7 % said.len().max(1) as u64).expect("an index"))
        {
            let bit = u8::try_from(noise % 8).expect("below eight");
            self.flip(&path, *at as u64, bit).expect("a segment is written");
            lock(&self.state).counters.damages += 1;
        }
    }

    /// Cuts a segment of the log off somewhere.
    pub fn cut_log(&self, noise: u64) {
        let Some(path) = self.a_segment(noise) else { return };
        let file = File::options().write(true).open(path).expect("a segment is opened");
        let len = file.metadata().expect("a file has a length").len();
        file.set_len(noise / 7 % len.max(1)).expect("a file is cut");
        lock(&self.state).counters.damages += 1;
    }

    /// Chooses one of the segments of the log.
    fn a_segment(&self, noise: u64) -> Option<PathBuf> {
        let (mut found, mut dirs) = (Vec::new(), vec![self.root.clone()]);
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    found.push(path);
                }
            }
        }
        found.sort();
        let at = noise % found.len().max(1) as u64;
        found.into_iter().nth(usize::try_from(at).expect("an index fits"))
    }

    /// Takes back whatever damage has not been done.
    pub fn spare(&self) {
        let mut state = lock(&self.state);
        (state.fail_reads, state.read_damage, state.write_damage) = (0, None, None);
        state.crash_in_sync = None;
    }

    pub(super) fn may_read(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.fail_reads == 0 {
            return Ok(());
        }
        state.fail_reads -= 1;
        state.counters.errors += 1;
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    pub(super) fn rot_read(&self, data: &mut [u8]) {
        let mut state = lock(&self.state);
        let Some(damage) = &mut state.read_damage else { return };
        if damage.after > 0 || data.is_empty() {
            damage.after = damage.after.saturating_sub(1);
            return;
        }
        flip(data, damage.noise);
        state.read_damage = None;
        state.counters.damages += 1;
    }

    /// Takes the damage that is to befall this write, if any. What is prepared for a segment to come is zeros, on
    /// which nothing rests: that is left alone.
    pub(super) fn next_write_damage(&self, written: &[u8]) -> Option<(WriteDamage, u64)> {
        let mut state = lock(&self.state);
        if state.write_damage.is_none() || written.iter().all(|byte| *byte == 0) {
            return None;
        }
        let damage = state.write_damage.take()?;
        state.counters.damages += 1;
        Some(damage)
    }
}

/// Says whether a file belongs to the log, or will: a segment is opened under a spare's name.
pub(super) fn is_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".log") || name.starts_with("spare.") || name.starts_with("new.")
}

/// Flips one bit, which `noise` decides, of what is not empty.
pub(super) fn flip(data: &mut [u8], noise: u64) {
    let bits = data.len() as u64 * 8;
    let bit = noise % bits;
    data[usize::try_from(bit / 8).expect("an index fits")] ^= 1 << (bit % 8);
}
