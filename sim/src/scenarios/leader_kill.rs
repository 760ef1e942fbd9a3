//! The leader is killed under load: writes resume soon, and nothing acknowledged is lost.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::run::Options;

pub(super) fn run(options: &Options) -> Held {
    play(calm(3, 1), options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        let others: Vec<String> = scene.names.iter().filter(|n| **n != leader).cloned().collect();
        for i in 0..50 {
            must(scene.put(&others[i % 2], "k").await, "a calm cluster takes puts")?;
        }
        scene.world.kill(scene.at(&leader)).await;
        // A put that was on its way to the dead leader is lost with it, and its client waits in vain: what
        // is measured is when a new one succeeds.
        scene.admin.set_patience(Duration::from_millis(300));
        let gap = scene.put_until_done(&others[0], "k", Duration::from_secs(10)).await?;
        // A killed process's kernel closes its connections, so nobody has to wait for a timeout.
        must(gap < Duration::from_millis(2_500), format!("writes resumed only after {gap:?}"))?;
        for i in 0..50 {
            must(scene.put(&others[i % 2], "k").await, "two of three take puts")?;
        }
        scene.world.start(scene.at(&leader)).await;
        scene.all_serve(Duration::from_secs(30)).await
    })
}
