//! The crash matrix: a member's disk, the power taken in *every* call of every operation on it.
//!
//! For each [operation](operations) the calls it makes on the simulated disk are counted: those of the
//! log, and those of LMDB, whose `pwrite`, `fdatasync` and so on are caught. Then, for each call and each
//! [`Persistence`] model, a fresh copy of the member is made, the operation is begun, and the power goes
//! in that call. What is on the disk then is an *image*. It is given to the very code that a member
//! starts with (`server::bootstrap::boot`), and what comes back is compared with what was promised:
//!
//! - the log holds what was synced, or that and the whole batch under way; nothing else;
//! - the store stands at an entry between the last one acknowledged as stored and the last one written,
//!   and everything a client can learn of it is what a machine says that applied exactly those entries;
//! - replayed to its end, the log brings it to the state of its last entry;
//! - a second start finds the same: what the first one returned was durable.
//!
//! *Deeper*: the power goes again in every call of the recovery of an image, and the check is the same.
//!
//! No refusal is expected: a power loss is no damage. One is counted, and fails the matrix.
//!
//! Left out: errors other than death (`EIO`, a full disk), which the whole-server runs inject, and rot,
//! which is [`rot`]'s.

mod member;
mod operations;
pub mod rot;

use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::member::{Promise, Reference, Stage};
pub use self::operations::{ALL, Operation};
use crate::disk::{HostDisk, Persistence};
use crate::rng::Rng;
use crate::trace::Trace;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Draws of each persistence model that draws.
    pub draws: u64,
    /// Of so many images one has its recovery crashed as well; 0 for none.
    pub deeper_each: u64,
    /// Draws of each model there.
    pub deeper_draws: u64,
}

impl Effort {
    /// All of it: what the command does.
    pub const FULL: Self = Self { draws: 12, deeper_each: 1, deeper_draws: 2 };
    /// What fits into a test.
    pub const QUICK: Self = Self { draws: 1, deeper_each: 40, deeper_draws: 1 };
}

/// What became of one operation.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The operation.
    pub operation: &'static str,
    /// Its calls on the disk.
    pub calls: u64,
    /// Power losses before it was done, of all calls and models.
    pub losses: u64,
    /// Different images that they left, each call's counted for itself.
    pub images: u64,
    /// Images that were no member yet: its making had not been acknowledged.
    pub fresh: u64,
    /// Images that were refused.
    pub refused: u64,
    /// Images that came back as promised.
    pub recovered: u64,
    /// Images whose recovery was crashed in each of its calls.
    pub crashed_again: u64,
    /// Different images which that left.
    pub deeper_images: u64,
    /// What was wrong, the first few.
    pub broken: Vec<String>,
}

impl Row {
    fn broken(&mut self, what: String) {
        if self.broken.len() < 5 {
            self.broken.push(format!("{}: {what}", self.operation));
        }
    }
}

/// The models, each with the number of its draws.
fn models(draws: u64) -> Vec<(Persistence, u64)> {
    let fixed = [(Persistence::Nothing, 1), (Persistence::All, 1)];
    let drawn = [Persistence::Prefix, Persistence::Subset, Persistence::Torn];
    fixed.into_iter().chain(drawn.map(|model| (model, draws))).collect()
}

/// Fills the matrix, row by row; `told` hears of each row when it is done.
pub fn run(effort: Effort, only: &[String], mut told: impl FnMut(&Row)) -> Vec<Row> {
    in_simulation(|| {
        let reference = Reference::new();
        let mut rows = Vec::new();
        for operation in ALL {
            if only.is_empty() || only.iter().any(|name| name == operation.name) {
                let row = fill(operation, &reference, effort);
                told(&row);
                rows.push(row);
            }
        }
        rows
    })
}

/// The disks keep a trace, and that needs a simulation's clock, which stands still here.
fn in_simulation<T>(act: impl FnOnce() -> T) -> T {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async move { act() })
}

/// A directory that is a machine's disk.
struct Machine {
    _dir: tempfile::TempDir,
    host: Arc<HostDisk>,
}

impl Machine {
    /// Makes one with a copy of `from` on it, all of it durable.
    fn new(from: Option<&Path>) -> Self {
        let dir = crate::temporary_dir();
        let root = dir.path().join("m1");
        std::fs::create_dir(&root).expect("the directory is new");
        if let Some(from) = from {
            copy(from, &root);
        }
        let host = HostDisk::new(root, Trace::new());
        Self { _dir: dir, host }
    }

    fn root(&self) -> PathBuf {
        self.host.root().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.host.forget();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("the directory is there") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("an entry has a name");
        if name == "lock.mdb" {
            continue; // LMDB's table of readers; made anew by each process.
        }
        let to = to.join(name);
        if path.is_dir() {
            std::fs::create_dir(&to).expect("the copy is new");
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("the file can be copied");
        }
    }
}

/// Names what is on a disk.
fn fingerprint(root: &Path) -> u64 {
    fn walk(root: &Path, hasher: &mut DefaultHasher) {
        let entries = std::fs::read_dir(root).expect("the directory is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("one").path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().expect("an entry has a name");
            if name == "lock.mdb" || name == "lock" {
                continue;
            }
            hasher.write(name.as_encoded_bytes());
            if path.is_dir() {
                hasher.write(b"/");
                walk(&path, hasher);
            } else {
                hasher.write(&std::fs::read(&path).expect("a file can be read"));
            }
        }
        hasher.write(b"..");
    }
    let mut hasher = DefaultHasher::new();
    walk(root, &mut hasher);
    hasher.finish()
}

