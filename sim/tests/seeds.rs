//! Whole-server seeds: a fixed run of them and the corpus of those that once found something.
//!
//! Beside each seed's own verdict this asks whether the seeds together are worth running: they have to
//! reach LMDB and its syncs, speak HTTP/2 and nothing else, do enough work, elect, watch, and meet every
//! fault. The seeds are the same in each run, so none of this is a matter of luck.
#![cfg(madsim)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sim::plan::{Fault, Temper};
use sim::run::{self, Options, Report};

/// The fixed seeds: the first ones.
const FIXED: u64 = 120;

const CORPUS: &str = include_str!("corpus.txt");

/// Seeds run at once; each is a simulation of its own on a thread of its own.
const THREADS: usize = 2;

fn corpus() -> Vec<u64> {
    let lines = CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let seed = line.split_whitespace().next().unwrap_or_default();
            seed.parse().unwrap_or_else(|_| panic!("no seed in the corpus's line {line:?}"))
        })
        .collect()
}

/// Runs seeds, at most until one fails.
fn run_all(seeds: &[u64]) -> Vec<Report> {
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(BTreeMap::new());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while failures.lock().unwrap().is_empty() {
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) else { break };
                    match run::run(*seed, &Options::default()) {
                        Ok(report) => drop(reports.lock().unwrap().insert(*seed, report)),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    if let Some(failure) = failures.into_inner().unwrap().first() {
        panic!("{failure}");
    }
    reports.into_inner().unwrap().into_values().collect()
}

/// The run went through the production path: LMDB, its syncs, HTTP/2, and TLS below it in some; probes over HTTP/1.1.
fn ran_on_the_real_thing(report: &Report) {
    let Report { seed, disk, network, .. } = report;
    assert!(
        disk.engine > 0 && disk.engine_syncs > 0,
        "seed {seed}: LMDB was not reached: {disk:?}"
    );
    assert!(disk.syncs > disk.engine_syncs, "seed {seed}: the log was not synced: {disk:?}");
    let (spoken, other) =
        if report.mtls { (network.tls, network.http2) } else { (network.http2, network.tls) };
    assert!(
        spoken > 0 && network.http1 > 0 && other + network.foreign == 0,
        "seed {seed}: not HTTP/2, or TLS, and probes alone: {network:?}"
    );
}

fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of[of.len() / 2]
}

#[test]
fn the_fixed_seeds_and_the_corpus_hold() {
    let mut seeds: Vec<u64> = (0..FIXED).collect();
    seeds.extend(corpus());
    println!("seeds 0..{FIXED} and {:?}", corpus());
    let reports = run_all(&seeds);
    reports.iter().for_each(ran_on_the_real_thing);

    let half = reports.len() / 2;
    let answered = median(reports.iter().map(|report| report.score.answered).collect());
    assert!(answered >= 300, "half of the seeds have less than {answered} answered operations");
    let share = |what: fn(&Report) -> bool| reports.iter().filter(|report| what(report)).count();
    assert!(share(|report| report.events > 0) > half, "most seeds are to watch");
    assert!(share(|report| report.terms > 1) > half, "most seeds are to change their leader");

    let fired: BTreeSet<Fault> =
        reports.iter().flat_map(|report| report.fired.keys().copied()).collect();
    let missed: Vec<&Fault> = Fault::ALL.iter().filter(|fault| !fired.contains(fault)).collect();
    assert!(missed.is_empty(), "faults that took effect in no seed: {missed:?}");
    let over_mtls = share(|report| report.mtls);
    assert!(over_mtls * 32 > reports.len(), "{over_mtls} seeds speak mTLS, of {}", reports.len());
    for temper in [Temper::Calm, Temper::Fair, Temper::Brutal] {
        assert!(reports.iter().any(|report| report.temper == Some(temper)), "no seed is {temper}");
    }
    let hours: f64 = reports.iter().map(|report| report.simulated.as_secs_f64() / 3600.0).sum();
    let undecided = share(|report| report.undecided > 0);
    println!(
        "{} seeds held, {hours:.1} simulated hours, {undecided} with open questions",
        reports.len()
    );
}

#[test]
fn a_seed_ends_with_the_same_events_each_time() {
    let options = Options::default();
    for (seed, mtls) in [(3, false), (40, false), (22, true)] {
        let report = || run::run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
        let (one, other) = (report(), report());
        assert_eq!((one.hash, one.mtls), (other.hash, mtls), "seed {seed}");
    }
}
