//! One value that changes, and whoever wants its newest state.
//!
//! Tokio's `watch` channel spreads its waiters over eight lists, by a random number that no seed decides: the
//! order in which they wake, and with it a simulated run, differs from one run to the next in one process.
//! Here they wake in the order in which they began to wait.
//!
//! Invariants:
//! - a receiver that asks [`Receiver::changed`] misses no change: it is told of the newest state at least once;
//! - states between may be skipped;
//! - when the sender is gone, the last state is told before the end is.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

struct Shared<T> {
    value: RwLock<T>,
    /// Counts the changes. Written only with the value's lock held.
    version: AtomicU64,
    closed: AtomicBool,
    waiters: Notify,
}

/// The side that changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// A side that looks at the value.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that was seen last.
    seen: u64,
}

/// The sender is gone, and its last state was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// A look at the value. The sender waits as long as it is held.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Makes the two sides. The first value counts as seen.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(value),
        version: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        waiters: Notify::new(),
    });
    (Sender(shared.clone()), Receiver { shared, seen: 0 })
}

impl<T> Shared<T> {
    fn look(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Sender<T> {
    /// Looks at the value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.look()
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value; whoever waits is told if `change` says that it matters. Returns what it said.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        let matters = change(&mut value);
        if matters {
            self.0.version.fetch_add(1, Ordering::Release);
        }
        drop(value);
        if matters {
            self.0.waiters.notify_waiters();
        }
        matters
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.waiters.notify_waiters();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Receiver<T> {
    /// Looks at the value. A change that it shows still counts as unseen.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.look()
    }

    /// Looks at the value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.look();
        // Under the lock no change can come between.
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }

    /// Waits for a change that was not seen, which then counts as seen; or for the sender's end.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // NB: made before the look, so that a change after the look wakes it.
            let woken = self.shared.waiters.notified();
            let closed = self.shared.closed.load(Ordering::Acquire);
            let version = self.shared.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if closed {
                return Err(Closed);
            }
            woken.await;
        }
    }

    /// Waits until the value is as wanted, or the sender is gone.
    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<(), Closed> {
        loop {
            if wanted(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    struct Noted(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Noted {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn waiters_wake_in_the_order_in_which_they_came() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut receivers: Vec<_> = (0..50).map(|_| receiver.clone()).collect();
        let mut waits: Vec<_> = receivers.iter_mut().map(|r| Box::pin(r.changed())).collect();
        for (i, wait) in waits.iter_mut().enumerate() {
            let waker = Waker::from(Arc::new(Noted(i, woken.clone())));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        sender.send_modify(|value| *value = 1);
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_change_is_told_once_and_one_that_does_not_matter_is_not() {
        let (sender, mut receiver) = channel(0);
        assert!(!sender.send_if_modified(|value| {
            *value = 7;
            false
        }));
        assert!(poll(pin!(receiver.changed())).is_pending());
        sender.send_modify(|value| *value += 1);
        sender.send_modify(|value| *value += 1);
        assert_eq!(poll(pin!(receiver.changed())), Poll::Ready(Ok(())));
        assert_eq!(*receiver.borrow(), 9);
        assert!(poll(pin!(receiver.changed())).is_pending());
    }

    #[test]
    fn the_last_state_is_told_before_the_end() {
        let (sender, mut receiver) = channel(0);
        let mut late = receiver.clone();
        sender.send_modify(|value| *value = 1);
        drop(sender);
        assert_eq!(poll(pin!(receiver.changed())), Poll::Ready(Ok(())));
        assert_eq!(poll(pin!(receiver.changed())), Poll::Ready(Err(Closed)));
        assert_eq!(poll(pin!(late.wait_for(|value| *value == 1))), Poll::Ready(Ok(())));
        assert_eq!(poll(pin!(late.wait_for(|value| *value == 2))), Poll::Ready(Err(Closed)));
    }
}
