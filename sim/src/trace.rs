//! The rolling hash of a run: every packet, disk call and client operation in order, with its time.
//!
//! Two runs of one seed, in two processes, must end with the same hash. Where they do not, the same
//! events as text show the first difference: set `MAINSTAY_SIM_TRACE` to a file to have them written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use madsim::time::TimeHandle;

/// Locks; a panic elsewhere is the run's verdict already and must not become a second one here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hash of a run so far. Clones share it.
#[derive(Clone)]
pub struct Trace {
    state: Arc<Mutex<State>>,
    time: TimeHandle,
}

struct State {
    hash: u64,
    events: u64,
    text: Option<BufWriter<File>>,
}

fn mix(hash: u64, value: u64) -> u64 {
    let mut z = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z ^= z >> 29;
    z.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Trace {
    /// Starts the trace of a run, inside its simulation.
    pub fn new() -> Self {
        let text = std::env::var_os("MAINSTAY_SIM_TRACE")
            .and_then(|path| File::create(path).ok())
            .map(BufWriter::new);
        let state = Arc::new(Mutex::new(State { hash: 0, events: 0, text }));
        Self { state, time: TimeHandle::current() }
    }

    /// Takes an event in: what it is, and up to three numbers that describe it.
    pub fn note(&self, what: &str, numbers: [u64; 3]) {
        crate::timeline::noted(what, numbers);
        let now = u64::try_from(self.time.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut state = lock(&self.state);
        let mut hash =
            what.bytes().fold(mix(state.hash, now), |h, b| h.rotate_left(5) ^ u64::from(b));
        for number in numbers {
            hash = mix(hash, number);
        }
        state.hash = hash;
        state.events += 1;
        if let Some(text) = &mut state.text {
            // A trace that cannot be written is missed by nobody but the person who asked for it.
            let _ = writeln!(text, "{now} {what} {numbers:?} {hash:016x}");
        }
    }

    /// Returns the hash and the number of events.
    pub fn sum(&self) -> (u64, u64) {
        let mut state = lock(&self.state);
        if let Some(text) = &mut state.text {
            let _ = text.flush();
        }
        (state.hash, state.events)
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}
