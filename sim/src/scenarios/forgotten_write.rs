//! A disk calls a write of the log done and never did it, and the machine dies before anything is written after
//! it: nothing on the disk speaks of what is missing. The leader does; the member stops, and the others go on.

use std::time::Duration;

use super::{Act, Held, Scene, calm, must, play};
use crate::disk::{Persistence, WriteDamage};
use crate::run::Options;
use crate::time::sleep;
use crate::world::{End, Phase};

pub(super) fn run(options: &Options) -> Held {
    play(calm(3, 21), options, async |scene| forget(scene).await)
}

async fn forget(scene: &mut Scene) -> Act {
    scene.raise().await?;
    let leader = scene.leader().await?;
    let mut others = scene.names.clone().into_iter().filter(|name| *name != leader);
    let (victim, third) = (others.next().expect("of three"), others.next().expect("of three"));
    let (i, third) = (scene.at(&victim), scene.at(&third));
    must(scene.put(&leader, "kept").await, "a calm cluster takes puts")?;
    sleep(Duration::from_secs(1)).await;

    // So that no put is answered which the other two do not both acknowledge.
    scene.world.stop(third, Duration::from_secs(30)).await;
    let disk = scene.world.slots[i].disk.clone();
    let before = disk.counters().damages;
    disk.damage_write(WriteDamage::Lost, 0);
    // In the sync of what follows the lost write and its sync, upon which the member acknowledges.
    scene.world.die_in_call(i, 4, Some(Persistence::Nothing));
    must(scene.put(&leader, "forgotten").await, "a calm cluster takes puts")?;
    sleep(Duration::from_millis(50)).await;
    let died = scene.world.supervise(i).await;
    must(died == Some(End::Crashed), format!("the member was to die in a call, but: {died:?}"))?;
    must(disk.counters().damages > before, "the write was not lost")?;
    scene.world.start(third).await;

    let phase = scene.end_of(i, Duration::from_secs(10)).await;
    let Phase::Ended(End::Failed(why) | End::Refused(why)) = &phase else {
        return must(false, format!("a member that lost what it acknowledged goes on: {phase:?}"));
    };
    must(
        why.contains("tocommit("),
        format!("a member that lost what it acknowledged is to say so, but: {why}"),
    )?;

    // What is wrong with this disk is known.
    scene.world.wipe(i).await;
    scene.names.retain(|name| *name != victim);
    scene.put_until_done(&leader, "after", Duration::from_secs(10)).await.map(drop)
}
