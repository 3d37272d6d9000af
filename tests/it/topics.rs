//! What holds of the topics before callbacks are let through.

pub(crate) fn callbacks_wait_for_kafka_at_the_start_until_their_deadline_and_then_get_through() {}
