//! Asks Kafka once about brokers, topics and their settings, creates topics and tries to write: for commands of an operator, not for the
//! running bridge.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::NewTopic;
use rdkafka::admin::OwnedResourceSpecifier;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::admin::TopicReplication;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
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
use super::kafka::metrics;
use super::properties::Properties;
use super::protocol_hint;

/// For the first answer of a broker.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// The same once a connection has failed: librdkafka tries again, but what is refused stays so.
const FAILED_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_SLICE: Duration = Duration::from_millis(500);
/// For reading what librdkafka has logged.
const LOG_SLICE: Duration = Duration::from_millis(10);
const SETTINGS_LIMIT: Duration = Duration::from_secs(10);
/// For the answer of a broker that leads partitions.
const LEADER_LIMIT: Duration = Duration::from_secs(5);
/// For one record a topic, and for a producer's id.
const WRITE_LIMIT: Duration = Duration::from_secs(15);
const CREATE_LIMIT: Duration = Duration::from_secs(15);

/// The year 2001. An embedded broker gives every record the time 1234.
const BROKER_TIME_MIN: i64 = 1_000_000_000_000;

/// The value of a record that is written to see whether Kafka takes it.
const CHECK_RECORD: &str = r#"{"callbridge":"written by check --write; there is no callback in it"}"#;

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
    /// Where a connection failed, if one did: of several the one that came furthest.
    pub(crate) stage: Option<ConnectionStage>,
}

/// What a connection to a broker goes through, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionStage {
    /// The name is resolved, and the connection made.
    Connect,
    /// The TLS handshake, where there is TLS.
    Tls,
    /// The first request: which requests the broker knows.
    Protocol,
    /// The login, where there is SASL.
    Sasl,
    /// All other requests.
    Requests,
}

impl ConnectionStage {
    /// Where a connection failed, by a message of librdkafka.
    fn of(message: &str) -> Option<Self> {
        Some(match protocol_hint::state(message)?.1 {
            "SSL_HANDSHAKE" => Self::Tls,
            "APIVERSION_QUERY" => Self::Protocol,
            "AUTH_LEGACY" | "AUTH_HANDSHAKE" | "AUTH_REQ" | "REAUTH" => Self::Sasl,
            "UP" | "UPDATE" => Self::Requests,
            _ => Self::Connect,
        })
    }
}

/// What the cluster shows of itself.
#[derive(Debug, Default)]
pub(crate) struct ClusterTopics {
    /// The addresses of the brokers.
    pub(crate) brokers: Vec<String>,
    /// Every topic that this client may see.
    pub(crate) topics: BTreeMap<String, TopicLayout>,
    /// Topics of which Kafka says, asked by name, that this client may not see them.
    pub(crate) forbidden: BTreeSet<String>,
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
    /// The brokers that lead partitions, each with one of them.
    pub(crate) leaders: BTreeMap<i32, i32>,
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
    config: ClientConfig,
    /// Of the two clients the only one whose log can be read.
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
    written: Vec<RecordReport>,
}

