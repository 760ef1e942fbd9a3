//! The simulated disk: real files in a temporary directory, and a memory of what was not yet synced.
//!
//! Everything is written through to real files, because LMDB reads its file through a memory map. The
//! tracker keeps, for every write since the file's last sync, what was there before. At a power loss
//! the file is rolled back to its last synced image and a part of the unsynced writes, chosen by the
//! run's [`Persistence`] model, is put on it again: none, all, a prefix, any subset, or any subset of
//! 512-byte sectors (torn). Names behave alike: a created, renamed or removed name is certain only
//! after a sync of its directory; until then a power loss may undo the newest of them.
//!
//! Two ways lead in. [`SimDisk`] is the runtime's disk, used by the log. LMDB calls the C library
//! itself, so [`crate::intercept`] catches its `pwrite`, `pwritev`, `fdatasync` and so on; the real
//! engine thereby runs under the very same model, with production's flags.
//!
//! Invariants:
//! - a handle carries the epoch of the process that opened it: destructors of a killed process, or a
//!   job of it that comes late, change nothing on disk;
//! - a process that is killed loses nothing it wrote (the kernel has it); only a power loss does;
//! - syncs cost no real I/O: durable is what the tracker says;
//! - a removed file takes no room once its removal is certain: a run's disks stay as small as its members' data.
//!
//! Beyond what the contract allows a disk, it can be told to lie (`disk/damage.rs`).
//!
//! Left out: reordering between files other than by choosing each file's lost writes independently, which
//! covers it.

mod caught;
mod damage;
mod process;
mod undo;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

pub(crate) use self::caught::{Caught, caught_resize, caught_sync, caught_write};
use self::damage::ReadDamage;
pub use self::damage::WriteDamage;
pub use self::process::{SimDisk, SimFile};
use self::undo::{Data, NameOp, Tracked, Undo, put_at};
use crate::rng::Rng;
use crate::trace::{Trace, lock};

const SECTOR: usize = 512;

/// What a power loss leaves of the writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing of them.
    Nothing,
    /// All of them.
    All,
    /// The oldest ones.
    Prefix,
    /// Any of them, each whole.
    Subset,
    /// Any of their sectors of 512 bytes.
    Torn,
}

impl Persistence {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nothing, Self::All, Self::Prefix, Self::Subset, Self::Torn];
}

/// What was seen on a disk, for the table of faults that really fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that wrote, synced or renamed.
    pub operations: u64,
    /// Syncs.
    pub syncs: u64,
    /// Power losses.
    pub power_losses: u64,
    /// Unsynced writes that a power loss took, whole or in part.
    pub lost_writes: u64,
    /// The same by what the power loss leaves, in the order of [`Persistence::ALL`]; where it leaves all,
    /// those that it spared.
    pub met: [u64; Persistence::ALL.len()],
    /// Names that a power loss undid.
    pub lost_names: u64,
    /// Calls that failed because the disk was full.
    pub full: u64,
    /// Calls that failed with an I/O error.
    pub errors: u64,
    /// Bits flipped.
    pub flips: u64,
    /// Calls of LMDB that were caught.
    pub engine: u64,
    /// Syncs of LMDB that were caught.
    pub engine_syncs: u64,
    /// Processes that died in the middle of a disk call.
    pub crashes: u64,
    /// Reads and writes that were damaged unseen.
    pub damages: u64,
}

impl Counters {
    /// Adds another disk's.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.syncs += other.syncs;
        self.power_losses += other.power_losses;
        self.lost_writes += other.lost_writes;
        for (sum, more) in self.met.iter_mut().zip(other.met) {
            *sum += more;
        }
        self.lost_names += other.lost_names;
        self.full += other.full;
        self.errors += other.errors;
        self.flips += other.flips;
        self.engine += other.engine;
        self.engine_syncs += other.engine_syncs;
        self.crashes += other.crashes;
        self.damages += other.damages;
    }
}

/// One machine's disk, shared by all processes that ever ran on it.
pub struct HostDisk {
    root: PathBuf,
    epoch: AtomicU64,
    /// Whether a process is alive: LMDB's calls carry no epoch, but its environment is closed before
    /// the next process boots, so while one runs they are its own.
    running: AtomicBool,
    state: Mutex<State>,
    /// Called when the process dies in the middle of an operation: its network must fall silent in
    /// the same instant, or it could still tell others of what it did not do.
    on_crash: Mutex<Option<OnCrash>>,
    trace: Trace,
}

type OnCrash = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    files: BTreeMap<(u64, u64), Arc<Mutex<Tracked>>>,
    names: Vec<NameOp>,
    trash: u64,
    locks: BTreeMap<PathBuf, u64>,
    counters: Counters,
    /// The process dies in this many further operations.
    crash_in: Option<u64>,
    full: bool,
    /// The bytes by which files may still grow; `None` for as many as they like.
    room: Option<u64>,
    /// This many operations fail with an I/O error.
    fail: u64,
    /// The next sync fails.
    fail_sync: bool,
    /// The process dies in this many further syncs.
    crash_in_sync: Option<u64>,
    /// This many reads fail with an I/O error.
    fail_reads: u64,
    /// What befalls the next read, or the next write to a log, unseen.
    read_damage: Option<ReadDamage>,
    write_damage: Option<(WriteDamage, u64)>,
}

