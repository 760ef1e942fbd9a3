//! What can go wrong with the store, and the words an operator reads.

use std::io;
use std::path::PathBuf;

use super::schema::FORMAT_VERSION;

/// Why the store could not be opened, written or finished.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no store in the directory.
    #[error("no store in {}", .0.display())]
    Missing(PathBuf),
    /// A new store was asked for where one is.
    #[error("there is already a store in {}", .0.display())]
    Exists(PathBuf),
    /// This process has the directory open; an environment is opened once.
    #[error("the store in {} is already open in this process", .0.display())]
    AlreadyOpen(PathBuf),
    /// An LMDB environment that something else wrote.
    #[error("{} holds an LMDB environment, but not one of Mainstay's", .0.display())]
    NotMainstay(PathBuf),
    /// The file is not LMDB's, or so damaged that LMDB does not know it.
    #[error("{} is not a readable LMDB environment ({reason})", dir.display())]
    Unreadable {
        /// Where.
        dir: PathBuf,
        /// What LMDB says.
        reason: String,
    },
    /// A store of another format version.
    #[error(
        "the store in {} has format version {found}; this program knows version {FORMAT_VERSION} only",
        dir.display()
    )]
    Version {
        /// Where.
        dir: PathBuf,
        /// The version found there.
        found: u32,
    },
    /// A bulk load into this store never finished.
    #[error("the store in {} was being loaded and is incomplete", .0.display())]
    Incomplete(PathBuf),
    /// A write from outside that no store can take.
    #[error("an impossible write: {0}")]
    BadWrite(&'static str),
    /// A structure inside the store is damaged.
    #[error("the store is damaged: {0}")]
    Rot(String),
    /// The address space set aside for the store is used up.
    #[error("the store's map is full")]
    MapFull,
    /// The file system refused.
    #[error("the store's file system: {0}")]
    Io(#[from] io::Error),
    /// LMDB refused for another reason.
    #[error("LMDB: {0}")]
    Engine(String),
    /// An earlier write failed; nothing more is written until a restart re-reads the truth.
    #[error("the store refuses to write since an earlier failure: {0}")]
    Poisoned(String),
}
