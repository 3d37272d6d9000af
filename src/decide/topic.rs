//! The records of the blocklist's Kafka topic: keys, values and headers as bytes, and the events of its audit topic.
//!
//! Pure. The topic is compacted, so a key has exactly one spelling: of two spellings Kafka would keep both records. The golden
//! bytes in the tests are what other versions and other programs have written: they never change.

pub mod change;
pub mod key;
pub mod poison;
pub mod value;

/// The header that carries the identity of the topic.
pub const TOPIC_HEADER: &str = "topic";
