//! The consumer of a blocklist topic.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use rdkafka::ClientContext;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use rdkafka::message::Headers;
use rdkafka::message::Message;
use serde::Deserialize;

use crate::clock;
use crate::decide::fold::LogRecord;
use crate::decide::topic::TOPIC_HEADER;
use crate::publish::kafka;

/// The only partition: only the order within one partition makes an offset a generation.
pub(super) const PARTITION: i32 = 0;

/// The period of describing the topic; see `topic.metadata.refresh.interval.ms` in [`super::properties`].
pub(super) const DESCRIBED_EVERY: Duration = Duration::from_mins(1);

/// A leader that has been silent for this long has not answered a fetch, which takes half a second at most.
const SILENT: Duration = Duration::from_secs(2);

/// Older statistics are out of date.
const STATISTICS_AGE_MAX: Duration = Duration::from_millis(2500);

/// A consumer of one topic, assigned and never in a group.
pub(super) struct TopicConsumer {
    consumer: BaseConsumer<Events>,
    topic: String,
}

/// The result of a poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// No event within the time.
    Nothing,
    /// A record was passed on.
    Record,
    /// The end of the log was reached.
    End,
    /// The log is not the one that was read before. It must be read from its start.
    LogChanged,
    /// The topic cannot be read now; the client keeps trying.
    Unreadable(String),
    /// The consumer has failed for good.
    Dead(String),
}

/// Why a topic cannot be followed, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicProblem {
    /// It does not exist.
    #[error("the topic does not exist: create it, or start with --create-topics")]
    Missing,
    /// Kafka does not show it to this client.
    #[error("the rights to DESCRIBE and READ the topic are missing")]
    Forbidden,
    /// The error of the client.
    #[error("kafka does not answer: {0}")]
    Unknown(String),
}

/// The state of the partition in the last statistics.
#[derive(Debug, Clone, Copy)]
struct FetchState {
    at: Instant,
    /// The leader answers, and a fetch is in progress.
    is_fetching: bool,
    /// The end of the log; negative if it is not known.
    high: i64,
    /// The offset of the last end-of-log event; negative before the first.
    end: i64,
    described: TopicDescribed,
}

/// The last description of the topic by the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopicDescribed {
    /// The time, in milliseconds of the client's clock.
    pub(super) at: i64,
    /// The number of partitions.
    pub(super) partitions: usize,
}

/// The callbacks of librdkafka.
#[derive(Default)]
struct Events {
    fetch: Mutex<Option<FetchState>>,
}

#[derive(Deserialize)]
struct ConsumerStatistics {
    /// The time of the statistics, in microseconds of the client's clock.
    #[serde(default)]
    ts: i64,
    #[serde(default)]
    brokers: BTreeMap<String, LeaderStatistics>,
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct LeaderStatistics {
    #[serde(default)]
    nodeid: i64,
    /// Microseconds since the leader last sent something.
    #[serde(default)]
    rxidle: i64,
}

#[derive(Deserialize)]
struct TopicStatistics {
    /// Milliseconds since the brokers last described the topic.
    #[serde(default)]
    metadata_age: i64,
    #[serde(default)]
    partitions: BTreeMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    #[serde(default)]
    leader: i64,
    #[serde(default)]
    fetch_state: String,
    #[serde(default)]
    hi_offset: i64,
    #[serde(default)]
    eof_offset: i64,
}

impl FetchState {
    /// `None` if the statistics cannot be parsed, or do not contain the partition.
    fn of(statistics: &[u8], at: Instant) -> Option<Self> {
        let statistics: ConsumerStatistics = serde_json::from_slice(statistics).ok()?;
        let topic = statistics.topics.values().next()?;
        let partition = topic.partitions.get("0")?;
        let leader = statistics.brokers.values().find(|broker| broker.nodeid == partition.leader);
        let silent = leader.and_then(|leader| u64::try_from(leader.rxidle).ok()).map(Duration::from_micros);
        let is_fetching = partition.fetch_state == "active" && silent.is_some_and(|silent| silent < SILENT);
        // There is also a pseudo partition -1, for messages without a partition.
        let partitions = topic.partitions.keys().filter(|number| !number.starts_with('-')).count();
        let described = TopicDescribed { at: statistics.ts / 1000 - topic.metadata_age, partitions };
        Some(Self { at, is_fetching, high: partition.hi_offset, end: partition.eof_offset, described })
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(state) = FetchState::of(statistics, clock::monotonic()) {
            *self.fetch.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka, of a blocklist topic");
    }
}

impl ConsumerContext for Events {}

impl TopicConsumer {
    /// A consumer that is not assigned yet.
    pub(super) fn new(properties: &BTreeMap<String, String>, topic: &str) -> Result<Self, String> {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(name, value);
        }
        // The level at which librdkafka logs that a broker has closed a connection.
        config.set_log_level(RDKafkaLogLevel::Info);
        let consumer = config.create_with_context(Events::default()).map_err(|error| error.to_string())?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// Begins to read at `offset`; `None`: at the first record of the log.
    pub(super) fn read_from(&self, offset: Option<u64>) -> Result<(), String> {
        let offset =
            offset.map_or(Offset::Beginning, |offset| Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX)));
        let mut partitions = TopicPartitionList::new();
        let added = partitions.add_partition_offset(&self.topic, PARTITION, offset);
        added.and_then(|()| self.consumer.assign(&partitions)).map_err(|error| error.to_string())
    }

