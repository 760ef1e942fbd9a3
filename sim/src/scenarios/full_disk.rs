//! A disk is full for a while, at once or bit by bit: the cluster goes on or says why not, and nothing is
//! lost.

use std::time::Duration;

use checker::history::What;
use checker::op::{DeleteRange, Operation};

use super::{Act, Held, Scene, calm, must, play};
use crate::run::Options;
use crate::time::sleep;
use crate::workload::{number, wire};
use crate::world::Phase;

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

/// What etcd's clients know a lack of space by.
const NO_SPACE: &str = "ResourceExhausted: etcdserver: mvcc: database space exceeded";

/// How much room a disk is given: what the server holds back, and a little.
const ROOM: u64 = 100 << 20;

/// The length of the values that fill a disk.
const VALUE: usize = 64 << 10;

impl Scene {
    /// Tells whether a member knows of an alarm.
    async fn alarmed(&mut self, name: &str) -> bool {
        let status = self.admin.status(name).await;
        status.is_ok_and(|status| status.errors.iter().any(|error| error.contains("NOSPACE")))
    }

    async fn delete(&mut self, name: &str, key: &str) -> Act {
        let node = number(name);
        let delete = DeleteRange { key: key.into(), ..DeleteRange::default() };
        self.history.record(1, node, What::Invoke(Operation::DeleteRange(delete)));
        match self.admin.delete(name, key).await {
            Ok(reply) => {
                self.history.record(1, node, What::Ok(wire::delete_range_reply(&reply)));
                must(reply.deleted == 1, "the key was there")
            }
            Err(text) => {
                self.history.record(1, node, What::Info(text.clone()));
                must(false, format!("a delete is refused: {text}"))
            }
        }
    }
}

/// The only member's disk fills: writes are refused before one fails, what makes room goes on, and writes
/// go on as soon as there is room, without a restart or a word from anybody.
pub(super) fn filling(options: &Options) -> Held {
    play(calm(1, 9), options, async |scene| {
        scene.raise().await?;
        let only = scene.names[0].clone();
        let i = scene.at(&only);
        let disk = scene.world.slots[i].disk.clone();
        for key in 0..5 {
            scene.put_padded(&only, &format!("k{key}"), VALUE).await.expect("a calm member");
        }
        disk.set_room(Some(ROOM));
        let mut refused = None;
        for n in 0..2000 {
            if let Err(text) = scene.put_padded(&only, &format!("k{}", n % 50), VALUE).await {
                refused = Some(text);
                break;
            }
        }
        must(refused.as_deref() == Some(NO_SPACE), format!("a filling disk says {refused:?}"))?;
        must(disk.counters().full == 0, "no write has failed")?;
        sleep(Duration::from_secs(5)).await;
        must(scene.alarmed(&only).await, "the alarm is on")?;
        for key in 0..5 {
            scene.delete(&only, &format!("k{key}")).await?;
        }
        let refused = scene.put_padded(&only, "k", 0).await;
        must(refused == Err(NO_SPACE.to_owned()), format!("still without room: {refused:?}"))?;
        must(scene.world.phase(i) == Phase::Serving, "it has gone on all the time")?;
        // A restart finds the same.
        must(scene.world.stop(i, Duration::from_secs(20)).await.0, "it stops when told to")?;
        scene.world.start(i).await;
        scene.all_serve(Duration::from_secs(60)).await?;
        sleep(Duration::from_secs(2)).await;
        let refused = scene.put_padded(&only, "k", 0).await;
        must(refused == Err(NO_SPACE.to_owned()), format!("after a restart: {refused:?}"))?;
        disk.set_room(None);
        scene.put_until_done(&only, "k", Duration::from_secs(5)).await?;
        must(!scene.alarmed(&only).await, "the alarm is off")?;
        must(disk.counters().full == 0, "no write has failed")
    })
}

/// One disk of three fills: the others are a quorum, so nobody is refused anything; when one of them
/// goes, the member that is short is needed, and the alarm is raised until it is not any more.
pub(super) fn filling_one_of_three(options: &Options) -> Held {
    play(calm(3, 10), options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        let followers: Vec<String> =
            scene.names.iter().filter(|name| **name != leader).cloned().collect();
        let (short, other) = (followers[0].clone(), followers[1].clone());
        let (at_short, at_other) = (scene.at(&short), scene.at(&other));
        scene.world.slots[at_short].disk.set_room(Some(90 << 20));
        for _ in 0..100 {
            let done = scene.put_padded(&short, "k", 0).await;
            must(done.is_ok(), format!("the cluster goes on without: {done:?}"))?;
            sleep(Duration::from_millis(50)).await;
        }
        must(!scene.alarmed(&leader).await, "nobody is alarmed")?;
        must(scene.world.stop(at_other, Duration::from_secs(20)).await.0, "it stops when told to")?;
        sleep(Duration::from_secs(5)).await;
        must(scene.alarmed(&leader).await, "the member that is short is needed now")?;
        let refused = scene.put_padded(&leader, "k", 0).await;
        must(
            refused == Err(NO_SPACE.to_owned()),
            format!("a needed member is short: {refused:?}"),
        )?;
        scene.world.start(at_other).await;
        scene.all_serve(Duration::from_secs(60)).await?;
        scene.put_until_done(&leader, "k", Duration::from_secs(20)).await?;
        must(!scene.alarmed(&leader).await, "the alarm is off")?;
        scene.world.slots[at_short].disk.set_room(None);
        Ok(())
    })
}
