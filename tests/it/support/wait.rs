//! Waits for a condition by polling.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use callbridge::clock;

use crate::support::process;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

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

fn poll<T, E: Debug>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = clock::monotonic() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(clock::monotonic() < deadline, "not within {limit:?}: {what}: {instead:#?}"),
        }
        thread::sleep(process::POLL);
    }
}
