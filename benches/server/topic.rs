//! A topic as Kafka has it: how many records, and which.

use std::io;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::NewTopic;
use rdkafka::admin::TopicReplication;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::message::BorrowedMessage;
use tokio::runtime;

use crate::broker::Broker;
use crate::callback;

/// As many as callbridge makes of a topic.
pub(crate) const PARTITIONS: i32 = 6;

/// For one answer of Kafka.
const LIMIT: Duration = Duration::from_secs(30);

/// A topic, and a client that reads it.
pub(crate) struct Topic {
    name: String,
    client: BaseConsumer,
}

/// The first offset that is there and the one behind the last, of each partition.
#[derive(Debug, Clone)]
pub(crate) struct Extent(Vec<(i64, i64)>);

/// What identifies the callback that a record was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Vec<u8>,
    /// Of its event, in milliseconds.
    pub(crate) time: u64,
    /// Of its value.
    pub(crate) bytes: usize,
}

impl Topic {
    /// The topic of this name.
    pub(crate) fn new(broker: &Broker, name: String) -> io::Result<Self> {
        let mut config = client_config(broker);
        config.set("group.id", "bench").set("enable.auto.commit", "false");
        Ok(Self { name, client: config.create().map_err(io::Error::other)? })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes it as callbridge makes its topics.
    pub(crate) fn create(&self, broker: &Broker) -> io::Result<()> {
        let copies = i32::try_from(broker.nodes()).map_err(io::Error::other)?;
        let in_sync = (copies - 1).max(1).to_string();
        let topic = NewTopic::new(&self.name, PARTITIONS, TopicReplication::Fixed(copies));
        let topic = topic.set("min.insync.replicas", &in_sync);
        let admin: AdminClient<DefaultClientContext> = client_config(broker).create().map_err(io::Error::other)?;
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let runtime = runtime::Builder::new_current_thread().build()?;
        let created = runtime.block_on(admin.create_topics(&[topic], &options)).map_err(io::Error::other)?;
        created
            .into_iter()
            .try_for_each(|topic| topic.map(drop).map_err(|(name, code)| io::Error::other(format!("{name}: {code}"))))
    }

    /// What is in it now.
    pub(crate) fn extent(&self) -> io::Result<Extent> {
        let metadata = self.client.fetch_metadata(Some(self.name.as_str()), LIMIT).map_err(io::Error::other)?;
        let partitions = metadata.topics().first().map(|topic| topic.partitions().len()).unwrap_or_default();
        let partitions = i32::try_from(partitions).map_err(io::Error::other)?;
        let extents = (0..partitions).map(|partition| self.client.fetch_watermarks(&self.name, partition, LIMIT));
        Ok(Extent(extents.collect::<Result<_, _>>().map_err(io::Error::other)?))
    }

    /// The callbacks of its records behind `start`, in the order of each partition.
    pub(crate) fn read(&self, start: &Extent) -> io::Result<Vec<Found>> {
        let end = self.extent()?;
        let mut assignment = TopicPartitionList::new();
        for (partition, (_first, next)) in (0..).zip(&start.0) {
            let offset = Offset::Offset(*next);
            assignment.add_partition_offset(&self.name, partition, offset).map_err(io::Error::other)?;
        }
        self.client.assign(&assignment).map_err(io::Error::other)?;
        let wanted = end.records() - start.records();
        let mut found = Vec::new();
        while (found.len() as u64) < wanted {
            match self.client.poll(LIMIT) {
                Some(message) => found.push(Found::of(&message.map_err(io::Error::other)?)?),
                None => {
                    return Err(io::Error::other(format!("{}: read {} of {wanted} records", self.name, found.len())));
                }
            }
        }
        self.client.unassign().map_err(io::Error::other)?;
        Ok(found)
    }
}

impl Extent {
    /// How many records were ever written.
    pub(crate) fn records(&self) -> u64 {
        self.0.iter().map(|(_first, next)| next.unsigned_abs()).sum()
    }

    /// How many of them are there.
    pub(crate) fn kept(&self) -> u64 {
        self.0.iter().map(|(first, next)| next.abs_diff(*first)).sum()
    }
}

impl Found {
    fn of(message: &BorrowedMessage<'_>) -> io::Result<Self> {
        let time = message.payload().and_then(callback::event_time);
        let time = time.ok_or_else(|| io::Error::other("a record without the time of its event"))?;
        Ok(Self { key: message.key().unwrap_or_default().to_vec(), time, bytes: message.payload_len() })
    }
}

fn client_config(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.address);
    config
}
