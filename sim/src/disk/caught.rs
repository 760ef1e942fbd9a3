//! What LMDB asks of the C library: its calls name a descriptor, by which the file's tracker is found.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use super::{Owner, ROOTS, TRACKED, gone};
use crate::trace::lock;

/// What an intercepted call found out about its file.
pub(crate) enum Caught {
    /// Not one of ours: the call goes to the kernel as it is.
    Foreign,
    /// Done under the model.
    Done(io::Result<()>),
}

fn caught(fd: i32, act: impl FnOnce(&Owner, &File) -> io::Result<()>) -> Caught {
    if fd < 3 {
        return Caught::Foreign;
    }
    let file = match std::mem::ManuallyDrop::new(borrow(fd)).try_clone() {
        Ok(file) => file,
        Err(_) => return Caught::Foreign,
    };
    let Ok(meta) = file.metadata() else { return Caught::Foreign };
    if !meta.is_file() {
        return Caught::Foreign;
    }
    let known = lock(&TRACKED).get(&(meta.dev(), meta.ino())).cloned();
    let Some(owner) = known.or_else(|| adopt(fd)) else { return Caught::Foreign };
    if !owner.host.running.load(Ordering::SeqCst) {
        return Caught::Done(Err(gone()));
    }
    lock(&owner.host.state).counters.engine += 1;
    let epoch = owner.host.epoch.load(Ordering::SeqCst);
    Caught::Done(act(&Owner { epoch, ..owner }, &file))
}

/// Starts to track a file that LMDB opened by itself, if it lies on a simulated disk.
fn adopt(fd: i32) -> Option<Owner> {
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    // LMDB's table of readers means nothing to the next process: it is made anew.
    if path.file_name().is_some_and(|name| name == "lock.mdb") {
        return None;
    }
    let host = lock(&ROOTS).iter().find(|disk| path.starts_with(&disk.root)).cloned()?;
    let file = File::options().read(true).write(true).open(path).ok()?;
    let epoch = host.epoch.load(Ordering::SeqCst);
    host.track(&file, epoch).ok()
}

fn borrow(fd: i32) -> File {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller of the intercepted function vouches for the descriptor, and the value is
    // never dropped (`ManuallyDrop`), so it is not closed here.
    unsafe { File::from_raw_fd(fd) }
}

pub(crate) fn caught_write(fd: i32, buf: &[u8], offset: u64) -> Caught {
    caught(fd, |owner, file| {
        // SAFETY: F_GETFL reads the flags of an open descriptor and touches no memory.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        owner.write(file, buf, offset, flags & libc::O_DSYNC != 0)
    })
}

pub(crate) fn caught_sync(fd: i32) -> Caught {
    caught(fd, |owner, _| {
        lock(&owner.host.state).counters.engine_syncs += 1;
        owner.sync()
    })
}

pub(crate) fn caught_resize(fd: i32, len: u64) -> Caught {
    caught(fd, |owner, file| owner.resize(file, len))
}
