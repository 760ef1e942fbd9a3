//! What must hold at all times, beside what the history's checker judges: one property a file.

pub mod catalogue;
pub mod leaders;
pub mod monotonic;
pub mod storage;

use std::sync::{Arc, Mutex};

use crate::trace::lock;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The check that found it; mutation hunts rely on the name.
    pub checker: String,
    /// What is wrong.
    pub message: String,
}

impl Violation {
    /// A violation found by a check.
    pub fn new(checker: &str, message: impl Into<String>) -> Self {
        Self { checker: checker.to_owned(), message: message.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.checker, self.message)
    }
}

/// Where whoever sees a violation while the run goes on leaves it. Clones share it.
#[derive(Clone, Default)]
pub struct Found(Arc<Mutex<Vec<Violation>>>);

impl Found {
    /// Leaves one.
    pub fn add(&self, violation: Violation) {
        crate::timeline::broken(&violation.checker);
        lock(&self.0).push(violation);
    }

    /// Says whether there is any.
    pub fn any(&self) -> bool {
        !lock(&self.0).is_empty()
    }

    /// Takes all of them.
    pub fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut *lock(&self.0))
    }
}
