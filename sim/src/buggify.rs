//! Which of the code's rare ways are taken in a run: the simulator's side of `buggify!`.
//!
//! Two phases, as in FoundationDB: when a run first reaches a site, it is decided whether the site is
//! *active* in this run; an active one then *fires* now and then, at a rate of its own. So a run has a few
//! kinds of trouble, often, and not all kinds, hardly ever.
//!
//! Each site draws from a stream of its own (seed and name), so a new one changes nothing about the others.
//! The state belongs to the thread of the run. When the run heals, all sites fall silent ([`quiet`]):
//! liveness is demanded of the code's ordinary ways.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::rng::Rng;

/// How often a site was passed and taken in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Passed.
    pub reached: u64,
    /// Taken.
    pub fired: u64,
}

/// What became of each site that a run reached.
pub type Sites = BTreeMap<&'static str, Passes>;

struct Site {
    name: &'static str,
    rng: Rng,
    /// Of a million passes, how many fire; 0 for a site that is not active.
    rate: u32,
    /// The same for the first passes: what is seldom passed would otherwise hardly ever be taken.
    early_rate: u32,
    passes: Passes,
}

struct State {
    seed: u64,
    /// Of a million sites, how many are active.
    density: u32,
    quiet: bool,
    sites: Vec<Site>,
    /// Where in `sites` a name is. One name may stand at several addresses, hence two steps.
    by_name: BTreeMap<&'static str, usize>,
    /// By address and length: the linker may let one name be the end or the beginning of another.
    by_address: HashMap<(usize, usize), usize>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// How often an active site fires. Never always: some sites would be passed again at once, for ever.
const RATES: [u32; 5] = [1_000, 5_000, 20_000, 100_000, 300_000];

/// The least rate at the first passes of an active site.
const EARLY_RATE: u32 = 250_000;
const EARLY_PASSES: u64 = 4;

/// Sites that are active in at least half of the runs that have active ones at all: what they lead to needs
/// other rare things besides.
const COMMON: [&str; 3] =
    ["counts_have_small_buckets", "counts_have_small_groups", "driver_trims_all"];
const COMMON_DENSITY: u32 = 500_000;
/// The least rate of their first passes.
const COMMON_EARLY_RATE: u32 = 500_000;

/// Starts a run on this thread.
pub fn begin(seed: u64, density: u32) {
    mainstay::runtime::buggify::install(decide);
    let (sites, by_name) = (Vec::new(), BTreeMap::new());
    let by_address = HashMap::new();
    STATE.set(Some(State { seed, density, quiet: false, sites, by_name, by_address }));
}

/// Lets no site fire any more in this thread's run.
pub fn quiet() {
    STATE.with_borrow_mut(|state| {
        if let Some(state) = state {
            state.quiet = true;
        }
    });
}

/// Ends this thread's run and tells what was reached.
pub fn end() -> Sites {
    let state = STATE.take();
    let sites = state.into_iter().flat_map(|state| state.sites);
    sites.map(|site| (site.name, site.passes)).collect()
}

fn decide(name: &'static str) -> bool {
    STATE.with_borrow_mut(|state| state.as_mut().is_some_and(|state| state.decide(name)))
}

impl State {
    fn decide(&mut self, name: &'static str) -> bool {
        let at = self.find(name);
        let site = &mut self.sites[at];
        site.passes.reached += 1;
        let early = site.passes.reached <= EARLY_PASSES;
        let rate = if early { site.early_rate } else { site.rate };
        let fires = !self.quiet && site.rng.chance(rate);
        site.passes.fired += u64::from(fires);
        fires
    }

