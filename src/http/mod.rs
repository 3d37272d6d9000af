//! The callback listener: connections, limits, and the way from a request to an answer.

pub(crate) mod connection;
mod framing;
pub(crate) mod listener;
pub(crate) mod opening;
mod proxy;
pub(crate) mod reply;
pub(crate) mod service;
