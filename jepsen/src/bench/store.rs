//! A store with many keys: the memory it takes, and how long a start on it lasts.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mainstay::proto::etcdserverpb::{self as pb, kv_client::KvClient};

use super::subject::Subject;
use super::{Bench, Fact};
use crate::process::Process;

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What one server showed.
#[derive(Default)]
struct Seen {
    fill: Duration,
    fill_cpu: Duration,
    /// Resident and anonymous bytes, with the keys just written.
    filled: (u64, u64),
    /// The same after a start and one answer.
    started: (u64, u64),
    starts: Vec<Duration>,
}

impl Bench {
    /// Fills both, measures both, then starts them again and again in turns; a start lasts until the first
    /// linearizable answer, and the keys must all be there.
    pub(super) async fn store(&mut self, directory: &Path) -> Result<()> {
        let keys = self.options.store_keys;
        let binaries = [self.options.server.clone(), self.options.reference.clone()];
        let (mut subjects, mut seen) = (Vec::new(), [Seen::default(), Seen::default()]);
        for (who, binary) in binaries.iter().enumerate() {
            let mut subject =
                Subject::single(binary, &directory.join(format!("store-{who}"))).await?;
            let (begun, before) = (Instant::now(), subject.cpu());
            subject.fill("store", keys).await?;
            // What is still to be written in the background belongs to it.
            tokio::time::sleep(Duration::from_secs(2)).await;
            seen[who].fill = begun.elapsed();
            seen[who].fill_cpu = subject.cpu() - before;
            seen[who].filled = subject.processes[0].memory();
            stop(&mut subject.processes[0]).await?;
            subjects.push(subject);
        }
        for round in 0..self.options.rounds.max(2) {
            for turn in 0..2 {
                let who = (round + turn) % 2;
                let plan = &subjects[who].plans[0];
                let (mut process, took) = plan.start_and_wait(START_LIMIT).await?;
                seen[who].starts.push(took);
                seen[who].started = process.memory();
                let channel = plan.endpoint.connect(Duration::from_secs(5)).await?;
                let count = pb::RangeRequest {
                    key: "/registry/store/".into(),
                    range_end: "/registry/store0".into(),
                    count_only: true,
                    ..Default::default()
                };
                let counted = KvClient::new(channel).range(count).await?.into_inner().count;
                ensure!(
                    counted == i64::try_from(keys)?,
                    "{counted} keys after a start, not {keys}"
                );
                stop(&mut process).await?;
            }
        }
        seen.iter_mut().for_each(|seen| seen.starts.sort_unstable());
        let mut fact = |what: &str, of: fn(&Seen) -> f64| {
            let fact =
                Fact { what: format!("{what}, {keys} keys"), values: [of(&seen[0]), of(&seen[1])] };
            println!("{}", fact.row());
            self.facts.push(fact);
        };
        fact("start to first linearizable answer, median, ms", |seen| {
            seen.starts[seen.starts.len() / 2].as_secs_f64() * 1e3
        });
        fact("resident after the writes, MB", |seen| megabytes(seen.filled.0));
        fact("of that anonymous (not the mapped file), MB", |seen| megabytes(seen.filled.1));
        fact("resident after a start, MB", |seen| megabytes(seen.started.0));
        fact("of that anonymous (not the mapped file), MB", |seen| megabytes(seen.started.1));
        fact("written in txns of 100, server's processor time, s", |seen| {
            seen.fill_cpu.as_secs_f64()
        });
        fact("written in txns of 100, s for all", |seen| seen.fill.as_secs_f64());
        Ok(())
    }
}

async fn stop(process: &mut Process) -> Result<()> {
    ensure!(
        process.stop(STOP_LIMIT).await,
        "a server did not end within {STOP_LIMIT:?} of SIGTERM"
    );
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
