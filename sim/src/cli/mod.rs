//! What a person types.

mod hunt;
mod matrix;
mod shrink;
mod swarm;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use sim::{run, scenarios, storm, timeline};

/// The deterministic cluster: a seed in, a verdict out.
///
/// Level 0 (`storm`) runs the bare Raft core, level 1 (`run`, `swarm`) whole production servers on a
/// simulated network, disk and clock. Every run is decided by its seed and can be replayed.
#[derive(Parser)]
#[command(name = "sim", version)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run one whole-server seed: print its plan, what happened, and the verdict.
    Run(Run),
    /// Make a failing seed small: leave out what its failure does not need, and print what is left.
    Shrink(shrink::Shrink),
    /// Play a scenario by name, or list them.
    Scenario(Scenario),
    /// Run many seeds, whole-server and storm, on two threads, until done or Ctrl-C.
    Swarm(swarm::Swarm),
    /// Run seeds of the bare Raft core.
    Storm(Storm),
    /// Write a storm down as a trace that a public TLA+ spec of Raft can be asked about (sim/TLA.md).
    Trace(Trace),
    /// Run a seed in two fresh processes and compare their event hashes.
    Twice(Twice),
    /// Run seeds and print how often each fault took effect, and how much work was done under them.
    Faults(Faults),
    /// Run seeds and print how often each of the code's rare ways was passed and taken.
    Buggify(Faults),
    /// Run seeds of both levels and print all that is counted: faults, work, rare ways, checks, speed
    Report(Report),
    /// Print every check: where it looks, its name, its source, and what must hold.
    Invariants,
    /// Hunt the planted defects: which check kills each, after how many seeds.
    Hunt(hunt::Hunt),
    /// Take the power in every call of every operation on a member's disk, and flip a bit of every byte.
    CrashMatrix(matrix::CrashMatrix),
    /// The sweep's own: probes flipped bits, and may die of one.
    #[command(hide = true)]
    RotProbe(matrix::RotProbe),
}

#[derive(Args)]
struct Run {
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// Print the members' log lines as they come.
    #[arg(long)]
    log: bool,
    /// Write the clients' history (JSON lines) to this file.
    #[arg(long)]
    history: Option<std::path::PathBuf>,
    /// Print only the event hash.
    #[arg(long)]
    hash: bool,
    /// Switch on a planted defect (needs a build with `--features mutants`).
    #[arg(long)]
    mutant: Vec<String>,
    /// Write the run as a page to look at in a browser: members, clients, faults, log lines.
    #[arg(long, value_name = "FILE")]
    timeline: Option<std::path::PathBuf>,
    #[command(flatten)]
    less: shrink::Less,
}

#[derive(Args)]
struct Scenario {
    /// Its name.
    name: Option<String>,
    /// Print the members' log lines as they come.
    #[arg(long)]
    log: bool,
}

