//! The only place that reads the clock.
//!
//! Everything that judges takes the time as an argument, so that a test can say what time it is.

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
    /// Later than any other: the end of what never ends.
    pub const NEVER: Self = Self(i64::MAX);

    /// How long `earlier` was before; nothing if it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The wall time now. It may jump; nothing but timestamps, expiry and what a jump does no harm to may depend on it.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the clock")]
pub fn wall() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic time now, for measuring and for deadlines.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// When something last showed that it runs, for those who watch it. It follows the monotonic clock.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// Milliseconds after `began`; [`NEVER`] before it began to run.
    last: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Default for Heartbeat {
    fn default() -> Self {
        Self { began: monotonic(), last: AtomicU64::new(NEVER) }
    }
}

impl Heartbeat {
    /// It runs.
    pub fn beat(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    /// How long ago it last said so, to the millisecond. Before it ever did: nothing, since what has not begun is not stuck.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.elapsed().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How long one thread has been waiting for something, for those who watch it. It follows the monotonic clock.
#[derive(Debug)]
pub struct Wait {
    made: Instant,
    /// Milliseconds after `made`; [`NEVER`] while it does not wait.
    since: AtomicU64,
}

impl Default for Wait {
    fn default() -> Self {
        Self { made: monotonic(), since: AtomicU64::new(NEVER) }
    }
}

impl Wait {
    /// Runs what may have to wait.
    pub fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.since.store(self.elapsed(), Ordering::Relaxed);
        let done = wait();
        self.since.store(NEVER, Ordering::Relaxed);
        done
    }

    /// Whether it waits from now on, or still.
    pub fn set(&self, waits: bool) {
        let since = if waits { self.since.load(Ordering::Relaxed).min(self.elapsed()) } else { NEVER };
        self.since.store(since, Ordering::Relaxed);
    }

    /// How long the wait has lasted, to the millisecond; nothing where there is none.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.elapsed().saturating_sub(self.since.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
