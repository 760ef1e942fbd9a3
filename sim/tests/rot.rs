//! Flipped bits in a small member's files: found, or without any effect on an answer. Every 61st byte here;
//! `sim crash-matrix` flips one in every byte.

use std::path::Path;

use sim::crash_matrix::rot::{Sweep, Verdict, sweep};

fn count(sweep: &Sweep, verdict: Verdict) -> u64 {
    sweep.verdicts.get(&verdict).copied().unwrap_or(0)
}

#[test]
fn flipped_bits_are_found_or_harmless() {
    let sweeps = sweep(Path::new(env!("CARGO_BIN_EXE_sim")), 61);
    let (stores, logs): (Vec<&Sweep>, Vec<&Sweep>) =
        sweeps.iter().partition(|sweep| sweep.file.ends_with("data.mdb"));
    // A log that was closed, and the name of the store in force, notice each flip that matters.
    for sweep in &logs {
        let sound = count(sweep, Verdict::Harmless) + count(sweep, Verdict::Refused);
        assert_eq!(sound, sweep.flips, "{sweep:?}");
    }
    assert!(logs.len() > 4 && logs.iter().map(|sweep| sweep.flips).sum::<u64>() > 150);
    // LMDB has no checksums of pages, but every row carries its own, and what is missing is missed: see
    // «Rot» in `storage/lmdb.rs` for what is not.
    let [store] = stores[..] else { panic!("one store: {sweeps:?}") };
    let wrong = count(store, Verdict::Wrong) + count(store, Verdict::WrongLater);
    assert_eq!(wrong, 0, "{:#?}", store.places);
    assert!(count(store, Verdict::Refused) + count(store, Verdict::Noticed) > 100, "{store:?}");
}
