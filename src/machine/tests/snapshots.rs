//! Snapshots: what arrives is what was sent, or it is refused.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::snapshot::{Chunk, ReceiveError, Receiver, Sender};
use super::super::{Machine, MachineError, MachineOptions};
use super::properties::{any_log, picture, scrub, told};
use super::{CLUSTER, World, bytes};
use crate::command::{DeleteRange, KeyRange, Op, Put};
use crate::mvcc::Damage;
use crate::storage::{Storage, StorageOptions, Table};
use crate::types::{ClusterId, LeaseId};

fn options() -> StorageOptions {
    StorageOptions { map_bytes: 1 << 30, ..StorageOptions::default() }
}

fn chunks(sender: &mut Sender) -> Vec<Chunk> {
    std::iter::from_fn(|| sender.next_chunk()).collect()
}

fn receive(dir: &Path, chunks: impl IntoIterator<Item = Chunk>) -> Result<Storage, ReceiveError> {
    let mut receiver = Receiver::create(dir, options(), CLUSTER)?;
    for chunk in chunks {
        receiver.take(chunk)?;
    }
    receiver.finish()
}

/// A machine with a few of everything.
fn sample() -> World {
    let mut world = World::new();
    let put = |key: &str, value: &str, lease| {
        Op::Put(Put {
            key: bytes(key),
            value: bytes(value),
            lease: LeaseId(lease),
            ..Put::default()
        })
    };
    world.apply_op(Op::LeaseGrant { id: LeaseId(7), ttl: 60 });
    world.apply_op(Op::LeaseGrant { id: LeaseId(-8), ttl: 60 });
    for n in 0..300 {
        world.apply_op(put(&format!("k{:03}", n % 150), &format!("v{n}"), [0, 7, -8][n % 3]));
    }
    let range = KeyRange::from_wire(bytes("k01"), bytes("k02"));
    world.apply_op(Op::DeleteRange(DeleteRange { range, prev_kv: false }));
    world.apply_op(Op::Compact { revision: 120, physical: false });
    world
}

#[test]
fn a_snapshot_arrives_whole_and_goes_on_from_there() {
    let mut world = sample();
    let dir = TempDir::new().unwrap();
    let mut sender = Sender::new(world.machine());
    let sent = chunks(&mut sender);
    assert!(matches!(sent.first(), Some(Chunk::Header(_))));
    assert!(matches!(sent.last(), Some(Chunk::Trailer(_))));
    let storage = receive(dir.path(), sent).unwrap();
    let mut copy = Machine::open(storage, MachineOptions { cluster_id: CLUSTER }).unwrap();
    copy.check();
    assert_eq!(picture(&copy), picture(world.machine()));

    let entry = world.entry(world.command(Op::LeaseRevoke { id: LeaseId(7) }));
    let told_there = copy.apply(std::slice::from_ref(&entry));
    let told_here = world.machine().apply(std::slice::from_ref(&entry));
    assert_eq!(told(&[told_there]), told(&[told_here]));
    copy.check();
    assert_eq!(picture(&copy), picture(world.machine()));
}

#[test]
fn what_is_written_and_removed_meanwhile_does_not_show() {
    let mut world = sample();
    let wanted = picture(world.machine());
    let dir = TempDir::new().unwrap();
    let mut receiver = Receiver::create(dir.path(), options(), CLUSTER).unwrap();
    let mut sender = Sender::new(world.machine());
    let mut n = 0;
    while let Some(chunk) = sender.next_chunk() {
        receiver.take(chunk).unwrap();
        n += 1;
        let key = bytes(&format!("k{n:03}"));
        world.apply_op(Op::Put(Put { key, value: bytes("later"), ..Put::default() }));
        world.apply_op(Op::Compact { revision: 200 + n, physical: false });
        world.flush();
        let store = world.machine().reader().store();
        let storage = world.machine().storage();
        // Removal is held off as long as the sender lives.
        for _ in 0..10 {
            let _ = storage.maintenance(|txn| store.scrub_step(txn, 1000)).unwrap().unwrap();
        }
    }
    let storage = receiver.finish().unwrap();
    let copy = Machine::open(storage, MachineOptions::default()).unwrap();
    copy.check();
    assert_eq!(picture(&copy), wanted);
}

