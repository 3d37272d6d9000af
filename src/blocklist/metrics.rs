//! The metrics of the blocklist, its files and its topics.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;

use crate::clock::UnixMillis;
use crate::decide::rule::RuleKind;
use crate::decide::rules::Rules;
use crate::metrics;
use crate::metrics::counter;
use crate::metrics::counters;
use crate::metrics::gauge;

/// The age and size of the blocklist, and the state of its files. Clones share the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct BlocklistMetrics {
    /// The generation of the list in force.
    pub(crate) generation: IntGauge,
    /// The number of its rules.
    pub(crate) rules: IntGauge,
    /// When it was loaded; 0 before the first.
    pub(crate) loaded_timestamp: Gauge,
    /// Failures of files, each counted once and not at every poll.
    pub(crate) file_errors: IntCounter,
    /// Files that cannot be used now.
    pub(crate) files_failing: IntGauge,
    /// Rules by kind and source.
    entries: IntGaugeVec,
    /// The memory of the rules, by source.
    bytes: IntGaugeVec,
    topic_state: IntGaugeVec,
    topic_generation: IntGaugeVec,
    topic_age: GaugeVec,
    topic_poison: IntGaugeVec,
    topic_full_reads: IntCounterVec,
}

/// The label of the rules of all files.
const FILES: &str = "files";

/// The metrics of one blocklist topic.
#[derive(Debug, Clone)]
pub(crate) struct TopicMetrics {
    topic: String,
    all: BlocklistMetrics,
    /// The offset behind the last applied record.
    pub(crate) generation: IntGauge,
    /// Seconds since Kafka last showed that no record is missing; NaN before that.
    pub(crate) age: Gauge,
    /// Invalid records since the topic was last read from its start.
    pub(crate) poison: IntGauge,
    /// Full reads of the topic.
    pub(crate) full_reads: IntCounter,
}

impl BlocklistMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let loaded_timestamp = metrics::float_gauge(
            registry,
            "callbridge_blocklist_loaded_timestamp_seconds",
            "When the blocklist was loaded, in seconds since the Unix epoch; 0 before the first.",
        )?;
        let topic_age = GaugeVec::new(
            Opts::new(
                "callbridge_blocklist_topic_age_seconds",
                "Seconds since Kafka last showed that no change of the blocklist topic is missing; not a number before it did.",
            ),
            &["topic"],
        )?;
        registry.register(Box::new(topic_age.clone()))?;
        let one = |name, help| gauge(registry, name, help);
        let gauges = |name, help, labels: &[&str]| gauges(registry, name, help, labels);
        let metrics = Self {
            generation: one(
                "callbridge_blocklist_generation",
                "The generation of the blocklist: with a topic the offset behind its last record, else the number of loads.",
            )?,
            rules: one("callbridge_blocklist_rules", "Rules in the blocklist, expired ones included.")?,
            loaded_timestamp,
            file_errors: counter(
                registry,
                "callbridge_blocklist_file_errors_total",
                "Failures to load a blocklist file: missing, unreadable or invalid.",
            )?,
            files_failing: one(
                "callbridge_blocklist_files_failing",
                "Blocklist files that cannot be used; their last good rules stay in force.",
            )?,
            entries: gauges(
                "callbridge_blocklist_entries",
                "Rules by kind and source, expired ones included.",
                &["kind", "source"],
            )?,
            bytes: gauges(
                "callbridge_blocklist_bytes",
                "Bytes of memory that the rules take, by source.",
                &["source"],
            )?,
            topic_state: gauges(
                "callbridge_blocklist_topic_state",
                "1 for the state that the blocklist topic is in: reading, live or stale.",
                &["topic", "state"],
            )?,
            topic_generation: gauges(
                "callbridge_blocklist_topic_generation",
                "The offset behind the last record of the blocklist topic that was applied.",
                &["topic"],
            )?,
            topic_age,
            topic_poison: gauges(
                "callbridge_blocklist_topic_poison_records",
                "Records of the blocklist topic that cannot be used, since it was last read from its start.",
                &["topic"],
            )?,
            topic_full_reads: counters(
                registry,
                "callbridge_blocklist_topic_full_reads_total",
                "Times that the blocklist topic was read from its start to its end.",
                "topic",
            )?,
        };
        metrics.rules_of(FILES, [0; 4], 0);
        Ok(metrics)
    }

    /// Records that a list is in force.
    pub(crate) fn loaded(&self, generation: u64, rules: usize, now: UnixMillis) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.rules.set(i64::try_from(rules).unwrap_or(i64::MAX));
        self.loaded_timestamp.set(Duration::from_millis(now.0.unsigned_abs()).as_secs_f64());
    }

    /// Records the rules of all files.
    pub(crate) fn rules_of_files<'r>(&self, files: impl Iterator<Item = &'r Arc<Rules>>) {
        let (mut counts, mut bytes) = ([0; 4], 0);
        for rules in files {
            counts.iter_mut().zip(rules.counts()).for_each(|(sum, count)| *sum += count);
            bytes += rules.bytes();
        }
        self.rules_of(FILES, counts, bytes);
    }

    /// The metrics of one topic.
    pub(crate) fn topic(&self, topic: &str) -> TopicMetrics {
        let metrics = TopicMetrics {
            topic: topic.to_owned(),
            all: self.clone(),
            generation: self.topic_generation.with_label_values(&[topic]),
            age: self.topic_age.with_label_values(&[topic]),
            poison: self.topic_poison.with_label_values(&[topic]),
            full_reads: self.topic_full_reads.with_label_values(&[topic]),
        };
        metrics.age.set(f64::NAN);
        metrics
    }

    fn rules_of(&self, source: &str, counts: [usize; 4], bytes: usize) {
        for (kind, count) in RuleKind::ALL.iter().zip(counts) {
            let entries = self.entries.with_label_values(&[kind.as_str(), source]);
            entries.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.bytes.with_label_values(&[source]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl TopicMetrics {
    /// Sets the state of the topic, one of `states`.
    pub(crate) fn state(&self, states: &[&str], state: &str) {
        for other in states {
            let gauge = self.all.topic_state.with_label_values(&[&*self.topic, other]);
            gauge.set(i64::from(*other == state));
        }
    }

    /// Records the rules of the topic.
    pub(crate) fn rules(&self, rules: &Rules) {
        self.all.rules_of(&self.topic, rules.counts(), rules.bytes());
    }
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}
