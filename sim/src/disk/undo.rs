//! What was written and is not yet certain: for each file the writes since its last sync, and the names
//! that were made, changed or removed since their directories' last. A power loss takes some of it back.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Persistence, SECTOR, State, TRACKED};
use crate::rng::Rng;
use crate::trace::lock;

#[derive(Default)]
pub(super) struct Tracked {
    pub(super) file: Option<File>,
    pub(super) undo: Vec<Undo>,
}

pub(super) struct Undo {
    pub(super) offset: u64,
    /// What was there, as far as the file reached.
    pub(super) before: Vec<u8>,
    pub(super) after: Data,
    pub(super) len_before: u64,
    pub(super) len_after: u64,
    /// Written through a descriptor that syncs each write: kept whatever happens, but remembered,
    /// because what is rolled back may lie beneath it.
    pub(super) durable: bool,
}

/// What was written. A log pre-writes its segments with zeros by the megabyte: those are not kept as bytes.
pub(super) enum Data {
    Bytes(Vec<u8>),
    Zeros(usize),
}

const ZEROS: [u8; 4096] = [0; 4096];

impl Data {
    fn of(data: &[u8]) -> Self {
        if is_long_zeros(data) { Self::Zeros(data.len()) } else { Self::Bytes(data.to_vec()) }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.is_empty())
    }

    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Zeros(len) => Cow::Owned(vec![0; *len]),
        }
    }
}

fn is_long_zeros(data: &[u8]) -> bool {
    data.len() >= ZEROS.len() && data.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Writes; zeros beyond the end become a hole, which reads the same and takes no memory.
pub(super) fn put_at(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    if is_long_zeros(data) && offset >= file.metadata()?.len() {
        return file.set_len(offset + data.len() as u64);
    }
    file.write_all_at(data, offset)
}

pub(super) enum NameOp {
    Created { dir: PathBuf, path: PathBuf },
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<PathBuf> },
    Removed { path: PathBuf, kept: PathBuf },
}

impl Tracked {
    pub(super) fn note(&mut self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        if durable && self.undo.is_empty() {
            return Ok(());
        }
        // NB: not through the caller's descriptor, which may be open for writing only (LMDB's meta pages).
        let file = self.file.as_ref().expect("a tracked file is open from the beginning");
        let len_before = file.metadata()?.len();
        let reached = usize::try_from(len_before.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut before = vec![0; data.len().min(reached)];
        let mut have = 0;
        while have < before.len() {
            match FileExt::read_at(file, &mut before[have..], offset + have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        let len_after = len_before.max(offset + data.len() as u64);
        self.undo.push(Undo {
            offset,
            before,
            after: Data::of(data),
            len_before,
            len_after,
            durable,
        });
        Ok(())
    }

    pub(super) fn lose(&mut self, model: Persistence, rng: &mut Rng) -> u64 {
        let undo = std::mem::take(&mut self.undo);
        let Some(file) = &self.file else { return 0 };
        for write in undo.iter().rev() {
            let _ = file.write_all_at(&write.before, write.offset);
            let _ = file.set_len(write.len_before);
        }
        let keep = match model {
            Persistence::Nothing => 0,
            Persistence::Prefix => rng.index(undo.len() + 1),
            _ => undo.len(),
        };
        let mut lost = 0;
        for (i, write) in undo.iter().enumerate() {
            if write.durable {
                let _ = put_at(file, &write.after.bytes(), write.offset);
                continue;
            }
            if i >= keep || (model == Persistence::Subset && rng.below(2) == 0) {
                lost += 1;
                continue;
            }
            if model != Persistence::Torn || write.after.is_empty() {
                let _ = put_at(file, &write.after.bytes(), write.offset);
                let _ = file.set_len(write.len_after);
                continue;
            }
            let mut whole = true;
            for (offset, sector) in sectors(write.offset, &write.after.bytes()) {
                if rng.below(3) == 0 {
                    whole = false;
                } else {
                    let _ = file.write_all_at(sector, offset);
                }
            }
            lost += u64::from(!whole);
        }
        lost
    }
}

/// Cuts a write where the disk's sectors end.
fn sectors(mut offset: u64, mut data: &[u8]) -> Vec<(u64, &[u8])> {
    let mut parts = Vec::new();
    while !data.is_empty() {
        let room = SECTOR - usize::try_from(offset % SECTOR as u64).expect("less than a sector");
        let (part, rest) = data.split_at(room.min(data.len()));
        parts.push((offset, part));
        offset += part.len() as u64;
        data = rest;
    }
    parts
}

impl NameOp {
    pub(super) fn dirs(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Created { dir, .. } => [Some(dir), None],
            Self::Renamed { from, to, .. } => [from.parent(), to.parent()],
            Self::Removed { path, .. } => [path.parent(), None],
        }
    }

    /// What cannot be undone any more gives back the room of what it removed or replaced.
    pub(super) fn settle(self, state: &mut State) {
        let (Self::Removed { kept, .. } | Self::Renamed { replaced: Some(kept), .. }) = self else {
            return;
        };
        let mut paths = vec![kept];
        while let Some(path) = paths.pop() {
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if meta.is_dir() {
                paths.extend(
                    std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()),
                );
                continue;
            }
            let id = (meta.dev(), meta.ino());
            state.files.remove(&id);
            lock(&TRACKED).remove(&id);
            // Left over if it fails: then the run's directory goes as a whole at its end.
            let _ = std::fs::remove_file(&path);
        }
    }

    pub(super) fn undo(self) {
        match self {
            Self::Created { path, .. } => {
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_dir_all(&path);
            }
            Self::Renamed { from, to, replaced } => {
                let _ = std::fs::rename(&to, &from);
                if let Some(kept) = replaced {
                    let _ = std::fs::rename(kept, to);
                }
            }
            Self::Removed { path, kept } => {
                let _ = std::fs::rename(kept, path);
            }
        }
    }
}
