//! Reads blocklist topics as `callbridge check --live` does: to see whether they can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;

use crate::blocklist::consumer::PARTITION;
use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::polled_error;
use crate::blocklist::properties;
use crate::clock;

const TURN: Duration = Duration::from_millis(10);

/// Why a topic was not read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum InspectError {
    /// Kafka has sent nothing in time.
    #[error("kafka sends no record")]
    Silent,
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Reads one record of each topic, or reaches its end: only that shows the right to READ. One consumer reads all, within `limit`. Returns the
/// ends of the logs. `configured` is `[kafka]`.
pub(crate) fn read(
    configured: &BTreeMap<String, String>,
    topics: &[String],
    limit: Duration,
) -> Vec<Result<u64, InspectError>> {
    read_all(configured, topics, limit)
        .unwrap_or_else(|error| vec![Err(InspectError::Unreadable(error.to_string())); topics.len()])
}

fn read_all(
    configured: &BTreeMap<String, String>,
    topics: &[String],
    limit: Duration,
) -> Result<Vec<Result<u64, InspectError>>, KafkaError> {
    let deadline = clock::monotonic() + limit;
    let left = || deadline.saturating_duration_since(clock::monotonic());
    let mut config: ClientConfig = properties::of_follower(configured).into_iter().collect();
    // A request for the end of a log waits behind a fetch.
    config.set("fetch.wait.max.ms", "10");
    let consumer: Arc<BaseConsumer> = Arc::new(config.create()?);
    let mut partitions = TopicPartitionList::new();
    for topic in topics {
        partitions.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    // A queue each: an error does not say which topic it is of.
    let queues: Vec<_> = topics.iter().map(|topic| consumer.split_partition_queue(topic, PARTITION)).collect();
    let mut read: Vec<Result<u64, InspectError>> = vec![Err(InspectError::Silent); topics.len()];
    let mut waiting: Vec<usize> = (0..topics.len()).collect();
    while !waiting.is_empty() && !left().is_zero() {
        // What is of no topic.
        let _event = consumer.poll(TURN);
        waiting.retain(|&index| {
            let (Some(topic), Some(Some(queue)), Some(read)) =
                (topics.get(index), queues.get(index), read.get_mut(index))
            else {
                return false;
            };
            let polled = match queue.poll(Duration::ZERO) {
                None => return true,
                Some(Ok(_record)) => Polled::Record,
                Some(Err(error)) => polled_error(&error),
            };
            *read = match polled {
                Polled::Nothing => return true,
                Polled::Record | Polled::End => {
                    let watermarks = consumer.fetch_watermarks(topic, PARTITION, left());
                    watermarks
                        .map(|(_low, high)| u64::try_from(high).unwrap_or(0))
                        .map_err(|_late| InspectError::Silent)
                }
                Polled::LogChanged => Err(InspectError::Silent),
                Polled::Unreadable(why) | Polled::Dead(why) => Err(InspectError::Unreadable(why)),
            };
            false
        });
    }
    Ok(read)
}
