//! Prints how fast histories are judged: `cargo run --release -p checker --example speed`.

use checker::generate::{Plan, generate};
use checker::history;
use checker::verdict::{Options, check};
use std::time::Instant;

/// Nanoseconds this thread has run, where Linux tells: on a busy machine the time that counts.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (begun, cpu_before) = (Instant::now(), cpu());
    let result = work();
    let spent = (cpu() - cpu_before) / 1_000_000;
    println!("{what}: {} ms, {spent} ms CPU", begun.elapsed().as_millis());
    result
}

fn main() {
    let revision_order = Options { register_keys: 0, serial_operations: 0, ..Options::default() };
    let million = generate(&Plan::registers(1, 1_000_000, 50, 1_000));
    let verdict =
        timed("revision order, 1,000,000 operations", || check(&million.records, &revision_order));
    assert!(verdict.is_ok(), "{verdict}");
    let text = timed("writing them as JSON lines", || {
        let mut text = Vec::new();
        history::write(&mut text, &million.records).expect("memory does not fail");
        text
    });
    let read = timed("reading them", || history::read(&text[..]).expect("just written"));
    assert_eq!(read.len(), million.records.len());
    let verdict =
        timed("everything, 1,000,000 operations", || check(&million.records, &Options::default()));
    assert!(verdict.is_ok(), "{verdict}");
    drop((million, read, text));

    let lossy = Plan { unknown_percent: 1, ..Plan::registers(2, 200_000, 20, 1_000) };
    let lossy = generate(&lossy);
    let verdict = timed("revision order, 200,000 operations, 2 % unknown", || {
        check(&lossy.records, &revision_order)
    });
    println!("  {verdict}");
    assert!(verdict.is_ok() && verdict.undecided.is_empty());

    let one_key = generate(&Plan::registers(3, 10_000, 10, 1));
    let search = Options {
        register_keys: 1,
        register_operations: 10_000,
        register_budget: 10_000_000,
        serial_operations: 0,
        ..Options::default()
    };
    let verdict = timed("register search, 10,000 operations, 10 clients, one key", || {
        check(&one_key.records, &search)
    });
    assert!(verdict.is_ok() && verdict.undecided.is_empty(), "{verdict}");
    println!("  {verdict}");
}
