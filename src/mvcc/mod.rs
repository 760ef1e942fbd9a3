//! Keys and values in many versions: etcd's data model over the tables of `storage`.
//!
//! **The idea.** Every write makes a *row*, named by its *revision*: a main number, which counts the
//! entries that changed something, and a sub number, which counts the changes of that entry. Rows are
//! never changed; a delete writes a *tombstone* row. To read at a revision is to see, of each key, the
//! newest row up to it. Compacting at a revision gives up everything that can only be seen below it.
//!
//! **What is stored** (forms in `codec`):
//!
//! | table | holds |
//! |---|---|
//! | `Rows` | each row under its revision, with a pointer to the key's row before it |
//! | `Keys` | each user key's newest row, in key order: the index of lists and lookups |
//! | `Counts` | how many keys live in each stretch of the key space |
//! | `Meta` | the current and the compact revision, how far compaction has come |
//!
//! Rows are written in ascending order, which the tables below like best, and are already the history
//! that watchers read and the order that hashes and backups want. The index holds only the newest state
//! of a key, so it is small and written once a change; older states are found by walking the key's chain
//! of rows, with shortcuts (see [`codec`]'s `Chain`). No part of the index must be in memory and none is
//! read at start but the counts, one for about fifty keys.
//!
//! | file | has |
//! |---|---|
//! | `store` | the handle, what is published with each change set, damage |
//! | `frame` | looking at the keys as of one revision |
//! | `read`, `txn`, `write` | ranges and counts; transactions; one entry's writes |
//! | `history`, `hash`, `scrub` | the past for watchers; HashKV; removing what was compacted |
//! | `counts`, `recent` | counting without walking, now and a little earlier |
//! | `ledger` | the counts held against a walk, which must not miss a key |
//! | `inspect` | stored rows taken apart, for whoever looks at a stopped member's tables |
//!
//! **Invariants**
//! - The current revision is stored, never derived from the newest row: compaction may remove that row.
//! - An entry changes all that it changes at one revision, or nothing and then no revision passes.
//! - A read is of one revision. It is refused if that is compacted, also while it is being read.
//! - What compaction has removed so far, where fences of counts stand, how chains are linked: these are
//!   each member's own and show in no answer, no hash and no revision.
//! - Every row and every entry of the index carries a checksum over itself and its name. What does not
//!   fit is [`Damage`]: it stops the member and is never answered from.
//! - What is missing is damage as well, and shows in what must be there: above the compact revision each
//!   revision has rows; a key's chain names its rows, and only a tombstone may be gone from it; a walk
//!   over keys meets as many as are counted, and so does a hash. A single key that is not found is
//!   believed: nothing that costs less than a walk would tell.
//!
//! **Left out.** Who may read or write, what a lease is (only its number is kept with a key), watchers
//! (they read [`Store::history`]), and the validation of requests (empty keys, too many operations,
//! double keys in a transaction), which is the API's; whatever gets past it is still applied safely.

mod codec;
mod counts;
mod frame;
mod hash;
mod history;
mod inspect;
mod ledger;
mod read;
mod rebuild;
mod recent;
mod scrub;
mod store;
mod txn;
mod write;

#[cfg(test)]
mod tests;

pub use frame::{Damage, Unbroken};
pub use hash::{HashJob, HashKv, etcd_row_key};
pub use history::{Budget, HistoryBatch};
pub use inspect::{StoredFacts, StoredKey, StoredRow, stored_count};
pub use rebuild::{CountsBuilder, ForeignRow, Indexed};
pub use scrub::{Hold, ScrubProgress};
pub use store::{Publish, Store, StoreError};
pub use write::{Finished, LeaseChange, LeaseLookup, Writer};