/// What became of the record that was written to a topic.
type RecordReport = (String, Result<BrokerTime, RDKafkaErrorCode>);

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
        // It needs no id: what it sends need not be in order.
        for property in ["enable.gapless.guarantee", "enable.idempotence"] {
            config.remove(property);
        }
        config.set("statistics.interval.ms", "0");
        let seen = Arc::default();
        let producer =
            config.create_with_context(ClusterContext(Arc::clone(&seen))).map_err(|error| refused(&error))?;
        Ok(Self { producer, admin: config.create().map_err(|error| refused(&error))?, seen, config })
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
            forbidden: BTreeSet::new(),
        })
    }

    /// Adds the settings of those of `names` that are there, and which of the others this client may not see.
    ///
    /// # Errors
    ///
    /// Kafka does not answer. That it does not show the settings of a topic is none.
    pub(crate) fn describe(&self, found: &mut ClusterTopics, names: &[&str]) -> Result<(), ClusterError> {
        let (asked, missing): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| found.topics.contains_key(**name));
        found.forbidden = self.forbidden(&missing).map_err(|error| self.failed(&error))?;
        if asked.is_empty() {
            return Ok(());
        }
        let resources: Vec<_> = asked.into_iter().map(ResourceSpecifier::Topic).collect();
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

    /// Which of these topics this client may not see. They are asked for by a consumer, which creates none.
    fn forbidden(&self, missing: &[&str]) -> Result<BTreeSet<String>, KafkaError> {
        if missing.is_empty() {
            return Ok(BTreeSet::new());
        }
        let consumer = self.consumer()?;
        let mut forbidden = BTreeSet::new();
        for name in missing {
            let metadata = consumer.fetch_metadata(Some(name), SETTINGS_LIMIT)?;
            let code = metadata.topics().first().and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
            if code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
                forbidden.insert((*name).to_owned());
            }
        }
        Ok(forbidden)
    }

    /// Connects to each broker that leads partitions of these topics. Returns their ids, each with why it does not answer, if so.
    pub(crate) fn reach_leaders(&self, found: &ClusterTopics, names: &[&str]) -> BTreeMap<i32, Option<ClusterError>> {
        let mut leaders = BTreeMap::new();
        for (name, layout) in found.topics.iter().filter(|(name, _layout)| names.contains(&name.as_str())) {
            leaders.extend(layout.leaders.iter().map(|(leader, partition)| (*leader, (name, *partition))));
        }
        let reach = |(leader, (topic, partition)): (i32, (&String, i32))| {
            let reached = kafka::reach_leader(self.producer.client(), topic, partition, LEADER_LIMIT);
            self.producer.poll(LOG_SLICE);
            (leader, reached.err().map(|error| self.failed(&error)))
        };
        leaders.into_iter().map(reach).collect()
    }

    /// Those of `names` that have a record which is not older than `time`, by the timestamps of records.
    ///
    /// # Errors
    ///
    /// Kafka does not answer.
    pub(crate) fn topics_with_records_since(
        &self,
        found: &ClusterTopics,
        names: &[&str],
        time: UnixMillis,
    ) -> Result<Vec<String>, ClusterError> {
        let mut asked = TopicPartitionList::new();
        for (name, layout) in found.topics.iter().filter(|(name, _layout)| names.contains(&name.as_str())) {
            // Of a partition without a leader nobody can say it.
            for partition in
                (0..i32::try_from(layout.partitions).unwrap_or_default()).filter(|_| layout.leaderless == 0)
            {
                // That is how this request has it: the time stands in the place of the offset.
                let added = asked.add_partition_offset(name, partition, Offset::Offset(time.0));
                added.map_err(|error| refused(&error))?;
            }
        }
        if asked.count() == 0 {
            return Ok(Vec::new());
        }
        let answered = self.consumer().and_then(|consumer| consumer.offsets_for_times(asked, SETTINGS_LIMIT));
        let answered = answered.map_err(|error| self.failed(&error))?;
        let has_later = answered.elements().into_iter().filter(|it| matches!(it.offset(), Offset::Offset(_)));
        let names: BTreeSet<String> = has_later.map(|it| it.topic().to_owned()).collect();
        Ok(names.into_iter().collect())
    }

    /// A consumer, for what producers cannot ask. It joins no group.
    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        // librdkafka has no consumer without a group.
        self.config.clone().set("group.id", "callbridge").create()
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

    /// Writes a record to each of these topics, which must be there. Returns the time that the broker gave it, or why Kafka does not take it.
    pub(crate) fn write(&self, topics: &[&str]) -> Vec<(String, Result<BrokerTime, String>)> {
        let written = write_to_each(&self.producer, &self.seen, topics);
        written.into_iter().map(|(topic, written)| (topic, written.map_err(|code| code.to_string()))).collect()
    }

    /// Tries the right to write to each of these topics, which must be there, without writing: with `acks=2`, which brokers refuse once they have
    /// checked the right. Returns why this client may not write, if so.
    ///
    /// # Errors
    ///
    /// librdkafka makes no such client.
    pub(crate) fn try_rights(&self, topics: &[&str]) -> Result<BTreeMap<String, Option<String>>, ClusterError> {
        let seen = Arc::default();
        let mut config = self.config.clone();
        config.remove("request.required.acks");
        let producer = config
            .set("acks", "2")
            .create_with_context(ClusterContext(Arc::clone(&seen)))
            .map_err(|error| refused(&error))?;
        let tried = write_to_each(&producer, &seen, topics).into_iter().map(|(topic, tried)| {
            let refused = tried.err().filter(|code| *code != RDKafkaErrorCode::InvalidRequiredAcks);
            (topic, refused.map(|code| code.to_string()))
        });
        Ok(tried.collect())
    }
}

