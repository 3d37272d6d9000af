//! callbridge.

pub mod cli;
pub mod config;

mod app;
pub mod clock;
mod shutdown;
