//! Asks Kafka once about brokers, topics and their settings, and creates topics: for commands of an operator, not for the running bridge.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::NewTopic;
use rdkafka::admin::OwnedResourceSpecifier;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::admin::TopicReplication;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message;
use rdkafka::message::Timestamp;
use rdkafka::metadata::Metadata;
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::DeliveryResult;
use rdkafka::producer::Producer;
use rdkafka::producer::ProducerContext;

use crate::clock;
use crate::clock::UnixMillis;

use super::kafka;
use super::properties::Properties;
use super::protocol_hint;

/// For the first answer of a broker.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// The same once a connection has failed: librdkafka tries again, but what is refused stays so.
const FAILED_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_SLICE: Duration = Duration::from_millis(500);
/// For reading what librdkafka has logged.
const LOG_SLICE: Duration = Duration::from_millis(10);
const SETTINGS_LIMIT: Duration = Duration::from_secs(5);
/// For one record, and for a producer's id.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
const CREATE_LIMIT: Duration = Duration::from_secs(15);

/// How many of librdkafka's messages are kept. It repeats them at each attempt to connect.
const FAILURES_MAX: usize = 8;

/// Kafka did not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct ClusterError {
    /// In librdkafka's words.
    pub(crate) why: String,
    /// What to change in the configuration, if the failure shows it.
    pub(crate) hint: Option<&'static str>,
}

/// What the cluster shows of itself.
#[derive(Debug, Default)]
pub(crate) struct ClusterTopics {
    /// The addresses of the brokers.
    pub(crate) brokers: Vec<String>,
    /// Every topic that this client may see.
    pub(crate) topics: BTreeMap<String, TopicLayout>,
}

/// How a topic lies on the brokers, and how it is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicLayout {
    pub(crate) partitions: usize,
    /// Of the partition that has the fewest.
    pub(crate) replicas: usize,
    /// Of the partition that has the fewest.
    pub(crate) in_sync: usize,
    /// Partitions without a leader.
    pub(crate) leaderless: usize,
    /// Empty where they were not asked for, or Kafka does not show them.
    pub(crate) settings: BTreeMap<String, String>,
}

/// A topic to create.
#[derive(Debug, Clone)]
pub(crate) struct TopicSpec {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) replicas: i32,
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// A client that asks.
pub(crate) struct Cluster {
    /// Of the two clients the only one whose log can be read. It sends nothing.
    producer: BaseProducer<ClusterContext>,
    admin: AdminClient<DefaultClientContext>,
    seen: Arc<Mutex<Seen>>,
}

/// What librdkafka has called back with.
#[derive(Debug, Default)]
struct Seen {
    /// The newest failures of connections, each once.
    failures: Vec<String>,
    has_producer_id: bool,
    /// What became of the record that was written.
    written: Option<Result<BrokerTime, RDKafkaErrorCode>>,
}

/// The time that the broker gave a record; absent where the topic keeps the producer's.
pub(crate) type BrokerTime = Option<UnixMillis>;

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// A client with these properties. It connects when it is first asked.
    ///
    /// # Errors
    ///
    /// librdkafka does not take the properties together.
    pub(crate) fn new(properties: &Properties) -> Result<Self, ClusterError> {
        let mut config = kafka::client_config(properties);
        // It sends no records.
        for property in ["enable.gapless.guarantee", "enable.idempotence"] {
            config.remove(property);
        }
        config.set("statistics.interval.ms", "0");
        let seen = Arc::default();
        let producer =
            config.create_with_context(ClusterContext(Arc::clone(&seen))).map_err(|error| refused(&error))?;
        Ok(Self { producer, admin: config.create().map_err(|error| refused(&error))?, seen })
    }

    /// The brokers and all topics, without settings.
    ///
    /// # Errors
    ///
    /// No broker answers.
    pub(crate) fn look(&self) -> Result<ClusterTopics, ClusterError> {
        let metadata = self.metadata()?;
        let address = |host: &str, port: i32| format!("{host}:{port}");
        Ok(ClusterTopics {
            brokers: metadata.brokers().iter().map(|broker| address(broker.host(), broker.port())).collect(),
            topics: metadata.topics().iter().map(|topic| (topic.name().to_owned(), layout(topic))).collect(),
        })
    }

    /// Adds the settings of those of `names` that are there.
    ///
    /// # Errors
    ///
    /// Kafka does not answer. That it does not show the settings of a topic is none.
    pub(crate) fn read_settings(&self, found: &mut ClusterTopics, names: &[&str]) -> Result<(), ClusterError> {
        let asked: Vec<_> = names.iter().filter(|name| found.topics.contains_key(**name)).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let resources: Vec<_> = asked.into_iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(SETTINGS_LIMIT));
        let described = block_on(self.admin.describe_configs(&resources, &options));
        for resource in described.map_err(|error| self.failed(&error))?.into_iter().flatten() {
            let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
            if let Some(layout) = found.topics.get_mut(&name) {
                let value = |(name, value): (String, Option<String>)| Some((name, value?));
                let entries = resource.entries.into_iter().map(|entry| (entry.name, entry.value));
                layout.settings = entries.filter_map(value).collect();
            }
        }
        Ok(())
    }

    /// Creates these topics, or, where `is_dry_run`, asks Kafka whether it would. Returns what failed: by name, with the reason. A topic that
    /// is there already has not failed.
    ///
    /// # Errors
    ///
    /// Kafka does not answer.
    pub(crate) fn create(
        &self,
        topics: &[TopicSpec],
        is_dry_run: bool,
    ) -> Result<BTreeMap<String, String>, ClusterError> {
        let new_topics: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|topic| {
                let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replicas));
                topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        let options = AdminOptions::new()
            .operation_timeout(Some(CREATE_LIMIT))
            .request_timeout(Some(CREATE_LIMIT))
            .validate_only(is_dry_run);
        let results = block_on(self.admin.create_topics(&new_topics, &options)).map_err(|error| self.failed(&error))?;
        let failed = results.into_iter().filter_map(Result::err);
        let failed = failed.filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists);
        Ok(failed.map(|(name, code)| (name, code.to_string())).collect())
    }

    fn metadata(&self) -> Result<Metadata, ClusterError> {
        let began = clock::monotonic();
        loop {
            // All topics are asked for: asking for one by name creates it on a broker with auto.create.topics.enable.
            match self.producer.client().fetch_metadata(None, ANSWER_SLICE) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => {
                    self.producer.poll(LOG_SLICE);
                    let has_failed = !look_at(&self.seen).failures.is_empty();
                    let limit = if has_failed { FAILED_LIMIT } else { ANSWER_LIMIT };
                    if clock::monotonic().saturating_duration_since(began) >= limit {
                        return Err(self.failed(&error));
                    }
                }
            }
        }
    }

    /// The newest failure of a connection says more than the error: that a request had no answer.
    fn failed(&self, error: &KafkaError) -> ClusterError {
        newest_failure(&self.seen).unwrap_or_else(|| refused(error))
    }

    /// Writes one record, and waits until Kafka has it.
    ///
    /// # Errors
    ///
    /// Kafka does not take it, in its words.
    pub(crate) fn write(&self, topic: &str, value: &str) -> Result<BrokerTime, String> {
        let record = BaseRecord::<(), str>::to(topic).payload(value);
        self.producer.send(record).map_err(|(error, _record)| error.to_string())?;
        let deadline = clock::monotonic() + WRITE_LIMIT;
        while clock::monotonic() < deadline {
            self.producer.poll(LOG_SLICE);
            if let Some(written) = look_at(&self.seen).written.take() {
                return written.map_err(|code| code.to_string());
            }
        }
        Err(format!("no answer within {} s", WRITE_LIMIT.as_secs()))
    }
}

