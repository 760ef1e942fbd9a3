//! Fan-out: many watchers of one key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mainstay::proto::etcdserverpb::{
    self as pb, watch_client::WatchClient, watch_request::RequestUnion,
};
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;

use super::Bench;
use super::load::{Done, closed_loop};
use super::subject::Subject;
use crate::channel::Channel;

impl Bench {
    /// Every watcher sees every put. Counted are events received; the latency is from the put's departure
    /// to the event's arrival.
    pub(super) async fn watchers(&mut self, both: &[Subject; 2]) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        for watchers in [100, 1000] {
            let case = format!("watch, {watchers} watchers of one key, 10 puts in flight");
            self.measure(case, both, |who| fan_out(&both[who], watchers, time)).await?;
        }
        Ok(())
    }
}

/// Registers watchers of one key, ten on a stream, and puts to it for `time`.
async fn fan_out(subject: &Subject, watchers: usize, time: Duration) -> Result<Done> {
    let started = Instant::now();
    let received = Arc::new(AtomicU64::new(0));
    let (mut streams, mut tasks) = (Vec::new(), Vec::new());
    let latencies = Arc::new(Mutex::new(Vec::<u32>::new()));
    // A few connections, so that no single one is what is measured.
    let mut channels: Vec<Channel> = Vec::new();
    for _ in 0..4 {
        channels.push(subject.plans[0].endpoint.connect(Duration::from_secs(5)).await?);
    }
    for stream in 0..watchers / 10 {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..10 {
            let create = pb::WatchCreateRequest { key: "fan-out".into(), ..Default::default() };
            requests.send(pb::WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            })?;
        }
        let mut client = WatchClient::new(channels[stream % channels.len()].clone());
        let mut answers = client.watch(UnboundedReceiverStream::new(receiver)).await?.into_inner();
        for _ in 0..10 {
            let created = answers.message().await?.context("the stream ended")?;
            ensure!(created.created && !created.canceled, "a watcher was refused");
        }
        streams.push(requests);
        let (received, latencies) = (received.clone(), latencies.clone());
        tasks.push(tokio::spawn(async move {
            while let Ok(Some(response)) = answers.message().await {
                let now = started.elapsed();
                let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
                for event in response.events {
                    let value = event.kv.map(|kv| kv.value).unwrap_or_default();
                    let sent =
                        std::str::from_utf8(&value).ok().and_then(|text| text.parse::<u64>().ok());
                    let sent = Duration::from_micros(sent.unwrap_or(0));
                    latencies.push(
                        u32::try_from(now.saturating_sub(sent).as_micros()).unwrap_or(u32::MAX),
                    );
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let kv = subject.kv();
    let begun = Instant::now();
    let puts = closed_loop(10, time, move |_| {
        let mut kv = kv.clone();
        let value = started.elapsed().as_micros().to_string().into();
        let put = pb::PutRequest { key: "fan-out".into(), value, ..Default::default() };
        async move { kv.put(put).await.map(drop) }
    })
    .await?;
    // Everybody is to see everything, later or not.
    let expected = puts.count * watchers as u64;
    let until = Instant::now() + Duration::from_secs(60);
    while received.load(Ordering::Relaxed) < expected {
        ensure!(
            Instant::now() < until,
            "{} of {expected} events came",
            received.load(Ordering::Relaxed)
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = begun.elapsed();
    drop(streams);
    // A stream stays open after the client's half is closed.
    tasks.iter().for_each(|task| task.abort());
    let latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Done { count: expected, took, latencies })
}
