//! A stopped member's disk, read into plain data.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay::cluster::Membership;
use mainstay::lease::{self, Leases};
use mainstay::machine::{Machine, MachineOptions};
use mainstay::mvcc::{StoredFacts, StoredKey, StoredRow, stored_count};
use mainstay::raft::ConfState;
use mainstay::server::bootstrap::{self, Places};
use mainstay::storage::log::{Log, LogOptions, Recovered};
use mainstay::storage::{Storage, StorageOptions, Table, generations};
use mainstay::types::{ClusterId, LeaseId, LogPosition};

use crate::disk::HostDisk;

/// What is on a disk.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The machine's name.
    pub name: String,
    /// The files of the member before anything was opened, by their paths below its directory.
    pub files: Vec<String>,
    /// The same once log and store were opened, as a start opens them.
    pub files_opened: Vec<String>,
    /// What names the data directory.
    pub store_id: u64,
    /// The log.
    pub log: Recovered,
    /// Where the store stands.
    pub applied: LogPosition,
    /// Where a snapshot from outside left it, if one did.
    pub loaded: Option<LogPosition>,
    /// Raft's configuration, as the store has it.
    pub conf: ConfState,
    /// The store.
    pub tables: Tables,
}

/// What a store holds.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The facts about the store as a whole.
    pub facts: StoredFacts,
    /// Every row, ascending.
    pub rows: Vec<StoredRow>,
    /// The index, in key order.
    pub keys: Vec<StoredKey>,
    /// Where each stretch of keys begins, and how many live in it.
    pub counts: Vec<(Bytes, u32)>,
    /// The leases.
    pub leases: Leases,
    /// Which key hangs on which lease.
    pub lease_keys: Vec<(LeaseId, Bytes)>,
    /// The members.
    pub membership: Membership,
    /// The tables that are the same on every member, as they are stored.
    pub alike: BTreeMap<Table, Vec<(Bytes, Bytes)>>,
    /// What does not read, in words.
    pub unread: Vec<String>,
}

/// The tables in which nothing is a member's own.
const ALIKE: [Table; 9] = [
    Table::Leases,
    Table::LeaseKeys,
    Table::Members,
    Table::MembersRemoved,
    Table::Alarms,
    Table::Cluster,
    Table::Auth,
    Table::AuthUsers,
    Table::AuthRoles,
];

impl Tables {
    /// Reads everything that a store holds, overlay included.
    pub fn read(storage: &Storage) -> Self {
        let mut tables = Self::default();
        for table in Table::ALL {
            // Rot would end the thread that walks over it.
            if let Err(error) = storage.verify(table) {
                tables.unread.push(error.to_string());
                continue;
            }
            let view = storage.view();
            let rows = view.scan(table, Bound::Unbounded, Bound::Unbounded);
            for (key, value) in rows {
                if let Err(error) = tables.take(table, &key, &value) {
                    tables.unread.push(error);
                }
                if ALIKE.contains(&table) {
                    let row = (Bytes::copy_from_slice(&key), value.to_bytes());
                    tables.alike.entry(table).or_default().push(row);
                }
            }
        }
        let rows = |table| tables.alike.get(&table).into_iter().flatten().cloned();
        let leases = Leases::load(rows(Table::Leases));
        let members = [Table::Members, Table::MembersRemoved, Table::Cluster].into_iter();
        let members = members.flat_map(|table| rows(table).map(move |(k, v)| (table, k, v)));
        let membership = Membership::load(members);
        match leases {
            Ok(leases) => tables.leases = leases,
            Err(row) => tables.unread.push(format!("lease {row:?}")),
        }
        match membership {
            Ok(membership) => tables.membership = membership,
            Err(error) => tables.unread.push(error.to_string()),
        }
        tables
    }

    fn take(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), String> {
        let said = |error: mainstay::mvcc::Damage| error.to_string();
        match table {
            Table::Rows => self.rows.push(StoredRow::read(key, value).map_err(said)?),
            Table::Keys => self.keys.push(StoredKey::read(key, value).map_err(said)?),
            Table::Counts => self.counts.push(stored_count(key, value).map_err(said)?),
            Table::Meta => self.facts.take(key, value).map_err(said)?,
            Table::LeaseKeys => {
                let row = lease::keys::parse(key).map(|(id, k)| (id, Bytes::copy_from_slice(k)));
                self.lease_keys.push(row.ok_or_else(|| format!("lease's key {key:?}"))?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A disk with its log read and its store open.
pub struct Opened {
    /// What was there.
    pub picture: Picture,
    /// The machine over the store.
    pub machine: Machine,
}

impl Opened {
    /// Opens a disk as a start does, and changes no more of it; `None` if there is no member on it.
    ///
    /// # Errors
    /// If it does not read, in words.
    pub fn open(name: &str, host: &Arc<HostDisk>) -> Result<Option<Self>, String> {
        // What a strike has left on the machine ends with the run.
        host.set_full(false);
        host.set_room(None);
        host.fail_writes(0);
        host.crash_in(u64::MAX);
        let disk = host.boot();
        let places = Places::new(&host.root().join("data"), None);
        if !bootstrap::exists(&disk, &places) {
            return Ok(None);
        }
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let files = files(&places.member);
        let store_id = std::fs::read_to_string(places.member.join("store-id"));
        let store_id = store_id.map_err(|error| said(&error))?;
        let store_id = u64::from_str_radix(store_id.get(..16).unwrap_or_default(), 16);
        let store_id = store_id.map_err(|error| said(&error))?;
        let log = Log::open(disk.clone(), &places.log, LogOptions::default());
        let (log, recovered) = log.map_err(|error| said(&error))?;
        drop(log);
        let dir = generations::current(&disk, &places.stores).map_err(|error| said(&error))?;
        let storage = Storage::open(&dir, StorageOptions::default());
        let storage = storage.map_err(|error| said(&error))?;
        let tables = Tables::read(&storage);
        let (applied, loaded) = (storage.applied(), storage.loaded());
        let options = MachineOptions { cluster_id: ClusterId(recovered.metadata.cluster) };
        let machine = Machine::open(storage, options).map_err(|error| said(&error))?;
        let picture = Picture {
            name: name.to_owned(),
            files,
            files_opened: self::files(&places.member),
            store_id,
            log: recovered,
            applied,
            loaded,
            conf: machine.conf_state(),
            tables,
        };
        Ok(Some(Self { picture, machine }))
    }

    /// Closes the store: one path, one environment a process.
    pub fn close(self) {
        let closing = self.machine.storage().close();
        drop(self.machine);
        closing.wait();
    }
}

/// Lists the files below a directory, in order.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(path) = path.strip_prefix(root) {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort_unstable();
    found
}
