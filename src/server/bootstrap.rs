//! The start: what the disk holds decides, the flags only when it holds nothing.
//!
//! | log on disk | state flag | what happens |
//! |---|---|---|
//! | yes | any | restart: ids from the log, members and configuration from the store |
//! | no | new | found: all founders write the same first state, as if after a snapshot |
//! | no | existing | join: learn ids from the running members, begin with an empty log |
//!
//! Order on a fresh disk: store id, store, log. The log comes last because its presence is what says
//! «this member exists»: a crash before it leaves a disk that counts as fresh.
//!
//! Invariants:
//! - a restart never begins behind what the log promised: the log checks its own tail, and a store that
//!   is ahead of the log (a crash within a snapshot's installation) makes the log begin anew there;
//! - a store that is behind the log's first entry is refused: entries in between are gone;
//! - a directory that has had a log and has none (a forgotten `--wal-dir`) is refused, not founded anew;
//! - a founder that some running member knows as started is refused: its disk was wiped, its votes are
//!   forgotten, and only replacing it lets it back in.
//!
//! # Whose directory
//!
//! On a restart the directory says who the member is, and the flags may say something else for good
//! reasons: a new name renames the member; peer URLs are changed before `member update` or after it, or
//! left out altogether; a machine that moved has another name and another address at once. etcd takes
//! all of that, and so do we. What no operator means is to start one member on another one's directory,
//! where it would speak with that one's vote. Such a start is told by what the directory itself knows:
//!
//! > The directory's own member is listed with another name and other peer URLs than the flags have, and
//! > exactly these peer URLs are another member's of the same cluster.
//!
//! Then the start is refused ([`BootError::OtherMember`]); it is so as well for a directory that was
//! copied to make a new member of it. Peer URLs are unique in a cluster, so nothing that works today is
//! in this position: the one way into it is to give a member that was down the old address of another one
//! and a new name at the same time, and starting it once under its old name leads out. A directory of
//! another cluster shares no URL with the flags and cannot be told from a machine that moved: it is
//! served under its own identity with a warning, and the flags' cluster refuses it by its cluster id.
//! A directory in use is refused by its lock, where etcd waits for ever without a word.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::{info, warn};

use crate::cluster::{Member, Membership};
use crate::machine::{Machine, MachineError, MachineOptions};
use crate::raft::{self, HardState, Restored};
use crate::runtime::{Disk, DiskFile, Lock, OpenHow};
use crate::storage::log::{Log, LogBatch, LogError, LogOptions, Mark};
use crate::storage::{Storage, StorageError, StorageOptions, generations};
use crate::transport::codec;
use crate::types::{ClusterId, Index, LogPosition, NodeId};

use super::log_writer;

/// Why a member cannot start from its disk.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Another process has the data directory.
    #[error("the data directory {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The log cannot be trusted, or not read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store cannot be trusted, or not read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The machine's tables cannot be trusted.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The directory is another member's.
    #[error(
        "the data directory {} belongs to member {id:x} (\"{name}\" at {}), and the flags are \
         those of member {other:x} of the same cluster, at {}: every member has a data directory of its own",
        path.display(), own_urls.join(","), given_urls.join(",")
    )]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        id: u64,
        /// That member's name.
        name: String,
        /// Where that member is found.
        own_urls: Vec<String>,
        /// Whom the flags mean.
        other: u64,
        /// The peer URLs in the flags.
        given_urls: Vec<String>,
    },
    /// Log and store do not belong together.
    #[error(transparent)]
    Restore(#[from] raft::RestoreError),
    /// An entry of the log is of no known form.
    #[error("log entry {0}: {1}")]
    Entry(Index, codec::CodecError),
    /// The log has lost entries that were durable in it.
    #[error(
        "the log ends at {log}, and the store has applied {store}: the log has lost its end, with \
         promises in it; replace this member"
    )]
    LostTail {
        /// Where the store stands.
        store: LogPosition,
        /// Where the log ends.
        log: LogPosition,
    },
    /// A member was here, and its log is not.
    #[error(
        "the data directory {} has had a member, whose log should be in {} and is not: is --wal-dir the \
         one it was started with? A member whose log is lost must be replaced",
        data_dir.display(), log.display()
    )]
    LogGone {
        /// The data directory.
        data_dir: PathBuf,
        /// Where the log was looked for.
        log: PathBuf,
    },
    /// The store ends before the log begins.
    #[error(
        "database file ({path} index {store}) does not match with snapshot (index {log}): \
         the entries in between are gone"
    )]
    Gap {
        /// The store's directory.
        path: PathBuf,
        /// Where the store ends.
        store: Index,
        /// Where the log begins.
        log: Index,
    },
}