/// Every tracked file of the process by device and inode: how the intercepted calls find theirs.
static TRACKED: LazyLock<Mutex<HashMap<(u64, u64), Owner>>> = LazyLock::new(Mutex::default);

/// The disks whose directories LMDB may open files in.
static ROOTS: Mutex<Vec<Arc<HostDisk>>> = Mutex::new(Vec::new());

#[derive(Clone)]
struct Owner {
    host: Arc<HostDisk>,
    epoch: u64,
    tracked: Arc<Mutex<Tracked>>,
}

/// Counts down to a planted crash; says whether it strikes now.
fn counted_down(left: &mut Option<u64>) -> bool {
    let Some(left) = left else { return false };
    *left = left.saturating_sub(1);
    *left == 0
}

fn gone() -> io::Error {
    io::Error::other("the process that opened this is dead")
}

impl HostDisk {
    /// Creates an empty disk in a real directory, which must exist and be empty.
    pub fn new(root: PathBuf, trace: Trace) -> Arc<Self> {
        crate::intercept::install();
        let disk = Arc::new(Self {
            root,
            epoch: AtomicU64::new(0),
            running: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            on_crash: Mutex::new(None),
            trace,
        });
        lock(&ROOTS).push(disk.clone());
        disk
    }

    /// The real directory that stands for the whole disk.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the disk for a new process: handles of earlier ones stop working.
    pub fn boot(self: &Arc<Self>) -> SimDisk {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        self.running.store(true, Ordering::SeqCst);
        let mut state = lock(&self.state);
        state.locks.clear();
        state.crash_in = None;
        (state.fail, state.fail_sync, state.crash_in_sync) = (0, false, None);
        drop(state);
        SimDisk { host: self.clone(), epoch }
    }

    /// The process is dead from now on: nothing that it has open works any more.
    pub fn freeze(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.running.store(false, Ordering::SeqCst);
    }

    /// Says what else has to happen in the instant in which [`HostDisk::crash_in`] strikes.
    pub fn on_crash(&self, act: impl Fn() + Send + Sync + 'static) {
        *lock(&self.on_crash) = Some(Box::new(act));
    }

    /// Lets the process die in its `n`-th disk operation from now on, before it takes effect.
    pub fn crash_in(&self, n: u64) {
        lock(&self.state).crash_in = Some(n.max(1));
    }

    /// Lets the process die now, in the middle of whatever it does.
    pub fn crash(&self) {
        self.freeze();
        let mut state = lock(&self.state);
        (state.crash_in, state.crash_in_sync) = (None, None);
        state.counters.crashes += 1;
        drop(state);
        if let Some(act) = &*lock(&self.on_crash) {
            act();
        }
    }

    /// Fills the disk or empties it.
    pub fn set_full(&self, full: bool) {
        lock(&self.state).full = full;
    }

    /// Says by how many bytes files may still grow. What is removed gives nothing back.
    pub fn set_room(&self, room: Option<u64>) {
        lock(&self.state).room = room;
    }

    /// Lets the next `n` writes fail with an I/O error.
    pub fn fail_writes(&self, n: u64) {
        lock(&self.state).fail = n;
    }

    /// Lets the next sync fail.
    pub fn fail_sync(&self) {
        lock(&self.state).fail_sync = true;
    }

    /// Lets the process die in its `n`-th sync from now on, before that takes effect.
    pub fn crash_in_sync(&self, n: u64) {
        lock(&self.state).crash_in_sync = Some(n.max(1));
    }

    /// Returns what was seen so far.
    pub fn counters(&self) -> Counters {
        lock(&self.state).counters
    }

