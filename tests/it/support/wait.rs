//! Waits for a condition that nobody reports.

use std::thread;
use std::time::Duration;

use callbridge::clock;

use crate::support::process;

/// Longer than anything takes on a busy machine, unless it never comes.
const LIMIT: Duration = Duration::from_secs(90);

/// Returns once `condition` holds.
///
/// # Panics
/// When it does not within a minute and a half.
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(LIMIT, what, condition);
}

/// The same for what takes longer.
///
/// # Panics
/// When it does not within `limit`.
pub(crate) fn until_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = clock::monotonic() + limit;
    while !condition() {
        assert!(clock::monotonic() < deadline, "not within {limit:?}: {what}");
        thread::sleep(process::POLL);
    }
}
