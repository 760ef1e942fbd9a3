//! What is measured: a server by itself or three as a cluster, with a connection to it and the data it is given.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use mainstay::proto::etcdserverpb::{self as pb, kv_client::KvClient};

use super::load::each;
use crate::channel::Channel;
use crate::process::{Plan, Process, flags, free_ports};

/// One server, or a cluster of them, that is being measured.
pub struct Subject {
    /// The servers' processes.
    pub processes: Vec<Process>,
    /// How each was started; the first is where the load goes.
    pub plans: Vec<Plan>,
    channel: Channel,
    /// Room for files of the load's own.
    pub directory: PathBuf,
}

impl Subject {
    /// Starts one server.
    pub async fn single(binary: &Path, directory: &Path) -> Result<Self> {
        let plan = Plan::single(binary, directory, &quota())?;
        let (process, _) = plan.start_and_wait(Duration::from_secs(30)).await?;
        let channel = plan.endpoint.connect(Duration::from_secs(5)).await?;
        Ok(Self {
            processes: vec![process],
            plans: vec![plan],
            channel,
            directory: directory.to_owned(),
        })
    }

    /// Three members; the channel leads to the leader.
    pub async fn cluster(binary: &Path, directory: &Path) -> Result<Self> {
        let ports = free_ports(6)?;
        let peers: Vec<_> =
            (0..3).map(|i| format!("m{i}=http://127.0.0.1:{}", ports[3 + i])).collect();
        let (mut plans, mut processes) = (Vec::new(), Vec::new());
        for i in 0..3 {
            let own = directory.join(format!("m{i}"));
            std::fs::create_dir_all(&own)?;
            let client = format!("http://127.0.0.1:{}", ports[i]);
            let peer = format!("http://127.0.0.1:{}", ports[3 + i]);
            let mut plan = Plan::single(binary, &own, &[])?;
            plan.endpoint = crate::channel::Endpoint::clear(&client);
            plan.arguments = flags(&[
                ("name", &format!("m{i}")),
                ("data-dir", &own.join("data").display().to_string()),
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &peers.join(",")),
                ("log-level", "warn"),
            ]);
            plan.arguments.extend(quota());
            processes.push(plan.start()?);
            plans.push(plan);
        }
        let until = Instant::now() + Duration::from_secs(30);
        while !plans[0].answers().await {
            ensure!(
                Instant::now() < until,
                "no cluster after 30 s:\n{}",
                processes[0].last_words()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut leader = 0;
        for (place, plan) in plans.iter().enumerate() {
            let channel = plan.endpoint.connect(Duration::from_secs(5)).await?;
            let mut client = pb::maintenance_client::MaintenanceClient::new(channel);
            let status = client.status(pb::StatusRequest {}).await?.into_inner();
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                leader = place;
            }
        }
        // The load goes to the leader, as it does with a client that balances well.
        plans.swap(0, leader);
        let channel = plans[0].endpoint.connect(Duration::from_secs(5)).await?;
        Ok(Self { processes, plans, channel, directory: directory.to_owned() })
    }

    /// The processor time of all its processes so far.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }

    /// A client of the one connection.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// `host:port` of where the load goes.
    pub fn address(&self) -> &str {
        &self.plans[0].endpoint.address
    }

    /// The store's revision.
    pub async fn revision(&self) -> Result<i64> {
        let answer = self.kv().range(get("none", false)).await?.into_inner();
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Writes `count` keys with 24 bytes each, in txns of 100.
    pub async fn fill(&self, prefix: &'static str, count: u64) -> Result<()> {
        let kv = self.kv();
        each(count / 100, 16, move |hundred| {
            let mut kv = kv.clone();
            let puts = (0..100).map(|place| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put(list_key(
                    prefix,
                    hundred * 100 + place,
                )))),
            });
            let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
            async move { kv.txn(txn).await.map(drop) }
        })
        .await
    }
}

/// Both have room for all that is written here.
fn quota() -> Vec<String> {
    flags(&[("quota-backend-bytes", "8589934592")])
}

/// A read of one key.
pub fn get(key: impl Into<Bytes>, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), serializable, ..Default::default() }
}

/// A put of a value of 24 bytes.
pub fn put(key: String) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: Bytes::from_static(b"twenty-four bytes long.."),
        ..Default::default()
    }
}

/// A key of 37 bytes. Their order has nothing to do with the order they are written in.
pub fn list_key(prefix: &str, number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    format!("/registry/{prefix}/{mixed:016x}{}", "0".repeat(10 - prefix.len()))
}
