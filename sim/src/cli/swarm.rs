//! Many seeds: on two threads, with progress, and a clean end at Ctrl-C.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use sim::plan::{Fault, Plan, Temper};
use sim::run::{self, Report};
use sim::storm;

/// What to run.
#[derive(Args)]
pub struct Swarm {
    /// Run for this many seconds (whole-server seeds, and storm seeds in a tenth of the time).
    #[arg(long, conflicts_with_all = ["seeds", "storm_seeds"])]
    seconds: Option<u64>,
    /// Whole-server seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// Storm seeds.
    #[arg(long)]
    storm_seeds: Option<u64>,
    /// The first seed; by default the time of day, so that each campaign sees new ones.
    #[arg(long)]
    from: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Go on after a failed seed.
    #[arg(long)]
    keep_going: bool,
    /// Pass over the whole-server seeds whose members do not speak TLS: of sixteen, that is fifteen.
    #[arg(long)]
    mtls: bool,
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_: libc::c_int) {
    STOP.store(true, Ordering::SeqCst);
}

#[derive(Default)]
struct Sums {
    seeds: u64,
    /// Those of them whose members speak TLS.
    mtls: u64,
    passed_over: u64,
    storm_seeds: u64,
    simulated: Duration,
    storm_simulated: Duration,
    operations: u64,
    packets: u64,
    faults: BTreeMap<&'static str, (u64, u64)>,
    failed: Vec<u64>,
    storm_failed: Vec<u64>,
    undecided: u64,
    mix: BTreeMap<&'static str, (u64, u64)>,
    sites: BTreeMap<&'static str, SiteSums>,
    work: Vec<Work>,
}

/// What became of a rare way over all seeds.
#[derive(Clone, Copy, Default)]
struct SiteSums {
    reached: u64,
    fired: u64,
    seeds_reached: u64,
    seeds_fired: u64,
}

/// How much was done in a seed.
struct Work {
    temper: Option<Temper>,
    sent: u64,
    answered: u64,
    events: u64,
    terms: u64,
    faults: u64,
}

impl Sums {
    fn take(&mut self, report: &Report) {
        self.seeds += 1;
        self.mtls += u64::from(report.mtls);
        self.simulated += report.simulated;
        self.operations += report.score.sent;
        self.packets += report.network.packets;
        self.undecided += u64::from(report.undecided > 0);
        for (kind, (sent, answered)) in &report.score.mix {
            let sums = self.mix.entry(kind).or_default();
            *sums = (sums.0 + sent, sums.1 + answered);
        }
        for (site, passes) in &report.buggified {
            let sums = self.sites.entry(site).or_default();
            sums.reached += passes.reached;
            sums.fired += passes.fired;
            sums.seeds_reached += u64::from(passes.reached > 0);
            sums.seeds_fired += u64::from(passes.fired > 0);
        }
        self.work.push(Work {
            temper: report.temper,
            sent: report.score.sent,
            answered: report.score.answered,
            events: report.events as u64,
            terms: report.terms as u64,
            faults: report.fired.values().sum(),
        });
        let strikes = report.fired.iter().map(|(fault, times)| (fault.name(), *times));
        for (name, times) in strikes.chain(report.ambient.iter().copied()) {
            let (seeds, sum) = self.faults.entry(name).or_default();
            *seeds += u64::from(times > 0);
            *sum += times;
        }
    }
}

struct Campaign {
    sums: Mutex<Sums>,
    next: AtomicU64,
    next_storm: AtomicU64,
    began: Instant,
    stop: AtomicBool,
    keep_going: bool,
    mtls_only: bool,
    from: u64,
}

impl Campaign {
    fn new(from: u64, keep_going: bool) -> Self {
        Self {
            sums: Mutex::default(),
            next: AtomicU64::new(0),
            next_storm: AtomicU64::new(0),
            began: wall_now(),
            stop: AtomicBool::new(false),
            keep_going,
            mtls_only: false,
            from,
        }
    }

