//! Room on the disk: writes are refused before one fails.
//!
//! A write of log or store that fails ends the process, since only a restart can tell what is on disk
//! then. A full disk need not come to that. This module looks at the free space every [`INTERVAL`], and
//! at once when much was written since it last looked, and raises etcd's NOSPACE alarm while there is
//! still room for what goes on under it: deletes, compaction, revokes, and the log of all these.
//!
//! Etcd has no such watch: its member dies of the failed write and stays dead until someone makes room.
//!
//! # When
//!
//! *Short* is a disk with less than [`RESERVE_BYTES`] free, until it has [`AGAIN_BYTES`] again. The alarm
//! stops writes at every member, so a member that is short raises it only if the cluster *needs* it,
//! that is, if the others that it is connected to are no quorum: always in a cluster of one. Where the
//! others are a quorum, refusing would take from clients what the cluster can still give. They write on,
//! the entries come here all the same, and at the worst this member stops, as etcd's does; the next one
//! that runs short is needed, and raises the alarm.
//!
//! A disk that somebody else filled to the last is *out* ([`OUT_BYTES`]): then even the alarm's own entry
//! might be the write that fails. A member that is needed refuses everything that would be one, here and
//! at once, and goes on reading.
//!
//! # When not any more
//!
//! Etcd's alarm stays until someone says `alarm disarm`. Here a member takes back its own alarm, raised
//! for its disk or for its quota, once the disk is not short (or it is not needed) and the store is below
//! its quota by a tenth or 64 MiB: nobody is left refusing writes at night that there is room for. The
//! distance between the two limits keeps it from going on and off. An alarm that a client raised under
//! this member's id stays; so does every alarm with `--auto-disarm-nospace=false`, etcd's way. The leader takes
//! back those of members that were removed, who cannot do it any more.
//!
//! Invariants:
//! - nothing is decided at apply by what is seen here: only the replicated alarm changes outcomes;
//! - the disk is asked on a worker, never by a task that serves;
//! - the watch ends with the member, and holds nothing of it while it waits.
//!
//! Left out: quotas of the file system (`statvfs` does not tell them: such a write fails, and the member
//! stops), inodes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tracing::{error, info, warn};

use super::handle::{Handle, Shared};
use crate::cluster::alarms::{Alarm, NOSPACE};
use crate::command::{AlarmAction, Command, Op};
use crate::raft::{Payload, Role};
use crate::runtime::{Disk, Runtime, Worker};
use crate::types::NodeId;

/// Free space below which a disk is short: a segment of the log and what a few batches of the store may
/// take beyond the pages they free.
pub(crate) const RESERVE_BYTES: u64 = 96 << 20;

/// Free space from which it is not short any more.
pub(crate) const AGAIN_BYTES: u64 = 128 << 20;

/// Free space below which nothing at all is proposed here: raising the alarm, too, is a write to the log.
const OUT_BYTES: u64 = 1 << 20;

/// How often the disk is asked.
const INTERVAL: Duration = Duration::from_millis(500);

/// What a byte of the log is taken to cost until the disk is asked again: itself, and its row and index
/// pages in the store.
const COST_FACTOR: i64 = 4;

/// How far below the quota the store must be before the alarm is taken back: a part of the quota, at most
/// so much.
const QUOTA_MARGIN_PART: u64 = 10;
const QUOTA_MARGIN_BYTES: u64 = 64 << 20;

/// What is known of the room on this member's disk; shared by all who write or ask.
#[derive(Debug)]
pub struct Room {
    free: AtomicU64,
    /// What may be written before the disk is asked out of turn.
    left: AtomicI64,
    short: AtomicBool,
    /// Writes are to be refused here: the disk is short and the cluster needs this member.
    refuses: AtomicBool,
    /// The alarm under this member's id is this member's own.
    raised: AtomicBool,
    look: Notify,
}

impl Room {
    /// Starts with the alarm as it was found ([`found`]): one that is on at a start was raised by an earlier
    /// life, for a disk that may still be short.
    pub(crate) fn new(alarm_is_on: bool) -> Self {
        Self {
            free: AtomicU64::new(u64::MAX),
            left: AtomicI64::new(i64::MAX),
            // As long as it takes to have enough again, also over a restart.
            short: AtomicBool::new(alarm_is_on),
            refuses: AtomicBool::new(false),
            raised: AtomicBool::new(alarm_is_on),
            look: Notify::new(),
        }
    }

    /// Tells whether a write must be refused for lack of room.
    pub fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// Tells whether no entry must be written for want of room, not even one that makes room: it would fail
    /// and end this member, on which reads depend as well.
    pub fn is_out(&self) -> bool {
        self.refuses() && self.free.load(Ordering::Relaxed) < OUT_BYTES
    }

    /// Tells whether the disk is short.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Returns the free bytes found last; `None` before the first look.
    pub fn free_bytes(&self) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// Notes that this member raises the alarm, and so may take it back.
    pub fn raised(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }

