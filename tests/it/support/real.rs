//! Skips a test if a real program or service that it needs is missing.

use std::env;
use std::io;
use std::io::Write;
use std::thread;

/// Returns what was found. If it is missing, prints which test is skipped and why.
///
/// # Panics
/// If it is missing and `CALLBRIDGE_REQUIRE_REAL` is `1`.
pub(crate) fn found_or_skipped<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(real) => Some(real),
        Err(missing) if env::var("CALLBRIDGE_REQUIRE_REAL").is_ok_and(|value| value == "1") => {
            panic!("CALLBRIDGE_REQUIRE_REAL=1, but {missing}")
        }
        Err(missing) => {
            say_skipped(&missing);
            None
        }
    }
}

/// Says loudly which test is skipped, and what is missing for it. By itself for what `CALLBRIDGE_REQUIRE_REAL` does not require.
pub(crate) fn say_skipped(missing: &str) {
    let thread = thread::current();
    // Straight to the descriptor: what a passing test prints by macro is never shown.
    let line = format!("SKIPPED: {}: {missing}\n", thread.name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes()).unwrap();
}
