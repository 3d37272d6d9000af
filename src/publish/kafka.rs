//! The Kafka producer.
//!
//! A record is handed over without waiting. Its outcome comes back as a [`DeliveryReport`] with the record's number, from the client's poll
//! thread. Only a broker's answer counts: a positive report without an offset is not a delivery.

pub(crate) mod metrics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::thread::Thread;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Header as KafkaHeader;
use rdkafka::message::Message;
use rdkafka::message::OwnedHeaders;
use rdkafka::metadata::Metadata;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::DeliveryResult;
use rdkafka::producer::Producer;
use rdkafka::producer::ProducerContext;
use rdkafka::util::get_rdkafka_version;

use crate::clock::Heartbeat;
use crate::clock::Wait;
use crate::publish::kafka::metrics::KafkaMetrics;
use crate::record::Record;

use super::properties::BATCH_SIZE;
use super::properties::Properties;
use super::protocol_hint;

/// How long one call of poll lasts; an event ends it early. The library sleeps for the whole milliseconds that are left, and spins for the
/// rest, so this must be slightly more than whole milliseconds.
const POLL_TURN: Duration = Duration::from_micros(100_050);

pub(super) fn client_config(properties: &Properties) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in properties.iter() {
        config.set(name, value);
    }
    // The level at which librdkafka logs that a broker has closed a connection.
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// The version of the linked librdkafka.
pub(crate) fn librdkafka_version() -> String {
    let (_number, version) = get_rdkafka_version();
    version
}

/// Validates each property separately with librdkafka. Returns the errors by property.
pub(crate) fn problems(configured: &BTreeMap<String, String>) -> Vec<(String, String)> {
    configured
        .iter()
        .filter_map(|(name, value)| {
            let validated = ClientConfig::new().set(name, value).create_native_config();
            validated.err().map(|error| {
                let what = if let KafkaError::ClientConfig(_, what, ..) = error { what } else { error.to_string() };
                (name.clone(), what)
            })
        })
        .collect()
}

/// librdkafka could not create or run a client.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct ClientError(#[from] KafkaError);

/// The outcome of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveryReport {
    /// The number that the record was sent with.
    pub(crate) record_number: usize,
    /// The outcome.
    pub(crate) verdict: Verdict,
}

/// The outcome of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in Kafka, at an offset.
    Delivered,
    /// librdkafka reports it as delivered, but without an offset. It must be sent again.
    Unproven,
    /// It failed.
    Failed(SendFailure),
}

/// A failure, classified by what must be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// Temporary: send the record again later.
    Passing(RDKafkaErrorCode),
    /// The producer is dead: replace it, and send everything again that has no positive report.
    Fatal(RDKafkaErrorCode),
    /// The timestamp is too far from the broker's time: send the record again without one.
    Timestamp(RDKafkaErrorCode),
    /// The batch is larger than the topic's limit. The producer is dead: replace it with one that makes smaller batches.
    TooLarge(RDKafkaErrorCode),
    /// Kafka will never accept this record, or another one of its batch.
    Poison(RDKafkaErrorCode),
}

impl SendFailure {
    /// The error code of the client or broker.
    pub(super) const fn code(self) -> RDKafkaErrorCode {
        match self {
            Self::Passing(code)
            | Self::Fatal(code)
            | Self::Timestamp(code)
            | Self::TooLarge(code)
            | Self::Poison(code) => code,
        }
    }

    /// Whether a broker rejected the record itself, or its batch.
    pub(super) const fn is_by_broker(self) -> bool {
        match self {
            Self::Passing(_) | Self::Fatal(_) => false,
            Self::Timestamp(_) | Self::TooLarge(_) | Self::Poison(_) => true,
        }
    }
}

