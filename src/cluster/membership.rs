//! The members, and the rules an entry must obey to change them.
//!
//! Invariants
//! - No id is both a member's and a removed one's; a removed id never comes back.
//! - No peer URL belongs to two members.
//! - There is a voter, from the first entry of the log on.
//! - A member's role changes by promotion alone; new addresses leave it as it is.
//! - Memory and the stored rows say the same at every applied index: each change is also a write.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::change::Change;
use super::identity;
use super::member::Member;
use super::version::Version;
use crate::storage::{Table, Write};
use crate::types::{ClusterId, NodeId};

/// How many learners there may be if the proposer of a learner does not say (etcd's default).
pub const LEARNERS_MAX_DEFAULT: u32 = 1;

const ROW_CLUSTER_ID: &[u8] = b"clusterID";
const ROW_VERSION: &[u8] = b"clusterVersion";
const ROW_STORE: &[u8] = b"store/";
const VALUE_REMOVED: &[u8] = b"removed";

/// The members of the cluster and what they agree on about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    cluster_id: ClusterId,
    members: BTreeMap<NodeId, Member>,
    removed: BTreeSet<NodeId>,
    version: Option<Version>,
    /// The id of the data directory that each member's votes are in.
    stores: BTreeMap<NodeId, u64>,
}

/// Why an entry may not change the membership. The verdict depends on the log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The id was a member's before.
    #[error("the id of a removed member is never used again")]
    IdRemoved,
    /// The id is a member's.
    #[error("there is a member of that id")]
    IdExists,
    /// Nobody has that id.
    #[error("there is no member of that id")]
    IdUnknown,
    /// Another member has one of the peer URLs.
    #[error("another member has one of these peer URLs")]
    PeerUrlExists,
    /// There are as many learners as may be.
    #[error("there are as many learners as may be")]
    TooManyLearners,
    /// Only a learner can be promoted.
    #[error("the member is no learner")]
    NotLearner,
    /// Nobody would be left to vote.
    #[error("the last voter cannot be removed")]
    LastVoter,
}

/// A stored row makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {key:?} of table {} is damaged", table.name())]
pub struct RowError {
    /// The table.
    pub table: Table,
    /// The row's key.
    pub key: Bytes,
}

impl Membership {
    /// Makes the membership of a cluster that nobody belongs to yet.
    pub fn new(cluster_id: ClusterId) -> Self {
        Self { cluster_id, ..Self::default() }
    }

    /// Reads the membership from the rows of tables `Members`, `MembersRemoved` and `Cluster`.
    pub fn load(rows: impl Iterator<Item = (Table, Bytes, Bytes)>) -> Result<Self, RowError> {
        let mut membership = Self::default();
        for (table, key, value) in rows {
            membership.load_row(table, &key, &value).ok_or(RowError { table, key })?;
        }
        Ok(membership)
    }

    fn load_row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Option<()> {
        match table {
            Table::Members => {
                let id = read_hex(key)?;
                let member = Member::from_json(value).filter(|member| member.id == id)?;
                self.members.insert(id, member);
            }
            Table::MembersRemoved => {
                self.removed.insert(read_hex(key)?);
            }
            Table::Cluster if key == ROW_CLUSTER_ID => {
                self.cluster_id = ClusterId(u64::from_be_bytes(value.try_into().ok()?));
            }
            Table::Cluster if key == ROW_VERSION => {
                self.version = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
            }
            Table::Cluster if key.starts_with(ROW_STORE) => {
                let id = read_hex(&key[ROW_STORE.len()..])?;
                self.stores.insert(id, u64::from_be_bytes(value.try_into().ok()?));
            }
            // Rows of later versions are kept as they are.
            _ => {}
        }
        Some(())
    }

    /// Names the cluster, once.
    pub fn set_cluster_id(&mut self, id: ClusterId) {
        assert!(self.cluster_id.0 == 0, "cluster {} is renamed to {id}", self.cluster_id);
        self.cluster_id = id;
    }

