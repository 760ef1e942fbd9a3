//! One line an endpoint: health, status, hash.

use serde_json::Value;

use super::{Lines, Object, Show, Style, quote};
use crate::ctl::text::{size, table};
use crate::proto::etcdserverpb::{HashKvResponse, StatusResponse};

/// How an endpoint took a proposal.
pub(crate) struct Health {
    pub endpoint: String,
    pub healthy: bool,
    pub took: String,
    pub error: String,
}

impl Show for Vec<Health> {
    /// The healthy ones only: the others are errors and go where errors go.
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let line = |it: &Health| {
            format!(
                "{} is healthy: successfully committed proposal: took = {}\n",
                it.endpoint, it.took
            )
        };
        self.iter().filter(|it| it.healthy).map(line).collect::<String>().into_bytes()
    }

    fn fields(&self, _style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        for it in self {
            lines
                .put("Endpoint", quote(it.endpoint.as_bytes()))
                .put("Health", it.healthy)
                .put("Took", &it.took)
                .put("Error", &it.error)
                .blank();
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let one = |it: &Health| {
            Object::default()
                .always("endpoint", it.endpoint.as_str())
                .always("health", it.healthy)
                .always("took", it.took.as_str())
                .text("error", &it.error)
                .done()
        };
        self.iter().map(one).collect()
    }

    fn table(&self) -> Option<String> {
        let row = |it: &Health| {
            vec![it.endpoint.clone(), it.healthy.to_string(), it.took.clone(), it.error.clone()]
        };
        let rows: Vec<_> = self.iter().map(row).collect();
        Some(table(&["endpoint", "health", "took", "error"], &rows))
    }
}

/// What a member says about itself.
pub(crate) struct EndpointStatus {
    pub endpoint: String,
    pub status: StatusResponse,
}

const STATUS_HEADS: [&str; 16] = [
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];

impl EndpointStatus {
    fn member(&self) -> u64 {
        self.status.header.as_ref().map_or(0, |header| header.member_id)
    }

    fn row(&self) -> Vec<String> {
        let it = &self.status;
        let bytes = |value: i64| size(u64::try_from(value).unwrap_or(0));
        // In whole numbers: what is in use is rounded down, so what is not is rounded up.
        let unused = match it.db_size {
            0 => 0,
            all => 100 - it.db_size_in_use.saturating_mul(100) / all,
        };
        let downgrade = it.downgrade_info.clone().unwrap_or_default();
        vec![
            self.endpoint.clone(),
            format!("{:x}", self.member()),
            it.version.clone(),
            it.storage_version.clone(),
            bytes(it.db_size),
            bytes(it.db_size_in_use),
            format!("{unused}%"),
            bytes(it.db_size_quota),
            (it.leader == self.member()).to_string(),
            it.is_learner.to_string(),
            it.raft_term.to_string(),
            it.raft_index.to_string(),
            it.raft_applied_index.to_string(),
            it.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    }
}

impl Show for Vec<EndpointStatus> {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let line = |it: &EndpointStatus| format!("{}\n", it.row().join(", "));
        self.iter().map(line).collect::<String>().into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        for EndpointStatus { endpoint, status } in self {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            lines
                .header(status.header.as_ref(), style)
                .put("Version", quote(status.version.as_bytes()))
                .put("StorageVersion", quote(status.storage_version.as_bytes()))
                .put("DBSize", status.db_size)
                .put("DBSizeInUse", status.db_size_in_use)
                .put("DBSizeQuota", status.db_size_quota)
                .put("Leader", status.leader)
                .put("IsLearner", status.is_learner)
                .put("RaftIndex", status.raft_index)
                .put("RaftTerm", status.raft_term)
                .put("RaftAppliedIndex", status.raft_applied_index)
                .put("Errors", format!("[{}]", status.errors.join(" ")))
                .put("Endpoint", quote(endpoint.as_bytes()))
                .put("DowngradeTargetVersion", quote(downgrade.target_version.as_bytes()))
                .put("DowngradeEnabled", downgrade.enabled)
                .blank();
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let one = |EndpointStatus { endpoint, status }: &EndpointStatus| {
            let errors = status.errors.iter().map(|it| it.as_str().into()).collect();
            let downgrade = status.downgrade_info.as_ref().map(|it| {
                Object::default()
                    .flag("enabled", it.enabled)
                    .text("targetVersion", &it.target_version)
                    .done()
            });
            let status = Object::default()
                .header(status.header.as_ref())
                .text("version", &status.version)
                .number("dbSize", status.db_size)
                .number("leader", status.leader)
                .number("raftIndex", status.raft_index)
                .number("raftTerm", status.raft_term)
                .number("raftAppliedIndex", status.raft_applied_index)
                .list("errors", errors)
                .number("dbSizeInUse", status.db_size_in_use)
                .flag("isLearner", status.is_learner)
                .text("storageVersion", &status.storage_version)
                .number("dbSizeQuota", status.db_size_quota)
                .maybe("downgradeInfo", downgrade)
                .done();
            Object::default().always("Endpoint", endpoint.as_str()).always("Status", status).done()
        };
        self.iter().map(one).collect()
    }

    fn table(&self) -> Option<String> {
        Some(table(&STATUS_HEADS, &self.iter().map(EndpointStatus::row).collect::<Vec<_>>()))
    }
}

/// The hash of a member's keys.
pub(crate) struct EndpointHash {
    pub endpoint: String,
    pub hash: HashKvResponse,
}

impl EndpointHash {
    fn row(&self) -> Vec<String> {
        vec![self.endpoint.clone(), self.hash.hash.to_string(), self.hash.hash_revision.to_string()]
    }
}

impl Show for Vec<EndpointHash> {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let line = |it: &EndpointHash| format!("{}\n", it.row().join(", "));
        self.iter().map(line).collect::<String>().into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        for EndpointHash { endpoint, hash } in self {
            lines
                .header(hash.header.as_ref(), style)
                .put("Endpoint", quote(endpoint.as_bytes()))
                .put("Hash", hash.hash)
                .put("HashRevision", hash.hash_revision)
                .blank();
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let one = |EndpointHash { endpoint, hash }: &EndpointHash| {
            let hash = Object::default()
                .header(hash.header.as_ref())
                .number("hash", hash.hash)
                .number("compact_revision", hash.compact_revision)
                .number("hash_revision", hash.hash_revision)
                .done();
            Object::default().always("Endpoint", endpoint.as_str()).always("HashKV", hash).done()
        };
        self.iter().map(one).collect()
    }

    fn table(&self) -> Option<String> {
        let rows: Vec<_> = self.iter().map(EndpointHash::row).collect();
        Some(table(&["endpoint", "hash", "hash_revision"], &rows))
    }
}
