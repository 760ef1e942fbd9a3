//! What a person is told of a run.

use std::fmt;

use crate::run::{Failure, Report};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u64 = self.fired.values().sum();
        write!(
            f,
            "seed {}: {:.1} s simulated, {} operations ({} answered, {} refused, {} unknown), \
             r{}, {} watch events, {} terms, {} faults, {} packets, {} disk calls; {} events, hash {:016x}",
            self.seed,
            self.simulated.as_secs_f64(),
            self.score.sent,
            self.score.answered,
            self.score.refused,
            self.score.unknown,
            self.revision,
            self.events,
            self.terms,
            faults,
            self.network.packets,
            self.disk.operations,
            self.hash.1,
            self.hash.0,
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan)?;
        writeln!(f, "{}", self.report)?;
        writeln!(f, "BROKEN:")?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        writeln!(f, "members:")?;
        for line in &self.states {
            writeln!(f, "  {line}")?;
        }
        write!(f, "replay: {}", self.replay)
    }
}
