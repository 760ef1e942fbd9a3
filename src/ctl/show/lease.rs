//! Leases. In etcd's client their answers are structs that embed the header, so in JSON its fields
//! stand beside the others, zeros are printed, and protobuf is the header alone.

use serde_json::Value;

use super::{Lines, Object, Show, Style, encoded};
use crate::proto::etcdserverpb::{
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, ResponseHeader,
};

fn flat(header: Option<&ResponseHeader>) -> Object {
    Object::default().flat_header(header.unwrap_or(&ResponseHeader::default()))
}

fn header_bytes(header: Option<&ResponseHeader>) -> Result<Vec<u8>, String> {
    encoded(header.unwrap_or(&ResponseHeader::default()))
}

fn put_id(lines: &mut Lines, id: i64, style: &Style) {
    if style.hex {
        lines.put("ID", format!("{id:016x}"));
    } else {
        lines.put("ID", id);
    }
}

impl Show for LeaseGrantResponse {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        format!("lease {:016x} granted with TTL({}s)\n", self.id, self.ttl).into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        put_id(&mut lines, self.id, style);
        lines.put("TTL", self.ttl);
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        flat(self.header.as_ref())
            .always("ID", self.id)
            .always("TTL", self.ttl)
            .always("Error", self.error.as_str())
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        header_bytes(self.header.as_ref())
    }
}

/// A revocation, with the id that was asked for.
pub(crate) struct Revoked(pub i64, pub LeaseRevokeResponse);

impl Show for Revoked {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        format!("lease {:016x} revoked\n", self.0).into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.1.header.as_ref(), style);
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        Object::default().header(self.1.header.as_ref()).done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        Err("marshal unsupported for type *clientv3.LeaseRevokeResponse".to_owned())
    }
}

/// How long a lease has left, and whether its keys were asked for.
pub(crate) struct TimeToLive(pub LeaseTimeToLiveResponse, pub bool);

impl Show for TimeToLive {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let Self(answer, with_keys) = self;
        if answer.granted_ttl == 0 && answer.ttl == -1 {
            return format!("lease {:016x} already expired\n", answer.id).into_bytes();
        }
        let mut line = format!(
            "lease {:016x} granted with TTL({}s), remaining({}s)",
            answer.id, answer.granted_ttl, answer.ttl
        )
        .into_bytes();
        if *with_keys {
            line.extend_from_slice(b", attached keys([");
            line.extend(answer.keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        line.push(b'\n');
        line
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let Self(answer, _) = self;
        let mut lines = Lines::default();
        lines.header(answer.header.as_ref(), style);
        put_id(&mut lines, answer.id, style);
        lines.put("TTL", answer.ttl).put("GrantedTTL", answer.granted_ttl);
        for key in &answer.keys {
            lines.put("Key", super::quote(key));
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let Self(answer, _) = self;
        let keys: Vec<Value> = answer.keys.iter().map(|key| super::base64(key).into()).collect();
        flat(answer.header.as_ref())
            .always("id", answer.id)
            .always("ttl", answer.ttl)
            .always("granted-ttl", answer.granted_ttl)
            .always("keys", if keys.is_empty() { Value::Null } else { keys.into() })
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        header_bytes(self.0.header.as_ref())
    }
}

impl Show for LeaseLeasesResponse {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let mut lines = format!("found {} leases\n", self.leases.len());
        for lease in &self.leases {
            lines.push_str(&format!("{:016x}\n", lease.id));
        }
        lines.into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        for lease in &self.leases {
            put_id(&mut lines, lease.id, style);
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let one = |id: i64| Object::default().always("id", id).done();
        let leases: Vec<Value> = self.leases.iter().map(|lease| one(lease.id)).collect();
        flat(self.header.as_ref()).always("leases", leases).done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        header_bytes(self.header.as_ref())
    }
}

impl Show for LeaseKeepAliveResponse {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        format!("lease {:016x} keepalived with TTL({})\n", self.id, self.ttl).into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        put_id(&mut lines, self.id, style);
        lines.put("TTL", self.ttl);
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        flat(self.header.as_ref()).always("ID", self.id).always("TTL", self.ttl).done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        header_bytes(self.header.as_ref())
    }
}