/// Classifies an error. Unknown errors count as temporary: a record is never given up for an unknown reason.
#[expect(clippy::wildcard_enum_match_arm, reason = "librdkafka's list is open; an unknown error is one that may pass")]
pub(crate) const fn failure(code: RDKafkaErrorCode) -> SendFailure {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::Inconsistent
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::GaplessGuarantee
        // The record was lost with its producer.
        | Code::PurgeQueue
        | Code::PurgeInflight => SendFailure::Fatal(code),
        Code::InvalidTimestamp => SendFailure::Timestamp(code),
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => SendFailure::TooLarge(code),
        Code::InvalidMessageSize
        | Code::InvalidMessage
        | Code::InvalidRecord
        | Code::UnsupportedForMessageFormat
        | Code::PolicyViolation => SendFailure::Poison(code),
        other => SendFailure::Passing(other),
    }
}

/// Why a record could not be handed to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// librdkafka's queue is full. Delivery reports make room.
    QueueFull,
    /// It was not handed over because of this error.
    Failed(SendFailure),
}

/// The state of the cluster and of the poll thread.
#[derive(Debug, Default)]
pub(crate) struct Health {
    is_any_broker_up: AtomicBool,
    /// An outage has been logged. librdkafka reports it at each attempt to connect.
    is_outage_logged: AtomicBool,
    /// The hint about a wrong protocol has been logged.
    is_hint_logged: AtomicBool,
    has_producer_id: AtomicBool,
    unanswered: Wait,
    polled: Heartbeat,
}

impl Health {
    /// Whether the brokers have given the producer its id, as of the last statistics. Nothing can be delivered before. On a cluster that
    /// has just started this takes seconds.
    pub(super) fn has_producer_id(&self) -> bool {
        self.has_producer_id.load(Ordering::Relaxed)
    }

    /// Whether any broker is connected, as of the last statistics.
    pub(crate) fn is_any_broker_up(&self) -> bool {
        self.is_any_broker_up.load(Ordering::Relaxed)
    }

    /// For how long every connected broker has owed a response without sending anything, as of the last statistics.
    pub(crate) fn unanswered_age(&self) -> Duration {
        self.unanswered.age()
    }

    /// The time since the poll thread last ran.
    pub(crate) fn poll_age(&self) -> Duration {
        self.polled.age()
    }
}

/// The unread delivery reports of one producer. Their number is bounded by the records that were sent.
///
/// Each producer has its own mailbox, so that late reports of a replaced producer are not attributed to its successor.
#[derive(Debug)]
struct Mailbox {
    reports: Mutex<Vec<DeliveryReport>>,
    publisher: Thread,
}

impl Mailbox {
    fn new(publisher: Thread) -> Self {
        Self { reports: Mutex::default(), publisher }
    }

    fn put(&self, report: DeliveryReport) {
        let was_empty = {
            let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            reports.push(report);
            reports.len() == 1
        };
        if was_empty {
            self.publisher.unpark();
        }
    }
}

/// The callbacks of librdkafka.
struct Context {
    mailbox: Arc<Mailbox>,
    health: Arc<Health>,
    metrics: KafkaMetrics,
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, record_number: usize) {
        let verdict = match result {
            Ok(message) if message.offset() >= 0 => Verdict::Delivered,
            Ok(_) => Verdict::Unproven,
            Err((error, _)) => Verdict::Failed(failure(code_of(error))),
        };
        self.mailbox.put(DeliveryReport { record_number, verdict });
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match protocol_hint::of(message) {
            // A client with a producer id has the right protocol.
            Some(hint) if !self.health.has_producer_id() => {
                if !self.health.is_hint_logged.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason = message, "{hint}");
                }
            }
            Some(_) | None => log(level, facility, message),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(state) = self.metrics.observe(statistics) {
            self.health.is_any_broker_up.store(state.is_any_broker_up, Ordering::Relaxed);
            if state.is_any_broker_up {
                self.health.is_outage_logged.store(false, Ordering::Relaxed);
            }
            self.health.unanswered.set(state.is_unanswered);
            self.health.has_producer_id.store(state.has_producer_id, Ordering::Relaxed);
            if state.has_producer_id {
                self.health.is_hint_logged.store(false, Ordering::Relaxed);
            }
        }
    }

    // librdkafka calls this twice for each event, so nothing is counted here.
    fn error(&self, error: KafkaError, reason: &str) {
        let code = code_of(&error);
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.health.is_any_broker_up.store(false, Ordering::Relaxed);
            if !self.health.is_outage_logged.swap(true, Ordering::Relaxed) {
                tracing::warn!(reason, "no kafka broker can be reached");
            }
        } else {
            tracing::debug!(?code, reason, "kafka");
        }
    }
}

