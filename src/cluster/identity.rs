//! Ids of members and clusters, computed from addresses as etcd computes them.
//!
//! Ids are the first eight bytes of a SHA-1, read big-endian. The hash is a name here, not a protection.

use sha1::{Digest, Sha1};

use crate::types::{ClusterId, NodeId};

/// Returns the id of a member of the first configuration: its peer URLs, sorted and joined, and then the
/// cluster's token. The one who asks refuses an id of 0.
pub fn bootstrap_member_id(peer_urls: &[String], token: &str) -> NodeId {
    member_id(peer_urls, token)
}

/// Returns the id of a member that is added to a running cluster at a moment in seconds since the Unix
/// epoch: the same addresses get another id each second, since removed ids never come back.
pub fn added_member_id(peer_urls: &[String], unix_seconds: u64) -> NodeId {
    member_id(peer_urls, &unix_seconds.to_string())
}

/// Returns the id of the cluster whose first members have these ids.
pub fn cluster_id(members: impl IntoIterator<Item = NodeId>) -> ClusterId {
    let mut ids: Vec<NodeId> = members.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.0.to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

fn member_id(peer_urls: &[String], salt: &str) -> NodeId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(salt.as_bytes());
    NodeId(first_eight(hash))
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let first = digest.first_chunk::<8>().expect("SHA-1 has twenty bytes");
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|&u| u.to_owned()).collect()
    }

    #[test]
    fn the_default_single_member_has_etcds_well_known_ids() {
        // What `etcd` without flags prints: member 8e9e05c52164694d of cluster cdf818194e3a8c32.
        let id = bootstrap_member_id(&urls(&["http://localhost:2380"]), "etcd-cluster");
        assert_eq!(format!("{:x}", id.0), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([id]).0), "cdf818194e3a8c32");
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        let id = bootstrap_member_id(&urls(&["http://b", "http://a"]), "t");
        assert_eq!(id, bootstrap_member_id(&urls(&["http://a", "http://b"]), "t"));
        assert_ne!(id, bootstrap_member_id(&urls(&["http://a", "http://b"]), "u"));
        assert_eq!(cluster_id([NodeId(2), NodeId(1)]), cluster_id([NodeId(1), NodeId(2)]));
        let added = added_member_id(&urls(&["http://a"]), 1_700_000_000);
        assert_ne!(added, added_member_id(&urls(&["http://a"]), 1_700_000_001));
    }
}
