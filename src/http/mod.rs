//! The callback listener: connections, limits, and the way from a request to an answer.

pub(crate) mod budget;
pub(crate) mod connection;
mod der;
pub(crate) mod expiry;
mod framing;
mod gzip;
pub(crate) mod listener;
mod multiplexed;
pub(crate) mod opening;
mod peers;
mod pem;
mod proxy;
pub(crate) mod reply;
pub(crate) mod service;
mod stream;
pub(crate) mod tls;
mod version;
pub(crate) mod workers;
