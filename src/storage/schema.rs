//! The tables of the store, their fixed numbers and names, and the few keys that storage itself owns.
//!
//! A table is an ordered map from byte strings to byte strings. What the keys and values of a table
//! mean is the business of the module that writes it; storage keeps the order and the atomicity.
//!
//! Rules for every table:
//! - A key is never empty (the store's engine has no such key; [`crate::storage::Storage::apply`]
//!   asserts it). A table that needs a least key takes `"\0"`: nothing non-empty sorts before it.
//! - A key may be of any length; the limit of the engine is hidden (see `lmdb.rs`).
//! - Values may be empty.
//! - Numbers and names are stored, in files and in snapshots: they are never reused for another
//!   meaning, and a table that is no longer needed leaves a gap.

/// One ordered table. The number of a table is its place in files that are sent to peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Every revision of every key, by ascending revision.
    Rows = 1,
    /// The newest state of each user key.
    Keys = 2,
    /// Exact numbers of live keys between fences of the key space.
    Counts = 3,
    /// Leases by id.
    Leases = 4,
    /// Which keys are attached to which lease.
    LeaseKeys = 5,
    /// The members of the cluster.
    Members = 6,
    /// Ids of members that were removed and may not come back.
    MembersRemoved = 7,
    /// Raised alarms.
    Alarms = 8,
    /// Cluster-wide facts: version, downgrade state and the like.
    Cluster = 9,
    /// Authentication as a whole: on or off, its revision.
    Auth = 10,
    /// Users.
    AuthUsers = 11,
    /// Roles.
    AuthRoles = 12,
    /// Small facts about the store: revisions, scrub progress; and, under [`RESERVED`], storage's own.
    Meta = 13,
}

impl Table {
    /// How many tables there are.
    pub const COUNT: usize = 13;

    /// All tables, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Rows,
        Self::Keys,
        Self::Counts,
        Self::Leases,
        Self::LeaseKeys,
        Self::Members,
        Self::MembersRemoved,
        Self::Alarms,
        Self::Cluster,
        Self::Auth,
        Self::AuthUsers,
        Self::AuthRoles,
        Self::Meta,
    ];

    /// The tables that stay small whatever is stored, so that opening may read them.
    pub const SMALL: [Self; 8] = [
        Self::Members,
        Self::MembersRemoved,
        Self::Alarms,
        Self::Cluster,
        Self::Auth,
        Self::AuthUsers,
        Self::AuthRoles,
        Self::Meta,
    ];

    /// Returns the table's stored number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Finds a table by its stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Returns the table's place in [`Table::ALL`].
    pub(crate) const fn slot(self) -> usize {
        self as usize - 1
    }

    /// Returns the table's name within the environment, also used by scripts and tools.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Keys => "keys",
            Self::Counts => "counts",
            Self::Leases => "leases",
            Self::LeaseKeys => "lease_keys",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
            Self::Alarms => "alarms",
            Self::Cluster => "cluster",
            Self::Auth => "auth",
            Self::AuthUsers => "auth_users",
            Self::AuthRoles => "auth_roles",
            Self::Meta => "meta",
        }
    }

    /// Finds a table by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// The first byte of the keys in [`Table::Meta`] that only storage writes.
pub const RESERVED: u8 = 0;

/// In [`Table::Meta`]: what this environment is ([`FORMAT_MAGIC`]) and its format version.
pub(crate) const META_FORMAT: &[u8] = b"\0format";

/// In [`Table::Meta`]: the position of the last change set in this transaction or an earlier one,
/// and that of the commit before: four big-endian u64: index, term, previous index, previous term.
pub(crate) const META_APPLIED: &[u8] = b"\0applied";

/// In [`Table::Meta`]: present while a bulk load is unfinished.
pub(crate) const META_LOADING: &[u8] = b"\0loading";

/// In [`Table::Meta`]: the position at which a bulk load completed this store, in the form of
/// [`META_APPLIED`]; absent from a store that began empty.
pub(crate) const META_LOADED: &[u8] = b"\0loaded";

/// What the value of [`META_FORMAT`] begins with; a big-endian u32, the version, follows.
pub(crate) const FORMAT_MAGIC: &[u8] = b"mainstay-store";

/// The format version this program writes, and the only one it opens.
pub const FORMAT_VERSION: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_what_is_stored() {
        let listed: Vec<String> =
            Table::ALL.iter().map(|t| format!("{}={}", t.number(), t.name())).collect();
        assert_eq!(
            listed.join(" "),
            "1=rows 2=keys 3=counts 4=leases 5=lease_keys 6=members 7=members_removed 8=alarms \
             9=cluster 10=auth 11=auth_users 12=auth_roles 13=meta"
        );
        for (slot, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table.slot(), slot);
            assert_eq!(Table::from_number(table.number()), Some(table));
            assert_eq!(Table::from_name(table.name()), Some(table));
        }
        assert_eq!(Table::from_number(0), None);
        assert_eq!(Table::from_number(14), None);
    }
}
