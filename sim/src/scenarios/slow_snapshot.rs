//! A follower needs a snapshot over a slow link, while others write: longer than the log is kept for anyone. What
//! is written meanwhile is kept for it, or it would need another snapshot for ever.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::plan::{Plan, Tuning};
use crate::run::Options;
use crate::time::sleep;
use crate::world::Phase;

pub(super) fn run(options: &Options) -> Held {
    let mut plan: Plan = calm(3, 13);
    plan.tuning = Tuning { snapshot_count: 10, catchup: 5, batch_interval: 20, ..plan.tuning };
    plan.network.window = 16 << 10;
    play(plan, options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        let away =
            scene.names.iter().find(|name| **name != leader).cloned().expect("three members");
        scene.world.kill(scene.at(&away)).await;
        for i in 0..100 {
            let put = scene.put_padded(&leader, &format!("k{i}"), 20_000).await;
            must(put.is_ok(), format!("two of three take puts: {put:?}"))?;
        }
        let (from, to) = (scene.at(&leader), scene.at(&away));
        let world = scene.world.clone();
        let (from, host) = (world.slots[from].host, world.slots[to].host);
        world.network.slow(from, host, Duration::from_millis(40));
        scene.world.start(to).await;
        // Ten a second, all the while.
        let began = scene.world.time.elapsed();
        while scene.world.phase(to) != Phase::Serving {
            must(scene.put(&leader, "k0").await, "catching up disturbs nobody")?;
            let took = scene.world.time.elapsed() - began;
            must(took < Duration::from_secs(60), format!("{away} does not catch up in {took:?}"))?;
            sleep(Duration::from_millis(100)).await;
        }
        let took = scene.world.time.elapsed() - began;
        must(took > Duration::from_secs(3), format!("the link was not slow: {took:?}"))?;
        world.network.slow(from, host, Duration::ZERO);
        Ok(())
    })
}