    /// Notes that the log grew. Called once a batch; asks for a look when the room may be gone.
    pub(crate) fn spend(&self, bytes: usize) {
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(COST_FACTOR);
        let before = self.left.fetch_sub(cost, Ordering::Relaxed);
        if (before > 0 && before <= cost) || crate::buggify!("room_looks_early") {
            self.look.notify_one();
        }
    }

    /// Takes over what the disk says; tells whether it became short, or ceased to be.
    fn observe(&self, free: u64) -> bool {
        self.free.store(free, Ordering::Relaxed);
        let was = self.is_short();
        let short = free < if was { AGAIN_BYTES } else { RESERVE_BYTES };
        self.short.store(short, Ordering::Relaxed);
        // A short disk is watched at the interval; there is nothing to be early for.
        let left = if short { 0 } else { free - RESERVE_BYTES };
        self.left.store(i64::try_from(left).unwrap_or(i64::MAX), Ordering::Relaxed);
        short != was
    }
}

/// Tells whether the alarm of member `own` is on at a start: in the store, or in what follows it in the log.
/// The store may stand before the entry that raised it.
pub(crate) fn found<'a>(
    own: NodeId,
    on: &[Alarm],
    ahead: impl IntoIterator<Item = &'a Payload>,
) -> bool {
    let stored = on.iter().any(|alarm| (alarm.kind, alarm.member) == (NOSPACE, own.0));
    ahead.into_iter().fold(stored, |on, payload| {
        let Payload::Command(bytes) = payload else { return on };
        match Command::decode(bytes).map(|command| command.op) {
            Ok(Op::Alarm { action, member, alarm: NOSPACE }) if member == own.0 => match action {
                AlarmAction::Activate => true,
                AlarmAction::Deactivate => false,
                AlarmAction::Get | AlarmAction::Unknown(_) => on,
            },
            // NB: what is wrong with an entry is said where it is applied.
            Ok(_) | Err(_) => on,
        }
    })
}

/// Where a store must be below for its alarm to be taken back.
fn clear_below(quota: u64) -> u64 {
    quota - (quota / QUOTA_MARGIN_PART).min(QUOTA_MARGIN_BYTES)
}

/// Watches the room under `dirs` for as long as the member runs.
pub(crate) async fn watch<R: Runtime>(
    runtime: R,
    handle: Handle,
    dirs: [PathBuf; 2],
    clears: bool,
) {
    let room = handle.room().clone();
    let mut status = handle.watch_status();
    let member = Watched { shared: Arc::downgrade(&handle.shared), clears };
    drop(handle);
    let worker = runtime.worker("room");
    let mut blind = false;
    loop {
        match ask(&worker, runtime.disk(), dirs.clone()).await {
            Some(Ok(free)) => {
                blind = false;
                let turned = room.observe(free);
                if member.act(&room, turned).await.is_none() {
                    return;
                }
            }
            Some(Err(error)) if !blind => {
                blind = true;
                warn!(%error, "the file system does not say how much is free");
            }
            Some(Err(_)) => {}
            None => return,
        }
        let pause = runtime.sleep(INTERVAL);
        tokio::select! {
            biased;
            // That the driver is gone is as good as its word that it stopped.
            _ = status.wait_for(|status| status.stopped.is_some()) => return,
            () = room.look.notified() => {}
            () = pause => {}
        }
    }
}

/// Asks for the least that is free under any of the directories.
async fn ask<D: Disk>(
    worker: &Worker,
    disk: D,
    dirs: [PathBuf; 2],
) -> Option<std::io::Result<u64>> {
    let (tell, told) = oneshot::channel();
    worker.run(move || {
        let free = dirs
            .iter()
            .map(|dir| disk.free_bytes(dir))
            .try_fold(u64::MAX, |least, free| free.map(|free| least.min(free)));
        // Whoever asked may be gone with the member.
        let _ = tell.send(free);
    });
    told.await.ok()
}

struct Watched {
    shared: Weak<Shared>,
    clears: bool,
}