    /// Returns the row that names the cluster; written once, with the first entry.
    pub fn cluster_row(&self) -> Write {
        let value = Bytes::copy_from_slice(&self.cluster_id.0.to_be_bytes());
        Write { table: Table::Cluster, key: Bytes::from_static(ROW_CLUSTER_ID), value: Some(value) }
    }

    /// Returns the cluster's id; 0 before the first entry.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// Returns a member.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Returns all members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Returns the ids of those who vote.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members().filter(|m| !m.learner).map(|m| m.id)
    }

    /// Returns the ids of those who only listen.
    pub fn learners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members().filter(|m| m.learner).map(|m| m.id)
    }

    /// Tells whether the id was a member's that is gone.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains(&id)
    }

    /// Returns the ids that are spent.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.removed.iter().copied()
    }

    /// Returns the version that the whole cluster speaks, once it is agreed on.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Returns the id of the data directory that belongs to a member, once it has told.
    pub fn store_of(&self, id: NodeId) -> Option<u64> {
        self.stores.get(&id).copied()
    }

    /// Tells whether an entry may make this change.
    pub fn validate(&self, change: &Change) -> Result<(), MembershipError> {
        if self.removed.contains(&change.id()) {
            return Err(MembershipError::IdRemoved);
        }
        let known = self.members.get(&change.id());
        match change {
            Change::Add { member, learners_max } => {
                if known.is_some() {
                    return Err(MembershipError::IdExists);
                }
                self.check_urls(member.id, &member.peer_urls)?;
                let learners = self.learners().count();
                let max = learners_max.unwrap_or(LEARNERS_MAX_DEFAULT);
                if member.learner && u32::try_from(learners).is_ok_and(|n| n >= max) {
                    return Err(MembershipError::TooManyLearners);
                }
            }
            Change::Promote(_) => {
                let member = known.ok_or(MembershipError::IdUnknown)?;
                if !member.learner {
                    return Err(MembershipError::NotLearner);
                }
            }
            Change::Remove(id) => {
                known.ok_or(MembershipError::IdUnknown)?;
                if self.voters().all(|voter| voter == *id) {
                    return Err(MembershipError::LastVoter);
                }
            }
            Change::Update { id, peer_urls } => {
                known.ok_or(MembershipError::IdUnknown)?;
                self.check_urls(*id, peer_urls)?;
            }
        }
        Ok(())
    }

    /// Makes a change, or refuses it and changes nothing.
    pub fn apply(
        &mut self,
        change: &Change,
        writes: &mut Vec<Write>,
    ) -> Result<(), MembershipError> {
        self.validate(change)?;
        let id = change.id();
        match change {
            Change::Add { member, .. } => {
                self.members.insert(id, member.clone());
            }
            Change::Promote(_) => self.known(id).learner = false,
            Change::Update { peer_urls, .. } => {
                let member = self.known(id);
                member.peer_urls.clone_from(peer_urls);
                if crate::mutant!("E31") {
                    member.learner = false;
                }
            }
            Change::Remove(_) => {
                self.members.remove(&id);
                self.removed.insert(id);
                writes.push(Write { table: Table::Members, key: hex(id), value: None });
                let value = Some(Bytes::from_static(VALUE_REMOVED));
                writes.push(Write { table: Table::MembersRemoved, key: hex(id), value });
                if self.stores.remove(&id).is_some() {
                    writes.push(Write { table: Table::Cluster, key: store_row(id), value: None });
                }
                return Ok(());
            }
        }
        self.write(id, writes);
        Ok(())
    }

    /// Stores what a member says about itself; tells whether there is such a member. One that was removed
    /// meanwhile is no error: its last words came late.
    pub fn publish(
        &mut self,
        id: NodeId,
        name: &str,
        client_urls: &[String],
        writes: &mut Vec<Write>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        name.clone_into(&mut member.name);
        client_urls.clone_into(&mut member.client_urls);
        self.write(id, writes);
        true
    }

    /// Sets the version that the whole cluster speaks.
    pub fn set_version(&mut self, version: Version, writes: &mut Vec<Write>) {
        self.version = Some(version);
        writes.push(Write {
            table: Table::Cluster,
            key: Bytes::from_static(ROW_VERSION),
            value: Some(Bytes::from(version.to_string())),
        });
    }

    /// Ties a member to its data directory. The first directory stays: a member that comes back with
    /// another one has lost its votes and its log, and only a replacement under a new id may take its place.
    pub fn tie_store(
        &mut self,
        id: NodeId,
        store_id: u64,
        writes: &mut Vec<Write>,
    ) -> Result<(), MembershipError> {
        if self.removed.contains(&id) {
            return Err(MembershipError::IdRemoved);
        }
        if !self.members.contains_key(&id) {
            return Err(MembershipError::IdUnknown);
        }
        match self.stores.get(&id) {
            Some(known) if *known == store_id => Ok(()),
            Some(_) => Err(MembershipError::IdExists),
            None => {
                self.stores.insert(id, store_id);
                let value = Some(Bytes::copy_from_slice(&store_id.to_be_bytes()));
                writes.push(Write { table: Table::Cluster, key: store_row(id), value });
                Ok(())
            }
        }
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        let mut urls = BTreeMap::new();
        for (id, member) in &self.members {
            assert_eq!(*id, member.id, "a member is filed under another id");
            assert!(!self.removed.contains(id), "{id} is a member and removed");
            for url in &member.peer_urls {
                let other = urls.insert(url, *id).filter(|other| other != id);
                assert!(other.is_none(), "{url} belongs to {id} and {other:?}");
            }
        }
        let anyone = !self.members.is_empty() || !self.removed.is_empty();
        assert!(!anyone || self.voters().next().is_some(), "nobody votes");
        for id in self.stores.keys() {
            assert!(self.members.contains_key(id), "{id} has a data directory and is no member");
        }
    }

    fn check_urls(&self, id: NodeId, urls: &[String]) -> Result<(), MembershipError> {
        let others = self.members().filter(|member| member.id != id);
        let taken = others.flat_map(|member| &member.peer_urls).any(|url| urls.contains(url));
        if taken { Err(MembershipError::PeerUrlExists) } else { Ok(()) }
    }

    fn known(&mut self, id: NodeId) -> &mut Member {
        self.members.get_mut(&id).expect("the change was validated")
    }

    fn write(&self, id: NodeId, writes: &mut Vec<Write>) {
        let value = self.members.get(&id).map(|member| Bytes::from(member.to_json()));
        writes.push(Write { table: Table::Members, key: hex(id), value });
    }
}

