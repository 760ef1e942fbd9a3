//! Messages between members: trait [`Transport`] carries them, and may lose any of them.
//!
//! The driver hands over what Raft wants said and never waits for it. A lost message is in order (Raft
//! says it again); a delayed, doubled or reordered one too, with one exception: a
//! [`Propose`](crate::raft::Message::Propose) that is delivered twice is proposed twice, so nothing here
//! ever sends one again.
//!
//! - [`codec`] turns Raft's data into protobuf and back; the log stores entries in the same form.
//! - [`chunks`] does the same for the pieces of a snapshot.
//! - [`grpc`] is the implementation: one HTTP/2 connection a direction and pair of members, with a
//!   stream of batches in it, over `net` (and so over TLS, or over the simulated network).
//!
//! What it promises: messages from one member to another arrive in the order sent while one connection
//! lives. What it does not: that they arrive.

pub mod chunks;
pub mod codec;
pub mod grpc;

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tonic::Status;

use crate::machine::snapshot::Chunk;
use crate::raft::Envelope;
use crate::types::{ClusterId, NodeId};

/// Where a peer is found and how often to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The peer's URLs, tried in turn.
    pub urls: Vec<String>,
}

/// Who speaks on a stream, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The speaker's cluster.
    pub cluster_id: ClusterId,
    /// The speaker.
    pub member_id: NodeId,
    /// Whom it believes to have reached; the speaker's own id in a hello that is still to be sent.
    pub to: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is found.
    pub peer_urls: Vec<String>,
    /// The number drawn when its data directory was made: a wiped member has another one.
    pub store_id: u64,
    /// Counts its starts.
    pub boot: u64,
}

/// Where a transport delivers.
pub trait Inbox: Send + Sync + 'static {
    /// Decides whether a peer may speak to this member.
    ///
    /// # Errors
    /// The status with which its stream is refused.
    fn admit(&self, hello: &Hello) -> Result<(), Status>;

    /// Messages arrived.
    fn messages(&self, messages: Vec<Envelope>);

    /// A message to this peer was lost.
    fn unreachable(&self, peer: NodeId);

    /// A connection from or to this peer broke.
    fn connection_lost(&self, peer: NodeId);

    /// A peer refused this member's stream because it was removed from the cluster, which is for good.
    fn removed(&self);
}

/// The words by which a removed member is refused.
pub(crate) const REMOVED: &str = "removed member";

/// Carries messages to peers. Clones share one set of connections.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Sends messages, each to the peer it names. Never blocks; a peer that is slow or not there loses
    /// them, and the driver is told by an event.
    fn send(&self, messages: Vec<Envelope>);

    /// Names everyone who may be sent to. Connections to others are closed.
    fn set_peers(&self, peers: BTreeMap<NodeId, PeerAddress>);

    /// Sends a snapshot's pieces, with the message that goes with them, to the peer that it names; true
    /// once the peer has staged all of it.
    fn send_snapshot(
        &self,
        envelope: Envelope,
        chunks: mpsc::Receiver<Chunk>,
    ) -> impl Future<Output = bool> + Send + 'static;

    /// Says whom this member is connected to, and since when (seconds of the runtime's clock).
    fn connected(&self) -> BTreeMap<NodeId, crate::runtime::Instant>;
}
