//! The life of the process: one signal that says in which phase it is and when its stop must be over. All parts watch it: tasks await a
//! phase, threads wait for one.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::watch;

/// A phase of the process, in order: it only moves down this list, and may leave some out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not ready yet.
    Starting,
    /// Ready: taking callbacks.
    Serving,
    /// Asked to stop, and not ready any more. Connections are still accepted, since senders learn of the stop only by and by; each
    /// response ends its connection.
    KeepAccepting,
    /// No new connections: the requests that are there are answered.
    Closing,
    /// No more requests: the publisher delivers what waits.
    Draining,
    /// The publisher has ended: the journal records what was delivered.
    Recording,
    /// Nothing is waited for any more: every thread ends.
    Stopped,
}

impl Phase {
    /// All of them, in order.
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

/// What the process waits for while it starts, when that is nothing in particular.
pub(crate) const STARTING: &str = "starting";

/// The signal. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Lifecycle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: watch::Sender<LifecycleState>,
    /// Held while the state changes, so that no thread misses a change between its look and its wait.
    changing: Mutex<()>,
    changed: Condvar,
    /// The phase, by its place in [`Phase::ALL`]: what is read for each response must not write to memory that all workers share.
    phase: AtomicU8,
}

#[derive(Debug)]
struct LifecycleState {
    phase: Phase,
    waits_for: String,
    deadline: Option<Instant>,
}

impl Lifecycle {
    /// A process that starts.
    pub(crate) fn new() -> Self {
        let state = LifecycleState { phase: Phase::Starting, waits_for: STARTING.to_owned(), deadline: None };
        let (changing, changed) = <(Mutex<()>, Condvar)>::default();
        let phase = AtomicU8::new(state.phase as u8);
        Self { inner: Arc::new(Inner { state: watch::Sender::new(state), changing, changed, phase }) }
    }

    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        let phase = Phase::ALL.get(usize::from(self.inner.phase.load(Ordering::Acquire)));
        phase.copied().unwrap_or(Phase::Stopped)
    }

    /// When the stop must be over; `None` before it begins.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.inner.state.borrow().deadline
    }

    /// What a process that starts waits for, as an operator should read it.
    pub(crate) fn waits_for(&self) -> String {
        self.inner.state.borrow().waits_for.clone()
    }

    /// Says what a process that starts waits for.
    pub(crate) fn set_waits_for(&self, what: &str) {
        self.change(|state| what.clone_into(&mut state.waits_for));
    }

    /// Moves on to `phase`. Returns whether it did: a process that stops does not serve again.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        let mut moves = false;
        self.change(|state| {
            moves = phase > state.phase;
            state.phase = phase.max(state.phase);
        });
        moves
    }

    /// Begins the stop, which must be over at `deadline`.
    pub(crate) fn begin_stop(&self, deadline: Instant) {
        self.change(|state| {
            state.phase = Phase::KeepAccepting.max(state.phase);
            state.deadline = Some(deadline);
        });
    }

    /// Returns once the process is in `phase`, or behind it.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut state = self.inner.state.subscribe();
        // It is never closed: this handle is a sender too.
        let _is_closed = state.wait_for(|state| state.phase >= phase).await.is_err();
    }

    /// Blocks this thread until the process is in `phase` or behind it, but no longer than `limit`. Returns whether it is.
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
