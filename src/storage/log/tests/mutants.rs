//! The planted defects of the log, each seen by the tests that should see it.

use std::panic::catch_unwind;

use super::*;

/// Says whether a test fails with a defect switched on, and passes without. The hunt in `sim/` reads
/// what is printed.
macro_rules! seen {
    ($defect:literal, $test:path) => {
        seen_by($defect, stringify!($test), $test)
    };
}

fn seen_by(defect: &str, name: &str, test: fn()) -> bool {
    catch_unwind(test).expect("the test passes on the clean code");
    let clean = crate::mutants::activate(&[defect]);
    let found = catch_unwind(test).is_err();
    crate::mutants::activate(&clean.iter().map(String::as_str).collect::<Vec<_>>());
    if found {
        println!("planted {defect}: seen by {name}");
    }
    found
}

#[test]
fn rot_treated_as_a_torn_tail_is_seen() {
    assert!(seen!("R07", rot::every_flipped_bit_of_a_closed_log_is_found_or_harmless));
}

#[test]
fn a_chain_cut_between_segments_is_seen() {
    assert!(seen!("S03", rot::every_flipped_bit_of_a_closed_log_is_found_or_harmless));
}

#[test]
fn a_torn_tail_treated_as_fatal_is_seen() {
    assert!(seen!("E05", crash::acknowledged_records_survive_every_power_loss));
}

#[test]
fn a_lost_end_that_nobody_notices_is_seen() {
    assert!(seen!("R06", rot::a_commit_index_beyond_the_end_is_refused));
}

#[test]
fn a_trusted_length_is_seen() {
    assert!(seen!("E06", rot::every_flipped_bit_of_a_closed_log_is_found_or_harmless));
}
