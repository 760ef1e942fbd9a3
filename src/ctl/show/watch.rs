//! What a watch brings.

use serde_json::Value;

use super::{Lines, Object, Show, Style, encoded, json_of_kv, plain_kv};
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::event::EventType;
use crate::proto::mvccpb::{Event, KeyValue};

/// Returns `PUT` or `DELETE`.
pub(crate) fn kind(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

impl Show for WatchResponse {
    fn simple(&self, style: &Style) -> Vec<u8> {
        let mut lines = Vec::new();
        for event in &self.events {
            lines.extend_from_slice(format!("{}\n", kind(event)).as_bytes());
            if let Some(kv) = &event.prev_kv {
                lines.extend(plain_kv(kv, style));
            }
            lines.extend(plain_kv(event.kv.as_ref().unwrap_or(&KeyValue::default()), style));
        }
        lines
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        for event in &self.events {
            lines.put("Type", kind(event));
            if let Some(kv) = &event.prev_kv {
                lines.kv("Prev", kv, style);
            }
            lines.kv("", event.kv.as_ref().unwrap_or(&KeyValue::default()), style);
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let event = |event: &Event| {
            Object::default()
                .number("type", event.r#type)
                .maybe("kv", event.kv.as_ref().map(json_of_kv))
                .maybe("prev_kv", event.prev_kv.as_ref().map(json_of_kv))
                .done()
        };
        let events: Vec<Value> = self.events.iter().map(event).collect();
        let header = self.header.unwrap_or_default();
        // NB: this one is a struct of etcd's client and not the message: its names are Go's, its
        // zeros are printed.
        Object::default()
            .always("Header", Object::default().flat_header(&header).done())
            .always("Events", events)
            .always("CompactRevision", self.compact_revision)
            .always("Canceled", self.canceled)
            .always("Created", self.created)
            .always("CancelReason", self.cancel_reason.as_str())
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}
