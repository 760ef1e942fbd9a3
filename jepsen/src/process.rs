//! Server processes: started on free loopback ports with a directory of their own, signalled, measured,
//! and gone when their owner is dropped.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::channel::Endpoint;

/// How a server is started. It may be started again from the same description.
#[derive(Clone)]
pub struct Plan {
    /// The binary.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// Where its clients connect.
    pub endpoint: Endpoint,
}

impl Plan {
    /// One member by itself, in clear, with its data under `directory`.
    pub fn single(binary: &Path, directory: &Path, extra: &[String]) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let ports = free_ports(2)?;
        let client = format!("http://127.0.0.1:{}", ports[0]);
        let peer = format!("http://127.0.0.1:{}", ports[1]);
        let mut arguments = flags(&[
            ("data-dir", &directory.join("data").display().to_string()),
            ("listen-client-urls", &client),
            ("advertise-client-urls", &client),
            ("listen-peer-urls", &peer),
            ("initial-advertise-peer-urls", &peer),
            ("initial-cluster", &format!("default={peer}")),
            ("log-level", "warn"),
        ]);
        arguments.extend_from_slice(extra);
        Ok(Self {
            binary: binary.to_owned(),
            arguments,
            log: directory.join("log"),
            endpoint: Endpoint::clear(&client),
        })
    }

    /// Starts the process; it may not serve yet.
    pub fn start(&self) -> Result<Process> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", self.binary.display()))?;
        Ok(Process { child, started: Instant::now(), log: self.log.clone() })
    }

    /// Starts the process and waits until it answers a read, which it is given `limit` for.
    /// Returns it with the time that took.
    pub async fn start_and_wait(&self, limit: Duration) -> Result<(Process, Duration)> {
        let mut process = self.start()?;
        loop {
            if self.answers().await {
                let took = process.started.elapsed();
                return Ok((process, took));
            }
            if let Some(status) = process.child.try_wait()? {
                bail!("{} ended: {status}\n{}", self.binary.display(), process.last_words());
            }
            if process.started.elapsed() > limit {
                bail!(
                    "{} does not serve after {limit:?}\n{}",
                    self.binary.display(),
                    process.last_words()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether a linearizable read works.
    pub async fn answers(&self) -> bool {
        use mainstay::proto::etcdserverpb::{RangeRequest, kv_client::KvClient};
        let limit = Duration::from_secs(2);
        let Ok(channel) = self.endpoint.connect(limit).await else { return false };
        let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
        let mut client = KvClient::new(channel);
        matches!(tokio::time::timeout(limit, client.range(request)).await, Ok(Ok(_)))
    }
}

/// Formats `--name=value` arguments.
pub fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// The ports that servers may be given: by default below those that the kernel gives to outgoing
/// connections, because a server that is killed shall find its port free again.
static PORTS: OnceLock<RangeInclusive<u16>> = OnceLock::new();

/// Sets the ports that servers may be given, as `first-last`. To be called once, before any server starts.
pub fn use_ports(range: &str) -> Result<()> {
    let parsed = range.split_once('-').and_then(|(first, last)| {
        let range = first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?;
        (!range.is_empty()).then_some(range)
    });
    let range = parsed.with_context(|| format!("--ports: {range:?} is not first-last"))?;
    PORTS.set(range).map_err(|_| anyhow::anyhow!("--ports was given twice"))
}

/// Finds ports that nobody listens on. Another process may still take one; that run then fails and says so.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = PORTS.get_or_init(|| 11_000..=30_999);
    let (base, length) = (u32::from(*range.start()), u32::try_from(range.len())?);
    let mut ports = Vec::new();
    // Runs side by side begin at different places, and one run gives no port twice.
    let first = std::process::id().wrapping_mul(10);
    for _ in 0..length {
        let place = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % length;
        let port = u16::try_from(base + place)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    bail!("no {count} free ports in {range:?}")
}

/// A running server. Dropping it kills it.
pub struct Process {
    child: Child,
    started: Instant,
    log: PathBuf,
}

impl Process {
    /// Sends a signal to the process, and to nothing else.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        // SAFETY: no memory is involved; the child is ours and not yet reaped, so the id is its own.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(pid, signal);
        }
    }

    /// Kills the process at once and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the process to end and waits for it, at most `limit`; then kills it.
    pub async fn stop(&mut self, limit: Duration) -> bool {
        self.signal(libc::SIGTERM);
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill();
        false
    }

    /// The processor time used so far, by all its threads.
    pub fn cpu(&self) -> Duration {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name in parentheses may hold blanks; fields 14 and 15 (user, system) are counted after it.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: u64 =
            after.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        // SAFETY: asks for a constant.
        #[allow(unsafe_code)]
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Duration::from_secs(ticks) / u32::try_from(per_second).expect("about a hundred")
    }

    /// Resident memory in bytes: (all of it, the anonymous part).
    pub fn memory(&self) -> (u64, u64) {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
        };
        (kib("VmRSS:") << 10, kib("RssAnon:") << 10)
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process would not see anything but this one.
        self.kill();
    }
}
