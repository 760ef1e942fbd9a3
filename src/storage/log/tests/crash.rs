//! Power losses at every operation, with every subset of what was not synced, and again while the
//! log is being recovered. What was acknowledged is there; the batch under way is there whole or not
//! at all; nothing is refused.

use super::*;
use crate::storage::tests::disk::Survives;

/// Does random things until an operation fails. Returns what is acknowledged, what the sync under
/// way would have made of it, and whether the log was ever created.
fn play(disk: &MemDisk, seed: u64, steps: u32) -> Option<(Model, Model)> {
    let mut dice = Dice(seed);
    let mut session = Session::create(disk, OPTIONS).ok()?;
    for _ in 0..steps {
        if session.step(&mut dice).is_err() {
            break;
        }
    }
    let next = if session.in_flight { session.next } else { session.synced.clone() };
    Some((session.synced, next))
}

/// Calls `check` with the disk after a power loss: for every combination of survivors if there are
/// few, for some otherwise.
fn losses(disk: &MemDisk, dice: &mut Dice, samples: u64, mut check: impl FnMut(MemDisk)) {
    let (sectors, renames) = disk.unsynced();
    if sectors <= 4 {
        for mask in 0..1u32 << sectors {
            for names in 0..=renames {
                let mut left = mask;
                let mut sector = || {
                    let survives = left & 1 == 1;
                    left >>= 1;
                    survives
                };
                check(disk.power_loss(Survives::Sectors { sector: &mut sector, names }));
            }
        }
    } else {
        for _ in 0..samples {
            let names = usize::try_from(dice.roll(renames as u64 + 1)).expect("small");
            let odds = 1 + dice.roll(9);
            let mut sector = || dice.roll(10) < odds;
            check(disk.power_loss(Survives::Sectors { sector: &mut sector, names }));
        }
    }
    for _ in 0..samples / 3 {
        let bytes = usize::try_from(dice.roll(1 + sectors as u64 * 200)).expect("small");
        check(disk.power_loss(Survives::Prefix(bytes)));
    }
}

/// Opens the log twice, the second time with nothing unsynced left, and checks it against what may be
/// found. Returns what was.
fn recover(disk: &MemDisk, may_be: &[&Model], what: &str) -> Model {
    let first = reopen(disk).unwrap_or_else(|e| panic!("{what}: refused: {e}"));
    let found = Model::of(&first);
    assert!(may_be.contains(&&found), "{what}: found {found:?}, not one of {may_be:?}");
    let none = disk.power_loss(Survives::Sectors { sector: &mut || false, names: 0 });
    let again = reopen(&none).unwrap_or_else(|e| panic!("{what}: refused later: {e}"));
    assert_eq!(Model::of(&again), found, "{what}: what was returned was not durable");
    assert!(again.metadata.boot > first.metadata.boot, "{what}: a boot was not counted");
    found
}

fn storm(seed: u64, steps: u32, samples: u64) -> u64 {
    let whole = MemDisk::default();
    play(&whole, seed, steps).expect("nothing fails without a fuse");
    let mut dice = Dice(seed ^ 0xdead);
    let mut count = 0;
    for fuse in 0..whole.operations() {
        let disk = MemDisk::default();
        disk.set_fuse(Some(fuse));
        let Some((synced, next)) = play(&disk, seed, steps) else {
            // The log was not created, or its creation was not acknowledged.
            losses(&disk, &mut dice, samples, |lost| match reopen(&lost) {
                Ok(recovered) => assert_eq!(Model::of(&recovered), Model::default()),
                Err(error) => assert!(matches!(error, LogError::Missing(_)), "{error}"),
            });
            continue;
        };
        let mut inner = Dice(dice.roll(u64::MAX));
        losses(&disk, &mut dice, samples, |lost| {
            count += 1;
            let what = format!("seed {seed}, fuse {fuse}");
            recover(&lost.copy(), &[&synced, &next], &what);
            // The power goes again while the log is being opened.
            let second = u32::try_from(inner.roll(6)).expect("small");
            lost.set_fuse(Some(second));
            match reopen(&lost) {
                Ok(recovered) => {
                    lost.set_fuse(None);
                    recover(&lost, &[&Model::of(&recovered)], &what);
                }
                Err(_) => losses(&lost, &mut inner, 3, |lost| {
                    recover(&lost, &[&synced, &next], &format!("{what}, then {second}"));
                }),
            }
        });
    }
    count
}

#[test]
pub(super) fn acknowledged_records_survive_every_power_loss() {
    let seeds = std::env::var("MAINSTAY_LOG_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut count = 0;
    for seed in 0..seeds {
        count += storm(seed, 100, 15);
    }
    assert!(count > seeds * 500, "the storm was a breeze: {count} power losses");
}

/// A killed process leaves its unsynced batch in the page cache, where the next one finds it whole. It
/// must be made durable before anything follows it, or a power loss would look like rot.
#[test]
pub(super) fn a_batch_found_in_the_page_cache_is_synced_before_the_next() {
    for keep in 0..4 {
        let disk = MemDisk::default();
        let mut s = Session::create(&disk, OPTIONS).expect("created");
        s.append(&[entry(1, 1, 900)]).expect("pending");
        disk.set_fuse(Some(1));
        s.sync().expect_err("written, not synced");
        disk.set_fuse(None);
        let whole = s.next.clone();
        drop(s);
        let survivor = disk.copy();
        survivor.set_fuse(Some(keep)); // sync of the file, of the directory, boot's write, its sync
        let opened = reopen(&survivor);
        assert!(opened.is_err() || keep == 4);
        survivor.set_fuse(None);
        for only in 0..6 {
            let mut at = 0;
            let mut sector = || {
                at += 1;
                at - 1 == only
            };
            let names = 0;
            let lost = survivor.power_loss(Survives::Sectors { sector: &mut sector, names });
            recover(&lost, &[&Model::default(), &whole], &format!("keep {keep}, only {only}"));
        }
    }
}
