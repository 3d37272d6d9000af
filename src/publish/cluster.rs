//! Queries Kafka once for brokers, topics and their settings, creates topics and tests writing: for an operator's commands, not for the
//! running bridge.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
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

/// The timeout for the first response of a broker.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(6);
/// The same once a connection has failed: librdkafka retries, but a refused connection is usually refused again.
const FAILED_LIMIT: Duration = Duration::from_secs(3);
/// The timeout of the first request, after which failed connections are checked. It doubles with each further request: a slow broker would
/// answer none of many short ones.
const ANSWER_SLICE: Duration = Duration::from_millis(500);
const STATISTICS_MS: &str = "100";
/// The time to poll for librdkafka's log messages.
const LOG_SLICE: Duration = Duration::from_millis(10);
const CREATE_LIMIT: Duration = Duration::from_secs(15);
/// A metadata request is for all topics or for one, and takes a tenth of a second: of more missing topics only some are queried.
const QUERIED_MAX: usize = 128;
/// The number of concurrent requests for single topics.
const REQUESTS_MAX: usize = 32;
/// The number of partitions in one request: librdkafka compares each with all others.
const PARTITIONS_MAX: usize = 1000;

/// The year 2001, in milliseconds. An embedded broker sets every record's timestamp to 1234.
const BROKER_TIME_MIN: i64 = 1_000_000_000_000;

/// The value of a record that tests whether Kafka accepts it.
const CHECK_RECORD: &str = r#"{"callbridge":"written by check --write; there is no callback in it"}"#;

const ALLOW_WRITE: &str =
    "allow WRITE and DESCRIBE on the topics to this client; with an invalid timestamp, set the clock of this machine";
const ALLOW_PRODUCER: &str =
    "allow WRITE on the topics to this client, or IDEMPOTENT_WRITE on the cluster before Kafka 2.8";

/// What to do about a broker whose advertised address is out of reach.
pub(crate) const SEE_ADVERTISED: &str =
    "correct advertised.listeners of that broker: it must be an address that this machine reaches";
const SEE_CREATED: &str =
    "topics may have been created all the same: run it again, topics that are there are left alone";
const SEE_FROZEN: &str = "see whether the broker is frozen or overloaded: its logs, its load and its disks";

/// The number of librdkafka's messages that are kept. It repeats them at each attempt to connect.
const FAILURES_MAX: usize = 8;

/// Kafka did not respond, or refused a request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct ClusterError {
    /// In librdkafka's words.
    pub(crate) why: String,
    /// What to change, if the failure shows it.
    pub(crate) hint: Option<&'static str>,
    /// The stage at which a connection failed, if one did: of several connections that which got furthest.
    pub(crate) stage: Option<ConnectionStage>,
}

/// The stages of a connection to a broker, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionStage {
    /// The name of a bootstrap server is resolved, and the connection made.
    Connect,
    /// The TLS handshake, where there is TLS.
    Tls,
    /// The first request: which API versions the broker supports.
    Protocol,
    /// The login, where there is SASL.
    Sasl,
    /// All other requests, and connections to brokers that a response has named.
    Requests,
}

impl ConnectionStage {
    /// The stage at which a connection failed, according to a message of librdkafka.
    fn of(message: &str) -> Option<Self> {
        Some(match protocol_hint::state(message)?.1 {
            "SSL_HANDSHAKE" => Self::Tls,
            "APIVERSION_QUERY" => Self::Protocol,
            "AUTH_LEGACY" | "AUTH_HANDSHAKE" | "AUTH_REQ" | "REAUTH" => Self::Sasl,
            "UP" | "UPDATE" => Self::Requests,
            _ if is_of_advertised(message) => Self::Requests,
            _ => Self::Connect,
        })
    }
}

