//! The situations written by hand, each a test of its own.
#![cfg(madsim)]

use sim::run::Options;
use sim::scenarios;

fn play(name: &str) {
    match scenarios::run(name, &Options::default()) {
        Some(Ok(report)) => println!("{name}: {report}"),
        Some(Err(failure)) => panic!("{failure}"),
        None => panic!("there is no scenario {name:?}"),
    }
}

macro_rules! scenarios {
    ($($test:ident = $name:literal,)*) => {
        const NAMED: &[&str] = &[$($name),*];

        $(
            #[test]
            fn $test() {
                play($name);
            }
        )*
    };
}

scenarios! {
    writes_resume_soon_after_the_leader_is_killed = "leader-kill",
    a_wiped_voter_is_refused_and_replaced = "disk-loss",
    a_wiped_leader_is_refused_and_replaced = "disk-loss-leader",
    every_log_boots_after_a_torn_write = "torn-tail",
    a_single_member_keeps_what_it_acknowledged = "single-member-power-loss",
    a_power_loss_in_any_disk_call_loses_nothing = "power-loss-in-every-call",
    a_follower_catches_up_by_a_snapshot_under_compaction = "snapshot-under-compaction",
    a_full_disk_stops_nobody_else = "full-disk",
    a_filling_disk_refuses_writes_before_one_fails = "filling-disk",
    a_filling_disk_alarms_only_where_it_is_needed = "filling-disk-of-one",
    a_member_that_was_removed_while_it_was_away_ends = "removed-while-away",
    a_leader_that_removed_itself_answers_once_it_is_not_needed = "removed-leader-thrown-away",
    a_learner_is_not_in_sync_at_once = "promoted-too-soon",
    a_member_with_a_damaged_store_stops = "damaged-store",
    a_member_that_lost_what_it_acknowledged_says_so = "forgotten-write",
    a_follower_catches_up_by_a_snapshot_that_takes_long = "slow-snapshot",
}

#[test]
fn every_scenario_is_a_test() {
    let all: Vec<&str> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(all, NAMED);
}
