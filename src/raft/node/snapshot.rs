//! The handshake around a snapshot. The core decides *who needs one* and *who takes one*; the bytes
//! pass from driver to driver.
//!
//! ```text
//!  leader core      leader driver                  receiver driver           receiver core
//!      │ snapshots_to_send │                             │                         │
//!      ├──────────────────▶│  meta, bytes …              │                         │
//!      │ (heartbeats only) ├────────────────────────────▶│ stage: whole, checked,  │
//!      │                   │                             │ synced, beside the live │
//!      │                   │                             │ state                   │
//!      │    SnapshotSent   │◀────────────────────────────┤ InstallSnapshot{meta}   │
//!      │◀──────────────────┤ received                    ├────────────────────────▶│
//!      │ (probes on)       │                             │          Ready::install │
//!      │                   │                             │◀────────────────────────┤
//!      │                   │                             │ swap machine, then log  │
//!      │                   │                             │ SnapshotInstalled(meta) │
//!      │                   │                             ├────────────────────────▶│
//!      │◀───────────────────────────────────── AppendResponse::Accept ─────────────┤
//! ```
//!
//! What the receiving driver must know:
//!
//! - The envelope is stepped *after* the bytes are staged. If the next `Ready` has no `install`, the
//!   snapshot is stale, or another is being installed: throw it away. [`Node::wants_snapshot`] tells
//!   as much before the bytes are received, but only the answer afterwards counts.
//! - `install` takes its place in the order of hand-overs to disk: after all before it, ahead of all
//!   after it. First the machine's state is swapped, durably; then the log is replaced by an empty one
//!   that begins after the snapshot's position; then `SnapshotInstalled` is stepped.
//! - After a crash between the two, the machine stands at a position that the log does not hold. The
//!   driver then drops the log and starts from the machine's position: whatever the log held beyond it
//!   was in contradiction to the snapshot, and never committed.
//! - Nothing is appended or delivered in between, and there is only one installation at a time.
//! - `SnapshotSent` must be stepped in every case, also when the stream broke: the peer gets nothing
//!   but heartbeats until then.

use super::Node;
use crate::raft::entry::SnapshotMeta;
use crate::raft::ready::Role;
use crate::types::{Index, LogPosition, NodeId};

impl Node {
    /// Tells whether a snapshot that ends at `position` would be taken now. A hint, to spare the
    /// transfer.
    pub fn wants_snapshot(&self, position: LogPosition) -> bool {
        let behind = position.index > self.commit && !self.log.holds(position);
        behind && (self.installing.is_none() || crate::mutant!("E28"))
    }

    pub(super) fn on_install_snapshot(&mut self, from: NodeId, meta: SnapshotMeta) {
        if self.wants_snapshot(meta.position) {
            self.installing = Some(meta.clone());
            self.out.install = Some(meta);
        } else if self.installing.is_none() {
            // Everything the snapshot contains is committed, and here.
            if self.log.holds(meta.position) {
                self.commit_to(meta.position.index);
            }
            self.accept(from, self.commit);
        }
    }

    pub(super) fn on_snapshot_installed(&mut self, meta: SnapshotMeta) {
        let expected = self.installing.take();
        assert_eq!(expected.as_ref(), Some(&meta), "a snapshot nobody asked for was installed");
        assert_eq!(self.role, Role::Follower, "a snapshot was installed under a candidate");
        let SnapshotMeta { position, mut conf_state } = meta;
        if crate::mutant!("R22") {
            conf_state.voters_outgoing.clear();
            conf_state.learners_next.clear();
            conf_state.auto_leave = false;
        }
        self.log.reset(position);
        self.persist.reset(position.index);
        self.commit = position.index;
        self.delivered = position.index;
        self.applied = position.index;
        self.adopt(conf_state);
        if let Some(leader) = self.leader {
            self.accept(leader, position.index);
        }
    }

    pub(super) fn on_snapshot_sent(&mut self, to: NodeId, ok: bool, at: Index) {
        let last = self.log.last().index;
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.on_snapshot_sent(ok, at.min(last));
        }
    }
}
