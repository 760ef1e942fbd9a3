//! What can go wrong with the log, and the words an operator reads.

use std::io;
use std::path::PathBuf;

use crate::types::{Index, LogPosition};

/// Why the log could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no log in the directory.
    #[error("no log in {}", .0.display())]
    Missing(PathBuf),
    /// A new log was asked for where one is.
    #[error("there is already a log in {}", .0.display())]
    Exists(PathBuf),
    /// Somebody else has the log open.
    #[error("the log in {} is locked: is another process running on this directory?", .0.display())]
    Locked(PathBuf),
    /// A segment of another format version.
    #[error("{} has log format version {found}; this program knows version {} only",
        segment.display(), super::record::LOG_VERSION)]
    Version {
        /// The file.
        segment: PathBuf,
        /// The version found there.
        found: u32,
    },
    /// Something that was durable is damaged or gone. Never repaired by cutting: what follows may have
    /// been promised to others. The member is to be rebuilt from its peers.
    #[error("the log is damaged in {} at byte {offset}: {what}", segment.display())]
    Rot {
        /// The file.
        segment: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A segment between two others is gone, or the first ones are.
    #[error("the log in {} lacks segment {number}", dir.display())]
    MissingSegment {
        /// The log's directory.
        dir: PathBuf,
        /// The number of the segment.
        number: u64,
    },
    /// Entries that should be there are in no segment.
    #[error("the log in {} lacks the entries from {from} to {upto}", dir.display())]
    MissingEntries {
        /// The log's directory.
        dir: PathBuf,
        /// The first one.
        from: Index,
        /// The last one.
        upto: Index,
    },
    /// The checksums are right and the contents contradict one another: a bug, not damage.
    #[error("the log contradicts itself in {} at byte {offset}: {what}", segment.display())]
    Contradiction {
        /// The file.
        segment: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The log ends before something that is known to have been in it.
    #[error("the log ends at {last}, but {known} was in it: its end was lost")]
    TooShort {
        /// The last entry found.
        last: LogPosition,
        /// What is known.
        known: LogPosition,
    },
    /// The file system refused.
    #[error("the log's file system, {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// An earlier write or sync failed; nothing more is written until a restart re-reads the truth.
    #[error("the log refuses to write since an earlier failure: {0}")]
    Poisoned(String),
}

/// Attaches a path to an IO error.
pub(super) trait At<T> {
    fn at(self, path: &std::path::Path) -> Result<T, LogError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { path: path.to_owned(), source })
    }
}
