//! Sleeping to the nanosecond, with one timer a sleep.
//!
//! madsim rounds sleeps under a millisecond up, and sets one more timer each time a sleep is polled;
//! in a `select!` loop that polls a long timeout with every event those never end. A [`Sleep`] sets
//! its timer once and keeps the newest waker beside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use madsim::time::{Instant, TimeHandle};

use crate::trace::lock;

/// What a timer wakes: whoever waits at the moment it fires.
#[derive(Default)]
pub(crate) struct Alarm {
    waker: Mutex<Option<Waker>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Alarm {
    /// Says whom to wake.
    pub(crate) fn set(&self, waker: &Waker) {
        let mut held = lock(&self.waker);
        if !held.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *held = Some(waker.clone());
        }
    }

    /// Lets it ring at a moment, however near. A moment that is past rings at once.
    pub(crate) fn ring_at(self: &Arc<Self>, time: &TimeHandle, at: Instant) {
        let waker = Waker::from(self.clone());
        let mut timer = time.sleep(Duration::ZERO);
        Pin::new(&mut timer).reset(at);
        if Pin::new(&mut timer).poll(&mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
    }
}

/// Completes at a moment of the simulation's time.
pub struct Sleep {
    time: TimeHandle,
    until: Instant,
    alarm: Arc<Alarm>,
    armed: bool,
}

impl Sleep {
    /// Sleeps until a moment.
    pub fn until(time: &TimeHandle, until: Instant) -> Self {
        Self { time: time.clone(), until, alarm: Arc::default(), armed: false }
    }

    /// Sleeps for a time.
    pub fn new(time: &TimeHandle, d: Duration) -> Self {
        // Far beyond any run, and what adds up without overflow.
        let d = d.min(Duration::from_secs(1 << 32));
        Self::until(time, time.now_instant() + d)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.time.now_instant() >= self.until {
            return Poll::Ready(());
        }
        self.alarm.set(cx.waker());
        if !self.armed {
            self.armed = true;
            self.alarm.ring_at(&self.time, self.until);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        lock(&self.alarm.waker).take();
    }
}

/// Sleeps in the simulation that this is called in.
pub async fn sleep(d: Duration) {
    Sleep::new(&TimeHandle::current(), d).await;
}

/// Awaits `future` for at most `limit`.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep(limit));
    tokio::select! {
        biased;
        output = &mut future => Some(output),
        () = &mut sleep => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_below_a_millisecond_is_kept() {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.block_on(async {
            let time = TimeHandle::current();
            let before = time.elapsed();
            sleep(Duration::from_micros(100)).await;
            let took = time.elapsed() - before;
            assert!(
                took >= Duration::from_micros(100) && took < Duration::from_micros(102),
                "{took:?}"
            );
            assert_eq!(within(Duration::from_millis(1), std::future::pending::<()>()).await, None);
            assert_eq!(within(Duration::from_millis(1), async { 7 }).await, Some(7));
        });
    }
}
