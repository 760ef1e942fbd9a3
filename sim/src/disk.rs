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

mod damage;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use mainstay::runtime::{Disk, DiskFile, Lock, OpenHow};

pub use self::damage::WriteDamage;
use self::damage::{ReadDamage, flip, is_log};
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

#[derive(Default)]
struct Tracked {
    file: Option<File>,
    undo: Vec<Undo>,
}

struct Undo {
    offset: u64,
    /// What was there, as far as the file reached.
    before: Vec<u8>,
    after: Data,
    len_before: u64,
    len_after: u64,
    /// Written through a descriptor that syncs each write: kept whatever happens, but remembered,
    /// because what is rolled back may lie beneath it.
    durable: bool,
}

/// What was written. A log pre-writes its segments with zeros by the megabyte: those are not kept as bytes.
enum Data {
    Bytes(Vec<u8>),
    Zeros(usize),
}

const ZEROS: [u8; 4096] = [0; 4096];

impl Data {
    fn of(data: &[u8]) -> Self {
        if is_long_zeros(data) { Self::Zeros(data.len()) } else { Self::Bytes(data.to_vec()) }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.is_empty())
    }

    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Zeros(len) => Cow::Owned(vec![0; *len]),
        }
    }
}

fn is_long_zeros(data: &[u8]) -> bool {
    data.len() >= ZEROS.len() && data.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Writes; zeros beyond the end become a hole, which reads the same and takes no memory.
fn put_at(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    if is_long_zeros(data) && offset >= file.metadata()?.len() {
        return file.set_len(offset + data.len() as u64);
    }
    file.write_all_at(data, offset)
}

enum NameOp {
    Created { dir: PathBuf, path: PathBuf },
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<PathBuf> },
    Removed { path: PathBuf, kept: PathBuf },
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

impl Tracked {
    fn note(&mut self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        if durable && self.undo.is_empty() {
            return Ok(());
        }
        // NB: not through the caller's descriptor, which may be open for writing only (LMDB's meta pages).
        let file = self.file.as_ref().expect("a tracked file is open from the beginning");
        let len_before = file.metadata()?.len();
        let reached = usize::try_from(len_before.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut before = vec![0; data.len().min(reached)];
        let mut have = 0;
        while have < before.len() {
            match FileExt::read_at(file, &mut before[have..], offset + have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        let len_after = len_before.max(offset + data.len() as u64);
        self.undo.push(Undo {
            offset,
            before,
            after: Data::of(data),
            len_before,
            len_after,
            durable,
        });
        Ok(())
    }

    fn lose(&mut self, model: Persistence, rng: &mut Rng) -> u64 {
        let undo = std::mem::take(&mut self.undo);
        let Some(file) = &self.file else { return 0 };
        for write in undo.iter().rev() {
            let _ = file.write_all_at(&write.before, write.offset);
            let _ = file.set_len(write.len_before);
        }
        let keep = match model {
            Persistence::Nothing => 0,
            Persistence::Prefix => rng.index(undo.len() + 1),
            _ => undo.len(),
        };
        let mut lost = 0;
        for (i, write) in undo.iter().enumerate() {
            if write.durable {
                let _ = put_at(file, &write.after.bytes(), write.offset);
                continue;
            }
            if i >= keep || (model == Persistence::Subset && rng.below(2) == 0) {
                lost += 1;
                continue;
            }
            if model != Persistence::Torn || write.after.is_empty() {
                let _ = put_at(file, &write.after.bytes(), write.offset);
                let _ = file.set_len(write.len_after);
                continue;
            }
            let mut whole = true;
            for (offset, sector) in sectors(write.offset, &write.after.bytes()) {
                if rng.below(3) == 0 {
                    whole = false;
                } else {
                    let _ = file.write_all_at(sector, offset);
                }
            }
            lost += u64::from(!whole);
        }
        lost
    }
}

/// Cuts a write where the disk's sectors end.
fn sectors(mut offset: u64, mut data: &[u8]) -> Vec<(u64, &[u8])> {
    let mut parts = Vec::new();
    while !data.is_empty() {
        let room = SECTOR - usize::try_from(offset % SECTOR as u64).expect("less than a sector");
        let (part, rest) = data.split_at(room.min(data.len()));
        parts.push((offset, part));
        offset += part.len() as u64;
        data = rest;
    }
    parts
}

impl NameOp {
    fn dirs(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Created { dir, .. } => [Some(dir), None],
            Self::Renamed { from, to, .. } => [from.parent(), to.parent()],
            Self::Removed { path, .. } => [path.parent(), None],
        }
    }

    /// What cannot be undone any more gives back the room of what it removed or replaced.
    fn settle(self, state: &mut State) {
        let (Self::Removed { kept, .. } | Self::Renamed { replaced: Some(kept), .. }) = self else {
            return;
        };
        let mut paths = vec![kept];
        while let Some(path) = paths.pop() {
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if meta.is_dir() {
                paths.extend(
                    std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()),
                );
                continue;
            }
            let id = (meta.dev(), meta.ino());
            state.files.remove(&id);
            lock(&TRACKED).remove(&id);
            // Left over if it fails: then the run's directory goes as a whole at its end.
            let _ = std::fs::remove_file(&path);
        }
    }

    fn undo(self) {
        match self {
            Self::Created { path, .. } => {
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_dir_all(&path);
            }
            Self::Renamed { from, to, replaced } => {
                let _ = std::fs::rename(&to, &from);
                if let Some(kept) = replaced {
                    let _ = std::fs::rename(kept, to);
                }
            }
            Self::Removed { path, kept } => {
                let _ = std::fs::rename(kept, path);
            }
        }
    }
}

/// The disk as one process of the machine sees it.
#[derive(Clone)]
pub struct SimDisk {
    host: Arc<HostDisk>,
    epoch: u64,
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

#[cfg(test)]
mod tests;
