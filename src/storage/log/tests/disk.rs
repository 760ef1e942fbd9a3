//! A disk in memory that loses power: every 512-byte sector that was written and not synced survives
//! or not, one by one; names that were not synced survive up to some point of their order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::runtime::{Disk, DiskFile, Lock, OpenHow};

pub(super) const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(super) struct MemDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Clone, Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not synced, in order.
    renames: Vec<BTreeMap<PathBuf, usize>>,
    locked: BTreeSet<PathBuf>,
    /// Writes, syncs and changes of names still allowed before the power goes.
    fuse: Option<u32>,
    /// How many of them there were.
    operations: u32,
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// What of the unsynced changes survives a power loss.
pub(super) enum Survives<'a> {
    /// The sectors for which this returns true, asked in order; names as far as `names` of them.
    Sectors { sector: &'a mut dyn FnMut() -> bool, names: usize },
    /// All names, and the dirty bytes of all files up to a count of bytes.
    Prefix(usize),
}

impl MemDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test thread panicked with the disk locked")
    }

    /// Lets the power go after so many more operations.
    pub(super) fn set_fuse(&self, fuse: Option<u32>) {
        self.world().fuse = fuse;
    }

    /// Returns the number of operations so far.
    pub(super) fn operations(&self) -> u32 {
        self.world().operations
    }

    /// Returns an independent copy of the disk as it is, as after a kill of the process.
    pub(super) fn copy(&self) -> Self {
        let mut world = self.world().clone();
        world.locked.clear();
        world.fuse = None;
        Self { world: Arc::new(Mutex::new(world)) }
    }

    /// Returns how many sectors are dirty, and how many changes of names.
    pub(super) fn unsynced(&self) -> (usize, usize) {
        let world = self.world();
        let names = world.names.values().copied().collect::<BTreeSet<_>>();
        let held = world.durable_names.values().copied().collect::<BTreeSet<_>>();
        let sectors = names.union(&held).map(|&i| world.inodes[i].dirty.len()).sum();
        (sectors, world.renames.len())
    }

    /// Returns the disk as it is found after a power loss.
    pub(super) fn power_loss(&self, survives: Survives<'_>) -> Self {
        let copy = self.copy();
        let mut world = copy.world();
        let world = &mut *world;
        match survives {
            Survives::Sectors { sector, names } => {
                if let Some(at) = names.checked_sub(1).filter(|_| !world.renames.is_empty()) {
                    let at = at.min(world.renames.len() - 1);
                    world.durable_names = world.renames[at].clone();
                }
                for inode in &mut world.inodes {
                    inode.crash(|_, _| if sector() { SECTOR } else { 0 });
                }
            }
            Survives::Prefix(bytes) => {
                world.durable_names = world.names.clone();
                let mut left = bytes;
                for inode in &mut world.inodes {
                    inode.crash(|durable, current| {
                        // Bytes that the write did not change take no part in the count.
                        let from = durable.iter().zip(current).take_while(|(a, b)| a == b).count();
                        let kept = (from + left).min(SECTOR);
                        left -= kept - from.min(kept);
                        kept
                    });
                }
            }
        }
        world.names = world.durable_names.clone();
        world.renames.clear();
        drop(std::mem::take(&mut world.locked));
        copy.clone()
    }

    /// Flips one bit of a file, for good.
    pub(super) fn flip(&self, path: &Path, at: usize, bit: u8) {
        let mut world = self.world();
        let inode = world.names[path];
        let inode = &mut world.inodes[inode];
        inode.current[at] ^= 1 << bit;
        inode.durable[at] ^= 1 << bit;
    }

    /// Returns a file's contents.
    pub(super) fn read(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        world.inodes[world.names[path]].current.clone()
    }

    /// Puts a file there, durably.
    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut world = self.world();
        let id = world.inodes.len();
        world.inodes.push(Inode { current: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        world.names.insert(path.into(), id);
        world.durable_names.insert(path.into(), id);
    }

    /// Takes a file away, durably.
    pub(super) fn lose(&self, path: &Path) {
        let mut world = self.world();
        world.names.remove(path).expect("the file is there");
        world.durable_names.remove(path);
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    /// Keeps, of each dirty sector, as many bytes as `kept` says for (durable, current).
    fn crash(&mut self, mut kept: impl FnMut(&[u8], &[u8]) -> usize) {
        let mut found = self.durable.clone();
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR;
            let new = &self.current[start..self.current.len().min(start + SECTOR)];
            let mut old = self.durable.get(start..).unwrap_or_default().to_vec();
            old.resize(new.len(), 0);
            let kept = kept(&old, new).min(new.len());
            if kept > 0 {
                if found.len() < start + new.len() {
                    found.resize(start + new.len(), 0);
                }
                found[start..start + kept].copy_from_slice(&new[..kept]);
            }
        }
        self.current.clone_from(&found);
        self.durable = found;
    }
}

impl World {
    /// Burns the fuse; an error once the power is gone.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn names_changed(&mut self) {
        self.renames.push(self.names.clone());
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn open(&self, path: &Path, how: OpenHow) -> io::Result<MemFile> {
        let mut world = self.world();
        let found = world.names.get(path).copied();
        let inode = match (found, how) {
            (Some(_), OpenHow::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), OpenHow::Read | OpenHow::Write) => inode,
            (None, OpenHow::Read | OpenHow::Write) => return Err(io::ErrorKind::NotFound.into()),
            (_, OpenHow::Create | OpenHow::CreateNew) => {
                world.operate()?;
                world.inodes.push(Inode::default());
                let id = world.inodes.len() - 1;
                world.names.insert(path.into(), id);
                world.names_changed();
                id
            }
        };
        Ok(MemFile { disk: self.clone(), inode })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let inside = world.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        let inode = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.into(), inode);
        world.names_changed();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        world.names_changed();
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.names.retain(|name, _| !name.starts_with(path));
        world.names_changed();
        Ok(())
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.durable_names = world.names.clone();
        world.renames.clear();
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.world().names.keys().any(|name| name.starts_with(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        struct Held(MemDisk, PathBuf);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.world().locked.remove(&self.1);
            }
        }
        if !self.world().locked.insert(path.into()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Lock::new(Held(self.clone(), path.into())))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

pub(super) struct MemFile {
    disk: MemDisk,
    inode: usize,
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.world();
        let bytes = &world.inodes[self.inode].current;
        let rest = bytes.get(usize::try_from(offset).expect("small")..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        world.inodes[self.inode].write(buf, usize::try_from(offset).expect("small"));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        let inode = &mut world.inodes[self.inode];
        inode.durable = inode.current.clone();
        inode.dirty.clear();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        world.inodes[self.inode].current.resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.disk.world();
        Ok(world.inodes[self.inode].current.len().try_into().expect("fits"))
    }
}
