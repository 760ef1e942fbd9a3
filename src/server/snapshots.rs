//! Snapshots between members: sending what a peer's log lacks, staging what arrives, and putting it in
//! force. The handshake with the core is drawn in `raft/node/snapshot.rs`.
//!
//! ```text
//!  arrive (worker: a new generation's directory) → stage → the core says install
//!    → switch the generation (store worker) → swap the machine, re-read by watchers
//!    → the log begins anew behind it (log worker) → the core is told
//! ```
//!
//! Invariants:
//! - what arrives is complete, checked and durable before the core hears of it;
//! - at most one staged snapshot; a newer one replaces it, and what the core does not want is deleted;
//! - a crash at any point leaves the old state or the new one: the generation switches in one rename, and
//!   a log that is behind its store begins anew at the next start (`bootstrap`);
//! - a store is removed when its last reader has gone, and nothing else waits for that;
//! - one transfer a peer at a time, bounded in time, since it keeps superseded rows from being removed;
//! - what a snapshot that is sent does not hold stays in memory until its peer has caught up, or is lost, or
//!   that is too much: a transfer may take longer than the log is kept for anyone, and the peer would need
//!   another snapshot, for ever (etcd's can).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::Driver;
use super::event::Event;
use super::log_writer::HandOver;
use crate::buggify;
use crate::machine::snapshot::{Chunk, ReceiveError, Receiver, Sender};
use crate::raft::{Envelope, Input, Message, Role, SnapshotMeta, SnapshotRequest};
use crate::runtime::{Lane, Runtime, Worker, timeout};
use crate::storage::log::Mark;
use crate::storage::{Storage, StorageOptions, generations};
use crate::transport::Transport;
use crate::types::{ClusterId, Index, NodeId};

/// How long one transfer may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);

/// How many bytes of entries there may be in memory while some are kept for peers that were sent a snapshot.
const KEPT_BYTES_MAX: u64 = 256 << 20;

/// How many pieces wait for the network.
const CHUNKS_MAX: usize = 4;

/// How often it is looked whether the last reader of a store has gone.
const CLOSED_POLL: Duration = Duration::from_millis(50);

/// A snapshot that has arrived whole.
pub(crate) struct Arrived {
    envelope: Envelope,
    meta: SnapshotMeta,
    storage: Storage,
    /// Told once it is staged.
    staged: oneshot::Sender<()>,
}

/// A staged snapshot whose generation was put in force, or not.
pub(crate) struct Opened {
    meta: SnapshotMeta,
    storage: Storage,
    switched: std::io::Result<()>,
}

struct Staged {
    meta: SnapshotMeta,
    storage: Storage,
}

/// The driver's part.
pub(crate) struct Snapshots {
    stores: PathBuf,
    /// Reads what is sent; writing is the store worker's.
    reading: Worker,
    sending: BTreeSet<NodeId>,
    /// Where the snapshot of a peer ends that was sent one and has not caught up.
    behind: BTreeMap<NodeId, Index>,
    staged: Option<Staged>,
    /// Waits for the log to begin anew behind it.
    installing: Option<SnapshotMeta>,
}

impl Snapshots {
    pub(crate) fn new(stores: PathBuf, reading: Worker) -> Self {
        Self {
            stores,
            reading,
            sending: BTreeSet::new(),
            behind: BTreeMap::new(),
            staged: None,
            installing: None,
        }
    }
}

impl<R: Runtime, T: Transport> Driver<R, T> {
    /// Starts a transfer to a peer, unless one is going on.
    pub(super) fn send_snapshot(&mut self, request: SnapshotRequest) {
        let to = request.to;
        if !self.snapshots.sending.insert(to) {
            return;
        }
        let mut sender = Sender::new(&self.machine);
        let header = sender.header();
        let at = header.position.index;
        self.snapshots.behind.insert(to, at);
        let meta =
            SnapshotMeta { position: header.position, conf_state: header.conf_state.clone() };
        let envelope = request.envelope(self.settings.id, meta);
        info!(to = format!("{:x}", to.0), index = at.0, "sending a snapshot");
        let (chunks, received) =
            mpsc::channel(buggify!("snapshot_waits_for_each_piece", 1, CHUNKS_MAX));
        let reading = self.snapshots.reading.clone();
        let read = async move {
            loop {
                let (done, chunk) = oneshot::channel();
                reading.run(move || {
                    let chunk = sender.next_chunk();
                    // Nobody waits for it when the transfer was given up.
                    let _ = done.send((sender, chunk));
                });
                let Ok((back, Some(chunk))) = chunk.await else { return };
                sender = back;
                if chunks.send(chunk).await.is_err() {
                    return;
                }
            }
        };
        let sent = self.transport.send_snapshot(envelope, received);
        let (runtime, events) = (self.runtime.clone(), self.events.clone());
        let limit = Duration::from_millis(20);
        let limit = buggify!("snapshot_takes_too_long", limit, TRANSFER_TIMEOUT);
        let task = async move {
            let both = async { tokio::join!(biased; sent, read).0 };
            let ok = timeout(&runtime, limit, both).await.unwrap_or(false);
            let ok = ok && !buggify!("snapshot_answer_is_lost");
            // A driver that is gone needs no report.
            let _ = events.send(Event::SnapshotSent { to, ok, at });
        };
        drop(self.runtime.spawn(Lane::Serve, "send snapshot", task));
    }

