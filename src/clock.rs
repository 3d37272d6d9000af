//! The only module that reads the clock.
//!
//! All decisions take the time as an argument, so that tests can choose it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// A moment in wall time: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Later than any other: the end of what never expires.
    pub const NEVER: Self = Self(i64::MAX);

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The current wall time. It may jump: use it only for timestamps, expiry, and where a jump does no harm.
#[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
pub fn wall() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// The current monotonic time, for durations and deadlines.
#[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// When something last showed that it is running, by the monotonic clock.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// Milliseconds since `began`; [`NEVER`] before the first beat.
    last: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Default for Heartbeat {
    fn default() -> Self {
        Self { began: monotonic(), last: AtomicU64::new(NEVER) }
    }
}

impl Heartbeat {
    /// Records that it is running.
    pub fn beat(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    /// The time since the last beat, in whole milliseconds. Zero before the first: what has not begun is not stuck.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.elapsed().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How long one thread has been waiting for something, by the monotonic clock.
#[derive(Debug)]
pub struct Wait {
    made: Instant,
    /// Milliseconds since `made`; [`NEVER`] while there is no wait.
    since: AtomicU64,
}

impl Default for Wait {
    fn default() -> Self {
        Self { made: monotonic(), since: AtomicU64::new(NEVER) }
    }
}

impl Wait {
    /// Runs `wait`, and measures it.
    pub fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.since.store(self.elapsed(), Ordering::Relaxed);
        let done = wait();
        self.since.store(NEVER, Ordering::Relaxed);
        done
    }

    /// Begins or continues a wait, or ends it.
    pub fn set(&self, waits: bool) {
        let since = if waits { self.since.load(Ordering::Relaxed).min(self.elapsed()) } else { NEVER };
        self.since.store(since, Ordering::Relaxed);
    }

    /// The duration of the current wait, in whole milliseconds; zero if there is none.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.elapsed().saturating_sub(self.since.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
