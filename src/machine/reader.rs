//! What serving threads see of the machine.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::tables::Shared;
use crate::cluster::{Alarm, Membership};
use crate::lease::{self, Leases};
use crate::mvcc::Store;
use crate::storage::Table;
use crate::types::{Index, LeaseId, LogPosition, Revision};

/// A view of the machine that moves with it. Cheap to clone; any thread may hold one.
///
/// Each call sees the newest state at its moment. Two calls may see two moments.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// A lease as the table has it. How long it still lives, only the leader's clock knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// The seconds it was granted for.
    pub granted_seconds: i64,
    /// The lease time of its end, if that is written down.
    pub until: Option<Duration>,
    /// The entry that granted it.
    pub mark: Index,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the store of keys. NB: an installed snapshot is another store; do not keep this for longer
    /// than a request.
    pub fn store(&self) -> Store {
        self.shared.read().store.clone()
    }

    /// Returns the position of the last applied entry; its term is the one for response headers.
    pub fn applied(&self) -> LogPosition {
        self.store().storage().applied()
    }

    /// Returns the store's revision, for response headers.
    pub fn revision(&self) -> Revision {
        self.shared.read().store.revision()
    }

    /// Returns the members and what they agree on.
    pub fn members(&self) -> Arc<Membership> {
        self.shared.read().membership.clone()
    }

    /// Returns all alarms that are on.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.shared.read().alarms.list(0)
    }

    /// Tells whether any member has raised this alarm.
    pub fn has_alarm(&self, kind: i32) -> bool {
        self.shared.read().alarms.any(kind)
    }

    /// Returns a lease.
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.shared.read().leases.get(id).map(|lease| info(id, lease))
    }

    /// Returns all leases, by id.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.shared.read().leases.iter().map(|(id, lease)| info(id, lease)).collect()
    }

    /// Calls `f` with the table of leases; nothing is applied meanwhile. For starting the leader's clock.
    pub fn with_leases<R>(&self, f: impl FnOnce(&Leases) -> R) -> R {
        f(&self.shared.read().leases)
    }

    /// Returns the keys on a lease, in byte order.
    pub fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        lease_keys(&self.store(), id)
    }
}

/// Reads the keys on a lease, in byte order.
pub(super) fn lease_keys(store: &Store, id: LeaseId) -> Vec<Bytes> {
    let (from, to) = lease::keys::rows(id);
    let view = store.storage().view();
    let rows = view.scan(Table::LeaseKeys, as_slice(&from), as_slice(&to));
    rows.filter_map(|(row, _)| Some(Bytes::copy_from_slice(lease::keys::parse(&row)?.1))).collect()
}

fn as_slice(bound: &Bound<[u8; 8]>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn info(id: LeaseId, lease: &lease::Lease) -> LeaseInfo {
    LeaseInfo { id, granted_seconds: lease.granted_seconds, until: lease.until, mark: lease.mark }
}
