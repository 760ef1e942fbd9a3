//! What must hold after every step, one property a file, each with its source. [`Truth`] is what an
//! all-seeing observer has noted so far; no node sees it.
//!
//! Figures and sections: *Raft* is Ongaro & Ousterhout, «In Search of an Understandable Consensus
//! Algorithm» (extended version, 2014); *Thesis* is Ongaro's of the same year. *mutants.md* lists the
//! planted defects; a property that names one exists because of it.
//!
//! `sim/src/invariants/catalogue.rs` lists every property here by the name it breaks under.

/// Ends the property with [`Broken`], by its name and what was seen, unless the condition holds.
macro_rules! must {
    ($name:literal, $holds:expr, $($detail:tt)+) => {
        if !$holds {
            return Err(Broken { name: $name, detail: format!($($detail)+) });
        }
    };
}

mod appends_are_earned;
mod applied_contiguous;
mod commit_is_durable;
mod commit_is_of_this_term;
mod commit_only_grows;
mod commits_agree;
mod config_chain;
mod configuration_is_the_applied_one;
mod hard_state_only_grows;
mod leader_append_only;
mod leader_completeness;
mod log_matching;
mod machine_is_not_ahead;
mod no_message_from_a_later_term;
mod one_change_at_a_time;
mod one_leader_per_term;
mod one_vote_per_term;
mod only_voters_campaign;
mod promises_are_durable;
mod promises_survive;
mod reads_are_linearizable;
mod state_machine_safety;
mod term_only_grows;
mod transfer_takes_no_commands;
mod votes_are_asked_by_the_durable;

use std::collections::BTreeMap;

use mainstay::raft::ConfState;
use mainstay::types::{Index, NodeId, Term};

pub(super) use self::appends_are_earned::{appends_are_earned, note_heard};
pub(super) use self::applied_contiguous::applied_contiguous;
pub(super) use self::commits_agree::commits_agree;
pub(super) use self::config_chain::config_chain;
pub(super) use self::configuration_is_the_applied_one::configuration_is_the_applied_one;
pub(super) use self::hard_state_only_grows::hard_state_only_grows;
pub(super) use self::leader_append_only::leader_append_only;
pub(super) use self::leader_completeness::leader_completeness;
pub(super) use self::log_matching::log_matching;
pub(super) use self::machine_is_not_ahead::machine_is_not_ahead;
pub(super) use self::no_message_from_a_later_term::no_message_from_a_later_term;
pub(super) use self::one_change_at_a_time::one_change_at_a_time;
pub(super) use self::one_leader_per_term::one_leader_per_term;
pub(super) use self::one_vote_per_term::one_vote_per_term;
pub(super) use self::only_voters_campaign::only_voters_campaign;
pub(super) use self::promises_are_durable::promises_are_durable;
pub(super) use self::promises_survive::promises_survive;
pub(super) use self::reads_are_linearizable::reads_are_linearizable;
pub(super) use self::state_machine_safety::state_machine_safety;
pub(super) use self::term_only_grows::term_only_grows;
pub(super) use self::transfer_takes_no_commands::transfer_takes_no_commands;
pub(super) use self::votes_are_asked_by_the_durable::votes_are_asked_by_the_durable;
use super::machine::{Machine, mix};

/// What the observer knows.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Whom each node has voted for in each term.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Every entry ever written: the term before it, and what it says.
    written: BTreeMap<(Index, Term), (Term, u64)>,
    /// Every committed entry from `first` on.
    committed: Vec<Committed>,
    /// The configuration after each index that changed it.
    confs: BTreeMap<Index, ConfState>,
    /// What each leader has sent to each peer.
    flows: appends_are_earned::Flows,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    /// The term of the leader that committed it.
    by: Term,
    /// What it says, once it was applied somewhere: the machine's hash after it.
    machine: Option<u64>,
}

/// A property that does not hold: its name, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The function's name.
    pub name: &'static str,
    /// What was seen.
    pub detail: String,
}

type Verdict = Result<(), Broken>;

impl Truth {
    /// Begins with the founders' configuration.
    pub(super) fn new(founding: &Machine) -> Self {
        let mut truth = Self::default();
        let first = Committed {
            term: founding.position.term,
            by: founding.position.term,
            machine: Some(founding.hash),
        };
        truth.committed.push(first);
        truth.confs.insert(founding.position.index, founding.conf.clone());
        truth
    }

    /// Returns the last committed index. The founding position is `i1`.
    pub(super) fn commit(&self) -> Index {
        Index(u64::try_from(self.committed.len()).expect("a length fits 64 bits"))
    }

    fn committed_at(&self, index: Index) -> Option<&Committed> {
        self.committed.get(usize::try_from(index.get().checked_sub(1)?).ok()?)
    }

    /// Returns the machine's hash at an index that was applied.
    pub(super) fn machine_at(&self, index: Index) -> Option<u64> {
        self.committed_at(index)?.machine
    }
}

/// Chains a hash over the machine states of all, for the verdict.
pub(super) fn fingerprint(truth: &Truth) -> u64 {
    truth.committed.iter().fold(0, |h, c| mix(mix(h, c.term.get()), c.machine.unwrap_or(0)))
}

#[cfg(all(test, madsim))]
mod tests {
    use std::fs;
    use std::path::Path;

    use crate::invariants::catalogue::CHECKS;

    #[test]
    fn a_file_holds_the_property_that_it_is_named_after_and_no_other() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storm/invariants");
        for entry in fs::read_dir(dir).expect("the sources are there") {
            let path = entry.expect("an entry").path();
            let file = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in ASCII");
            if file == "mod" {
                continue;
            }
            assert!(
                CHECKS.iter().any(|check| check.name == file),
                "{file} is not in the catalogue"
            );
            let text = fs::read_to_string(&path).expect("a source is text");
            let words: String = text.split_whitespace().collect();
            for before in ["must!(\"", "Broken{name:\""] {
                for rest in words.split(before).skip(1) {
                    let name = rest.split('"').next();
                    assert_eq!(name, Some(file), "{file} judges something else");
                }
            }
        }
    }
}
