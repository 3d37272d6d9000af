//! How far the log may be published: captures before this point are durable, and the ledger counts them as stored.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread::Thread;

use super::log::Seq;

/// See the [module](self). The committer advances it; the publisher reads up to it.
#[derive(Debug)]
pub(super) struct Committed {
    state: Mutex<CommittedState>,
    /// The publisher's thread.
    publisher: OnceLock<Thread>,
}

#[derive(Debug)]
struct CommittedState {
    /// The first capture that must not be published yet.
    to: Seq,
    /// Captures on disk whose senders were answered 503. Each stays here until it is delivered.
    late: BTreeSet<Seq>,
    /// The publisher has read everything and must be woken.
    is_awaited: bool,
    is_closed: bool,
}

impl Committed {
    /// Everything before `to` was counted when the log was opened.
    pub(super) const fn new(to: Seq) -> Self {
        let state = CommittedState { to, late: BTreeSet::new(), is_awaited: false, is_closed: false };
        Self { state: Mutex::new(state), publisher: OnceLock::new() }
    }

    /// Releases the captures before `to` for publishing. Those in `late` are already counted as lost.
    pub(super) fn advance(&self, to: Seq, late: impl IntoIterator<Item = Seq>) {
        let wakes = {
            let mut state = self.lock();
            state.to = to;
            state.late.extend(late);
            std::mem::take(&mut state.is_awaited)
        };
        if wakes {
            self.wake();
        }
    }

    /// Captures before this may be published.
    pub(super) fn to(&self) -> Seq {
        self.lock().to
    }

    /// Wakes the publisher at the next [`Committed::advance`]. The caller must check again for captures that were added just before.
    pub(super) fn wake_at_next(&self) {
        self.lock().is_awaited = true;
    }

    /// Whether the sender of a capture was answered 503. Returns true only once.
    pub(super) fn take_late(&self, seq: Seq) -> bool {
        self.lock().late.remove(&seq)
    }

    /// Marks the log as complete: nothing more will be appended.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake();
    }

    /// Whether nothing more will be appended.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Sets the thread that reads.
    pub(super) fn set_publisher(&self, publisher: Thread) {
        // There is only one publisher; a second call has no effect.
        let _first = self.publisher.set(publisher);
    }

    fn wake(&self) {
        if let Some(publisher) = self.publisher.get() {
            publisher.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, CommittedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