    fn stopped(&self) -> bool {
        STOP.load(Ordering::SeqCst) || self.stop.load(Ordering::SeqCst)
    }

    fn whole_server(&self, seed: u64) {
        if self.mtls_only && !Plan::draw(seed).mtls {
            self.sums.lock().expect("nobody panics while counting").passed_over += 1;
            return;
        }
        let result = run::run(seed, &run::Options::default());
        let mut sums = self.sums.lock().expect("nobody panics while counting");
        match result {
            Ok(report) => sums.take(&report),
            Err(failure) => {
                sums.take(&failure.report);
                sums.failed.push(seed);
                drop(sums);
                println!("\n{failure}\n");
                self.stop.fetch_or(!self.keep_going, Ordering::SeqCst);
            }
        }
    }

    fn storm(&self, seed: u64) {
        let result = storm::run(seed, &storm::Options::default());
        let mut sums = self.sums.lock().expect("nobody panics while counting");
        sums.storm_seeds += 1;
        match result {
            Ok(report) => sums.storm_simulated += Duration::from_micros(report.simulated),
            Err(violation) => {
                sums.storm_failed.push(seed);
                drop(sums);
                println!("\n{violation}\n");
                self.stop.fetch_or(!self.keep_going, Ordering::SeqCst);
            }
        }
    }

    fn line(&self, total: Option<u64>) -> String {
        let sums = self.sums.lock().expect("nobody panics while counting");
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let hours = |d: Duration| d.as_secs_f64() / 3600.0;
        let mut text = format!(
            "{:.0} s: {} whole-server seeds ({} over mTLS, {:.1}/s, {:.1} simulated hours, {:.2} h a minute), \
             {} storm seeds ({:.1} h), {} operations, {} packets",
            seconds,
            sums.seeds,
            sums.mtls,
            sums.seeds as f64 / seconds,
            hours(sums.simulated),
            hours(sums.simulated) / seconds * 60.0,
            sums.storm_seeds,
            hours(sums.storm_simulated),
            sums.operations,
            sums.packets,
        );
        let done = sums.seeds + sums.passed_over + sums.storm_seeds;
        if let Some(total) = total.filter(|total| done > 0 && done < *total) {
            let left = seconds / done as f64 * (total - done) as f64;
            text.push_str(&format!(", about {left:.0} s to go"));
        }
        for (kind, failed) in [("", &sums.failed), (" storm", &sums.storm_failed)] {
            if !failed.is_empty() {
                text.push_str(&format!(", FAILED{kind} {failed:?}"));
            }
        }
        text
    }
}

/// Reads the machine's clock: campaigns are timed in real time, runs are not.
pub(super) fn wall_now() -> Instant {
    Instant::now()
}

fn default_from() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs()) * 1_000_000
}

/// Runs a campaign and says whether everything held.
pub fn run(args: &Swarm) -> bool {
    let from = args.from.unwrap_or_else(default_from);
    let mut campaign = Campaign::new(from, args.keep_going);
    campaign.mtls_only = args.mtls;
    let (seeds, storm_seeds) = match (args.seeds, args.storm_seeds) {
        (None, None) if args.seconds.is_some() => (u64::MAX, u64::MAX),
        (None, None) => (100, 1_000),
        (seeds, storm_seeds) => (seeds.unwrap_or(0), storm_seeds.unwrap_or(0)),
    };
    let limit = args.seconds.map(Duration::from_secs);
    supervise(&campaign, args.threads, seeds, storm_seeds, limit);
    println!("\n{}", campaign.line(None));
    let sums = campaign.sums.lock().expect("nobody panics while counting");
    if sums.undecided > 0 {
        println!("{} seeds had questions beyond the checker's budget", sums.undecided);
    }
    for seed in &sums.failed {
        println!("failed; replay: cargo run --bin sim -- run --seed {seed}");
    }
    for seed in &sums.storm_failed {
        println!("failed; replay: cargo run --bin sim -- storm --seed {seed}");
    }
    sums.failed.is_empty() && sums.storm_failed.is_empty()
}

