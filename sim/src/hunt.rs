//! The hunt for planted defects: a suite that is green on clean code proves something only if it is
//! red on code known to be wrong. For every defect in [`catalogue`] several independent hunts, each on
//! seeds of its own, count how many seeds it takes until a check fires, and which one.
//!
//! A defect counts as *killed by name* when the check that fired is the one that speaks of this very
//! defect. If another one is quicker, the storm is run again with the quicker ones looking away: what
//! would a suite without them have seen?

pub mod catalogue;
#[cfg(feature = "mutants")]
pub mod table;
#[cfg(feature = "mutants")]
mod tests_run;

use std::collections::BTreeMap;

#[cfg(feature = "mutants")]
use crate::storm::{self, Interrupt};
pub use catalogue::{Level, MUTANTS, Mutant};
#[cfg(feature = "mutants")]
pub use tests_run::{Seen, seen_by_tests};

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Independent hunts.
    pub hunts: u64,
    /// Seeds a hunt, at most.
    pub seeds: u64,
    /// Seconds of a core for one defect at one level, shared equally by its hunts.
    pub seconds: u64,
}

/// How one hunt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The check that fired first.
    pub checker: String,
    /// The seed that it fired on.
    pub seed: u64,
    /// Seeds run, that one included.
    pub seeds: u64,
    /// Simulated milliseconds in that seed until then.
    pub simulated_millis: u64,
}

/// What the hunts for one defect at one level came to.
#[derive(Clone, Debug)]
pub struct Trophy {
    /// What was hunted.
    pub mutant: &'static Mutant,
    /// Where.
    pub level: Level,
    /// The hunts that killed.
    pub kills: Vec<Kill>,
    /// Seeds of each hunt that did not.
    pub misses: Vec<u64>,
    /// The named check fired only after these looked away.
    pub blind_to: Vec<String>,
    /// That hunt.
    pub blind_kill: Option<Kill>,
}

impl Trophy {
    /// Begins with nothing.
    pub fn new(mutant: &'static Mutant, level: Level) -> Self {
        let (kills, misses, blind_to) = (Vec::new(), Vec::new(), Vec::new());
        Self { mutant, level, kills, misses, blind_to, blind_kill: None }
    }

    /// Tells whether every hunt ended in a kill.
    pub fn is_killed(&self) -> bool {
        self.misses.is_empty() && !self.kills.is_empty()
    }

    /// Tells whether the check named for the defect is among those that fired.
    pub fn is_killed_by_name(&self) -> bool {
        let named = |kill: &Kill| self.mutant.checkers.contains(&kill.checker.as_str());
        self.kills.iter().chain(&self.blind_kill).any(named)
    }

    /// Returns which checks fired, and how often.
    pub fn checkers(&self) -> BTreeMap<&str, usize> {
        let mut sums = BTreeMap::new();
        for kill in &self.kills {
            *sums.entry(kill.checker.as_str()).or_default() += 1;
        }
        sums
    }

    /// Returns the median and the largest number of seeds; `None` if no hunt killed. A hunt that
    /// missed counts as longer than it was.
    pub fn seeds(&self) -> Option<(String, String)> {
        if self.kills.is_empty() {
            return None;
        }
        let kills = self.kills.iter().map(|kill| (kill.seeds, false));
        let mut all: Vec<(u64, bool)> =
            kills.chain(self.misses.iter().map(|n| (*n, true))).collect();
        all.sort_by_key(|(seeds, missed)| (*missed, *seeds));
        let show = |(seeds, missed): &(u64, bool)| {
            if *missed { format!(">{seeds}") } else { seeds.to_string() }
        };
        Some((show(&all[all.len() / 2]), show(all.last()?)))
    }

    /// Returns the simulated milliseconds until the check fired, the median over the kills.
    pub fn simulated_millis(&self) -> Option<u64> {
        let mut all: Vec<u64> = self.kills.iter().map(|kill| kill.simulated_millis).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }
}

/// The seeds of a hunt begin here: far from one another and from those of the tests.
#[cfg(feature = "mutants")]
fn base(hunt: u64) -> u64 {
    (hunt + 1) * 10_000_000
}

