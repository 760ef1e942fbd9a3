//! The log's entries follow one another from its beginning on, and no term is below the one before
//! (Raft, §5.3: an entry is appended behind the one that it names).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let log = &picture.log;
    let mut before = log.mark.as_ref().map(|mark| mark.position).unwrap_or_default();
    for entry in &log.entries {
        if entry.index != before.index.next() || entry.term < before.term {
            let (name, index, term) = (&picture.name, entry.index, entry.term);
            let text = format!("{name}: {index}@{term} follows {before} in the log");
            return Some(Violation::new("log-contiguous", text));
        }
        (before.index, before.term) = (entry.index, entry.term);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::Term;

    #[test]
    fn a_gap_and_a_falling_term_are_seen() {
        let gap = fires(|picture| drop(picture.log.entries.remove(2)));
        assert_eq!(gap, ["log-contiguous"]);
        let falls = fires(|picture| picture.log.entries[2].term = Term(1));
        assert_eq!(falls, ["log-contiguous"]);
    }
}
