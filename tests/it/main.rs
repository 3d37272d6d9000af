//! What callbridge promises, tried from outside: the built binary, real sockets, a real Apache Kafka.
//!
//! A test whose real part is missing says so loudly and passes; with `CALLBRIDGE_REQUIRE_REAL=1` it fails.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too: what it cannot do is a failed test"
)]

mod bad_input;
mod batch_sizes;
mod blocklist;
mod broker_protocol;
mod callbacks;
mod commands;
mod crashes;
mod disk_faults;
mod disks;
mod embedded;
mod faults;
mod fresh_topics;
mod fuzz;
mod gzip;
mod harness;
mod hostile;
mod http2;
mod journal;
mod listener;
mod outages;
mod overload;
mod power_cut;
mod process_face;
mod promises;
mod quarantine;
mod schemas;
mod seeds;
mod senders;
mod signature;
mod stop;
mod structure;
mod support;
mod tls;
mod topics;
