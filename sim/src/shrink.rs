//! Making a failing seed small: less and less of its plan is kept, as long as the same check still fires.
//!
//! A seed draws more than a person can look through. [`Cuts`] says what is left out of it: strikes, kinds
//! of faults, time, members, clients, watchers, kinds of operations, keys, and the demands at the end. The rest stays what the seed drew:
//! a strike that is cut is waited out instead, and each client draws from a stream of its own; so what
//! is kept happens when it happened before, and a cut often leaves the failure where it was.
//!
//! [`shrink`] is greedy: it tries one cut after the other, the coarse ones first, keeps each that still
//! fails by the same check, and ends when none helps or the time is up. Its measure is the number of
//! *events* in the run's trace. What comes out is no minimum, but small; and one command replays it.
//!
//! Where the demands are what fails, most events are in the long wait for a cluster that no longer gets
//! well. [`Cuts::patience`] ends it early. By itself that would be a new failure, of a cluster that only needs
//! longer; so no cuts are kept with it that do not fail by the same check in all of the plan's time as well.

use std::fmt;
use std::time::Duration;

use crate::plan::{Fault, Kind, Plan};
use crate::run::{self, Failure, Options, Report};

/// What is left out of a seed's plan. The command line says the same with `--only-faults`, `--strikes`
/// and so on; [`Cuts`] prints as those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Only these kinds of faults strike.
    pub faults: Option<Vec<Fault>>,
    /// Only these strikes, by their number in the run.
    pub strikes: Option<Vec<u64>>,
    /// How long faults strike.
    pub rough: Option<Duration>,
    /// Clients that read and write.
    pub clients: Option<u32>,
    /// Clients that watch.
    pub watchers: Option<u32>,
    /// Only these kinds of operations.
    pub operations: Option<Vec<Kind>>,
    /// Keys.
    pub keys: Option<u64>,
    /// Members at the beginning.
    pub members: Option<u32>,
    /// The run ends with its rough time: nothing is healed, nothing demanded, and what was recorded until
    /// then is judged.
    pub no_demands: bool,
    /// The code takes none of its rare ways.
    pub no_buggify: bool,
    /// What is demanded has to come true within this time.
    pub patience: Option<Duration>,
}

impl Cuts {
    /// Returns the seed's plan without what is cut.
    pub fn apply(&self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        plan.mask.faults.clone_from(&self.faults);
        plan.mask.strikes.clone_from(&self.strikes);
        plan.mask.no_demands = self.no_demands;
        plan.mask.no_buggify = self.no_buggify;
        plan.members = self.members.unwrap_or(plan.members);
        plan.rough = self.rough.unwrap_or(plan.rough);
        let load = &mut plan.load;
        load.clients = self.clients.unwrap_or(load.clients);
        load.watchers = self.watchers.unwrap_or(load.watchers);
        load.keys = self.keys.unwrap_or(load.keys);
        if let Some(kinds) = &self.operations {
            load.mix.retain(|(kind, _)| kinds.contains(kind));
        }
        plan
    }
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn names<T: ToString>(items: &[T]) -> String {
            let names: Vec<String> = items.iter().map(ToString::to_string).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(",") }
        }
        if let Some(faults) = &self.faults {
            write!(f, " --only-faults {}", names(faults))?;
        }
        if let Some(strikes) = &self.strikes {
            write!(f, " --strikes {}", names(strikes))?;
        }
        if let Some(rough) = &self.rough {
            write!(f, " --rough {}ms", rough.as_millis())?;
        }
        if let Some(clients) = self.clients {
            write!(f, " --clients {clients}")?;
        }
        if let Some(watchers) = self.watchers {
            write!(f, " --watchers {watchers}")?;
        }
        if let Some(kinds) = &self.operations {
            write!(f, " --only-operations {}", names(kinds))?;
        }
        if let Some(keys) = self.keys {
            write!(f, " --keys {keys}")?;
        }
        if let Some(members) = self.members {
            write!(f, " --members {members}")?;
        }
        if self.no_demands {
            write!(f, " --no-demands")?;
        }
        if self.no_buggify {
            write!(f, " --no-buggify")?;
        }
        if let Some(patience) = self.patience {
            write!(f, " --patience {}ms", patience.as_millis())?;
        }
        Ok(())
    }
}

