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

/// Where the process is in its life. Phases only move down this list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not ready.
    Starting {
        /// What for, as an operator should read it.
        waits_for: String,
    },
    /// Taking callbacks.
    Serving,
    /// Not ready any more; answering what still comes, then delivering what is left.
    Stopping,
}

/// What it waits for when that is nothing in particular.
pub(crate) const STARTING: &str = "starting";

/// The phase, for all who ask. Clones are the same life.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    phase: Arc<Mutex<Phase>>,
}

impl Life {
    /// A life that begins.
    pub(crate) fn new() -> Self {
        let begins = Phase::Starting { waits_for: STARTING.to_owned() };
        Self { phase: Arc::new(Mutex::new(begins)) }
    }

    /// Where it is now.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Not ready, for this reason, unless it has been.
    pub(crate) fn wait_for(&self, what: &str) {
        self.enter(Phase::Starting { waits_for: what.to_owned() });
    }

    /// Moves on. A phase that lies behind is passed over: what stops does not start again. Returns whether it moved.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        let rank = |phase: &Phase| match phase {
            Phase::Starting { .. } => 0,
            Phase::Serving => 1,
            Phase::Stopping => 2,
        };
        let mut current = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let moves = rank(&phase) >= rank(&current);
        if moves {
            *current = phase;
        }
        moves
    }
}
