//! Planted defects. The simulator proves that it can see by catching each of them: a *mutant* is a
//! known way to be wrong, written beside the right code as `if mutant!("R01") { … }` and switched on
//! by name at run time.
//!
//! Without the feature `mutants`, `mutant!` is always false and the compiler drops the branch, names
//! included: a release build carries no trace. With it, the active set belongs to the *thread*, so
//! that seeds hunted on several threads do not disturb one another. Only the hunt in `sim/` asks for
//! the feature.

/// Tells whether the named planted defect is switched on for this thread.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutants::active($name)
    };
}

/// Tells whether the named planted defect is switched on: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn active(_name: &str) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use switch::{activate, active};

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::RefCell;

    thread_local! {
        static ACTIVE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Tells whether `name` is switched on for this thread.
    pub fn active(name: &str) -> bool {
        ACTIVE.with_borrow(|set| set.iter().any(|on| on == name))
    }

    /// Switches on exactly the named defects for this thread and returns the set it replaces.
    pub fn activate(names: &[&str]) -> Vec<String> {
        let next = names.iter().map(|name| (*name).to_owned()).collect();
        ACTIVE.replace(next)
    }
}

/// Demands that a test fails with a planted defect, and passes without.
#[cfg(all(test, feature = "mutants"))]
macro_rules! assert_seen {
    ($defect:literal, $test:path) => {
        $crate::mutants::assert_seen_by($defect, stringify!($test), $test)
    };
}

#[cfg(all(test, feature = "mutants"))]
pub(crate) use assert_seen;

/// What [`assert_seen`] does with a test of this name. The hunt in `sim/` reads what is printed.
#[cfg(all(test, feature = "mutants"))]
pub(crate) fn assert_seen_by(defect: &str, name: &str, test: fn()) {
    use std::panic::catch_unwind;

    catch_unwind(test).expect("the test passes on the clean code");
    let clean = activate(&[defect]);
    let seen = catch_unwind(test).is_err();
    activate(&clean.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(seen, "{defect} is not seen by {name}");
    println!("planted {defect}: seen by {name}");
}
