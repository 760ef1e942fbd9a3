//! Files made ready to become segments: recycled ones, or new ones written with zeros beforehand, so
//! that writing the log changes no file's length and allocates nothing.
//!
//! File names: `<number>.log` is a segment, `spare.<n>` is ready to become one, `new.<n>` is being
//! filled. Only a rename turns one into the other, so a name never promises what is not there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{At, LogError};
use crate::buggify;
use crate::runtime::{Disk, DiskFile, OpenHow};

/// Spares kept; a recycled file beyond that is removed.
const SPARES_MAX: usize = 2;

const ZEROS: usize = 1 << 20;

/// What a new spare leaves free on the disk: on one that is nearly full, room is for entries and for the
/// store, and not for zeros.
const LEAVES_FREE: u64 = 64 << 20;

/// How many times a spare is not asked for again after one that could not be made. It is asked for after
/// each batch.
const ATTEMPTS_PASSED_OVER: u32 = 1000;

/// The spares of one log, shared with the jobs that make them.
#[derive(Clone)]
pub(super) struct Spares {
    pool: Arc<Mutex<Pool>>,
}

struct Pool {
    ready: Vec<PathBuf>,
    /// Whether a job is under way.
    making: bool,
    /// How many more times nobody tries.
    passed_over: u32,
    next: u64,
}

impl Spares {
    /// Takes over what an earlier run left in the directory: spares of the right size are kept, files
    /// that were being filled are removed.
    pub(super) fn adopt<D: Disk>(disk: &D, dir: &Path, bytes: u64) -> Result<Self, LogError> {
        let mut pool = Pool { ready: Vec::new(), making: false, passed_over: 0, next: 1 };
        for name in disk.list(dir).at(dir)? {
            let path = dir.join(&name);
            if let Some(n) = name.strip_prefix("spare.").and_then(|n| n.parse::<u64>().ok()) {
                pool.next = pool.next.max(n.saturating_add(1));
                let len = disk.open(&path, OpenHow::Read).and_then(|file| file.len()).at(&path)?;
                if len == bytes && pool.ready.len() < SPARES_MAX {
                    pool.ready.push(path);
                } else {
                    disk.remove_file(&path).at(&path)?;
                }
            } else if name.starts_with("new.") {
                disk.remove_file(&path).at(&path)?;
            }
        }
        Ok(Self { pool: Arc::new(Mutex::new(pool)) })
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a file that is ready.
    pub(super) fn take(&self) -> Option<PathBuf> {
        if buggify!("spare_is_not_taken") { None } else { self.pool().ready.pop() }
    }

    /// Makes a spare of a segment that is not needed any more, or removes it. The old name is gone
    /// for good, also after a crash, when this returns.
    pub(super) fn recycle<D: Disk>(
        &self,
        disk: &D,
        dir: &Path,
        segment: &Path,
        bytes: u64,
    ) -> Result<(), LogError> {
        let len = disk.open(segment, OpenHow::Read).and_then(|file| file.len()).at(segment)?;
        let mut pool = self.pool();
        let kept = len == bytes && pool.ready.len() < SPARES_MAX;
        if kept && !buggify!("spare_is_not_kept") {
            let spare = dir.join(format!("spare.{}", pool.next));
            pool.next += 1;
            disk.rename(segment, &spare).at(segment)?;
            disk.sync_dir(dir).at(dir)?;
            pool.ready.push(spare);
        } else {
            disk.remove_file(segment).at(segment)?;
            disk.sync_dir(dir).at(dir)?;
        }
        Ok(())
    }

    /// Returns a name for a file that becomes a segment without having been a spare.
    pub(super) fn new_name(&self, dir: &Path) -> PathBuf {
        let mut pool = self.pool();
        pool.next += 1;
        dir.join(format!("new.{}", pool.next - 1))
    }

    /// Returns the job that makes a spare, if there is none and none is being made.
    pub(super) fn job<D: Disk>(&self, disk: &D, dir: &Path, bytes: u64) -> Option<SpareJob<D>> {
        let mut pool = self.pool();
        if pool.making || !pool.ready.is_empty() {
            return None;
        }
        if pool.passed_over > 0 {
            pool.passed_over -= 1;
            return None;
        }
        pool.making = true;
        pool.next += 1;
        let n = pool.next - 1;
        drop(pool);
        let spares = self.clone();
        Some(SpareJob { spares, disk: disk.clone(), dir: dir.to_owned(), n, bytes })
    }
}

/// Writes one spare. Takes as long as writing a whole segment: it belongs on a worker of its own, not
/// on the log's.
pub struct SpareJob<D: Disk> {
    spares: Spares,
    disk: D,
    dir: PathBuf,
    n: u64,
    bytes: u64,
}

impl<D: Disk> SpareJob<D> {
    /// Does it, if there is room for it; says whether. An error is no harm to the log, which goes on
    /// without the spare, and leaves nothing behind: half a spare would take the room of what is needed.
    pub fn run(self) -> Result<bool, LogError> {
        let path = self.dir.join(format!("new.{}", self.n));
        let made = self.make(&path);
        if !matches!(made, Ok(true)) {
            self.spares.pool().passed_over = ATTEMPTS_PASSED_OVER;
        }
        if made.is_err() && self.disk.exists(&path) {
            // The next start removes what cannot be removed now.
            let _ = self.disk.remove_file(&path);
        }
        made
    }

    fn make(&self, path: &Path) -> Result<bool, LogError> {
        let free = self.disk.free_bytes(&self.dir).at(&self.dir)?;
        if free < self.bytes + LEAVES_FREE || buggify!("spare_finds_no_room") {
            return Ok(false);
        }
        let path = path.to_path_buf();
        let file = self.disk.open(&path, OpenHow::Create).at(&path)?;
        let zeros = vec![0; ZEROS];
        let mut offset = 0;
        while offset < self.bytes {
            let len = usize::try_from(self.bytes - offset).map_or(ZEROS, |left| left.min(ZEROS));
            file.write_at(&zeros[..len], offset).at(&path)?;
            offset += u64::try_from(len).expect("a length fits 64 bits");
        }
        file.sync_data().at(&path)?;
        let spare = self.dir.join(format!("spare.{}", self.n));
        self.disk.rename(&path, &spare).at(&path)?;
        self.disk.sync_dir(&self.dir).at(&self.dir)?;
        self.spares.pool().ready.push(spare);
        Ok(true)
    }
}

impl<D: Disk> Drop for SpareJob<D> {
    fn drop(&mut self) {
        self.spares.pool().making = false;
    }
}
