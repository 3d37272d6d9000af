//! When each callback is due, and which connection sends it: the next free one.

use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::time;

use crate::clock;

use super::LoadLength;
use super::LoadPlan;
use super::RESPONSE_TIMEOUT;

/// How late a timer may fire. This delay is not counted as the server's.
const TIMER_SLACK: Duration = Duration::from_millis(10);

/// How long in advance a callback is signed at most: a signature is valid only for a while.
const SOON: Duration = Duration::from_secs(1);

/// The callbacks by number, from 0.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    rate: Option<f64>,
    /// Their number, if it is known.
    total: Option<u64>,
    /// When the closed model ends, unless by count.
    closes: Option<Instant>,
    /// When the open model ends: no callback is due from then on.
    end: Option<Instant>,
    /// How many consecutive callbacks one connection sends.
    group: u64,
    next: AtomicU64,
}

/// When a callback is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallbackStart {
    pub(super) at: Instant,
    /// The beginning of its latency: the time when it was due, unless that was just now.
    pub(super) counts_from: Instant,
    /// It is sent late although its connection was free: this process could not keep up.
    pub(super) is_late: bool,
}

impl Schedule {
    pub(super) fn new(start: Instant, plan: &LoadPlan) -> Self {
        let group = if plan.is_twice { 2 } else { 1 };
        let (total, closes, end) = match (plan.length, plan.rate) {
            (LoadLength::Count(count), rate) => {
                let total = count.saturating_mul(group);
                (Some(total), None, rate.map(|rate| due(start, rate, total)))
            }
            (LoadLength::Seconds(seconds), rate) => {
                let end = Some(start + Duration::from_secs_f64(seconds));
                rate.map_or((None, end, None), |rate| (Some(whole(seconds * rate)), None, end))
            }
        };
        Self { start, rate: plan.rate, total, closes, end, group, next: AtomicU64::new(0) }
    }

    /// The next consecutive numbers for the caller; `None` at the end.
    pub(super) fn take(&self) -> Option<RangeInclusive<u64>> {
        if self.closes.is_some_and(|closes| clock::monotonic() >= closes) {
            return None;
        }
        let first = self.next.fetch_add(self.group, Ordering::Relaxed);
        let last = self.total.map_or(u64::MAX, |total| total.saturating_sub(1)).min(first + self.group - 1);
        self.total.is_none_or(|total| first < total).then_some(first..=last)
    }

    /// Waits until a callback is about to be due.
    pub(super) async fn wait_until_soon(&self, number: u64) {
        if let Some(due) = self.due(number)
            && due.saturating_duration_since(clock::monotonic()) > SOON
        {
            time::sleep_until((due - SOON).into()).await;
        }
    }

    /// Waits until a callback is due.
    pub(super) async fn wait_for(&self, number: u64) -> CallbackStart {
        let now = clock::monotonic();
        let Some(due) = self.due(number) else { return CallbackStart { at: now, counts_from: now, is_late: false } };
        if now >= due {
            return CallbackStart { at: now, counts_from: due, is_late: false };
        }
        time::sleep_until(due.into()).await;
        let now = clock::monotonic();
        let is_late = now.saturating_duration_since(due) > TIMER_SLACK;
        CallbackStart { at: now, counts_from: if is_late { due } else { now }, is_late }
    }

    /// How many callbacks will be due in total, if it is known in advance.
    pub(super) const fn total(&self) -> Option<u64> {
        self.total
    }

    pub(super) const fn group(&self) -> u64 {
        self.group
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.rate.is_none()
    }

    /// When the open model ends.
    pub(super) const fn end(&self) -> Option<Instant> {
        self.end
    }

    /// When missing responses count as failures.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.end().map(|end| end + RESPONSE_TIMEOUT)
    }

    fn due(&self, number: u64) -> Option<Instant> {
        self.rate.map(|rate| due(self.start, rate, number))
    }
}

fn due(start: Instant, rate: f64, number: u64) -> Instant {
    start + Duration::from_secs_f64(number as f64 / rate)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is too large becomes the largest"
)]
fn whole(number: f64) -> u64 {
    number.round().max(1.0) as u64
}