#[derive(Args)]
struct Storm {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run the load by which speed is told (three members, 10 operations a second, a fault every ten
    /// seconds, ten minutes a seed) instead of what each seed draws.
    #[arg(long)]
    standard: bool,
    /// Go on after a failed seed.
    #[arg(long)]
    keep_going: bool,
    /// Switch on a planted defect (needs a build with `--features mutants`).
    #[arg(long)]
    mutant: Option<String>,
    /// Print each seed's number of events: which ones are long?
    #[arg(long)]
    events: bool,
}

#[derive(Args)]
struct Trace {
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// The file to write (JSON lines); the terminal if nothing is said.
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// End the trace soon after this many lines: TLC's time grows faster than they do.
    #[arg(long, default_value_t = 2_000)]
    lines: usize,
}

#[derive(Args)]
struct Twice {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Another build of this program, for the second process: a debug one, say.
    #[arg(long, value_name = "PROGRAM")]
    with: Option<PathBuf>,
}

#[derive(Args)]
struct Faults {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
}

#[derive(Args)]
struct Report {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many whole-server seeds.
    #[arg(long, default_value_t = 400)]
    seeds: u64,
    /// How many seeds of the bare core.
    #[arg(long, default_value_t = 2_000)]
    storm_seeds: u64,
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let held = match cli.command {
        What::Run(args) => run_one(&args),
        What::Shrink(args) => shrink::run(&args),
        What::Scenario(args) => play(&args),
        What::Swarm(args) => swarm::run(&args),
        What::Storm(args) => run_storm(&args),
        What::Trace(args) => write_trace(&args),
        What::Twice(args) => run_twice(&args),
        What::Faults(args) => swarm::faults(args.from, args.seeds),
        What::Buggify(args) => swarm::buggify(args.from, args.seeds),
        What::Report(args) => swarm::report(args.from, args.seeds, args.storm_seeds),
        What::Invariants => list_checks(),
        What::Hunt(args) => return hunt::run(&args),
        What::CrashMatrix(args) => matrix::run(&args),
        What::RotProbe(args) => matrix::probe(&args),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(args: &Run) -> bool {
    let recorder = args.timeline.is_some().then(timeline::Recorder::default);
    let dir = recorder.is_some().then(sim::temporary_dir);
    let history = dir.as_ref().map(|dir| dir.path().join("history"));
    let options = run::Options {
        echo: args.log,
        mutants: args.mutant.clone(),
        history: args.history.clone().or(history),
        scenario: None,
        timeline: recorder.clone(),
        ..run::Options::default()
    };
    let cuts = match args.less.cuts() {
        Ok(cuts) => cuts,
        Err(error) => {
            eprintln!("{error}");
            return false;
        }
    };
    if !args.hash {
        println!("{}", cuts.apply(args.seed));
    }
    quiet_panics();
    let outcome = sim::shrink::run(args.seed, &cuts, &options);
    if let (Some(recorder), Some(path)) = (recorder, &args.timeline) {
        let failure = outcome.as_ref().err().map(|failure| &**failure);
        let plan = cuts.apply(args.seed).to_string();
        match draw(&recorder, path, &plan, options.history.as_deref(), failure) {
            Ok(()) => println!("timeline: {}", path.display()),
            Err(error) => eprintln!("the timeline cannot be written: {error}"),
        }
    }
    match outcome {
        Ok(report) if args.hash => println!("{:016x} {}", report.hash.0, report.hash.1),
        Ok(report) => {
            println!("{report}");
            for (fault, times) in &report.fired {
                println!("  {fault} ×{times}");
            }
            println!("held");
        }
        Err(failure) if args.hash => {
            println!("{:016x} {}", failure.report.hash.0, failure.report.hash.1);
        }
        Err(failure) => {
            println!("{failure}");
            return false;
        }
    }
    true
}

fn list_checks() -> bool {
    use sim::invariants::catalogue::CHECKS;
    println!("{:<9} {:<33} {:<29} what must hold", "level", "check", "source");
    for check in CHECKS {
        println!("{:<9} {:<33} {:<29} {}", check.level, check.name, check.source, check.must);
    }
    println!("{} checks", CHECKS.len());
    true
}

/// Writes the page of a run whose history is in a file.
fn draw(
    recorder: &timeline::Recorder,
    path: &std::path::Path,
    plan: &str,
    history: Option<&std::path::Path>,
    failure: Option<&run::Failure>,
) -> std::io::Result<()> {
    let records = match history.map(std::fs::File::open) {
        // A run that panicked has left none.
        None | Some(Err(_)) => Vec::new(),
        Some(Ok(file)) => checker::history::read(std::io::BufReader::new(file))
            .map_err(|error| std::io::Error::other(error.to_string()))?,
    };
    recorder.write(path, plan, &records, failure)
}

fn play(args: &Scenario) -> bool {
    let Some(name) = &args.name else {
        scenarios::ALL.iter().for_each(|(name, _)| println!("{name}"));
        return true;
    };
    let options = run::Options { echo: args.log, ..run::Options::default() };
    match scenarios::run(name, &options) {
        Some(Ok(report)) => {
            println!("{report}\nheld");
            return true;
        }
        Some(Err(failure)) => println!("{failure}"),
        None => println!("there is no scenario {name:?}"),
    }
    false
}

/// A panic in a run is part of its verdict; where it happened is printed, the rest is not.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        } else {
            eprintln!("{info}");
        }
    }));
}

/// How often a campaign of storms says how far it is.
const STORM_PROGRESS: Duration = Duration::from_secs(10);