    /// A transfer has ended.
    pub(super) fn snapshot_sent(&mut self, to: NodeId, ok: bool, at: Index) {
        self.snapshots.sending.remove(&to);
        if !ok {
            self.snapshots.behind.remove(&to);
            warn!(to = format!("{:x}", to.0), index = at.0, "a snapshot was not taken");
        }
        self.node.step(Input::SnapshotSent { to, ok, at });
    }

    /// Keeps nothing more for a peer that is gone.
    pub(super) fn forget_behind(&mut self, peer: NodeId) {
        self.snapshots.behind.remove(&peer);
    }

    /// Up to where the log in memory may be trimmed, if not for the peers that catch up with a snapshot it were
    /// up to `wanted`.
    pub(super) fn trim_memory(&mut self, wanted: Index) -> Index {
        if self.snapshots.behind.is_empty() {
            return wanted;
        }
        let status = self.node.status();
        let may_wait = status.role == Role::Leader && status.log_bytes <= KEPT_BYTES_MAX;
        self.snapshots.behind.retain(|peer, _| {
            let peer = status.peers.get(peer);
            may_wait && peer.is_some_and(|peer| peer.matched < wanted)
        });
        self.snapshots.behind.values().copied().min().map_or(wanted, |at| at.min(wanted))
    }

    /// Stages an arrived snapshot and tells the core, which says at once whether it wants it.
    pub(super) fn snapshot_arrived(&mut self, arrived: Arrived) {
        let Arrived { envelope, meta, storage, staged } = arrived;
        self.discard_staged();
        if buggify!("snapshot_is_thrown_away") {
            self.remove(storage);
            return;
        }
        self.snapshots.staged = Some(Staged { meta, storage });
        self.node.step(Input::Message(envelope));
        // A sender that is gone needs no answer.
        let _ = staged.send(());
        self.pump();
        // Still here: the core has not asked for it, and will not.
        self.discard_staged();
    }

    fn discard_staged(&mut self) {
        if let Some(Staged { storage, .. }) = self.snapshots.staged.take() {
            self.remove(storage);
        }
    }

    /// Removes a store that is not in force, once its last reader has gone; others may be arriving meanwhile.
    ///
    /// NB: nothing waits for that on a worker. A reader may be a slow client, and batches of the store that
    /// is in force would queue up behind it in memory.
    fn remove(&self, storage: Storage) {
        let (disk, runtime) = (self.runtime.disk(), self.runtime.clone());
        let (dir, worker) = (storage.dir(), self.snapshots.reading.clone());
        let closing = storage.close();
        drop(self.runtime.spawn(Lane::Serve, "remove old store", async move {
            while !closing.is_closed() {
                runtime.sleep(CLOSED_POLL).await;
            }
            worker.run(move || {
                if let Err(error) = crate::runtime::Disk::remove_dir_all(&disk, &dir) {
                    // The next start removes it.
                    warn!(%error, "a store that is not in force was not removed");
                }
            });
        }));
    }

    /// The core wants the staged snapshot: its generation is put in force first.
    pub(super) fn install(&mut self, meta: SnapshotMeta) {
        let staged = self.snapshots.staged.take();
        let Some(Staged { storage, .. }) = staged.filter(|staged| staged.meta == meta) else {
            self.fail("the core asked for a snapshot that is not staged");
            return;
        };
        info!(index = meta.position.index.0, "installing a snapshot");
        let (disk, stores) = (self.runtime.disk(), self.snapshots.stores.clone());
        let (runtime, events) = (self.runtime.clone(), self.events.clone());
        // On the store's worker: behind any batch for the old generation.
        self.keeper.run(move || {
            runtime.crash_point("snapshot_before_switch");
            let switched = generations::switch(&disk, &stores, &storage.dir());
            runtime.crash_point("snapshot_switched");
            let opened = Opened { meta, storage, switched };
            let _ = events.send(Event::SnapshotOpened(Box::new(opened)));
        });
    }