    /// Flips one bit of a file.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, offset)?;
        lock(&self.state).counters.flips += 1;
        Ok(())
    }

    /// Takes the power away from a machine whose process is dead (its LMDB environment closed):
    /// applies the persistence model to everything that was not synced.
    pub fn power_loss(&self, model: Persistence, rng: &mut Rng) {
        self.freeze();
        let mut state = lock(&self.state);
        state.counters.power_losses += 1;
        let files: Vec<_> = state.files.values().cloned().collect();
        for tracked in files {
            let mut tracked = lock(&tracked);
            let unsynced = tracked.undo.iter().filter(|write| !write.durable).count() as u64;
            let lost = tracked.lose(model, rng);
            state.counters.lost_writes += lost;
            let met = if model == Persistence::All { unsynced } else { lost };
            state.counters.met[model as usize] += met;
        }
        let keep = match model {
            Persistence::Nothing => 0,
            Persistence::All => state.names.len(),
            _ => rng.index(state.names.len() + 1),
        };
        let undone = state.names.split_off(keep);
        state.counters.lost_names += undone.len() as u64;
        for operation in undone.into_iter().rev() {
            operation.undo();
        }
        for operation in std::mem::take(&mut state.names) {
            operation.settle(&mut state);
        }
    }

    /// Forgets everything and removes all files: a new disk in the old machine.
    pub fn wipe(&self) {
        self.freeze();
        let mut state = lock(&self.state);
        for id in std::mem::take(&mut state.files).into_keys() {
            lock(&TRACKED).remove(&id);
        }
        state.names.clear();
        let _ = std::fs::remove_dir_all(self.root.with_extension("trash"));
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// Removes this disk from the process-wide tables; called at the end of a run.
    pub fn forget(&self) {
        lock(&ROOTS).retain(|disk| !std::ptr::eq(&raw const **disk, self));
        let mut state = lock(&self.state);
        for id in std::mem::take(&mut state.files).into_keys() {
            lock(&TRACKED).remove(&id);
        }
    }

    fn alive(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::SeqCst) == epoch
    }

    /// Refuses what needs room on a full disk; takes the room where there is some.
    fn needs_room(&self, bytes: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        if !state.full && state.room.is_none_or(|room| room >= bytes) {
            state.room = state.room.map(|room| room - bytes);
            return Ok(());
        }
        state.counters.full += 1;
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    /// Counts an operation of a process and says whether it happens at all.
    fn operation(&self, epoch: u64, writes: bool) -> io::Result<()> {
        if !self.alive(epoch) {
            return Err(gone());
        }
        let mut state = lock(&self.state);
        state.counters.operations += 1;
        if counted_down(&mut state.crash_in) {
            drop(state);
            self.crash();
            return Err(gone());
        }
        if writes && state.fail > 0 {
            state.fail -= 1;
            state.counters.errors += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn syncs(&self, epoch: u64) -> io::Result<()> {
        self.operation(epoch, false)?;
        self.trace.note("sync", [self.machine(), 0, 0]);
        let mut state = lock(&self.state);
        if counted_down(&mut state.crash_in_sync) {
            drop(state);
            self.crash();
            return Err(gone());
        }
        state.counters.syncs += 1;
        if std::mem::take(&mut state.fail_sync) {
            state.counters.errors += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// Tracks a file by its inode, under the epoch of the process that opened it last.
    fn track(self: &Arc<Self>, file: &File, epoch: u64) -> io::Result<Owner> {
        let meta = file.metadata()?;
        let id = (meta.dev(), meta.ino());
        let mut state = lock(&self.state);
        let tracked = state.files.entry(id).or_default().clone();
        if lock(&tracked).file.is_none() {
            lock(&tracked).file = Some(file.try_clone()?);
        }
        let owner = Owner { host: self.clone(), epoch, tracked };
        lock(&TRACKED).insert(id, owner.clone());
        Ok(owner)
    }

    /// A number for the trace that is the same in every process.
    fn machine(&self) -> u64 {
        let name = self.root.file_name().unwrap_or_default();
        name.as_encoded_bytes().iter().fold(0, |n, b| n * 31 + u64::from(*b))
    }

    fn trash(&self, state: &mut State) -> PathBuf {
        state.trash += 1;
        let dir = self.root.with_extension("trash");
        let _ = std::fs::create_dir_all(&dir);
        dir.join(state.trash.to_string())
    }
}

impl Owner {
    fn alive(&self) -> bool {
        self.host.alive(self.epoch)
    }

    fn write(&self, file: &File, buf: &[u8], offset: u64, durable: bool) -> io::Result<()> {
        self.host.operation(self.epoch, true)?;
        self.host.trace.note("write", [self.host.machine(), offset, buf.len() as u64]);
        // A full disk still takes what overwrites.
        let growth = (offset + buf.len() as u64).saturating_sub(file.metadata()?.len());
        if growth > 0 {
            self.host.needs_room(growth)?;
        }
        let mut tracked = lock(&self.tracked);
        tracked.note(offset, buf, durable)?;
        put_at(file, buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.host.syncs(self.epoch)?;
        lock(&self.tracked).undo.clear();
        Ok(())
    }

    fn resize(&self, file: &File, len: u64) -> io::Result<()> {
        self.host.operation(self.epoch, true)?;
        self.host.trace.note("resize", [self.host.machine(), len, 0]);
        let old = file.metadata()?.len();
        if len > old {
            self.host.needs_room(len - old)?;
        }
        let mut tracked = lock(&self.tracked);
        let mut before = Vec::new();
        if len < old {
            before.resize(usize::try_from(old - len).expect("a simulated file fits in memory"), 0);
            file.read_exact_at(&mut before, len)?;
        }
        // An empty «after» marks a change of length alone.
        tracked.undo.push(Undo {
            offset: len.min(old),
            before,
            after: Data::Bytes(Vec::new()),
            len_before: old,
            len_after: len,
            durable: false,
        });
        file.set_len(len)
    }
}

#[cfg(test)]
mod tests;
