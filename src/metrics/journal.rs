//! The metrics of the journal on disk: its size, the duration of commits, and unreadable captures.

use std::time::Duration;

use prometheus::Histogram;
use prometheus::IntCounter;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::counter;
use super::gauge;
use super::histogram;

/// The fill of the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    /// The size of all files, in bytes.
    pub(crate) files_bytes: u64,
    /// The size of segments with undelivered captures, in bytes.
    pub(crate) held_bytes: u64,
    /// The quota, in bytes.
    pub(crate) quota_bytes: u64,
    /// The number of segments, with the one that is being written.
    pub(crate) segments: u64,
    /// Undelivered captures in the journal.
    pub(crate) undelivered: u64,
    /// Whether nothing more can be written.
    pub(crate) is_full: bool,
    /// Compactions since the start.
    pub(crate) compactions: u64,
    /// Bytes that they have written.
    pub(crate) copied_bytes: u64,
    /// Bytes that they have freed.
    pub(crate) won_bytes: u64,
}

/// The room of the journal as of the last update. All zero without a journal on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JournalRoom {
    /// The bytes of undelivered captures.
    pub(crate) undelivered_bytes: u64,
    /// The bytes of the segments that hold them.
    pub(crate) held_bytes: u64,
    pub(crate) quota_bytes: u64,
}

impl JournalRoom {
    /// The approximate room left: of the quota, and of the seven eighths of it that may be undelivered.
    pub(crate) const fn free_bytes(&self) -> u64 {
        let of_quota = self.quota_bytes.saturating_sub(self.held_bytes);
        let of_undelivered = (self.quota_bytes / 8 * 7).saturating_sub(self.undelivered_bytes);
        if of_quota < of_undelivered { of_quota } else { of_undelivered }
    }
}

/// See the [module](self). Clones share the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct JournalMetrics {
    /// Captures that this process cannot publish.
    pub(crate) held: IntCounter,
    /// Reads that failed or returned wrong bytes.
    pub(crate) read_errors: IntCounter,
    /// Acknowledged captures that were found damaged at the start.
    pub(crate) damaged: IntCounter,
    sync: Histogram,
    frame: Histogram,
    files_bytes: IntGauge,
    held_bytes: IntGauge,
    quota_bytes: IntGauge,
    segments: IntGauge,
    undelivered: IntGauge,
    undelivered_bytes: IntGaugeVec,
    is_full: IntGauge,
    compactions: IntCounter,
    copied_bytes: IntCounter,
    won_bytes: IntCounter,
}

impl JournalMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let undelivered_bytes = IntGaugeVec::new(
            Opts::new(
                "callbridge_journal_undelivered_bytes",
                "Bytes of undelivered captures, by the topic in whose share they are; other: no topic of this configuration.",
            ),
            &["topic"],
        )?;
        registry.register(Box::new(undelivered_bytes.clone()))?;
        Ok(Self {
            held: counter(
                registry,
                "callbridge_journal_held_total",
                "Captures that stay in the journal because this process cannot publish them, counted each time one is read.",
            )?,
            read_errors: counter(
                registry,
                "callbridge_journal_read_errors_total",
                "Reads of the journal that failed or returned something else than was written.",
            )?,
            damaged: counter(
                registry,
                "callbridge_journal_damaged_captures_total",
                "Acknowledged captures that could not be read at the start and were skipped, with journal.on_corruption = salvage.",
            )?,
            // A tenth of a millisecond on a good disk; above 0.2 s deadlines are at risk.
            sync: histogram(
                registry,
                "callbridge_journal_commit_duration_seconds",
                "Time to make one frame durable: the write and the fsync.",
                &[0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5],
            )?,
            frame: histogram(
                registry,
                "callbridge_journal_commit_captures",
                "Captures made durable by one fsync.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0],
            )?,
            files_bytes: gauge(registry, "callbridge_journal_files_bytes", "Size of the journal's files.")?,
            held_bytes: gauge(
                registry,
                "callbridge_journal_held_bytes",
                "Size of the journal's segments that hold undelivered captures.",
            )?,
            quota_bytes: gauge(registry, "callbridge_journal_quota_bytes", "Quota of the journal's files.")?,
            segments: gauge(registry, "callbridge_journal_segments", "Segments of the journal.")?,
            undelivered: gauge(
                registry,
                "callbridge_journal_undelivered_captures",
                "Undelivered captures in the journal.",
            )?,
            undelivered_bytes,
            is_full: gauge(registry, "callbridge_journal_full", "1 while there is no room for another file.")?,
            compactions: counter(
                registry,
                "callbridge_journal_compactions_total",
                "Compactions of the journal: segments merged into one with their undelivered captures.",
            )?,
            copied_bytes: counter(
                registry,
                "callbridge_journal_compaction_copied_bytes_total",
                "Bytes of undelivered captures that compactions of the journal have copied.",
            )?,
            won_bytes: counter(
                registry,
                "callbridge_journal_compaction_won_bytes_total",
                "Bytes that compactions of the journal have freed.",
            )?,
        })
    }

    /// Observes one commit: the number of captures and the duration.
    pub(crate) fn committed(&self, took: Duration, captures: usize) {
        self.sync.observe(took.as_secs_f64());
        self.frame.observe(f64::from(u32::try_from(captures).unwrap_or(u32::MAX)));
    }

    /// Sets the bytes of undelivered captures by topic.
    pub(crate) fn show_undelivered<'t>(&self, by_topic: impl Iterator<Item = (&'t str, usize)>) {
        for (topic, bytes) in by_topic {
            self.undelivered_bytes.with_label_values(&[topic]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// The room as of the last update.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes, far below 2^53; `as` saturates"
    )]
    pub(crate) fn room(&self) -> JournalRoom {
        let of = |gauge: &IntGauge| u64::try_from(gauge.get()).unwrap_or_default();
        let by_topic = self.undelivered_bytes.collect();
        let undelivered =
            by_topic.iter().flat_map(MetricFamily::get_metric).map(|metric| metric.get_gauge().get_value());
        JournalRoom {
            undelivered_bytes: undelivered.sum::<f64>() as u64,
            held_bytes: of(&self.held_bytes),
            quota_bytes: of(&self.quota_bytes),
        }
    }

    /// Whether the log holds captures that this process cannot publish, as of the last call of [`Self::show`].
    pub(crate) fn has_set_aside(&self) -> bool {
        self.held.get() > 0 && self.undelivered_bytes.with_label_values(&["other"]).get() > 0
    }

    /// Sets the metrics of the fill.
    pub(crate) fn show(&self, fill: &Fill) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.files_bytes, fill.files_bytes);
        set(&self.held_bytes, fill.held_bytes);
        set(&self.quota_bytes, fill.quota_bytes);
        set(&self.segments, fill.segments);
        set(&self.undelivered, fill.undelivered);
        set(&self.is_full, u64::from(fill.is_full));
        let counted = [
            (&self.compactions, fill.compactions),
            (&self.copied_bytes, fill.copied_bytes),
            (&self.won_bytes, fill.won_bytes),
        ];
        for (counter, count) in counted {
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}
