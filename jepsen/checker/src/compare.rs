//! Replies compared with the model's, field by field, each difference named by what it means.
//!
//! | checker | what it says |
//! |---|---|
//! | `lost-write` | a read shows a key as it was before a write at or below its revision |
//! | `txn-atomic` | the same, and the write changed several keys: part of it is missing |
//! | `dirty-read` | a value or key that no write put there |
//! | `future-read` | a key newer than the reply's own revision |
//! | `key-metadata` | right value, wrong version, create revision, mod revision or lease |
//! | `order` | right keys in the wrong order |
//! | `serializable-state` | a serializable read that equals the state at no moment it could claim |
//! | `count` | wrong count or more |
//! | `prev-kv` | wrong or unasked prev_kv(s) |
//! | `delete-count` | wrong number of deleted keys |
//! | `txn-branch` | a txn took the wrong branch |
//! | `txn-results` | a txn's inner replies do not fit its operations |

use crate::model::{Etcd, sort_key};
use crate::op::*;
use crate::timeline::Timeline;

/// A difference: the checker that names it, and the words.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch {
    pub checker: &'static str,
    pub message: String,
}

fn mismatch(checker: &'static str, message: String) -> Option<Mismatch> {
    Some(Mismatch { checker, message })
}

/// What surrounds a comparison: the state after the operation, whether the answer may be stale, and the
/// revision that the reply claims.
pub(crate) struct Context<'m> {
    pub store: &'m Etcd,
    pub serializable: bool,
    pub revision: i64,
    /// Inside a txn: the state before it is no longer at hand for a second look.
    pub inner: bool,
}

