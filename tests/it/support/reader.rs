//! Reads topics like a consumer: every partition, from the beginning. Records are validated by the schemas.

use std::collections::BTreeSet;
use std::time::Duration;

use callbridge::clock;
use callbridge::command::Command;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::message::BorrowedMessage;
use rdkafka::message::Headers;

use crate::support::schema;
use crate::support::wait;

/// The pause between polls.
const STEP: Duration = Duration::from_millis(50);

/// The timeout of a request.
const REQUEST: Duration = Duration::from_secs(30);

/// A record as read from Kafka.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) value: Vec<u8>,
}

impl Record {
    /// The record as JSON, validated by its schema. Dead letters, and records of other topics, have no schema.
    ///
    /// # Panics
    /// If it is not valid.
    pub(crate) fn judged(self) -> Self {
        let (_prefix, name) = self.topic.split_at(self.topic.len() - suffix_bytes(&self.topic));
        if name == "unknown" || Command::find(name).is_some() {
            let headers: Vec<(&str, &[u8])> =
                self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            if let Err(error) = schema::judge(self.key.as_deref(), &headers, &self.value) {
                panic!("a record of {} that its schema does not allow: {error}", self.topic);
            }
        }
        self
    }
}

/// The length of the last part of a topic's name: the command, or a word. The prefix may have dots too.
fn suffix_bytes(topic: &str) -> usize {
    let word = topic.rsplit('.').next().unwrap_or_default();
    let family = topic.strip_suffix(word).and_then(|rest| rest.strip_suffix('.')).unwrap_or_default();
    let command = topic.len() - family.rfind('.').map_or(0, |dot| dot + 1);
    if word == "unknown" || word == "rejected" { word.len() } else { command }
}

/// Continues where it stopped. It joins no group, so readers do not affect each other.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    partitions: Vec<(String, i32)>,
}

impl Reader {
    /// Opens all partitions of existing topics.
    pub(crate) fn open(client: &ClientConfig, topics: &[&str]) -> Self {
        let mut config = client.clone();
        // librdkafka requires a group id; the group is not joined.
        config.set("group.id", "callbridge-test-reader").set("enable.auto.commit", "false");
        config.set("isolation.level", "read_uncommitted").set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer = config.create().unwrap();
        let partitions: Vec<_> = topics.iter().flat_map(|topic| partitions_of(&consumer, topic)).collect();
        let mut assignment = TopicPartitionList::new();
        for (topic, partition) in &partitions {
            assignment.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        Self { consumer, partitions }
    }

    /// Reads until `enough` returns true for a record, or `limit` has passed. The caller checks the result.
    pub(crate) fn collect_until(&self, limit: Duration, mut enough: impl FnMut(&Record) -> bool) -> Vec<Record> {
        let deadline = clock::monotonic() + limit;
        let mut records = Vec::new();
        while clock::monotonic() < deadline {
            if let Some(record) = self.next(STEP) {
                let ends = enough(&record);
                records.push(record);
                if ends {
                    break;
                }
            }
        }
        records
    }

    /// Reads `count` records.
    ///
    /// # Panics
    /// If there are fewer within `limit`.
    pub(crate) fn collect(&self, count: usize, limit: Duration) -> Vec<Record> {
        let mut missing = count;
        let records = self.collect_until(limit, |_record| {
            missing -= 1;
            missing == 0
        });
        assert_eq!(records.len(), count, "records within {limit:?}");
        records
    }

    /// Reads until nothing arrives for `idle`.
    pub(crate) fn collect_quiet(&self, idle: Duration) -> Vec<Record> {
        std::iter::from_fn(|| self.next(idle)).collect()
    }

    /// Reads at least everything that was in the topics when it was called.
    ///
    /// # Panics
    /// If it takes longer than a minute.
    pub(crate) fn collect_to_end(&self) -> Vec<Record> {
        let mut records = Vec::new();
        self.pass_to_end(Duration::from_secs(60), |record| records.push(record));
        records
    }

    /// The same without keeping all records in memory.
    ///
    /// # Panics
    /// If it takes longer than `limit`.
    pub(crate) fn pass_to_end(&self, limit: Duration, mut pass: impl FnMut(Record)) {
        let mut open = self.open_ends();
        let mut count = 0;
        let deadline = clock::monotonic() + limit;
        while !open.is_empty() {
            assert!(clock::monotonic() < deadline, "{count} records, and these ends not reached: {open:?}");
            let Some(record) = self.next(STEP) else { continue };
            open.retain(|(topic, partition, end)| {
                (topic, *partition) != (&record.topic, record.partition) || record.offset + 1 < *end
            });
            count += 1;
            pass(record);
        }
    }

    /// The numbers that tests use as `RequestID`, without duplicates, in the order of their first records, of all existing records.
    ///
    /// # Panics
    /// If reading takes longer than a minute, or a record has no such number.
    pub(crate) fn request_numbers(&self) -> Vec<u64> {
        let mut seen = BTreeSet::new();
        let number = |record: &Record| -> u64 {
            let envelope: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
            envelope["requestid"].as_str().unwrap().parse().unwrap()
        };
        self.collect_to_end().iter().map(number).filter(|number| seen.insert(*number)).collect()
    }

    /// The ends of the partitions that are not read completely.
    fn open_ends(&self) -> Vec<(String, i32, i64)> {
        let positions = self.consumer.position().unwrap();
        let end_of = |(topic, partition): &(String, i32)| {
            // A new partition may have no leader yet.
            let ask = || self.consumer.fetch_watermarks(topic, *partition, REQUEST);
            let (first, end) = wait::until_ok("the ends of a partition are known", ask);
            let next = match positions.find_partition(topic, *partition).map(|position| position.offset()) {
                Some(Offset::Offset(next)) => next,
                _not_begun => first,
            };
            (next < end).then(|| (topic.clone(), *partition, end))
        };
        self.partitions.iter().filter_map(end_of).collect()
    }

    /// The next record; `None` if there is none, or if the broker is unavailable at the moment.
    fn next(&self, wait: Duration) -> Option<Record> {
        self.consumer.poll(wait)?.ok().map(|message| record(&message))
    }
}

fn partitions_of(consumer: &BaseConsumer, topic: &str) -> Vec<(String, i32)> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).unwrap();
    let partitions = metadata.topics()[0].partitions();
    assert!(!partitions.is_empty(), "no topic {topic}");
    partitions.iter().map(|partition| (topic.to_owned(), partition.id())).collect()
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.map(|it| (it.key.to_owned(), it.value.unwrap_or_default().to_vec())).collect(),
        value: message.payload().unwrap_or_default().to_vec(),
    }
    .judged()
}
