//! A member is removed while it is away: it misses the entry that says so, and is told by the others.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::run::Options;
use crate::time::sleep;
use crate::world::{End, Phase};

pub(super) fn run(options: &Options) -> Held {
    play(calm(3, 11), options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        let victim =
            scene.names.iter().find(|name| **name != leader).cloned().expect("three members");
        let i = scene.at(&victim);
        let id = scene.id(&victim).await;
        scene.settle().await;
        scene.world.pause(i);
        sleep(Duration::from_millis(100)).await;
        let removed = scene.admin.member_remove(&leader, id).await;
        must(removed.is_ok(), format!("removing a member: {removed:?}"))?;
        sleep(Duration::from_secs(2)).await;
        scene.world.resume(i);
        let end = scene.end_of(i, Duration::from_secs(10)).await;
        must(end == Phase::Ended(End::Removed), format!("a removed member is {end:?}"))?;
        // Its own log may not know; started again, it is told again.
        scene.world.supervise(i).await;
        scene.world.start(i).await;
        let end = scene.end_of(i, Duration::from_secs(10)).await;
        let refused = matches!(&end, Phase::Ended(End::Refused(text)) if text.contains("permanently removed"));
        must(refused, format!("a removed member that is started again is {end:?}"))?;
        scene.world.wipe(i).await;
        scene.names.retain(|name| *name != victim);
        scene.put_until_done(&leader, "k", Duration::from_secs(10)).await?;
        Ok(())
    })
}
