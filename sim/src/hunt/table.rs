//! The file that keeps what hunts came to: one row for each defect and level.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Level, MUTANTS, Mutant, Seen, Trophy};

/// One row.
pub struct Row {
    /// Its place: the defect's in the catalogue, then the level.
    pub key: (usize, &'static str),
    /// Whether every hunt killed.
    pub killed: bool,
    /// What stands in the file.
    pub text: String,
}

fn key(mutant: &Mutant, level: Level) -> (usize, &'static str) {
    let place = MUTANTS.iter().position(|other| other.id == mutant.id);
    (place.unwrap_or(usize::MAX), level.name())
}

fn text(mutant: &Mutant, level: &str, cells: [&str; 5]) -> String {
    let [killed, by, named, seeds, time] = cells;
    format!(
        "| {} | {} | {level} | {killed} | {by} | {named} | {seeds} | {time} |",
        mutant.id, mutant.defect
    )
}

/// The row of what seeds came to.
pub fn row(trophy: &Trophy) -> Row {
    let (mutant, level) = (trophy.mutant, trophy.level);
    let hunts = trophy.kills.len() + trophy.misses.len();
    let killed = match trophy.kills.len() {
        0 => "no".to_owned(),
        n if n == hunts => "yes".to_owned(),
        n => format!("{n} of {hunts}"),
    };
    let by: Vec<String> =
        trophy.checkers().into_iter().map(|(name, times)| format!("`{name}` ×{times}")).collect();
    let named = match &trophy.blind_kill {
        _ if trophy.kills.is_empty() => "–".to_owned(),
        Some(kill) => format!(
            "`{}` after {} if {} look away",
            kill.checker,
            kill.seeds,
            trophy.blind_to.len()
        ),
        None if trophy.is_killed_by_name() => "yes".to_owned(),
        None => "no".to_owned(),
    };
    let seeds = match trophy.seeds() {
        Some((median, worst)) => format!("{median} / {worst}"),
        None => format!(">{}", trophy.misses.iter().sum::<u64>()),
    };
    let time = trophy.simulated_millis();
    let time = time.map_or("–".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1_000.0));
    let cells = [killed.as_str(), &by.join(", "), &named, &seeds, &time];
    Row {
        key: key(mutant, level),
        killed: trophy.is_killed(),
        text: text(mutant, level.name(), cells),
    }
}

/// The row of what a test beside the code saw.
pub fn unit_row(mutant: &Mutant, seen: Option<&Seen>) -> Row {
    let killed = if seen.is_some() { "yes" } else { "no" };
    let by = seen.map_or(String::new(), |seen| format!("test `{}`", seen.test));
    let seeds = match seen.and_then(|seen| seen.inputs) {
        Some(inputs) => format!("{inputs} random inputs"),
        None => "all cases".to_owned(),
    };
    let named = if seen.is_some() { "yes" } else { "–" };
    Row {
        key: key(mutant, Level::Unit),
        killed: seen.is_some(),
        text: text(mutant, Level::Unit.name(), [killed, &by, named, &seeds, "–"]),
    }
}

const HEAD: &str = "\
# What kills the planted defects

A known mistake is planted in the code behind a switch that only this hunt has; then seeds are run until a
check fires. Each hunt has random seeds of its own, far from those of the tests; none of these kills needs a
scenario written by hand. Made by `scripts/hunt`, which runs `sim hunt --write`; a row stays as it was last hunted.

- *level*: L0, the bare Raft core in a storm; L1, whole servers; unit, tests beside the code.
- *killed*: by every hunt (yes), by some, or by none within the seeds shown.
- *by*: the check that fired first, and in how many hunts.
- *named*: whether the check that speaks of this very defect was among them; if a quicker one was always first,
  how many seeds it took with the quicker ones looking away.
- *seeds*: until the check fired, median and worst of the hunts; > is a hunt that ended without a kill.
- *time*: simulated time in the killing seed, median.

| id | defect | level | killed | by | named | seeds | time |
|---|---|---|---|---|---|---|---|
";

/// Puts rows into the file, beside those that are there.
pub fn write(path: &Path, rows: Vec<Row>) -> std::io::Result<()> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut kept: BTreeMap<(usize, &'static str), String> = BTreeMap::new();
    for mutant in MUTANTS {
        for level in mutant.levels {
            let is_its = |line: &&str| {
                let mut cells = line.split(" | ");
                cells.next() == Some(&format!("| {}", mutant.id))
                    && cells.nth(1) == Some(level.name())
            };
            let line = before.lines().find(is_its);
            let line = line.map_or_else(
                || text(mutant, level.name(), ["not hunted yet", "", "–", "–", "–"]),
                str::to_owned,
            );
            kept.insert(key(mutant, *level), line);
        }
    }
    kept.extend(rows.into_iter().map(|row| (row.key, row.text)));
    let mut file = HEAD.to_owned();
    for line in kept.values() {
        file.push_str(line);
        file.push('\n');
    }
    let notes = MUTANTS.iter().filter(|mutant| !mutant.note.is_empty());
    file.push_str("\nNot planted, or not to be seen:\n\n");
    for mutant in notes {
        file.push_str(&format!("- {}: {}: {}\n", mutant.id, mutant.defect, mutant.note));
    }
    std::fs::write(path, file)
}