/// Writes a record to each of these topics, and waits until Kafka has answered for all.
fn write_to_each(producer: &BaseProducer<ClusterContext>, seen: &Mutex<Seen>, topics: &[&str]) -> Vec<RecordReport> {
    look_at(seen).written.clear();
    let mut sent: BTreeSet<&str> = topics.iter().copied().collect();
    for topic in topics {
        if let Err((error, _record)) = producer.send(BaseRecord::<(), str>::to(topic).payload(CHECK_RECORD)) {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            look_at(seen).written.push(((*topic).to_owned(), Err(code)));
        }
    }
    let deadline = clock::monotonic() + WRITE_LIMIT;
    while look_at(seen).written.len() < topics.len() && clock::monotonic() < deadline {
        producer.poll(LOG_SLICE);
    }
    let mut written = std::mem::take(&mut look_at(seen).written);
    written.iter().for_each(|(topic, _written)| {
        sent.remove(topic.as_str());
    });
    written.extend(sent.into_iter().map(|topic| (topic.to_owned(), Err(RDKafkaErrorCode::MessageTimedOut))));
    written
}

/// Waits until Kafka has given an idempotent producer its id, without which callbridge sends nothing.
///
/// # Errors
///
/// It does not give one, and why.
pub(crate) fn producer_id(properties: &Properties) -> Result<(), ClusterError> {
    let seen = Arc::default();
    let mut config = kafka::client_config(properties);
    // The statistics say whether there is an id.
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
            return Err(ClusterError { why, hint: None, stage: None });
        }
    }
    let late = || ClusterError { why: format!("none within {} s", WRITE_LIMIT.as_secs()), hint: None, stage: None };
    Err(newest_failure(&seen).unwrap_or_else(late))
}

fn refused(error: &KafkaError) -> ClusterError {
    ClusterError { why: error.to_string(), hint: None, stage: None }
}

/// Of several failures the newest of the connection that came furthest.
fn newest_failure(seen: &Mutex<Seen>) -> Option<ClusterError> {
    let failures = &look_at(seen).failures;
    let hint = failures.iter().rev().find_map(|failure| protocol_hint::of(failure));
    let why = failures.iter().max_by_key(|failure| ConnectionStage::of(failure))?;
    Some(ClusterError { why: why.clone(), hint, stage: ConnectionStage::of(why) })
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
        leaders: partitions
            .iter()
            .map(|it| (it.leader(), it.id()))
            .filter(|(leader, _partition)| *leader >= 0)
            .collect(),
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
        if metrics::has_producer_id(statistics) {
            look_at(&self.0).has_producer_id = true;
        }
    }

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for ClusterContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        let (Ok(message) | Err((_, message))) = result;
        let written = match result {
            Ok(message) => Ok(match message.timestamp() {
                Timestamp::LogAppendTime(millis) if millis >= BROKER_TIME_MIN => Some(UnixMillis(millis)),
                Timestamp::LogAppendTime(_) | Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
            }),
            Err((error, _message)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        look_at(&self.0).written.push((message.topic().to_owned(), written));
    }
}
