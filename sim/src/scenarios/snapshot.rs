//! A follower is away for so long that the log it needs is gone, and history was compacted meanwhile:
//! it catches up by a snapshot, under load, and ends up equal to the others.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::plan::{Plan, Tuning};
use crate::run::Options;

pub(super) fn run(options: &Options) -> Held {
    let mut plan: Plan = calm(3, 7);
    plan.tuning = Tuning { snapshot_count: 10, catchup: 5, batch_interval: 20, ..plan.tuning };
    play(plan, options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        let away =
            scene.names.iter().find(|name| **name != leader).cloned().expect("three members");
        scene.put(&leader, "k").await;
        scene.world.kill(scene.at(&away)).await;
        let keys = ["a", "b", "c", "d"];
        for i in 0..300 {
            must(scene.put(&leader, keys[i % 4]).await, "two of three take puts")?;
        }
        let compacted = scene.admin.compact(&leader, 200).await;
        must(compacted.is_ok(), format!("compaction: {compacted:?}"))?;
        scene.world.start(scene.at(&away)).await;
        for i in 0..100 {
            must(scene.put(&leader, keys[i % 4]).await, "catching up disturbs nobody")?;
        }
        scene.all_serve(Duration::from_secs(60)).await?;
        scene.put_until_done(&away, "a", Duration::from_secs(30)).await.map(drop)
    })
}
