//! The leader's disk is full for a while: the cluster goes on or says why not, and nothing is lost.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::run::Options;
use crate::time::sleep;

pub(super) fn run(options: &Options) -> Held {
    play(calm(3, 8), options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        for _ in 0..20 {
            must(scene.put(&leader, "k").await, "a calm cluster takes puts")?;
        }
        let i = scene.at(&leader);
        scene.world.slots[i].disk.set_full(true);
        let other =
            scene.names.iter().find(|name| **name != leader).cloned().expect("three members");
        // Whatever becomes of the member without room, the other two are a quorum.
        scene.put_until_done(&other, "k", Duration::from_secs(30)).await?;
        for _ in 0..100 {
            scene.put(&other, "k").await;
            sleep(Duration::from_millis(20)).await;
        }
        scene.world.slots[i].disk.set_full(false);
        scene.world.supervise(i).await;
        scene.world.start(i).await;
        scene.all_serve(Duration::from_secs(60)).await
    })
}
