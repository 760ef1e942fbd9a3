//! A cluster under faults: three real members over mTLS, ten clients on registers and a set, watchers of
//! everything, while members are killed (`kill -9`) and stopped (SIGSTOP) at random; then the history is judged.
//!
//! At the end all members are healed, must serve again, and must agree: on every key and on the hash of the
//! store. Whatever was acknowledged must be there; the checkers of the crate `checker` decide that and more.
//!
//! Left out: partitions, slow and lying disks, clocks. The simulator has them; here the kernel is real.

mod client;
mod gap;
mod members;
mod watcher;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use checker::history::{self, What};
use checker::op::{self, Operation};
use checker::verdict::FinalState;
use mainstay::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use client::{Client, Recorder, key_value, whole_set};
use members::{MEMBERS, Members};

/// The flags of `jepsen cluster`.
#[derive(clap::Args)]
pub struct Options {
    /// The server under test.
    #[arg(long, default_value = "target/release/mainstay")]
    server: PathBuf,
    /// An etcd whose write gap after a leader's death is measured in the same run.
    #[arg(long)]
    compare_etcd: Option<PathBuf>,
    /// The script that makes certificates in a directory.
    #[arg(long, default_value = "scripts/certs")]
    certs: PathBuf,
    /// How long the faults last; 0 leaves them out.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The number of clients.
    #[arg(long, default_value_t = 10)]
    clients: u64,
    /// The seed of requests and faults; the processes' timing is their own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the leader is killed to measure the gap; 0 leaves that out.
    #[arg(long, default_value_t = 5)]
    gaps: usize,
    /// Where the history is written.
    #[arg(long, default_value = "target/jepsen/history.jsonl")]
    history: PathBuf,
}

/// Runs the test. True if nothing was wrong.
pub async fn run(options: Options) -> Result<bool> {
    let directory = tempfile::tempdir()?;
    let certs = options.certs.canonicalize().context("scripts/certs")?;
    let mut good = true;
    if options.seconds > 0 {
        good = faults(&options, &certs, &directory.path().join("faults")).await?;
    }
    if options.gaps > 0 {
        good &= gaps(&options, &certs, &directory.path().join("gap")).await?;
    }
    Ok(good)
}

/// Measures the write gap and prints it. True if no acknowledged write was lost by the server under test.
async fn gaps(options: &Options, certs: &Path, directory: &Path) -> Result<bool> {
    let binaries: Vec<&Path> = [Some(&options.server), options.compare_etcd.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| &**path)
        .collect();
    println!(
        "write gap after kill -9 of the leader under load, three members over mTLS, {} rounds{}:",
        options.gaps,
        if binaries.len() > 1 { " in turns" } else { "" }
    );
    let measured = gap::measure(&binaries, certs, directory, options.gaps).await?;
    for one in &measured {
        let gaps: Vec<_> =
            one.gaps.iter().map(|gap| format!("{:.0}", gap.as_secs_f64() * 1e3)).collect();
        println!(
            "{}: median {:.0} ms (rounds: {}); {} acknowledged writes, {} lost",
            one.binary,
            one.median().as_secs_f64() * 1e3,
            gaps.join(", "),
            one.acknowledged,
            one.lost.len()
        );
        one.lost.iter().take(10).for_each(|lost| println!("  LOST {lost}"));
    }
    if let [ours, theirs] = &measured[..] {
        let ratio = theirs.median().as_secs_f64() / ours.median().as_secs_f64().max(1e-9);
        println!("etcd's gap is {ratio:.1} times ours");
    }
    Ok(measured[0].lost.is_empty())
}

