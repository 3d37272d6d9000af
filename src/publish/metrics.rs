//! The metrics of the publisher: outcomes of records, and durations of the stages.

use std::time::Duration;

use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::local::LocalHistogram;

use crate::metrics::counters;
use crate::metrics::gauge;
use crate::metrics::histogram;
use crate::normalise::REJECTIONS;
use crate::refusal::Reason;

/// The outcome of a record that was handed to the Kafka client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordOutcome {
    /// It is in Kafka.
    Delivered,
    /// Reported as delivered without an offset, and sent again: it may be duplicated.
    Unproven,
    /// Rejected or lost, and sent again.
    Failed,
    /// It will never be accepted.
    Poison,
}

impl RecordOutcome {
    const ALL: [Self; 4] = [Self::Delivered, Self::Unproven, Self::Failed, Self::Poison];

    const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Unproven => "unproven",
            Self::Failed => "failed",
            Self::Poison => "poison",
        }
    }
}

/// See the [module](self). Histograms are collected in the pump and flushed in each iteration, so a record writes to no shared memory.
#[derive(Debug)]
pub(crate) struct PublishMetrics {
    /// By [`RecordOutcome`].
    records: [IntCounter; RecordOutcome::ALL.len()],
    rejected: IntCounterVec,
    unreported: IntGauge,
    oldest_unreported: Gauge,
    oldest_undelivered: GaugeVec,
    /// The same, by topic.
    oldest_by_topic: Vec<Gauge>,
    queue: LocalHistogram,
    normalise: LocalHistogram,
    delivery: LocalHistogram,
}

impl PublishMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcomes = "Records handed to Kafka's client, by what became of them.";
        let records = counters(registry, "callbridge_records_total", outcomes, "outcome")?;
        let reasons = "Records delivered to a rejected topic, by why they are there.";
        let rejected = counters(registry, "callbridge_rejected_total", reasons, "reason")?;
        let words = Reason::ALL.into_iter().filter(|reason| reason.is_kept()).map(Reason::word);
        for word in words.chain(REJECTIONS).chain([Reason::Unpublishable.word()]) {
            rejected.with_label_values(&[word]);
        }
        let unreported = gauge(
            registry,
            "callbridge_records_unreported",
            "Records handed to Kafka's client that have no delivery report yet.",
        )?;
        let oldest_unreported =
            Gauge::new("callbridge_oldest_unreported_seconds", "Age of the oldest record without a delivery report.")?;
        let oldest_undelivered = GaugeVec::new(
            Opts::new(
                "callbridge_topic_oldest_undelivered_seconds",
                "Age of the oldest undelivered callback of this topic; 0 without one.",
            ),
            &["topic"],
        )?;
        // Below an iteration of the pump in normal operation; as long as an outage lasts otherwise.
        let queue = histogram(
            registry,
            "callbridge_queue_duration_seconds",
            "Time from queuing a capture to the publisher reading it.",
            &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0],
        )?;
        // Microseconds of work; a millisecond means a body near the limit, or an overloaded machine.
        let normalise = histogram(
            registry,
            "callbridge_normalise_duration_seconds",
            "Time to make a record from a capture; one in sixteen is measured.",
            &[0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_05, 0.000_25, 0.001, 0.005],
        )?;
        // Linger and a round trip at best; 1.5 s is the timeout of broker mode; 8.5 s is a leader election.
        let delivery = histogram(
            registry,
            "callbridge_delivery_duration_seconds",
            "Time from handing a record to Kafka's client to its positive delivery report.",
            &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 5.0, 10.0, 60.0],
        )?;
        let by_outcome = RecordOutcome::ALL.map(|outcome| records.with_label_values(&[outcome.word()]));
        registry.register(Box::new(oldest_unreported.clone()))?;
        registry.register(Box::new(oldest_undelivered.clone()))?;
        let (queue, normalise, delivery) = (queue.local(), normalise.local(), delivery.local());
        let oldest_by_topic = Vec::new();
        Ok(Self {
            records: by_outcome,
            rejected,
            unreported,
            oldest_unreported,
            oldest_undelivered,
            oldest_by_topic,
            queue,
            normalise,
            delivery,
        })
    }

    /// Creates the metrics of these topics.
    pub(crate) fn show_topics(&mut self, names: &[String]) {
        self.oldest_by_topic = names.iter().map(|name| self.oldest_undelivered.with_label_values(&[name])).collect();
    }

    /// Sets the age of the oldest undelivered callback of each topic, in the same order.
    pub(crate) fn show_oldest(&self, ages: impl Iterator<Item = Duration>) {
        for (gauge, age) in self.oldest_by_topic.iter().zip(ages) {
            gauge.set(age.as_secs_f64());
        }
    }

    /// Counts the records that are in Kafka.
    pub(crate) fn delivered_records(&self) -> IntCounter {
        let [delivered, ..] = &self.records;
        delivered.clone()
    }

    /// Shows the records that have no delivery report yet.
    pub(crate) fn unreported_records(&self) -> IntGauge {
        self.unreported.clone()
    }

    /// Observes how long a capture waited in the journal.
    pub(crate) fn queued(&self, took: Duration) {
        self.queue.observe(took.as_secs_f64());
    }

    /// Observes how long a record took to make.
    pub(crate) fn normalised(&self, took: Duration) {
        self.normalise.observe(took.as_secs_f64());
    }

    /// Counts a delivered record; with a reason, also as a dead letter.
    pub(crate) fn delivered(&self, took: Duration, dead_letter_reason: Option<&'static str>) {
        self.ended(RecordOutcome::Delivered);
        self.delivery.observe(took.as_secs_f64());
        if let Some(reason) = dead_letter_reason {
            self.rejected.with_label_values(&[reason]).inc();
        }
    }

    /// Counts the outcome of a record that was not delivered.
    pub(crate) fn ended(&self, outcome: RecordOutcome) {
        if let Some(records) = self.records.get(outcome as usize) {
            records.inc();
        }
    }

    /// Updates the number of unreported records and the age of the oldest, and flushes the histograms.
    pub(crate) fn turned(&self, unreported: usize, oldest: Duration) {
        self.unreported.set(i64::try_from(unreported).unwrap_or(i64::MAX));
        self.oldest_unreported.set(oldest.as_secs_f64());
        self.queue.flush();
        self.normalise.flush();
        self.delivery.flush();
    }
}
