//! callbridge.

pub mod clock;
mod shutdown;

pub mod decide;

mod follow;

mod metrics;
