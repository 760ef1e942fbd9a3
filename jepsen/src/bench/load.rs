//! Load: closed loops with a given number of requests in flight, by two clients.
//!
//! The *gRPC client* is tonic's generated code over one HTTP/2 connection of ours; it sends different keys.
//! The *light client* is h2load: one prepared body again and again, so it costs a fraction of a gRPC client's
//! processor time, and what the server can do shows sooner. It sees HTTP statuses, not gRPC's: the bench
//! counts revisions to know that the puts were real.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;

/// What a load did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Requests answered well, or events received.
    pub count: u64,
    /// How long that took.
    pub took: Duration,
    /// Each answer's latency in microseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Done {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency that the given part of the answers did not exceed, in microseconds.
    pub fn percentile(&self, part: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).copied().unwrap_or(0)
    }
}

/// Keeps `in_flight` calls going for `time`. Each is given a number of its own; the first failure ends all.
pub async fn closed_loop<F, C>(in_flight: usize, time: Duration, call: C) -> Result<Done>
where
    C: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), tonic::Status>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let (started, mut slots) = (Instant::now(), Vec::new());
    for _ in 0..in_flight {
        let (next, call) = (next.clone(), call.clone());
        slots.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < time {
                let sent = Instant::now();
                call(next.fetch_add(1, Ordering::Relaxed)).await?;
                latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok::<_, tonic::Status>(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for slot in slots {
        latencies.extend(slot.await??);
    }
    let took = started.elapsed();
    latencies.sort_unstable();
    Ok(Done { count: latencies.len() as u64, took, latencies })
}

/// Calls `call` with the numbers below `count`, `in_flight` at a time.
pub async fn each<F, C>(count: u64, in_flight: usize, call: C) -> Result<()>
where
    C: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), tonic::Status>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut slots = Vec::new();
    for _ in 0..in_flight {
        let (next, call) = (next.clone(), call.clone());
        slots.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, tonic::Status>(());
                }
                call(number).await?;
            }
        }));
    }
    for slot in slots {
        slot.await??;
    }
    Ok(())
}

/// Whether h2load is there.
pub fn has_light_client() -> bool {
    std::process::Command::new("h2load")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Sends one request again and again with h2load. `path` is `package.Service/Method`.
pub async fn light<M: Message>(
    address: &str,
    path: &str,
    request: &M,
    in_flight: usize,
    time: Duration,
    directory: &Path,
) -> Result<Done> {
    let (body, log) = (directory.join("body"), directory.join("latencies"));
    let mut frame = vec![0];
    let length = u32::try_from(request.encoded_len()).expect("requests are small");
    frame.extend_from_slice(&length.to_be_bytes());
    request.encode(&mut frame)?;
    fs::write(&body, frame)?;
    let _ = fs::remove_file(&log);
    // Up to ten connections, as clients come; a single one would be one thread's work in some servers.
    let connections = in_flight.div_ceil(100).clamp(1, 10);
    let output = tokio::process::Command::new("h2load")
        .args([
            "-t",
            "1",
            "-c",
            &connections.to_string(),
            "-m",
            &(in_flight / connections).to_string(),
        ])
        .args(["-D", &time.as_secs().max(1).to_string(), "-d"])
        .arg(&body)
        .arg(format!("--log-file={}", log.display()))
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg(format!("http://{address}/{path}"))
        .output()
        .await
        .context("h2load")?;
    if !output.status.success() {
        bail!("h2load: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(&log).context("h2load's log")?;
    let (mut latencies, mut first, mut last) = (Vec::new(), u64::MAX, 0);
    for line in text.lines() {
        let mut columns = line.split('\t').map(|column| column.parse::<u64>().unwrap_or(0));
        let mut next = || columns.next().unwrap_or(0);
        let (start, status, micros) = (next(), next(), next());
        ensure!(status == 200, "an answer with HTTP status {status}");
        (first, last) = (first.min(start), last.max(start + micros));
        latencies.push(u32::try_from(micros).unwrap_or(u32::MAX));
    }
    ensure!(
        !latencies.is_empty(),
        "h2load had no answer:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    latencies.sort_unstable();
    let took = Duration::from_micros(last - first);
    Ok(Done { count: latencies.len() as u64, took, latencies })
}
