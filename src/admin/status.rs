//! The contents of the status page: the status of the process, from its metrics, probes and history.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use prometheus::IntCounter;
use prometheus::IntGauge;
use prometheus::Registry;
use prometheus::proto::Metric;
use prometheus::proto::MetricFamily;
use prometheus::proto::MetricType;
use tokio::time;

use crate::admin::history::Rates;
use crate::admin::history::SAMPLE_PERIOD;
use crate::admin::history::StatusHistory;
use crate::admin::history::StatusSample;
use crate::admin::summary::DELIVERY_STUCK_AFTER;
use crate::admin::summary::Severity;
use crate::admin::summary::SummaryInput;
use crate::admin::summary::summary;
use crate::clock;
use crate::clock::UnixMillis;
use crate::ledger::Balance;
use crate::ledger::Ledger;
use crate::lifecycle::Phase;
use crate::metrics::journal::JournalMetrics;
use crate::metrics::journal::JournalRoom;
use crate::publish::kafka::Health;
use crate::publish::metrics::PublishMetrics;
use crate::refusal::LedgerAccount;
use crate::refusal::Reason;

/// The sources of the status.
#[derive(Debug)]
pub(crate) struct StatusSource {
    ledger: Ledger,
    journal: JournalMetrics,
    delivered_records: IntCounter,
    unreported_records: IntGauge,
    history: Mutex<StatusHistory>,
}

/// The results of the probes.
#[derive(Debug)]
pub(super) struct Probes {
    pub(super) phase: Phase,
    pub(super) alive: Result<(), String>,
    pub(super) ready: Result<(), String>,
    pub(super) is_any_broker_up: bool,
}

/// The status of the process at one moment.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) summary: String,
    pub(super) severity: Severity,
    pub(super) now: UnixMillis,
    pub(super) uptime: Duration,
    /// The refused and lost callbacks: each reason that occurred, its count, and how long ago it last occurred. Losses come first.
    pub(super) ended: Vec<(Reason, u64, Option<Duration>)>,
    pub(super) balance: Balance,
    pub(super) delivered_ago: Option<Duration>,
    /// Over the last ten seconds, and over the last minute.
    pub(super) rates: [Option<Rates>; 2],
    pub(super) room: JournalRoom,
    pub(super) journal_full_in: Option<Duration>,
    /// The age of the oldest callback waiting for Kafka.
    pub(super) oldest: Duration,
    pub(super) stuck_topics: Vec<StuckTopic>,
    pub(super) metrics: MetricsSnapshot,
}

/// A topic whose oldest undelivered callback is older than [`DELIVERY_STUCK_AFTER`].
#[derive(Debug)]
pub(super) struct StuckTopic {
    pub(super) name: String,
    pub(super) oldest: Duration,
    /// Undelivered bytes in the journal.
    pub(super) bytes: f64,
    /// Callbacks that were lost because the topic's share was full.
    pub(super) lost: f64,
}

impl StatusSource {
    pub(crate) fn new(ledger: &Ledger, journal: &JournalMetrics, publish: &PublishMetrics) -> Self {
        Self {
            ledger: ledger.clone(),
            journal: journal.clone(),
            delivered_records: publish.delivered_records(),
            unreported_records: publish.unreported_records(),
            history: Mutex::new(StatusHistory::new(clock::monotonic())),
        }
    }

    /// Adds a sample to the history every second. Never returns.
    pub(super) async fn sample(&self, kafka: &Health) {
        loop {
            let sample = self.take_sample(kafka.is_any_broker_up());
            self.lock().add(sample);
            time::sleep(SAMPLE_PERIOD).await;
        }
    }

    fn take_sample(&self, is_any_broker_up: bool) -> StatusSample {
        let balance = self.ledger.read();
        let is_waiting = waiting_for_kafka(&balance) > 0;
        StatusSample {
            at: clock::monotonic(),
            delivered_records: self.delivered_records.get(),
            // Other waiting callbacks do not count: their application may no longer be configured.
            awaits_kafka: self.unreported_records.get() > 0 || (is_waiting && !is_any_broker_up),
            room: self.journal.room(),
            balance,
        }
    }

