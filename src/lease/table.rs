//! The replicated table of leases, a function of the log alone.
//!
//! Invariants
//! - Id 0 is no lease. Any other number may be one, negative ones included.
//! - A lease's mark is the index of the entry that granted it: a lease revoked and granted anew under the
//!   same id has another mark, and what was proposed for the first does not touch the second.
//! - Lease time never goes back. It stands at most where the clock that counts it stood when the entry was
//!   proposed, so what is left by it is never less than what is left in truth.
//! - Where an end is written down, it lies ahead of the lease time it was written at, by less than was granted.
//! - Memory and the stored rows say the same at every applied index: each change is also a write.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::storage::{Table, Write};
use crate::types::{Index, LeaseId, LogPosition, Term};

/// No lease is granted for longer, in seconds (etcd's limit).
pub const TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The seconds it was granted for.
    pub granted_seconds: i64,
    /// The lease time at which it ends, if that is written down. If not, it may have been renewed at any
    /// moment, and a new leader grants it its whole time.
    pub until: Option<Duration>,
    /// The entry that granted it.
    pub mark: Index,
}

impl Lease {
    /// How long a leader that knows nothing more lets it live, from lease time `time` on.
    pub fn life(&self, time: Duration) -> Duration {
        let granted = seconds(self.granted_seconds);
        self.until.map_or(granted, |until| until.saturating_sub(time).min(granted))
    }
}

/// What an entry did to one lease; the leader's [`Clock`](super::Clock) follows these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was granted.
    Granted(LeaseId, Lease),
    /// It ended: by its owner or by its time.
    Revoked(LeaseId),
    /// What is left was written down.
    Checkpointed(LeaseId, Lease),
    /// An expiry was applied and did not end it, because it came from another term or meant another grant.
    Spared(LeaseId),
}

/// Why a grant is refused. Checked in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// Id 0 cannot be granted.
    NoId,
    /// Longer than [`TTL_SECONDS_MAX`].
    TooLong,
    /// There is such a lease.
    Exists,
}

/// All leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    /// How much time leaders have counted, as far as it was written down.
    time: Duration,
}

impl Leases {
    /// Reads the table from its stored rows; `Err` names a row that is none.
    pub fn load(rows: impl Iterator<Item = (Bytes, Bytes)>) -> Result<Self, Bytes> {
        let mut by_id = BTreeMap::new();
        let mut time = Duration::ZERO;
        for (key, value) in rows {
            if key.as_ref() == TIME_ROW {
                let millis = value.as_ref().try_into().map_err(|_| key)?;
                time = Duration::from_millis(u64::from_be_bytes(millis));
                continue;
            }
            let (id, lease) = decode(&key, &value).ok_or(key)?;
            if crate::mutant!("E25") && id.0 < 0 {
                continue;
            }
            by_id.insert(id, lease);
        }
        Ok(Self { by_id, time })
    }

    /// Returns the lease time that was last written down.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Returns a lease.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// Returns all leases by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// Returns how many leases there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Grants a lease in the entry at `at`. A TTL below one second counts as one: the minimum depends on
    /// flags, so it is raised by the one who proposes; the table only keeps nonsense out.
    pub fn grant(
        &mut self,
        at: Index,
        id: LeaseId,
        ttl: i64,
        writes: &mut Vec<Write>,
    ) -> Result<Lease, GrantError> {
        if id.0 == 0 {
            return Err(GrantError::NoId);
        }
        if ttl > TTL_SECONDS_MAX {
            return Err(GrantError::TooLong);
        }
        if self.by_id.contains_key(&id) {
            return Err(GrantError::Exists);
        }
        let lease = Lease { granted_seconds: ttl.max(1), until: None, mark: at };
        self.by_id.insert(id, lease);
        writes.push(stored(id, Some(&lease)));
        Ok(lease)
    }

    /// Ends a lease; tells whether there was one. Its keys are the caller's to delete.
    pub fn revoke(&mut self, id: LeaseId, writes: &mut Vec<Write>) -> bool {
        let there = self.by_id.remove(&id).is_some();
        if there {
            writes.push(stored(id, None));
        }
        there
    }

