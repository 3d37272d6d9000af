//! The log on a disk whose power is cut at any moment, beside a model of what it has promised.
//!
//! * [`disk`]: what a disk may do to what was not synced, and how it fails.
//! * [`model`]: what must hold after every start. Each rule is an error text there.
//! * [`history`]: what happens to a log, chosen by a seed; [`world`] lets it happen.
//! * [`crash_points`]: every point of short histories at which the power can be cut, and not only some by chance.
//!
//! `CALLBRIDGE_TORTURE_HISTORIES` says how many histories `cargo test` runs, `CALLBRIDGE_TORTURE_SEED` with which seed the first;
//! `make torture` runs a million.

#![expect(clippy::cast_possible_truncation, reason = "sizes of files in memory")]

mod crash_points;
mod disk;
mod history;
mod model;
mod random;
mod regressions;
mod tests;
mod world;
