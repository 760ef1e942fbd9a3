//! Leases: keys that die with their owner.
//!
//! A lease is a promise of a number of seconds. Its owner renews it; when it stops, the keys attached to
//! the lease are deleted. Two things are needed for that, and they are kept strictly apart:
//!
//! - [`Leases`], the **table**: which leases exist, for how long they were granted, when they end as far as
//!   that was written down. It is part of the replicated state: changed by log entries alone, equal
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
//! The invariant: **when leadership changes, each lease has at least as much left as its owner was promised,
//! and at most that much, the leaderless time, and a lag that is known in advance.**
//!
//! *Lease time* is time as leaders count it: it stands still while nobody leads. The table holds where it
//! stood when it was last written down, and for some leases the lease time at which they end. The rest, those
//! renewed of late, have no end there: they are granted their whole TTL by a new leader.
//!
//! - **Never shorter than promised.** A renewal is answered only while nothing that ends the lease is under
//!   way, and only when a new leader would grant at least as much: a lease whose end stands in the table is
//!   first set free there. Lease time in the table is rounded down and only ever lags, what is left is rounded
//!   up, and a new leader goes on from its own start.
//! - **Longer only by what nobody could know.** An end is written down when half the TTL has passed without a
//!   renewal (so that owners who renew each third of their TTL never cost a log entry), and after a minute at
//!   the latest. From then on one number, lease time, keeps what is left of *all* such leases up to date: it
//!   is written down each eighth of their shortest TTL, between one second and thirty. So the lag is
//!   - for a lease whose owner has been silent for longer than that: at most an eighth of its TTL, never above
//!     half a minute (nor promised to be below a second);
//!   - for one renewed or granted of late: the time since then, at most half its TTL, never above a minute
//!     (and a thirty-second of the TTL, at most ten seconds, because ends of one kind share an entry);
//!   - nothing when leadership is handed over in order ([`Clock::hand_over`]).
//! - **Quiet when nobody calls.** Ten thousand leases that nobody renews cost one small entry each half minute;
//!   those renewed by thirds of up to two minutes cost none. Above that each renewal costs a place in two
//!   entries, which all renewals of the same twentieth of a second share.
//! - **Only the leader of the present term ends leases.** An expiry takes effect in an entry of the term it
//!   was proposed in, and for the very grant that was seen. A leader that was paused or cut off can propose
//!   what it likes: its entries are not committed, and forwarded ones carry another term.
//! - A lease whose time is over but whose end is not yet in the log is neither renewed nor refused: the
//!   renewal waits for the outcome.
//!
//! Why not less for leases in use: a renewal that is answered at once, without an entry, is one that any later
//! leader has to reckon with. A shorter lag for them is an entry for each renewal.
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
