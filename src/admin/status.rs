//! What the status page shows: the process at one moment, from its metrics, its probes and its history.

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

use crate::admin::history::READ_EVERY;
use crate::admin::history::Rates;
use crate::admin::history::StatusHistory;
use crate::admin::history::StatusReading;
use crate::admin::sentence::Severity;
use crate::admin::sentence::Situation;
use crate::admin::sentence::TROUBLE_AFTER;
use crate::admin::sentence::sentence;
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

/// Where the status comes from.
#[derive(Debug)]
pub(crate) struct StatusSource {
    ledger: Ledger,
    journal: JournalMetrics,
    delivered_records: IntCounter,
    unreported_records: IntGauge,
    history: Mutex<StatusHistory>,
}

/// What the probes say.
#[derive(Debug)]
pub(super) struct Probes {
    pub(super) phase: Phase,
    pub(super) alive: Result<(), String>,
    pub(super) ready: Result<(), String>,
    pub(super) is_any_broker_up: bool,
}

/// The process at one moment.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) sentence: String,
    pub(super) severity: Severity,
    pub(super) now: UnixMillis,
    pub(super) uptime: Duration,
    /// How many callbacks ended for each reason, if any did, and how long ago the last did. Those that are lost come first.
    pub(super) ended: Vec<(Reason, u64, Option<Duration>)>,
    pub(super) balance: Balance,
    pub(super) delivered_ago: Option<Duration>,
    /// Over the last ten seconds, and over the last minute.
    pub(super) rates: [Option<Rates>; 2],
    pub(super) room: JournalRoom,
    pub(super) journal_lasts: Option<Duration>,
    /// The age of the oldest callback that waits for Kafka.
    pub(super) oldest: Duration,
    pub(super) held_up: Vec<HeldUpTopic>,
    pub(super) figures: Figures,
}

/// A topic of which Kafka takes nothing.
#[derive(Debug)]
pub(super) struct HeldUpTopic {
    pub(super) name: String,
    pub(super) oldest: Duration,
    /// In the journal.
    pub(super) bytes: f64,
    /// Lost because its share was full.
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

    /// Adds a reading to the history each second. Never ends.
    pub(super) async fn watch(&self, kafka: &Health) {
        loop {
            let reading = self.read(kafka.is_any_broker_up());
            self.lock().add(reading);
            time::sleep(READ_EVERY).await;
        }
    }

    fn read(&self, is_any_broker_up: bool) -> StatusReading {
        let balance = self.ledger.read();
        let is_waiting = waiting_for_kafka(&balance) > 0;
        StatusReading {
            at: clock::monotonic(),
            delivered_records: self.delivered_records.get(),
            // What waits for another reason, such as an application that is not configured any more, is neither.
            is_kafka_due: self.unreported_records.get() > 0 || (is_waiting && !is_any_broker_up),
            room: self.journal.room(),
            balance,
        }
    }

