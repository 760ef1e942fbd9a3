//! Which of several directories is the store: an atomic switch from an old one to a new one.
//!
//! ```text
//! store/CURRENT               names the generation in force, with a checksum
//! store/0000000000000003/     an LMDB environment
//! store/0000000000000004/     one being filled, or one that the switch left behind
//! ```
//! A snapshot, a restored backup or a compacting copy is built in a directory of its own and made
//! durable there; then the name in `CURRENT` is replaced, by a rename. A crash at any point leaves the
//! old generation or the new one in force, never none and never a mixture. What is not in force is
//! deleted at the next opening, or when the caller has closed the old environment.
//!
//! The functions keep no state: there is one member a directory, and it does one switch at a time.
//!
//! NB: without `CURRENT` nothing is deleted. Either the very first generation was never finished, or
//! somebody lost the file; the caller, who knows whether there should be a store, decides.

use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::{Disk, DiskFile, OpenHow};

/// Returns the directory in force, and deletes all others. Called at start only, when no environment
/// is open. `NotFound` before the first switch; nothing is deleted then.
pub fn current<D: Disk>(disk: &D, dir: &Path) -> io::Result<PathBuf> {
    let Some(number) = read_current(disk, dir)? else {
        let text = format!("no store is in force in {}", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    };
    let path = path(dir, number);
    if !disk.exists(&path) {
        let text = format!("{} is the store in force, and it is missing", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // The name that was read may be in the page cache only, left there by a killed process.
    disk.sync_dir(dir)?;
    remove_others(disk, dir)?;
    Ok(path)
}

/// Makes an empty directory to build a generation in. The parent is made if need be; where that is
/// new as well, making it durable is the caller's.
pub fn fresh<D: Disk>(disk: &D, dir: &Path) -> io::Result<PathBuf> {
    disk.create_dir_all(dir)?;
    let number = list(disk, dir)?.last().map_or(1, |last| last + 1);
    let path = path(dir, number);
    disk.create_dir_all(&path)?;
    Ok(path)
}

/// Puts a generation in force whose files are durable. From here on a restart finds it. The old one
/// stays on disk until somebody removes it.
pub fn switch<D: Disk>(disk: &D, dir: &Path, to: &Path) -> io::Result<()> {
    let number = to.file_name().and_then(|name| parse_name(name.to_str()?));
    let number = number.ok_or_else(|| io::Error::other("not the directory of a generation"))?;
    disk.sync_dir(to)?;
    disk.sync_dir(dir)?;
    let (new, current) = (dir.join("CURRENT.new"), dir.join("CURRENT"));
    let file = disk.open(&new, OpenHow::Create)?;
    file.write_at(encode(number).as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename(&new, &current)?;
    disk.sync_dir(dir)
}

/// Deletes every generation that is not in force, unless none is. No environment may be open, and none be
/// arriving.
fn remove_others<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
    let Some(current) = read_current(disk, dir)? else { return Ok(()) };
    for number in list(disk, dir)?.into_iter().filter(|&number| number != current) {
        disk.remove_dir_all(&path(dir, number))?;
    }
    let new = dir.join("CURRENT.new");
    if disk.exists(&new) {
        disk.remove_file(&new)?;
    }
    Ok(())
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}"))
}

fn parse_name(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok().filter(|_| name.len() == 16)
}

/// Returns the numbers of all generations there are, ascending.
fn list<D: Disk>(disk: &D, dir: &Path) -> io::Result<Vec<u64>> {
    let names = disk.list(dir)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| parse_name(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn read_current<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<u64>> {
    let path = dir.join("CURRENT");
    if !disk.exists(&path) {
        return Ok(None);
    }
    let file = disk.open(&path, OpenHow::Read)?;
    let mut text = [0; 128];
    let len = file.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(&text[..len]).unwrap_or_default();
    let number = text.split(' ').nth(1).and_then(parse_name);
    match number.filter(|&number| encode(number) == text) {
        Some(number) => Ok(Some(number)),
        None => {
            let text = format!("{} is damaged: it names no generation", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn encode(number: u64) -> String {
    let name = format!("generation {number:016x}");
    format!("{name} {:08x}\n", crc32c::crc32c(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::disk::{MemDisk, Survives};

    fn dir() -> &'static Path {
        Path::new("/member/store")
    }

    /// Builds a generation that holds one durable file with its own number in it, and switches.
    fn advance(disk: &MemDisk) -> io::Result<()> {
        let built = fresh(disk, dir())?;
        let number = parse_name(built.file_name().and_then(|n| n.to_str()).expect("named"));
        let file = disk.open(&built.join("data.mdb"), OpenHow::Create)?;
        file.write_at(&number.expect("a number").to_le_bytes(), 0)?;
        file.sync_data()?;
        switch(disk, dir(), &built)?;
        remove_others(disk, dir())
    }

    /// Returns the number that the generation in force holds, and checks that it is all there is.
    fn in_force(disk: &MemDisk) -> Option<u64> {
        let path = match current(disk, dir()) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => panic!("refused after a crash: {error}"),
        };
        let bytes = disk.read(&path.join("data.mdb"));
        assert_eq!(list(disk, dir()).expect("listed").len(), 1, "leftovers are deleted");
        assert!(!disk.exists(&dir().join("CURRENT.new")));
        Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes, whole")))
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_old_generation_or_the_new_one() {
        let empty = MemDisk::default();
        empty.create_dir_all(dir()).expect("made");
        empty.sync_dir(Path::new("/")).expect("synced");
        empty.sync_dir(Path::new("/member")).expect("synced");
        let mut counted = 0;
        for (fuse, switches) in (0..60).flat_map(|fuse| [(fuse, 1), (fuse, 3)]) {
            let disk = empty.copy();
            disk.set_fuse(Some(fuse));
            let mut done = 0;
            while done < switches && advance(&disk).is_ok() {
                done += 1;
            }
            let (sectors, names) = disk.unsynced();
            for (mask, names) in (0..1 << sectors).flat_map(|m| (0..=names).map(move |n| (m, n))) {
                let mut left: u32 = mask;
                let mut sector = || {
                    left = left.rotate_right(1);
                    left >> 31 == 1
                };
                let lost = disk.power_loss(Survives::Sectors { sector: &mut sector, names });
                let found = in_force(&lost).unwrap_or(0);
                assert!(found == done || found == done + 1, "fuse {fuse}: {found} after {done}");
                assert_eq!(in_force(&lost).unwrap_or(0), found, "opening changes nothing");
                counted += 1;
            }
        }
        assert!(counted > 150, "{counted}");
    }

    #[test]
    fn damage_and_loss_are_told_apart_from_a_fresh_start() {
        let disk = MemDisk::default();
        let unfinished = fresh(&disk, dir()).expect("made");
        assert_eq!(in_force(&disk), None);
        assert!(disk.exists(&unfinished), "nothing is deleted while nothing is in force");
        advance(&disk).expect("switched");
        assert!(!disk.exists(&unfinished));
        assert_eq!(in_force(&disk), Some(2));

        let name = dir().join("CURRENT");
        for at in 0..disk.read(&name).len() {
            let damaged = disk.copy();
            damaged.flip(&name, at, 2);
            let error = current(&damaged, dir()).expect_err("refused");
            assert!(error.to_string().contains("damaged"), "byte {at}: {error}");
        }
        disk.lose(&current(&disk, dir()).expect("in force"));
        let error = current(&disk, dir()).expect_err("refused");
        assert!(error.to_string().contains("missing"), "{error}");
        assert!(switch(&disk, dir(), Path::new("/elsewhere")).is_err());
    }
}