/// Forwards a log line of librdkafka. Its errors concern connections, which it retries, so they are warnings.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // Logged at every start: the property that we set is experimental.
    let is_known = facility == "CONFWARN" && message.contains("enable.gapless.guarantee");
    let is_close = facility == "FAIL" && message.contains("Disconnected");
    match level {
        RDKafkaLogLevel::Warning if is_known => {}
        // Brokers close idle connections, and connections when they restart. An outage is logged elsewhere.
        RDKafkaLogLevel::Warning if is_close => tracing::debug!(facility, reason = message, "librdkafka"),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => {
            tracing::warn!(facility, reason = message, "librdkafka");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(facility, reason = message, "librdkafka");
        }
    }
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}

/// A producer with its poll thread. It is replaced when it is dead or silent, or its batches have the wrong size.
pub(crate) struct Kafka {
    config: ClientConfig,
    /// The largest batch of the current producer.
    batch_bytes: usize,
    health: Arc<Health>,
    metrics: KafkaMetrics,
    /// Of the current producer.
    mailbox: Arc<Mailbox>,
    /// `None` only during a replacement.
    running: Option<RunningClient>,
    /// The same producer, for users that must not keep it alive.
    newest: NewestProducer,
}

/// A reference to the current producer, for queries about the cluster. It is upgraded only for the duration of one query: a replaced
/// producer must end.
#[derive(Clone, Default)]
pub(super) struct NewestProducer(Arc<Mutex<Weak<BaseProducer<Context>>>>);

impl NewestProducer {
    /// The metadata of all topics and brokers.
    pub(super) fn fetch_metadata(&self, timeout: Duration) -> Result<Metadata, KafkaError> {
        self.get()?.client().fetch_metadata(None, timeout)
    }

    /// Connects to the leader of a partition, and waits until it has answered a request.
    pub(super) fn reach_leader(&self, topic: &str, partition: i32, timeout: Duration) -> Result<(), KafkaError> {
        match self.get()?.client().fetch_watermarks(topic, partition, timeout) {
            // An answer that the request is forbidden is an answer too.
            Err(error) if is_no_leader(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn get(&self) -> Result<Arc<BaseProducer<Context>>, KafkaError> {
        let producer = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        producer.ok_or_else(|| KafkaError::ClientCreation("it is being replaced".into()))
    }

    fn set(&self, producer: &Arc<BaseProducer<Context>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(producer);
    }
}

/// Whether the error is not an answer of the leader: it comes from the client itself, or another broker leads.
fn is_no_leader(error: &KafkaError) -> bool {
    let code = code_of(error);
    // Codes of librdkafka are negative, those of brokers positive.
    (code as i32) < 0 || matches!(code, RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable)
}

struct RunningClient {
    producer: Arc<BaseProducer<Context>>,
    stop: Arc<AtomicBool>,
    poller: JoinHandle<()>,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Kafka").field("health", &self.health).finish_non_exhaustive()
    }
}

/// A producer that is not running yet.
pub(crate) struct UnstartedKafka {
    config: ClientConfig,
    batch_bytes: usize,
    health: Arc<Health>,
    metrics: KafkaMetrics,
}

impl std::fmt::Debug for UnstartedKafka {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Unstarted").finish_non_exhaustive()
    }
}

impl UnstartedKafka {
    /// Checks these properties together.
    ///
    /// # Errors
    ///
    /// librdkafka rejects them.
    pub(crate) fn new(properties: &Properties, metrics: KafkaMetrics) -> Result<Self, ClientError> {
        let config = client_config(properties);
        let probe: BaseProducer = config.create()?;
        drop(probe);
        Ok(Self { config, batch_bytes: properties.batch_bytes(), health: Arc::default(), metrics })
    }

