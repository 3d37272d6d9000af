//! callbridge.

pub mod config;

pub mod clock;
mod shutdown;