/// The places of a data directory.
#[derive(Clone, Debug)]
pub struct Places {
    /// Everything but a log elsewhere.
    pub member: PathBuf,
    /// The log.
    pub log: PathBuf,
    /// The generations of the store.
    pub stores: PathBuf,
}

impl Places {
    /// Says where things are in a data directory.
    pub fn new(data_dir: &Path, wal_dir: Option<&Path>) -> Self {
        let member = data_dir.join("member");
        let log = wal_dir.map_or_else(|| member.join("log"), Path::to_path_buf);
        Self { log, stores: member.join("store"), member }
    }
}

/// A fresh member's identity and its cluster.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Its own id.
    pub id: NodeId,
    /// Its cluster's.
    pub cluster_id: ClusterId,
    /// The entries that the founders' logs begin with; none for one that joins, who learns everything
    /// from a snapshot.
    pub entries: Vec<raft::Entry>,
}

/// A member read from its disk, ready to run.
pub struct Booted<D: Disk> {
    /// Its id.
    pub id: NodeId,
    /// Its cluster's.
    pub cluster_id: ClusterId,
    /// The number of this start.
    pub boot: u64,
    /// What names its data directory.
    pub store_id: u64,
    /// The log, open for writing.
    pub log: Log<D>,
    /// The machine, as far as the store holds it.
    pub machine: Machine,
    /// What the core begins with.
    pub restored: Restored,
    /// The lock on the data directory.
    pub lock: Lock,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BootError + '_ {
    move |error| BootError::Io { path: path.to_path_buf(), error }
}

/// Takes the data directory for this process, creating it if need be.
pub fn take<D: Disk>(disk: &D, places: &Places) -> Result<Lock, BootError> {
    for dir in [&places.member, &places.log, &places.stores] {
        disk.create_dir_all(dir).map_err(io(dir))?;
    }
    let path = places.member.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => BootError::Locked(places.member.clone()),
        _ => BootError::Io { path, error },
    })
}

/// Tells whether the disk holds a member.
pub fn exists<D: Disk>(disk: &D, places: &Places) -> bool {
    disk.list(&places.log).is_ok_and(|names| names.iter().any(|name| name.ends_with(".log")))
}