impl Context<'_> {
    /// Finds the first difference between what the model answers and what the server answered.
    pub fn diff(&self, op: &Operation, expected: &Reply, actual: &Reply) -> Option<Mismatch> {
        match (op, expected, actual) {
            (Operation::Put(_), Reply::Put(expected), Reply::Put(actual)) => {
                self.header(&expected.header, &actual.header)
                    .or_else(|| prev_kvs(&expected.prev_kv, &actual.prev_kv))
            }
            (Operation::Range(range), Reply::Range(expected), Reply::Range(actual)) => {
                self.range(range, expected, actual)
            }
            (Operation::DeleteRange(_), Reply::DeleteRange(expected), Reply::DeleteRange(actual)) => {
                if expected.deleted != actual.deleted {
                    return mismatch(
                        "delete-count",
                        format!("deleted {}, the model {}", actual.deleted, expected.deleted),
                    );
                }
                self.header(&expected.header, &actual.header)
                    .or_else(|| prev_kvs(&expected.prev_kvs, &actual.prev_kvs))
            }
            (Operation::Txn(txn), Reply::Txn(expected), Reply::Txn(actual)) => {
                self.txn(txn, expected, actual)
            }
            _ => None,
        }
    }

    /// Inner headers carry a revision only, and recorders may leave it out.
    fn header(&self, expected: &Header, actual: &Header) -> Option<Mismatch> {
        if !self.inner || actual.revision == 0 || actual.revision == expected.revision {
            return None;
        }
        mismatch(
            "txn-results",
            format!("inner header at r{}, the model at r{}", actual.revision, expected.revision),
        )
    }

    fn txn(&self, txn: &Txn, expected: &TxnReply, actual: &TxnReply) -> Option<Mismatch> {
        if expected.succeeded != actual.succeeded {
            return mismatch(
                "txn-branch",
                format!("succeeded={}, the model says {}", actual.succeeded, expected.succeeded),
            );
        }
        let branch = if actual.succeeded { &txn.success } else { &txn.failure };
        if actual.responses.len() != branch.len() {
            let (got, want) = (actual.responses.len(), branch.len());
            return mismatch("txn-results", format!("{got} inner replies to {want} operations"));
        }
        let inner = Context { inner: true, ..*self };
        branch.iter().zip(&expected.responses).zip(&actual.responses).enumerate().find_map(
            |(place, ((op, expected), actual))| {
                let found = if std::mem::discriminant(expected) == std::mem::discriminant(actual) {
                    inner.diff(op, expected, actual)
                } else {
                    mismatch("txn-results", format!("{actual:?} is no reply to {op:?}"))
                };
                found.map(|found| Mismatch {
                    message: format!("inner operation {place}: {}", found.message),
                    ..found
                })
            },
        )
    }

    fn range(&self, range: &Range, want: &RangeReply, got: &RangeReply) -> Option<Mismatch> {
        let found = if range.sort_target == SortTarget::Key || self.inner {
            (want.kvs != got.kvs && !self.equal_but_for_ties(range, &want.kvs, &got.kvs))
                .then(|| self.classify(&want.kvs, &got.kvs))
        } else {
            self.sorted(range, want, got)
        };
        if let Some(found) = found {
            if self.serializable {
                return mismatch("serializable-state", format!("at r{}: {}", self.revision, found.message));
            }
            return Some(found);
        }
        if want.count != got.count || want.more != got.more {
            return mismatch(
                "count",
                format!(
                    "count {} more {}, the model count {} more {}",
                    got.count, got.more, want.count, want.more
                ),
            );
        }
        self.header(&want.header, &got.header)
    }

    fn equal_but_for_ties(&self, range: &Range, want: &[KeyValue], got: &[KeyValue]) -> bool {
        range.sort_target != SortTarget::Key
            && want.len() == got.len()
            && want.iter().zip(got).all(|(a, b)| sort_key(range.sort_target, a, b).is_eq())
            && (range.limit > 0 || got.iter().all(|kv| want.contains(kv)))
    }

    /// Etcd's sort is not stable: among equals any order is right, and any of them may be cut off.
    fn sorted(&self, range: &Range, want: &RangeReply, got: &RangeReply) -> Option<Mismatch> {
        let at = if range.revision > 0 { range.revision } else { self.store.revision() };
        let full = Range { keys_only: false, ..range.clone() };
        let (mut all, _, _) = self.store.select(&full, at);
        let sorted_by = |a: &KeyValue, b: &KeyValue| sort_key(range.sort_target, a, b);
        let mut rest: Vec<&KeyValue> = Vec::new();
        // What was sorted by a value may be shown without it.
        if range.keys_only {
            let bare = Range { ..range.clone() };
            all = self.store.select(&bare, at).0;
        }
        rest.extend(&all);
        for (place, kv) in got.kvs.iter().enumerate() {
            match rest.iter().position(|other| *other == kv) {
                Some(at) => {
                    rest.remove(at);
                }
                None => return Some(self.classify(&want.kvs, &got.kvs)),
            }
            let tied = want.kvs.get(place).is_some_and(|other| sorted_by(other, kv).is_eq());
            if !tied && !(range.keys_only && range.sort_target == SortTarget::Value) {
                return mismatch("order", format!("{} stands at place {place}", kv.key));
            }
        }
        (got.kvs.len() != want.kvs.len()).then(|| self.classify(&want.kvs, &got.kvs))
    }

    /// Names the first difference between two lists of keys.
    fn classify(&self, want: &[KeyValue], got: &[KeyValue]) -> Mismatch {
        let timeline = self.store.timeline();
        let at = want.iter().zip(got).take_while(|(a, b)| a == b).count();
        let (w, g) = (want.get(at), got.get(at));
        let (checker, message) = match (w, g) {
            (Some(w), Some(g)) if w.key == g.key => self.classify_key(timeline, w, g),
            (w, g) => {
                let missing = w.filter(|w| got.iter().all(|kv| kv.key != w.key));
                let extra = g.filter(|g| want.iter().all(|kv| kv.key != g.key));
                match (missing, extra) {
                    (Some(w), _) => (
                        lost(timeline, w.mod_revision),
                        format!("{} of r{} is missing", w.key, w.mod_revision),
                    ),
                    (None, Some(g)) if g.mod_revision > self.revision => newer(g),
                    (None, Some(g)) => match timeline.last_change(&g.key, self.revision) {
                        Some(change) if change.kind == EventKind::Delete => (
                            lost(timeline, change.kv.mod_revision),
                            format!("{} was deleted at r{}", g.key, change.kv.mod_revision),
                        ),
                        Some(_) => ("count", format!("{} does not belong here", g.key)),
                        None => ("dirty-read", format!("{} was never written", g.key)),
                    },
                    (None, None) => ("order", format!("keys stand in another order from {at} on")),
                }
            }
        };
        Mismatch { checker, message }
    }

    fn classify_key(&self, timeline: &Timeline, w: &KeyValue, g: &KeyValue) -> (&'static str, String) {
        let both = || format!("got {g:?}, the model has {w:?}");
        if g.mod_revision > self.revision {
            return newer(g);
        }
        let real = timeline.get(&g.key, g.mod_revision).is_some_and(|kv| {
            kv.mod_revision == g.mod_revision && (kv.value == g.value || g.value.is_empty())
        });
        if g.mod_revision < w.mod_revision && real {
            return (lost(timeline, w.mod_revision), both());
        }
        if g.value == w.value { ("key-metadata", both()) } else { ("dirty-read", both()) }
    }
}

fn newer(kv: &KeyValue) -> (&'static str, String) {
    ("future-read", format!("{} carries r{}, newer than the reply", kv.key, kv.mod_revision))
}

/// The name for a write whose effect is not there.
fn lost(timeline: &Timeline, revision: i64) -> &'static str {
    if timeline.at(revision).len() > 1 { "txn-atomic" } else { "lost-write" }
}

fn prev_kvs<T: PartialEq + std::fmt::Debug>(expected: &T, actual: &T) -> Option<Mismatch> {
    if expected == actual {
        return None;
    }
    mismatch("prev-kv", format!("got {actual:?}, the model has {expected:?}"))
}
