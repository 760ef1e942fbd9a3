//! The disk as a process of the machine sees it: the runtime's [`Disk`] and its files, which the log uses.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay::runtime::{Disk, DiskFile, Lock, OpenHow};

use super::damage::{flip, is_log};
use super::undo::NameOp;
use super::{HostDisk, Owner, SECTOR, WriteDamage, gone};
use crate::trace::lock;

/// The disk as one process of the machine sees it.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) host: Arc<HostDisk>,
    pub(super) epoch: u64,
}

/// A file that a process has open.
pub struct SimFile {
    file: File,
    owner: Owner,
    /// Whether it belongs to the log.
    is_log: bool,
}

struct Held {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.disk.host.state);
        if state.locks.get(&self.path) == Some(&self.disk.epoch) {
            state.locks.remove(&self.path);
        }
    }
}

impl SimDisk {
    /// Returns the disk itself, as the nemesis sees it.
    pub fn host(&self) -> &Arc<HostDisk> {
        &self.host
    }

    /// Says whether the process is still alive.
    pub fn alive(&self) -> bool {
        self.host.alive(self.epoch)
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn open(&self, path: &Path, how: OpenHow) -> io::Result<SimFile> {
        self.host.operation(self.epoch, matches!(how, OpenHow::Create | OpenHow::CreateNew))?;
        let fresh = !path.exists();
        if fresh && matches!(how, OpenHow::Create | OpenHow::CreateNew) {
            self.host.needs_room(0)?;
        }
        let file = match how {
            OpenHow::Read => File::open(path)?,
            OpenHow::Write => File::options().read(true).write(true).open(path)?,
            OpenHow::Create => {
                File::options().read(true).write(true).create(true).truncate(true).open(path)?
            }
            OpenHow::CreateNew => {
                File::options().read(true).write(true).create_new(true).open(path)?
            }
        };
        if fresh {
            let dir = path.parent().unwrap_or(Path::new("")).to_owned();
            lock(&self.host.state).names.push(NameOp::Created { dir, path: path.to_owned() });
        }
        let owner = if how == OpenHow::Read {
            // The tracker rolls back through its own handle, which must be able to write.
            let writable = File::options().read(true).write(true).open(path)?;
            self.host.track(&writable, self.epoch)?
        } else {
            self.host.track(&file, self.epoch)?
        };
        Ok(SimFile { file, owner, is_log: is_log(path) })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.host.operation(self.epoch, true)?;
        let mut state = lock(&self.host.state);
        let replaced = if to.exists() {
            let kept = self.host.trash(&mut state);
            std::fs::rename(to, &kept)?;
            Some(kept)
        } else {
            None
        };
        std::fs::rename(from, to)?;
        state.names.push(NameOp::Renamed { from: from.to_owned(), to: to.to_owned(), replaced });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.host.operation(self.epoch, false)?;
        let mut state = lock(&self.host.state);
        let kept = self.host.trash(&mut state);
        std::fs::rename(path, &kept)?;
        state.names.push(NameOp::Removed { path: path.to_owned(), kept });
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.host.operation(self.epoch, true)?;
        if !path.exists() {
            self.host.needs_room(0)?;
        }
        let mut missing = Vec::new();
        let mut at = path;
        while !at.exists() {
            missing.push(at.to_owned());
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        std::fs::create_dir_all(path)?;
        let mut state = lock(&self.host.state);
        for path in missing.into_iter().rev() {
            let dir = path.parent().unwrap_or(Path::new("")).to_owned();
            state.names.push(NameOp::Created { dir, path });
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.host.syncs(self.epoch)?;
        let mut state = lock(&self.host.state);
        let (settled, open) = std::mem::take(&mut state.names)
            .into_iter()
            .partition(|name| name.dirs().contains(&Some(dir)));
        state.names = open;
        let settled: Vec<NameOp> = settled;
        for name in settled {
            name.settle(&mut state);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.host.operation(self.epoch, false)?;
        let mut state = lock(&self.host.state);
        if state.locks.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the lock is held"));
        }
        state.locks.insert(path.to_owned(), self.epoch);
        drop(state);
        Ok(Lock::new(Held { disk: self.clone(), path: path.to_owned() }))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = lock(&self.host.state);
        Ok(if state.full { 0 } else { state.room.unwrap_or(1 << 40) })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.owner.alive() {
            return Err(gone());
        }
        self.owner.host.may_read()?;
        let mut have = 0;
        while have < buf.len() {
            match FileExt::read_at(&self.file, &mut buf[have..], offset + have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        self.owner.host.rot_read(&mut buf[..have]);
        Ok(have)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let damage = if self.is_log { self.owner.host.next_write_damage(buf) } else { None };
        let Some((how, noise)) = damage else {
            return self.owner.write(&self.file, buf, offset, false);
        };
        match how {
            WriteDamage::Lost => self.owner.host.operation(self.owner.epoch, true),
            WriteDamage::Rot => {
                let mut rotten = buf.to_vec();
                flip(&mut rotten, noise);
                self.owner.write(&self.file, &rotten, offset, false)
            }
            WriteDamage::Misdirected => {
                // Within the file: a disk does not make it longer.
                let room = self.file.metadata()?.len().saturating_sub(buf.len() as u64);
                let sectors = room / SECTOR as u64 + 1;
                self.owner.write(&self.file, buf, noise % sectors * SECTOR as u64, false)
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.owner.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.owner.resize(&self.file, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
