//! Reads a blocklist topic to its end once, for commands.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::log_watch::POLL_WAIT;
use crate::blocklist::properties;
use crate::clock;
use crate::decide::fold::FollowedTopic;
use crate::decide::fold::FullRead;

/// The timeout of a request to the cluster, and of one record.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Reads the topic from its start to its end. Fails if no record arrives for `limit`. `configured` is `[kafka]`, with the brokers.
///
/// # Errors
///
/// Why the topic cannot be read, in words for the operator.
pub(crate) fn read_topic(
    configured: &BTreeMap<String, String>,
    topic: &str,
    limit: Duration,
) -> Result<FollowedTopic, String> {
    let consumer = TopicConsumer::new(&properties::of_follower(configured), topic)?;
    let partitions = consumer.partitions(REQUEST_LIMIT).map_err(|problem| problem.to_string())?;
    if partitions != 1 {
        return Err(format!("the topic has {partitions} partitions, and must have exactly 1"));
    }
    let mut undeclared = BTreeSet::new();
    loop {
        match read_once(&consumer, limit)?.finish(&undeclared) {
            Ok(following) => return Ok(following),
            Err(others) => undeclared = others,
        }
    }
}

fn read_once(consumer: &TopicConsumer, limit: Duration) -> Result<FullRead, String> {
    let end = consumer.high_watermark(REQUEST_LIMIT)?;
    consumer.read_from(None)?;
    let (mut reading, mut outcome) = (FullRead::default(), Ok(()));
    let mut deadline = clock::monotonic() + limit;
    loop {
        let polled = consumer.poll(POLL_WAIT, |record| outcome = reading.apply(record).map(drop));
        outcome.map_err(|changed| changed.to_string())?;
        match polled {
            Polled::Record if reading.next() >= end => return Ok(reading),
            Polled::End => return Ok(reading),
            Polled::Record => deadline = clock::monotonic() + limit,
            Polled::Nothing if clock::monotonic() < deadline => {}
            Polled::Nothing => return Err(format!("kafka has sent no record for {} s", limit.as_secs())),
            Polled::LogChanged => return Err("the log has changed while it was read".to_owned()),
            Polled::Unreadable(why) | Polled::Dead(why) => return Err(why),
        }
    }
}