/// The brokers and topics of a cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterTopics {
    /// The addresses of the brokers.
    pub(crate) brokers: Vec<String>,
    /// Every topic that this client may describe.
    pub(crate) topics: BTreeMap<String, TopicLayout>,
    /// Topics that this client may not describe, as far as they were queried by name.
    pub(crate) forbidden: BTreeSet<String>,
}

/// The partitions, replicas and settings of a topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicLayout {
    pub(crate) partitions: usize,
    /// Of the partition with the fewest.
    pub(crate) replicas: usize,
    /// Of the partition with the fewest.
    pub(crate) in_sync: usize,
    /// Partitions without a leader.
    pub(crate) leaderless: usize,
    /// Empty if they were not queried, or this client may not describe them.
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

/// A client for these queries.
pub(crate) struct Cluster {
    config: ClientConfig,
    producer: BaseProducer<ClusterContext>,
    seen: Arc<Mutex<Seen>>,
}

/// What librdkafka's callbacks have reported.
#[derive(Debug, Default)]
struct Seen {
    /// The newest messages about failed connections, each once.
    failures: Vec<String>,
    has_producer_id: bool,
    /// The advertised addresses of the brokers, once one has responded.
    advertised: Vec<String>,
    written: Vec<RecordReport>,
}

/// The outcome of the record written to a topic.
type RecordReport = (String, Result<BrokerTime, RDKafkaErrorCode>);