    /// The health that it will report.
    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Starts the producer. `publisher` is unparked when there are reports.
    ///
    /// # Errors
    ///
    /// librdkafka could not start it, or no thread could be started.
    pub(crate) fn start(self, publisher: Thread) -> Result<Kafka, ClientError> {
        let Self { config, batch_bytes, health, metrics } = self;
        let mailbox = Arc::new(Mailbox::new(publisher));
        let mut kafka =
            Kafka { config, batch_bytes, health, metrics, mailbox, running: None, newest: NewestProducer::default() };
        kafka.running = Some(kafka.run()?);
        Ok(kafka)
    }
}

impl Kafka {
    /// Hands a record to the client. The timestamp is in milliseconds since the Unix epoch; `None`: the time of sending. The delivery
    /// report will have this `record_number`.
    ///
    /// # Errors
    ///
    /// It was not handed over.
    pub(crate) fn send(
        &self,
        topic: &str,
        record: &Record<'_>,
        timestamp_ms: Option<i64>,
        record_number: usize,
    ) -> Result<(), SendError> {
        let Some(running) = &self.running else { return Err(SendError::QueueFull) };
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for header in &record.headers {
            headers = headers.insert(KafkaHeader { key: header.name, value: Some(&*header.value) });
        }
        let mut kafka_record =
            BaseRecord::with_opaque_to(topic, record_number).payload(&*record.value).headers(headers);
        if let Some(timestamp_ms) = timestamp_ms {
            kafka_record = kafka_record.timestamp(timestamp_ms);
        }
        if let Some(key) = &record.key {
            kafka_record = kafka_record.key(&**key);
        }
        running.producer.send(kafka_record).map_err(|(error, _record)| {
            let code = code_of(&error);
            if code == RDKafkaErrorCode::QueueFull {
                return SendError::QueueFull;
            }
            // The client judges each record separately, so the record itself is too long.
            let is_too_long = matches!(failure(code), SendFailure::TooLarge(_));
            SendError::Failed(if is_too_long { SendFailure::Poison(code) } else { failure(code) })
        })
    }

    /// Moves the new reports to `into`.
    pub(crate) fn reports(&self, into: &mut Vec<DeliveryReport>) {
        into.append(&mut self.mailbox.reports.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the producer is dead and must be replaced. This is known before the reports of the cause arrive.
    pub(crate) fn is_fatal(&self) -> bool {
        // The error event does not tell: it has the code of the cause, which may be a temporary error.
        self.running.as_ref().is_some_and(|running| running.producer.client().fatal_error().is_some())
    }

    /// The largest batch of its producer, in bytes. A longer record gets a batch of its own.
    pub(crate) const fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// Replaces the producer by one with batches of at most `batch_bytes`. Unread reports of the old one are dropped.
    ///
    /// # Errors
    ///
    /// librdkafka could not start the new one; the old one has ended nevertheless.
    pub(crate) fn replace(&mut self, batch_bytes: usize) -> Result<(), ClientError> {
        self.stop();
        self.batch_bytes = batch_bytes;
        self.config.set(BATCH_SIZE, batch_bytes.to_string());
        self.running = Some(self.run()?);
        Ok(())
    }

    /// Counts the replacement of a dead producer.
    pub(crate) fn count_dead(&self) {
        self.metrics.rebuilds.inc();
    }

    /// Counts the replacement of a producer without delivery reports.
    pub(crate) fn count_watchdog_restart(&self) {
        self.metrics.watchdog_restarts.inc();
    }

    /// Whether any broker is connected.
    pub(crate) fn is_any_broker_up(&self) -> bool {
        self.health.is_any_broker_up()
    }

    /// Ends the producer. Its outstanding records are reported as failed; some may be in Kafka nevertheless.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            // A panic in the thread has ended the process already.
            let _joined = running.poller.join();
            // Dropping it purges the queue and serves the reports; a concurrent query may do so later instead.
            drop(running.producer);
        }
    }

    /// What other clients of the cluster need: the configuration, the current producer, and the health.
    pub(super) fn shared(&self) -> (ClientConfig, NewestProducer, Arc<Health>) {
        (self.config.clone(), self.newest.clone(), Arc::clone(&self.health))
    }

