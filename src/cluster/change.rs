//! A membership change as an entry of the log carries it: what kind of change, to which id, and a JSON
//! context with the member's record.
//!
//! etcd's quirks live here and nowhere else: promoting a learner is «add a voter» with `isPromote` set;
//! removing has no context; the entries of a first configuration carry the bare record, later ones the
//! record and `isPromote`. One field is ours, `learnersMax`: the limit on learners is a flag of the member
//! that proposes, and what an entry does may not depend on the flags of those who apply it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::member::{Member, to_go_json};
use crate::types::NodeId;

/// What an entry does to a member, as Raft sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Makes a voter: of nobody, or of a learner.
    AddVoter,
    /// Adds a learner.
    AddLearner,
    /// Removes it.
    Remove,
    /// Changes nothing that Raft knows of.
    Update,
}

/// One change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a member: a voter or, if the record says so, a learner.
    Add {
        /// Its record.
        member: Member,
        /// How many learners the proposer's flags allow, if it says.
        learners_max: Option<u32>,
    },
    /// Makes a voter of a learner.
    Promote(NodeId),
    /// Removes a member for good.
    Remove(NodeId),
    /// Gives a member other peer URLs.
    Update {
        /// Which member.
        id: NodeId,
        /// All of its peer URLs.
        peer_urls: Vec<String>,
    },
}

/// The context of an entry makes no sense. Such an entry changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The context is no member record.
    #[error("the context of a membership entry for {0} is no member record")]
    NotARecord(NodeId),
    /// The context names another member.
    #[error("the context of a membership entry for {0} is about {1}")]
    OtherMember(NodeId, NodeId),
    /// A member without an id.
    #[error("a membership entry for member 0")]
    NoId,
}

#[derive(Serialize, Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    promote: bool,
    #[serde(rename = "learnersMax", default, skip_serializing_if = "Option::is_none")]
    learners_max: Option<u32>,
}

impl Change {
    /// Returns the member that it is about.
    pub fn id(&self) -> NodeId {
        match self {
            Self::Add { member, .. } => member.id,
            Self::Promote(id) | Self::Remove(id) | Self::Update { id, .. } => *id,
        }
    }

    /// Returns what Raft is to make of it.
    pub fn kind(&self) -> ChangeKind {
        match self {
            Self::Add { member, .. } if member.learner => ChangeKind::AddLearner,
            Self::Add { .. } | Self::Promote(_) => ChangeKind::AddVoter,
            Self::Remove(_) => ChangeKind::Remove,
            Self::Update { .. } => ChangeKind::Update,
        }
    }

    /// Returns the context of the entry that carries it.
    pub fn context(&self) -> Bytes {
        let json = match self {
            Self::Add { member, learners_max } => to_go_json(&Context {
                member: member.clone(),
                promote: false,
                learners_max: *learners_max,
            }),
            // The record's list of peer URLs is `null` in etcd's entry; an empty list reads the same.
            Self::Promote(id) => to_go_json(&Context {
                member: Member::new(*id, Vec::new()),
                promote: true,
                learners_max: None,
            }),
            Self::Remove(_) => return Bytes::new(),
            Self::Update { id, peer_urls } => Member::new(*id, peer_urls.clone()).to_json(),
        };
        Bytes::from(json)
    }

    /// Reads an entry's change. The bytes are not trusted: they may come from a peer of another version.
    pub fn parse(kind: ChangeKind, id: NodeId, context: &[u8]) -> Result<Self, ChangeError> {
        if id.0 == 0 {
            return Err(ChangeError::NoId);
        }
        if kind == ChangeKind::Remove {
            return Ok(Self::Remove(id));
        }
        let context: Context =
            serde_json::from_slice(context).map_err(|_| ChangeError::NotARecord(id))?;
        let Context { mut member, promote, learners_max } = context;
        if member.id != id {
            return Err(ChangeError::OtherMember(id, member.id));
        }
        Ok(match kind {
            ChangeKind::AddVoter if promote => Self::Promote(id),
            ChangeKind::AddVoter | ChangeKind::AddLearner => {
                member.learner = kind == ChangeKind::AddLearner;
                Self::Add { member, learners_max }
            }
            ChangeKind::Update => Self::Update { id, peer_urls: member.peer_urls },
            ChangeKind::Remove => unreachable!("returned above"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_survives_its_entry() {
        let mut learner = Member::new(NodeId(9), vec!["http://a:1".into(), "http://b:1".into()]);
        learner.learner = true;
        for change in [
            Change::Add {
                member: Member::new(NodeId(8), vec!["http://v:1".into()]),
                learners_max: None,
            },
            Change::Add { member: learner, learners_max: Some(2) },
            Change::Promote(NodeId(9)),
            Change::Remove(NodeId(9)),
            Change::Update { id: NodeId(9), peer_urls: vec!["http://c:1?a&b".into()] },
        ] {
            let context = change.context();
            assert_eq!(Change::parse(change.kind(), change.id(), &context), Ok(change));
        }
    }

    #[test]
    fn contexts_are_etcds() {
        let add = Change::Add {
            member: Member::new(NodeId(8), vec!["http://v:1".into()]),
            learners_max: None,
        };
        assert_eq!(add.context(), r#"{"id":8,"peerURLs":["http://v:1"],"isPromote":false}"#);
        let etcd_promotes = br#"{"id":8,"peerURLs":null,"isPromote":true}"#;
        assert_eq!(
            Change::parse(ChangeKind::AddVoter, NodeId(8), etcd_promotes),
            Ok(Change::Promote(NodeId(8)))
        );
        let bootstrap = br#"{"id":8,"peerURLs":["http://v:1"],"name":"m1"}"#;
        let Ok(Change::Add { member, .. }) =
            Change::parse(ChangeKind::AddVoter, NodeId(8), bootstrap)
        else {
            panic!("a first member is added");
        };
        assert_eq!(member.name, "m1");
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        let parse = |kind, id, context: &[u8]| Change::parse(kind, NodeId(id), context);
        assert_eq!(parse(ChangeKind::Remove, 0, b""), Err(ChangeError::NoId));
        for kind in [ChangeKind::AddVoter, ChangeKind::AddLearner, ChangeKind::Update] {
            assert_eq!(parse(kind, 8, b"\xff{"), Err(ChangeError::NotARecord(NodeId(8))));
            let other = ChangeError::OtherMember(NodeId(8), NodeId(7));
            assert_eq!(parse(kind, 8, br#"{"id":7}"#), Err(other));
        }
    }
}