/// The timestamp that the broker set; absent where the topic keeps the producer's.
pub(crate) type BrokerTime = Option<UnixMillis>;

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// A client with these properties. It connects at the first request.
    ///
    /// # Errors
    ///
    /// librdkafka rejects the properties.
    pub(crate) fn new(properties: &Properties) -> Result<Self, ClusterError> {
        let mut config = kafka::client_config(properties);
        // It needs no producer id: its records need no order.
        for property in ["enable.gapless.guarantee", "enable.idempotence"] {
            config.remove(property);
        }
        // The statistics name the brokers even without metadata: librdkafka forgets a bootstrap server as soon as it has responded.
        config.set("statistics.interval.ms", STATISTICS_MS);
        let seen = Arc::default();
        let producer =
            config.create_with_context(ClusterContext(Arc::clone(&seen))).map_err(|error| refused(&error))?;
        Ok(Self { producer, seen, config })
    }

    /// The brokers and all topics, without settings.
    ///
    /// # Errors
    ///
    /// No broker responds within `limit`.
    pub(crate) fn look(&self, limit: Duration) -> Result<ClusterTopics, ClusterError> {
        let metadata = self.metadata(limit)?;
        let address = |host: &str, port: i32| format!("{host}:{port}");
        Ok(ClusterTopics {
            brokers: metadata.brokers().iter().map(|broker| address(broker.host(), broker.port())).collect(),
            topics: metadata.topics().iter().map(|topic| (topic.name().to_owned(), layout(topic))).collect(),
            forbidden: BTreeSet::new(),
        })
    }

    /// Adds the settings of those of `names` that exist, and which of the others this client may not describe.
    ///
    /// # Errors
    ///
    /// Kafka does not respond within `limit`. Settings that this client may not describe are no error.
    pub(crate) fn describe(
        &self,
        found: &mut ClusterTopics,
        names: &[&str],
        limit: Duration,
    ) -> Result<(), ClusterError> {
        let (existing, missing): (Vec<&str>, Vec<&str>) =
            names.iter().partition(|name| found.topics.contains_key(**name));
        found.forbidden = self.forbidden(&missing, limit).map_err(|error| self.failed(&error))?;
        if existing.is_empty() {
            return Ok(());
        }
        let resources: Vec<_> = existing.into_iter().map(ResourceSpecifier::Topic).collect();
        let options = AdminOptions::new().request_timeout(Some(limit));
        let described = self.admin().and_then(|admin| block_on(admin.describe_configs(&resources, &options)));
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

    /// Those of at most [`QUERIED_MAX`] missing topics that this client may not describe. A consumer queries them, which creates none.
    fn forbidden(&self, missing: &[&str], limit: Duration) -> Result<BTreeSet<String>, KafkaError> {
        if missing.is_empty() {
            return Ok(BTreeSet::new());
        }
        let consumer = self.consumer()?;
        let is_forbidden = |name: &str| -> Result<bool, KafkaError> {
            let metadata = consumer.fetch_metadata(Some(name), limit)?;
            let code = metadata.topics().first().and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
            Ok(code == Some(RDKafkaErrorCode::TopicAuthorizationFailed))
        };
        let forbidden_of = |names: &[&str]| {
            let judged = names.iter().map(|name| is_forbidden(name).map(|is_so| is_so.then(|| (*name).to_owned())));
            judged.filter_map(Result::transpose).collect::<Result<Vec<String>, KafkaError>>()
        };
        let queried: Vec<&str> = missing.iter().copied().step_by(missing.len().div_ceil(QUERIED_MAX)).collect();
        thread::scope(|scope| {
            let parts = queried.chunks(queried.len().div_ceil(REQUESTS_MAX));
            let parts: Vec<_> = parts.map(|names| scope.spawn(move || forbidden_of(names))).collect();
            let parts = parts.into_iter().map(|part| part.join().unwrap_or(Err(KafkaError::Canceled)));
            Ok(parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        })
    }

    /// Those of `names` that have a record with a timestamp of at least `time`.
    ///
    /// # Errors
    ///
    /// Kafka does not respond within `limit`.
    pub(crate) fn topics_with_records_since(
        &self,
        found: &ClusterTopics,
        names: &[&str],
        time: UnixMillis,
        limit: Duration,
    ) -> Result<Vec<String>, ClusterError> {
        // A partition without a leader cannot be queried.
        let topics = names.iter().filter_map(|name| found.topics.get_key_value(*name));
        let topics = topics.filter(|(_name, layout)| layout.leaderless == 0);
        let partitions: Vec<(&String, i32)> = topics
            .flat_map(|(name, layout)| {
                (0..i32::try_from(layout.partitions).unwrap_or_default()).map(move |it| (name, it))
            })
            .collect();
        let deadline = clock::monotonic() + limit;
        let (consumer, mut later) = (self.consumer().map_err(|error| refused(&error))?, BTreeSet::new());
        for part in partitions.chunks(PARTITIONS_MAX) {
            let mut queried = TopicPartitionList::new();
            for (name, partition) in part {
                // In this request the time takes the place of the offset.
                let added = queried.add_partition_offset(name, *partition, Offset::Offset(time.0));
                added.map_err(|error| refused(&error))?;
            }
            let left = deadline.saturating_duration_since(clock::monotonic());
            let answered = consumer.offsets_for_times(queried, left).map_err(|error| self.failed(&error))?;
            let has_later = answered.elements().into_iter().filter(|it| matches!(it.offset(), Offset::Offset(_)));
            later.extend(has_later.map(|it| it.topic().to_owned()));
        }
        Ok(later.into_iter().collect())
    }

    /// A consumer, for requests that a producer cannot make. It joins no group.
    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        // librdkafka has no consumer without a group.
        self.config.clone().set("group.id", "callbridge").create()
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.config.create()
    }

    /// Creates these topics, or with `is_dry_run` asks Kafka whether it would. Returns the failures, by name with the reason. A topic that
    /// exists is none.
    ///
    /// # Errors
    ///
    /// Kafka does not respond.
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
        let results = self.admin().and_then(|admin| block_on(admin.create_topics(&new_topics, &options)));
        let results = results.map_err(|error| {
            let failed = self.failed(&error);
            // What this request may have done matters more than a connection that failed before.
            ClusterError { hint: (!is_dry_run).then_some(SEE_CREATED).or(failed.hint), ..failed }
        })?;
        let failed = results.into_iter().filter_map(Result::err);
        let failed = failed.filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists);
        Ok(failed.map(|(name, code)| (name, code.to_string())).collect())
    }

    fn metadata(&self, limit: Duration) -> Result<Metadata, ClusterError> {
        let began = clock::monotonic();
        let mut slice = ANSWER_SLICE;
        loop {
            let left = limit.saturating_sub(clock::monotonic().saturating_duration_since(began));
            // For all topics: a request for one by name creates it on a broker with auto.create.topics.enable.
            match self.producer.client().fetch_metadata(None, slice.min(left)) {
                Ok(metadata) => return Ok(metadata),
                Err(_late) => {
                    self.producer.poll(LOG_SLICE);
                    let has_failed = !lock(&self.seen).failures.is_empty();
                    let limit = if has_failed { FAILED_LIMIT.min(limit) } else { limit };
                    if clock::monotonic().saturating_duration_since(began) >= limit {
                        return Err(newest_failure(&self.seen).unwrap_or_else(|| silent(&self.queried(), limit)));
                    }
                    slice *= 2;
                }
            }
        }
    }

    /// The advertised brokers, once they are known; before, the bootstrap servers.
    fn queried(&self) -> String {
        let advertised = lock(&self.seen).advertised.join(",");
        let bootstrap = || self.config.get("bootstrap.servers").unwrap_or_default().to_owned();
        if advertised.is_empty() { bootstrap() } else { advertised }
    }

    /// The newest failure of a connection says more than `error`, which only says that a request had no response.
    fn failed(&self, error: &KafkaError) -> ClusterError {
        newest_failure(&self.seen).unwrap_or_else(|| refused(error))
    }

    /// Writes a record to each of these topics, which must exist. Returns the timestamp that the broker set, or why Kafka rejected it.
    pub(crate) fn write(&self, topics: &[&str], limit: Duration) -> Vec<(String, Result<BrokerTime, ClusterError>)> {
        let written = write_to_each(&self.producer, &self.seen, topics, limit);
        written.into_iter().map(|(topic, written)| (topic, written.map_err(|code| self.not_written(code)))).collect()
    }

    /// Tests the right to write to each of these topics, which must exist, without writing: with `acks=2`, which brokers reject once they
    /// have checked the right. Returns why this client may not write, if so.
    ///
    /// # Errors
    ///
    /// librdkafka cannot create the client.
    pub(crate) fn try_rights(
        &self,
        topics: &[&str],
        limit: Duration,
    ) -> Result<BTreeMap<String, Option<ClusterError>>, ClusterError> {
        let seen = Arc::default();
        let mut config = self.config.clone();
        config.remove("request.required.acks");
        let producer = config
            .set("acks", "2")
            .create_with_context(ClusterContext(Arc::clone(&seen)))
            .map_err(|error| refused(&error))?;
        let tried = write_to_each(&producer, &seen, topics, limit).into_iter().map(|(topic, tried)| {
            let refused = tried.err().filter(|code| *code != RDKafkaErrorCode::InvalidRequiredAcks);
            (topic, refused.map(|code| self.not_written(code)))
        });
        Ok(tried.collect())
    }

    fn not_written(&self, code: RDKafkaErrorCode) -> ClusterError {
        if code == RDKafkaErrorCode::MessageTimedOut {
            return self.failed(&KafkaError::MessageProduction(code));
        }
        ClusterError { why: code.to_string(), hint: Some(ALLOW_WRITE), stage: None }
    }
}

