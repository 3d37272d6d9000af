//! The blocklist's Kafka topic: read to its end and followed by every replica, written through a producer of its own.
//!
//! [`topic`] is what the rest of the program holds of one topic: the rules as last applied, and a way to write.

#![expect(dead_code, reason = "the admin API and the follower use it")]

pub(crate) mod topic;
