//! The life of the process: one signal with the current phase and the deadline of the stop. Tasks await a phase, threads wait for one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::watch;

/// A phase of the process. Phases only advance in this order, and some may be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not ready yet.
    Starting,
    /// Ready: accepting callbacks.
    Serving,
    /// Stopping, and no longer ready. Connections are still accepted, since load balancers notice the stop with a delay; each response
    /// closes its connection.
    KeepAccepting,
    /// No new connections; the requests in progress are answered.
    Closing,
    /// No more requests; the publisher delivers the backlog.
    Draining,
    /// The publisher has ended; the journal records the deliveries.
    Recording,
    /// Every thread ends.
    Stopped,
}

impl Phase {
    /// All phases in order.
    pub(crate) const ALL: [Self; 7] = [
        Self::Starting,
        Self::Serving,
        Self::KeepAccepting,
        Self::Closing,
        Self::Draining,
        Self::Recording,
        Self::Stopped,
    ];

    /// Its name on `/metrics`.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::KeepAccepting => "keep_accepting",
            Self::Closing => "closing",
            Self::Draining => "draining",
            Self::Recording => "recording",
            Self::Stopped => "stopped",
        }
    }
}

/// What a starting process waits for, if no part says what.
const STARTING: &str = "starting";

/// The signal. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Lifecycle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: watch::Sender<LifecycleState>,
    /// Held while the state changes, so that a waiting thread cannot miss a change.
    changing: Mutex<()>,
    changed: Condvar,
    /// The index of the phase in [`Phase::ALL`]. It is read for each response, which must not write to shared memory.
    phase: AtomicU8,
}

#[derive(Debug)]
struct LifecycleState {
    phase: Phase,
    /// By the part that waits.
    waits_for: BTreeMap<&'static str, String>,
    deadline: Option<Instant>,
}

impl Lifecycle {
    /// A process that is starting.
    pub(crate) fn new() -> Self {
        let state = LifecycleState { phase: Phase::Starting, waits_for: BTreeMap::new(), deadline: None };
        let (changing, changed) = <(Mutex<()>, Condvar)>::default();
        let phase = AtomicU8::new(state.phase as u8);
        Self { inner: Arc::new(Inner { state: watch::Sender::new(state), changing, changed, phase }) }
    }

    /// The current phase.
    pub(crate) fn phase(&self) -> Phase {
        let phase = Phase::ALL.get(usize::from(self.inner.phase.load(Ordering::Acquire)));
        phase.copied().unwrap_or(Phase::Stopped)
    }

    /// The deadline of the stop; `None` before the stop.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.inner.state.borrow().deadline
    }

    /// What a starting process waits for, in words for the operator.
    pub(crate) fn waits_for(&self) -> String {
        let reasons = Vec::from_iter(self.inner.state.borrow().waits_for.values().cloned());
        if reasons.is_empty() { STARTING.to_owned() } else { reasons.join("; ") }
    }

    /// Sets what this part of a starting process waits for; `None`: for nothing any more.
    pub(crate) fn set_waits_for(&self, part: &'static str, what: Option<String>) {
        self.change(|state| match what {
            Some(what) => drop(state.waits_for.insert(part, what)),
            None => drop(state.waits_for.remove(part)),
        });
    }

    /// Enters `phase`. Returns whether it did: phases only advance.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        let mut moves = false;
        self.change(|state| {
            moves = phase > state.phase;
            state.phase = phase.max(state.phase);
        });
        moves
    }

    /// Begins the stop, with this deadline.
    pub(crate) fn begin_stop(&self, deadline: Instant) {
        self.change(|state| {
            state.phase = Phase::KeepAccepting.max(state.phase);
            state.deadline = Some(deadline);
        });
    }

    /// Waits until the process is in `phase` or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut state = self.inner.state.subscribe();
        // The channel is never closed: this handle is a sender too.
        let _is_closed = state.wait_for(|state| state.phase >= phase).await.is_err();
    }

    /// Blocks this thread until the process is in `phase` or a later one, at most for `limit`. Returns whether it is.
    pub(crate) fn wait(&self, phase: Phase, limit: Duration) -> bool {
        let guard = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.inner.changed.wait_timeout_while(guard, limit, |()| self.phase() < phase);
        let (_guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    fn change(&self, change: impl FnOnce(&mut LifecycleState)) {
        let _guard = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.state.send_modify(|state| {
            change(state);
            self.inner.phase.store(state.phase as u8, Ordering::Release);
        });
        self.inner.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn phases_only_move_on_and_the_deadline_comes_with_the_stop() {
        assert!(Phase::ALL.is_sorted());
        let lifecycle = Lifecycle::new();
        assert_eq!((lifecycle.phase(), lifecycle.deadline()), (Phase::Starting, None));
        let deadline = clock::monotonic();
        lifecycle.begin_stop(deadline);
        assert_eq!((lifecycle.phase(), lifecycle.deadline()), (Phase::KeepAccepting, Some(deadline)));
        assert!(!lifecycle.enter(Phase::Serving), "it stops");
        assert!(lifecycle.enter(Phase::Recording));
        assert!(!lifecycle.enter(Phase::Recording), "it is there already");
        lifecycle.begin_stop(deadline);
        assert_eq!(lifecycle.phase(), Phase::Recording);
    }

    #[test]
    fn threads_and_tasks_that_wait_for_a_phase_wake_for_it_and_for_those_behind_it() {
        let lifecycle = Lifecycle::new();
        assert!(lifecycle.wait(Phase::Starting, Duration::ZERO));
        assert!(!lifecycle.wait(Phase::Closing, Duration::from_millis(1)));
        let waiting = lifecycle.clone();
        let thread = thread::spawn(move || waiting.wait(Phase::Closing, LIMIT));
        let task = lifecycle.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let reached = runtime.spawn(async move { task.reached(Phase::Closing).await });
        runtime.block_on(async {
            tokio::task::yield_now().await;
            lifecycle.enter(Phase::Serving);
            tokio::task::yield_now().await;
            assert!(!reached.is_finished());
            lifecycle.enter(Phase::Draining);
            reached.await.unwrap();
        });
        assert!(thread.join().unwrap());
    }
}