/// Writes a record to each of these topics, and waits for all delivery reports.
fn write_to_each(
    producer: &BaseProducer<ClusterContext>,
    seen: &Mutex<Seen>,
    topics: &[&str],
    limit: Duration,
) -> Vec<RecordReport> {
    lock(seen).written.clear();
    let mut sent: BTreeSet<&str> = topics.iter().copied().collect();
    for topic in topics {
        if let Err((error, _record)) = producer.send(BaseRecord::<(), str>::to(topic).payload(CHECK_RECORD)) {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            lock(seen).written.push(((*topic).to_owned(), Err(code)));
        }
    }
    let deadline = clock::monotonic() + limit;
    while lock(seen).written.len() < topics.len() && clock::monotonic() < deadline {
        producer.poll(LOG_SLICE);
    }
    let mut written = std::mem::take(&mut lock(seen).written);
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
/// There is none within `limit`.
pub(crate) fn producer_id(properties: &Properties, limit: Duration) -> Result<(), ClusterError> {
    let seen = Arc::default();
    let mut config = kafka::client_config(properties);
    // The statistics say whether there is an id.
    config.set("statistics.interval.ms", STATISTICS_MS);
    let producer: BaseProducer<ClusterContext> =
        config.create_with_context(ClusterContext(Arc::clone(&seen))).map_err(|error| refused(&error))?;
    let deadline = clock::monotonic() + limit;
    while clock::monotonic() < deadline {
        producer.poll(LOG_SLICE);
        if lock(&seen).has_producer_id {
            return Ok(());
        }
        if let Some((_code, why)) = producer.client().fatal_error() {
            return Err(ClusterError { why, hint: Some(ALLOW_PRODUCER), stage: None });
        }
    }
    let late = || ClusterError { why: format!("none within {} s", limit.as_secs()), hint: None, stage: None };
    Err(newest_failure(&seen).unwrap_or_else(late))
}

/// The error for servers that have not responded within `limit`, although no connection has failed.
pub(crate) fn silent(servers: &str, limit: Duration) -> ClusterError {
    let why = format!("{servers}: no answer within {:.0} s", limit.as_secs_f64());
    ClusterError { why, hint: Some(SEE_FROZEN), stage: None }
}

fn refused(error: &KafkaError) -> ClusterError {
    ClusterError { why: error.to_string(), hint: None, stage: None }
}

/// Of several failures the newest of the connection that got furthest.
fn newest_failure(seen: &Mutex<Seen>) -> Option<ClusterError> {
    let failures = &lock(seen).failures;
    let hint = failures.iter().rev().find_map(|failure| protocol_hint::of(failure));
    let why = failures.iter().max_by_key(|failure| ConnectionStage::of(failure))?;
    let is_connecting = protocol_hint::state(why).is_some_and(|(_ms, state)| state == "CONNECT");
    let hint = hint.or((is_connecting && is_of_advertised(why)).then_some(SEE_ADVERTISED));
    Some(ClusterError { why: why.clone(), hint, stage: ConnectionStage::of(why) })
}

/// Whether a message of librdkafka is about a broker at its advertised address: such an address ends with the broker's id.
fn is_of_advertised(message: &str) -> bool {
    let id = message.split_once(": ").and_then(|(name, _)| name.rsplit_once('/'));
    id.is_some_and(|(_address, id)| id.parse::<u32>().is_ok())
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
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

/// Waits for a response of the admin client, which has a thread of its own.
pub(super) fn block_on<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let no_runtime = |error: io::Error| KafkaError::ClientCreation(error.to_string());
    tokio::runtime::Builder::new_current_thread().build().map_err(no_runtime)?.block_on(answer)
}

/// Keeps what librdkafka reports.
struct ClusterContext(Arc<Mutex<Seen>>);

impl ClientContext for ClusterContext {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        if !matches!(facility, "FAIL" | "ERROR") {
            return;
        }
        // Without the thread's name.
        let message = message.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(message, |it| it.1);
        let failures = &mut lock(&self.0).failures;
        failures.retain(|failure| failure != message);
        if failures.len() >= FAILURES_MAX {
            failures.remove(0);
        }
        failures.push(message.to_owned());
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let mut seen = lock(&self.0);
        seen.has_producer_id |= metrics::has_producer_id(statistics);
        seen.advertised = metrics::advertised_brokers(statistics);
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
        lock(&self.0).written.push((message.topic().to_owned(), written));
    }
}