impl Watched {
    /// Does what the room asks for; `None` once the member is gone.
    async fn act(&self, room: &Room, turned: bool) -> Option<()> {
        let handle = Handle { shared: self.shared.upgrade()? };
        let own = handle.id();
        let alarms = handle.reader().alarms();
        let on = alarms.iter().any(|alarm| alarm.kind == NOSPACE && alarm.member == own.0);
        let (needed, free) = (needed(&handle, room.refuses()), room.free_bytes());
        let refuses = room.is_short() && needed;
        room.refuses.store(refuses, Ordering::Relaxed);
        match (turned, room.is_short()) {
            (true, true) if needed => {
                error!(free, "the disk is nearly full; writes are refused until there is room");
            }
            (true, true) => error!(
                free,
                "the disk is nearly full; the cluster goes on, and without this member once it is full"
            ),
            (true, false) => info!(free, "there is room on the disk again"),
            (false, _) => {}
        }
        if room.is_out() {
            return Some(());
        }
        if refuses {
            // Also one that is on already: it stands for this disk now.
            room.raised();
        }
        if refuses && !on {
            set(&handle, AlarmAction::Activate, own.0).await;
        } else if on && !refuses && self.clears && room.raised.load(Ordering::Relaxed) {
            let used = handle.reader().store().storage().quota_bytes();
            let below = |quota| used < clear_below(quota);
            if handle.limits().quota_bytes.is_none_or(below)
                && set(&handle, AlarmAction::Deactivate, own.0).await
            {
                room.raised.store(false, Ordering::Relaxed);
                info!(used, free, "there is room again: the alarm is taken back");
            }
        }
        if self.clears && handle.status().role == Role::Leader {
            let members = handle.reader().members();
            for alarm in alarms.iter().filter(|alarm| alarm.kind == NOSPACE) {
                if members.is_removed(NodeId(alarm.member)) {
                    set(&handle, AlarmAction::Deactivate, alarm.member).await;
                }
            }
        }
        Some(())
    }
}

/// Raises or takes back an alarm; a failure is no matter, since the next look tries again.
async fn set(handle: &Handle, action: AlarmAction, member: u64) -> bool {
    handle.propose(Op::Alarm { action, member, alarm: NOSPACE }).await.is_ok()
}

/// Tells whether the cluster cannot do without this member. Being needed begins at once and ends only
/// when the others have been connected for a while, so that it does not come and go with a connection.
fn needed(handle: &Handle, was: bool) -> bool {
    let (members, sight) = (handle.reader().members(), handle.sight());
    if !members.voters().any(|id| id == handle.id()) {
        return false;
    }
    let others = if was { &sight.settled } else { &sight.connected };
    let voters = members.voters().count();
    let reached = members.voters().filter(|id| others.contains(id)).count();
    reached < voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::RequestId;

    #[test]
    fn a_disk_is_short_below_the_reserve_until_it_has_more_than_that_again() {
        let room = Room::new(false);
        assert_eq!(room.free_bytes(), None);
        assert!(!room.observe(RESERVE_BYTES) && !room.is_short());
        assert!(room.observe(RESERVE_BYTES - 1) && room.is_short());
        assert!(!room.observe(AGAIN_BYTES - 1) && room.is_short(), "not enough to go on");
        assert!(room.observe(AGAIN_BYTES) && !room.is_short());
        assert_eq!(room.free_bytes(), Some(AGAIN_BYTES));
        // A restart does not make more of what there is.
        let room = Room::new(true);
        assert!(!room.observe(AGAIN_BYTES - 1) && room.is_short());
        assert!(room.observe(AGAIN_BYTES) && !room.is_short());
    }

    #[test]
    fn an_alarm_that_the_store_does_not_hold_yet_is_found_in_the_log() {
        let entry = |action, member, alarm| {
            let op = Op::Alarm { action, member, alarm };
            let (id, user) = (RequestId(1), String::new());
            Payload::Command(Command { id, user, auth_revision: 0, op }.encode())
        };
        let raised = entry(AlarmAction::Activate, 7, NOSPACE);
        let cleared = entry(AlarmAction::Deactivate, 7, NOSPACE);
        let others = [
            Payload::Empty,
            Payload::Command(Bytes::from_static(b"none")),
            entry(AlarmAction::Activate, 8, NOSPACE),
            entry(AlarmAction::Activate, 7, NOSPACE + 1),
            entry(AlarmAction::Get, 7, NOSPACE),
        ];
        let (own, on) = (NodeId(7), [Alarm { kind: NOSPACE, member: 7 }]);
        assert!(!found(own, &[], &others) && found(own, &on, &others));
        assert!(found(own, &[], others.iter().chain([&raised]).chain(&others)));
        assert!(!found(own, &[], [&raised, &cleared]) && !found(own, &on, [&cleared]));
        assert!(found(own, &on, [&cleared, &raised]));
    }

    #[test]
    fn what_is_written_asks_for_a_look_once_the_room_may_be_gone() {
        let room = Room::new(false);
        room.observe(RESERVE_BYTES + 4000);
        let looked = |room: &Room| {
            let mut look = Box::pin(room.look.notified());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            std::future::Future::poll(look.as_mut(), &mut cx).is_ready()
        };
        room.spend(999);
        assert!(!looked(&room));
        room.spend(1);
        assert!(looked(&room), "4 bytes for each");
        room.spend(1000);
        assert!(!looked(&room), "it was asked for already");
        room.observe(RESERVE_BYTES + 8);
        room.spend(2);
        assert!(looked(&room));
    }

    #[test]
    fn the_alarm_of_a_quota_is_taken_back_well_below_it() {
        assert_eq!(clear_below(1000), 900);
        assert_eq!(clear_below(2 << 30), (2 << 30) - (64 << 20));
    }
}
