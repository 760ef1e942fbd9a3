//! What a person types.

mod hunt;
mod swarm;

use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use sim::plan::Plan;
use sim::{run, scenarios, storm};

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
    /// Play a scenario by name, or list them.
    Scenario(Scenario),
    /// Run many seeds, whole-server and storm, on two threads, until done or Ctrl-C.
    Swarm(swarm::Swarm),
    /// Run seeds of the bare Raft core.
    Storm(Storm),
    /// Run a seed in two fresh processes and compare their event hashes.
    Twice(Twice),
    /// Run seeds and print how often each fault took effect, and how much work was done under them.
    Faults(Faults),
    /// Hunt the planted defects: which check kills each, after how many seeds.
    Hunt(hunt::Hunt),
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
}

#[derive(Args)]
struct Twice {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
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

/// Runs what was typed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let held = match cli.command {
        What::Run(args) => run_one(&args),
        What::Scenario(args) => play(&args),
        What::Swarm(args) => swarm::run(&args),
        What::Storm(args) => run_storm(&args),
        What::Twice(args) => run_twice(&args),
        What::Faults(args) => swarm::faults(args.from, args.seeds),
        What::Hunt(args) => return hunt::run(&args),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(args: &Run) -> bool {
    let options = run::Options {
        echo: args.log,
        mutants: args.mutant.clone(),
        history: args.history.clone(),
        scenario: None,
    };
    if !args.hash {
        println!("{}", Plan::draw(args.seed));
    }
    quiet_panics();
    match run::run(args.seed, &options) {
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
    for seed in seeds {
        match storm::run(seed, &options) {
            Ok(report) if args.seed.is_some() => println!("{report:?}"),
            Ok(report) => {
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

/// Runs each seed in two processes of this program.
fn run_twice(args: &Twice) -> bool {
    let Ok(program) = std::env::current_exe() else {
        println!("this program does not know its own file");
        return false;
    };
    let hash = |seed: u64| {
        let seed = seed.to_string();
        let output = Command::new(&program).args(["run", "--hash", "--seed", &seed]).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let mut same = true;
    for seed in args.from..args.from + args.seeds {
        let (first, second) = (hash(seed), hash(seed));
        let equal = first == second && !first.is_empty();
        println!("seed {seed}: {first} {}", if equal { "twice" } else { &second });
        if !equal {
            println!(
                "seed {seed} differs between two processes; compare\n  \
                 MAINSTAY_SIM_TRACE=/tmp/a cargo run --bin sim -- run --seed {seed}\n  \
                 MAINSTAY_SIM_TRACE=/tmp/b cargo run --bin sim -- run --seed {seed}"
            );
        }
        same &= equal;
    }
    same
}