    /// The status now.
    pub(super) fn look(&self, probes: Probes, registry: &Registry) -> Status {
        let (now, figures) = (clock::monotonic(), Figures(registry.gather()));
        let reading = self.read(probes.is_any_broker_up);
        let history = self.lock();
        let ended = ended(&reading.balance, |reason| history.ended_ago(reason, now));
        let lost = ended.iter().filter(|(reason, ..)| reason.account() == LedgerAccount::Lost);
        let last_lost = lost.filter_map(|(_, _, ago)| *ago).min();
        let (oldest, held_up) = topics(&figures);
        let longest = held_up.first().map(|topic| (held_up.len(), topic.oldest));
        let (sentence, severity) = sentence(&Situation {
            phase: probes.phase,
            alive: probes.alive,
            ready: probes.ready,
            waiting: waiting_for_kafka(&reading.balance),
            lost: last_lost.map(|ago| (reading.balance.ended_total(LedgerAccount::Lost), ago)),
            takes_nothing_for: if reading.is_kafka_due { history.kafka_takes_nothing_for(now) } else { Duration::ZERO },
            is_any_broker_up: probes.is_any_broker_up,
            held_up: longest,
            journal_lasts: history.journal_lasts(),
            others: others(&figures),
        });
        Status {
            sentence,
            severity,
            now: clock::wall(),
            uptime: now.duration_since(history.started),
            ended,
            delivered_ago: history.delivered_ago(now),
            rates: [10, 60].map(|seconds| history.rates(Duration::from_secs(seconds))),
            room: reading.room,
            journal_lasts: history.journal_lasts(),
            balance: reading.balance,
            oldest,
            held_up,
            figures,
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

/// The age of the oldest undelivered callback, and the topics that are held up, the worst first.
fn topics(figures: &Figures) -> (Duration, Vec<HeldUpTopic>) {
    let ages = figures.by("callbridge_topic_oldest_undelivered_seconds", "topic");
    let bytes = figures.by("callbridge_journal_undelivered_bytes", "topic");
    let lost = figures.by("callbridge_topic_full_total", "topic");
    let of = |figures: &BTreeMap<&str, f64>, topic: &str| figures.get(topic).copied().unwrap_or_default();
    let aged = ages.into_iter().map(|(topic, age)| (topic, Duration::try_from_secs_f64(age).unwrap_or_default()));
    let mut topics: Vec<HeldUpTopic> = aged
        .map(|(topic, oldest)| HeldUpTopic {
            name: topic.to_owned(),
            oldest,
            bytes: of(&bytes, topic),
            lost: of(&lost, topic),
        })
        .collect();
    topics.sort_by_key(|topic| std::cmp::Reverse(topic.oldest));
    let oldest = topics.first().map(|topic| topic.oldest).unwrap_or_default();
    topics.retain(|topic| topic.oldest >= TROUBLE_AFTER);
    (oldest, topics)
}

/// What needs a look beside callbacks and Kafka.
fn others(figures: &Figures) -> Vec<String> {
    let failing = [
        ("callbridge_token_files_failing", "token files"),
        ("callbridge_tls_files_failing", "TLS files"),
        ("callbridge_blocklist_files_failing", "blocklist files"),
    ];
    let failing = failing.into_iter().filter(|(name, _)| figures.sum(name) > 0.0);
    let failing = failing.map(|(_, what)| format!("{what} cannot be used"));
    let stale = figures.rows("callbridge_blocklist_topic_state").filter(|(_, value)| *value > 0.0);
    let stale = stale.filter(|(metric, _)| label(metric, "state") == "stale");
    let stale = stale.map(|(metric, _)| format!("blocklist topic {} is stale", label(metric, "topic")));
    let aside = (figures.set_aside_bytes() > 0.0)
        .then(|| "callbacks are set aside that this configuration cannot publish".to_owned());
    failing.chain(stale).chain(aside).collect()
}

/// All metrics, of one moment.
#[derive(Debug)]
pub(super) struct Figures(Vec<MetricFamily>);

impl Figures {
    /// Every series of a counter or gauge.
    pub(super) fn rows(&self, name: &str) -> impl Iterator<Item = (&Metric, f64)> {
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
        // Not `sum`, which makes `-0` of none.
        self.rows(name).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The sums by one label.
    pub(super) fn by(&self, name: &str, by: &str) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for (metric, value) in self.rows(name) {
            *sums.entry(label(metric, by)).or_default() += value;
        }
        sums
    }

    /// What the journal holds of callbacks that this configuration cannot publish.
    pub(super) fn set_aside_bytes(&self) -> f64 {
        let has_met_some = self.sum("callbridge_journal_held_total") > 0.0;
        let of_no_topic = self.by("callbridge_journal_undelivered_bytes", "topic").get("other").copied();
        of_no_topic.filter(|_| has_met_some).unwrap_or_default()
    }
}

/// A label's value; empty without it.
pub(super) fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value()).unwrap_or_default()
}
