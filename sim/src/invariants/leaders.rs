//! Election safety (Ongaro's thesis, figure 3.2): at most one leader in a term.
//!
//! Seen from outside: two members that call different members the leader of one term disagree, and
//! one of them is wrong.

use std::collections::BTreeMap;

use super::Violation;

/// The leaders seen, by term.
#[derive(Debug, Default)]
pub struct Leaders {
    by_term: BTreeMap<u64, (u64, u64)>,
}

impl Leaders {
    /// Takes in that `member` calls `leader` the leader of `term`.
    pub fn see(&mut self, member: u64, term: u64, leader: u64) -> Option<Violation> {
        if leader == 0 {
            return None;
        }
        let (known, by) = *self.by_term.entry(term).or_insert((leader, member));
        (known != leader).then(|| {
            let text = format!(
                "t{term} is led by {known:x} says {by:x}, and by {leader:x} says {member:x}"
            );
            Violation::new("one-leader-a-term", text)
        })
    }

    /// Returns in how many terms a leader was seen.
    pub fn terms(&self) -> usize {
        self.by_term.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_one_term_are_seen() {
        let mut leaders = Leaders::default();
        assert_eq!(leaders.see(1, 5, 1), None);
        assert_eq!(leaders.see(2, 5, 1), None);
        assert_eq!(leaders.see(2, 6, 2), None);
        assert_eq!(leaders.see(3, 6, 0), None);
        assert!(leaders.see(3, 5, 3).is_some());
        assert_eq!(leaders.terms(), 2);
    }
}
