//! callbridge.

// Words.
pub mod capture;
pub mod clock;
pub mod command;
pub mod ledger;
pub mod record;
pub mod refusal;
pub mod request;
mod shutdown;

// Stages without I/O, in the order a callback meets them.
pub mod auth;
pub mod body;
pub mod parse;
pub mod decide;
pub mod normalise;

// Edges.
mod journal;
mod intake;
mod http;
mod publish;
mod follow;
mod admin;
mod metrics;

// Wiring.
pub mod cli;
pub mod config;
mod app;
