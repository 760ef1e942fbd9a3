//! etcd's «strict reconfiguration»: which membership requests are refused before they are proposed,
//! because the quorum would hang by a thread afterwards.
//!
//! Pure functions of the membership and of what the asked member sees at the moment: whom it has been
//! connected to for five seconds, how far a learner has come. They guard against mistakes; safety does not
//! rest on them, and two requests at once may both pass. They are asked in the order of etcd's: started
//! voters before connected ones, a learner's progress before both.

use std::collections::BTreeSet;

use super::membership::Membership;
use crate::types::{Index, NodeId};

/// Why a request is not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwise {
    /// Too few voters of the changed cluster would ever have started.
    #[error("not enough started members")]
    NotEnoughStarted,
    /// Too few voters are connected to this member.
    #[error("unhealthy cluster")]
    Unhealthy,
    /// The leader does not know such a member.
    #[error("no such member")]
    Unknown,
    /// The learner has less than nine tenths of the leader's log.
    #[error("the learner is behind")]
    LearnerNotReady,
}

/// What the asked member sees of the others.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The asked member, who always sees itself.
    pub own: NodeId,
    /// Whom it has been connected to without a break for the health interval (five seconds).
    pub settled: BTreeSet<NodeId>,
    /// Whom it is connected to at all.
    pub connected: BTreeSet<NodeId>,
}

impl Sight {
    fn settled_voters(&self, membership: &Membership) -> usize {
        membership.voters().filter(|id| *id == self.own || self.settled.contains(id)).count()
    }
}

/// Judges the addition of a voter or a learner.
pub fn may_add(membership: &Membership, learner: bool, sight: &Sight) -> Result<(), Unwise> {
    let (voters, started) = count(membership, None);
    if !learner {
        // One started member of one may always grow: that is how a lost cluster is rebuilt.
        let lone = voters == 1 && started == 1;
        if !lone && started < quorum(voters + 1) {
            return Err(Unwise::NotEnoughStarted);
        }
    }
    if voters > 1 && sight.settled_voters(membership) < quorum(voters + 1) {
        return Err(Unwise::Unhealthy);
    }
    Ok(())
}

/// Judges the removal of a member.
pub fn may_remove(membership: &Membership, id: NodeId, sight: &Sight) -> Result<(), Unwise> {
    if membership.member(id).is_some_and(|member| member.learner) {
        return Ok(());
    }
    let (voters, started) = count(membership, Some(id));
    if started < quorum(voters) {
        return Err(Unwise::NotEnoughStarted);
    }
    // One that is not connected does not help the quorum; the others do without it already.
    if id != sight.own && !sight.connected.contains(&id) {
        return Ok(());
    }
    let (voters, _) = count(membership, None);
    let left = sight.settled_voters(membership).saturating_sub(1);
    if left < 1 + voters.saturating_sub(1) / 2 {
        return Err(Unwise::Unhealthy);
    }
    Ok(())
}

/// Judges a promotion, on the leader: `matched` is how far the member's log is known to agree with the
/// leader's (`None` if the leader does not replicate to such a member), `last` how far the leader's goes.
pub fn may_promote(
    membership: &Membership,
    matched: Option<Index>,
    last: Index,
    strict: bool,
) -> Result<(), Unwise> {
    let matched = matched.ok_or(Unwise::Unknown)?;
    // At least nine tenths, in whole numbers.
    let behind = u128::from(matched.0) * 10 < u128::from(last.0) * 9;
    if behind && !crate::mutant!("E31") {
        return Err(Unwise::LearnerNotReady);
    }
    let (voters, started) = count(membership, None);
    // The learner counts as started, and as a voter: that is what it is to be.
    if strict && started + 1 < quorum(voters + 1) {
        return Err(Unwise::NotEnoughStarted);
    }
    Ok(())
}

/// Counts the voters, and those of them that have ever started, leaving one out.
fn count(membership: &Membership, without: Option<NodeId>) -> (usize, usize) {
    let voters = membership.members().filter(|m| !m.learner && Some(m.id) != without);
    voters.fold((0, 0), |(all, started), m| (all + 1, started + usize::from(m.is_started())))
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}
