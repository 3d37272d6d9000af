//! How the parts that run learn that they shall stop.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Tells threads that wait in steps to end. Clones are the same flag; once set it stays set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl Stop {
    /// Asks every thread that holds a clone to end, and wakes those that wait.
    pub(crate) fn set(&self) {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.1.notify_all();
    }

    /// Sleeps for `duration`, or until it is asked to end. Returns whether it is.
    pub(crate) fn wait(&self, duration: Duration) -> bool {
        let stopped = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _timed_out) = self
            .inner
            .1
            .wait_timeout_while(stopped, duration, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}
