//! The term on disk is not below that of the last entry (Raft, §5.1: who takes an entry of a term is
//! in that term, and remembers it together with the entry).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let (term, last) = (picture.log.hard_state.term, picture.log.last());
    (term < last.term).then(|| {
        let text = format!("{}: the log ends at {last}, the term is {term}", picture.name);
        Violation::new("term-of-log", text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::Term;

    #[test]
    fn a_term_that_was_forgotten_is_seen() {
        let forgets = fires(|picture| {
            let last = picture.log.last().term;
            picture.log.hard_state.term = Term(last.0 - 1);
        });
        assert_eq!(forgets, ["term-of-log"]);
    }
}