/// Runs a campaign to its end or to Ctrl-C, and tells meanwhile how far it is.
fn supervise(
    campaign: &Campaign,
    threads: u64,
    seeds: u64,
    storm_seeds: u64,
    limit: Option<Duration>,
) {
    // SAFETY: the handler does nothing but store into an atomic.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGINT, on_interrupt as *const () as libc::sighandler_t);
    }
    let from = campaign.from;
    println!("seeds from {from} on; Ctrl-C ends the campaign after the seeds that are running");
    let live = std::io::stderr().is_terminal();
    let total = limit.is_none().then(|| seeds.saturating_add(storm_seeds));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| work(campaign, seeds, storm_seeds, limit));
        }
        let pause = Duration::from_secs(if live { 1 } else { 30 });
        let mut told = wall_now();
        while !campaign.stopped() && !over(campaign, seeds, storm_seeds, limit) {
            std::thread::sleep(Duration::from_millis(100));
            if told.elapsed() >= pause {
                told = wall_now();
                let end = if live { "\r" } else { "\n" };
                eprint!("{}{end}", campaign.line(total));
            }
        }
    });
    if STOP.load(Ordering::SeqCst) {
        let sums = campaign.sums.lock().expect("nobody panics while counting");
        println!(
            "interrupted; what was covered, from {from} on: {} whole-server and {} storm seeds",
            sums.seeds, sums.storm_seeds
        );
    }
}

fn over(campaign: &Campaign, seeds: u64, storm_seeds: u64, limit: Option<Duration>) -> bool {
    let sums = campaign.sums.lock().expect("nobody panics while counting");
    limit.is_some_and(|limit| campaign.began.elapsed() >= limit)
        || (sums.seeds + sums.passed_over >= seeds && sums.storm_seeds >= storm_seeds)
}

