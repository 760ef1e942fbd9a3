//! Prints how fast histories are judged: `cargo run --release -p checker --example speed`.

use checker::generate::{Plan, generate};
use checker::history;
use checker::verdict::{Options, check};
use std::time::Instant;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    println!("{what}: {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
    result
}

fn main() {
    let revision_order =
        Options { register_keys: 0, serial_operations: 0, ..Options::default() };
    let million = generate(&Plan::registers(1, 1_000_000, 50, 1_000));
    let verdict = timed("revision order, 1,000,000 operations", || check(&million.records, &revision_order));
    assert!(verdict.is_ok(), "{verdict}");
    let text = timed("writing them as JSON lines", || {
        let mut text = Vec::new();
        history::write(&mut text, &million.records).expect("memory does not fail");
        text
    });
    let read = timed("reading them", || history::read(&text[..]).expect("just written"));
    assert_eq!(read.len(), million.records.len());
    let verdict = timed("everything, 1,000,000 operations", || check(&million.records, &Options::default()));
    assert!(verdict.is_ok(), "{verdict}");
    drop((million, read, text));

    let lossy = Plan { unknown_percent: 1, ..Plan::registers(2, 200_000, 20, 1_000) };
    let lossy = generate(&lossy);
    let verdict = timed("revision order, 200,000 operations, 2 % unknown", || check(&lossy.records, &revision_order));
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
    let verdict = timed("register search, 10,000 operations, 10 clients, one key", || check(&one_key.records, &search));
    assert!(verdict.is_ok() && verdict.undecided.is_empty(), "{verdict}");
    println!("  {verdict}");
}