    fn run(&mut self) -> Result<RunningClient, ClientError> {
        self.mailbox = Arc::new(Mailbox::new(self.mailbox.publisher.clone()));
        let context = Context {
            mailbox: Arc::clone(&self.mailbox),
            health: Arc::clone(&self.health),
            metrics: self.metrics.clone(),
        };
        self.health.has_producer_id.store(false, Ordering::Relaxed);
        let producer: Arc<BaseProducer<Context>> = Arc::new(self.config.create_with_context(context)?);
        self.newest.set(&producer);
        let stop = Arc::new(AtomicBool::new(false));
        let poller = {
            let (producer, stop, health) = (Arc::clone(&producer), Arc::clone(&stop), Arc::clone(&self.health));
            health.polled.beat();
            thread::Builder::new().name("kafka-poll".into()).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    producer.poll(POLL_TURN);
                    health.polled.beat();
                }
            })
        };
        let poller = poller.map_err(|_| ClientError(KafkaError::ClientCreation("no thread for polling".into())))?;
        Ok(RunningClient { producer, stop, poller })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Apps;
    use crate::journal::Ack;
    use crate::record::Topics;

    #[test]
    fn every_default_is_taken_by_librdkafka() {
        for ack in [Ack::Broker, Ack::Memory] {
            let properties = Properties::new(ack, &BTreeMap::new());
            client_config(&properties).create_native_config().unwrap();
        }
    }

    #[test]
    fn what_a_replaced_producer_still_says_is_not_its_successors_word() {
        // Nobody listens there, so what is sent stays with the client.
        let configured = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())].into();
        let properties = Properties::new(Ack::Memory, &configured);
        let metrics = KafkaMetrics::register(&prometheus::Registry::new()).unwrap();
        let mut kafka = UnstartedKafka::new(&properties, metrics).unwrap().start(thread::current()).unwrap();
        let shared = kafka.shared();
        let app = Apps::new([1]).iter().next().unwrap();
        let record = Record {
            topic: Topics::new(["t"]).dead_letters(app),
            key: None,
            headers: Vec::new(),
            value: b"{}".as_slice().into(),
            dead_letter_reason: None,
        };
        kafka.send("t", &record, None, 7).unwrap();
        let held = Arc::clone(&kafka.running.as_ref().unwrap().producer);
        kafka.replace(1000).unwrap();
        // Ends it: what it held is reported as purged.
        drop(held);
        let mut reports = Vec::new();
        kafka.reports(&mut reports);
        assert_eq!((reports, kafka.is_fatal()), (Vec::new(), false));
        let producer = &kafka.running.as_ref().unwrap().producer;
        assert_eq!(Arc::strong_count(producer), 2, "who asks about topics holds it, beside its poll thread");
        drop(shared);
    }

    #[test]
    fn librdkafka_judges_names_and_values() {
        let configured = [("linger.ms", "5"), ("bootstrap.server", "x"), ("socket.timeout.ms", "soon")];
        let configured = configured.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let problems = problems(&configured);
        assert_eq!(
            problems.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["bootstrap.server", "socket.timeout.ms"]
        );
        assert!(problems.iter().all(|(_, what)| !what.is_empty()));
    }

    #[test]
    fn an_error_that_is_not_known_may_pass() {
        assert_eq!(failure(RDKafkaErrorCode::Unknown), SendFailure::Passing(RDKafkaErrorCode::Unknown));
        assert_eq!(
            failure(RDKafkaErrorCode::UnknownTopicOrPartition),
            SendFailure::Passing(RDKafkaErrorCode::UnknownTopicOrPartition)
        );
        assert_eq!(failure(RDKafkaErrorCode::Fatal), SendFailure::Fatal(RDKafkaErrorCode::Fatal));
        assert_eq!(
            failure(RDKafkaErrorCode::MessageSizeTooLarge),
            SendFailure::TooLarge(RDKafkaErrorCode::MessageSizeTooLarge)
        );
        assert_eq!(failure(RDKafkaErrorCode::InvalidRecord), SendFailure::Poison(RDKafkaErrorCode::InvalidRecord));
    }
}
