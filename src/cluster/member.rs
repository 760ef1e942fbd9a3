//! One member and its stored record.
//!
//! The record is JSON as etcd writes it: fields `id`, `peerURLs`, `isLearner`, `name`, `clientURLs` in this
//! order, the last three left out when empty, and the characters that Go escapes in JSON escaped alike.

use serde::{Deserialize, Serialize};

use crate::types::NodeId;

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    #[serde(serialize_with = "write_id", deserialize_with = "read_id")]
    pub id: NodeId,
    /// Where its peers find it.
    #[serde(rename = "peerURLs", deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it only listens: it has no vote and does not count for a quorum.
    #[serde(rename = "isLearner", skip_serializing_if = "is_false")]
    pub learner: bool,
    /// Its name; empty until it has started for the first time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients find it; empty until it has started for the first time.
    #[serde(
        rename = "clientURLs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub client_urls: Vec<String>,
}

impl Default for Member {
    fn default() -> Self {
        Self::new(NodeId(0), Vec::new())
    }
}

impl Member {
    /// Makes a voter that has not started yet.
    pub fn new(id: NodeId, peer_urls: Vec<String>) -> Self {
        Self { id, peer_urls, learner: false, name: String::new(), client_urls: Vec::new() }
    }

    /// Tells whether it has published its name, that is, has ever started.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// Returns the stored record.
    pub fn to_json(&self) -> String {
        to_go_json(self)
    }

    /// Reads a stored record; unknown fields are passed over, as etcd does.
    pub fn from_json(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// Writes JSON with the characters escaped that Go's encoder escapes beyond the standard. They occur
/// within strings only, so the finished text can be rewritten.
pub(super) fn to_go_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain records always serialise");
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn write_id<S: serde::Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(id.0)
}

fn read_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
    u64::deserialize(from).map(NodeId)
}

/// Go writes an absent list as `null`.
pub(super) fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_etcd_writes() {
        let mut member = Member::new(NodeId(738_732_465_488_312_899), vec!["http://a:1".into()]);
        assert_eq!(member.to_json(), r#"{"id":738732465488312899,"peerURLs":["http://a:1"]}"#);
        member.learner = true;
        member.name = "m2".into();
        member.client_urls = vec!["http://a:2?x=1&y=<2>".into(), "http://b:2".into()];
        let json = member.to_json();
        assert_eq!(
            json,
            r#"{"id":738732465488312899,"peerURLs":["http://a:1"],"isLearner":true,"name":"m2","clientURLs":["http://a:2?x=1\u0026y=\u003c2\u003e","http://b:2"]}"#
        );
        assert_eq!(Member::from_json(json.as_bytes()), Some(member));
    }

    #[test]
    fn a_record_with_absent_or_foreign_fields_is_read() {
        let member = Member::from_json(br#"{"id":7,"peerURLs":null,"isPromote":true,"x":[1]}"#);
        assert_eq!(member, Some(Member::new(NodeId(7), vec![])));
        assert_eq!(Member::from_json(b"{"), None);
        assert_eq!(Member::from_json(br#"{"id":-1}"#), None);
    }
}
