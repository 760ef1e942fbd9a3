//! Three members over mTLS, from certificates made by `scripts/certs`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mainstay::proto::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};

use crate::channel::{Endpoint, mutual_tls};
use crate::process::{Plan, Process, flags, free_ports};

/// How many members there are.
pub const MEMBERS: usize = 3;

/// A cluster; members are named by their place, from 0.
pub struct Members {
    pub plans: Vec<Plan>,
    pub processes: Vec<Option<Process>>,
}

impl Members {
    /// Makes certificates with the script `certs`, starts the members and waits until they serve.
    pub async fn start(binary: &Path, certs: &Path, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let own = directory.join("certs");
        let made = std::process::Command::new(certs).arg(&own).output()?;
        ensure!(
            made.status.success(),
            "{}: {}",
            certs.display(),
            String::from_utf8_lossy(&made.stderr)
        );
        let file = |name: &str| own.join(name).display().to_string();
        let tls =
            mutual_tls(&own.join("ca.crt"), &own.join("client.crt"), &own.join("client.key"))?;
        let ports = free_ports(2 * MEMBERS)?;
        let peer = |i: usize| format!("https://127.0.0.1:{}", ports[MEMBERS + i]);
        let initial: Vec<_> = (0..MEMBERS).map(|i| format!("m{}={}", i + 1, peer(i))).collect();
        let mut plans = Vec::new();
        for (i, port) in ports.iter().take(MEMBERS).enumerate() {
            let data = directory.join(format!("m{}", i + 1));
            let client = format!("https://127.0.0.1:{port}");
            let mut arguments = flags(&[
                ("name", &format!("m{}", i + 1)),
                ("data-dir", &data.display().to_string()),
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer(i)),
                ("initial-advertise-peer-urls", &peer(i)),
                ("initial-cluster", &initial.join(",")),
                ("cert-file", &file("server.crt")),
                ("key-file", &file("server.key")),
                ("trusted-ca-file", &file("ca.crt")),
                ("peer-cert-file", &file("server.crt")),
                ("peer-key-file", &file("server.key")),
                ("peer-trusted-ca-file", &file("ca.crt")),
                ("log-level", "warn"),
            ]);
            arguments
                .extend(["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()]);
            plans.push(Plan {
                binary: binary.to_owned(),
                arguments,
                log: directory.join(format!("m{}.log", i + 1)),
                endpoint: Endpoint { address: format!("127.0.0.1:{port}"), tls: Some(tls.clone()) },
            });
        }
        let processes = plans.iter().map(|plan| plan.start().map(Some)).collect::<Result<_>>()?;
        let members = Self { plans, processes };
        members.wait(Duration::from_secs(30)).await?;
        Ok(members)
    }

    /// Waits until every member answers a linearizable read.
    pub async fn wait(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        for (plan, process) in self.plans.iter().zip(&self.processes) {
            while !plan.answers().await {
                let words = process.as_ref().map(Process::last_words).unwrap_or_default();
                ensure!(
                    Instant::now() < until,
                    "{} does not serve after {limit:?}:\n{words}",
                    plan.endpoint.address
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Which member leads, as far as one of the running ones knows.
    pub async fn leader(&self) -> Option<usize> {
        for place in (0..MEMBERS).filter(|place| self.processes[*place].is_some()) {
            if let Some(status) = status(&self.plans[place].endpoint).await
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                return Some(place);
            }
        }
        None
    }

    /// Kills a member without warning.
    pub fn kill(&mut self, place: usize) {
        self.processes[place] = None;
    }

    /// Starts a killed member on its data.
    pub fn restart(&mut self, place: usize) -> Result<()> {
        self.processes[place] = Some(self.plans[place].start()?);
        Ok(())
    }
}

async fn status(endpoint: &Endpoint) -> Option<pb::StatusResponse> {
    let limit = Duration::from_millis(500);
    let channel = endpoint.connect(limit).await.ok()?;
    let mut client = MaintenanceClient::new(channel);
    let answer = tokio::time::timeout(limit, client.status(pb::StatusRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner())
}
