//! callbridge.

pub mod auth;
pub mod body;
pub mod capture;
pub mod clock;
pub mod command;
pub mod decide;
pub mod normalise;
pub mod parse;
pub mod record;
pub mod refusal;
pub mod request;
mod shutdown;

pub mod decide;

mod follow;

mod metrics;
