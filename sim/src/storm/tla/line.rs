//! One line of a trace, with the field names that the public spec reads.
//!
//! A line says what happened (`name`), at whom (`nid`), what that node's state was then (`state`, `role`,
//! `log`, `conf`), and which message it is about, if it is about one (`msg`). Node ids are strings, and
//! nobody is `"0"`; indexes and terms are numbers. `applied` is for whoever reads the file: the spec
//! that is validated against does not ask for it.

use std::fmt;

use mainstay::raft::{Node, Role};
use mainstay::types::{Index, LogPosition, NodeId, Term};

/// A node's state as the spec sees it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) id: NodeId,
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) commit: Index,
    pub(super) applied: Index,
    pub(super) role: Role,
    /// The end of its log.
    pub(super) last: Index,
    pub(super) voters: Vec<NodeId>,
    pub(super) outgoing: Vec<NodeId>,
}

impl View {
    /// Looks at a node that has voted so in its term.
    pub(super) fn of(node: &Node, vote: Option<NodeId>) -> Self {
        let conf = node.conf_state();
        Self {
            id: node.id(),
            term: node.term(),
            vote,
            commit: node.commit(),
            applied: node.applied(),
            role: node.role(),
            last: node.last().index,
            voters: conf.voters.iter().copied().collect(),
            outgoing: conf.voters_outgoing.iter().copied().collect(),
        }
    }
}

/// A message as the spec knows it: two that are equal here are one record there. The entries of an
/// append are not named, since the sender's term and their places determine them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wire {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) term: Term,
    pub(super) kind: Kind,
}

/// The spec's kinds of message, snapshots left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A candidate's question; its log ends there.
    Vote { last: LogPosition },
    /// The answer to it.
    VoteResponse { granted: bool },
    /// `count` entries after `prev`. The commit index goes no further than they do.
    Append { prev: LogPosition, count: u64, commit: Index },
    /// The answer to it: up to where the log now matches; `None` if the append was refused.
    AppendResponse { matched: Option<Index> },
    /// A leader's sign of life.
    Heartbeat { commit: Index },
    /// The answer to it.
    HeartbeatResponse,
}

impl Kind {
    /// The name of a message's kind, and the second half of the name of the event that it leaves or
    /// arrives.
    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Kind::Vote { .. } => ("MsgVote", "RequestVoteRequest"),
            Kind::VoteResponse { .. } => ("MsgVoteResp", "RequestVoteResponse"),
            Kind::Append { .. } => ("MsgApp", "AppendEntriesRequest"),
            Kind::AppendResponse { .. } => ("MsgAppResp", "AppendEntriesResponse"),
            Kind::Heartbeat { .. } => ("MsgHeartbeat", "AppendEntriesRequest"),
            Kind::HeartbeatResponse => ("MsgHeartbeatResp", "AppendEntriesResponse"),
        }
    }
}

/// What a line tells.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A node starts, for the first time or from its disk.
    InitState,
    BecomeCandidate,
    BecomeLeader,
    /// A leader or candidate gives up, in its term and unasked.
    BecomeFollower,
    /// A leader appends an entry.
    Replicate,
    /// A leader commits.
    Commit,
    /// What a node is and says goes to its disk, and what it says leaves.
    Ready,
    Send(Wire),
    Receive(Wire),
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) event: Event,
    pub(super) view: View,
}

impl fmt::Display for Line {
    /// Writes the fields of a JSON object, without the brace that opens it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, view } = self;
        f.write_str(r#""tag":"trace","event":{"name":""#)?;
        match event {
            Event::InitState => f.write_str("InitState")?,
            Event::BecomeCandidate => f.write_str("BecomeCandidate")?,
            Event::BecomeLeader => f.write_str("BecomeLeader")?,
            Event::BecomeFollower => f.write_str("BecomeFollower")?,
            Event::Replicate => f.write_str("Replicate")?,
            Event::Commit => f.write_str("Commit")?,
            Event::Ready => f.write_str("Ready")?,
            Event::Send(wire) => write!(f, "Send{}", wire.kind.names().1)?,
            Event::Receive(wire) => write!(f, "Receive{}", wire.kind.names().1)?,
        }
        let View { id, term, vote, commit, applied, role, last, .. } = view;
        let (nid, vote) = (id.get(), vote.map_or(0, NodeId::get));
        let (term, commit, applied) = (term.get(), commit.get(), applied.get());
        write!(
            f,
            r#"","nid":"{nid}","state":{{"term":{term},"vote":"{vote}","commit":{commit}}}"#
        )?;
        let (role, log) = (role_name(*role), last.get());
        write!(f, r#","role":"{role}","log":{log},"applied":{applied},"conf":["#)?;
        write_ids(f, &view.voters)?;
        f.write_str(",")?;
        write_ids(f, &view.outgoing)?;
        f.write_str("]")?;
        if let Event::Send(wire) | Event::Receive(wire) = event {
            write!(f, r#","msg":{wire}"#)?;
        }
        f.write_str("}}")
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = LogPosition::default();
        let (at, entries, commit, reject) = match self.kind {
            Kind::Vote { last } => (last, 0, Index(0), false),
            Kind::VoteResponse { granted } => (none, 0, Index(0), !granted),
            Kind::Append { prev, count, commit } => (prev, count, commit, false),
            Kind::AppendResponse { matched } => {
                let matched_at = LogPosition::new(matched.unwrap_or_default(), Term(0));
                (matched_at, 0, Index(0), matched.is_none())
            }
            Kind::Heartbeat { commit } => (none, 0, commit, false),
            Kind::HeartbeatResponse => (none, 0, Index(0), false),
        };
        let (kind, term, from, to) = (self.kind.names().0, self.term, self.from, self.to);
        write!(f, r#"{{"type":"{kind}","term":{},"#, term.get())?;
        write!(f, r#""from":"{}","to":"{}","entries":{entries},"#, from.get(), to.get())?;
        let (log_term, index, commit) = (at.term.get(), at.index.get(), commit.get());
        write!(f, r#""logTerm":{log_term},"index":{index},"commit":{commit},"#)?;
        write!(f, r#""vote":"0","reject":{reject},"rejectHint":0}}"#)
    }
}

fn write_ids(f: &mut fmt::Formatter<'_>, ids: &[NodeId]) -> fmt::Result {
    f.write_str("[")?;
    for (place, id) in ids.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(f, r#"{comma}"{}""#, id.get())?;
    }
    f.write_str("]")
}

/// Names a role. The spec has no pre-candidates, and the plan of a recorded storm makes none.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}
