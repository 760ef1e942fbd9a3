//! Places where the code may take a way that is allowed and rare, and takes it often in simulation.
//!
//! A queue that is full, a batch of one, a message that arrives twice, a page that ends early: the callers
//! must cope with all of it, and in a run of seconds none of it happens by itself. `buggify!("site")` at
//! such a place is false, unless a simulator has installed a [`Decider`] that says otherwise. The idea and
//! the name are FoundationDB's (Zhou and others, SIGMOD 2021, §4).
//!
//! Rules for a site:
//! - the way that it opens is *correct*: no promise to a client, a peer or the disk may rest on its not
//!   being taken. (A way that is wrong is a [mutant](crate::mutants).)
//! - its name is unique; `sim buggify` lists all sites, and says how often each was reached and taken.
//!
//! Without debug assertions (the release server) a site is the constant `false`, and its name is not in the
//! program. The static is the one exception to "everything comes from the runtime's value": a site deep in
//! the store or in HTTP has no runtime at hand. It holds a plain function, never a run's state.

use std::sync::OnceLock;

/// Decides whether the site of this name is taken now.
pub type Decider = fn(&'static str) -> bool;

static DECIDER: OnceLock<Decider> = OnceLock::new();

/// Tells whether the rare way is to be taken at this place; see [`runtime::buggify`](crate::runtime::buggify).
#[macro_export]
macro_rules! buggify {
    ($site:literal) => {
        cfg!(debug_assertions) && $crate::runtime::buggify::decide($site)
    };
    // One value by default, another one in the rare case.
    ($site:literal, $rare:expr, $else:expr) => {
        if $crate::buggify!($site) { $rare } else { $else }
    };
}

/// Lets `decider` decide from now on, in the whole process. The first one stays.
pub fn install(decider: Decider) {
    // A second simulation in one process brings the same function.
    let _ = DECIDER.set(decider);
}

/// Asks the decider; false without one.
pub fn decide(site: &'static str) -> bool {
    DECIDER.get().is_some_and(|decider| decider(site))
}
