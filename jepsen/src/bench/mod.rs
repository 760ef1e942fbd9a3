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

mod cases;
mod load;
mod store;
mod subject;
mod watchers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use load::{Done, has_light_client};
use subject::Subject;

/// The flags of `jepsen bench`.
#[derive(clap::Args)]
pub struct Options {
    /// The server under test.
    #[arg(long, default_value = "target/release/mainstay")]
    server: PathBuf,
    /// The etcd to compare with.
    #[arg(long, default_value = "etcd")]
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

/// A figure that is no rate: less is better.
struct Fact {
    what: String,
    /// Ours, then the reference's.
    values: [f64; 2],
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
    let mut bench = Bench {
        light: has_light_client(),
        lines: Vec::new(),
        facts: Vec::new(),
        notes: Vec::new(),
        options,
    };
    bench.heading();
    let outcome = bench.all(directory.path()).await;
    bench.table();
    outcome?;
    Ok(true)
}

/// What a case about a store of many keys is called for `--only`.
const STORE_CASE: &str = "memory and cold start";

struct Bench {
    options: Options,
    light: bool,
    lines: Vec<Line>,
    facts: Vec<Fact>,
    notes: Vec<String>,
}

impl Bench {
    fn wants(&self, case: &str) -> bool {
        self.options.only.as_ref().is_none_or(|only| case.contains(only.as_str()))
    }

    async fn all(&mut self, directory: &Path) -> Result<()> {
        if !self.is_only_of(&["3 members", STORE_CASE]) {
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
        if !self.is_only_of(&["1 member", "gets", "list", "watch", STORE_CASE]) {
            let ours =
                Subject::cluster(&self.options.server, &directory.join("cluster-server")).await?;
            let theirs =
                Subject::cluster(&self.options.reference, &directory.join("cluster-reference"))
                    .await?;
            self.puts(&[ours, theirs], "3 members").await?;
        }
        if self.wants(STORE_CASE) {
            self.store(directory).await?;
        }
        let measured = !self.lines.is_empty() || !self.facts.is_empty();
        let only = self.options.only.as_deref().unwrap_or_default();
        ensure!(measured, "no case's name contains {only:?}");
        Ok(())
    }

    /// Whether only such cases are wanted whose names have one of these words in them; so that servers
    /// are not started for nothing.
    fn is_only_of(&self, words: &[&str]) -> bool {
        let only = self.options.only.as_deref();
        only.is_some_and(|only| words.iter().any(|word| only.contains(word)))
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

    fn heading(&self) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("server:    {}", self.options.server.display());
        println!("reference: {}", self.options.reference.display());
        println!("load average (1, 5, 15 min) at the start: {}", load_average());
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
        if !self.facts.is_empty() {
            println!("\n| store | ours | etcd | × |\n|---|--:|--:|--:|");
            self.facts.iter().for_each(|fact| println!("{}", fact.row()));
        }
        println!(
            "\n× above 1: Mainstay is faster, smaller, or takes less processor time for one operation."
        );
        println!("load average (1, 5, 15 min) at the end: {}", load_average());
        for note in &self.notes {
            println!("- {note}");
        }
    }
}

const NAMES: [&str; 2] = ["Mainstay", "etcd"];

/// How busy the machine is, with others' work too.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(", ")
}

impl Fact {
    fn row(&self) -> String {
        let [ours, theirs] = self.values;
        format!("| {} | {ours:.1} | {theirs:.1} | **{:.2}** |", self.what, theirs / ours)
    }
}

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
