//! Tests of the store on the real LMDB.

pub(crate) mod disk;
mod mirror;
mod rot;
mod script;
mod store;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::types::Term;

/// Opens or creates a store with a small map.
fn open(dir: &Path) -> Storage {
    Storage::open_or_create(dir, options()).expect("the store opens")
}

fn options() -> StorageOptions {
    StorageOptions { map_bytes: 1 << 28, max_readers: 32, ..StorageOptions::default() }
}

fn at(index: u64) -> LogPosition {
    LogPosition::new(Index(index), Term(1))
}

/// Applies one change set after the newest one.
fn apply(storage: &Storage, writes: Vec<Write>) {
    let position = at(storage.applied().index.next().0);
    storage.apply(ChangeSet { position, writes });
}

fn flush(storage: &Storage) {
    if let Some(job) = storage.begin_flush() {
        job.run().expect("the batch is written");
    }
}

fn reopen(storage: Storage, dir: &Path) -> Storage {
    storage.close().wait();
    open(dir)
}
