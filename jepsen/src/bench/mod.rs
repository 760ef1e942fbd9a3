//! The benchmark: Mainstay and an etcd on one machine, each measured in turn, both with fsync.
//!
//! A *case* is one kind of load. It runs in rounds, and in every round on both servers one after the other,
//! the first of them changing from round to round, so that a slow minute of the machine hits both. Reported
//! are the rate over all rounds, the latencies of all answers together, the server's processor time per
//! operation (from `/proc/<pid>/stat`, all threads; of a cluster: all members), and ratios, where above 1
//! is in Mainstay's favour.
//!
//! NB: the client runs on the same cores and takes its share. On two cores a rate says what server *and*
//! client could do together; the server's processor time per operation is the figure that carries over.

mod load;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use mainstay::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;

use crate::channel::Channel;
use crate::process::{Plan, Process, flags, free_ports};
use load::{Done, closed_loop, each, has_light_client, light};

/// The flags of `jepsen bench`.
#[derive(clap::Args)]
pub struct Options {
    /// The server under test.
    #[arg(long, default_value = "target/release/mainstay")]
    server: PathBuf,
    /// The etcd to compare with.
    #[arg(long, default_value = "/usr/bin/etcd")]
    reference: PathBuf,
    /// Seconds for each measurement of a case.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often each case is measured on each server.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Keys for the lists.
    #[arg(long, default_value_t = 200_000)]
    list_keys: u64,
    /// Keys for memory and cold start.
    #[arg(long, default_value_t = 1_000_000)]
    store_keys: u64,
    /// One short round with fewer keys.
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where the data directories are made; it should be on the disk in question, not in memory.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
}

/// One line of the table.
struct Line {
    case: String,
    /// Ours, then the reference's.
    cells: [Cell; 2],
}

#[derive(Default)]
struct Cell {
    done: Done,
    cpu: Duration,
}

impl Cell {
    fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.done.count.max(1) as f64
    }
}

/// Runs the benchmark. True unless something failed.
pub async fn run(mut options: Options) -> Result<bool> {
    if options.quick {
        (options.seconds, options.rounds) = (1, 1);
        options.list_keys = options.list_keys.min(20_000);
        options.store_keys = options.store_keys.min(100_000);
    }
    std::fs::create_dir_all(&options.directory)?;
    let directory = tempfile::tempdir_in(&options.directory)?;
    let mut bench =
        Bench { light: has_light_client(), lines: Vec::new(), notes: Vec::new(), options };
    bench.heading();
    let outcome = bench.all(directory.path()).await;
    bench.table();
    outcome?;
    Ok(true)
}

struct Bench {
    options: Options,
    light: bool,
    lines: Vec<Line>,
    notes: Vec<String>,
}

/// One server, or a cluster of them, that is being measured.
struct Subject {
    processes: Vec<Process>,
    plans: Vec<Plan>,
    channel: Channel,
    directory: PathBuf,
}

impl Subject {
    async fn single(binary: &Path, directory: &Path) -> Result<Self> {
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
    async fn cluster(binary: &Path, directory: &Path) -> Result<Self> {
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

    fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn address(&self) -> &str {
        &self.plans[0].endpoint.address
    }

    async fn revision(&self) -> Result<i64> {
        let answer = self.kv().range(get("none", false)).await?.into_inner();
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Writes `count` keys with 24 bytes each, in txns of 100.
    async fn fill(&self, prefix: &'static str, count: u64) -> Result<()> {
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

fn get(key: impl Into<Bytes>, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), serializable, ..Default::default() }
}

fn put(key: String) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: Bytes::from_static(b"twenty-four bytes long.."),
        ..Default::default()
    }
}

/// A key of 37 bytes. Their order has nothing to do with the order they are written in.
fn list_key(prefix: &str, number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    format!("/registry/{prefix}/{mixed:016x}{}", "0".repeat(10 - prefix.len()))
}

impl Bench {
    fn wants(&self, case: &str) -> bool {
        self.options.only.as_ref().is_none_or(|only| case.contains(only.as_str()))
    }

    async fn all(&mut self, directory: &Path) -> Result<()> {
        if ["puts", "gets", "list", "watch"]
            .iter()
            .any(|kind| self.wants(kind) || self.wants_inside(kind))
        {
            let ours =
                Subject::single(&self.options.server, &directory.join("single-server")).await?;
            let theirs =
                Subject::single(&self.options.reference, &directory.join("single-reference"))
                    .await?;
            let both = [ours, theirs];
            self.puts(&both, "1 member").await?;
            self.gets(&both).await?;
            self.lists(&both).await?;
            self.watchers(&both).await?;
        }
        if self.wants("puts, 3 members") || self.wants_inside("puts, 3 members") {
            let ours =
                Subject::cluster(&self.options.server, &directory.join("cluster-server")).await?;
            let theirs =
                Subject::cluster(&self.options.reference, &directory.join("cluster-reference"))
                    .await?;
            self.puts(&[ours, theirs], "3 members").await?;
        }
        if self.wants("memory and cold start") {
            self.store(directory).await?;
        }
        Ok(())
    }

    /// Whether a case below `kind` may be wanted by its own name.
    fn wants_inside(&self, kind: &str) -> bool {
        self.options.only.as_ref().is_some_and(|only| only.starts_with(kind))
    }