/// Makes a fresh member on an empty disk. `random` and `crash_point` are the runtime's.
pub fn found<D: Disk>(
    disk: &D,
    places: &Places,
    founding: &Founding,
    log_options: LogOptions,
    mut random: impl FnMut() -> u64,
    crash_point: impl Fn(&'static str),
) -> Result<(), BootError> {
    write_store_id(disk, places, random())?;
    crash_point("store_id_written");
    sync_above(disk, places)?;
    let dir = generations::fresh(disk, &places.stores).map_err(io(&places.stores))?;
    let storage = Storage::create(&dir, StorageOptions::default())?;
    // The founders' entries are applied here and never replicated: every founder begins as if after a
    // snapshot of them, so that a later joiner, whose log is empty, begins with a snapshot too.
    if !founding.entries.is_empty() {
        let options = MachineOptions { cluster_id: founding.cluster_id };
        Machine::open(storage.clone(), options)?.apply(&founding.entries);
        if let Some(job) = storage.begin_flush() {
            job.run()?;
        }
    }
    storage.close().wait();
    generations::switch(disk, &places.stores, &dir).map_err(io(&places.stores))?;
    crash_point("store_created");
    let (cluster, member) = (founding.cluster_id.0, founding.id.0);
    let salt = random();
    let begin = founding.entries.last().map(|last| {
        let hard_state = HardState { term: last.term, vote: None, commit: last.index };
        (last.position(), log_writer::stored(hard_state))
    });
    let owner = (cluster, member);
    let log = Log::create(disk.clone(), &places.log, log_options, owner, salt, begin)?;
    log.close()?;
    Ok(())
}

/// Refuses to found a member where one has been: its store, and its votes, would be thrown away because a
/// flag was forgotten.
pub(crate) fn check_fresh<D: Disk>(disk: &D, places: &Places) -> Result<(), BootError> {
    if !has_log_mark(disk, places)? {
        return Ok(());
    }
    Err(BootError::LogGone {
        data_dir: places.member.parent().unwrap_or(&places.member).to_path_buf(),
        log: places.log.clone(),
    })
}

/// Makes the names of the data directory and of all above it durable: a directory that was created and
/// lies in one that was never synced is gone after a power loss, with everything in it.
fn sync_above<D: Disk>(disk: &D, places: &Places) -> Result<(), BootError> {
    let data_dir = places.member.parent();
    let dirs: BTreeSet<&Path> =
        [&places.member, &places.log].into_iter().flat_map(|dir| dir.ancestors().skip(1)).collect();
    for dir in dirs {
        let path = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match disk.sync_dir(path) {
            Ok(()) => {}
            // Above the data directory not everything may be open to us; what is not was there before.
            Err(error)
                if error.kind() == std::io::ErrorKind::PermissionDenied
                    && Some(dir) != data_dir => {}
            Err(error) => return Err(io(path)(error)),
        }
    }
    Ok(())
}

/// Reads a member back. `seed` is fresh randomness for the core (see [`Restored::seed`]).
pub fn boot<D: Disk>(
    disk: &D,
    places: &Places,
    lock: Lock,
    log_options: LogOptions,
    seed: u64,
) -> Result<Booted<D>, BootError> {
    let store_id = read_store_id(disk, places)?;
    let (mut log, mut recovered) = Log::open(disk.clone(), &places.log, log_options)?;
    mark_log(disk, places)?;
    if let Some(torn) = &recovered.repaired {
        warn!(segment = %torn.segment.display(), offset = torn.offset, "cut a torn tail off the log");
    }
    let dir = generations::current(disk, &places.stores).map_err(io(&places.stores))?;
    let storage = Storage::open(&dir, StorageOptions::default())?;
    info!(path = %dir.display(), "opened backend db");
    let options = MachineOptions { cluster_id: ClusterId(recovered.metadata.cluster) };
    let loaded = storage.loaded();
    let machine = Machine::open(storage, options)?;
    let applied = machine.applied();
    info!(index = applied.index.0, term = applied.term.0, "restore consistentIndex");

    let mut base = recovered.mark.as_ref().map_or(LogPosition::default(), |mark| mark.position);
    let mut entries = Vec::with_capacity(recovered.entries.len());
    for record in std::mem::take(&mut recovered.entries) {
        let index = record.index;
        let entry = log_writer::entry(record).map_err(|error| BootError::Entry(index, error))?;
        entries.push(entry);
    }
    let last = entries.last().map_or(base, raft::Entry::position);
    let mut hard_state = log_writer::restored(recovered.hard_state);
    let agrees = entries.iter().any(|entry| entry.position() == applied) || base == applied;
    if applied.index < base.index {
        return Err(BootError::Gap { path: dir, store: applied.index, log: base.index });
    }
    if !agrees && loaded != Some(applied) {
        // The store holds entries that the log must have held when they were applied: its end is lost,
        // and promises with it.
        return Err(BootError::LostTail { store: applied, log: last });
    }
    if !agrees {
        // The crash came between the two halves of a snapshot's installation: the store stands on the
        // snapshot, the log still has what was before it. The snapshot holds only committed entries, so
        // what the log has up to there is in it or was overruled.
        info!(log = %last, store = %applied, "the log begins anew where the store stands");
        hard_state.commit = applied.index;
        hard_state.term = hard_state.term.max(applied.term);
        let stored = Some(log_writer::stored(hard_state));
        log.append(LogBatch { hard_state: stored, ..LogBatch::default() })?;
        log.mark(Mark { position: applied, conf: Bytes::new(), installed: true })?;
        log.sync()?;
        base = applied;
        entries.clear();
    }
    let restored = Restored {
        hard_state,
        conf_state: machine.conf_state(),
        base,
        entries,
        applied: applied.index,
        seed,
    };
    Ok(Booted {
        id: NodeId(recovered.metadata.member),
        cluster_id: ClusterId(recovered.metadata.cluster),
        boot: recovered.metadata.boot,
        store_id,
        log,
        machine,
        restored,
        lock,
    })
}

fn store_id_path(places: &Places) -> PathBuf {
    places.member.join("store-id")
}

/// The file's text: the id, room for the [mark of the log](LOG_MARK), and a checksum of the id. With another
/// id a healthy member would be told by its peers that it has lost its data.
fn store_id_text(id: u64) -> String {
    let id = format!("{id:016x}\n");
    format!("{id}---\n{:08x}\n", crc32c::crc32c(id.as_bytes()))
}

fn write_store_id<D: Disk>(disk: &D, places: &Places, id: u64) -> Result<(), BootError> {
    let path = store_id_path(places);
    let write = || {
        let file = disk.open(&path, OpenHow::Create)?;
        file.write_at(store_id_text(id).as_bytes(), 0)?;
        file.sync_data()?;
        disk.sync_dir(&places.member)
    };
    write().map_err(io(&path))
}

/// Follows the store id once there is a log: from then on a directory without one is not fresh.
const LOG_MARK: &[u8] = b"log\n";
const LOG_MARK_OFFSET: u64 = 17;

/// Where the checksum begins, which is where the file ended when it had none.
const SUM_OFFSET: usize = 21;

fn has_log_mark<D: Disk>(disk: &D, places: &Places) -> Result<bool, BootError> {
    let path = store_id_path(places);
    if !disk.exists(&path) {
        return Ok(false);
    }
    let mut mark = [0; LOG_MARK.len()];
    let mut read = || disk.open(&path, OpenHow::Read)?.read_at(&mut mark, LOG_MARK_OFFSET);
    read().map_err(io(&path))?;
    Ok(mark == LOG_MARK)
}

fn mark_log<D: Disk>(disk: &D, places: &Places) -> Result<(), BootError> {
    if has_log_mark(disk, places)? {
        return Ok(());
    }
    let path = store_id_path(places);
    let write = || {
        let file = disk.open(&path, OpenHow::Write)?;
        file.write_at(LOG_MARK, LOG_MARK_OFFSET)?;
        file.sync_data()
    };
    write().map_err(io(&path))
}

fn read_store_id<D: Disk>(disk: &D, places: &Places) -> Result<u64, BootError> {
    let path = store_id_path(places);
    let read = || {
        let file = disk.open(&path, OpenHow::Read)?;
        let mut text = [0; 64];
        let len = file.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..len]).unwrap_or_default();
        let id = text.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        // NB: directories of before the first release that had a checksum end with the mark.
        let sound = |id: &u64| {
            len <= SUM_OFFSET || store_id_text(*id).get(SUM_OFFSET..) == text.get(SUM_OFFSET..)
        };
        id.filter(sound).ok_or_else(|| {
            let text = "the file is damaged: it holds no store id";
            std::io::Error::new(std::io::ErrorKind::InvalidData, text)
        })
    };
    read().map_err(io(&path))
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort();
    urls
}

