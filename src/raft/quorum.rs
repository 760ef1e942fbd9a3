//! Majorities. A number is *agreed* when a majority of the voters has reached it; in a joint
//! configuration, a majority of each half. Commit indexes and read rounds are both decided by
//! [`agreed`], elections and quorum checks by [`tally`].

use std::collections::BTreeSet;

use super::membership::ConfState;
use crate::types::NodeId;

/// Clusters up to this many voters are sorted on the stack.
const SMALL: usize = 9;

/// Returns the greatest number that a quorum has reached, where `of` tells how far each voter is.
///
/// A configuration without voters agrees on nothing: 0.
pub fn agreed(conf: &ConfState, of: impl Fn(NodeId) -> u64) -> u64 {
    let incoming = half_agreed(&conf.voters, conf, &of);
    match (incoming, half_agreed(&conf.voters_outgoing, conf, &of)) {
        (Some(a), Some(b)) => a.min(b),
        (Some(a), None) | (None, Some(a)) => a,
        (None, None) => 0,
    }
}

fn half_agreed(
    voters: &BTreeSet<NodeId>,
    conf: &ConfState,
    of: &impl Fn(NodeId) -> u64,
) -> Option<u64> {
    if voters.is_empty() {
        return None;
    }
    let also = if crate::mutant!("R23") { Some(&conf.learners) } else { None };
    let mut small = [0u64; SMALL];
    let mut large = Vec::new();
    let mut count = 0;
    for id in voters.iter().chain(also.into_iter().flatten()) {
        match small.get_mut(count) {
            Some(slot) => *slot = of(*id),
            None => {
                if large.is_empty() {
                    large.extend_from_slice(&small);
                }
                large.push(of(*id));
            }
        }
        count += 1;
    }
    let reached = if large.is_empty() { &mut small[..count] } else { &mut large[..] };
    reached.sort_unstable();
    // Of n sorted ascending, the one at (n-1)/2 is reached by it and by all after it: a majority.
    Some(reached[(count - 1) / 2])
}

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A quorum said yes.
    Won,
    /// A quorum can no longer say yes.
    Lost,
    /// Neither yet.
    Pending,
}

/// Counts a vote, where `of` tells what each voter answered, if it did. Nobody else's answer counts.
///
/// A configuration without voters elects nobody.
pub fn tally(conf: &ConfState, of: impl Fn(NodeId) -> Option<bool>) -> Tally {
    if conf.voters.is_empty() {
        return Tally::Lost;
    }
    match (half_tally(&conf.voters, &of), half_tally(&conf.voters_outgoing, &of)) {
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        (Tally::Won, Tally::Won) => Tally::Won,
        _ => Tally::Pending,
    }
}

fn half_tally(voters: &BTreeSet<NodeId>, of: &impl Fn(NodeId) -> Option<bool>) -> Tally {
    if voters.is_empty() {
        return Tally::Won;
    }
    let needed = voters.len() / 2 + 1;
    let (mut yes, mut no) = (0, 0);
    for id in voters {
        match of(*id) {
            Some(true) => yes += 1,
            Some(false) => no += 1,
            None => {}
        }
    }
    if yes >= needed {
        Tally::Won
    } else if voters.len() - no < needed {
        Tally::Lost
    } else {
        Tally::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn conf_and_numbers() -> impl Strategy<Value = (ConfState, BTreeMap<NodeId, u64>)> {
        let ids = || prop::collection::btree_set((1u64..14).prop_map(NodeId), 0..13);
        let numbers = prop::collection::vec(0u64..6, 14);
        (ids(), ids(), numbers).prop_map(|(voters, outgoing, numbers)| {
            let outgoing = if voters.is_empty() { BTreeSet::new() } else { outgoing };
            let conf = ConfState { voters, voters_outgoing: outgoing, ..ConfState::default() };
            let numbers = (1..).map(NodeId).zip(numbers).collect();
            (conf, numbers)
        })
    }

    /// The definition, word for word.
    fn has_majority(voters: &BTreeSet<NodeId>, yes: impl Fn(&NodeId) -> bool) -> bool {
        voters.is_empty() || voters.iter().filter(|id| yes(id)).count() * 2 > voters.len()
    }

    proptest! {
        #[test]
        fn agreed_is_the_greatest_number_a_majority_of_each_half_has_reached(
            (conf, numbers) in conf_and_numbers()
        ) {
            let reached = |n: u64| {
                let yes = |id: &NodeId| numbers[id] >= n;
                has_majority(&conf.voters, yes) && has_majority(&conf.voters_outgoing, yes)
            };
            let slow = if conf.voters.is_empty() {
                0
            } else {
                (0..6).filter(|n| reached(*n)).max().expect("everyone has reached zero")
            };
            prop_assert_eq!(agreed(&conf, |id| numbers[&id]), slow);
        }

        #[test]
        fn a_vote_is_won_or_lost_exactly_when_no_further_answer_can_change_it(
            (conf, numbers) in conf_and_numbers()
        ) {
            // 0 and 1 answer no, 2 and 3 yes, the rest nothing yet.
            let answer = |id: NodeId| match numbers[&id] { 0 | 1 => Some(false), 2 | 3 => Some(true), _ => None };
            let if_rest = |rest: bool| {
                let yes = |id: &NodeId| answer(*id).unwrap_or(rest);
                !conf.voters.is_empty()
                    && has_majority(&conf.voters, yes) && has_majority(&conf.voters_outgoing, yes)
            };
            let slow = match (if_rest(false), if_rest(true)) {
                (true, _) => Tally::Won,
                (false, false) => Tally::Lost,
                (false, true) => Tally::Pending,
            };
            prop_assert_eq!(tally(&conf, answer), slow);
        }

        #[test]
        fn quorums_before_and_after_a_change_always_meet(
            voters in prop::collection::btree_set((1u64..8).prop_map(NodeId), 1..7),
            items in prop::collection::vec((0u8..3, 1u64..8), 1..4),
            yes in prop::collection::btree_set((1u64..8).prop_map(NodeId), 0..7),
        ) {
            use crate::raft::membership::{ConfChange, ConfChangeItem};
            let items = items.into_iter().map(|(kind, id)| match kind {
                0 => ConfChangeItem::AddVoter(NodeId(id)),
                1 => ConfChangeItem::AddLearner(NodeId(id)),
                _ => ConfChangeItem::Remove(NodeId(id)),
            }).collect();
            let before = ConfState::of_voters(voters);
            let Ok(after) = before.changed(&ConfChange::members(items, bytes::Bytes::new())) else {
                return Ok(());
            };
            let mut chain = vec![before, after.clone()];
            if after.is_joint() {
                chain.push(after.changed(&ConfChange::leave_joint()).expect("it is joint"));
            }
            // If `yes` is a quorum of one, the others cannot be a quorum of its neighbour.
            for pair in chain.windows(2) {
                for (a, b) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                    let with = tally(a, |id| Some(yes.contains(&id)));
                    let without = tally(b, |id| Some(!yes.contains(&id)));
                    prop_assert!(!(with == Tally::Won && without == Tally::Won));
                }
            }
        }
    }
}
