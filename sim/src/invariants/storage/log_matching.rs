//! If two members' logs have an entry of one index and term, it is the same entry; and where both know an
//! index as committed, it is of one term (Raft, figure 3: log matching and state machine safety, here of
//! what is on the disks).

use std::collections::BTreeMap;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges the disks of a run.
pub fn check(pictures: &[&Picture]) -> Option<Violation> {
    let mut known = BTreeMap::new();
    let mut committed = BTreeMap::new();
    for picture in pictures {
        let (owner, commit) = (picture.log.metadata, picture.log.hard_state.commit);
        for entry in &picture.log.entries {
            let place = (owner.cluster, entry.index);
            let named = (place, entry.term);
            let (first, by) = *known.entry(named).or_insert((entry, &picture.name));
            let differ = (first.kind, &first.data) != (entry.kind, &entry.data);
            let (term, told) = if entry.index <= commit {
                *committed.entry(place).or_insert((entry.term, &picture.name))
            } else {
                (entry.term, by)
            };
            if differ || term != entry.term {
                let (name, by) = (&picture.name, if differ { by } else { told });
                let text = format!("{}@{} differs on {name} and {by}", entry.index, entry.term);
                return Some(Violation::new("logs-match", text));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;
    use bytes::Bytes;
    use mainstay::types::Term;

    #[test]
    fn logs_that_differ_are_seen() {
        let one = picture();
        let other = |change: fn(&mut Picture)| {
            let mut other = one.clone();
            change(&mut other);
            check(&[&one, &other]).map(|violation| violation.checker)
        };
        let broken = Some("logs-match".to_owned());
        assert_eq!(other(|_| ()), None);
        assert_eq!(other(|two| two.log.entries[3].data = Bytes::from("other")), broken);
        let term = |two: &mut Picture| two.log.entries[3].term = Term(9);
        assert_eq!(other(term), broken);
        // What is not committed may be overruled yet.
        let loses = |two: &mut Picture| two.log.entries.last_mut().expect("it has").term = Term(9);
        assert_eq!(other(loses), None);
    }
}
