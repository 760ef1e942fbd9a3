//! `sim run` and `sim shrink`: one whole-server seed, as it is, with cuts, and made small.

use std::time::{Duration, Instant};

use clap::Args;
use sim::plan::{Fault, Kind};
use sim::run::Options;
use sim::shrink::{self, Cuts};

/// What to leave out of a seed.
#[derive(Args, Default)]
pub struct Less {
    /// Only these kinds of faults strike (names as `sim faults` prints them, or `none`); the others are
    /// waited out.
    #[arg(long, value_delimiter = ',', value_name = "FAULTS")]
    only_faults: Option<Vec<String>>,
    /// Only these strikes, by their number in the run, from 0 (or `none`).
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    strikes: Option<Vec<String>>,
    /// Faults strike for this long only, such as `6s` or `1500ms`.
    #[arg(long, value_parser = duration)]
    rough: Option<Duration>,
    /// Clients that read and write.
    #[arg(long)]
    clients: Option<u32>,
    /// Clients that watch.
    #[arg(long)]
    watchers: Option<u32>,
    /// Only these kinds of operations.
    #[arg(long, value_delimiter = ',', value_name = "KINDS")]
    only_operations: Option<Vec<String>>,
    /// Keys.
    #[arg(long)]
    keys: Option<u64>,
    /// Members at the beginning.
    #[arg(long)]
    members: Option<u32>,
    /// End with the rough time, heal and demand nothing, and judge what was recorded until then.
    #[arg(long)]
    no_demands: bool,
    /// Let the code take none of its rare ways.
    #[arg(long)]
    no_buggify: bool,
    /// Wait only so long for what is demanded after healing, such as `3s`: a cluster that needs longer fails.
    #[arg(long, value_parser = duration)]
    patience: Option<Duration>,
}

/// Which seed to make small.
#[derive(Args)]
pub struct Shrink {
    /// The seed; it must fail.
    #[arg(long)]
    seed: u64,
    /// Switch on a planted defect (needs a build with `--features mutants`).
    #[arg(long)]
    mutant: Vec<String>,
    /// Real seconds, at most.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1_000),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is no time like 6s or 1500ms"))?;
    Ok(Duration::from_millis(number * unit))
}

/// Finds things by their names; `none` alone is no thing.
fn named<T: Copy + ToString>(names: &[String], all: &[T]) -> Result<Vec<T>, String> {
    let names = names.iter().filter(|name| *name != "none");
    let find = |name: &String| {
        let found = all.iter().find(|thing| thing.to_string() == *name);
        found.copied().ok_or_else(|| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("there is no {name:?}; there are: {}", all.join(", "))
        })
    };
    names.map(find).collect()
}

impl Less {
    /// Reads what was typed.
    pub fn cuts(&self) -> Result<Cuts, String> {
        let numbers = |names: &Vec<String>| {
            let names = names.iter().filter(|name| *name != "none");
            names.map(|n| n.parse().map_err(|_| format!("{n:?} is no number"))).collect()
        };
        let faults = self.only_faults.as_ref().map(|names| named(names, Fault::ALL));
        let kinds = self.only_operations.as_ref().map(|names| named(names, Kind::ALL));
        Ok(Cuts {
            faults: faults.transpose()?,
            strikes: self.strikes.as_ref().map(numbers).transpose()?,
            rough: self.rough,
            clients: self.clients,
            watchers: self.watchers,
            operations: kinds.transpose()?,
            keys: self.keys,
            members: self.members,
            no_demands: self.no_demands,
            no_buggify: self.no_buggify,
            patience: self.patience,
        })
    }
}

/// Makes a failing seed small, and prints what is left of it.
pub fn run(args: &Shrink) -> bool {
    // A panic in a run is its verdict; hundreds of them are not worth a screen.
    std::panic::set_hook(Box::new(|_| {}));
    let options = Options { mutants: args.mutant.clone(), ..Options::default() };
    let began = Instant::now();
    let over = || began.elapsed() >= Duration::from_secs(args.seconds);
    let ill = |cuts: &Cuts| {
        let failure = shrink::run(args.seed, cuts, &options).err()?;
        let ill = shrink::ill(args.seed, cuts, &failure);
        eprintln!("{:>6.1} s: {} events:{cuts}", began.elapsed().as_secs_f64(), ill.events);
        Some(ill)
    };
    let Some(shrunk) = shrink::shrink(args.seed, ill, over) else {
        println!("seed {} holds: there is nothing to shrink", args.seed);
        return false;
    };
    let seconds = began.elapsed().as_secs_f64();
    let _ = std::panic::take_hook();
    if let Err(failure) = shrink::run(args.seed, &shrunk.cuts, &options) {
        println!("{failure}\n");
    }
    println!(
        "{} still fires; {} events of {} are left ({:.1} %), after {} runs in {seconds:.0} s",
        shrunk.check,
        shrunk.after.events,
        shrunk.before.events,
        shrunk.after.events as f64 / shrunk.before.events.max(1) as f64 * 100.0,
        shrunk.tries,
    );
    true
}
