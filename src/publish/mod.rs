//! From the journal to Kafka.
//!
//! [`pump`] takes entries in the journal's order, normalises them and hands the records to [`kafka`]; an entry is settled, and its room
//! freed, only when its record has its own positive delivery report. [`topics`] sees to it that every topic is there before anything is
//! published. [`embedded`] is a Kafka inside this process, for trying things out.

mod batch_size;
pub(crate) mod control;
pub(crate) mod embedded;
pub(crate) mod kafka;
mod lane;
mod limits;
pub(crate) mod properties;
mod protocol_hint;
pub(crate) mod pump;
mod replication;
pub(crate) mod topics;
mod watchdog;

#[cfg(test)]
mod tests;
