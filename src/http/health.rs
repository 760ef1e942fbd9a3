//! `/health`, `/livez`, `/readyz`: etcd's probes, with its texts.

use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tracing::error;

use super::only_get;
use crate::api::status;
use crate::command::{KeyRange, Range};
use crate::proto::etcdserverpb::AlarmType;
use crate::server::Handle;

/// Finds all values of a query parameter. Probes send plain words: nothing here is percent-encoded.
fn values<'q>(query: Option<&'q str>, name: &str) -> Vec<&'q str> {
    query
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
        .collect()
}

async fn read_one_key(handle: &Handle, serializable: bool) -> Result<(), String> {
    if !serializable {
        handle.read_barrier().await.map_err(|e| status::status(&e).message().to_owned())?;
    }
    let range = Range { limit: 1, ..Range::newest(KeyRange::One(Bytes::from_static(b"a"))) };
    handle
        .reader()
        .store()
        .range(&range)
        .map(drop)
        .map_err(|r| status::refused(&r).message().to_owned())
}

pub(super) async fn health(
    State(handle): State<Handle>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    if let Some(refused) = only_get(&method) {
        return refused;
    }
    let query = query.as_deref();
    let serializable = values(query, "serializable").contains(&"true");
    let reason = unhealthy(&handle, serializable, &values(query, "exclude")).await;
    let [well, ill] = &handle.metrics().health;
    (if reason.is_none() { well } else { ill }).inc();
    match reason {
        None => text(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
        Some(reason) => {
            let body = serde_json::json!({ "health": "false", "reason": reason });
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
        }
    }
}

async fn unhealthy(handle: &Handle, serializable: bool, exclude: &[&str]) -> Option<String> {
    for alarm in handle.reader().alarms() {
        let name = match AlarmType::try_from(alarm.kind) {
            Ok(AlarmType::Nospace) => "NOSPACE",
            Ok(AlarmType::Corrupt) => "CORRUPT",
            _ => "UNKNOWN",
        };
        if !exclude.contains(&name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && handle.status().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    match read_one_key(handle, serializable).await {
        Ok(()) => None,
        Err(error) => Some(format!("RANGE ERROR:{error}")),
    }
}

fn text(status: StatusCode, body: String) -> Response {
    (
        status,
        [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        body,
    )
        .into_response()
}

#[derive(Clone, Copy)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[(&str, Check)] = &[("serializable_read", Check::SerializableRead)];
const READYZ: &[(&str, Check)] = &[
    ("data_corruption", Check::DataCorruption),
    ("serializable_read", Check::SerializableRead),
    ("linearizable_read", Check::LinearizableRead),
    ("non_learner", Check::NonLearner),
];

async fn run(handle: &Handle, check: Check) -> Result<(), String> {
    match check {
        Check::DataCorruption => {
            let corrupt = AlarmType::Corrupt as i32;
            let alarmed = handle.reader().has_alarm(corrupt);
            if alarmed { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
        }
        Check::SerializableRead => read_one_key(handle, true).await,
        Check::LinearizableRead => read_one_key(handle, false).await,
        Check::NonLearner if handle.status().is_learner => {
            Err("not supported for learner".to_owned())
        }
        Check::NonLearner => Ok(()),
    }
}

async fn checks(
    handle: &Handle,
    path: &str,
    all: &[(&'static str, Check)],
    query: Option<&str>,
) -> Response {
    let exclude = values(query, "exclude");
    let verbose = !values(query, "verbose").is_empty();
    let (mut lines, mut failed) = (String::new(), false);
    for (name, check) in all {
        if exclude.contains(name) {
            continue;
        }
        match run(handle, *check).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                error!(path, check = name, reason, "Health check error");
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if failed {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n"))
    } else {
        text(StatusCode::OK, if verbose { format!("{lines}ok\n") } else { "ok\n".to_owned() })
    }
}

async fn one(
    handle: &Handle,
    path: &str,
    all: &[(&'static str, Check)],
    name: &str,
    query: Option<&str>,
) -> Response {
    match all.iter().find(|(known, _)| *known == name) {
        Some(check) => checks(handle, path, std::slice::from_ref(check), query).await,
        None => super::not_found().await,
    }
}

pub(super) async fn livez(
    State(handle): State<Handle>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Some(refused) => refused,
        None => checks(&handle, "/livez", LIVEZ, query.as_deref()).await,
    }
}

pub(super) async fn readyz(
    State(handle): State<Handle>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Some(refused) => refused,
        None => checks(&handle, "/readyz", READYZ, query.as_deref()).await,
    }
}

pub(super) async fn livez_one(
    State(handle): State<Handle>,
    method: Method,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Some(refused) => refused,
        None => one(&handle, "/livez", LIVEZ, &name, query.as_deref()).await,
    }
}

pub(super) async fn readyz_one(
    State(handle): State<Handle>,
    method: Method,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Some(refused) => refused,
        None => one(&handle, "/readyz", READYZ, &name, query.as_deref()).await,
    }
}