    /// The new generation is in force on disk: the machine follows, then the log.
    pub(super) fn snapshot_opened(&mut self, opened: Opened) {
        let Opened { meta, storage, switched } = opened;
        if let Err(error) = switched {
            self.fail(&format!("a snapshot could not be put in force: {error}"));
            return;
        }
        let old = match self.machine.install(storage) {
            Ok(old) => old,
            Err(error) => {
                self.fail(&format!("a snapshot could not be installed: {error}"));
                return;
            }
        };
        self.keeper.replaced();
        self.remove(old);
        let revision = self.machine.reader().revision();
        self.hub.lock().expect("nobody panicked while holding the hub").restore(revision);
        let mark = Mark { position: meta.position, conf: Bytes::new(), installed: true };
        self.snapshots.installing = Some(meta);
        self.log.submit(HandOver { mark: Some(mark), ..HandOver::default() });
        self.members_changed();
    }

    /// The log begins behind the installed snapshot: the core may go on.
    pub(super) fn snapshot_marked(&mut self) {
        if let Some(meta) = self.snapshots.installing.take() {
            info!(index = meta.position.index.0, "installed a snapshot");
            self.node.step(Input::SnapshotInstalled(meta));
        }
    }
}

/// Builds up an arriving snapshot, piece by piece, on a worker of its own. What does not come to its end, for
/// whatever reason, leaves nothing behind: transfers that fail again and again would fill the disk.
pub(crate) struct Incoming {
    worker: Worker,
    receiver: Option<Receiver>,
    events: mpsc::UnboundedSender<Event>,
    directory: Directory,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let unfinished = (self.receiver.take(), std::mem::take(&mut self.directory));
        // Behind whatever is still being written there.
        self.worker.run(move || drop(unfinished));
    }
}

/// The directory of an unfinished store, which goes with this. Whatever has it open is to be dropped before.
#[derive(Default)]
struct Directory(Option<Box<dyn FnOnce() + Send>>);

impl Directory {
    fn new<D: crate::runtime::Disk>(disk: D, dir: PathBuf) -> Self {
        Self(Some(Box::new(move || {
            if let Err(error) = disk.remove_dir_all(&dir) {
                // The next start removes it.
                warn!(%error, "a snapshot that did not arrive whole was not removed");
            }
        })))
    }

    /// The store is somebody's now.
    fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|remove| remove());
    }
}

/// Why an arriving snapshot is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    /// The pieces are no snapshot of this cluster.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The disk refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is no Raft message that brings a snapshot.
    #[error("the snapshot came without its message")]
    NoMessage,
    /// The member is stopping.
    #[error("the member is stopping")]
    Stopped,
}

impl Incoming {
    /// Prepares a directory for what is to come.
    pub(crate) async fn begin<R: Runtime>(
        runtime: &R,
        stores: PathBuf,
        cluster_id: ClusterId,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, IncomingError> {
        if buggify!("snapshot_is_refused") {
            return Err(IncomingError::Stopped);
        }
        let worker = runtime.worker("receive snapshot");
        let disk = runtime.disk();
        let begun = on(&worker, move || -> Result<_, IncomingError> {
            let dir = generations::fresh(&disk, &stores)?;
            let directory = Directory::new(disk, dir.clone());
            let receiver = Receiver::create(&dir, StorageOptions::default(), cluster_id)?;
            Ok((receiver, directory))
        });
        let (receiver, directory) = begun.await??;
        Ok(Self { worker, receiver: Some(receiver), events, directory })
    }

    /// Takes the next piece.
    pub(crate) async fn take(&mut self, chunk: Chunk) -> Result<(), IncomingError> {
        let mut receiver = self.receiver.take().ok_or(IncomingError::Stopped)?;
        let taken = on(&self.worker, move || {
            let result = receiver.take(chunk);
            (receiver, result)
        });
        let (receiver, result) = taken.await?;
        self.receiver = Some(receiver);
        Ok(result?)
    }

    /// Completes the snapshot and hands it to the driver; returns once it is staged.
    pub(crate) async fn finish(mut self, envelope: Envelope) -> Result<(), IncomingError> {
        let Message::InstallSnapshot { meta } = &envelope.message else {
            return Err(IncomingError::NoMessage);
        };
        let meta = meta.clone();
        let receiver = self.receiver.take().ok_or(IncomingError::Stopped)?;
        let storage = on(&self.worker, move || receiver.finish()).await??;
        let (staged, is_staged) = oneshot::channel();
        let arrived = Arrived { envelope, meta, storage, staged };
        self.events
            .send(Event::SnapshotArrived(Box::new(arrived)))
            .map_err(|_| IncomingError::Stopped)?;
        self.directory.keep();
        is_staged.await.map_err(|_| IncomingError::Stopped)
    }
}

/// Runs a job on a worker and waits for its result.
async fn on<O: Send + 'static>(
    worker: &Worker,
    job: impl FnOnce() -> O + Send + 'static,
) -> Result<O, IncomingError> {
    let (done, result) = oneshot::channel();
    worker.run(move || {
        // Whoever asked may be gone.
        let _ = done.send(job());
    });
    result.await.map_err(|_| IncomingError::Stopped)
}