/// Says what a joining member must find: itself, listed by the same peer URLs.
pub(crate) fn find_self(members: &[Member], own_urls: &[String]) -> Option<NodeId> {
    let own = sorted(own_urls);
    members.iter().find(|member| sorted(&member.peer_urls) == own).map(|member| member.id)
}

/// Refuses to start one member on another one's directory; see the module's text for the rule.
pub(crate) fn check_owner(
    places: &Places,
    membership: &Membership,
    own: NodeId,
    (name, peer_urls): (&str, &[String]),
) -> Result<(), BootError> {
    // A member that has joined and not yet heard who is in the cluster knows nobody, itself included.
    let Some(member) = membership.member(own) else { return Ok(()) };
    let given = sorted(peer_urls);
    if member.name == name || sorted(&member.peer_urls) == given {
        return Ok(());
    }
    let path = places.member.parent().unwrap_or(&places.member);
    match membership.members().find(|other| sorted(&other.peer_urls) == given) {
        Some(other) => Err(BootError::OtherMember {
            path: path.to_path_buf(),
            id: own.0,
            name: member.name.clone(),
            own_urls: member.peer_urls.clone(),
            other: other.id.0,
            given_urls: peer_urls.to_vec(),
        }),
        None => {
            warn!(
                data_dir = %path.display(),
                local_member_id = format!("{:x}", own.0),
                stored_name = member.name,
                stored_peer_urls = ?member.peer_urls,
                name,
                peer_urls = ?peer_urls,
                "the data directory knows this member by another name and other peer URLs; \
                 it keeps its id, its cluster and its peer URLs"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Change;
    use crate::storage::tests::disk::MemDisk;

    /// A directory of member 1, in a cluster of 1 (`m1` at `a`), 2 (`m2` at `b`) and 3, which was added
    /// at `c`, `d` and has not started.
    fn verdict(own: u64, name: &str, urls: &[&str]) -> Result<(), BootError> {
        let mut membership = Membership::new(ClusterId(9));
        for (id, name, urls) in
            [(1, "m1", vec!["a"]), (2, "m2", vec!["b"]), (3, "", vec!["c", "d"])]
        {
            let urls = urls.into_iter().map(str::to_owned).collect();
            let member = Member { name: name.to_owned(), ..Member::new(NodeId(id), urls) };
            let change = Change::Add { member, learners_max: None };
            membership.apply(&change, &mut Vec::new()).expect("it is new");
        }
        let urls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
        check_owner(&Places::new(Path::new("/d"), None), &membership, NodeId(own), (name, &urls))
    }

    #[test]
    fn a_member_may_come_back_renamed_moved_or_without_flags() {
        verdict(1, "m1", &["a"]).expect("as it was");
        verdict(1, "new", &["a"]).expect("renamed");
        verdict(1, "m1", &["x"]).expect("its URL is changed, before or after the update");
        verdict(1, "new", &["x"]).expect("a machine that moved");
        verdict(1, "default", &["http://localhost:2380"]).expect("no flags at all");
        verdict(1, "m2", &["a"]).expect("its name was another one's once");
        verdict(1, "m1", &["b"]).expect("it takes over an address that the other one gave up");
        verdict(7, "m7", &["b"]).expect("a member that has heard of nobody yet");
    }

    #[test]
    fn a_store_id_is_read_as_it_was_written_or_not_at_all() {
        let disk = MemDisk::default();
        let places = Places::new(Path::new("/d"), None);
        disk.create_dir_all(&places.member).expect("a directory");
        write_store_id(&disk, &places, 0x1234_5678_9abc_def0).expect("written");
        assert!(!has_log_mark(&disk, &places).expect("read"), "there is no log yet");
        mark_log(&disk, &places).expect("marked");
        assert!(has_log_mark(&disk, &places).expect("read"));
        assert_eq!(read_store_id(&disk, &places).ok(), Some(0x1234_5678_9abc_def0));
        let file = disk.open(&store_id_path(&places), OpenHow::Write).expect("it is there");
        let whole = file.len().expect("a length");
        for bit in 0..whole * 8 {
            let mut byte = [0];
            file.read_at(&mut byte, bit / 8).expect("read");
            let rotten = byte[0] ^ 1 << (bit % 8);
            file.write_at(&[rotten], bit / 8).expect("written");
            let read = read_store_id(&disk, &places);
            assert!(read.is_err() || read.is_ok_and(|id| id == 0x1234_5678_9abc_def0), "bit {bit}");
            file.write_at(&byte, bit / 8).expect("written");
        }
        // A file of before there was a checksum.
        file.set_len(21).expect("cut");
        assert_eq!(read_store_id(&disk, &places).ok(), Some(0x1234_5678_9abc_def0));
        file.set_len(9).expect("cut");
        assert!(read_store_id(&disk, &places).is_err());
    }

    #[test]
    fn another_members_directory_is_refused() {
        for (own, name, urls) in
            [(1, "m2", &["b"][..]), (2, "m1", &["a"]), (1, "m3", &["d", "c"]), (1, "x", &["b"])]
        {
            let error = verdict(own, name, urls).expect_err("another member's flags").to_string();
            assert!(error.contains("/d belongs to member"), "{error}");
        }
    }

    #[cfg(feature = "real")]
    #[test]
    fn a_directory_whose_log_is_gone_is_not_founded_anew() {
        let disk = crate::runtime::files::Files;
        let dir = tempfile::tempdir().expect("dir");
        let places = Places::new(dir.path(), None);
        let _lock = take(&disk, &places).expect("nobody has it");
        check_fresh(&disk, &places).expect("an empty directory");
        write_store_id(&disk, &places, 7).expect("written");
        check_fresh(&disk, &places).expect("the crash came before there was a log");
        mark_log(&disk, &places).expect("written");
        mark_log(&disk, &places).expect("it is there");
        assert_eq!(read_store_id(&disk, &places).expect("read"), 7);
        let error = check_fresh(&disk, &places).expect_err("it had a log").to_string();
        assert!(error.contains("is --wal-dir the one"), "{error}");
    }
}
