//! The records of the blocklist's Kafka topic: keys, values and headers as bytes, and the events of its audit topic.
//!
//! Pure. The topic is compacted, so a key has exactly one encoding: with two, Kafka would keep both records. The golden bytes in the tests
//! have been written by released versions and other programs, and never change.

pub mod change;
pub mod key;
pub mod poison;
pub mod value;

/// The header that carries the identity of the topic.
pub const TOPIC_HEADER: &str = "topic";