    /// Measures one case on both, in turns.
    async fn measure<F>(
        &mut self,
        case: String,
        both: &[Subject; 2],
        load: impl Fn(usize) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Done>>,
    {
        if !self.wants(&case) {
            return Ok(());
        }
        let mut cells = [Cell::default(), Cell::default()];
        for round in 0..self.options.rounds {
            for turn in 0..2 {
                let who = (round + turn) % 2;
                let before = both[who].cpu();
                let done = load(who).await.with_context(|| format!("{case}, {}", NAMES[who]))?;
                cells[who].cpu += both[who].cpu() - before;
                cells[who].done.count += done.count;
                cells[who].done.took += done.took;
                cells[who].done.latencies.extend(done.latencies);
                // What the one still has to write shall not be the other's burden.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        cells.iter_mut().for_each(|cell| cell.done.latencies.sort_unstable());
        let line = Line { case, cells };
        println!("{}", line.row());
        self.lines.push(line);
        Ok(())
    }

    async fn puts(&mut self, both: &[Subject; 2], members: &str) -> Result<()> {
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

    async fn gets(&mut self, both: &[Subject; 2]) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        if !self.wants("gets") && !self.wants_inside("gets") {
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

    async fn lists(&mut self, both: &[Subject; 2]) -> Result<()> {
        if !self.wants("list") && !self.wants_inside("list") {
            return Ok(());
        }
        let (time, keys) = (Duration::from_secs(self.options.seconds), self.options.list_keys);
        for subject in both {
            subject.fill("list", keys).await?;
        }
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

    /// Every watcher sees every put. Counted are events received; the latency is from the put's departure
    /// to the event's arrival.
    async fn watchers(&mut self, both: &[Subject; 2]) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        for watchers in [100, 1000] {
            let case = format!("watch, {watchers} watchers of one key, 10 puts in flight");
            self.measure(case, both, |who| fan_out(&both[who], watchers, time)).await?;
        }
        Ok(())
    }

    /// Memory with many keys, and the time from start to the first linearizable answer.
    async fn store(&mut self, directory: &Path) -> Result<()> {
        let keys = self.options.store_keys;
        let mut rows = Vec::new();
        for (who, binary) in
            [self.options.server.clone(), self.options.reference.clone()].iter().enumerate()
        {
            let mut subject =
                Subject::single(binary, &directory.join(format!("store-{who}"))).await?;
            let before = (Instant::now(), subject.cpu());
            subject.fill("store", keys).await?;
            let filled = (before.0.elapsed(), subject.cpu() - before.1);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (resident, anonymous) = subject.processes[0].memory();
            let ended = subject.processes[0].stop(Duration::from_secs(20)).await;
            let mut starts = Vec::new();
            for _ in 0..self.options.rounds.max(2) {
                let (mut process, took) =
                    subject.plans[0].start_and_wait(Duration::from_secs(120)).await?;
                starts.push(took);
                let channel = subject.plans[0].endpoint.connect(Duration::from_secs(5)).await?;
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
                if starts.len() == 1 {
                    rows.push((filled, resident, anonymous, process.memory(), ended));
                }
                process.stop(Duration::from_secs(20)).await;
            }
            starts.sort_unstable();
            let ((took, cpu), resident, anonymous, (resident_again, anonymous_again), ended) =
                *rows.last().expect("just pushed");
            self.notes.push(format!(
                "memory and cold start, {}: {keys} keys written in {:.1} s ({:.1} µs of server time a key); resident {} MB \
                 (anonymous {} MB); start to first linearizable answer {:.0} ms (median of {}); resident after a start {} MB \
                 (anonymous {} MB){}",
                NAMES[who],
                took.as_secs_f64(),
                cpu.as_secs_f64() * 1e6 / keys as f64,
                resident >> 20,
                anonymous >> 20,
                starts[starts.len() / 2].as_secs_f64() * 1e3,
                starts.len(),
                resident_again >> 20,
                anonymous_again >> 20,
                if ended { "" } else { "; DID NOT END by SIGTERM within 20 s" }
            ));
            println!("{}", self.notes.last().expect("just pushed"));
        }
        Ok(())
    }

    fn heading(&self) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("server:    {}", self.options.server.display());
        println!("reference: {}", self.options.reference.display());
        println!(
            "{cores} cores, shared by server and client; both sync to disk; {} s × {} rounds a case, in turns",
            self.options.seconds, self.options.rounds
        );
    }

    fn table(&self) {
        println!(
            "\n| case | rate ours | etcd | × | p50 µs ours | etcd | p99 µs ours | etcd | server µs/op ours | etcd | × |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for line in &self.lines {
            println!("{}", line.row());
        }
        println!(
            "\n× above 1: Mainstay is faster, or takes less processor time for one operation."
        );
        for note in &self.notes {
            println!("- {note}");
        }
    }
}

const NAMES: [&str; 2] = ["Mainstay", "etcd"];

impl Line {
    fn row(&self) -> String {
        let [ours, theirs] = &self.cells;
        format!(
            "| {} | {:.0} | {:.0} | **{:.2}** | {} | {} | {} | {} | {:.1} | {:.1} | **{:.2}** |",
            self.case,
            ours.done.rate(),
            theirs.done.rate(),
            ours.done.rate() / theirs.done.rate(),
            ours.done.percentile(0.5),
            theirs.done.percentile(0.5),
            ours.done.percentile(0.99),
            theirs.done.percentile(0.99),
            ours.cpu_each(),
            theirs.cpu_each(),
            theirs.cpu_each() / ours.cpu_each()
        )
    }
}

fn found(seen: usize, expected: usize) -> Result<(), tonic::Status> {
    if seen == expected {
        return Ok(());
    }
    Err(tonic::Status::data_loss(format!("{seen} found and not {expected}")))
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
