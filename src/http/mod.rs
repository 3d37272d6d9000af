//! The callback listener: connections, limits, and the way from a request to an answer.

pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod expiry;
mod framing;
pub(crate) mod listener;
pub(crate) mod opening;
mod peers;
mod proxy;
pub(crate) mod reply;
pub(crate) mod service;
mod stream;
pub(crate) mod tls;
pub(crate) mod workers;
