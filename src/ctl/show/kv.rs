//! Reads, writes, deletions and transactions.

use serde_json::Value;

use super::{Lines, Object, Show, Style, encoded, json_of_kv, plain, plain_kv};
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseOp, TxnResponse,
};

impl Show for RangeResponse {
    fn simple(&self, style: &Style) -> Vec<u8> {
        self.kvs.iter().flat_map(|kv| plain_kv(kv, style)).collect()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        for kv in &self.kvs {
            lines.kv("", kv, style);
        }
        lines.put("More", self.more).put("Count", self.count);
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        Object::default()
            .header(self.header.as_ref())
            .list("kvs", self.kvs.iter().map(json_of_kv).collect())
            .flag("more", self.more)
            .number("count", self.count)
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}

/// A read of which only the values are printed.
pub(crate) struct ValuesOnly(pub RangeResponse);

impl Show for ValuesOnly {
    fn simple(&self, style: &Style) -> Vec<u8> {
        self.0.kvs.iter().flat_map(|kv| plain(&kv.value, style)).collect()
    }

    // NB: the command refuses the other formats for this.
    fn json(&self, style: &Style) -> Value {
        self.0.json(style)
    }
}

impl Show for PutResponse {
    fn simple(&self, style: &Style) -> Vec<u8> {
        let mut lines = b"OK\n".to_vec();
        if let Some(kv) = &self.prev_kv {
            lines.extend(plain_kv(kv, style));
        }
        lines
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        if let Some(kv) = &self.prev_kv {
            lines.kv("Prev", kv, style);
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        Object::default()
            .header(self.header.as_ref())
            .maybe("prev_kv", self.prev_kv.as_ref().map(json_of_kv))
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}

impl Show for DeleteRangeResponse {
    fn simple(&self, style: &Style) -> Vec<u8> {
        let mut lines = format!("{}\n", self.deleted).into_bytes();
        lines.extend(self.prev_kvs.iter().flat_map(|kv| plain_kv(kv, style)));
        lines
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style).put("Deleted", self.deleted);
        for kv in &self.prev_kvs {
            lines.kv("Prev", kv, style);
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        Object::default()
            .header(self.header.as_ref())
            .number("deleted", self.deleted)
            .list("prev_kvs", self.prev_kvs.iter().map(json_of_kv).collect())
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}

impl Show for TxnResponse {
    fn simple(&self, style: &Style) -> Vec<u8> {
        let mut lines = if self.succeeded { b"SUCCESS\n".to_vec() } else { b"FAILURE\n".to_vec() };
        for op in &self.responses {
            lines.push(b'\n');
            if let Some(answer) = inner(op) {
                lines.extend(answer.simple(style));
            }
        }
        lines
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style).put("Succeeded", self.succeeded);
        for op in &self.responses {
            lines
                .0
                .push_str(&inner(op).and_then(|answer| answer.fields(style)).unwrap_or_default());
        }
        Some(lines.0)
    }

    fn json(&self, style: &Style) -> Value {
        let op = |op: &ResponseOp| {
            let name = match op.response {
                Some(Response::ResponseRange(_)) => "response_range",
                Some(Response::ResponsePut(_)) => "response_put",
                Some(Response::ResponseDeleteRange(_)) => "response_delete_range",
                Some(Response::ResponseTxn(_)) => "response_txn",
                None => "",
            };
            // Go's encoder shows the wrapper that the oneof has in generated code.
            let inside = inner(op).map_or(Value::Null, |answer| {
                Object::default().always(name, answer.json(style)).done()
            });
            Object::default().always("Response", inside).done()
        };
        Object::default()
            .header(self.header.as_ref())
            .flag("succeeded", self.succeeded)
            .list("responses", self.responses.iter().map(op).collect())
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}

fn inner(op: &ResponseOp) -> Option<&dyn Show> {
    Some(match op.response.as_ref()? {
        Response::ResponseRange(answer) => answer,
        Response::ResponsePut(answer) => answer,
        Response::ResponseDeleteRange(answer) => answer,
        Response::ResponseTxn(answer) => answer,
    })
}