/// Hunts one defect at one level. `begin` is called as each hunt begins, and returns what is raised
/// when its time is up: within a storm's seed too, which a defect may have made endless.
#[cfg(feature = "mutants")]
pub fn hunt(
    mutant: &'static Mutant,
    level: Level,
    effort: Effort,
    begin: &dyn Fn() -> Interrupt,
) -> Trophy {
    let mut trophy = Trophy::new(mutant, level);
    for hunt in 0..effort.hunts {
        match one_hunt(mutant.id, level, base(hunt), effort.seeds, &[], &begin()) {
            Ok(kill) => trophy.kills.push(kill),
            Err(seeds) => trophy.misses.push(seeds),
        }
    }
    if level == Level::Storm {
        look_away(&mut trophy, effort, &begin());
    }
    trophy
}

/// Goes on until the named check fires, with those that were quicker looking away.
#[cfg(feature = "mutants")]
fn look_away(trophy: &mut Trophy, effort: Effort, over: &Interrupt) {
    let mut blind: Vec<String> = trophy.checkers().keys().map(|name| (*name).to_owned()).collect();
    while !trophy.is_killed_by_name()
        && !blind.iter().any(|name| name == "panic")
        && !over.is_raised()
    {
        let kill = one_hunt(trophy.mutant.id, trophy.level, base(0), effort.seeds, &blind, over);
        let Ok(kill) = kill else { return };
        if trophy.mutant.checkers.contains(&kill.checker.as_str()) {
            trophy.blind_kill = Some(kill);
            trophy.blind_to = blind;
            return;
        }
        blind.push(kill.checker);
    }
}

#[cfg(feature = "mutants")]
fn one_hunt(
    id: &str,
    level: Level,
    base: u64,
    seeds: u64,
    blind_to: &[String],
    over: &Interrupt,
) -> Result<Kill, u64> {
    let mut run = 0;
    while run < seeds && !over.is_raised() {
        let seed = base + run;
        run += 1;
        if let Some((checker, simulated_millis)) = try_seed(id, level, seed, blind_to, over) {
            return Ok(Kill { checker, seed, seeds: run, simulated_millis });
        }
    }
    Err(run)
}

/// Runs a seed with a defect; the check that fired, and the simulated milliseconds until it did.
#[cfg(feature = "mutants")]
fn try_seed(
    id: &str,
    level: Level,
    seed: u64,
    blind_to: &[String],
    over: &Interrupt,
) -> Option<(String, u64)> {
    if level == Level::Storm {
        let (blind_to, interrupt) = (blind_to.to_vec(), over.clone());
        let options = storm::Options { blind_to, interrupt, ..Default::default() };
        let violation = storm::run_mutant(id, seed, &options).err()?;
        let is_one = violation.name != storm::INTERRUPTED;
        return is_one.then_some((violation.name, violation.at / 1_000));
    }
    let options = crate::run::Options { mutants: vec![id.to_owned()], ..Default::default() };
    let failure = crate::run::run(seed, &options).err()?;
    let first = failure.violations.into_iter().next().expect("a failure names a violation");
    let millis = u64::try_from(failure.report.simulated.as_millis()).unwrap_or(u64::MAX);
    Some((first.checker, millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is planted and what is listed are the same: a defect nobody hunts is a hole in the table.
    #[test]
    fn every_planted_defect_is_in_the_catalogue() {
        let mut planted = std::collections::BTreeSet::new();
        for (path, text) in crate::sources("../src") {
            if !path.ends_with("mutants.rs") {
                let ids = text.split("mutant!(\"").skip(1);
                planted.extend(ids.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
            }
        }
        let hunted = MUTANTS.iter().filter(|mutant| !mutant.levels.is_empty());
        let hunted: std::collections::BTreeSet<String> =
            hunted.map(|mutant| mutant.id.to_owned()).collect();
        assert_eq!(planted, hunted);
    }

    #[test]
    fn a_hunt_that_missed_is_the_worst() {
        let mut trophy = Trophy::new(&MUTANTS[0], Level::Storm);
        assert_eq!(trophy.seeds(), None);
        let kill = |seeds| Kill { checker: "x".into(), seed: 1, seeds, simulated_millis: 5 };
        trophy.kills = vec![kill(7), kill(3), kill(5)];
        assert_eq!(trophy.seeds(), Some(("5".into(), "7".into())));
        trophy.misses = vec![4];
        assert_eq!(trophy.seeds(), Some(("7".into(), ">4".into())));
        assert!(!trophy.is_killed());
    }
}
