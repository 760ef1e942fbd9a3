//! The cluster as its members agree on it: who belongs to it, under which addresses, in which role, which
//! ids are spent, which version all speak, which alarms are on.
//!
//! All of it is replicated state: changed by log entries alone and equal on every member at every index.
//! Names and client URLs are what a member publishes about itself (an ordinary command); id, peer URLs and
//! role change by membership entries of the log, one at a time. Such an entry carries etcd's JSON record
//! of the member as its context ([`Change`]), and the stored rows are etcd's as well, byte for byte, so
//! that existing data can be read and a backup can be written without translation.
//!
//! Where a rule stands depends on what it needs:
//! - [`Membership::validate`] has the rules that an **entry** must obey when it is applied (a spent id, a
//!   known id, an address twice, one learner too many). Every member gives the same verdict; an entry that
//!   fails it changes nothing, and Raft is told that nothing changed.
//! - [`reconfig`] has the rules that a **request** must obey before it is proposed (would a quorum still be
//!   started and connected?). They need to know who is connected now, so they can never be asked at apply.
//! - [`identity`] computes ids from addresses, the way etcd does, so that a cluster described by the same
//!   flags has the same ids.
//!
//! Left out: Raft's own configuration. It follows from the members ([`Membership::voters`],
//! [`Membership::learners`]), and is changed by the node when the shell hands it an accepted entry.

pub mod alarms;
pub mod change;
pub mod identity;
pub mod member;
pub mod membership;
pub mod reconfig;
#[cfg(test)]
mod tests;
pub mod version;

pub use alarms::{Alarm, Alarms};
pub use change::{Change, ChangeError, ChangeKind};
pub use identity::added_member_id;
pub use member::Member;
pub use membership::{LEARNERS_MAX_DEFAULT, Membership, MembershipError};
pub use reconfig::{Sight, Unwise, may_add, may_promote, may_remove};
pub use version::Version;
