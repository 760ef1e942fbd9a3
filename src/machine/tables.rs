//! The small tables, kept in memory as a whole, and the lock that serving threads read them under.
//!
//! The engine is the only one that changes them, entry by entry, and holds the lock for that moment only.
//! NB: no view of the store is taken while the lock is held, nor the lock while a view is: the order would
//! have to be kept by everybody, so nobody does both.

use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::MachineError;
use crate::cluster::membership::RowError;
use crate::cluster::{Alarms, Membership};
use crate::lease::Leases;
use crate::mvcc::{Store, StoreError};
use crate::raft::ConfState;
use crate::storage::{Storage, Table, View, Write};
use crate::types::{ClusterId, NodeId};

/// In table `Cluster`: Raft's configuration, in etcd's JSON form.
const ROW_CONF_STATE: &[u8] = b"confState";

/// Everything that readers see.
pub(super) struct State {
    pub store: Store,
    pub leases: Leases,
    pub membership: Arc<Membership>,
    pub alarms: Alarms,
    pub conf_state: ConfState,
}

/// The state under its lock.
pub(super) struct Shared(RwLock<State>);

impl Shared {
    pub fn new(state: State) -> Self {
        Self(RwLock::new(state))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().expect("no thread panicked while it changed the tables")
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().expect("no thread panicked while it changed the tables")
    }

    /// Puts another state in place; returns the old one's storage.
    pub fn replace(&self, state: State) -> Storage {
        let old = std::mem::replace(&mut *self.write(), state);
        old.store.storage().clone()
    }
}

impl State {
    /// Reads the small tables of a store.
    pub fn load(storage: Storage) -> Result<Self, MachineError> {
        storage.verify(Table::Leases).map_err(StoreError::from)?;
        let store = Store::open(storage)?;
        let view = store.storage().view();
        let leases = Leases::load(rows(&view, Table::Leases)).map_err(damaged(Table::Leases))?;
        let alarms = Alarms::load(rows(&view, Table::Alarms)).map_err(damaged(Table::Alarms))?;
        let tables = [Table::Members, Table::MembersRemoved, Table::Cluster];
        let membership =
            Membership::load(tables.into_iter().flat_map(|table| {
                rows(&view, table).map(move |(key, value)| (table, key, value))
            }))?;
        let conf_state = match view.get(Table::Cluster, ROW_CONF_STATE) {
            None => ConfState::default(),
            Some(row) => {
                let key = Bytes::from_static(ROW_CONF_STATE);
                decode_conf_state(&row).ok_or(RowError { table: Table::Cluster, key })?
            }
        };
        drop(view);
        Ok(Self { store, leases, membership: Arc::new(membership), alarms, conf_state })
    }

    /// Holds the stored name of the cluster against the one that is asked for; tells whether the name is
    /// still to be stored.
    pub fn name(&mut self, asked: ClusterId) -> Result<bool, MachineError> {
        let stored = self.membership.cluster_id();
        if asked.0 == 0 || stored == asked {
            return Ok(false);
        }
        if stored.0 != 0 {
            return Err(MachineError::OtherCluster { stored, asked });
        }
        Arc::make_mut(&mut self.membership).set_cluster_id(asked);
        Ok(true)
    }

    /// Asserts the invariants, and that a fresh load gives the same.
    pub fn check(&self) {
        self.leases.check();
        self.membership.check();
        self.conf_state.check();
        let loaded = Self::load(self.store.storage().clone()).expect("what was written reads back");
        assert!(loaded.leases == self.leases, "leases in memory and in the tables differ");
        assert_eq!(loaded.alarms, self.alarms, "alarms in memory and in the tables differ");
        assert_eq!(loaded.conf_state, self.conf_state, "configurations differ");
        if loaded.membership.cluster_id().0 != 0 {
            assert_eq!(loaded.membership, self.membership, "members in memory and tables differ");
        }
        self.check_lease_keys();
    }

    /// Asserts that a row stands for each live key with a lease, and for no other.
    fn check_lease_keys(&self) {
        let view = self.store.storage().view();
        let attached: Vec<Bytes> = rows(&view, Table::LeaseKeys).map(|(key, _)| key).collect();
        drop(view);
        let all = crate::command::Range::newest(crate::command::KeyRange::all());
        let kvs = self.store.range(&all).expect("the newest revision can be read").kvs;
        let mut wanted: Vec<Bytes> = kvs
            .iter()
            .filter(|kv| kv.lease.0 != 0)
            .map(|kv| crate::lease::keys::row(kv.lease, &kv.key))
            .collect();
        wanted.sort_unstable();
        assert_eq!(attached, wanted, "keys and the leases' rows differ");
        for row in &attached {
            let (lease, key) = crate::lease::keys::parse(row).expect("the row is ours");
            assert!(self.leases.get(lease).is_some(), "{key:?} hangs on {lease}, which is gone");
        }
    }
}

/// Returns the row that holds a configuration.
pub(super) fn conf_state_row(state: &ConfState) -> Write {
    let list = |ids: &std::collections::BTreeSet<NodeId>| ids.iter().map(|id| id.0).collect();
    let record = ConfStateRecord {
        voters: list(&state.voters),
        learners: list(&state.learners),
        voters_outgoing: list(&state.voters_outgoing),
        learners_next: list(&state.learners_next),
        auto_leave: state.auto_leave,
    };
    let json = serde_json::to_string(&record).expect("plain records always serialise");
    let key = Bytes::from_static(ROW_CONF_STATE);
    Write { table: Table::Cluster, key, value: super::value(json) }
}

fn decode_conf_state(row: &[u8]) -> Option<ConfState> {
    let record: ConfStateRecord = serde_json::from_slice(row).ok()?;
    let set = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    Some(ConfState {
        voters: set(record.voters),
        learners: set(record.learners),
        voters_outgoing: set(record.voters_outgoing),
        learners_next: set(record.learners_next),
        auto_leave: record.auto_leave,
    })
}

#[derive(Serialize, Deserialize)]
struct ConfStateRecord {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters_outgoing: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners_next: Vec<u64>,
    #[serde(default)]
    auto_leave: bool,
}

fn rows<'v>(view: &'v View<'_>, table: Table) -> impl Iterator<Item = (Bytes, Bytes)> + use<'v> {
    let scan = view.scan(table, Bound::Unbounded, Bound::Unbounded);
    scan.map(|(key, value)| (Bytes::copy_from_slice(&key), value.to_bytes()))
}

fn damaged(table: Table) -> impl Fn(Bytes) -> RowError {
    move |key| RowError { table, key }
}
