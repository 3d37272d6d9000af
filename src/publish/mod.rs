//! Publishes captures from the journal to Kafka.
//!
//! [`pump`] reads the journal in order; [`outgoing`] makes records of captures and hands them to [`kafka`], as far as the [`outbox`] of
//! their topic and the common [`budget`] allow. A capture is settled only when each of its records has its own positive delivery report.
//! [`topics`] makes sure that every topic exists before anything is published to it. [`cluster`] serves an operator's commands about
//! topics. [`embedded`] is a Kafka broker inside this process, for evaluation.

mod batch_size;
pub(crate) mod budget;
pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod embedded;
pub(crate) mod kafka;
mod limits;
pub(crate) mod metrics;
pub(crate) mod outbox;
mod outgoing;
pub(crate) mod properties;
mod protocol_hint;
pub(crate) mod pump;
pub(crate) mod replication;
pub(crate) mod topics;
mod unreported;
mod watchdog;

#[cfg(test)]
mod tests;
