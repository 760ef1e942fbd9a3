//! `sim hunt`: hunts the planted defects and keeps the table of what killed each.

use std::process::ExitCode;

use clap::Args;
#[cfg(feature = "mutants")]
use sim::hunt::{Effort, Level, MUTANTS, Mutant, Trophy, table};

/// What to hunt.
#[derive(Args)]
#[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "only the hunt reads it"))]
pub struct Hunt {
    /// Only these defects, by id.
    #[arg(long, value_delimiter = ',')]
    mutant: Vec<String>,
    /// Only this level: L0 (storms of the bare core), L1 (whole servers), unit (tests beside the code).
    #[arg(long, value_delimiter = ',', value_parser = ["L0", "L1", "unit"])]
    level: Vec<String>,
    /// Independent hunts for each defect and level.
    #[arg(long, default_value_t = 5)]
    hunts: u64,
    /// Seeds a hunt, at most.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// Seconds of a core for each defect and level, shared equally by its hunts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Put the results into sim/MUTANTS.md; rows of what was not hunted now stay.
    #[arg(long)]
    write: bool,
}

/// Tells that this program has no defects to switch on.
#[cfg(not(feature = "mutants"))]
pub fn run(_: &Hunt) -> ExitCode {
    eprintln!(
        "this build has no planted defects; scripts/hunt makes one that does, by\n  \
         cargo build --workspace --profile sim --features sim/mutants --bin sim"
    );
    ExitCode::FAILURE
}

/// Hunts, and prints the table.
#[cfg(feature = "mutants")]
pub fn run(args: &Hunt) -> ExitCode {
    let chosen =
        |mutant: &&Mutant| args.mutant.is_empty() || args.mutant.iter().any(|id| id == mutant.id);
    for id in &args.mutant {
        if !MUTANTS.iter().any(|mutant| mutant.id == id) {
            eprintln!("no planted defect is called {id}");
            return ExitCode::FAILURE;
        }
    }
    let wanted =
        |level: Level| args.level.is_empty() || args.level.iter().any(|name| name == level.name());
    let mutants: Vec<&'static Mutant> = MUTANTS.iter().filter(chosen).collect();
    let all = mutants.iter().flat_map(|mutant| mutant.levels.iter().map(|level| (*mutant, *level)));
    let (tests, seeds): (Vec<_>, Vec<_>) =
        all.filter(|(_, level)| wanted(*level)).partition(|(_, level)| *level == Level::Unit);
    // Panics are kills here; their words are not worth a screen.
    std::panic::set_hook(Box::new(|_| {}));
    let mut rows: Vec<table::Row> = hunt_seeds(args, seeds).iter().map(table::row).collect();
    let _ = std::panic::take_hook();
    if !tests.is_empty() {
        let seen = match sim::hunt::seen_by_tests() {
            Ok(seen) => seen,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        rows.extend(tests.iter().map(|(mutant, _)| table::unit_row(mutant, seen.get(mutant.id))));
    }
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    for row in &rows {
        println!("{}", row.text);
    }
    let killed = rows.iter().filter(|row| row.killed).count();
    println!("{killed} of {} killed", rows.len());
    if args.write {
        let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/MUTANTS.md"));
        if let Err(error) = table::write(path, rows) {
            eprintln!("the table cannot be written: {error}");
            return ExitCode::FAILURE;
        }
        println!("written to {}", path.display());
    }
    ExitCode::SUCCESS
}

#[cfg(feature = "mutants")]
fn hunt_seeds(args: &Hunt, tasks: Vec<(&'static Mutant, Level)>) -> Vec<Trophy> {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use sim::storm::Interrupt;

    let effort = Effort { hunts: args.hunts.max(1), seeds: args.seeds, seconds: args.seconds };
    // Processor time bounds a hunt, so that a busy machine makes it no shorter; what a seed does is
    // decided by the seed alone.
    let threads = args.threads.max(1);
    let share = effort.seconds as f64 * threads as f64 / effort.hunts as f64;
    let begin = || {
        let flag = Arc::<AtomicBool>::default();
        let raised = Arc::clone(&flag);
        let until = super::processor_seconds() + share;
        drop(std::thread::spawn(move || {
            // Whoever holds the other end may have been quicker: then nobody is left to tell.
            while super::processor_seconds() < until && Arc::strong_count(&raised) > 1 {
                std::thread::sleep(Duration::from_millis(20));
            }
            raised.store(true, Ordering::Relaxed);
        }));
        Interrupt::new(flag)
    };
    let next = Mutex::new(tasks.into_iter());
    let trophies = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let task = next.lock().expect("nobody panics with it").next();
                    let Some((mutant, level)) = task else { return };
                    let began = Instant::now();
                    let trophy = sim::hunt::hunt(mutant, level, effort, &begin);
                    let took = began.elapsed().as_secs();
                    eprintln!("{} {took} s", table::row(&trophy).text);
                    trophies.lock().expect("nobody panics with it").push(trophy);
                }
            });
        }
    });
    trophies.into_inner().expect("all hunts have ended")
}
