//! Alarms: conditions that a member has raised for the whole cluster, until someone clears them.
//!
//! Invariants
//! - Raising an alarm twice and clearing one that is off change nothing.
//! - Alarm numbers that nobody defined are kept as given; number 0 is no alarm and is never kept.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::storage::{Table, Write};

/// One alarm: its number (1 NOSPACE, 2 CORRUPT, or any other) and the member that raised it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// Which condition.
    pub kind: i32,
    /// Who raised it; any number, also one that is no member.
    pub member: u64,
}

/// The number of the alarm «out of space».
pub const NOSPACE: i32 = 1;
/// The number of the alarm «members differ».
pub const CORRUPT: i32 = 2;

/// All alarms that are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    on: BTreeSet<Alarm>,
}

impl Alarms {
    /// Reads the alarms from their stored rows; `Err` names a row that is none.
    pub fn load(rows: impl Iterator<Item = (Bytes, Bytes)>) -> Result<Self, Bytes> {
        let on = rows.map(|(key, _)| decode(&key).ok_or(key)).collect::<Result<_, _>>()?;
        Ok(Self { on })
    }

    /// Tells whether any member has raised this alarm.
    pub fn any(&self, kind: i32) -> bool {
        self.on.iter().any(|alarm| alarm.kind == kind)
    }

    /// Returns the alarms of one kind; kind 0 means all.
    pub fn list(&self, kind: i32) -> Vec<Alarm> {
        self.on.iter().filter(|alarm| kind == 0 || alarm.kind == kind).copied().collect()
    }

    /// Raises an alarm and returns it; also when it was on. Kind 0 is none.
    pub fn activate(&mut self, alarm: Alarm, writes: &mut Vec<Write>) -> Option<Alarm> {
        if alarm.kind == 0 {
            return None;
        }
        if self.on.insert(alarm) {
            writes.push(row(alarm, true));
        }
        Some(alarm)
    }

    /// Clears an alarm and returns it if it was on.
    pub fn deactivate(&mut self, alarm: Alarm, writes: &mut Vec<Write>) -> Option<Alarm> {
        self.on.remove(&alarm).then(|| {
            writes.push(row(alarm, false));
            alarm
        })
    }
}

/// An alarm's row: the member big-endian, then the kind big-endian; no value.
fn row(alarm: Alarm, on: bool) -> Write {
    let mut key = Vec::with_capacity(12);
    key.extend_from_slice(&alarm.member.to_be_bytes());
    key.extend_from_slice(&alarm.kind.to_be_bytes());
    Write { table: Table::Alarms, key: Bytes::from(key), value: on.then(Bytes::new) }
}

fn decode(key: &[u8]) -> Option<Alarm> {
    let (member, kind) = key.split_first_chunk::<8>()?;
    Some(Alarm {
        kind: i32::from_be_bytes(kind.try_into().ok()?),
        member: u64::from_be_bytes(*member),
    })
}
