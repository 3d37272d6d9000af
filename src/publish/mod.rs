//! From the journal to Kafka.
//!
//! [`pump`] reads the journal in order; [`outgoing`] normalises captures and hands the records to [`kafka`], for each topic as far as its
//! [`outbox`] and the common [`budget`] let it. A capture is settled only when each of its records has its own positive delivery report.
//! [`topics`] sees to it that every topic is there before anything is
//! published. [`cluster`] answers an operator's commands about topics. [`embedded`] is a Kafka inside this process, for trying things out.

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