fn work(campaign: &Campaign, seeds: u64, storm_seeds: u64, limit: Option<Duration>) {
    let done = |limit: Option<Duration>, share: u32| {
        campaign.stopped()
            || limit.is_some_and(|limit| campaign.began.elapsed() >= limit / 10 * share)
    };
    while !done(limit, 1) {
        let n = campaign.next_storm.fetch_add(1, Ordering::SeqCst);
        if n >= storm_seeds {
            break;
        }
        campaign.storm(campaign.from.wrapping_add(n));
    }
    while !done(limit, 10) {
        let n = campaign.next.fetch_add(1, Ordering::SeqCst);
        if n >= seeds {
            break;
        }
        campaign.whole_server(campaign.from.wrapping_add(n));
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}

/// Runs seeds and prints how often each of the code's rare ways was passed and taken; fails if one never was.
pub fn buggify(from: u64, seeds: u64) -> bool {
    let campaign = Campaign::new(from, true);
    supervise(&campaign, 2, seeds, 0, None);
    let sums = campaign.sums.lock().expect("nobody panics while counting");
    let all = print_sites(&sums);
    println!("{}", campaign_end(&campaign, &sums));
    sums.failed.is_empty() && all
}

/// Prints how often each rare way was passed and taken; tells whether all were.
fn print_sites(sums: &Sums) -> bool {
    println!("{:<34} {:>10} {:>8} {:>10} {:>8}", "site", "passed", "seeds", "taken", "seeds");
    let mut untaken = Vec::new();
    for site in sim::buggify::SITES {
        let SiteSums { reached, fired, seeds_reached, seeds_fired } =
            sums.sites.get(site).copied().unwrap_or_default();
        println!("{site:<34} {reached:>10} {seeds_reached:>8} {fired:>10} {seeds_fired:>8}");
        if fired == 0 {
            untaken.push(*site);
        }
    }
    println!(
        "{} sites in {} seeds, {} never taken {untaken:?}",
        sim::buggify::SITES.len(),
        sums.seeds,
        untaken.len()
    );
    untaken.is_empty()
}

fn campaign_end(campaign: &Campaign, sums: &Sums) -> String {
    format!(
        "{} seeds, {} over mTLS, {} with open questions, {} failed; {:.1} simulated minutes in {:.0} s",
        sums.seeds,
        sums.mtls,
        sums.undecided,
        sums.failed.len(),
        sums.simulated.as_secs_f64() / 60.0,
        campaign.began.elapsed().as_secs_f64(),
    )
}

/// Runs seeds and prints how often each fault took effect, and what was done under them.
pub fn faults(from: u64, seeds: u64) -> bool {
    let campaign = Campaign::new(from, true);
    supervise(&campaign, 2, seeds, 0, None);
    let sums = campaign.sums.lock().expect("nobody panics while counting");
    print_faults(&sums);
    println!("{}", campaign_end(&campaign, &sums));
    sums.failed.is_empty()
}

/// Runs seeds of both levels once, and prints everything that is counted of them.
pub fn report(from: u64, seeds: u64, storm_seeds: u64) -> bool {
    let campaign = Campaign::new(from, true);
    supervise(&campaign, 2, seeds, storm_seeds, None);
    println!("\n{}\n", campaign.line(None));
    let sums = campaign.sums.lock().expect("nobody panics while counting");
    print_faults(&sums);
    println!();
    let all = print_sites(&sums);
    let mut places = std::collections::BTreeMap::new();
    for check in sim::invariants::catalogue::CHECKS {
        *places.entry(check.level).or_insert(0) += 1;
    }
    println!("\nchecks by place (`sim invariants` lists them): {places:?}");
    println!("{}", campaign_end(&campaign, &sums));
    sums.failed.is_empty() && sums.storm_failed.is_empty() && all
}

fn print_faults(sums: &Sums) {
    println!("{:<20} {:>8} {:>8} {:>8}", "fault", "times", "seeds", "share");
    let strikes = Fault::ALL.iter().map(|fault| fault.name());
    let ambient = sums.faults.keys().copied().filter(|name| strikes.clone().all(|s| s != *name));
    for name in strikes.clone().chain(ambient) {
        let (with, times) = sums.faults.get(name).copied().unwrap_or_default();
        println!("{name:<20} {times:>8} {with:>8} {:>7.1}%", share(with, sums.seeds));
    }
    println!("\n{:<20} {:>8} {:>8} {:>8}", "operation", "sent", "answered", "share");
    for (kind, (sent, answered)) in &sums.mix {
        println!("{kind:<20} {sent:>8} {answered:>8} {:>7.1}%", share(*answered, *sent));
    }
    println!("\na seed's tenth percentile, median and ninetieth percentile:");
    let header = ["temper", "seeds", "answered", "share of sent", "events", "terms", "faults"];
    let [temper, seeds, rest @ ..] = header;
    print!("{temper:<8} {seeds:>6}");
    rest.iter().for_each(|name| print!(" {name:>17}"));
    println!();
    for temper in [None, Some(Temper::Calm), Some(Temper::Fair), Some(Temper::Brutal)] {
        let of: Vec<&Work> =
            sums.work.iter().filter(|work| temper.is_none() || work.temper == temper).collect();
        print!("{:<8} {:>6}", temper.map_or("all", Temper::name), of.len());
        let columns: [fn(&Work) -> u64; 5] = [
            |work| work.answered,
            |work| work.answered * 100 / work.sent.max(1),
            |work| work.events,
            |work| work.terms,
            |work| work.faults,
        ];
        for column in columns {
            let mut values: Vec<u64> = of.iter().map(|work| column(work)).collect();
            values.sort_unstable();
            let at = |percent| values.get(values.len() * percent / 100).copied().unwrap_or(0);
            print!(" {:>17}", format!("{} / {} / {}", at(10), at(50), at(90)));
        }
        println!();
    }
}
