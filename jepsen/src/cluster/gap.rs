//! How long nobody can write after `kill -9` of the leader, and whether anything acknowledged is lost.
//!
//! Writers on the two survivors put as fast as they can, each put under a key of its own, with a short deadline
//! and never sent again; the gap is the longest time between two answered puts around the kill. Before the next
//! round every member, the killed one as well, must hold every key whose put was answered.
//!
//! Servers that are compared take turns, each with a cluster that stays for all rounds, and the first of them
//! changes from round to round: a slow minute of the machine hits all.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use mainstay::proto::etcdserverpb::{self as pb, kv_client::KvClient};

use super::members::{MEMBERS, Members};

/// How long a put is waited for.
const DEADLINE: Duration = Duration::from_millis(100);
/// Writers at each survivor.
const WRITERS: usize = 4;

/// What was measured with one kind of server.
pub struct Gaps {
    /// The server's binary.
    pub binary: String,
    /// One gap a round, in the order of the rounds.
    pub gaps: Vec<Duration>,
    /// Puts answered in all rounds.
    pub acknowledged: usize,
    /// Answered puts that a member did not hold afterwards, and which member.
    pub lost: Vec<String>,
}

impl Gaps {
    /// The gap in the middle.
    pub fn median(&self) -> Duration {
        let mut sorted = self.gaps.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Kills the leaders of clusters of the given servers `rounds` times, in turns.
pub async fn measure(
    binaries: &[&Path],
    certs: &Path,
    directory: &Path,
    rounds: usize,
) -> Result<Vec<Gaps>> {
    let mut clusters = Vec::new();
    for (place, binary) in binaries.iter().enumerate() {
        let members = Members::start(binary, certs, &directory.join(place.to_string())).await?;
        let gaps = Gaps {
            binary: binary.display().to_string(),
            gaps: Vec::new(),
            acknowledged: 0,
            lost: Vec::new(),
        };
        clusters.push((members, gaps));
    }
    for round in 0..rounds {
        let first = round % clusters.len();
        clusters.rotate_left(first);
        for (members, gaps) in &mut clusters {
            once(members, gaps, round)
                .await
                .with_context(|| format!("{}, round {}", gaps.binary, round + 1))?;
        }
        clusters.rotate_right(first);
    }
    Ok(clusters.into_iter().map(|(_, gaps)| gaps).collect())
}

/// The puts that were answered, with the time of each answer.
type Answered = Arc<Mutex<Vec<(Instant, Bytes)>>>;

async fn once(members: &mut Members, gaps: &mut Gaps, round: usize) -> Result<()> {
    members.wait(Duration::from_secs(30)).await?;
    // All are connected and level before the blow.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let leader = members.leader().await.context("no leader")?;
    let answered = Answered::default();
    let mut writers = Vec::new();
    for place in (0..MEMBERS).filter(|place| *place != leader) {
        let channel = members.plans[place].endpoint.connect(Duration::from_secs(5)).await?;
        for writer in 0..WRITERS {
            let name = format!("gap/{round:03}/{place}/{writer}");
            writers.push(tokio::spawn(write(
                KvClient::new(channel.clone()),
                name,
                answered.clone(),
            )));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = Instant::now();
    members.kill(leader);
    tokio::time::sleep(Duration::from_secs(6)).await;
    writers.iter().for_each(|writer| writer.abort());
    members.restart(leader)?;
    let answered = std::mem::take(&mut *answered.lock().unwrap_or_else(PoisonError::into_inner));
    gaps.gaps.push(gap(&answered, killed)?);
    gaps.acknowledged += answered.len();
    members.wait(Duration::from_secs(30)).await?;
    let wanted: BTreeSet<Bytes> = answered.into_iter().map(|(_, key)| key).collect();
    for place in 0..MEMBERS {
        let held = held(members, place, round).await?;
        let lost = wanted.difference(&held);
        gaps.lost
            .extend(lost.map(|key| format!("{} at m{}", String::from_utf8_lossy(key), place + 1)));
    }
    Ok(())
}

/// Puts one key after the other until it is aborted.
async fn write(kv: KvClient<crate::channel::Channel>, name: String, answered: Answered) {
    for number in 0_u64.. {
        let key = Bytes::from(format!("{name}/{number}"));
        let put = pb::PutRequest { key: key.clone(), value: "x".into(), ..Default::default() };
        let mut kv = kv.clone();
        match tokio::time::timeout(DEADLINE, kv.put(put)).await {
            Ok(Ok(_)) => {
                answered.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), key));
            }
            // A refusal comes at once; asking again at once would only load the machine.
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// The longest time between two answers that ends after the kill.
fn gap(answered: &[(Instant, Bytes)], killed: Instant) -> Result<Duration> {
    let times = answered.iter().map(|(time, _)| *time);
    let pairs = times.clone().zip(times.skip(1));
    let gap = pairs.filter(|(_, later)| *later > killed).map(|(one, other)| other - one).max();
    let resumed = answered.last().is_some_and(|(last, _)| *last > killed + DEADLINE);
    gap.filter(|_| resumed).context("no write was answered in the 6 s after the leader's death")
}

/// The keys of a round that a member holds.
async fn held(members: &Members, place: usize, round: usize) -> Result<BTreeSet<Bytes>> {
    let channel = members.plans[place].endpoint.connect(Duration::from_secs(5)).await?;
    let range = pb::RangeRequest {
        key: format!("gap/{round:03}/").into(),
        range_end: format!("gap/{round:03}0").into(),
        keys_only: true,
        ..Default::default()
    };
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    let answer = kv.range(range).await?.into_inner();
    Ok(answer.kvs.into_iter().map(|kv| kv.key).collect())
}
