//! The ids of members and clusters: SHA-1 over what identifies them, first eight bytes, big endian.
//!
//! Every member computes the ids of the first members for itself, from its own flags, so the bytes
//! hashed are part of the contract between members, and between a cluster and its backups.
//!
//! - A member of the initial cluster: its peer URLs in order, without separator, then the cluster's
//!   token. The name does not count, so renaming a member does not change it.
//! - A member added later: its peer URLs and the Unix time in decimal seconds, so that a place can be
//!   taken again under another id. The adder's reading of the clock travels in the log with the id.
//! - A cluster: the ids of its first members in order, and never again after bootstrap.

use sha1::{Digest, Sha1};

use super::url::Url;
use crate::types::{ClusterId, NodeId};

/// Computes the id of a member of the initial cluster.
pub fn member_id(peer_urls: &[Url], token: &str) -> NodeId {
    NodeId(hash_of(peer_urls, token))
}

/// Computes the id of a member added at a time, in seconds since the Unix epoch.
pub fn member_id_at(peer_urls: &[Url], unix_seconds: i64) -> NodeId {
    NodeId(hash_of(peer_urls, &unix_seconds.to_string()))
}

/// Computes the id of the cluster that these members found.
pub fn cluster_id(member_ids: &[NodeId]) -> ClusterId {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.get().to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

fn hash_of(peer_urls: &[Url], salt: &str) -> u64 {
    let mut urls: Vec<&Url> = peer_urls.iter().collect();
    urls.sort();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_str().as_bytes());
    }
    hash.update(salt.as_bytes());
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has twenty bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(texts: &[&str]) -> Vec<Url> {
        Url::parse_list(texts.iter().copied()).expect("the URLs are well formed")
    }

    #[test]
    fn the_default_member_has_etcds_well_known_ids() {
        let member = member_id(&urls(&["http://localhost:2380"]), "etcd-cluster");
        assert_eq!(member, NodeId(0x8e9e_05c5_2164_694d));
        assert_eq!(cluster_id(&[member]), ClusterId(0xcdf8_1819_4e3a_8c32));
    }

    #[test]
    fn ids_are_those_that_a_running_etcd_gave() {
        let two_urls = urls(&["http://127.0.0.1:42381", "http://127.0.0.1:42380"]);
        let member = member_id(&two_urls, "tok");
        assert_eq!(member, NodeId(0x6b07_6ac5_594e_ac9d));
        assert_eq!(cluster_id(&[member]), ClusterId(0x14f4_82f0_8139_9288));

        let three: Vec<NodeId> =
            ["http://127.0.0.1:42380", "http://127.0.0.1:42390", "http://127.0.0.1:42391"]
                .iter()
                .map(|url| member_id(&urls(&[url]), "tok"))
                .collect();
        let known = [0x30cf_319f_eadb_6b70, 0xf771_fc64_520f_2723, 0xe59c_409d_92c9_156c];
        assert_eq!(three, known.map(NodeId));
        assert_eq!(cluster_id(&three), ClusterId(0x436f_5aee_2a9e_380f));
    }

    #[test]
    fn order_does_not_count_and_salt_does() {
        let forth = urls(&["http://a:1", "http://b:1"]);
        let back: Vec<Url> = forth.iter().rev().cloned().collect();
        assert_eq!(member_id(&forth, "t"), member_id(&back, "t"));
        assert_ne!(member_id(&forth, "t"), member_id(&forth, "u"));
        assert_ne!(member_id_at(&forth, 1), member_id_at(&forth, 2));
        let (a, b) = (NodeId(1), NodeId(2));
        assert_eq!(cluster_id(&[a, b]), cluster_id(&[b, a]));
        assert_ne!(cluster_id(&[a]), cluster_id(&[a, b]));
    }
}