    /// Finds a site, by the address of its name: this is asked millions of times a run.
    fn find(&mut self, name: &'static str) -> usize {
        let address = (name.as_ptr().addr(), name.len());
        if let Some(at) = self.by_address.get(&address) {
            return *at;
        }
        let (seed, density, new) = (self.seed, self.density, self.sites.len());
        let at = *self.by_name.entry(name).or_insert(new);
        if at == new {
            let mut rng = Rng::new(seed, name);
            let (least_density, least_rate) = match density {
                1.. if COMMON.contains(&name) => (COMMON_DENSITY, COMMON_EARLY_RATE),
                _ => (0, EARLY_RATE),
            };
            let active = rng.chance(density.max(least_density));
            let rate = if active { *rng.pick(&RATES) } else { 0 };
            let early_rate = if active { rate.max(least_rate) } else { 0 };
            self.sites.push(Site { name, rng, rate, early_rate, passes: Passes::default() });
        }
        self.by_address.insert(address, at);
        at
    }
}

/// Every site in the server's code.
pub const SITES: &[&str] = &[
    "accept_hangs_up",
    "answers_go_one_by_one",
    "bulk_writes_each",
    "channel_does_not_connect",
    "channel_small_streams",
    "channel_waits_long",
    "connection_buffers_little",
    "connection_goes_away",
    "connection_small_streams",
    "cork_reads_little",
    "cork_takes_nothing",
    "cork_writes_a_turn_later",
    "cork_writes_little",
    "counts_have_small_buckets",
    "counts_have_small_groups",
    "driver_answers_early",
    "driver_asks_for_reads_again",
    "driver_asks_for_reads_later",
    "driver_gives_up_a_transfer",
    "driver_is_overloaded",
    "driver_loses_the_leader",
    "driver_one_event_a_turn",
    "driver_polls_leases_later",
    "driver_stops_without_handing_over",
    "driver_ticks_late",
    "driver_trims_all",
    "driver_trims_later",
    "handle_knows_no_leader",
    "hash_reads_each_row",
    "history_gives_one_revision",
    "hub_checks_itself",
    "hub_drops_a_report",
    "hub_gives_little",
    "hub_holds_little_past",
    "hub_lets_fall_behind",
    "hub_serves_another_first",
    "hub_skips_progress",
    "hub_wakes_for_nothing",
    "keep_alive_ends",
    "lease_clock_checks_itself",
    "lease_ends_later",
    "lease_ends_one_by_one",
    "log_begins_a_segment_early",
    "log_checks_itself",
    "log_is_not_sealed",
    "log_keeps_no_buffer",
    "log_prepares_no_segment",
    "log_syncs_each_hand_over",
    "log_syncs_twice",
    "log_trims_later",
    "log_writes_in_two",
    "machine_checks_itself",
    "message_comes_twice",
    "message_is_lost",
    "messages_come_in_reverse",
    "messages_go_one_by_one",
    "proposals_go_again_one_by_one",
    "raft_checks_itself",
    "read_counts_by_walking",
    "read_takes_few_bytes",
    "read_takes_one_key",
    "reads_share_no_question",
    "recent_forgets_all",
    "ring_is_small",
    "room_looks_early",
    "scrub_begins_again",
    "scrub_is_held",
    "scrub_takes_one_row",
    "scrub_waits",
    "snapshot_answer_is_lost",
    "snapshot_counts_each_key",
    "snapshot_ends_a_piece_early",
    "snapshot_is_refused",
    "snapshot_is_thrown_away",
    "snapshot_loses_a_table_row",
    "snapshot_reads_each_row",
    "snapshot_sends_each_table_row",
    "snapshot_takes_too_long",
    "snapshot_waits_for_each_piece",
    "spare_finds_no_room",
    "spare_is_not_kept",
    "spare_is_not_taken",
    "store_begins_a_reader",
    "store_ends_a_reader",
    "store_flushes_early",
    "store_flushes_late",
    "store_forgets_to_trim",
    "transport_dials_late",
    "transport_hangs_up",
    "transport_loses_a_batch",
    "transport_probes_early",
    "transport_queue_is_full",
    "transport_sends_one_by_one",
    "transport_stops_listening",
    "transport_waits_for_each_batch",
    "watch_sends_each_event",
    "watch_takes_little",
    "watchers_catch_up_late",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A site that nobody lists is a site of which nobody knows whether it is ever reached.
    #[test]
    fn the_sites_in_the_sources_are_those_listed_each_with_a_name_of_its_own() {
        let mut found = Vec::new();
        for (_, text) in crate::sources("../src") {
            let names = text.split("buggify!(").skip(1).filter_map(|rest| {
                rest.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned)
            });
            found.extend(names.filter(|name| name != "site"));
        }
        let names: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(names.len(), found.len(), "a name stands at two places");
        assert_eq!(names, SITES.iter().copied().collect());
        assert!(SITES.is_sorted(), "the list is in order");
    }

    #[test]
    fn an_active_site_fires_now_and_then_and_never_once_the_run_is_quiet() {
        let fired = |seed: u64, density: u32| {
            begin(seed, density);
            let fired = (0..10_000).filter(|_| decide("here")).count();
            quiet();
            assert!((0..1_000).all(|_| !decide("here")));
            let passes = end()["here"];
            assert_eq!(passes, Passes { reached: 11_000, fired: fired as u64 });
            fired
        };
        assert!((0..20).all(|seed| fired(seed, 0) == 0));
        assert!((0..20).all(|seed| (1..9_000).contains(&fired(seed, 1_000_000))));
        let active = (0..400).filter(|seed| fired(*seed, 250_000) > 0).count();
        assert!((60..140).contains(&active), "{active} of 400");
        assert!(!decide("here"), "no run, no site");
    }
}
