//! Which of several store directories is the one: `<stores>/<number>/`, and a file `current` that names
//! it. A snapshot is built in a new directory and becomes the store by one rename.
//!
//! Invariants:
//! - `current` is replaced by a rename of a synced file, and the directory synced after: a crash at any
//!   point leaves the old name or the new one, each with a complete store behind it;
//! - directories that `current` does not name are leftovers, removed at the next start.

use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::{Disk, DiskFile, OpenHow};

const CURRENT: &str = "current";
const NEXT: &str = "current.next";

/// Makes an empty directory for a new generation and returns it.
pub fn fresh<D: Disk>(disk: &D, stores: &Path) -> io::Result<PathBuf> {
    let newest = disk.list(stores)?.iter().filter_map(|name| name.parse::<u64>().ok()).max();
    let dir = stores.join(newest.map_or(1, |n| n + 1).to_string());
    disk.create_dir_all(&dir)?;
    disk.sync_dir(stores)?;
    Ok(dir)
}

/// Makes `dir` the current generation.
pub fn switch<D: Disk>(disk: &D, stores: &Path, dir: &Path) -> io::Result<()> {
    let name = dir.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::other("a generation's directory has a name"))?;
    // The files in it are synced by LMDB; their names are ours to make certain.
    disk.sync_dir(dir)?;
    let next = stores.join(NEXT);
    let file = disk.open(&next, OpenHow::Create)?;
    file.write_at(format!("{name}\n").as_bytes(), 0)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&next, &stores.join(CURRENT))?;
    disk.sync_dir(stores)
}

/// Returns the current generation and removes the others.
pub fn current<D: Disk>(disk: &D, stores: &Path) -> io::Result<PathBuf> {
    let file = disk.open(&stores.join(CURRENT), OpenHow::Read)?;
    let mut text = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    file.read_at(&mut text, 0)?;
    let name = std::str::from_utf8(&text).map_err(io::Error::other)?.trim();
    let number: u64 = name.parse().map_err(io::Error::other)?;
    for other in disk.list(stores)? {
        if other.parse::<u64>().is_ok_and(|other| other != number) {
            disk.remove_dir_all(&stores.join(other))?;
        }
    }
    Ok(stores.join(number.to_string()))
}
