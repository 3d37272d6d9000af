//! callbridge.

pub mod clock;
mod shutdown;
