//! The deterministic cluster: a seed in, a verdict out.

#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
mod intercept;
#[cfg(madsim)]
pub mod network;
pub mod rng;
#[cfg(madsim)]
pub mod runtime;
#[cfg(madsim)]
pub mod time;
#[cfg(madsim)]
pub mod trace;

/// Makes an empty directory for a run's disks, in memory where the system offers that.
pub fn temporary_dir() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let named = tempfile::Builder::new().prefix("mainstay-sim-").to_owned();
    let made = if memory.is_dir() { named.tempdir_in(memory) } else { named.tempdir() };
    made.expect("the simulated disks need a place for their files")
}
