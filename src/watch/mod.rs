//! Watching: which watcher gets which event, in which order, and nothing twice, nothing lost.
//!
//! The [`Hub`] is a plain struct without tasks, clocks or sockets. It is told what was applied
//! ([`Hub::publish`]), and each stream takes from it what is there for its watchers ([`Hub::take`]).
//!
//! ```text
//!                        ┌── level watchers: matched at once ──→ ring + the stream's queue ──┐
//!  publish(r, events) ───┤                                                                   ├─→ take(stream)
//!                        └── behind watchers: later, from the store's history ──→ the queue ─┘
//!                              plan → (read history, hub unlocked) → supply
//! ```
//!
//! # Vocabulary
//!
//! - A **stream** is one client's connection; it has any number of **watchers**, each with a key range.
//! - A watcher is **level** if every event up to the hub's revision that it wants has been queued for it, so
//!   that the next publish may be too. Otherwise it is **behind**, and `next` is the first revision it lacks.
//!   New watchers with an old start revision, slow ones, and all of them after a snapshot was installed:
//!   all are behind, and one mechanism catches them up.
//! - The **ring** holds the events that level watchers have not taken yet, each once, encoded once. It is
//!   bounded in bytes, and cut only between revisions. Who still needed what is cut off falls behind.
//!
//! # Promises, per watcher
//!
//! - *Ordered, unique, reliable, resumable*: it is given every event of its range and filters from its start
//!   revision on, in the order of revisions, each once; or it is told, with the compact revision, that
//!   history it needed is gone, and is given nothing more.
//! - *Atomic*: all events of one revision are in one delivery. The ring is cut, queues are filled and
//!   emptied only between revisions.
//! - *Bookmarkable*: a progress report with revision r comes after everything up to r and before anything
//!   later. It travels in the same queue as events, and is only made for watchers that are level.
//! - *Filtered*: nothing from before the start revision, also if that lies in the future; nothing that its
//!   filters exclude.
//!
//! # What bounds memory
//!
//! The ring in bytes, a stream's queue of ring places in number, a stream's share of history in bytes. A
//! client that does not read costs that much and no more: its watchers fall behind, and history is read
//! again when it returns.
//!
//! # Invariants ([`Hub::check`])
//!
//! - A watcher is filed in exactly one of the two indexes: the level one or the behind one. One that was
//!   told about a compaction is in neither, until its client cancels it.
//! - A behind watcher has `next` ≤ the hub's revision; a level one has had all before `max(next, revision+1)`.
//! - What is queued for a watcher is before its `next` if it is behind, and ascends.
//! - Each place in the ring that is queued exists. Streams are woken when their queue gets its first item.
//!
//! Left out: `prev_kv` (the API asks the store, by [`Encoded::event`]), splitting large deliveries into
//! fragments (the API does, it knows the message size), permissions, and timers for progress.

mod catch_up;
mod event;
mod hub;
mod index;
#[cfg(test)]
mod model;
mod queue;
mod ring;
mod spec;
#[cfg(test)]
mod tests;

pub use catch_up::{Past, catch_up};
pub use event::Encoded;
pub use hub::{Hub, HubCounts, HubOptions, StreamId};
pub use spec::{Delivery, RegisterError, Registered, Taken, Wake, WatchSpec};