fn run_storm(args: &Storm) -> bool {
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    quiet_panics();
    let options = storm::Options { standard: args.standard, ..Default::default() };
    let mut counts = storm::Counts::default();
    let (mut simulated, mut held, mut failed) = (0, 0, Vec::new());
    let began = processor_seconds();
    let mut told = swarm::wall_now();
    for seed in seeds.clone() {
        if told.elapsed() >= STORM_PROGRESS {
            told = swarm::wall_now();
            eprintln!(
                "{} of {} seeds, failed {failed:?}",
                seed - seeds.start,
                seeds.end - seeds.start
            );
        }
        match storm_seed(seed, args.mutant.as_deref(), &options) {
            Ok(report) if args.seed.is_some() => println!("{report:?}"),
            Ok(report) => {
                if args.events {
                    println!("{} {seed}", report.counts.events);
                }
                held += 1;
                simulated += report.simulated;
                counts.add(&report.counts);
            }
            Err(violation) => {
                println!("{violation}");
                failed.push(seed);
                if !args.keep_going {
                    return false;
                }
            }
        }
    }
    if args.seed.is_none() {
        let (took, simulated) = (processor_seconds() - began, simulated as f64 / 1e6);
        println!("{held} seeds held, failed {failed:?}: {counts:?}");
        println!(
            "{:.1} cluster hours in {took:.1} s of one core: {:.0}× real time, {:.1} h a minute",
            simulated / 3600.0,
            simulated / took,
            simulated / 60.0 / took
        );
    }
    failed.is_empty()
}

fn write_trace(args: &Trace) -> bool {
    quiet_panics();
    let trace = match storm::tla::record(args.seed, args.lines) {
        Ok(trace) => trace,
        Err(violation) => {
            let storm::Violation { seed, name, detail, at } = *violation;
            eprintln!("seed {seed}: {name} broken at {at} µs: {detail}");
            eprintln!("replay: cargo run --bin sim -- trace --seed {seed}");
            return false;
        }
    };
    let Some(path) = &args.out else {
        print!("{trace}");
        return true;
    };
    if let Err(error) = std::fs::write(path, trace.to_string()) {
        eprintln!("{} cannot be written: {error}", path.display());
        return false;
    }
    println!("{} lines: {}", trace.len(), path.display());
    true
}

#[cfg(feature = "mutants")]
fn storm_seed(
    seed: u64,
    mutant: Option<&str>,
    options: &storm::Options,
) -> Result<storm::Report, Box<storm::Violation>> {
    match mutant {
        Some(mutant) => storm::run_mutant(mutant, seed, options),
        None => storm::run(seed, options),
    }
}

#[cfg(not(feature = "mutants"))]
fn storm_seed(
    seed: u64,
    mutant: Option<&str>,
    options: &storm::Options,
) -> Result<storm::Report, Box<storm::Violation>> {
    assert!(mutant.is_none(), "planted defects need the feature `mutants`");
    storm::run(seed, options)
}

/// Returns the processor time that this process has used: a figure for a core that others may use too.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the struct it is given.
    #[allow(unsafe_code)]
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
    }
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs each seed in two processes at once, of this program or of this one and another.
fn run_twice(args: &Twice) -> bool {
    let Ok(program) = std::env::current_exe() else {
        println!("this program does not know its own file");
        return false;
    };
    let other = args.with.as_ref().unwrap_or(&program);
    let start = |program: &Path, seed: u64| {
        let seed = seed.to_string();
        let mut command = Command::new(program);
        command.args(["run", "--hash", "--seed", &seed]).stdout(Stdio::piped()).spawn()
    };
    let hash = |process: std::io::Result<Child>| {
        let output = process.and_then(Child::wait_with_output);
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let (began, mut different) = (Instant::now(), 0);
    for (count, seed) in (1..).zip(args.from..args.from + args.seeds) {
        let (first, second) = (start(&program, seed), start(other, seed));
        let (first, second) = (hash(first), hash(second));
        let equal = first == second && !first.is_empty();
        if !equal || args.seeds <= 20 {
            println!("seed {seed}: {first} {}", if equal { "twice" } else { &second });
        }
        if !equal {
            different += 1;
            println!(
                "seed {seed} differs between two processes; compare\n  \
                 MAINSTAY_SIM_TRACE=/tmp/a cargo run --bin sim -- run --seed {seed}\n  \
                 MAINSTAY_SIM_TRACE=/tmp/b cargo run --bin sim -- run --seed {seed}"
            );
        }
        if count % 100 == 0 {
            let (took, left) = (began.elapsed().as_secs(), args.seeds - count);
            eprintln!(
                "{took} s: {count} seeds, {different} differ, about {} s to go",
                took * left / count
            );
        }
    }
    println!("{} seeds in two processes each: {different} differ", args.seeds);
    different == 0
}
