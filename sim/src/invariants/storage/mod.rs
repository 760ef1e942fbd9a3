//! What must hold of a stopped member's disk: one property a file, checked at the end of each run.
//!
//! When a run is over all members are killed, and their disks hold what their kernels had been given. Each
//! one is read by the production code's own ways (the log's opening, the store's views) into a
//! [`Picture`], and every check looks at that. Then the entries that the cluster is known to have
//! committed are applied to each store, in memory, and the members that so come to the same entry are held
//! against one another, byte by byte: more than a hash of the keys can tell.
//!
//! A disk without a member on it (never used, or wiped and not yet joined again) is passed over. What a
//! member may legitimately leave when it is killed is each check's to know.

mod chains;
mod commit;
mod compact;
mod contiguous;
mod counts;
mod gap;
mod index;
mod lease_keys;
mod leases;
mod leftovers;
mod log_matching;
mod members;
mod owner;
pub mod picture;
mod position;
mod replicas;
mod revisions;
mod scrubbed;
mod seals;
mod term;
mod versions;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use self::picture::{Opened, Picture};
use super::Violation;
use crate::disk::HostDisk;

/// A property of one disk.
type Check = fn(&Picture) -> Option<Violation>;

/// Those of the log and of the disk as a whole.
const OF_DISK: &[Check] = &[
    contiguous::check,
    commit::check,
    term::check,
    position::check,
    gap::check,
    leftovers::check,
    seals::check,
];

/// Those of the tables, of which everything must have been read.
const OF_TABLES: &[Check] = &[
    owner::check,
    compact::check,
    revisions::check,
    chains::check,
    versions::check,
    index::check,
    counts::check,
    scrubbed::check,
    lease_keys::check,
    leases::check,
    members::check,
];

/// Checks the disks of a run, by the names of their machines. Nothing may run on them any more, and each
/// store must be closed; what is opened here is closed again.
pub fn check(disks: &[(&str, &Arc<HostDisk>)]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut opened = Vec::new();
    for (name, disk) in disks {
        match catch_unwind(AssertUnwindSafe(|| Opened::open(name, disk))) {
            Ok(Ok(one)) => opened.extend(one),
            Ok(Err(error)) => found.push(Violation::new("disk-read", format!("{name}: {error}"))),
            Err(panic) => {
                let text = format!("{name}: a panic: {}", crate::run::message_of(panic.as_ref()));
                found.push(Violation::new("disk-read", text));
            }
        }
    }
    for one in &opened {
        found.extend(broken(&one.picture));
    }
    let pictures: Vec<&Picture> = opened.iter().map(|one| &one.picture).collect();
    found.extend(log_matching::check(&pictures));
    // A store that is damaged in itself cannot be held against another one.
    if found.is_empty() {
        let replay = catch_unwind(AssertUnwindSafe(|| replicas::replay(&mut opened)));
        match replay {
            Ok(replicas) => found.extend(replicas::check(&replicas)),
            Err(panic) => {
                let panic = crate::run::message_of(panic.as_ref());
                let text = format!("applying what is committed panics: {panic}");
                found.push(Violation::new("equal-tables", text));
            }
        }
    }
    opened.into_iter().for_each(Opened::close);
    found
}

/// Returns what one disk breaks.
fn broken(picture: &Picture) -> Vec<Violation> {
    let checks = if picture.tables.unread.is_empty() { OF_TABLES } else { &[] };
    OF_DISK.iter().chain(checks).filter_map(|check| check(picture)).collect()
}
