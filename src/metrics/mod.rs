//! What Prometheus may know.

pub(crate) mod blocklist;
