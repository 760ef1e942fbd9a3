//! `/metrics`: what a member knows about itself, in Prometheus' text format under etcd's names.
//!
//! Counters and histograms are [`Metrics`]'; all else is read when asked for. Names, types, labels and
//! buckets are etcd's, oddities included (several `_total` are gauges). Names that are not here are
//! absent rather than zero: a made-up zero would hide an alert. That is so for what Mainstay has no
//! counterpart of: Go's own figures, etcd's old store, its proxy, the parts of a bbolt commit, `.snap`
//! files. `jepsen/interop/metrics.sh` holds the page against a running etcd's.

use std::fmt::{Display, Write};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api::maintenance::SERVER_VERSION;
use crate::command::{KeyRange, Range};
use crate::metrics::{CODES, Counter, Histogram, Metrics, PeerFigures};
use crate::raft::Role;
use crate::server::{Handle, NodeStatus};
use crate::types::NodeId;

/// The page as it grows.
#[derive(Default)]
struct Page(String);

type Labels<'l> = &'l [(&'l str, &'l str)];

impl Page {
    /// Begins a name: its samples follow.
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (i, (label, value)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.put(format_args!("{open}{label}=\"{value}\""));
        }
        self.line(format_args!("{} {value}", if labels.is_empty() { "" } else { "}" }));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to memory does not fail");
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.put(text);
        self.0.push('\n');
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A gauge of 1 that is there for its label.
    fn fact(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.begin(name, "gauge", help);
        self.sample(name, &[(label, value)], 1);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.begin(name, "histogram", help);
        self.spread(name, &[], histogram);
    }

    /// The samples of one histogram.
    fn spread(&mut self, name: &str, labels: Labels<'_>, histogram: &Histogram) {
        let (below, count, sum) = histogram.read();
        let mut bucket = |bound: &str, count: u64| {
            let labels = [labels, &[("le", bound)]].concat();
            self.sample(&format!("{name}_bucket"), &labels, count);
        };
        for (bound, count) in below {
            bucket(&seconds(bound).to_string(), count);
        }
        bucket("+Inf", count);
        self.sample(&format!("{name}_sum"), labels, seconds(sum));
        self.sample(&format!("{name}_count"), labels, count);
    }
}

fn seconds(d: Duration) -> f64 {
    d.as_secs_f64()
}

pub(super) async fn metrics(State(handle): State<Handle>) -> Response {
    let mut page = Page::default();
    let metrics = handle.metrics();
    server(&mut page, &handle, &handle.status());
    facts(&mut page, &handle);
    disk(&mut page, &handle);
    store(&mut page, &handle);
    leases(&mut page, metrics);
    network(&mut page, &handle);
    grpc(&mut page, metrics);
    process(&mut page, &handle);
    let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    ([(header::CONTENT_TYPE, kind)], page.0).into_response()
}

fn server(page: &mut Page, handle: &Handle, status: &NodeStatus) {
    let metrics = handle.metrics();
    let has_leader = u8::from(status.leader.is_some());
    page.gauge("etcd_server_has_leader", "1 if a leader is known.", has_leader);
    let leads = u8::from(status.role == Role::Leader);
    page.gauge("etcd_server_is_leader", "1 if this member leads.", leads);
    let is_learner = u8::from(status.is_learner);
    page.gauge("etcd_server_is_learner", "1 if this member has no vote.", is_learner);
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Changes of leader seen since the start.",
        status.leader_changes,
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The last index known to be committed.",
        status.commit.0,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The last index applied.",
        status.applied.index.0,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "Proposals of clients that wait for their outcome.",
        metrics.proposals_pending.get(),
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "Proposals that were not taken, or got no outcome in time.",
        metrics.proposals_failed.get(),
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "Questions for a read index that failed.",
        metrics.reads_failed.get(),
    );
    let [well, ill] = &metrics.health;
    page.counter("etcd_server_health_success", "Probes of /health that succeeded.", well.get());
    page.counter("etcd_server_health_failures", "Probes of /health that failed.", ill.get());
    let quota = handle.limits().quota_bytes.unwrap_or(0);
    page.gauge("etcd_server_quota_backend_bytes", "The store's quota in bytes.", quota);
}

fn facts(page: &mut Page, handle: &Handle) {
    page.fact("etcd_server_version", "The server's version.", "server_version", SERVER_VERSION);
    page.fact("etcd_server_id", "The member's id.", "server_id", &hex(handle.id()));
    if let Some(version) = handle.reader().members().version() {
        let full = version.to_string();
        let short = full.rsplit_once('.').map_or(full.as_str(), |(short, _)| short);
        page.fact("etcd_cluster_version", "The cluster's version.", "cluster_version", short);
    }
}

