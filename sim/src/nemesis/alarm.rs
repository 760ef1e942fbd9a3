//! Alarms: an operator raises one that keeps writes out, and takes it back.

use mainstay::proto::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;

use super::Strike;
use crate::invariants::Violation;

/// The members that alarms are said to be about: none that there is, so that no member takes them back by itself.
/// Each strike names another: a taking back that was never answered may come true under a later alarm.
pub const ABOUT: std::ops::Range<u64> = 0xA1A2..0xB1A2;

impl Strike {
    /// Raises an alarm for a while. As long as it is on, no put is acknowledged, and it is listed.
    pub(super) async fn alarm(&mut self) -> Option<()> {
        let nemesis = self.nemesis.clone();
        let mut raised_before = nemesis.alarms.try_lock().ok()?;
        let i = self.any()?;
        let name = self.world().slots[i].name.clone();
        let kind = *self.rng.pick(&[pb::AlarmType::Nospace, pb::AlarmType::Corrupt]);
        let about = ABOUT.start + *raised_before;
        *raised_before += 1;
        let on = pb::AlarmMember { member_id: about, alarm: kind.into() };
        let mut admin = nemesis.admin();
        let raised = admin.alarm(&name, AlarmAction::Activate, on).await.is_ok();
        if raised {
            self.see_it_is_on(on).await;
            nemesis.hold(self.length).await;
            self.see_it_is_on(on).await;
        }
        // Even if nobody answered: it may be on.
        let through = crate::trace::lock(&nemesis.members).clone();
        self.change(&through, async |admin, member| {
            admin.alarm(member, AlarmAction::Deactivate, on).await
        })
        .await?;
        raised.then_some(())
    }

    async fn see_it_is_on(&mut self, on: pb::AlarmMember) {
        let Some(i) = self.any() else { return };
        let name = self.world().slots[i].name.clone();
        let mut admin = self.nemesis.admin();
        // One that is never answered may be applied when the alarm is off again: it is to change nothing then.
        let put = admin.put_again(&name, "none").await;
        if put.is_ok() || put.as_ref().is_err_and(|text| text.contains("key not found")) {
            let text = format!("{name} lets a put in under {on:?}: {put:?}");
            self.nemesis.found.add(Violation::new("alarm", text));
        }
        if let Ok(listed) = admin.alarm(&name, AlarmAction::Get, on).await
            && !listed.contains(&on)
        {
            let text = format!("{name} lists {listed:?}, without {on:?}");
            self.nemesis.found.add(Violation::new("alarm", text));
        }
    }
}
