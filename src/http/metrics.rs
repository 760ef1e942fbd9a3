//! `/metrics`: what a member knows about itself, in Prometheus' text format under etcd's names.
//!
//! Values are read when asked for; nothing is counted on the hot path for their sake. Names that are not
//! here yet are absent rather than zero: a made-up zero would hide an alert.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus::{Encoder, Gauge, GaugeVec, Opts, Registry, TextEncoder};

use crate::api::maintenance::SERVER_VERSION;
use crate::raft::Role;
use crate::server::Handle;

struct Page {
    registry: Registry,
}

impl Page {
    fn gauge(&self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::new(name, help).expect("the name is well-formed");
        gauge.set(value);
        self.registry.register(Box::new(gauge)).expect("each name stands here once");
    }

    fn label(&self, name: &str, help: &str, label: &str, value: &str) {
        let opts = Opts::new(name, help);
        let gauge = GaugeVec::new(opts, &[label]).expect("the name is well-formed");
        gauge.with_label_values(&[value]).set(1.0);
        self.registry.register(Box::new(gauge)).expect("each name stands here once");
    }

    /// A counter whose value is kept elsewhere: the text says so, the number is copied.
    fn counter(&self, name: &str, help: &str, value: f64) {
        let counter = prometheus::Counter::new(name, help).expect("the name is well-formed");
        counter.inc_by(value);
        self.registry.register(Box::new(counter)).expect("each name stands here once");
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn number(n: u64) -> f64 {
    n as f64
}

pub(super) async fn metrics(State(handle): State<Handle>) -> Response {
    let page = Page { registry: Registry::new() };
    let (status, reader) = (handle.status(), handle.reader());
    let yes = |is: bool| if is { 1.0 } else { 0.0 };
    page.gauge("etcd_server_has_leader", "1 if a leader is known.", yes(status.leader.is_some()));
    page.gauge(
        "etcd_server_is_leader",
        "1 if this member leads.",
        yes(status.role == Role::Leader),
    );
    page.gauge("etcd_server_is_learner", "1 if this member has no vote.", yes(status.is_learner));
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Changes of leader seen since the start.",
        number(status.leader_changes),
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The last index known to be committed.",
        number(status.commit.0),
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The last index applied.",
        number(status.applied.index.0),
    );
    let quota = handle.limits().quota_bytes.unwrap_or(0);
    page.gauge("etcd_server_quota_backend_bytes", "The store's quota in bytes.", number(quota));
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Size of the store's file in bytes.",
        number(reader.store().storage().file_bytes()),
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of the store's file that are in use.",
        number(reader.store().storage().used_bytes()),
    );
    let revision = u64::try_from(reader.store().revision().0).unwrap_or(0);
    page.gauge("etcd_debugging_mvcc_current_revision", "The revision.", number(revision));
    let compacted =
        reader.store().compact_revision().map_or(-1.0, |r| number(u64::try_from(r.0).unwrap_or(0)));
    page.gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision.", compacted);
    page.label("etcd_server_version", "The server's version.", "server_version", SERVER_VERSION);
    let id = format!("{:x}", handle.id().0);
    page.label("etcd_server_id", "The member's id.", "server_id", &id);
    if let Some(version) = reader.members().version() {
        let short = version.to_string();
        let short = short.rsplit_once('.').map_or(short.as_str(), |(short, _)| short);
        page.label("etcd_cluster_version", "The cluster's version.", "cluster_version", short);
    }
    let mut body = Vec::new();
    TextEncoder::new()
        .encode(&page.registry.gather(), &mut body)
        .expect("writing to memory does not fail");
    let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
