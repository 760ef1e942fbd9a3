//! The kernel's file system, as the production half of the runtime's disk.
//!
//! Each call is one or two system calls on the calling thread. Files are readable by their owner only.
//! Left out: preallocation (the log writes zeros itself), memory maps, direct I/O.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use super::{Disk, DiskFile, Lock, OpenHow};

/// The kernel's file system.
#[derive(Clone, Copy, Debug)]
pub struct Files;

impl Disk for Files {
    type File = std::fs::File;

    fn open(&self, path: &Path, how: OpenHow) -> io::Result<std::fs::File> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match how {
            OpenHow::Read => &mut options,
            OpenHow::Write => options.write(true),
            OpenHow::Create => options.write(true).create(true).truncate(true),
            OpenHow::CreateNew => options.write(true).create_new(true),
        };
        options.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        use rustix::fs::{FlockOperation, flock};
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock::new(file))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for std::fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match FileExt::read_at(self, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("lock");
        let held = Files.lock(&path).expect("free");
        assert_eq!(Files.lock(&path).expect_err("held").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        Files.lock(&path).expect("free again");
    }

    #[test]
    fn files_are_read_and_written_at_offsets() {
        let dir = tempfile::tempdir().expect("dir");
        let sub = dir.path().join("a/b");
        Files.create_dir_all(&sub).expect("mkdir");
        let file = Files.open(&sub.join("f"), OpenHow::CreateNew).expect("create");
        DiskFile::write_at(&file, b"world", 3).expect("write");
        DiskFile::sync_data(&file).expect("sync");
        Files.sync_dir(&sub).expect("sync");
        let mut bytes = [9; 10];
        assert_eq!(DiskFile::read_at(&file, &mut bytes, 1).expect("read"), 7);
        assert_eq!(&bytes[..7], b"\0\0world");
        let again = Files.open(&sub.join("f"), OpenHow::CreateNew).expect_err("exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(
            DiskFile::len(&Files.open(&sub.join("f"), OpenHow::Create).expect("cut")).expect("len"),
            0
        );
        let read_only = Files.open(&sub.join("f"), OpenHow::Read).expect("open");
        DiskFile::write_at(&read_only, b"x", 0).expect_err("read only");
        Files.rename(&sub.join("f"), &sub.join("e")).expect("rename");
        assert_eq!(Files.list(&sub).expect("list"), ["e"]);
        assert!(Files.free_bytes(&sub).expect("statvfs") > 0);
        Files.remove_dir_all(&sub).expect("rm");
        assert!(!Files.exists(&sub));
    }
}
