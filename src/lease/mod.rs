//! Leases: keys that die with their owner.
//!
//! A lease is a promise of a number of seconds. Its owner renews it; when it stops, the keys attached to
//! the lease are deleted. Two things are needed for that, and they are kept strictly apart:
//!
//! - [`Leases`], the **table**: which leases exist, for how long they were granted, what was left of them
//!   when it was last written down. It is part of the replicated state: changed by log entries alone, equal
//!   on every member, without any clock. Which keys hang on which lease is a second stored table
//!   ([`keys`]), ordered by lease and never read as a whole.
//! - [`Clock`], which only the leader's shell keeps: it knows when each lease runs out *by its own clock*,
//!   and answers renewals. It does nothing to the table; it says what should be proposed.
//!
//! ```text
//!   keep-alive → Clock.renew ─┬→ renewed            entries → machine → Leases ─→ Change ─┐
//!                             └→ wait, ask again         ▲                                 │
//!   time → Clock.poll → proposals: expire, checkpoint ───┘        Clock.on(change) ←───────┘
//! ```
//!
//! # How long a lease lives
//!
//! - **Never shorter than promised.** A renewal is answered only while nothing that ends the lease is under
//!   way, and only when a new leader would grant at least as much: a lease whose remaining time stands in
//!   the table is first reset there. The table rounds up, a new leader counts from its own start.
//! - **Longer only by what nobody could know.** A new leader counts what the table says is left from the
//!   moment it took over. A lease therefore outlives its time by the leaderless time and by what had passed
//!   since the table last heard of it. That lag is at most half the TTL after a renewal (so that owners who
//!   renew each third of their TTL never cost a log entry), an eighth after that, and never above five
//!   minutes; it is zero when leadership is handed over in order ([`Clock::hand_over`]).
//! - **Only the leader of the present term ends leases.** An expiry takes effect in an entry of the term it
//!   was proposed in, and for the very grant that was seen. A leader that was paused or cut off can propose
//!   what it likes: its entries are not committed, and forwarded ones carry another term.
//! - A lease whose time is over but whose end is not yet in the log is neither renewed nor refused: the
//!   renewal waits for the outcome.
//!
//! Left out: who may use a lease, and choosing ids (the API does); proving leadership before a renewal is
//! answered (the shell does, by a read barrier taken after the renewal came in).

pub mod clock;
#[cfg(test)]
pub(crate) mod golden;
pub mod keys;
pub mod table;
#[cfg(test)]
mod tests;

pub use clock::{Clock, ClockOptions, Proposal, Renewal};
pub use table::{Change, GrantError, Lease, Leases, TTL_SECONDS_MAX};
