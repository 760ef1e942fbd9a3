//! Strikes of a disk that lies. Each hits one member of a cluster that is well, and strikes alone: what the others
//! hold must be enough to replace it.

use std::time::Duration;

use super::{Nemesis, Strike};
use crate::disk::WriteDamage;
use crate::plan::Fault;
use crate::time::sleep;
use crate::trace::lock;
use crate::world::Phase;

impl Strike {
    /// Reads fail while a process starts: it must say so, and start once they work again.
    pub(super) async fn read_error(&mut self, i: usize) -> bool {
        let disk = self.world().slots[i].disk.clone();
        let before = disk.counters().errors;
        let until = self.world().time.elapsed() + self.length + Duration::from_secs(30);
        lock(&self.nemesis.excused).insert(i, until);
        self.world().kill(i).await;
        disk.fail_reads(self.rng.between(1, 30));
        self.world().start(i).await;
        self.nemesis.hold(self.length).await;
        disk.spare();
        disk.counters().errors > before
    }

    /// The disk damages a member's log, without a word. A closed log proves how far it goes, so the member
    /// must not start with less: it says what is wrong, and is replaced. (A log that was not closed cannot
    /// tell a damaged last write from a torn one. So this strikes alone, and who dies with it goes at once.)
    pub(super) async fn damage(&mut self, fault: Fault) -> Option<bool> {
        let nemesis = self.nemesis.clone();
        let _change = nemesis.membership.try_lock().ok()?;
        if self.world().plan.overlap || self.slots().len() < 3 || !self.all_well().await {
            return None;
        }
        let i = self.any()?;
        let name = self.world().slots[i].name.clone();
        let status = self.nemesis.admin().status(&name).await.ok()?;
        let id = status.header?.member_id;
        let disk = self.world().slots[i].disk.clone();
        // A crash planted earlier must not strike between the damage and the closing of the log.
        self.world().disarm(i);
        lock(&self.nemesis.planted).remove(&i);
        let before = disk.counters().damages;
        let noise = self.rng.next_u64();
        let how = match fault {
            Fault::RotOnWrite => Some(WriteDamage::Rot),
            Fault::MisdirectedWrite => Some(WriteDamage::Misdirected),
            Fault::LostWrite => Some(WriteDamage::Lost),
            _ => None,
        };
        lock(&self.nemesis.removed).insert(i);
        lock(&self.nemesis.barred).insert(i);
        if let Some(how) = how {
            disk.damage_write(how, noise);
            self.nemesis.hold(self.length).await;
        }
        let (_, whole) = self.world().stop(i, Duration::from_secs(30)).await;
        match fault {
            Fault::RotOnRead => disk.damage_read(self.rng.below(8), noise),
            Fault::RotAtRest => disk.rot_log(noise),
            Fault::TruncatedFile => disk.cut_log(noise),
            _ => {}
        }
        let harmed = disk.counters().damages > before || fault == Fault::RotOnRead;
        let refused = !whole || (harmed && self.refuses_to_start(i).await);
        let rot_on_read = fault == Fault::RotOnRead;
        disk.spare();
        let replaced = refused && !(whole && rot_on_read);
        if replaced {
            lock(&self.nemesis.members).retain(|other| *other != name);
        }
        lock(&self.nemesis.barred).remove(&i);
        if replaced {
            self.world().wipe(i).await;
            let others = lock(&self.nemesis.members).clone();
            self.leave(&others, id).await;
            self.join(i, &others).await;
        } else {
            self.world().start(i).await;
            self.wait_until_it_serves(i).await;
            lock(&self.nemesis.removed).remove(&i);
        }
        Some(disk.counters().damages > before)
    }

    /// Starts a process and says whether it refuses, which it must do at once.
    async fn refuses_to_start(&mut self, i: usize) -> bool {
        let refusals = |nemesis: &Nemesis| lock(&nemesis.refusals).get(&i).copied().unwrap_or(0);
        let before = refusals(&self.nemesis);
        self.world().start(i).await;
        let until = self.world().time.elapsed() + Duration::from_secs(60);
        while refusals(&self.nemesis) == before
            && self.world().phase(i) != Phase::Serving
            && self.world().time.elapsed() < until
        {
            sleep(Duration::from_millis(20)).await;
        }
        refusals(&self.nemesis) > before
    }
}
