//! A disk in memory that loses power: every 512-byte sector that was written and not synced survives
//! or not, one by one; names that were not synced survive up to some point of their order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::runtime::{Disk, DiskFile, Lock, OpenHow};

pub(crate) const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(crate) struct MemDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Clone, Default)]
struct World {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    /// Changes of names that are not synced, in order.
    changes: Vec<Change>,
    locked: BTreeSet<PathBuf>,
    /// Writes, syncs and changes of names still allowed before the power goes.
    fuse: Option<u32>,
    /// How many of them there were.
    operations: u32,
    /// The bytes by which files may still grow, and how many the disk says are free.
    room: Option<(usize, u64)>,
}

/// Files by path; directories are listed with [`DIR`].
type Names = BTreeMap<PathBuf, usize>;

const DIR: usize = usize::MAX;

/// A change of names within one directory.
#[derive(Clone)]
struct Change {
    remove: Option<PathBuf>,
    insert: Option<(PathBuf, usize)>,
}

impl Change {
    fn apply(&self, names: &mut Names) {
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, inode)) = &self.insert {
            names.insert(path.clone(), *inode);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let path = self.insert.as_ref().map(|(path, _)| path).or(self.remove.as_ref());
        path.and_then(|path| path.parent()) == Some(dir)
    }
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// What of the unsynced changes survives a power loss.
pub(crate) enum Survives<'a> {
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
    pub(crate) fn set_fuse(&self, fuse: Option<u32>) {
        self.world().fuse = fuse;
    }

    /// Limits the growth of files, and what the disk says is free, which may be more (a file system's
    /// quota is like that).
    pub(crate) fn set_room(&self, bytes: usize, told: u64) {
        self.world().room = Some((bytes, told));
    }

    /// Returns the number of operations so far.
    pub(crate) fn operations(&self) -> u32 {
        self.world().operations
    }

    /// Returns an independent copy of the disk as it is, as after a kill of the process.
    pub(crate) fn copy(&self) -> Self {
        let mut world = self.world().clone();
        world.locked.clear();
        world.fuse = None;
        Self { world: Arc::new(Mutex::new(world)) }
    }

    /// Returns how many sectors are dirty, and how many changes of names.
    pub(crate) fn unsynced(&self) -> (usize, usize) {
        let world = self.world();
        (world.inodes.iter().map(|inode| inode.dirty.len()).sum(), world.changes.len())
    }

    /// Returns the disk as it is found after a power loss.
    pub(crate) fn power_loss(&self, survives: Survives<'_>) -> Self {
        let copy = self.copy();
        let mut world = copy.world();
        let world = &mut *world;
        match survives {
            Survives::Sectors { sector, names } => {
                world.changes.truncate(names);
                for inode in &mut world.inodes {
                    inode.crash(|_, _| if sector() { SECTOR } else { 0 });
                }
            }
            Survives::Prefix(bytes) => {
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
        for change in std::mem::take(&mut world.changes) {
            change.apply(&mut world.durable_names);
        }
        // A file whose directory is lost cannot be found.
        let all = world.durable_names.clone();
        let root = Path::new("/");
        let held = |path: &Path| path == root || all.get(path) == Some(&DIR);
        world.durable_names.retain(|path, _| path.ancestors().skip(1).all(held));
        world.names = world.durable_names.clone();
        copy.clone()
    }

    /// Flips one bit of a file, for good.
    pub(crate) fn flip(&self, path: &Path, at: usize, bit: u8) {
        let mut world = self.world();
        let inode = world.names[path];
        let inode = &mut world.inodes[inode];
        inode.current[at] ^= 1 << bit;
        inode.durable[at] ^= 1 << bit;
    }

    /// Returns a file's contents.
    pub(crate) fn read(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        world.inodes[world.names[path]].current.clone()
    }

    /// Puts a file there, durably.
    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut world = self.world();
        for dir in path.ancestors().skip(1).filter(|dir| dir.parent().is_some()) {
            world.names.insert(dir.into(), DIR);
            world.durable_names.insert(dir.into(), DIR);
        }
        let id = world.inodes.len();
        world.inodes.push(Inode { current: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        world.names.insert(path.into(), id);
        world.durable_names.insert(path.into(), id);
    }

    /// Takes a file away, durably.
    pub(crate) fn lose(&self, path: &Path) {
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

    fn change(&mut self, remove: Option<PathBuf>, insert: Option<(PathBuf, usize)>) {
        let change = Change { remove, insert };
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn open(&self, path: &Path, how: OpenHow) -> io::Result<MemFile> {
        let mut world = self.world();
        let inode = match how {
            OpenHow::Read | OpenHow::Write => world.find(path)?,
            OpenHow::CreateNew if world.find(path).is_ok() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            OpenHow::Create | OpenHow::CreateNew => {
                world.find(path.parent().expect("no file is the root"))?;
                world.operate()?;
                world.inodes.push(Inode::default());
                let id = world.inodes.len() - 1;
                world.change(None, Some((path.into(), id)));
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
        let inode = world.find(from)?;
        assert!(inode != DIR && from.parent() == to.parent(), "not needed so far");
        world.change(Some(from.into()), Some((to.into(), inode)));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.find(path)?;
        world.change(Some(path.into()), None);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let inside = world.names.keys().filter(|name| name.starts_with(path));
        for name in inside.rev().cloned().collect::<Vec<_>>() {
            world.operate()?;
            world.change(Some(name), None);
        }
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let missing = path.ancestors().filter(|dir| dir.parent().is_some());
        for dir in missing.collect::<Vec<_>>().into_iter().rev() {
            if world.find(dir).is_err() {
                world.operate()?;
                world.change(None, Some((dir.into(), DIR)));
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        let world = &mut *world;
        world.changes.retain(|change| {
            if change.is_in(dir) {
                change.apply(&mut world.durable_names);
            }
            !change.is_in(dir)
        });
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.world().find(path).is_ok()
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
        Ok(self.world().room.map_or(u64::MAX, |(_, told)| told))
    }
}

pub(crate) struct MemFile {
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
        let offset = usize::try_from(offset).expect("small");
        let growth = (offset + buf.len()).saturating_sub(world.inodes[self.inode].current.len());
        if let Some((room, _)) = &mut world.room {
            *room = room.checked_sub(growth).ok_or(io::ErrorKind::StorageFull)?;
        }
        world.inodes[self.inode].write(buf, offset);
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
