//! The callback listener: connections and their limits, and the handling of a request up to its response.

mod arrival;
pub(crate) mod body;
mod connection;
pub(crate) mod connections;
pub(crate) mod listener;
mod phase;
pub(crate) mod preamble;
mod proxy;
pub(crate) mod reply;
pub(crate) mod service;
pub(crate) mod tls;
pub(crate) mod workers;
