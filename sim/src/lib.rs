//! The deterministic cluster: a seed in, a verdict out.
//!
//! Two levels run here. At level 0 ([`storm`]) the bare Raft core is in a discrete-event loop of its
//! own. At level 1 whole production servers run: entered through their own `start`, on the
//! real LMDB, speaking real gRPC bytes, on a runtime whose every delay, loss and crash one seed decides.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | everything the seed decides beforehand |
//! | [`runtime`], [`network`], [`disk`], [`time`] | the simulated powers |
//! | [`world`] | machines and the processes on them |
//! | [`workload`] | clients, and the history they record |
//! | [`nemesis`] | what goes wrong |
//! | [`buggify`] | which of the server's rare ways are taken |
//! | [`run`] | rough time, healing, demands, judgement |
//! | [`scenarios`] | situations written by hand |
//! | [`crash_matrix`] | the power taken in every call of every operation on a member's disk |
//! | [`hunt`] | planted defects, and how many seeds each survives |
//! | [`timeline`] | a run as a page that a person can read |
//! | [`shrink`] | making a failing seed small |
//! | [`invariants`] | what must hold, beside what `jepsen/checker` judges |
//!
//! Determinism: each run has a fresh thread and its own simulation; all randomness is drawn from
//! the seed; [`trace`] hashes every packet, disk call and client operation, so that two runs can be compared.

#[cfg(madsim)]
pub mod admin;
#[cfg(madsim)]
pub mod buggify;
#[cfg(madsim)]
pub mod crash_matrix;
#[cfg(madsim)]
pub mod crypto;
#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
pub mod hunt;
#[cfg(madsim)]
mod intercept;
#[cfg(madsim)]
pub mod invariants;
#[cfg(madsim)]
pub mod logs;
#[cfg(madsim)]
pub mod nemesis;
#[cfg(madsim)]
pub mod network;
#[cfg(madsim)]
pub mod plan;
pub mod rng;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
pub mod runtime;
#[cfg(madsim)]
pub mod scenarios;
#[cfg(madsim)]
pub mod shrink;
pub mod storm;
#[cfg(madsim)]
pub mod time;
#[cfg(madsim)]
pub mod timeline;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
mod verdict;
#[cfg(madsim)]
pub mod workload;
#[cfg(madsim)]
pub mod world;

/// Reads the sources below a directory of the repository, by their paths: for tests that hold lists against them.
#[cfg(all(test, madsim))]
pub(crate) fn sources(below: &str) -> Vec<(std::path::PathBuf, String)> {
    let (mut found, mut dirs) =
        (Vec::new(), vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(below)]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("the sources are there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                found.push((path, text));
            }
        }
    }
    found
}

const DIR_PREFIX: &str = "mainstay-sim-";

/// Makes an empty directory for a run's disks, in memory where the system offers that.
///
/// It is removed at the run's end; what a killed process left is removed by the next one's first run, or
/// memory would fill up.
pub fn temporary_dir() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    static SWEEP: std::sync::Once = std::sync::Once::new();
    SWEEP.call_once(|| remove_orphans(&place));
    let prefix = format!("{DIR_PREFIX}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(place);
    made.expect("the simulated disks need a place for their files")
}

/// Removes the directories of processes that are no more.
fn remove_orphans(place: &std::path::Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid =
            name.strip_prefix(DIR_PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        let Some(pid): Option<u32> = pid else { continue };
        let proc = std::path::Path::new("/proc");
        if proc.is_dir() && !proc.join(pid.to_string()).exists() {
            // Another process may have been quicker.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
