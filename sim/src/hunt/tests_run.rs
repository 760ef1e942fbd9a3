//! The planted defects that unit tests see: log, store and MVCC have tests that switch each one on and
//! demand that the suite beside the code fails. Here they are run, and what they say is read.

use std::collections::BTreeMap;
use std::process::Command;

/// What the tests said of one defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The test that fails with it.
    pub test: String,
    /// Random inputs until it did; `None` for a test that walks through all cases.
    pub inputs: Option<u64>,
}

/// Runs the tests and returns what they said, by defect. They print
/// `planted E08: seen by some_test after 3`.
pub fn seen_by_tests() -> Result<BTreeMap<String, Seen>, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.args(["test", "--quiet", "--workspace", "--features", "sim/mutants", "--lib", "--"]);
    cargo.args(["--nocapture", "--test-threads=1", "planted_", "::mutants::"]);
    let output = cargo.output().map_err(|error| format!("cargo does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("the tests of the planted defects fail:\n{text}"));
    }
    Ok(read(&text))
}

fn read(text: &str) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    for line in text.lines() {
        // The harness writes its own dots before what a test prints.
        let Some((_, rest)) = line.split_once("planted ") else { continue };
        let Some((id, rest)) = rest.split_once(": seen by ") else { continue };
        let (test, inputs) = match rest.split_once(" after ") {
            Some((test, inputs)) => (test, inputs.trim().parse().ok()),
            None => (rest.trim(), None),
        };
        seen.insert(id.to_owned(), Seen { test: test.to_owned(), inputs });
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tests_are_understood() {
        let seen =
            read("running 2 tests\n.planted E01: seen by a_test\nplanted E08: seen by b after 3\n");
        assert_eq!(seen["E01"], Seen { test: "a_test".into(), inputs: None });
        assert_eq!(seen["E08"], Seen { test: "b".into(), inputs: Some(3) });
        assert_eq!(seen.len(), 2);
    }
}