async fn faults(options: &Options, certs: &Path, directory: &Path) -> Result<bool> {
    let mut members = Members::start(&options.server, certs, directory).await?;
    let endpoints: Vec<_> = members.plans.iter().map(|plan| plan.endpoint.clone()).collect();
    let recorder = Recorder::new();
    let until = Instant::now() + Duration::from_secs(options.seconds);
    println!(
        "three members over mTLS, {} clients, {} s of faults, seed {}",
        options.clients, options.seconds, options.seed
    );
    let clients: Vec<_> = (0..options.clients)
        .map(|process| Client::new(process, endpoints.clone(), options.seed, recorder.clone()))
        .map(|client| tokio::spawn(client.work(until)))
        .collect();
    let (finish, last) = tokio::sync::watch::channel(0);
    let watchers: Vec<_> = (0..MEMBERS as u64)
        .map(|place| {
            watcher::watch(1_000 + place, endpoints.clone(), recorder.clone(), last.clone())
        })
        .map(tokio::spawn)
        .collect();

    let (kills, stops) = nemesis(&mut members, until, options.seed).await?;
    for client in clients {
        client.await?;
    }

    // Healed: everybody serves, and a last write goes through each member.
    let healed = Instant::now();
    members.wait(Duration::from_secs(60)).await.context("after the faults")?;
    println!(
        "all serve {:.1} s after the last fault; {kills} kills, {stops} stops",
        healed.elapsed().as_secs_f64()
    );
    let mut closing = Client::new(999, endpoints.clone(), options.seed, recorder.clone());
    for member in 0..MEMBERS {
        closing.pin(member);
        let put = Operation::Put(op::Put {
            key: "closing".into(),
            value: format!("{member}").into(),
            ..Default::default()
        });
        ensure!(closing.run(put).await, "member {} takes no write after the faults", member + 1);
        closing.pin(member);
        ensure!(
            closing.run(whole_set()).await,
            "member {} gives no answer after the faults",
            member + 1
        );
    }
    let final_states = final_states(&members).await?;
    let revision = final_states.iter().map(|state| state.revision).max().unwrap_or(0);
    finish.send_replace(revision);
    for watcher in watchers {
        tokio::time::timeout(Duration::from_secs(30), watcher)
            .await
            .context("a watcher has not seen everything 30 s after the end")??;
    }

    let records = recorder.records();
    if let Some(parent) = options.history.parent() {
        std::fs::create_dir_all(parent)?;
    }
    history::write(BufWriter::new(File::create(&options.history)?), &records)?;
    let open = records.iter().filter(|record| matches!(record.what, What::Info(_))).count();
    println!(
        "{} records in {} ({open} writes of unknown outcome)",
        records.len(),
        options.history.display()
    );
    let judged = Instant::now();
    let verdict =
        checker::check(&records, &checker::Options { final_states, ..Default::default() });
    println!(
        "{verdict}\njudged in {:.1} s: {}",
        judged.elapsed().as_secs_f64(),
        if verdict.is_ok() { "nothing wrong" } else { "WRONG" }
    );
    Ok(verdict.is_ok())
}

/// Kills and stops members until `until`; leaves all of them running. Returns how often it did which.
async fn nemesis(members: &mut Members, until: Instant, seed: u64) -> Result<(u32, u32)> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut kills, mut stops) = (0, 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    while Instant::now() < until {
        // The leader more often than chance would have it. Now and then two at once: then nobody may write.
        let mut places: Vec<_> = (0..MEMBERS).collect();
        places.rotate_left(random.random_range(0..MEMBERS));
        if random.random_bool(0.5)
            && let Some(leader) = members.leader().await
        {
            places.retain(|place| *place != leader);
            places.insert(0, leader);
        }
        places.truncate(if random.random_bool(0.15) { 2 } else { 1 });
        let kill = random.random_bool(0.6);
        for place in &places {
            match &members.processes[*place] {
                _ if kill => members.kill(*place),
                Some(process) => process.signal(libc::SIGSTOP),
                None => {}
            }
        }
        (kills, stops) = if kill { (kills + 1, stops) } else { (kills, stops + 1) };
        tokio::time::sleep(Duration::from_millis(random.random_range(100..4_000))).await;
        for place in &places {
            match &mut members.processes[*place] {
                Some(process) => {
                    process.signal(libc::SIGCONT);
                    ensure!(
                        process.runs(),
                        "member {} ended by itself:\n{}",
                        place + 1,
                        process.last_words()
                    );
                }
                None => members.restart(*place)?,
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(200..4_000))).await;
        for (place, process) in members.processes.iter_mut().enumerate() {
            let process = process.as_mut().expect("all were started again");
            ensure!(
                process.runs(),
                "member {} ended by itself:\n{}",
                place + 1,
                process.last_words()
            );
        }
    }
    Ok((kills, stops))
}

/// What each member holds at the end, all at one revision.
async fn final_states(members: &Members) -> Result<Vec<FinalState>> {
    let mut states = Vec::new();
    let mut revision = 0;
    for (place, plan) in members.plans.iter().enumerate() {
        let channel = plan.endpoint.connect(Duration::from_secs(5)).await?;
        let all = pb::RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            revision,
            ..Default::default()
        };
        let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let range = kv.range(all).await?.into_inner();
        if revision == 0 {
            revision = range.header.map_or(0, |header| header.revision);
        }
        let hash = MaintenanceClient::new(channel)
            .hash_kv(pb::HashKvRequest { revision })
            .await?
            .into_inner();
        states.push(FinalState {
            node: place as u64 + 1,
            revision,
            compact_revision: hash.compact_revision,
            hash: Some(hash.hash),
            kvs: Some(range.kvs.into_iter().map(key_value).collect()),
        });
    }
    Ok(states)
}