#[test]
fn a_follower_installs_a_snapshot_and_a_newer_one_and_no_older_one() {
    let mut world = sample();
    let dirs: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let mut follower = World::new();
    let entry = world.log[0].clone();
    follower.machine().apply(&[entry]);
    let reader = follower.machine().reader();

    let old = receive(dirs[0].path(), chunks(&mut Sender::new(world.machine()))).unwrap();
    let again = receive(dirs[1].path(), chunks(&mut Sender::new(world.machine()))).unwrap();
    world.apply_op(Op::LeaseRevoke { id: LeaseId(-8) });
    let new = receive(dirs[2].path(), chunks(&mut Sender::new(world.machine()))).unwrap();

    let position = old.applied();
    follower.machine().install(old).unwrap();
    assert_eq!((follower.machine().applied(), reader.applied()), (position, position));
    follower.machine().check();
    assert!(matches!(follower.machine().install(again), Err(MachineError::Stale { .. })));
    follower.machine().install(new).unwrap().close().wait();
    follower.machine().check();
    assert_eq!(picture(follower.machine()), picture(world.machine()));
    assert_eq!(reader.members(), world.machine().reader().members(), "readers follow the machine");

    // Entries that the snapshots contain are passed over; the next one is applied.
    let log = world.log.clone();
    assert!(told(&[follower.machine().apply(&log)]).is_empty());
    let entry = world.entry(world.command(Op::LeaseRevoke { id: LeaseId(7) }));
    world.machine().apply(std::slice::from_ref(&entry));
    follower.machine().apply(&[entry]);
    assert_eq!(picture(follower.machine()), picture(world.machine()));
}

/// The pieces of a snapshot with small pieces, so that there is something to lose.
fn small_chunks(world: &mut World) -> Vec<Chunk> {
    let split = |chunk| match chunk {
        Chunk::Rows(rows) => rows.chunks(40).map(|some| Chunk::Rows(some.to_vec())).collect(),
        Chunk::Tables(rows) => rows.chunks(2).map(|some| Chunk::Tables(some.to_vec())).collect(),
        other => vec![other],
    };
    chunks(&mut Sender::new(world.machine())).into_iter().flat_map(split).collect()
}

#[test]
fn pieces_that_are_missing_doubled_or_out_of_order_are_refused() {
    let mut world = sample();
    let sent = small_chunks(&mut world);
    assert!(sent.len() > 12, "there are {} pieces", sent.len());
    for at in 0..sent.len() {
        let mut missing = sent.clone();
        missing.remove(at);
        let mut doubled = sent.clone();
        doubled.insert(at, sent[at].clone());
        let cut = sent[..at].to_vec();
        for (what, broken) in [("missing", missing), ("doubled", doubled), ("cut", cut)] {
            let dir = TempDir::new().unwrap();
            let result = receive(dir.path(), broken);
            assert!(result.is_err(), "piece {at} {what}");
        }
        if at + 1 < sent.len()
            && !matches!((&sent[at], &sent[at + 1]), (Chunk::Tables(_), Chunk::Tables(_)))
        {
            let mut swapped = sent.clone();
            swapped.swap(at, at + 1);
            let dir = TempDir::new().unwrap();
            assert!(receive(dir.path(), swapped).is_err(), "pieces {at} and {} swapped", at + 1);
        }
    }
    let dir = TempDir::new().unwrap();
    receive(dir.path(), sent).unwrap();
}

