//! Answers in the five formats that `--write-out` knows.
//!
//! Each answer is a [`Show`]: `simple` for people, `fields` (one `"Name" : value` a line), `json` (one
//! line, numbers as numbers, bytes in base64, zeros left out), `protobuf` (the message) and `table`. A
//! format that an answer does not have is refused only when the answer is printed, as etcdctl does it:
//! the request has taken place by then.

pub(super) mod cluster;
pub(super) mod endpoint;
pub(super) mod kv;
pub(super) mod lease;
pub(super) mod watch;

use prost::Message;
use serde_json::{Map, Value};

use super::failure::{Failure, Outcome, exit};
use super::text::{base64, hex, quote};
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::mvccpb::KeyValue;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "simple" => Self::Simple,
            "fields" => Self::Fields,
            "json" => Self::Json,
            "protobuf" => Self::Protobuf,
            "table" => Self::Table,
            _ => return None,
        })
    }
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub format: Format,
    /// Keys, values and ids in hex.
    pub hex: bool,
}

/// An answer that can be printed. `None` is a format that it does not have.
pub(crate) trait Show {
    fn simple(&self, style: &Style) -> Vec<u8>;

    fn fields(&self, _style: &Style) -> Option<String> {
        None
    }

    fn json(&self, style: &Style) -> Value;

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        Err("protobuf not supported as output format".to_owned())
    }

    fn table(&self) -> Option<String> {
        None
    }
}

/// Prints an answer.
pub(crate) fn render(answer: &(impl Show + ?Sized), style: &Style) -> Outcome<Vec<u8>> {
    let missing = |name: &str| {
        Failure::new(exit::BAD_FEATURE, format!("{name} not supported as output format"))
    };
    match style.format {
        Format::Simple => Ok(answer.simple(style)),
        Format::Fields => {
            answer.fields(style).map(String::into_bytes).ok_or_else(|| missing("fields"))
        }
        Format::Table => answer.table().map(String::into_bytes).ok_or_else(|| missing("table")),
        Format::Protobuf => answer.protobuf().map_err(|text| Failure::new(exit::BAD_FEATURE, text)),
        Format::Json => Ok(json_line(&answer.json(style)).into_bytes()),
    }
}

/// One line of JSON with the escapes of Go's encoder.
fn json_line(value: &Value) -> String {
    // These can stand in strings only, so replacing them in the whole is the same.
    let mut line = value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    line.push('\n');
    line
}

/// Encodes a message.
fn encoded(message: &impl Message) -> Result<Vec<u8>, String> {
    Ok(message.encode_to_vec())
}

/// An object under construction; what is zero or empty is left out, as in Go's `omitempty`.
#[derive(Default)]
pub(crate) struct Object(Map<String, Value>);

impl Object {
    pub(crate) fn always(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn number<N: Into<Value> + Default + PartialEq>(self, name: &str, value: N) -> Self {
        if value == N::default() { self } else { self.always(name, value) }
    }

    fn flag(self, name: &str, value: bool) -> Self {
        if value { self.always(name, true) } else { self }
    }

    fn text(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.always(name, value) }
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.always(name, base64(value)) }
    }

    fn list(self, name: &str, values: Vec<Value>) -> Self {
        if values.is_empty() { self } else { self.always(name, values) }
    }

    fn maybe(self, name: &str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.always(name, value),
            None => self,
        }
    }

    fn header(self, header: Option<&ResponseHeader>) -> Self {
        self.maybe("header", header.map(|header| Object::default().flat_header(header).done()))
    }

    /// The header's own fields.
    fn flat_header(self, header: &ResponseHeader) -> Self {
        self.number("cluster_id", header.cluster_id)
            .number("member_id", header.member_id)
            .number("revision", header.revision)
            .number("raft_term", header.raft_term)
    }

    pub(crate) fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn json_of_kv(kv: &KeyValue) -> Value {
    Object::default()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .done()
}

/// Lines of the fields format.
#[derive(Default)]
pub(crate) struct Lines(pub(crate) String);

impl Lines {
    pub(crate) fn put(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.0.push_str(&format!("\"{name}\" : {value}\n"));
        self
    }

    fn blank(&mut self) -> &mut Self {
        self.0.push('\n');
        self
    }

    fn header(&mut self, header: Option<&ResponseHeader>, style: &Style) -> &mut Self {
        let none = ResponseHeader::default();
        let header = header.unwrap_or(&none);
        if style.hex {
            self.put("ClusterID", format!("{:x}", header.cluster_id));
            self.put("MemberID", format!("{:x}", header.member_id));
        } else {
            self.put("ClusterID", header.cluster_id).put("MemberID", header.member_id);
        }
        // Answers about members and endpoints have none.
        if header.revision > 0 {
            self.put("Revision", header.revision);
        }
        self.put("RaftTerm", header.raft_term)
    }

    fn kv(&mut self, prefix: &str, kv: &KeyValue, style: &Style) -> &mut Self {
        let name = |field: &str| format!("{prefix}{field}");
        self.put(&name("Key"), quote(&kv.key))
            .put(&name("CreateRevision"), kv.create_revision)
            .put(&name("ModRevision"), kv.mod_revision)
            .put(&name("Version"), kv.version)
            .put(&name("Value"), quote(&kv.value));
        if style.hex {
            self.put(&name("Lease"), format!("{:016x}", kv.lease))
        } else {
            self.put(&name("Lease"), kv.lease)
        }
    }
}

/// A key or value as the simple format prints it.
fn plain(bytes: &[u8], style: &Style) -> Vec<u8> {
    let mut line = if style.hex { hex(bytes).into_bytes() } else { bytes.to_vec() };
    line.push(b'\n');
    line
}

/// Key and value, a line each.
fn plain_kv(kv: &KeyValue, style: &Style) -> Vec<u8> {
    let mut lines = plain(&kv.key, style);
    lines.extend(plain(&kv.value, style));
    lines
}

#[cfg(test)]
mod tests;
