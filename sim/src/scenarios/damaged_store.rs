//! A bit of a value rots in a member's store. Whoever reads it there is refused, and the member stops: what else
//! it would answer from that store nobody can vouch for. The others go on.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::{Act, Held, Scene, calm, must, play};
use crate::invariants::Violation;
use crate::run::Options;
use crate::time::sleep;
use crate::world::{End, Phase};

pub(super) fn run(options: &Options) -> Held {
    play(calm(3, 12), options, async |scene| rot(scene).await)
}

/// So many equal bytes stand nowhere else in a store.
const RUN: usize = 200;

async fn rot(scene: &mut Scene) -> Act {
    scene.raise().await?;
    let leader = scene.leader().await?;
    let victim = scene.names.iter().find(|name| **name != leader).cloned();
    let victim = victim.expect("there are three members");
    must(scene.put(&leader, "sound").await, "a calm cluster takes puts")?;
    let written = scene.put_padded(&leader, "rotten", RUN).await;
    must(written.is_ok(), format!("a calm cluster takes puts: {written:?}"))?;
    // The newest row is looked at when a member starts, others when they are read.
    must(scene.put(&leader, "newest").await, "a calm cluster takes puts")?;
    // Until it is in the store, and not to be applied again.
    sleep(Duration::from_secs(3)).await;

    let i = scene.at(&victim);
    scene.world.stop(i, Duration::from_secs(30)).await;
    must(flip(scene, i)? > 0, "the value is not in the store's file")?;
    scene.world.start(i).await;
    scene.all_serve(Duration::from_secs(30)).await?;
    let read = scene.admin.all_keys(&victim, 0).await;
    let refused = read.as_ref().is_err_and(|text| text.contains("etcdserver: corrupt cluster"));
    must(refused, format!("a rotten value is to be refused, but: {read:?}"))?;

    let phase = scene.end_of(i, Duration::from_secs(5)).await;
    let stopped =
        matches!(&phase, Phase::Ended(End::Failed(why)) if why.contains("the store is damaged"));
    must(stopped, format!("a member with a damaged store is to stop, but: {phase:?}"))?;

    // What is wrong with this disk is known.
    scene.world.wipe(i).await;
    scene.names.retain(|name| *name != victim);
    scene.put_until_done(&leader, "after", Duration::from_secs(10)).await.map(drop)
}

/// Flips a bit in each copy of the padded value; returns how many there were.
fn flip(scene: &Scene, i: usize) -> Result<usize, Violation> {
    let fails = |error: std::io::Error| Violation::new("scenario", format!("the store: {error}"));
    let stores = scene.world.slots[i].disk.root().join("data/member/store");
    let mut copies = 0;
    for dir in std::fs::read_dir(stores).map_err(fails)? {
        let path = dir.map_err(fails)?.path().join("data.mdb");
        if !path.exists() {
            continue;
        }
        let file = std::fs::File::options().read(true).write(true).open(&path).map_err(fails)?;
        let bytes = std::fs::read(&path).map_err(fails)?;
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(RUN).position(|window| window == [b'0'; RUN]) {
            file.write_all_at(&[b'0' ^ 1], (at + found) as u64).map_err(fails)?;
            copies += 1;
            at += found + RUN;
        }
    }
    Ok(copies)
}
