//! The size of batches: below the limit of every topic, and below what a broker has rejected.
//!
//! The size is the producer's `batch.size`, which counts records before compression. Brokers check a batch after compression, which never
//! makes it larger, so a batch of this size is rejected only if the limit of a topic is not known. A longer record is still sent, in a
//! batch of its own.

use std::time::Duration;
use std::time::Instant;

/// Kept free below a topic's limit. The header of a batch takes 61 bytes, which librdkafka counts too.
const MARGIN_BYTES: usize = 512;

/// How long half of a rejected batch stays the limit, before it is doubled, repeatedly. Each rejected attempt costs a producer.
const GROW_EVERY: Duration = Duration::from_secs(3600);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct BatchSize {
    /// The configured size.
    max: usize,
    /// The smallest known limit of the topics.
    topic_limit: Option<usize>,
    oversized: Option<OversizedBatch>,
}

/// A batch that a broker rejected although all known limits allow it.
#[derive(Debug)]
struct OversizedBatch {
    bytes: usize,
    at: Instant,
}

impl BatchSize {
    /// The configured size, until more is known.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, topic_limit: None, oversized: None }
    }

    /// Sets the smallest limit of the topics.
    pub(super) fn set_topic_limit(&mut self, smallest: Option<usize>) {
        self.topic_limit = smallest;
        self.oversized = self.oversized.take().filter(|oversized| !self.explains(oversized.bytes));
    }

    /// Records that a broker rejected a batch of `bytes`.
    pub(super) fn add_oversized(&mut self, bytes: usize, now: Instant) {
        if !self.explains(bytes) {
            self.oversized = Some(OversizedBatch { bytes, at: now });
        }
    }

    /// The largest batch to send now. At least 1, which means one record a batch.
    pub(super) fn bytes(&self, now: Instant) -> usize {
        let below_limit = self.topic_limit.map(|limit| limit.saturating_sub(MARGIN_BYTES));
        let below_oversized = self.oversized.as_ref().map(|oversized| {
            let doubled = now.saturating_duration_since(oversized.at).as_secs() / GROW_EVERY.as_secs();
            let factor = 1_usize.checked_shl(u32::try_from(doubled).unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
            (oversized.bytes / 2).saturating_mul(factor)
        });
        [below_limit, below_oversized].into_iter().flatten().fold(self.max, usize::min).max(1)
    }

    /// Whether the known limits explain the rejection of `bytes`.
    pub(super) fn explains(&self, bytes: usize) -> bool {
        self.topic_limit.is_some_and(|limit| limit < bytes)
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
            size.set_topic_limit(limit);
            assert_eq!(size.bytes(now), expected, "{max} {limit:?}");
        }
    }

    #[test]
    fn an_oversized_batch_is_halved_until_an_hour_later() {
        let now = clock::monotonic();
        let mut size = BatchSize::new(MAX);
        size.add_oversized(900_000, now);
        assert_eq!(size.bytes(now), 450_000);
        size.add_oversized(450_000, now);
        assert_eq!(size.bytes(now), 225_000);
        assert_eq!(size.bytes(now + HOUR), 450_000);
        assert_eq!(size.bytes(now + 2 * HOUR), 900_000);
        assert_eq!(size.bytes(now + 500 * HOUR), MAX);
        size.add_oversized(1, now);
        assert_eq!(size.bytes(now), 1);
    }

    #[test]
    fn a_limit_that_explains_an_oversized_batch_takes_its_place() {
        let now = clock::monotonic();
        let mut size = BatchSize::new(MAX);
        size.add_oversized(900_000, now);
        size.set_topic_limit(Some(800_000));
        assert_eq!(size.bytes(now), 799_488);
        // Before or after makes no difference.
        size.add_oversized(900_000, now);
        assert_eq!(size.bytes(now), 799_488);
        // This one is within the limit.
        size.add_oversized(700_000, now);
        size.set_topic_limit(Some(800_000));
        assert_eq!(size.bytes(now), 350_000);
    }
}
