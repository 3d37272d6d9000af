//! The lists that decide, and the Kafka topic that every replica follows and that changes are written to.
//!
//! [`lists`] makes each list of its sources: files, which [`crate::follow`] reads, and a topic. [`follower`] reads a topic to its end and
//! applies what comes; [`creation`] makes topics that are missing; [`writer`] changes rules. [`topic`] is what the rest of the program
//! holds of one topic. What a record means is [`crate::decide::topic`]'s. Only [`consumer`], [`producer`] and [`describe`] name rdkafka.

mod consumer;
pub(crate) mod creation;
pub(crate) mod describe;
pub(crate) mod follower;
pub(crate) mod inspect;
pub(crate) mod lists;
mod log_watch;
pub(crate) mod metrics;
mod producer;
mod properties;
pub(crate) mod snapshot;
pub(crate) mod topic;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
