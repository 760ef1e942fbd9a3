//! The cases that requests are counted in: puts, gets, lists.

use std::time::Duration;

use anyhow::{Result, ensure};
use mainstay::proto::etcdserverpb as pb;

use super::Bench;
use super::load::{closed_loop, light};
use super::subject::{Subject, get, list_key, put};

impl Bench {
    /// Puts, at several numbers in flight and by both clients.
    pub(super) async fn puts(&mut self, both: &[Subject; 2], members: &str) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        let counts: &[usize] = if members == "1 member" { &[1, 100, 1000] } else { &[100, 1000] };
        for &in_flight in counts {
            if self.light {
                let case = format!("puts, {members}, light client, {in_flight} in flight");
                self.measure(case, both, |who| async move {
                    let subject = &both[who];
                    let before = subject.revision().await?;
                    let request = put(list_key("light", 1));
                    let done = light(
                        subject.address(),
                        "etcdserverpb.KV/Put",
                        &request,
                        in_flight,
                        time,
                        &subject.directory,
                    )
                    .await?;
                    let written = subject.revision().await? - before;
                    let told = i64::try_from(done.count)?;
                    // Those in flight at the end were written and are not in the log.
                    ensure!(written >= told, "{told} puts were answered and {written} written");
                    Ok(done)
                })
                .await?;
            }
            let case = format!("puts, {members}, gRPC client, {in_flight} in flight");
            self.measure(case, both, |who| {
                let kv = both[who].kv();
                closed_loop(in_flight, time, move |number| {
                    let mut kv = kv.clone();
                    async move { kv.put(put(list_key("puts", number % 100_000))).await.map(drop) }
                })
            })
            .await?;
        }
        if !self.light && members == "1 member" {
            self.notes.push("h2load is not installed: no light client".into());
        }
        Ok(())
    }

    /// Gets of one key.
    pub(super) async fn gets(&mut self, both: &[Subject; 2]) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        if self.is_only_of(&["puts", "list", "watch"]) {
            return Ok(());
        }
        for subject in both {
            subject.fill("gets", 10_000).await?;
        }
        for serializable in [true, false] {
            let kind = if serializable { "serializable" } else { "linearizable" };
            if self.light {
                self.measure(
                    format!("gets, {kind}, light client, 100 in flight"),
                    both,
                    |who| async move {
                        let (subject, request) =
                            (&both[who], get(list_key("gets", 77), serializable));
                        light(
                            subject.address(),
                            "etcdserverpb.KV/Range",
                            &request,
                            100,
                            time,
                            &subject.directory,
                        )
                        .await
                    },
                )
                .await?;
            }
            self.measure(format!("gets, {kind}, gRPC client, 100 in flight"), both, |who| {
                let kv = both[who].kv();
                closed_loop(100, time, move |number| {
                    let mut kv = kv.clone();
                    async move {
                        let answer =
                            kv.range(get(list_key("gets", number % 10_000), serializable)).await?;
                        found(answer.into_inner().kvs.len(), 1)
                    }
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Pages and counts of many keys.
    pub(super) async fn lists(&mut self, both: &[Subject; 2]) -> Result<()> {
        let (time, keys) = (Duration::from_secs(self.options.seconds), self.options.list_keys);
        let all = pb::RangeRequest {
            key: "/registry/list/".into(),
            range_end: "/registry/list0".into(),
            ..Default::default()
        };
        let cases = [
            (
                format!("list, limit=500 of {keys} keys"),
                pb::RangeRequest { limit: 500, ..all.clone() },
                500,
            ),
            (
                format!("list, count_only of {keys} keys"),
                pb::RangeRequest { count_only: true, ..all },
                0,
            ),
        ];
        if !cases.iter().any(|(case, ..)| self.wants(case)) {
            return Ok(());
        }
        for subject in both {
            subject.fill("list", keys).await?;
        }
        for (case, request, shown) in cases {
            self.measure(case, both, |who| {
                let (kv, request) = (both[who].kv(), request.clone());
                closed_loop(4, time, move |_| {
                    let (mut kv, request) = (kv.clone(), request.clone());
                    async move {
                        let answer = kv.range(request).await?.into_inner();
                        found(answer.kvs.len(), shown)?;
                        found(
                            usize::try_from(answer.count).unwrap_or(0),
                            usize::try_from(keys).unwrap_or(0),
                        )
                    }
                })
            })
            .await?;
        }
        Ok(())
    }
}

fn found(seen: usize, expected: usize) -> Result<(), tonic::Status> {
    if seen == expected {
        return Ok(());
    }
    Err(tonic::Status::data_loss(format!("{seen} found and not {expected}")))
}