/// The changes that make the first configuration, by ascending id: one entry each, equal on every member
/// since every member computes them from the same flags. Also returns the cluster's id.
///
/// `members` are names and peer URLs, `token` is the cluster's. `Err` names a member whose id would be 0,
/// or that has the id (that is, all the addresses) of another.
pub fn bootstrap(
    members: &[(String, Vec<String>)],
    token: &str,
) -> Result<(ClusterId, Vec<Change>), String> {
    let mut by_id = BTreeMap::new();
    for (name, urls) in members {
        let id = identity::bootstrap_member_id(urls, token);
        let mut peer_urls = urls.clone();
        peer_urls.sort_unstable();
        let member = Member { name: name.clone(), ..Member::new(id, peer_urls) };
        if id.0 == 0 || by_id.insert(id, member).is_some() {
            return Err(name.clone());
        }
    }
    let cluster_id = identity::cluster_id(by_id.keys().copied());
    let changes =
        by_id.into_values().map(|member| Change::Add { member, learners_max: None }).collect();
    Ok((cluster_id, changes))
}

fn hex(id: NodeId) -> Bytes {
    Bytes::from(format!("{:x}", id.0))
}

fn store_row(id: NodeId) -> Bytes {
    Bytes::from([ROW_STORE, &hex(id)].concat())
}

fn read_hex(key: &[u8]) -> Option<NodeId> {
    let text = std::str::from_utf8(key).ok()?;
    u64::from_str_radix(text, 16).ok().map(NodeId)
}
