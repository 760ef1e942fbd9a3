//! Right histories are accepted, whatever the seed.

use crate::generate::{Plan, generate};
use crate::history;
use crate::verdict::{Options, Verdict, check, check_with_truth};

fn options(revision: i64) -> Options {
    Options { watch_complete_to: Some(revision), ..Options::default() }
}

fn assert_clean(verdict: &Verdict, plan: &Plan) {
    assert!(verdict.is_ok() && verdict.undecided.is_empty(), "{plan:?}\n{verdict}");
}

#[test]
fn right_histories_pass_with_and_without_ground_truth() {
    for seed in 0..600 {
        let plan = Plan::rich(seed);
        let run = generate(&plan);
        assert_clean(&check(&run.records, &options(run.revision)), &plan);
        let verdict = check_with_truth(&run.records, &options(run.revision), Some(&run.truth));
        assert_clean(&verdict, &plan);
    }
}

#[test]
fn right_histories_with_many_unknown_outcomes_pass() {
    let mut unclaimed = 0;
    for seed in 0..300 {
        let plan = Plan { unknown_percent: 30, operations: 200, ..Plan::rich(seed) };
        let run = generate(&plan);
        let verdict = check(&run.records, &options(run.revision));
        unclaimed += verdict.stats.unclaimed;
        assert_clean(&verdict, &plan);
    }
    assert!(unclaimed > 3_000, "the histories had gaps to explain: {unclaimed}");
}

#[test]
fn a_history_survives_being_written_and_read() {
    for seed in 0..20 {
        let run = generate(&Plan::rich(seed));
        let mut text = Vec::new();
        history::write(&mut text, &run.records).unwrap();
        assert_eq!(history::read(&text[..]).unwrap(), run.records);
    }
}

#[test]
fn one_seed_gives_one_history() {
    let plan = Plan::rich(7);
    assert_eq!(generate(&plan).records, generate(&plan).records);
    assert_ne!(generate(&plan).records, generate(&Plan::rich(8)).records);
}