fn flip(bytes: &Bytes, at: usize) -> Bytes {
    let mut copy = bytes.to_vec();
    let at = at % copy.len();
    copy[at] ^= 0x10;
    Bytes::from(copy)
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let mut world = sample();
    let sent = small_chunks(&mut world);
    let mut places = 0;
    for (at, chunk) in sent.iter().enumerate() {
        let mut broken = Vec::new();
        match chunk {
            Chunk::Header(header) => {
                let mut other = header.clone();
                other.position.index = other.position.index.next();
                broken.push(Chunk::Header(other));
                let mut other = header.clone();
                other.revision = other.revision.next();
                broken.push(Chunk::Header(other));
                let mut other = header.clone();
                other.cluster_id = ClusterId(1);
                broken.push(Chunk::Header(other));
                let mut other = header.clone();
                other.conf_state.learners.insert(crate::types::NodeId(99));
                broken.push(Chunk::Header(other));
                let mut other = header.clone();
                other.format += 1;
                broken.push(Chunk::Header(other));
            }
            Chunk::Tables(rows) => {
                for (row, place) in
                    (0..rows.len()).flat_map(|row| (0..20).step_by(3).map(move |p| (row, p)))
                {
                    let mut other = rows.clone();
                    if place < other[row].value.len() {
                        other[row].value = flip(&other[row].value, place);
                        broken.push(Chunk::Tables(other));
                    } else if place < other[row].key.len() {
                        other[row].key = flip(&other[row].key, place);
                        broken.push(Chunk::Tables(other));
                    }
                }
            }
            Chunk::Rows(rows) => {
                let mut other = rows.clone();
                other[0].0 = flip(&other[0].0, 7);
                broken.push(Chunk::Rows(other));
                for place in [0, 4, 9, 20] {
                    let mut other = rows.clone();
                    let last = other.len() - 1;
                    other[last].1 = flip(&other[last].1, place);
                    broken.push(Chunk::Rows(other));
                }
            }
            Chunk::Trailer(trailer) => {
                broken.push(Chunk::Trailer(super::super::snapshot::Trailer {
                    rows: trailer.rows + 1,
                    ..*trailer
                }));
                broken.push(Chunk::Trailer(super::super::snapshot::Trailer {
                    crc32c: trailer.crc32c ^ 4,
                    ..*trailer
                }));
            }
        }
        for piece in broken {
            let mut other = sent.clone();
            other[at] = piece;
            let dir = TempDir::new().unwrap();
            assert!(receive(dir.path(), other).is_err(), "piece {at} of {}", sent.len());
            places += 1;
        }
    }
    assert!(places > 60, "{places} places were tried");
}

#[cfg(feature = "mutants")]
#[test]
fn planted_deafness_to_the_checksum_is_seen() {
    use crate::mutants::assert_seen;

    assert_seen!("S02", a_flipped_bit_anywhere_is_refused);
}

#[test]
fn a_snapshot_of_a_store_that_has_lost_a_row_is_refused() {
    let mut world = sample();
    world.flush();
    let lost = world.machine().storage().maintenance(|txn| {
        let rows = txn.scan_rev(Table::Rows, Bound::Unbounded, Bound::Unbounded);
        let lost = rows.map(|(key, _)| key.to_vec()).nth(1).expect("there are some");
        txn.delete(Table::Rows, &lost);
    });
    lost.expect("it is deleted");
    let sent = chunks(&mut Sender::new(world.machine()));
    let dir = TempDir::new().unwrap();
    let refused = receive(dir.path(), sent).map(drop);
    let missing = matches!(
        refused,
        Err(ReceiveError::Row(Damage::MissingRevision(_) | Damage::MissingRow(_)))
    );
    assert!(missing, "{refused:?}");
}

#[test]
fn another_clusters_snapshot_is_refused() {
    let mut world = sample();
    let sent = chunks(&mut Sender::new(world.machine()));
    let dir = TempDir::new().unwrap();
    let mut receiver = Receiver::create(dir.path(), options(), ClusterId(5)).unwrap();
    let refused = receiver.take(sent[0].clone());
    assert!(matches!(refused, Err(ReceiveError::OtherCluster(CLUSTER))));
    assert!(matches!(receiver.take(sent[1].clone()), Err(ReceiveError::Refused)));
    assert!(matches!(receiver.finish(), Err(ReceiveError::Refused)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 10,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// From any state, in any state of flushing and scrubbing, a snapshot makes the same state, and the
    /// rest of the log leads both to the same end.
    #[test]
    fn a_snapshot_of_any_state_is_that_state(
        log in any_log(60),
        at in any::<prop::sample::Index>(),
        scrubs in 0..6usize,
        scrub_rows in 1..20usize,
    ) {
        let mut world = World::new();
        let (before, after) = log.split_at(at.index(log.len() + 1));
        prop_assume!(!before.is_empty());
        world.machine().apply(before);
        world.flush();
        for _ in 0..scrubs {
            scrub(&mut world, scrub_rows);
        }
        let dir = TempDir::new().unwrap();
        let storage = receive(dir.path(), chunks(&mut Sender::new(world.machine()))).unwrap();
        let mut copy = Machine::open(storage, MachineOptions { cluster_id: CLUSTER }).unwrap();
        copy.check();
        prop_assert_eq!(picture(&copy), picture(world.machine()));
        let told_there = copy.apply(after);
        let told_here = world.machine().apply(after);
        prop_assert_eq!(told(&[told_there]), told(&[told_here]));
        copy.check();
        prop_assert_eq!(picture(&copy), picture(world.machine()));
    }
}
