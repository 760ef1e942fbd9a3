//! The operations of the matrix: how a member is prepared, and what is then done while the power goes.

use mainstay::machine::snapshot::{Receiver, Sender};
use mainstay::machine::{Machine, MachineOptions};
use mainstay::mvcc::ScrubProgress;
use mainstay::raft::{Entry, HardState};
use mainstay::runtime::Disk;
use mainstay::storage::{Storage, StorageOptions, generations};
use mainstay::types::{Index, NodeId, Term};

use super::member::{Act, FOUNDERS, Stage, close, said};

/// One row of the matrix.
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// Whether it begins without a member.
    pub(super) begins_fresh: bool,
    /// Makes the member that it begins with.
    pub(super) prepare: fn(&mut Stage<'_>),
    /// Does it.
    pub(super) act: fn(&mut Stage<'_>) -> Act,
}

/// All of them.
pub const ALL: &[Operation] = &[
    Operation { name: "founding", begins_fresh: true, prepare: |_| (), act: |stage| stage.found() },
    Operation { name: "log append", begins_fresh: false, prepare: ten_entries, act: append },
    Operation { name: "log rotation", begins_fresh: false, prepare: nearly_full, act: rotate },
    Operation { name: "hard state", begins_fresh: false, prepare: ten_entries, act: vote },
    Operation { name: "log truncation", begins_fresh: false, prepare: losers, act: truncate },
    Operation { name: "log trim", begins_fresh: false, prepare: stored, act: trim },
    Operation { name: "log close", begins_fresh: false, prepare: ten_entries, act: close_log },
    Operation { name: "store flush", begins_fresh: false, prepare: all_logged, act: flush },
    Operation { name: "compaction", begins_fresh: false, prepare: all_logged, act: compact },
    Operation { name: "snapshot receive", begins_fresh: false, prepare: behind, act: receive },
    Operation { name: "snapshot install", begins_fresh: false, prepare: behind, act: install },
    Operation { name: "store copy", begins_fresh: false, prepare: stored, act: copy },
];

const TERM: Term = Term(2);

fn hard(commit: u64) -> Option<HardState> {
    Some(HardState { term: TERM, vote: Some(NodeId(5)), commit: Index(commit) })
}

/// Makes a member whose log holds the story up to an entry.
fn logged(stage: &mut Stage<'_>, upto: u64) {
    stage.found().expect("a fresh disk is in order");
    reopen(stage);
    for index in FOUNDERS + 1..=upto {
        let entry = stage.reference.story(index, index).to_vec();
        stage.append(&entry, hard(index - 1)).expect("nothing fails");
    }
}

fn reopen(stage: &mut Stage<'_>) {
    let (reference, host) = (stage.reference, stage.disk.host().clone());
    let old = std::mem::replace(stage, Stage::new(&host, reference));
    old.close();
    stage.open(false);
}

fn shut(stage: &mut Stage<'_>) {
    if let Some(log) = stage.log.take() {
        log.close().expect("nothing fails");
    }
    if let Some(machine) = stage.machine.take() {
        close(machine);
    }
}

fn ten_entries(stage: &mut Stage<'_>) {
    logged(stage, 10);
    shut(stage);
}

fn append(stage: &mut Stage<'_>) -> Act {
    for (from, to) in [(11, 11), (12, 14), (15, 15)] {
        let entries = stage.reference.story(from, to).to_vec();
        stage.append(&entries, hard(from - 1))?;
        said(stage.log().seal())?;
    }
    Ok(())
}

fn nearly_full(stage: &mut Stage<'_>) {
    logged(stage, 24);
    shut(stage);
}

/// Fills the segment and goes on in the next one, first without a spare, then with one.
fn rotate(stage: &mut Stage<'_>) -> Act {
    let first = stage.log().size().0;
    let mut index = 25;
    for segments in [first + 1, first + 2] {
        while stage.log().size().0 < segments {
            let entries = stage.reference.story(index, index).to_vec();
            // Several hard states: they fill it as well, and the story need not be so long.
            stage.append(&entries, hard(index - 1))?;
            index += 1;
            assert!(index < 40, "the segments are too large for the story");
        }
        if let Some(job) = stage.log().spare_job() {
            said(job.run())?;
        }
    }
    Ok(())
}

fn vote(stage: &mut Stage<'_>) -> Act {
    for (term, vote) in [(3, None), (3, Some(NodeId(2))), (7, Some(NodeId(1)))] {
        stage.append(&[], Some(HardState { term: Term(term), vote, commit: Index(9) }))?;
    }
    Ok(())
}

/// A log whose end is another leader's, never committed.
fn losers(stage: &mut Stage<'_>) {
    logged(stage, 8);
    let lost: Vec<Entry> = (9..=14)
        .map(|index| Entry {
            term: TERM,
            index: Index(index),
            payload: mainstay::raft::Payload::Command(vec![0xee; 40].into()),
        })
        .collect();
    stage.append(&lost, None).expect("nothing fails");
    shut(stage);
}

fn truncate(stage: &mut Stage<'_>) -> Act {
    let winners = stage.reference.story(9, 11).to_vec();
    stage.append(&winners, hard(9))?;
    let more = stage.reference.story(12, 12).to_vec();
    stage.append(&more, hard(11))
}

/// A member with several segments, all of whose entries are in the store.
fn stored(stage: &mut Stage<'_>) {
    let end = u64::try_from(stage.reference.entries.len()).expect("few");
    logged(stage, end);
    for upto in [12, 30, end] {
        stage.apply(upto);
        stage.flush().expect("nothing fails");
    }
    assert!(stage.log().size().0 > 1, "there is more than one segment");
    shut(stage);
}

fn trim(stage: &mut Stage<'_>) -> Act {
    for upto in [20, 30, 36] {
        stage.trim(upto)?;
        stage.sync()?;
    }
    // Only a durable mark lets segments go.
    stage.trim(36)
}

fn close_log(stage: &mut Stage<'_>) -> Act {
    let entries = stage.reference.story(11, 11).to_vec();
    stage.pend(&entries, hard(10))?;
    let log = stage.log.take().expect("the member is open");
    said(log.close())?;
    stage.promise.synced = stage.promise.next.clone();
    Ok(())
}

/// A member whose log holds the whole story, and whose store the first part.
fn all_logged(stage: &mut Stage<'_>) {
    let end = u64::try_from(stage.reference.entries.len()).expect("few");
    logged(stage, end);
    stage.apply(9);
    stage.flush().expect("nothing fails");
    shut(stage);
}

/// A member whose log holds the whole story and whose store most of it, closed as at an orderly end.
pub(super) fn mostly_stored(stage: &mut Stage<'_>) {
    let end = u64::try_from(stage.reference.entries.len()).expect("few");
    logged(stage, end);
    for upto in [12, end - 3] {
        stage.apply(upto);
        stage.flush().expect("nothing fails");
    }
    shut(stage);
}

/// Three batches, a change of members among them.
fn flush(stage: &mut Stage<'_>) -> Act {
    let end = u64::try_from(stage.reference.entries.len()).expect("few");
    for upto in [12, 28, end] {
        stage.apply(upto);
        stage.flush()?;
    }
    Ok(())
}

/// The compaction's entry, its flush, and the walk that removes what it made superfluous.
fn compact(stage: &mut Stage<'_>) -> Act {
    stage.apply(33);
    stage.flush()?;
    let (storage, store) = (stage.machine().storage(), stage.machine().reader().store());
    assert!(store.scrub_pending(), "the story has compacted by then");
    loop {
        let stepped = said(storage.maintenance(|txn| store.scrub_step(txn, 5)))?;
        if said(stepped)? == ScrubProgress::Idle {
            return Ok(());
        }
    }
}

/// A member that lacks most of the story, in log and store alike.
fn behind(stage: &mut Stage<'_>) {
    logged(stage, 12);
    stage.apply(10);
    stage.flush().expect("nothing fails");
    shut(stage);
}

/// A peer that has it all, in memory: its reading is no concern of this disk's.
fn peer(stage: &Stage<'_>) -> (tempfile::TempDir, Machine) {
    let dir = crate::temporary_dir();
    let storage = Storage::create(dir.path(), StorageOptions::default()).expect("created");
    let options = MachineOptions { cluster_id: stage.reference.cluster };
    let mut machine = Machine::open(storage, options).expect("an empty store opens");
    machine.apply(&stage.reference.entries);
    (dir, machine)
}

/// Builds a store from a peer's pieces, in a directory of its own, and leaves it there.
fn receive_into(stage: &mut Stage<'_>) -> Result<(std::path::PathBuf, Storage), String> {
    let (_dir, machine) = peer(stage);
    let built = (|| {
        let dir = said(generations::fresh(&stage.disk, &stage.places.stores))?;
        let options = StorageOptions::default();
        let mut receiver = said(Receiver::create(&dir, options, stage.reference.cluster))?;
        let mut sender = Sender::new(&machine);
        while let Some(chunk) = sender.next_chunk() {
            said(receiver.take(chunk))?;
        }
        Ok((dir, said(receiver.finish())?))
    })();
    close(machine);
    built
}

/// A snapshot that arrives and is not wanted in the end: its directory is removed.
fn receive(stage: &mut Stage<'_>) -> Act {
    let (dir, storage) = receive_into(stage)?;
    storage.close().wait();
    said(stage.disk.remove_dir_all(&dir))
}

/// A snapshot that arrives and is put in force, step by step as `server::snapshots` does it.
fn install(stage: &mut Stage<'_>) -> Act {
    let (dir, storage) = receive_into(stage)?;
    let position = storage.applied();
    // From here on the new store may be the one in force.
    stage.promise.stored_next = position.index;
    stage.promise.installs = Some(position);
    let switched = said(generations::switch(&stage.disk, &stage.places.stores, &dir));
    if let Err(error) = switched {
        storage.close().wait();
        return Err(error);
    }
    stage.promise.stored = position.index;
    let old = said(stage.machine().install(storage))?;
    let behind = old.dir();
    old.close().wait();
    said(stage.disk.remove_dir_all(&behind))?;
    stage.mark_installed(position)
}

/// A compact copy of the store, put in force in its place.
fn copy(stage: &mut Stage<'_>) -> Act {
    let storage = stage.machine().storage();
    let dir = said(generations::fresh(&stage.disk, &stage.places.stores))?;
    let copied = said(storage.copy_to(&dir, StorageOptions::default()))?;
    let switched = said(generations::switch(&stage.disk, &stage.places.stores, &dir));
    if let Err(error) = switched {
        copied.close().wait();
        return Err(error);
    }
    let behind = storage.dir();
    storage.replace_with_copy(copied).wait();
    said(stage.disk.remove_dir_all(&behind))
}
