//! Takes Tencent Cloud Chat callbacks, answers them, and publishes them to Kafka.
#![doc = include_str!("../ARCHITECTURE.md")]

// Words.
pub mod capture;
pub mod clock;
pub mod command;
pub mod invisible;
pub mod ledger;
mod lifecycle;
pub mod record;
pub mod refusal;
pub mod request;
pub mod sender;
pub mod share;
mod throttle;

// Stages without I/O, in the order a callback meets them.
pub mod auth;
pub mod bearer;
pub mod body;
pub mod decide;
pub mod normalise;
pub mod parse;
pub mod question;

// Edges.
mod admin;
mod blocklist;
mod follow;
mod http;
mod intake;
mod journal;
mod logging;
mod metrics;
mod publish;
pub mod send;
mod systemd;

// Wiring.
mod app;
pub mod cli;
mod config;
