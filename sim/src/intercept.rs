//! The C library's file calls, as LMDB makes them, led through the simulated disk.
//!
//! LMDB is C code linked into this program; it calls `pwrite` and its kin by name. The functions here
//! bear those names, so the linker binds LMDB to them. A call on a file of a simulated disk goes to
//! [`crate::disk`], where it is remembered until synced, refused when the process is dead or the disk
//! full, and where a sync costs nothing. Any other call goes to the kernel unchanged.
//!
//! Rust's standard library calls the `…64` variants, which are not defined here: the simulator's own
//! file access is never intercepted.
//!
//! NB: reads and the memory map see the real file, which is written through.

use std::io;
use std::sync::Once;

use libc::{c_int, c_void, iovec, off_t, size_t, ssize_t};

use crate::disk::{Caught, caught_resize, caught_sync, caught_write};

/// Makes sure that the linker takes this module in.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let functions: [*const (); 7] = [
            pwrite as *const (),
            pwritev as *const (),
            write as *const (),
            writev as *const (),
            fdatasync as *const (),
            fsync as *const (),
            ftruncate as *const (),
        ];
        std::hint::black_box(functions);
    });
}

fn fail(error: &io::Error) {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: `__errno_location` returns the calling thread's own errno.
    unsafe { *libc::__errno_location() = code };
}

fn outcome(result: io::Result<()>, written: usize) -> ssize_t {
    match result {
        Ok(()) => ssize_t::try_from(written).expect("a write's length fits"),
        Err(error) => {
            fail(&error);
            -1
        }
    }
}

fn status(result: io::Result<()>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            fail(&error);
            -1
        }
    }
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, buf: *const c_void, n: size_t, at: off_t) -> ssize_t {
    // SAFETY: the caller promises `n` readable bytes at `buf`, as pwrite(2) demands.
    let data = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), n) };
    match caught_write(fd, data, u64::try_from(at).unwrap_or(0)) {
        Caught::Done(result) => outcome(result, n),
        // SAFETY: the very call that was made.
        Caught::Foreign => unsafe { libc::syscall(libc::SYS_pwrite64, fd, buf, n, at) as ssize_t },
    }
}

unsafe fn gather(iov: *const iovec, count: c_int) -> Vec<u8> {
    let mut data = Vec::new();
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller promises `count` vectors of readable bytes, as writev(2) demands.
        let part = unsafe { &*iov.add(i) };
        // SAFETY: as above.
        data.extend_from_slice(unsafe {
            std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
        });
    }
    data
}

/// # Safety
/// As `pwritev(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(fd: c_int, iov: *const iovec, n: c_int, at: off_t) -> ssize_t {
    // SAFETY: the caller's promise for pwritev(2).
    let data = unsafe { gather(iov, n) };
    match caught_write(fd, &data, u64::try_from(at).unwrap_or(0)) {
        Caught::Done(result) => outcome(result, data.len()),
        // SAFETY: the very call that was made (the kernel takes the offset in two halves).
        Caught::Foreign => unsafe {
            libc::syscall(libc::SYS_pwritev, fd, iov, c_int::max(n, 0), at, 0) as ssize_t
        },
    }
}

/// Where the descriptor's cursor stands, moved on by `n`.
fn cursor(fd: c_int, n: usize) -> Option<u64> {
    // SAFETY: lseek touches no memory.
    let at = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
    let at = u64::try_from(at).ok()?;
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_lseek, fd, at + n as u64, libc::SEEK_SET) };
    Some(at)
}

/// # Safety
/// As `write(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t {
    // SAFETY: the very call that was made; LMDB uses write(2) only to copy an environment, and
    // everything else in this process (pipes, sockets, terminals) must not be touched.
    unsafe { libc::syscall(libc::SYS_write, fd, buf, n) as ssize_t }
}

/// # Safety
/// As `writev(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
    if fd >= 3 {
        // SAFETY: the caller's promise for writev(2).
        let data = unsafe { gather(iov, n) };
        // SAFETY: lseek touches no memory.
        let at = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        if let Ok(at) = u64::try_from(at)
            && let Caught::Done(result) = caught_write(fd, &data, at)
        {
            cursor(fd, data.len());
            return outcome(result, data.len());
        }
    }
    // SAFETY: the very call that was made.
    unsafe { libc::syscall(libc::SYS_writev, fd, iov, n) as ssize_t }
}

/// # Safety
/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    match caught_sync(fd) {
        Caught::Done(result) => status(result),
        // SAFETY: the very call that was made.
        Caught::Foreign => unsafe { libc::syscall(libc::SYS_fdatasync, fd) as c_int },
    }
}

/// # Safety
/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    match caught_sync(fd) {
        Caught::Done(result) => status(result),
        // SAFETY: the very call that was made.
        Caught::Foreign => unsafe { libc::syscall(libc::SYS_fsync, fd) as c_int },
    }
}

/// # Safety
/// As `ftruncate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, len: off_t) -> c_int {
    match caught_resize(fd, u64::try_from(len).unwrap_or(0)) {
        Caught::Done(result) => status(result),
        // SAFETY: the very call that was made.
        Caught::Foreign => unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) as c_int },
    }
}