    /// The end of the log, from its leader, within `limit`.
    pub(super) fn high_watermark(&self, limit: Duration) -> Result<u64, String> {
        let watermarks = self.consumer.fetch_watermarks(&self.topic, PARTITION, limit);
        watermarks.map(|(_low, high)| u64::try_from(high).unwrap_or(0)).map_err(|error| error.to_string())
    }

    /// The number of partitions, from the cluster, within `limit`.
    pub(super) fn partitions(&self, limit: Duration) -> Result<usize, TopicProblem> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), limit);
        let metadata = metadata.map_err(|error| TopicProblem::Unknown(error.to_string()))?;
        let topic = metadata.topics().first().ok_or(TopicProblem::Missing)?;
        match topic.error().map(RDKafkaErrorCode::from) {
            None => match topic.partitions().len() {
                0 => Err(TopicProblem::Missing),
                partitions => Ok(partitions),
            },
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(TopicProblem::Missing)
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(TopicProblem::Forbidden),
            Some(code) => Err(TopicProblem::Unknown(code.to_string())),
        }
    }

    /// The last description of the topic. The client requests one every [`DESCRIBED_EVERY`], and at once after a failed fetch. It does not
    /// read from a topic that was created again before it has requested one.
    pub(super) fn described(&self) -> Option<TopicDescribed> {
        self.fetch().map(|state| state.described)
    }

    fn fetch(&self) -> Option<FetchState> {
        *self.consumer.context().fetch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next record, at most for `limit`, and passes it to `take`.
    pub(super) fn poll(&self, limit: Duration, take: impl FnOnce(&LogRecord<'_>)) -> Polled {
        match self.consumer.poll(limit) {
            None => Polled::Nothing,
            Some(Ok(message)) => {
                with_record(&message, take);
                Polled::Record
            }
            Some(Err(error)) => polled_error(&error),
        }
    }

    /// Whether, as of `now`, the leader answers and has no record at or after `next` that was not passed on.
    pub(super) fn is_at_end(&self, next: u64, now: Instant) -> bool {
        let next = i64::try_from(next).unwrap_or(i64::MAX);
        self.fetch().is_some_and(|state| {
            let is_new = now.saturating_duration_since(state.at) < STATISTICS_AGE_MAX;
            // After the last record there may be transaction markers, which are never passed on.
            is_new && state.is_fetching && state.high >= 0 && (next >= state.high || state.end >= state.high)
        })
    }
}

fn with_record(message: &BorrowedMessage<'_>, take: impl FnOnce(&LogRecord<'_>)) {
    let headers = message.headers();
    let topic = headers.and_then(|headers| headers.iter().find(|header| header.key == TOPIC_HEADER)?.value);
    let offset = u64::try_from(message.offset()).unwrap_or(0);
    let timestamp = message.timestamp().to_millis().unwrap_or(-1);
    take(&LogRecord { offset, timestamp, key: message.key(), value: message.payload(), topic });
}

/// What to tell of a topic that was there and is not any more. Created again it is empty, and replicas that read it have no rules.
pub(super) const GONE: &str =
    "the topic no longer exists: before it is created again, export its rules from a replica that still has them";

/// What an error means for whoever reads.
#[expect(clippy::wildcard_enum_match_arm, reason = "librdkafka's list is open; it retries other errors itself")]
pub(super) fn polled_error(error: &KafkaError) -> Polled {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::PartitionEOF(_) => Polled::End,
        KafkaError::MessageConsumptionFatal(code) => Polled::Dead(code.to_string()),
        _ => match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset) => Polled::LogChanged,
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Polled::Unreadable(GONE.to_owned())
            }
            Some(Code::TopicAuthorizationFailed) => {
                Polled::Unreadable("the right to READ the topic is missing".to_owned())
            }
            // Connection errors, which it retries.
            Some(_) | None => Polled::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(leader_silent: i64, fetch_state: &str, high: i64, end: i64) -> FetchState {
        let statistics = format!(
            r#"{{"brokers":{{"a:1/1":{{"nodeid":1,"rxidle":{leader_silent}}},"b:1/2":{{"nodeid":2,"rxidle":9000000}}}},
            "ts":5000999,"topics":{{"list":{{"metadata_age":700,"partitions":{{"0":{{"leader":1,"fetch_state":"{fetch_state}","hi_offset":{high},"eof_offset":{end}}},
            "-1":{{}}}}}}}}}}"#
        );
        FetchState::of(statistics.as_bytes(), clock::monotonic()).expect("statistics")
    }

    #[test]
    fn statistics_tell_whether_the_leader_answers() {
        assert!(state(600_000, "active", 5, -1001).is_fetching);
        assert!(!state(3_000_000, "active", 5, 5).is_fetching);
        assert!(!state(600_000, "none", 5, 5).is_fetching);
        assert!(!state(-1, "active", 5, 5).is_fetching);
        let described = state(600_000, "active", 5, 5).described;
        assert_eq!(described, TopicDescribed { at: 4300, partitions: 1 });
        assert!(FetchState::of(br#"{"topics":{},"brokers""#, clock::monotonic()).is_none());
    }
}