    /// The current status.
    pub(super) fn now(&self, probes: Probes, registry: &Registry) -> Status {
        let (now, metrics) = (clock::monotonic(), MetricsSnapshot(registry.gather()));
        let sample = self.take_sample(probes.is_any_broker_up);
        let history = self.lock();
        let ended = ended(&sample.balance, |reason| history.ended_ago(reason, now));
        let lost = ended.iter().filter(|(reason, ..)| reason.account() == LedgerAccount::Lost);
        let last_lost = lost.filter_map(|(_, _, ago)| *ago).min();
        let (oldest, stuck_topics) = topic_backlogs(&metrics);
        let longest = stuck_topics.first().map(|topic| (stuck_topics.len(), topic.oldest));
        let (summary, severity) = summary(&SummaryInput {
            phase: probes.phase,
            alive: probes.alive,
            ready: probes.ready,
            waiting: waiting_for_kafka(&sample.balance),
            lost: last_lost.map(|ago| (sample.balance.ended_total(LedgerAccount::Lost), ago)),
            kafka_stuck_for: if sample.awaits_kafka { history.kafka_stuck_for(now) } else { Duration::ZERO },
            is_any_broker_up: probes.is_any_broker_up,
            stuck_topics: longest,
            journal_full_in: history.journal_full_in(),
            warnings: warnings(&metrics),
        });
        Status {
            summary,
            severity,
            now: clock::wall(),
            uptime: now.duration_since(history.started),
            ended,
            delivered_ago: history.delivered_ago(now),
            rates: [10, 60].map(|seconds| history.rates(Duration::from_secs(seconds))),
            room: sample.room,
            journal_full_in: history.journal_full_in(),
            balance: sample.balance,
            oldest,
            stuck_topics,
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, StatusHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn waiting_for_kafka(balance: &Balance) -> u64 {
    balance.waiting_queue + balance.waiting_journal
}

fn ended(balance: &Balance, ago: impl Fn(Reason) -> Option<Duration>) -> Vec<(Reason, u64, Option<Duration>)> {
    let counts = Reason::ALL.into_iter().zip(balance.ended).filter(|(_, count)| *count > 0);
    let mut ended: Vec<_> = counts.map(|(reason, count)| (reason, count, ago(reason))).collect();
    ended.sort_by_key(|(reason, ..)| reason.account() != LedgerAccount::Lost);
    ended
}

/// The age of the oldest undelivered callback of all topics, and the stuck topics, the worst first.
fn topic_backlogs(metrics: &MetricsSnapshot) -> (Duration, Vec<StuckTopic>) {
    let ages = metrics.by("callbridge_topic_oldest_undelivered_seconds", "topic");
    let bytes = metrics.by("callbridge_journal_undelivered_bytes", "topic");
    let lost = metrics.by("callbridge_topic_full_total", "topic");
    let of = |metrics: &BTreeMap<&str, f64>, topic: &str| metrics.get(topic).copied().unwrap_or_default();
    let aged = ages.into_iter().map(|(topic, age)| (topic, Duration::try_from_secs_f64(age).unwrap_or_default()));
    let mut topics: Vec<StuckTopic> = aged
        .map(|(topic, oldest)| StuckTopic {
            name: topic.to_owned(),
            oldest,
            bytes: of(&bytes, topic),
            lost: of(&lost, topic),
        })
        .collect();
    topics.sort_by_key(|topic| std::cmp::Reverse(topic.oldest));
    let oldest = topics.first().map(|topic| topic.oldest).unwrap_or_default();
    topics.retain(|topic| topic.oldest >= DELIVERY_STUCK_AFTER);
    (oldest, topics)
}

/// Problems with files, the blocklist topic and captures that cannot be published.
fn warnings(metrics: &MetricsSnapshot) -> Vec<String> {
    let failing = [
        ("callbridge_token_files_failing", "token files"),
        ("callbridge_tls_files_failing", "TLS files"),
        ("callbridge_blocklist_files_failing", "blocklist files"),
    ];
    let failing = failing.into_iter().filter(|(name, _)| metrics.sum(name) > 0.0);
    let failing = failing.map(|(_, what)| format!("{what} cannot be used"));
    let stale = metrics.series("callbridge_blocklist_topic_state").filter(|(_, value)| *value > 0.0);
    let stale = stale.filter(|(metric, _)| label(metric, "state") == "stale");
    let stale = stale.map(|(metric, _)| format!("blocklist topic {} is stale", label(metric, "topic")));
    let unpublishable = (metrics.unpublishable_bytes() > 0.0)
        .then(|| "the journal holds callbacks that this version or configuration cannot publish".to_owned());
    failing.chain(stale).chain(unpublishable).collect()
}

/// The values of all metrics at one moment.
#[derive(Debug)]
pub(super) struct MetricsSnapshot(Vec<MetricFamily>);

impl MetricsSnapshot {
    /// Every series of a counter or gauge.
    pub(super) fn series(&self, name: &str) -> impl Iterator<Item = (&Metric, f64)> {
        let families = self.0.iter().filter(move |family| family.name() == name);
        families.flat_map(|family| {
            let is_counter = family.get_field_type() == MetricType::COUNTER;
            let value = move |metric: &Metric| match is_counter {
                true => metric.get_counter().get_value(),
                false => metric.get_gauge().get_value(),
            };
            family.get_metric().iter().map(move |metric| (metric, value(metric)))
        })
    }

    /// The sum of every series.
    pub(super) fn sum(&self, name: &str) -> f64 {
        // Not `Iterator::sum`, which returns `-0` if there is none.
        self.series(name).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The sums by the label `by`.
    pub(super) fn by(&self, name: &str, by: &str) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for (metric, value) in self.series(name) {
            *sums.entry(label(metric, by)).or_default() += value;
        }
        sums
    }

    /// The bytes in the journal of callbacks that this configuration cannot publish.
    pub(super) fn unpublishable_bytes(&self) -> f64 {
        let has_found_some = self.sum("callbridge_journal_held_total") > 0.0;
        let without_topic = self.by("callbridge_journal_undelivered_bytes", "topic").get("other").copied();
        without_topic.filter(|_| has_found_some).unwrap_or_default()
    }
}

/// The value of a label; empty if the metric does not have it.
pub(super) fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value()).unwrap_or_default()
}
