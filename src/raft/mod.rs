//! The consensus core: a deterministic function from inputs to effects. It does no IO, knows no
//! clock, no disk, no socket and no ambient randomness, and never looks into a command.
//!
//! # The idea
//!
//! Raft (Ongaro & Ousterhout 2014) elects one leader a term; the leader orders entries in a log, and
//! an entry that a majority of the voters holds durably, below one of the leader's own term, is
//! *committed*: no later leader can lack it. Here the disk is asynchronous as well: the core hands
//! over what is to be written, goes on, and is told by [`Input::Persisted`]. Whatever promises
//! something (a vote, an acceptance) waits for that; whatever promises nothing (a leader's append, a
//! heartbeat) does not.
//!
//! ```text
//!    Tick, Message, Propose, ReadIndex,                     messages_now
//!    Persisted, Applied, … ──▶ Node::step    take_ready ──▶ hard_state, entries ─┐ ticket
//!                              (no effects)                 messages_after_persist ◀┘
//!                                                           committed, reads, …
//! ```
//!
//! # Vocabulary
//!
//! *Committed*: on a quorum. *Delivered*: given to the driver. *Applied*: in the machine. *Durable*:
//! synced here. *Trim* drops a prefix of the log, *truncate* a suffix that contradicts the leader. A
//! *snapshot* is machine state for a peer. A *member* is in the configuration, a *peer* is another
//! member seen from here.
//!
//! # What holds
//!
//! - One leader a term; a leader holds every committed entry; machines apply the same entries in the
//!   same order. (`sim/src/storm` checks these and more after every step of every seed.)
//! - Nothing is committed, applied or answered on the strength of «appended», with one member too.
//! - Two nodes given the same inputs give the same effects, byte for byte.
//! - Memory is bounded: uncommitted bytes by refusal, a slow peer by its window, the log by the
//!   driver's [`Input::Trim`], after which a peer left behind gets a snapshot.
//! - A read needs a quorum's answer that began after it; no clock is trusted.
//!
//! # What is left out, and what that costs
//!
//! Election priorities and witnesses. Leases for reads: each turn's reads cost one heartbeat round.
//! The transport may do what it likes except repeat a proposal (see [`Message`]). Commands are not
//! deduplicated: that is the machine's.
//!
//! # Where to start
//!
//! [`Node`] and its two doors in `node.rs`; then the rule you came for in `node/`. The scripts in
//! `testscripts/` tell one situation each.

mod config;
mod entry;
mod input;
mod log;
mod membership;
mod message;
mod node;
mod persist;
mod progress;
mod quorum;
mod reads;
mod ready;
mod rng;

#[cfg(test)]
mod script;

pub use config::{Config, RestoreError, Restored};
pub use entry::{Entry, HardState, Payload, SnapshotMeta};
pub use input::{Input, Proposal, ProposalId, ReadId, Ticket};
pub use membership::{ConfChange, ConfChangeError, ConfChangeItem, ConfChangeKind, ConfState};
pub use message::{AppendResponse, Envelope, Message};
pub use node::{Node, PeerStatus, Status};
pub use progress::PeerState;
pub use quorum::{Tally, agreed, tally};
pub use ready::{
    FailedRead, ReadFailure, ReadState, Ready, Refusal, RefusedProposal, Role, SnapshotRequest,
    SoftState, Violation,
};
pub use rng::Random;
