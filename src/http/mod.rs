//! The plain HTTP side of a port: health, version, metrics. What speaks gRPC goes elsewhere before it
//! gets here.
//!
//! Paths and texts are etcd's (they are probed by kubelets and load balancers): `/health`, `/livez`,
//! `/readyz` with their single checks, `/version`, `/metrics`. The JSON gateway has not landed; its
//! paths answer 404 like any unknown one.
//!
//! Invariant: a probe answers from the same paths that serve clients (a real range, a real read
//! barrier), so a member that cannot serve is never reported healthy.

mod health;
pub mod metrics;

use axum::Router;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use crate::api::maintenance::SERVER_VERSION;
use crate::server::Handle;

/// Builds the routes of a client port (without gRPC) and of a metrics port alike.
pub fn routes(handle: Handle) -> Router {
    Router::new()
        .route("/health", any(health::health))
        .route("/livez", any(health::livez))
        .route("/livez/{check}", any(health::livez_one))
        .route("/readyz", any(health::readyz))
        .route("/readyz/{check}", any(health::readyz_one))
        .route("/version", any(version))
        .route("/metrics", any(metrics::metrics))
        .fallback(not_found)
        .with_state(handle)
}

/// Builds the routes of a peer port (beside the peer protocol).
pub fn peer_routes(handle: Handle) -> Router {
    Router::new()
        .route("/version", any(version))
        .route("/members", any(members))
        .fallback(not_found)
        .with_state(handle)
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], "404 page not found\n")
        .into_response()
}

/// Answers anything but GET as etcd's probes do.
fn only_get(method: &Method) -> Option<Response> {
    (method != Method::GET).then(|| {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")],
            "Method Not Allowed\n",
        )
            .into_response()
    })
}

async fn version(
    axum::extract::State(handle): axum::extract::State<Handle>,
    method: Method,
) -> Response {
    if let Some(refused) = only_get(&method) {
        return refused;
    }
    let known = handle.reader().members().version().map(|version| version.to_string());
    let text = serde_json::json!({
        "etcdserver": SERVER_VERSION,
        "etcdcluster": known.as_deref().unwrap_or("not_decided"),
        "storage": known.as_deref().unwrap_or("unknown"),
    });
    ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

/// Lists the members for one that joins; ids are plain numbers, as in etcd.
async fn members(
    axum::extract::State(handle): axum::extract::State<Handle>,
    method: Method,
) -> Response {
    if let Some(refused) = only_get(&method) {
        return refused;
    }
    let members: Vec<String> =
        handle.reader().members().members().map(|member| member.to_json()).collect();
    (
        [
            (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
            ("X-Etcd-Cluster-ID", format!("{:x}", handle.cluster_id().0)),
        ],
        format!("[{}]\n", members.join(",")),
    )
        .into_response()
}
