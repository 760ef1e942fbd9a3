//! The shell around the core: everything of a member that takes time or can fail.
//!
//! The core ([`raft`](crate::raft), [`machine`](crate::machine)) is a function of its inputs. This
//! module gives it inputs and carries out what it says: the [`driver`] loop, the queue before the log
//! ([`log_writer`]), who waits for what ([`proposals`], [`reads`], [`changes`]) and how they are told ([`answers`]), the leader's lease clock
//! ([`leases`]), bringing what was applied to disk ([`keeper`]), snapshots between members
//! ([`snapshots`]), the room on the disk ([`room`]), and the start from what a disk holds ([`bootstrap`]). Whoever serves requests holds a
//! [`Handle`].
//!
//! Generic are only the types here, over the runtime and the transport; the handle is not, so nothing
//! above is. Nothing here sees protobuf or sockets.

mod answers;
pub mod bootstrap;
mod changes;
mod driver;
mod error;
mod event;
mod figures;
mod handle;
mod keeper;
mod leases;
mod log_writer;
mod proposals;
mod reads;
pub(crate) mod room;
mod snapshots;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use error::ServeError;
pub use handle::{BoxFuture, Clock, Handle, Limits, PeerCalls};
pub use room::Room;
pub use status::NodeStatus;

pub(crate) use driver::Driver;
pub(crate) use event::Event;
pub(crate) use handle::Shared;
pub(crate) use snapshots::Incoming;

use crate::cluster::Membership;
use crate::metrics::Metrics;
use crate::transport::PeerAddress;
use crate::types::NodeId;

/// Why a member is no longer running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// It was asked to stop.
    #[error("it was asked to stop")]
    Stopped,
    /// It was removed from the cluster.
    #[error("it was removed from the cluster")]
    Removed,
    /// It cannot trust its disk any more; a restart re-reads the truth.
    #[error("{0}")]
    Failed(String),
}

/// What the driver needs of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// This member.
    pub(crate) id: NodeId,
    /// The length of a tick.
    pub(crate) heartbeat_interval: Duration,
    /// How long a request may wait.
    pub(crate) request_timeout: Duration,
    /// How many applied entries stay in memory for slow peers.
    pub(crate) catchup_entries: u64,
    /// How many proposals may wait before more are refused.
    pub(crate) proposals_max: usize,
    /// How many ticks an election timeout has.
    pub(crate) election_ticks: u32,
    /// Whether this member asks before it campaigns.
    pub(crate) pre_vote: bool,
    /// Whether the first wait for an election is shortened.
    pub(crate) hasty_start: bool,
    /// How many rows one step of physical compaction reads.
    pub(crate) scrub_rows: usize,
    /// The pause between two steps.
    pub(crate) scrub_pause: Duration,
    /// Counts the starts of this member.
    pub(crate) boot: u64,
    /// How the leader's lease clock proposes.
    pub(crate) lease_clock: crate::lease::ClockOptions,
    /// The room on the disk, of which the log takes.
    pub(crate) room: Arc<Room>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// Where everybody but this member is found.
pub(crate) fn peer_addresses(
    membership: &Membership,
    own: NodeId,
) -> BTreeMap<NodeId, PeerAddress> {
    membership
        .members()
        .filter(|member| member.id != own)
        .map(|member| (member.id, PeerAddress { urls: member.peer_urls.clone() }))
        .collect()
}
