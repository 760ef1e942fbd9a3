//! `sim crash-matrix`: the tables of power losses and of rot.

use std::path::PathBuf;

use clap::Args;
use sim::crash_matrix::rot::{self, Sweep, Verdict};
use sim::crash_matrix::{self, ALL, Effort, Row};

/// What to do.
#[derive(Args)]
pub struct CrashMatrix {
    /// Only these operations, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// As much as a test does, in seconds.
    #[arg(long)]
    quick: bool,
    /// Draws of each persistence model that draws.
    #[arg(long)]
    draws: Option<u64>,
    /// Crash the recovery of one image in so many; 0 for none.
    #[arg(long)]
    deeper_each: Option<u64>,
    /// Flip a bit in every so-manieth byte of a small member's files; 0 for none.
    #[arg(long, default_value_t = 1)]
    rot_step: u64,
    /// Leave the power losses out.
    #[arg(long)]
    rot_only: bool,
    /// Switch on a planted defect (needs a build with `--features mutants`).
    #[arg(long)]
    mutant: Vec<String>,
}

/// What to probe.
#[derive(Args)]
pub struct RotProbe {
    #[arg(long)]
    template: PathBuf,
    #[arg(long)]
    file: String,
    #[arg(long)]
    from: u64,
    #[arg(long)]
    step: u64,
}

/// Fills the matrix and prints it. Says whether everything was as promised.
pub fn run(args: &CrashMatrix) -> bool {
    if let Some(name) = args.only.iter().find(|name| ALL.iter().all(|op| op.name != *name)) {
        let names: Vec<&str> = ALL.iter().map(|operation| operation.name).collect();
        println!("there is no operation {name:?}; there are: {}", names.join(", "));
        return false;
    }
    let held = args.rot_only || power(args);
    let sound = args.rot_step == 0 || !args.only.is_empty() || rotten(args.rot_step);
    held && sound
}

fn power(args: &CrashMatrix) -> bool {
    let mut effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    effort.draws = args.draws.unwrap_or(effort.draws);
    effort.deeper_each = args.deeper_each.unwrap_or(effort.deeper_each);
    println!("power losses in every call (nothing, all, and {} draws each of", effort.draws);
    println!("prefix, subset and torn of what was not synced)\n");
    println!(
        "{:<18} {:>6} {:>7} {:>7} {:>6} {:>8} {:>10} {:>13} {:>13}",
        "operation",
        "calls",
        "losses",
        "images",
        "fresh",
        "refused",
        "recovered",
        "crashed again",
        "deeper images"
    );
    let line = |row: &Row| {
        println!(
            "{:<18} {:>6} {:>7} {:>7} {:>6} {:>8} {:>10} {:>13} {:>13}",
            row.operation,
            row.calls,
            row.losses,
            row.images,
            row.fresh,
            row.refused,
            row.recovered,
            row.crashed_again,
            row.deeper_images
        );
    };
    // A panic of the start is a finding, told with its image.
    super::quiet_panics();
    sim::run::activate(&args.mutant);
    let rows = crash_matrix::run(effort, &args.only, line);
    let _ = std::panic::take_hook();
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    line(&Row {
        operation: "all",
        calls: sum(|r| r.calls),
        losses: sum(|r| r.losses),
        images: sum(|r| r.images),
        fresh: sum(|r| r.fresh),
        refused: sum(|r| r.refused),
        recovered: sum(|r| r.recovered),
        crashed_again: sum(|r| r.crashed_again),
        deeper_images: sum(|r| r.deeper_images),
        broken: Vec::new(),
    });
    println!(
        "\n«fresh» is a disk that holds no member yet; images count once a call; the recovery of {} of {} \
         images was crashed in each of its calls",
        sum(|r| r.crashed_again),
        sum(|r| r.images)
    );
    for broken in rows.iter().flat_map(|row| &row.broken) {
        println!("BROKEN {broken}");
    }
    rows.iter().all(|row| row.broken.is_empty())
}

fn rotten(step: u64) -> bool {
    let Ok(program) = std::env::current_exe() else {
        println!("this program does not know its own file");
        return false;
    };
    println!("\none bit of every {step}. byte flipped, one at a time\n");
    let sweeps = rot::sweep(&program, step);
    print!("{:<46} {:>8} {:>8}", "file", "bytes", "flips");
    Verdict::ALL.iter().for_each(|verdict| print!(" {:>13}", verdict.name()));
    println!();
    for Sweep { file, bytes, flips, verdicts, .. } in &sweeps {
        print!("{file:<46} {bytes:>8} {flips:>8}");
        for verdict in Verdict::ALL {
            print!(" {:>13}", verdicts.get(&verdict).copied().unwrap_or(0));
        }
        println!();
    }
    let places: Vec<_> =
        sweeps.iter().flat_map(|s| s.places.iter().map(|p| (&s.file, p))).collect();
    for (file, (at, verdict, words)) in &places {
        let words: String = words.chars().take(300).collect();
        println!("{} {file} byte {at}: {words}", verdict.name());
    }
    !places.iter().any(|(_, (_, verdict, _))| verdict.is_wrong())
}

/// Probes; the process may not live to the end of it.
pub fn probe(args: &RotProbe) -> bool {
    rot::probe(&args.template, &args.file, args.from, args.step);
    true
}