/// Waits until Kafka has given an idempotent producer its id, without which callbridge sends nothing.
///
/// # Errors
///
/// It does not give one, and why.
pub(crate) fn producer_id(properties: &Properties) -> Result<(), ClusterError> {
    let seen = Arc::default();
    let mut config = kafka::client_config(properties);
    config.set("statistics.interval.ms", "100");
    let producer: BaseProducer<ClusterContext> =
        config.create_with_context(ClusterContext(Arc::clone(&seen))).map_err(|error| refused(&error))?;
    let deadline = clock::monotonic() + WRITE_LIMIT;
    while clock::monotonic() < deadline {
        producer.poll(LOG_SLICE);
        if look_at(&seen).has_producer_id {
            return Ok(());
        }
        if let Some((_code, why)) = producer.client().fatal_error() {
            return Err(ClusterError { why, hint: None });
        }
    }
    let late = || ClusterError { why: format!("none within {} s", WRITE_LIMIT.as_secs()), hint: None };
    Err(newest_failure(&seen).unwrap_or_else(late))
}

fn refused(error: &KafkaError) -> ClusterError {
    ClusterError { why: error.to_string(), hint: None }
}

fn newest_failure(seen: &Mutex<Seen>) -> Option<ClusterError> {
    let failures = &look_at(seen).failures;
    let hint = failures.iter().rev().find_map(|failure| protocol_hint::of(failure));
    failures.last().map(|why| ClusterError { why: why.clone(), hint })
}

fn look_at(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn layout(topic: &MetadataTopic) -> TopicLayout {
    let partitions = topic.partitions();
    TopicLayout {
        partitions: partitions.len(),
        replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
        in_sync: partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or_default(),
        leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
        settings: BTreeMap::new(),
    }
}

/// Waits for an answer of the admin client, which comes from a thread of its own.
pub(super) fn block_on<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let no_runtime = |error: io::Error| KafkaError::ClientCreation(error.to_string());
    tokio::runtime::Builder::new_current_thread().build().map_err(no_runtime)?.block_on(answer)
}

/// Keeps what librdkafka says.
struct ClusterContext(Arc<Mutex<Seen>>);

impl ClientContext for ClusterContext {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        if !matches!(facility, "FAIL" | "ERROR") {
            return;
        }
        // Without the thread's name.
        let message = message.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(message, |it| it.1);
        let failures = &mut look_at(&self.0).failures;
        failures.retain(|failure| failure != message);
        if failures.len() >= FAILURES_MAX {
            failures.remove(0);
        }
        failures.push(message.to_owned());
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let text = String::from_utf8_lossy(statistics);
        let state = text.split_once("\"idemp_state\"").map(|(_, rest)| rest.trim_start_matches([':', ' ', '"']));
        if state.is_some_and(|state| state.starts_with("Assigned")) {
            look_at(&self.0).has_producer_id = true;
        }
    }

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for ClusterContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        let written = match result {
            Ok(message) => Ok(match message.timestamp() {
                Timestamp::LogAppendTime(millis) => Some(UnixMillis(millis)),
                Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
            }),
            Err((error, _message)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        look_at(&self.0).written = Some(written);
    }
}
