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

mod admin;
mod bad_input;
mod batch_sizes;
mod blocklist;
mod blocklist_api;
mod blocklist_apps;
mod blocklist_cli;
mod blocklist_faults;
mod blocklist_figures;
mod blocklist_topic;
mod broker_protocol;
mod callbacks;
mod commands;
mod connections;
mod consumers;
mod crashes;
mod dashboard;
mod deploy_docker;
mod deploy_docs;
mod deploy_kubernetes;
mod deploy_systemd;
mod disk_faults;
mod disks;
mod doctor;
mod documents;
mod drain;
mod embedded;
mod endurance;
mod faults;
mod fresh_topics;
mod fuzz;
mod harness;
mod healthcheck;
mod hostile;
mod journal;
mod limits;
mod listener;
mod outages;
mod overload;
mod paging;
mod pem;
mod power_cut;
mod process_face;
mod promises;
mod proxies;
mod quarantine;
mod rolling;
mod schemas;
mod seeds;
mod send;
mod senders;
mod service_manager;
mod shares;
mod signals;
mod signature;
mod stalled_output;
mod status_page;
mod stop;
mod structure;
mod supply;
mod support;
mod three_nodes;
mod tls;
mod topics;
mod topics_command;
mod watching;
