//! callbridge.

pub mod clock;
mod shutdown;

pub mod decide;
