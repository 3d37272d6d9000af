//! The callback listener: connections, limits, and the way from a request to an answer.

pub(crate) mod budget;
mod connection;
mod connections;
mod der;
pub(crate) mod expiry;
mod framing;
pub(crate) mod listener;
mod peers;
mod pem;
mod phase;
pub(crate) mod preamble;
mod proxy;
pub(crate) mod reply;
pub(crate) mod service;
mod stream;
pub(crate) mod tls;
pub(crate) mod workers;
