//! The planted defects of the log, each seen by the tests that should see it.

use super::*;
use crate::mutants::assert_seen;

#[test]
fn rot_treated_as_a_torn_tail_is_seen() {
    assert_seen!("R07", rot::every_flipped_bit_of_a_closed_log_is_found_or_harmless);
}

#[test]
fn a_chain_cut_between_segments_is_seen() {
    assert_seen!("S03", rot::every_flipped_bit_of_a_closed_log_is_found_or_harmless);
}

#[test]
fn a_torn_tail_treated_as_fatal_is_seen() {
    assert_seen!("E05", crash::acknowledged_records_survive_every_power_loss);
}

#[test]
fn a_lost_end_that_nobody_notices_is_seen() {
    assert_seen!("R06", rot::a_commit_index_beyond_the_end_is_refused);
}

#[test]
fn a_trusted_length_is_seen() {
    assert_seen!("E06", rot::every_flipped_bit_of_a_closed_log_is_found_or_harmless);
}