fn disk(page: &mut Page, handle: &Handle) {
    let metrics = handle.metrics();
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "How long it takes to write and sync a batch of the log.",
        &metrics.log_sync,
    );
    page.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Bytes of entries written to the log.",
        metrics.log_bytes.get(),
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "How long it takes to bring a batch of the store to its file.",
        &metrics.store_commit,
    );
    if let Some(free) = handle.room().free_bytes() {
        page.gauge("mainstay_disk_free_bytes", "Bytes free for log and store.", free);
        let short = u8::from(handle.room().is_short());
        page.gauge("mainstay_disk_short", "1 if the disk is nearly full.", short);
    }
}

fn store(page: &mut Page, handle: &Handle) {
    let (metrics, store) = (handle.metrics(), handle.reader().store());
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Size of the store's file in bytes.",
        store.storage().file_bytes(),
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of the store's file that are in use.",
        store.storage().used_bytes(),
    );
    page.counter("etcd_mvcc_put_total", "Puts applied.", metrics.puts.get());
    page.counter("etcd_mvcc_delete_total", "Deletes applied.", metrics.deletes.get());
    let help = "Transactions of more than one operation applied.";
    page.counter("etcd_mvcc_txn_total", help, metrics.txns.get());
    page.counter("etcd_mvcc_range_total", "Ranges read.", metrics.ranges.get());
    let revision = store.revision().0;
    page.gauge("etcd_debugging_mvcc_current_revision", "The revision.", revision);
    let compacted = store.compact_revision().map_or(-1, |revision| revision.0);
    page.gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision.", compacted);
    let all = Range { count_only: true, ..Range::newest(KeyRange::all()) };
    if let Ok(all) = store.range(&all) {
        page.gauge("etcd_debugging_mvcc_keys_total", "Keys.", all.count);
    }
    page.gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of keys and values put.",
        metrics.put_bytes.get(),
    );
    let events = metrics.events.get();
    page.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.", events);
    let watches = {
        let hub = handle.hub().lock().expect("a panic with this lock held ends the process");
        hub.counts()
    };
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watches.", watches.streams);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", watches.watchers);
    let help = "Watchers that are behind.";
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", help, watches.behind);
}

fn leases(page: &mut Page, metrics: &Metrics) {
    let mut counter = |name: &str, help: &str, counter: &Counter| {
        page.counter(&format!("etcd_debugging_{name}_total"), help, counter.get());
    };
    counter("lease_granted", "Leases granted.", &metrics.leases_granted);
    counter("lease_revoked", "Leases that ended.", &metrics.leases_revoked);
    counter("lease_renewed", "Leases renewed by this member.", &metrics.leases_renewed);
    counter("server_lease_expired", "Leases that ended by their time.", &metrics.leases_expired);
}

fn network(page: &mut Page, handle: &Handle) {
    let metrics = handle.metrics();
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of messages received from clients.",
        metrics.calls.received_bytes.get(),
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes of messages sent to clients.",
        metrics.calls.sent_bytes.get(),
    );
    let own = hex(handle.id());
    pairs(
        page,
        ("etcd_network_known_peers", "gauge", "The members, this one included."),
        &own,
        handle.reader().members().members().map(|member| (member.id, 1)),
    );
    pairs(
        page,
        ("etcd_network_active_peers", "gauge", "Members that this one is connected to."),
        &own,
        handle.connected().into_keys().map(|id| (id, 1)),
    );
    let peers = metrics.peers();
    let broken = peers.iter().map(|(id, peer)| (*id, peer.disconnected.get()));
    pairs(
        page,
        ("etcd_network_disconnected_peers_total", "counter", "Connections to members that broke."),
        &own,
        broken.filter(|(_, n)| *n > 0),
    );
    let mut each = |name: &str, label: &str, help: &str, of: fn(&PeerFigures) -> &Counter| {
        let some = peers.iter().map(|(id, peer)| (hex(*id), of(peer).get()));
        let some: Vec<(String, u64)> = some.filter(|(_, n)| *n > 0).collect();
        if !some.is_empty() {
            page.begin(name, "counter", help);
        }
        some.iter().for_each(|(id, n)| page.sample(name, &[(label, id.as_str())], n));
    };
    let sent = "Bytes of messages sent to members.";
    each("etcd_network_peer_sent_bytes_total", "To", sent, |peer| &peer.sent_bytes);
    let received = "Bytes of messages received from members.";
    each("etcd_network_peer_received_bytes_total", "From", received, |peer| &peer.received_bytes);
    let failed = "Messages to members that could not be sent.";
    each("etcd_network_peer_sent_failures_total", "To", failed, |peer| &peer.sent_failures);
    let taken = "Snapshots that members took.";
    each("etcd_network_snapshot_send_success", "To", taken, |peer| &peer.snapshots[0]);
    let refused = "Snapshots that members did not take.";
    each("etcd_network_snapshot_send_failures", "To", refused, |peer| &peer.snapshots[1]);
    let name = "etcd_network_peer_round_trip_time_seconds";
    let timed: Vec<_> = peers.iter().filter(|(_, peer)| peer.round_trip.read().1 > 0).collect();
    if !timed.is_empty() {
        page.begin(name, "histogram", "How long members take to answer.");
    }
    timed.iter().for_each(|(id, peer)| page.spread(name, &[("To", &hex(*id))], &peer.round_trip));
}

