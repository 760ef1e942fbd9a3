//! Histories of an etcd-compatible store, judged.
//!
//! A recorder writes down what clients asked and what they were told ([`history`]: JSON lines, the same
//! from simulations and from real processes). The checkers compare that with a sequential etcd
//! ([`model`]) and report each broken promise under the name of the check that found it ([`verdict`]).
//! This crate is pure: no clock, no threads, no files; equal histories get equal verdicts.
//!
//! | judge | idea | module |
//! |---|---|---|
//! | revision order | every write's revision is its place in one order: sort, replay, compare all replies | `linear`, `realtime`, `compare`, `explain` |
//! | registers | an order is searched for, without looking at revisions | [`registers`], [`wgl`] |
//! | cycles | who saw whose version orders transactions | [`serial`] |
//! | watches | nine promises of a watch and some more, against what happened | `watch` |
//! | leases | never early, never renewed after the end, keys go together | `lease` |
//!
//! The names of the checks stand at the head of `linear`, `realtime`, `compare`, `watch` and `lease`; the
//! others are `history` (the recorder broke its rules), `register` and `serial`.
//!
//! **What may be relied on.** A violation is one: where something is unknown (an answer that got lost, an
//! end that nobody saw) the history gets the benefit of the doubt. A search that runs out of its budget
//! says so in [`Verdict::undecided`]. What is not judged is not claimed: liveness, auth, membership.
//! With [`GroundTruth`] (a simulation's apply log) nothing has to be guessed.
//!
//! ```
//! use checker::{Options, check, history};
//!
//! let lines = r#"
//! {"time":10,"process":1,"node":1,"what":{"invoke":{"put":{"key":"a","value":"1"}}}}
//! {"time":20,"process":1,"node":1,"what":{"ok":{"put":{"header":{"revision":2,"member":1,"term":4}}}}}
//! {"time":30,"process":2,"node":3,"what":{"invoke":{"put":{"key":"a","value":"2"}}}}
//! {"time":40,"process":2,"node":3,"what":{"info":"context deadline exceeded"}}
//! {"time":50,"process":1,"node":2,"what":{"invoke":{"range":{"key":"a"}}}}
//! {"time":60,"process":1,"node":2,"what":{"ok":{"range":{"header":{"revision":3,"member":2,"term":4},
//!     "kvs":[{"key":"a","value":"2","create_revision":2,"mod_revision":3,"version":2}],"count":1}}}}
//! "#;
//! let lines = lines.replace(",\n    ", ",");
//! let records = history::read(lines.as_bytes()).unwrap();
//! // The second put got no answer, and the read shows that it happened.
//! assert!(check(&records, &Options::default()).is_ok());
//!
//! // Had the read not seen the first put, an acknowledged write would be lost.
//! let stale = lines.replace(r#""revision":3"#, r#""revision":2"#);
//! let stale = stale.replace(
//!     r#""kvs":[{"key":"a","value":"2","create_revision":2,"mod_revision":3,"version":2}],"count":1"#,
//!     r#""count":0"#,
//! );
//! let verdict = check(&history::read(stale.as_bytes()).unwrap(), &Options::default());
//! assert!(verdict.found("lost-write"));
//! let lost = verdict.violations.iter().find(|found| found.checker == "lost-write").unwrap();
//! assert_eq!(lost.evidence, [4, 5]);
//! ```

pub mod blob;
mod compare;
mod explain;
pub mod generate;
pub mod history;
mod lease;
mod linear;
pub mod model;
pub mod op;
mod ops;
mod outlook;
mod realtime;
pub mod registers;
pub mod serial;
pub mod timeline;
mod validate;
pub mod verdict;
mod watch;
pub mod wgl;
mod witness;

pub use blob::Blob;
pub use history::{Record, WatchRecord, WatchRequest, What};
pub use model::{Etcd, Refusal};
pub use verdict::{
    FinalState, GroundTruth, Options, Stats, Verdict, Violation, check, check_with_truth,
};

#[cfg(test)]
mod generate_tests;
#[cfg(test)]
mod spoil_tests;
#[cfg(test)]
mod story;
#[cfg(test)]
mod wrong_tests;
#[cfg(test)]
mod wrong_watch_tests;