/// How a run with cuts went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ill {
    /// The checks that fired, the first one first.
    pub checks: Vec<String>,
    /// Events in its trace.
    pub events: u64,
    /// Strikes that were dealt or waited out.
    pub strikes: u64,
}

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left out.
    pub cuts: Cuts,
    /// The check that fires, before and after.
    pub check: String,
    /// How it went before.
    pub before: Ill,
    /// And with the cuts.
    pub after: Ill,
    /// Runs that were tried.
    pub tries: u64,
}

/// Shrinks a seed. `run` runs it with cuts and says how it went wrong, if it did; `over` tells that the
/// time is up. `None` if the whole seed holds.
pub fn shrink(
    seed: u64,
    mut run: impl FnMut(&Cuts) -> Option<Ill>,
    over: impl Fn() -> bool,
) -> Option<Shrunk> {
    let cuts = Cuts::default();
    let before = run(&cuts)?;
    let check = before.checks.first().cloned().unwrap_or_default();
    let after = before.clone();
    let mut search = Search {
        seed,
        shrunk: Shrunk { cuts, check, before, after, tries: 1 },
        run: &mut run,
        over: &over,
    };
    loop {
        let events = search.shrunk.after.events;
        search.cut(|cuts| cuts.no_demands = true);
        search.cut(|cuts| cuts.no_buggify = true);
        search.patience();
        search.rough();
        search.members();
        search.clients();
        search.faults();
        search.strikes();
        search.operations();
        search.rough();
        // A round that gained nothing worth its while is the last one.
        if search.shrunk.after.events * 10 > events * 9 || over() {
            return Some(search.shrunk);
        }
    }
}

/// Runs a seed with cuts. What replays it says both, and the defects that were switched on.
pub fn run(seed: u64, cuts: &Cuts, options: &Options) -> Result<Report, Box<Failure>> {
    let with = Options { patience: cuts.patience.or(options.patience), ..options.clone() };
    run::run_plan(cuts.apply(seed), &with).map_err(|mut failure| {
        failure.replay.push_str(&cuts.to_string());
        for mutant in &options.mutants {
            failure.replay.push_str(&format!(" --mutant {mutant}"));
        }
        if !options.mutants.is_empty() {
            let with = "cargo run --features sim/mutants";
            failure.replay = failure.replay.replacen("cargo run", with, 1);
        }
        failure
    })
}

/// Says of a failure what [`shrink`] wants to know.
pub fn ill(seed: u64, cuts: &Cuts, failure: &Failure) -> Ill {
    let plan = cuts.apply(seed);
    let rough = u64::try_from(plan.rough.as_millis()).unwrap_or(u64::MAX);
    Ill {
        checks: failure.violations.iter().map(|violation| violation.checker.clone()).collect(),
        events: failure.report.hash.1,
        // No run has more than pauses fit into its rough time.
        strikes: (rough / plan.fault_pause.0.max(50) + 2).min(256),
    }
}

struct Search<'a> {
    seed: u64,
    shrunk: Shrunk,
    run: &'a mut dyn FnMut(&Cuts) -> Option<Ill>,
    over: &'a dyn Fn() -> bool,
}

