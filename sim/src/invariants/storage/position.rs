//! The store stands at an entry that the log has, or where the log begins (`server::bootstrap`: a store
//! that is ahead means that the log has lost its end, and promises with it; R06 in the hunt's table).
//!
//! One crash may leave the store ahead: that between the two halves of a snapshot's installation. Then it
//! still stands exactly where the snapshot left it.

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let (log, applied) = (&picture.log, picture.applied);
    if picture.loaded == Some(applied) {
        return None;
    }
    let begin = log.mark.as_ref().map(|mark| mark.position).unwrap_or_default();
    // Below the beginning the log knows nothing; what is missing in between is another check's.
    let known = log.entries.iter().find(|entry| entry.index == applied.index);
    let agrees = match known {
        Some(entry) => entry.term == applied.term,
        None => applied.index < begin.index || applied == begin,
    };
    (!agrees).then(|| {
        let (name, last) = (&picture.name, log.last());
        let text = format!("{name}: the store stands at {applied}, the log has {begin} to {last}");
        Violation::new("store-in-log", text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::{Index, LogPosition, Term};

    #[test]
    fn a_log_without_the_stores_entry_is_seen() {
        let ahead = fires(|picture| {
            let end = picture.log.entries.iter().position(|e| e.index == picture.applied.index);
            picture.log.entries.truncate(end.expect("the log has the entry"));
            picture.log.hard_state.commit = Index(0);
        });
        assert_eq!(ahead, ["store-in-log"]);
        let other = fires(|picture| picture.applied.term = Term(1));
        assert_eq!(other, ["store-in-log"]);
    }

    #[test]
    fn a_snapshot_that_the_log_has_not_heard_of_is_no_loss() {
        let installed = |ahead: u64| {
            fires(move |picture| {
                let at = LogPosition::new(Index(10_000), Term(2));
                picture.loaded = Some(at);
                picture.applied = LogPosition::new(Index(at.index.0 + ahead), at.term);
            })
        };
        assert!(installed(0).is_empty());
        assert_eq!(installed(1), ["store-in-log"]);
    }
}