fn fill(operation: &Operation, reference: &Reference, effort: Effort) -> Row {
    let mut row = Row { operation: operation.name, ..Row::default() };
    let template = Machine::new(None);
    (operation.prepare)(&mut Stage::new(&template.host, reference));
    let root = template.root();
    row.calls = {
        let machine = Machine::new(Some(&root));
        let (_, calls) = begin(operation, &machine, reference, None);
        calls
    };
    for call in 1..=row.calls {
        let mut seen = BTreeSet::new();
        for (model, draws) in models(effort.draws) {
            for draw in 0..draws {
                let machine = Machine::new(Some(&root));
                let (promise, _) = begin(operation, &machine, reference, Some(call));
                let mut rng = Rng::new(call * 100 + draw, operation.name);
                machine.host.power_loss(model, &mut rng);
                row.losses += 1;
                if !seen.insert(fingerprint(&machine.root())) {
                    continue;
                }
                row.images += 1;
                let what = format!("call {call}, {model:?} {draw}");
                let deeper = effort.deeper_each > 0 && row.images % effort.deeper_each == 0;
                let image = deeper.then(|| Machine::new(Some(&machine.root())));
                let came = member::recover(&machine.host, reference, &promise);
                take(&mut row, &what, came);
                if let Some(image) = image {
                    crash_again(&mut row, &what, &image.root(), reference, &promise, effort);
                }
            }
        }
    }
    row
}

/// Begins the operation on a copy of the prepared member, and lets the power go in a call of it.
/// Returns what was promised until then, and how many calls there were.
fn begin(
    operation: &Operation,
    machine: &Machine,
    reference: &Reference,
    call: Option<u64>,
) -> (Promise, u64) {
    let mut stage = Stage::new(&machine.host, reference);
    stage.open(operation.begins_fresh);
    let before = machine.host.counters().operations;
    if let Some(call) = call {
        machine.host.crash_in(call);
    }
    let done = (operation.act)(&mut stage);
    let calls = machine.host.counters().operations - before;
    if call.is_none() {
        done.expect("without a crash the operation succeeds");
    }
    let promise = stage.promise.clone();
    stage.close();
    machine.host.freeze();
    (promise, calls)
}

fn take(row: &mut Row, what: &str, came: Result<member::Came, String>) {
    match came {
        Ok(member::Came::Back) => row.recovered += 1,
        Ok(member::Came::Fresh) => row.fresh += 1,
        Ok(member::Came::Refused(error)) => {
            row.refused += 1;
            row.broken(format!("{what}: refused: {error}"));
        }
        Err(wrong) => row.broken(format!("{what}: {wrong}")),
    }
}

/// Crashes the recovery of an image in each of its calls.
fn crash_again(
    row: &mut Row,
    what: &str,
    image: &Path,
    reference: &Reference,
    promise: &Promise,
    effort: Effort,
) {
    row.crashed_again += 1;
    let mut call = 0;
    loop {
        call += 1;
        let mut seen = BTreeSet::new();
        let mut ended = false;
        for (model, draws) in models(effort.deeper_draws) {
            for draw in 0..draws {
                let machine = Machine::new(Some(image));
                let crashes = machine.host.counters().crashes;
                member::boot_and_die(&machine.host, call);
                ended |= machine.host.counters().crashes == crashes;
                let mut rng = Rng::new(call * 100 + draw, row.operation);
                machine.host.power_loss(model, &mut rng);
                if ended || !seen.insert(fingerprint(&machine.root())) {
                    continue;
                }
                row.deeper_images += 1;
                let what = format!("{what}, then recovery's call {call}, {model:?} {draw}");
                match member::recover(&machine.host, reference, promise) {
                    Ok(member::Came::Back | member::Came::Fresh) => {}
                    Ok(member::Came::Refused(error)) => {
                        row.refused += 1;
                        row.broken(format!("{what}: refused: {error}"));
                    }
                    Err(wrong) => row.broken(format!("{what}: {wrong}")),
                }
            }
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_loss_in_any_call_breaks_no_promise() {
        let rows = run(Effort::QUICK, &[], |_| ());
        let broken: Vec<&String> = rows.iter().flat_map(|row| &row.broken).collect();
        assert!(broken.is_empty(), "{broken:#?}");
        assert_eq!(rows.len(), ALL.len());
        for row in &rows {
            assert_eq!(row.fresh + row.recovered, row.images, "{row:?}");
            assert!(row.calls >= 4 && row.images > row.calls / 2, "it did too little: {row:?}");
        }
        assert!(rows.iter().map(|row| row.deeper_images).sum::<u64>() > 20);
    }

    /// A founder whose log had its name before its beginning was in it could not start again: its store
    /// held the founders' entries, and the log seemed to have lost them.
    #[test]
    fn a_founder_that_lost_power_starts_or_is_none_yet() {
        let rows =
            run(Effort { draws: 3, deeper_each: 8, deeper_draws: 1 }, &["founding".into()], |_| ());
        let [row] = &rows[..] else { panic!("one row") };
        assert!(row.broken.is_empty() && row.refused == 0, "{row:?}");
        assert!(row.fresh > 40 && row.recovered >= 3, "{row:?}");
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn planted_defects_of_the_store_break_promises() {
        for mutant in ["E01", "S06"] {
            let before = mainstay::mutants::activate(&[mutant]);
            let effort = Effort { draws: 1, deeper_each: 0, deeper_draws: 0 };
            let rows = run(effort, &["store flush".into(), "snapshot install".into()], |_| ());
            mainstay::mutants::activate(&before.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(rows.iter().any(|row| !row.broken.is_empty()), "{mutant} is not seen");
        }
    }
}
