//! How large a batch of records may be: below what every topic takes, and below what a broker has refused.
//!
//! The size is the producer's `batch.size`, which counts records before compression. Brokers judge a batch after compression, which never
//! makes it larger, so a batch within this size is refused only where a topic's limit is not known. A record longer than it is still sent,
//! in a batch of its own.

use std::time::Duration;
use std::time::Instant;

/// Left free below a topic's limit. The header of a batch takes 61 bytes, which librdkafka counts too.
const MARGIN_BYTES: usize = 512;

/// How long half of a refused batch stays the limit; then that is doubled, again and again. Each attempt that is refused costs a producer.
const GROW_EVERY: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub(super) struct BatchSize {
    /// As configured.
    max: usize,
    /// The smallest of the topics' limits, of those that are known.
    topics_take: Option<usize>,
    refused: Option<RefusedBatch>,
}

/// A batch that a broker refused although all known limits allow it.
#[derive(Debug)]
struct RefusedBatch {
    bytes: usize,
    at: Instant,
}

impl BatchSize {
    /// The size that the configuration allows, until more is known.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, topics_take: None, refused: None }
    }

    /// The topics' limits were read: this is the smallest of them.
    pub(super) fn topics_take(&mut self, smallest: Option<usize>) {
        self.topics_take = smallest;
        self.refused = self.refused.take().filter(|refused| !self.explains(refused.bytes));
    }

    /// A broker refused a batch of so many bytes.
    pub(super) fn refused(&mut self, bytes: usize, now: Instant) {
        if !self.explains(bytes) {
            self.refused = Some(RefusedBatch { bytes, at: now });
        }
    }

    /// The largest batch to send now. At least 1, which is a record a batch.
    pub(super) fn bytes(&self, now: Instant) -> usize {
        let below_limit = self.topics_take.map(|limit| limit.saturating_sub(MARGIN_BYTES));
        let below_refused = self.refused.as_ref().map(|refused| {
            let doubled = now.saturating_duration_since(refused.at).as_secs() / GROW_EVERY.as_secs();
            let factor = 1_usize.checked_shl(u32::try_from(doubled).unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
            (refused.bytes / 2).saturating_mul(factor)
        });
        [below_limit, below_refused].into_iter().flatten().fold(self.max, usize::min).max(1)
    }

    /// Whether the known limits are reason enough to refuse so many bytes.
    pub(super) fn explains(&self, bytes: usize) -> bool {
        self.topics_take.is_some_and(|limit| limit < bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MAX: usize = 1_000_000;
    const HOUR: Duration = GROW_EVERY;

    #[test]
    fn stays_below_the_smallest_limit_and_never_above_what_is_configured() {
        let now = clock::monotonic();
        for (max, limit, expected) in [
            (MAX, None, MAX),
            (MAX, Some(1_048_588), MAX),
            (MAX, Some(400_000), 399_488),
            (300_000, Some(400_000), 300_000),
            (MAX, Some(10), 1),
            (MAX, Some(0), 1),
        ] {
            let mut size = BatchSize::new(max);
            size.topics_take(limit);
            assert_eq!(size.bytes(now), expected, "{max} {limit:?}");
        }
    }

    #[test]
    fn a_refused_batch_is_halved_until_an_hour_later() {
        let now = clock::monotonic();
        let mut size = BatchSize::new(MAX);
        size.refused(900_000, now);
        assert_eq!(size.bytes(now), 450_000);
        size.refused(450_000, now);
        assert_eq!(size.bytes(now), 225_000);
        assert_eq!(size.bytes(now + HOUR), 450_000);
        assert_eq!(size.bytes(now + 2 * HOUR), 900_000);
        assert_eq!(size.bytes(now + 500 * HOUR), MAX);
        size.refused(1, now);
        assert_eq!(size.bytes(now), 1);
    }

    #[test]
    fn a_limit_that_explains_the_refusal_takes_its_place() {
        let now = clock::monotonic();
        let mut size = BatchSize::new(MAX);
        size.refused(900_000, now);
        size.topics_take(Some(800_000));
        assert_eq!(size.bytes(now), 799_488);
        // Before or after makes no difference.
        size.refused(900_000, now);
        assert_eq!(size.bytes(now), 799_488);
        // This one is within the limit.
        size.refused(700_000, now);
        size.topics_take(Some(800_000));
        assert_eq!(size.bytes(now), 350_000);
    }
}
