//! A voter loses its disk. Under its old id it is refused, since its votes are forgotten; replacing it
//! brings the cluster back to strength.

use std::time::Duration;

use super::{Act, Held, Scene, calm, must, play};
use crate::run::Options;
use crate::time::sleep;
use crate::world::{End, Phase};

pub(super) fn run(options: &Options) -> Held {
    play(calm(3, 2), options, async |scene| lose(scene, false).await)
}

pub(super) fn run_leader(options: &Options) -> Held {
    play(calm(3, 3), options, async |scene| lose(scene, true).await)
}

async fn lose(scene: &mut Scene, of_leader: bool) -> Act {
    scene.raise().await?;
    let leader = scene.leader().await?;
    let victim = scene
        .names
        .iter()
        .find(|name| (**name == leader) == of_leader)
        .cloned()
        .expect("there are three members");
    let others: Vec<String> = scene.names.iter().filter(|name| **name != victim).cloned().collect();
    for _ in 0..20 {
        must(scene.put(&others[0], "before").await, "a calm cluster takes puts")?;
    }
    let id = scene.id(&victim).await;
    let i = scene.at(&victim);
    scene.world.wipe(i).await;
    scene.put_until_done(&others[0], "without", Duration::from_secs(10)).await?;

    scene.world.start(i).await;
    let mut end = None;
    for _ in 0..200 {
        sleep(Duration::from_millis(50)).await;
        match scene.world.phase(i) {
            Phase::Ended(how) => {
                end = Some(how);
                break;
            }
            Phase::Serving => break,
            Phase::Down | Phase::Starting => {}
        }
    }
    let refused = matches!(end, Some(End::Refused(_)));
    must(refused, format!("a wiped voter under its old id is to be refused, but: {end:?}"))?;
    scene.world.wipe(i).await;

    let removed = scene.admin.member_remove(&others[0], id).await;
    must(removed.is_ok(), format!("removing the lost member: {removed:?}"))?;
    let url = format!("http://{victim}:2380");
    let mut added = Err(String::new());
    for _ in 0..50 {
        added = scene.admin.member_add(&others[0], &url, false).await;
        if added.is_ok() {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    must(added.is_ok(), format!("adding the new member: {added:?}"))?;
    let cluster = "m1=http://m1:2380,m2=http://m2:2380,m3=http://m3:2380";
    scene.world.prepare_to_join(i, cluster.to_owned());
    scene.world.start(i).await;
    scene.all_serve(Duration::from_secs(60)).await?;

    // Back to strength: one of the others may fail now.
    scene.world.kill(scene.at(&others[1])).await;
    scene.put_until_done(&victim, "after", Duration::from_secs(20)).await?;
    scene.world.start(scene.at(&others[1])).await;
    scene.all_serve(Duration::from_secs(30)).await
}
