//! Between two fences live as many keys as are counted there (`mvcc::counts`: counts are exact, and `count`
//! is answered from them without looking).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let (name, tables) = (&picture.name, &picture.tables);
    let mut live = tables.keys.iter().filter(|key| !key.tombstone).peekable();
    let mut stretches = tables.counts.iter().peekable();
    while let Some((begin, counted)) = stretches.next() {
        let end = stretches.peek().map(|(fence, _)| fence);
        let mut found = 0;
        while live.next_if(|key| end.is_none_or(|end| key.key < *end)).is_some() {
            found += 1;
        }
        if found != *counted {
            let text = format!("{name}: from {begin:?} to {end:?} live {found}, counted {counted}");
            return Some(Violation::new("counts-are-true", text));
        }
    }
    let key = live.next()?;
    Some(Violation::new("counts-are-true", format!("{name}: nobody counts {:?}", key.key)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fires, fires_on};
    use mainstay::storage::Table;

    #[test]
    fn a_count_that_is_wrong_or_missing_is_seen() {
        assert_eq!(fires(|picture| picture.tables.counts[0].1 += 1), ["counts-are-true"]);
        let missing = fires_on(|txn| txn.delete(Table::Counts, &[0]));
        assert_eq!(missing, ["counts-are-true"]);
    }
}
