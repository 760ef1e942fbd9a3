//! How long nobody can write after `kill -9` of the leader.
//!
//! Writers on the two survivors put as fast as they can, each put with a short deadline and never sent
//! again; the gap is the longest time between two answered puts around the kill.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mainstay::proto::etcdserverpb::{self as pb, kv_client::KvClient};

use super::members::{MEMBERS, Members};

/// Kills the leader of a fresh cluster `times` times; returns the gaps, sorted.
pub async fn measure(
    binary: &Path,
    certs: &Path,
    directory: &Path,
    times: usize,
) -> Result<Vec<Duration>> {
    let mut members = Members::start(binary, certs, directory).await?;
    let mut gaps = Vec::new();
    for _ in 0..times {
        members.wait(Duration::from_secs(30)).await?;
        // All are connected and level before the next blow.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let leader = members.leader().await.context("no leader")?;
        let answered = Arc::new(Mutex::new(Vec::new()));
        let mut writers = Vec::new();
        for place in (0..MEMBERS).filter(|place| *place != leader) {
            let channel = members.plans[place].endpoint.connect(Duration::from_secs(5)).await?;
            for writer in 0..4 {
                let (mut kv, answered) = (KvClient::new(channel.clone()), answered.clone());
                writers.push(tokio::spawn(async move {
                    loop {
                        let key = format!("gap/{place}/{writer}").into();
                        let put =
                            kv.put(pb::PutRequest { key, value: "x".into(), ..Default::default() });
                        match tokio::time::timeout(Duration::from_millis(100), put).await {
                            Ok(Ok(_)) => answered
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(Instant::now()),
                            // A refusal comes at once; asking again at once would only load the machine.
                            _ => tokio::time::sleep(Duration::from_millis(2)).await,
                        }
                    }
                }));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let killed = Instant::now();
        members.kill(leader);
        tokio::time::sleep(Duration::from_secs(6)).await;
        writers.iter().for_each(|writer| writer.abort());
        let answered =
            std::mem::take(&mut *answered.lock().unwrap_or_else(PoisonError::into_inner));
        let before = killed - Duration::from_millis(200);
        let gap =
            answered.windows(2).filter(|pair| pair[1] > before).map(|pair| pair[1] - pair[0]).max();
        gaps.push(
            gap.filter(|_| {
                answered.last().is_some_and(|last| *last > killed + Duration::from_millis(100))
            })
            .context("no write was answered in the 6 s after the leader's death")?,
        );
        members.restart(leader)?;
    }
    gaps.sort_unstable();
    Ok(gaps)
}
