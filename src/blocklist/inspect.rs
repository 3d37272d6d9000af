//! Reads a blocklist topic as `callbridge check --live` does: to see whether it can be read.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::properties;
use crate::clock;

/// For one answer of the cluster, and for the first record.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
const TURN: Duration = Duration::from_micros(100_050);

/// Reads one record of the topic of this name, or reaches its end: only that shows the right to READ. Returns the end of the log. `configured` is
/// `[kafka]`.
pub(crate) fn read(configured: &BTreeMap<String, String>, topic: &str) -> Result<u64, String> {
    let consumer = TopicConsumer::new(&properties::of_follower(configured), topic)?;
    consumer.read_from(None)?;
    let deadline = clock::monotonic() + REQUEST_LIMIT;
    loop {
        match consumer.poll(TURN, |_record| {}) {
            Polled::Record | Polled::End => return consumer.high_watermark(REQUEST_LIMIT),
            Polled::Nothing if clock::monotonic() < deadline => {}
            Polled::Nothing | Polled::LogChanged => return Err("kafka sends no record".to_owned()),
            Polled::Unreadable(why) | Polled::Dead(why) => return Err(why),
        }
    }
}
