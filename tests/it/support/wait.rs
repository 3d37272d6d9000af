//! Waits for a condition by polling.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use callbridge::clock;

use crate::support::process;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// How often as long as a look the pause after it is, and the longest pause.
const PAUSE: u32 = 5;
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not hold within a minute and a half.
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(LIMIT, what, condition);
}

/// The same with another limit.
///
/// # Panics
/// If it does not hold within `limit`.
pub(crate) fn until_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    poll(limit, what, || if condition() { Ok(()) } else { Err("not so") });
}

/// Waits for the first value that `look` finds.
///
/// # Panics
/// If there is none within a minute and a half; the message has the last result of `look`.
pub(crate) fn until_ok<T, E: Debug>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    poll(LIMIT, what, look)
}

/// Pauses between two looks, of which the first began then: the longer a look takes, the longer, so that it takes little of the machine
/// from what it waits for. A debug build takes some milliseconds for a scrape.
pub(crate) fn pause(began: Instant) {
    thread::sleep((PAUSE * began.elapsed()).clamp(process::POLL, PAUSE_MAX));
}

fn poll<T, E: Debug>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = clock::monotonic() + limit;
    loop {
        let began = clock::monotonic();
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(clock::monotonic() < deadline, "not within {limit:?}: {what}: {instead:#?}"),
        }
        pause(began);
    }
}
