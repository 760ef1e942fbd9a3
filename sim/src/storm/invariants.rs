//! What must hold after every step, one function a property, with its source. [`Truth`] is what an
//! all-seeing observer has noted so far; no node sees it.
//!
//! Figures and sections: *Raft* is Ongaro & Ousterhout, «In Search of an Understandable Consensus
//! Algorithm» (extended version, 2014); *Thesis* is Ongaro's of the same year.

use std::collections::BTreeMap;

use mainstay::raft::{
    ConfState, Entry, Envelope, HardState, Message, Node, Payload, Role, Tally, tally,
};
use mainstay::types::{Index, LogPosition, NodeId, Term};

use super::disk::Disk;
use super::machine::{Machine, digest, mix};
use super::world::{Member, Members};

/// What the observer knows.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry ever written: the term before it, and what it says.
    written: BTreeMap<(Index, Term), (Term, u64)>,
    /// Every committed entry from `first` on.
    committed: Vec<Committed>,
    /// The configuration after each index that changed it.
    confs: BTreeMap<Index, ConfState>,
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

macro_rules! must {
    ($name:literal, $holds:expr, $($detail:tt)+) => {
        if !$holds {
            return Err(Broken { name: $name, detail: format!($($detail)+) });
        }
    };
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

/// Election safety: at most one leader in a term (Raft, figure 3).
pub(super) fn one_leader_per_term(truth: &mut Truth, node: &Node) -> Verdict {
    if node.role() != Role::Leader {
        return Ok(());
    }
    let first = *truth.leaders.entry(node.term()).or_insert(node.id());
    must!(
        "one_leader_per_term",
        first == node.id(),
        "{first} and {} in {}",
        node.id(),
        node.term()
    );
    Ok(())
}

/// Log matching: index and term name an entry and everything before it (Raft, figure 3). Checked as
/// entries are handed to a disk: each names its predecessor's term, so equality carries backwards.
pub(super) fn log_matching(truth: &mut Truth, node: &Node, entries: &[Entry]) -> Verdict {
    let Some(first) = entries.first() else { return Ok(()) };
    let before = first.index.prev().and_then(|index| node.term_at(index));
    let mut before = before.unwrap_or_default();
    for entry in entries {
        let seen = (before, digest(entry));
        let known = *truth.written.entry((entry.index, entry.term)).or_insert(seen);
        must!(
            "log_matching",
            known == seen,
            "{} has {} after {} but elsewhere it comes after {} (or says something else)",
            node.id(),
            entry.position(),
            before,
            known.0
        );
        before = entry.term;
    }
    Ok(())
}

/// Leader completeness: a leader holds every entry committed in earlier terms (Raft, figure 3).
pub(super) fn leader_completeness(truth: &Truth, node: &Node) -> Verdict {
    let mut index = truth.commit();
    while let Some(committed) = truth.committed_at(index)
        && committed.by >= node.term()
    {
        index = index.prev().unwrap_or_default();
    }
    let Some(committed) = truth.committed_at(index) else { return Ok(()) };
    // Trimmed is applied, and what is applied was checked.
    let held = index <= node.base().index || node.term_at(index) == Some(committed.term);
    must!(
        "leader_completeness",
        held,
        "{} leads {} without {index}@{} committed in {}",
        node.id(),
        node.term(),
        committed.term,
        committed.by
    );
    Ok(())
}

/// A commit index never falls, and all commit indexes speak of one sequence (Raft, §5.3; state machine
/// safety, figure 3). Only a leader may extend the sequence.
pub(super) fn commits_agree(
    truth: &mut Truth,
    node: &Node,
    before: Index,
    members: &Members,
) -> Verdict {
    let commit = node.commit();
    must!("commit_only_grows", commit >= before, "{}: {before} → {commit}", node.id());
    let mut index = before;
    while index < commit {
        index = index.next();
        let Some(term) = node.term_at(index) else { continue };
        if let Some(known) = truth.committed_at(index) {
            let same = known.term == term;
            must!(
                "commits_agree",
                same,
                "{} commits {index}@{term}, elsewhere {}",
                node.id(),
                known.term
            );
        } else {
            must!(
                "commits_agree",
                node.role() == Role::Leader,
                "{} is the first to commit {index}@{term} and does not lead",
                node.id()
            );
            truth.committed.push(Committed { term, by: node.term(), machine: None });
        }
    }
    if commit > before && node.role() == Role::Leader {
        commit_is_durable(node, members)?;
    }
    Ok(())
}

/// What a leader commits is on the disks of a quorum of its configuration, its own among them only if
/// it is there (Raft, §5.3; DESIGN §3).
fn commit_is_durable(node: &Node, members: &Members) -> Verdict {
    let index = node.commit();
    let Some(term) = node.term_at(index) else { return Ok(()) };
    let position = LogPosition::new(index, term);
    let on_disk =
        |id: NodeId| Some(members.get(&id).is_some_and(|member| member.disk.holds(position)));
    must!(
        "commit_is_durable",
        tally(node.conf_state(), on_disk) == Tally::Won,
        "{} commits {position}, which no quorum of {:?} holds",
        node.id(),
        node.conf_state()
    );
    Ok(())
}

/// State machine safety: at one index all machines apply one entry (Raft, figure 3), and only what is
/// committed.
pub(super) fn state_machine_safety(truth: &mut Truth, id: NodeId, machine: &Machine) -> Verdict {
    let position = machine.position;
    let slot = usize::try_from(position.index.get() - 1).expect("an index fits");
    let Some(committed) = truth.committed.get_mut(slot) else {
        return Err(Broken {
            name: "state_machine_safety",
            detail: format!("{id} applies {position}, which is not committed"),
        });
    };
    let expected = *committed.machine.get_or_insert(machine.hash);
    must!(
        "state_machine_safety",
        committed.term == position.term && expected == machine.hash,
        "{id} applies {position} and differs from what was applied elsewhere ({})",
        committed.term
    );
    Ok(())
}

/// Entries are delivered without gap or repetition (mutants.md, R10).
pub(super) fn applied_contiguous(id: NodeId, after: Index, entries: &[Entry]) -> Verdict {
    let mut last = after;
    for entry in entries {
        let next = last.next();
        must!(
            "applied_contiguous",
            entry.index == next,
            "{id} is given {} after {last}",
            entry.index
        );
        last = next;
    }
    Ok(())
}

/// Terms never fall on disk, and a vote once given in a term stays (Raft, §5.1, §5.2).
pub(super) fn hard_state_only_grows(id: NodeId, before: HardState, after: HardState) -> Verdict {
    let kept = after.term > before.term
        || (after.term == before.term && (before.vote.is_none() || after.vote == before.vote));
    must!("hard_state_only_grows", kept, "{id}: {before:?} → {after:?}");
    Ok(())
}

/// A read sees everything that anybody knew to be committed when it was asked (linearizability;
/// Thesis, §6.4).
pub(super) fn reads_are_linearizable(id: NodeId, floor: Index, index: Index) -> Verdict {
    must!(
        "reads_are_linearizable",
        index >= floor,
        "{id} may read at {index}, asked after {floor}"
    );
    Ok(())
}

/// What was promised to others survives a crash: acceptances and votes (Raft, §5.1; DESIGN §3).
pub(super) fn promises_survive(
    id: NodeId,
    disk: &Disk,
    accepted: LogPosition,
    voted: (Term, Option<NodeId>),
) -> Verdict {
    let (base, last) = (disk.base, disk.last());
    must!(
        "promises_survive",
        disk.holds(accepted),
        "{id} accepted {accepted}, holds {base}..{last}"
    );
    let (term, vote) = voted;
    let hard = disk.hard;
    let kept = vote.is_none() || hard.term > term || (hard.term == term && hard.vote == vote);
    must!("promises_survive", kept, "{id} voted {vote:?} in {term} and forgot it: {hard:?}");
    Ok(())
}

/// Votes are asked for only with a term, a vote and a log that are durable: a yes is given to the log
/// named in the question, and would elect a shorter one if its end were lost (mutants.md, R02, R35; the
/// text of the core's `election.rs`). A question that leaves late, when whoever asks no longer stands
/// in that term, can elect nobody.
pub(super) fn votes_are_asked_by_the_durable(member: &Member, envelope: &Envelope) -> Verdict {
    let Message::Vote { last, .. } = &envelope.message else { return Ok(()) };
    let (id, term, hard) = (envelope.from, envelope.term, member.disk.hard);
    let stands = |node: &Node| node.role() == Role::Candidate && node.term() == term;
    if !member.node.as_ref().is_some_and(stands) {
        return Ok(());
    }
    must!(
        "votes_are_asked_by_the_durable",
        hard.term == term && hard.vote == Some(id) && member.disk.holds(*last),
        "{id} asks for votes in {term} with {last}; on disk {hard:?}, {}",
        member.disk.last()
    );
    Ok(())
}

/// Only voters campaign and lead (Thesis, §4.2.1; STYLE §2).
pub(super) fn only_voters_campaign(node: &Node) -> Verdict {
    // A leader that was voted out leads until it has handed over.
    let leaves = node.role() == Role::Leader && node.transfer_target().is_some();
    let active = node.role() != Role::Follower && !leaves;
    must!(
        "only_voters_campaign",
        !active || node.conf_state().is_voter(node.id()),
        "{} is {:?} in {:?}",
        node.id(),
        node.role(),
        node.conf_state()
    );
    Ok(())
}

/// The core lives by the configuration that its machine has applied, whole (mutants.md, R22).
pub(super) fn configuration_is_the_applied_one(node: &Node, machine: &Machine) -> Verdict {
    must!(
        "configuration_is_the_applied_one",
        node.applied() != machine.position.index || *node.conf_state() == machine.conf,
        "{}: {:?}, applied {:?}",
        node.id(),
        node.conf_state(),
        machine.conf
    );
    Ok(())
}

/// Configurations form one chain on which neighbours' quorums meet (Thesis, §4.1, §4.3).
pub(super) fn config_chain(truth: &mut Truth, id: NodeId, machine: &Machine) -> Verdict {
    let index = machine.position.index;
    let (at, previous) = truth.confs.range(..index).next_back().expect("there is a founding one");
    let meets = quorums_meet(previous, &machine.conf);
    must!("config_chain", meets, "{previous:?} at {at} and {:?} at {index}", machine.conf);
    let known = truth.confs.entry(index).or_insert_with(|| machine.conf.clone());
    must!(
        "config_chain",
        *known == machine.conf,
        "{id} has {:?} at {index}, elsewhere {known:?}",
        machine.conf
    );
    Ok(())
}

fn quorums_meet(a: &ConfState, b: &ConfState) -> bool {
    match (a.is_joint(), b.is_joint()) {
        (false, false) => a.voters.symmetric_difference(&b.voters).count() <= 1,
        (false, true) => b.voters_outgoing == a.voters,
        (true, false) => a.voters == b.voters,
        (true, true) => a.voters == b.voters && a.voters_outgoing == b.voters_outgoing,
    }
}

/// A leader appends a change only when it has applied every earlier one in its log, and has committed
/// in its term (Thesis, §4.1; Ongaro on raft-dev, July 2015).
pub(super) fn one_change_at_a_time(node: &Node, entries: &[Entry], last_change: Index) -> Verdict {
    let mut last_change = last_change;
    for entry in entries {
        let Payload::ConfChange(_) = &entry.payload else { continue };
        if node.role() != Role::Leader || entry.term != node.term() {
            continue;
        }
        must!(
            "one_change_at_a_time",
            last_change <= node.applied(),
            "{} appends a change at {} over an unapplied one at {last_change}",
            node.id(),
            entry.index
        );
        let committed = node.term_at(node.commit()) == Some(node.term());
        must!(
            "one_change_at_a_time",
            committed,
            "{} appends a change at {} before it has committed in {}",
            node.id(),
            entry.index,
            node.term()
        );
        last_change = entry.index;
    }
    Ok(())
}

/// While leadership is handed over, the leader takes no commands (Thesis, §3.10).
pub(super) fn transfer_takes_no_commands(
    node: &Node,
    before: Option<NodeId>,
    last: Index,
) -> Verdict {
    if before.is_none() || node.transfer_target() != before || node.role() != Role::Leader {
        return Ok(());
    }
    let mut index = last;
    while index < node.last().index {
        index = index.next();
        let entry = node.entry_at(index);
        let command = entry.is_some_and(|entry| matches!(entry.payload, Payload::Command(_)));
        let id = node.id();
        must!(
            "transfer_takes_no_commands",
            !command,
            "{id} takes {index} in a transfer to {before:?}"
        );
    }
    Ok(())
}

/// Chains a hash over the machine states of all, for the verdict.
pub(super) fn fingerprint(truth: &Truth) -> u64 {
    truth.committed.iter().fold(0, |h, c| mix(mix(h, c.term.get()), c.machine.unwrap_or(0)))
}
