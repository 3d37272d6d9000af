//! One check for each fuzz target: takes any bytes, and panics where a promise does not hold.
//!
//! `cargo test` runs them over the corpus and what it makes of it, `make fuzz` for as long as you like.

pub mod body;
pub mod envelope;
pub mod query;
pub mod signature;