impl Search<'_> {
    /// Tries further cuts, and keeps them if the same check still fires and there is no more to see.
    fn cut(&mut self, change: impl FnOnce(&mut Cuts)) -> bool {
        let mut cuts = self.shrunk.cuts.clone();
        change(&mut cuts);
        if cuts == self.shrunk.cuts || (self.over)() {
            return false;
        }
        let Some(ill) = self.fails(&cuts) else { return false };
        if ill.events > self.shrunk.after.events {
            return false;
        }
        if cuts.patience.is_some() {
            let patient = |cuts: &Cuts| Cuts { patience: None, ..cuts.clone() };
            let known = patient(&cuts) == patient(&self.shrunk.cuts);
            if !known && self.fails(&patient(&cuts)).is_none() {
                return false;
            }
        }
        (self.shrunk.cuts, self.shrunk.after) = (cuts, ill);
        true
    }

    /// Says how the seed fails with cuts, if it does so by the check that is looked for.
    fn fails(&mut self, cuts: &Cuts) -> Option<Ill> {
        self.shrunk.tries += 1;
        (self.run)(cuts).filter(|ill| ill.checks.contains(&self.shrunk.check))
    }

    /// Waits less long for what is demanded.
    fn patience(&mut self) {
        if self.shrunk.cuts.no_demands {
            return;
        }
        for seconds in [1, 3, 10, 30] {
            let less = Duration::from_secs(seconds);
            let shorter = self.shrunk.cuts.patience.is_none_or(|now| less < now);
            if shorter && self.cut(|cuts| cuts.patience = Some(less)) {
                break;
            }
        }
    }

    fn plan(&self) -> Plan {
        self.shrunk.cuts.apply(self.seed)
    }

    fn members(&mut self) {
        for few in [1, 3] {
            if few < self.plan().members && self.cut(|cuts| cuts.members = Some(few)) {
                break;
            }
        }
    }

    fn clients(&mut self) {
        let load = self.plan().load;
        for few in [1, 2, load.clients / 2, load.clients.saturating_sub(1)] {
            if few > 0 && few < load.clients && self.cut(|cuts| cuts.clients = Some(few)) {
                break;
            }
        }
        for few in [0, 1, load.watchers / 2] {
            if few < load.watchers && self.cut(|cuts| cuts.watchers = Some(few)) {
                break;
            }
        }
        for few in [1, 3] {
            if few < load.keys && self.cut(|cuts| cuts.keys = Some(few)) {
                break;
            }
        }
    }

    /// Ends the rough time earlier, by halves and then by quarters.
    fn rough(&mut self) {
        for (part, of) in [(1, 4), (1, 2), (3, 4), (7, 8)] {
            loop {
                let shorter = self.plan().rough * part / of;
                if shorter < Duration::from_millis(50)
                    || !self.cut(|cuts| cuts.rough = Some(shorter))
                {
                    break;
                }
            }
        }
    }

    fn faults(&mut self) {
        let plan = self.plan();
        let all: Vec<Fault> = plan.faults.iter().map(|(fault, _)| *fault).collect();
        let kept = plan.mask.faults.unwrap_or(all);
        self.without(kept, |cuts, faults| cuts.faults = Some(faults));
    }

    fn strikes(&mut self) {
        let all = (0..self.shrunk.after.strikes).collect();
        let kept = self.shrunk.cuts.strikes.clone().unwrap_or(all);
        self.without(kept, |cuts, strikes| cuts.strikes = Some(strikes));
    }

    fn operations(&mut self) {
        let mix = self.plan().load.mix;
        let mut kept: Vec<Kind> = mix.iter().map(|(kind, _)| *kind).collect();
        kept.sort_unstable();
        kept.dedup();
        self.without(kept, |cuts, kinds| {
            if !kinds.is_empty() {
                cuts.operations = Some(kinds);
            }
        });
    }

    /// Leaves out all of a list, else halves of it, quarters, and so on (Zeller's delta debugging,
    /// without its complements of what was kept).
    fn without<T: Clone>(&mut self, mut kept: Vec<T>, set: impl Fn(&mut Cuts, Vec<T>)) {
        let mut size = kept.len();
        while size > 0 {
            let mut from = 0;
            while from < kept.len() {
                let mut fewer = kept.clone();
                fewer.drain(from..(from + size).min(kept.len()));
                if self.cut(|cuts| set(cuts, fewer.clone())) {
                    kept = fewer;
                } else {
                    from += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed whose failure needs one kind of fault, a part of the time, and one strike.
    fn needs(cuts: &Cuts, seed: u64, fault: Fault) -> Option<Ill> {
        let plan = cuts.apply(seed);
        let rough = plan.rough >= Duration::from_millis(2_000);
        let struck = plan.mask.deals(3, fault) && plan.faults.iter().any(|(f, _)| *f == fault);
        let dealt = (0..12).filter(|n| plan.mask.deals(*n, fault)).count() as u64;
        let load = u64::from(plan.load.clients + plan.load.watchers) * 100;
        let kinds = plan.load.mix.len() as u64 * 10;
        let events = u64::try_from(plan.rough.as_millis()).unwrap() + dealt * 50 + load + kinds;
        let checks = vec!["other".to_owned(), "lost-write".to_owned()];
        let checks = if plan.load.clients == 1 { checks[1..].to_vec() } else { checks };
        (rough && struck).then_some(Ill { checks, events, strikes: 12 })
    }

    #[test]
    fn what_the_failure_does_not_need_is_cut() {
        let seed = (0..).find(|seed| Plan::draw(*seed).faults.len() > 6).unwrap();
        let fault = Plan::draw(seed).faults[2].0;
        let whole = needs(&Cuts::default(), seed, fault).expect("the whole seed fails");
        let shrunk = shrink(seed, |cuts| needs(cuts, seed, fault), || false).unwrap();
        assert_eq!(shrunk.before, whole);
        assert_eq!(shrunk.cuts.faults, Some(vec![fault]));
        assert_eq!(shrunk.cuts.strikes, Some(vec![3]));
        assert!(shrunk.cuts.rough.unwrap() < Duration::from_millis(2_700), "{}", shrunk.cuts);
        // With one client the first check does not fire any more: that is another failure.
        assert_eq!((shrunk.check.as_str(), shrunk.cuts.apply(seed).load.clients), ("other", 2));
        assert_eq!(shrunk.cuts.operations.map(|kinds| kinds.len()), Some(1));
        assert!(shrunk.tries < 200, "{}", shrunk.tries);
    }

    #[test]
    fn a_seed_that_holds_is_not_shrunk_and_time_is_kept() {
        assert!(shrink(1, |_| None, || false).is_none());
        let fault = Plan::draw(1).faults[0].0;
        let shrunk = shrink(1, |cuts| needs(cuts, 1, fault), || true).unwrap();
        assert_eq!((shrunk.tries, shrunk.cuts), (1, Cuts::default()));
    }

    #[test]
    fn an_end_of_patience_is_no_failure_by_itself() {
        // With a member alone the cluster gets well after two seconds; with more it never does.
        let run = |cuts: &Cuts| {
            let patience = cuts.patience.unwrap_or(Duration::from_secs(100));
            let alone = cuts.members == Some(1);
            let excused = alone && patience >= Duration::from_secs(2);
            let fails = !cuts.no_demands && !excused;
            let events = u64::try_from(patience.as_millis()).unwrap() + u64::from(!alone);
            fails.then_some(Ill { checks: vec!["liveness".to_owned()], events, strikes: 0 })
        };
        let seed = (0..).find(|seed| Plan::draw(*seed).members == 3).unwrap();
        let shrunk = shrink(seed, run, || false).unwrap();
        assert_eq!((shrunk.before.events, shrunk.after.events), (100_001, 1_001));
        assert_eq!(shrunk.cuts.members, None, "{}", shrunk.cuts);
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn a_seed_with_a_planted_defect_shrinks_to_a_quarter() {
        // A doubled event, and a delete that its transaction does not see: one is told to a watcher, one to
        // whoever reads. Then data and position in two transactions: members never come together again.
        for (mutant, from) in [("E15", 1), ("E29", 1), ("E01", 9)] {
            let options = Options { mutants: vec![mutant.to_owned()], ..Options::default() };
            let fails = |seed: &u64| run(*seed, &Cuts::default(), &options).is_err();
            let seed = (from..from + 50).find(fails).expect("the defect is seen");
            let tries = std::cell::Cell::new(0);
            let oracle = |cuts: &Cuts| {
                tries.set(tries.get() + 1);
                let failure = run(seed, cuts, &options).err()?;
                Some(ill(seed, cuts, &failure))
            };
            let shrunk = shrink(seed, oracle, || tries.get() >= 60).expect("it fails");
            let (before, after) = (shrunk.before.events, shrunk.after.events);
            assert!(after * 4 < before, "{mutant}: {after} of {before} are left:{}", shrunk.cuts);
            let again = run(seed, &shrunk.cuts, &options).expect_err("the cuts replay it");
            assert!(again.violations.iter().any(|found| found.checker == shrunk.check));
        }
    }

    #[test]
    fn cuts_print_as_the_command_line_that_makes_them() {
        let cuts = Cuts {
            faults: Some(vec![Fault::Kill, Fault::Wipe]),
            strikes: Some(Vec::new()),
            rough: Some(Duration::from_millis(1_500)),
            clients: Some(2),
            operations: Some(vec![Kind::Put]),
            members: Some(1),
            no_demands: true,
            patience: Some(Duration::from_secs(3)),
            ..Cuts::default()
        };
        let text = " --only-faults kill,wipe --strikes none --rough 1500ms --clients 2 \
                    --only-operations put --members 1 --no-demands --patience 3000ms";
        assert_eq!(cuts.to_string(), text);
    }
}
