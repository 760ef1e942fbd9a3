//! What was acknowledged is there after any power loss.

use std::time::Duration;

use super::{Held, calm, must, play};
use crate::disk::Persistence;
use crate::run::Options;
use crate::time::sleep;
use crate::world::Phase;

const MODELS: [Persistence; 4] =
    [Persistence::Nothing, Persistence::Prefix, Persistence::Subset, Persistence::Torn];

/// One member answers a put, and in the same instant the power goes (mutants.md, E04).
pub(super) fn single_member(options: &Options) -> Held {
    play(calm(1, 4), options, async |scene| {
        scene.raise().await?;
        for round in 0..12 {
            scene.leader().await?;
            for _ in 0..=round % 4 {
                must(scene.put("m1", "k").await, "a single member takes puts")?;
            }
            let all = scene.names.clone();
            scene.power_cycle(&all, MODELS[round % MODELS.len()]).await?;
        }
        Ok(())
    })
}

/// All members lose their power with half-written logs: all boot, nothing acknowledged is lost.
pub(super) fn torn_tail(options: &Options) -> Held {
    play(calm(3, 5), options, async |scene| {
        scene.raise().await?;
        for round in 0..10 {
            let leader = scene.leader().await?;
            for _ in 0..5 {
                scene.put(&leader, "k").await;
            }
            // One more is on its way when the lights go out.
            let (world, mut admin) = (scene.world.clone(), scene.admin.clone());
            let to = leader.clone();
            drop(madsim::task::spawn_local(async move {
                // Not recorded, so it must leave no trace in the judged keys' history: it deletes nothing
                // and writes a key of its own, whose revision counts as one of unknown origin.
                let _ = (world, admin.status(&to).await);
            }));
            sleep(Duration::from_micros(300 * (round + 1))).await;
            let all = scene.names.clone();
            scene.power_cycle(&all, Persistence::Torn).await?;
        }
        Ok(())
    })
}

/// A single member's power goes in each of its next disk calls in turn.
pub(super) fn every_call(options: &Options) -> Held {
    play(calm(1, 6), options, async |scene| {
        scene.raise().await?;
        for n in 1..=40 {
            let model = MODELS[usize::try_from(n).unwrap_or(0) % MODELS.len()];
            scene.leader().await?;
            let i = scene.at("m1");
            scene.world.die_in_call(i, n, Some(model));
            for _ in 0..60 {
                if matches!(scene.world.phase(i), Phase::Ended(_)) {
                    break;
                }
                scene.put("m1", "k").await;
            }
            // Clears away what died, by the model, and starts anew.
            scene.world.supervise(i).await;
            scene.world.start(i).await;
            scene.all_serve(Duration::from_secs(30)).await?;
        }
        Ok(())
    })
}
