//! The room for bodies that are on their way: bytes set aside before they come, so that many slow senders cannot fill the memory.
//!
//! A body that has come with its head becomes a capture before it waits for anything, and takes none of this room; nor does it cost
//! anything to tell. Questions have a part to themselves.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus::IntGauge;

use crate::clock;
use crate::command::Kind;
use crate::throttle::Throttle;

/// One of so many parts is for questions alone.
const PARTS: usize = 4;
/// How often the same complaint is made.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    taken: AtomicUsize,
    /// What is taken, to be seen.
    gauge: IntGauge,
    complaints: Throttle,
}

/// Room for one body. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved<'b> {
    budget: &'b Budget,
    bytes: usize,
}

impl Budget {
    /// Room for so many bytes.
    pub(crate) const fn new(bytes_max: usize, gauge: IntGauge) -> Self {
        Self { bytes_max, taken: AtomicUsize::new(0), gauge, complaints: Throttle::new(COMPLAIN_EVERY) }
    }

    /// Sets room aside for a body of so many bytes, if there is some for its kind.
    pub(super) fn reserve(&self, bytes: usize, kind: Kind) -> Option<Reserved<'_>> {
        let limit = match kind {
            Kind::After => self.bytes_max - self.bytes_max / PARTS,
            Kind::Before => self.bytes_max,
        };
        let add = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= limit);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            self.complain(kind);
            return None;
        }
        self.gauge.add(signed(bytes));
        Some(Reserved { budget: self, bytes })
    }

    fn complain(&self, kind: Kind) {
        if self.complaints.permits(clock::monotonic()) {
            let bytes_max = self.bytes_max;
            tracing::warn!(
                bytes_max,
                is_question = kind == Kind::Before,
                "too many bodies are on their way; some are refused"
            );
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.gauge.sub(signed(self.bytes));
    }
}

/// No memory holds more.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes_max: usize) -> Budget {
        Budget::new(bytes_max, IntGauge::new("taken", "Bytes.").unwrap())
    }

    #[test]
    fn news_gets_three_quarters_and_questions_all_of_it() {
        let budget = budget(100);
        let news = budget.reserve(75, Kind::After).unwrap();
        assert!(budget.reserve(1, Kind::After).is_none());
        let question = budget.reserve(25, Kind::Before).unwrap();
        assert!(budget.reserve(1, Kind::Before).is_none(), "their part has an end too");
        assert_eq!(budget.gauge.get(), 100);
        drop(question);
        assert!(budget.reserve(1, Kind::After).is_none(), "what is free is for questions");
        drop(news);
        assert_eq!(budget.gauge.get(), 0);
        assert!(budget.reserve(75, Kind::After).is_some());
    }

    #[test]
    fn a_number_beyond_all_measure_is_just_too_much() {
        let budget = budget(100);
        let _room = budget.reserve(1, Kind::Before).unwrap();
        assert!(budget.reserve(usize::MAX, Kind::Before).is_none());
    }
}
