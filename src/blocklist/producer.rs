//! Writes records to Kafka, and waits for the outcome of each.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Header;
use rdkafka::message::Message;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::DeliveryResult;
use rdkafka::producer::Producer;
use rdkafka::producer::ProducerContext;

use crate::clock;
use crate::publish::kafka;

/// How long one poll waits for reports. The `poll` of the crate always lasts this long, even after a report, so a change is delayed by it.
/// Slightly more than whole milliseconds, as librdkafka spins for fractions.
const TURN: Duration = Duration::from_micros(1_050);

/// If the client itself has not given up a record by then, the wait ends.
const REPORT_LIMIT: Duration = Duration::from_secs(10);

/// A record to write.
#[derive(Debug)]
pub(super) struct ListRecord<'r> {
    pub(super) topic: &'r str,
    /// `None`: chosen by the key.
    pub(super) partition: Option<i32>,
    pub(super) key: &'r str,
    /// `None`: a tombstone.
    pub(super) value: Option<&'r str>,
    pub(super) headers: Vec<(&'static str, String)>,
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotAcknowledged {
    /// It may still be written.
    InTime(String),
    /// Kafka has rejected it.
    Refused(String),
}

/// A producer for one request at a time.
pub(super) struct TopicProducer {
    producer: BaseProducer<ListReports>,
    /// The sequence of the next record. The report of an abandoned record may arrive during a later request.
    next: Cell<usize>,
}

impl std::fmt::Debug for TopicProducer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TopicProducer").finish_non_exhaustive()
    }
}

/// The outcomes of records, by sequence.
#[derive(Default)]
struct ListReports {
    reports: Mutex<Vec<(usize, Result<u64, RDKafkaErrorCode>)>>,
}

impl ClientContext for ListReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka, writing to a blocklist topic");
    }
}

impl ProducerContext for ListReports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let outcome = match result {
            // Only a broker's answer counts.
            Ok(message) => u64::try_from(message.offset()).map_err(|_negative| RDKafkaErrorCode::MessageTimedOut),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
    }
}

impl TopicProducer {
    pub(super) fn new(properties: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(name, value);
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        let producer = config.create_with_context(ListReports::default()).map_err(|error| error.to_string())?;
        Ok(Self { producer, next: Cell::new(0) })
    }

    /// Whether the producer has failed for good.
    pub(super) fn is_dead(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// Writes all `records`, and waits until each is acknowledged or given up. Returns their offsets in order. There must be no concurrent
    /// call.
    pub(super) fn write(&self, records: &[ListRecord<'_>]) -> Vec<Result<u64, NotAcknowledged>> {
        let reports = &self.producer.context().reports;
        let first = self.next.get();
        self.next.set(first + records.len());
        let mut outcomes: Vec<Option<Result<u64, NotAcknowledged>>> = vec![None; records.len()];
        let mut missing = 0;
        for (index, record) in records.iter().enumerate() {
            match self.send(first + index, record) {
                Ok(()) => missing += 1,
                Err(code) => put(&mut outcomes, index, Err(not_acknowledged(code))),
            }
        }
        let deadline = clock::monotonic() + REPORT_LIMIT;
        while missing > 0 && clock::monotonic() < deadline {
            self.producer.poll(TURN);
            for (number, outcome) in reports.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                let Some(index) = number.checked_sub(first) else { continue };
                put(&mut outcomes, index, outcome.map_err(not_acknowledged));
                missing -= 1;
            }
        }
        let unknown = || Err(NotAcknowledged::InTime("no delivery report".to_owned()));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect()
    }

    /// Whether the cluster says within `limit` that there is no topic of that name, or none that this client may describe.
    pub(super) fn is_missing(&self, topic: &str, limit: Duration) -> bool {
        // For all topics: a request for one by name creates it on a broker with auto.create.topics.enable.
        let metadata = self.producer.client().fetch_metadata(None, limit);
        metadata.is_ok_and(|metadata| metadata.topics().iter().all(|it| it.name() != topic))
    }

    fn send(&self, number: usize, record: &ListRecord<'_>) -> Result<(), RDKafkaErrorCode> {
        let insert = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        };
        let headers = record.headers.iter().fold(OwnedHeaders::new(), insert);
        let mut base: BaseRecord<'_, str, str, usize> =
            BaseRecord::with_opaque_to(record.topic, number).key(record.key).headers(headers);
        base.partition = record.partition;
        base.payload = record.value;
        loop {
            match self.producer.send(base) {
                Ok(()) => return Ok(()),
                Err((error, back)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => {
                        self.producer.poll(TURN);
                        base = back;
                    }
                    code => return Err(code.unwrap_or(RDKafkaErrorCode::Unknown)),
                },
            }
        }
    }
}

fn put<T>(items: &mut [Option<T>], index: usize, item: T) {
    if let Some(slot) = items.get_mut(index) {
        *slot = Some(item);
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "librdkafka's list is open; with an unknown error the record may still be written"
)]
fn not_acknowledged(code: RDKafkaErrorCode) -> NotAcknowledged {
    use RDKafkaErrorCode as Code;
    match code {
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::MessageSizeTooLarge
        | Code::InvalidRecord
        | Code::PolicyViolation
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition => NotAcknowledged::Refused(code.to_string()),
        code => NotAcknowledged::InTime(code.to_string()),
    }
}
