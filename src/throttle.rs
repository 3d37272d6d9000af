//! Limits how often the same line is logged.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// Permits one line in each period.
#[derive(Debug)]
pub(crate) struct Throttle {
    period: Duration,
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A throttle with this period.
    pub(crate) const fn new(period: Duration) -> Self {
        Self { period, next: Mutex::new(None) }
    }

    /// Whether a line may be logged at `now`. If so, a new period begins.
    pub(crate) fn permits(&self, now: Instant) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let permitted = next.is_none_or(|next| now >= next);
        if permitted {
            *next = Some(now + self.period);
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn one_line_is_permitted_in_each_period() {
        let throttle = Throttle::new(Duration::from_secs(60));
        let now = clock::monotonic();
        let at = |seconds| throttle.permits(now + Duration::from_secs(seconds));
        assert_eq!([at(0), at(59), at(60), at(61), at(300)], [true, false, true, false, true]);
    }
}
