//! A learner is promoted in the moment after it was added: it is not in sync, and that is what is said.

use super::{Held, calm, must, play};
use crate::run::Options;

pub(super) fn promoted_too_soon(options: &Options) -> Held {
    play(calm(3, 12), options, async |scene| {
        scene.raise().await?;
        let leader = scene.leader().await?;
        scene.settle().await;
        let added = scene.admin.member_add(&leader, "http://m4:2380", true).await;
        let id = added.as_ref().ok().and_then(|reply| reply.member.as_ref()).map_or(0, |m| m.id);
        must(id != 0, format!("adding a learner: {added:?}"))?;
        let promoted = scene.admin.member_promote(&leader, id).await;
        let too_soon = promoted.as_ref().is_err_and(|text| text.contains("in sync with leader"));
        must(too_soon, format!("promoting it at once: {promoted:?}"))?;
        let unknown = scene.admin.member_promote(&leader, 1234).await;
        let unknown_is = unknown.as_ref().is_err_and(|text| text.contains("member not found"));
        must(unknown_is, format!("promoting nobody: {unknown:?}"))?;
        let removed = scene.admin.member_remove(&leader, id).await;
        must(removed.is_ok(), format!("removing it: {removed:?}"))
    })
}
