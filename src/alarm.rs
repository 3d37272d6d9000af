//! A timer for a task that has many deadlines, one after the other, and meets nearly all of them.

use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use tokio::time;
use tokio::time::Sleep;

/// Set once, and then left to run: at its end it is set anew for the deadline of that moment. So a deadline that is met costs nothing.
/// Only one task may use it.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready once `deadline` has passed. It must not be before the one that was asked for last.
    pub(crate) fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            // It has been asked, so its end wakes this task; it may still run for an earlier deadline.
            Some(timer) if !timer.is_elapsed() => return Poll::Pending,
            Some(timer) => timer,
            none => none.insert(Box::pin(time::sleep_until(deadline.into()))),
        };
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline.into() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}

/// The future's value, if it comes before `deadline`.
pub(crate) async fn until<F: Future>(alarm: &Mutex<Alarm>, deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        alarm.lock().unwrap_or_else(PoisonError::into_inner).poll_at(deadline, cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::future::pending;
    use std::time::Duration;

    #[test]
    fn it_ends_at_the_deadline_of_the_moment_and_not_at_an_earlier_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let alarm = Mutex::default();
            let began = clock::monotonic();
            let at = |millis| began + Duration::from_millis(millis);
            assert_eq!(until(&alarm, at(20), async { 1 }).await, Some(1), "no time at all");
            assert_eq!(until(&alarm, at(20), tokio::task::yield_now()).await, Some(()), "in time");
            // The timer runs for the deadline before.
            for deadline in [at(60), at(80)] {
                assert_eq!(until(&alarm, deadline, pending::<()>()).await, None);
                assert!(clock::monotonic() >= deadline);
            }
        });
    }
}