    /// Tells which lease of an expiry proposed in `term` may be ended by the entry at `position`.
    pub fn may_expire(&self, position: LogPosition, term: Term, id: LeaseId, mark: Index) -> bool {
        if crate::mutant!("E22") {
            return self.by_id.contains_key(&id);
        }
        position.term == term && self.by_id.get(&id).is_some_and(|lease| lease.mark == mark)
    }

    /// Moves lease time on to where the leader of `term` saw it. Nothing happens under another term, nor
    /// backwards. Comes before the checkpoints of the same entry.
    pub fn advance(
        &mut self,
        position: LogPosition,
        term: Term,
        time_millis: u64,
        writes: &mut Vec<Write>,
    ) {
        let time = Duration::from_millis(time_millis);
        if position.term != term || time <= self.time {
            return;
        }
        self.time = time;
        let key = Bytes::from_static(TIME_ROW);
        let value = Some(Bytes::copy_from_slice(&time_millis.to_be_bytes()));
        writes.push(Write { table: Table::Leases, key, value });
    }

    /// Writes down what is left of a lease, counted from the present lease time. Nothing happens for a
    /// checkpoint of another term or grant. No rest, or a rest as long as the grant, sets the lease back to
    /// its full time.
    pub fn checkpoint(
        &mut self,
        position: LogPosition,
        term: Term,
        (id, mark, remaining_millis): (LeaseId, Index, u64),
        writes: &mut Vec<Write>,
    ) -> Option<Lease> {
        if position.term != term {
            return None;
        }
        let lease = self.by_id.get_mut(&id).filter(|lease| lease.mark == mark)?;
        let rest = Duration::from_millis(remaining_millis);
        let full = rest.is_zero() || rest >= seconds(lease.granted_seconds);
        lease.until =
            (!full).then(|| self.time.saturating_add(rest).min(Duration::from_millis(u64::MAX)));
        writes.push(stored(id, Some(lease)));
        Some(*lease)
    }

    /// Asserts the invariants, for tests and simulation.
    pub fn check(&self) {
        for (id, lease) in self.iter() {
            assert!(id.0 != 0, "there is a lease of id 0");
            assert!((1..=TTL_SECONDS_MAX).contains(&lease.granted_seconds), "{id}: {lease:?}");
            if let Some(until) = lease.until {
                let granted = seconds(lease.granted_seconds);
                assert!(!until.is_zero(), "{id} ends before lease time began");
                let ahead = until.saturating_sub(self.time);
                assert!(ahead < granted, "{id}: {ahead:?} left of {granted:?}");
            }
        }
    }
}

/// The length of a number of seconds; a negative number counts as none.
pub(super) fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

/// Where lease time stands, in milliseconds: the row of the id that is no lease.
const TIME_ROW: &[u8] = &[0; 8];

/// A lease's row: its id, and seconds granted, mark, the lease time of its end in milliseconds (0 for none
/// written down), 8 bytes each.
fn stored(id: LeaseId, lease: Option<&Lease>) -> Write {
    let value = lease.map(|lease| {
        let mut value = BytesMut::with_capacity(24);
        value.put_i64(lease.granted_seconds);
        value.put_u64(lease.mark.0);
        let millis = lease.until.map_or(0, |until| until.as_millis());
        value.put_u64(u64::try_from(millis).expect("no end lies beyond what can be stored"));
        value.freeze()
    });
    Write { table: Table::Leases, key: Bytes::copy_from_slice(&id.0.to_be_bytes()), value }
}

fn decode(key: &[u8], value: &[u8]) -> Option<(LeaseId, Lease)> {
    let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
    let number =
        |place: usize| value.get(place..place + 8)?.try_into().ok().map(u64::from_be_bytes);
    let granted_seconds = i64::try_from(number(0)?).ok()?;
    let (mark, millis) = (Index(number(8)?), number(16)?);
    let until = (millis != 0).then(|| Duration::from_millis(millis));
    (value.len() == 24).then_some((id, Lease { granted_seconds, until, mark }))
}
