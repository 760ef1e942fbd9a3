//! hyper's two questions to a runtime, «run this future» and «wake me then», answered by [`Runtime`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Executor, Sleep, Timer};

use crate::runtime::{Lane, Runtime};

/// Runs hyper's futures as tasks of the serving lane.
#[derive(Clone)]
pub(crate) struct Tasks<R>(pub(crate) R);

impl<R, F> Executor<F> for Tasks<R>
where
    R: Runtime,
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(Lane::Serve, "http", async move {
            future.await;
        });
    }
}

/// Gives hyper the runtime's clock.
#[derive(Clone)]
pub(crate) struct Clock<R> {
    runtime: R,
    /// Stands for the origin of the runtime's clock, since hyper counts in std's opaque instants.
    origin: Instant,
}

impl<R: Runtime> Clock<R> {
    pub(crate) fn new(runtime: R) -> Self {
        // NB: any instant will do: only differences to it are ever used, and those are the runtime's.
        #[allow(clippy::disallowed_methods, reason = "an arbitrary origin, not a reading of time")]
        let origin = Instant::now();
        Self { runtime, origin }
    }
}

impl<R: Runtime> Timer for Clock<R> {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Sleeping(Mutex::new(Box::pin(self.runtime.sleep(duration)))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        self.origin + self.runtime.now().0
    }
}

/// A sleep of the runtime. The mutex is there only because hyper asks for `Sync`; it is never locked.
struct Sleeping<F>(Mutex<Pin<Box<F>>>);

impl<F: Future<Output = ()> + Send + 'static> Sleep for Sleeping<F> {}

impl<F: Future<Output = ()>> Future for Sleeping<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        sleep.as_mut().poll(cx)
    }
}
