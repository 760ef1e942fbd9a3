//! The leader of two removes itself and is thrown away as soon as it says that this is done, while what it has
//! to tell the other one is still on its way: the other one must not wait for its vote.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::run::Options;

pub(super) fn run(options: &Options) -> Held {
    play(calm(2, 12), options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        let other = scene.names.iter().find(|name| **name != leader).cloned().expect("two members");
        let id = scene.id(&leader).await;
        must(scene.put(&leader, "k").await, "a calm cluster takes puts")?;
        scene.settle().await;
        let (i, j) = (scene.at(&leader), scene.at(&other));
        let host = |i: usize| scene.world.slots[i].host;
        scene.world.network.slow(host(i), host(j), Duration::from_millis(150));
        let removed = scene.admin.member_remove(&leader, id).await;
        must(removed.is_ok(), format!("removing the leader: {removed:?}"))?;
        scene.world.kill(i).await;
        scene.world.wipe(i).await;
        scene.names.retain(|name| *name != leader);
        let gap = scene.put_until_done(&other, "k", Duration::from_secs(20)).await?;
        must(gap < Duration::from_secs(3), format!("writes resumed only after {gap:?}"))
    })
}