/// Samples of pairs of members, if there are any.
fn pairs(
    page: &mut Page,
    (name, kind, help): (&str, &str, &str),
    own: &str,
    samples: impl Iterator<Item = (NodeId, u64)>,
) {
    let mut samples = samples.peekable();
    if samples.peek().is_some() {
        page.begin(name, kind, help);
    }
    samples.for_each(|(id, n)| page.sample(name, &[("Local", own), ("Remote", &hex(id))], n));
}

fn grpc(page: &mut Page, metrics: &Metrics) {
    let methods = metrics.calls.methods();
    let name = "grpc_server_handled_total";
    page.begin(name, "counter", "Calls that ended, by code, however they did.");
    for method in methods {
        for (code, n) in CODES.iter().zip(&method.handled) {
            let labels = [
                ("grpc_code", *code),
                ("grpc_method", method.name),
                ("grpc_service", method.service),
                ("grpc_type", method.streams.label()),
            ];
            page.sample(name, &labels, n.get());
        }
    }
    let mut each = |name: &str, help: &str, of: fn(&crate::metrics::Method) -> &Counter| {
        page.begin(name, "counter", help);
        methods.iter().for_each(|method| page.sample(name, &labels(method), of(method).get()));
    };
    each("grpc_server_msg_received_total", "Messages received.", |method| &method.received);
    each("grpc_server_msg_sent_total", "Messages sent.", |method| &method.sent);
    each("grpc_server_started_total", "Calls that began.", |method| &method.started);
    let timed = methods.iter().filter_map(|method| Some((method, method.seconds.as_ref()?)));
    let mut timed = timed.filter(|(_, seconds)| seconds.read().1 > 0).peekable();
    let name = "grpc_server_handling_seconds";
    if timed.peek().is_some() {
        page.begin(name, "histogram", "How long calls took.");
    }
    timed.for_each(|(method, seconds)| page.spread(name, &labels(method), seconds));
}

fn labels(method: &crate::metrics::Method) -> [(&'static str, &'static str); 3] {
    [
        ("grpc_method", method.name),
        ("grpc_service", method.service),
        ("grpc_type", method.streams.label()),
    ]
}

fn process(page: &mut Page, handle: &Handle) {
    let Some(process) = handle.clock().process() else { return };
    let (open, most) = (process.descriptors, process.descriptors_max);
    page.gauge("os_fd_used", "Open descriptors.", open);
    page.gauge("os_fd_limit", "The most descriptors that may be open.", most);
    let cpu = seconds(process.cpu);
    page.counter("process_cpu_seconds_total", "Processor time used, in seconds.", cpu);
    page.gauge("process_max_fds", "The most descriptors that may be open.", most);
    let received = process.received_bytes;
    page.counter("process_network_receive_bytes_total", "Bytes received over IP.", received);
    let sent = process.sent_bytes;
    page.counter("process_network_transmit_bytes_total", "Bytes sent over IP.", sent);
    page.gauge("process_open_fds", "Open descriptors.", open);
    page.gauge("process_resident_memory_bytes", "Memory in use.", process.resident_bytes);
    let started = seconds(process.started);
    page.gauge("process_start_time_seconds", "When it began, since the Unix epoch.", started);
    page.gauge("process_virtual_memory_bytes", "Address space in use.", process.virtual_bytes);
    let most = process.virtual_bytes_max;
    page.gauge("process_virtual_memory_max_bytes", "The most of it that may be in use.", most);
}

fn hex(id: NodeId) -> String {
    format!("{:x}", id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Buckets;

    #[test]
    fn samples_are_written_in_prometheus_format() {
        let mut page = Page::default();
        page.fact("a", "A fact.", "l", "x\"y\\z\n");
        page.counter("b_total", "A count.", 7);
        let histogram = Histogram::new(Buckets::doubling(Duration::from_millis(1), 2));
        histogram.observe(Duration::from_micros(1500));
        page.histogram("c_seconds", "A spread.", &histogram);
        page.spread("d", &[("To", "2")], &histogram);
        let wanted = "# HELP a A fact.\n# TYPE a gauge\na{l=\"x\\\"y\\\\z\\n\"} 1\n\
            # HELP b_total A count.\n# TYPE b_total counter\nb_total 7\n\
            # HELP c_seconds A spread.\n# TYPE c_seconds histogram\n\
            c_seconds_bucket{le=\"0.001\"} 0\nc_seconds_bucket{le=\"0.002\"} 1\n\
            c_seconds_bucket{le=\"+Inf\"} 1\nc_seconds_sum 0.0015\nc_seconds_count 1\n\
            d_bucket{To=\"2\",le=\"0.001\"} 0\nd_bucket{To=\"2\",le=\"0.002\"} 1\n\
            d_bucket{To=\"2\",le=\"+Inf\"} 1\nd_sum{To=\"2\"} 0.0015\nd_count{To=\"2\"} 1\n";
        assert_eq!(page.0, wanted);
    }
}
