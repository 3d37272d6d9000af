//! How far the log may be published: its captures are durable, and the ledger has them on disk.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread::Thread;

use super::log::Seq;

/// See the module. The committer advances it; the publisher reads up to it.
#[derive(Debug)]
pub(super) struct Committed {
    state: Mutex<CommittedState>,
    /// The publisher's thread.
    reader: OnceLock<Thread>,
}

#[derive(Debug)]
struct CommittedState {
    /// Captures from here on must not be published yet.
    to: Seq,
    /// Captures whose senders were answered 503 although they are on disk. Each stays until it is delivered.
    late: BTreeSet<Seq>,
    /// The reader has read everything, and is to be woken.
    is_awaited: bool,
    is_closed: bool,
}

impl Committed {
    /// Everything before `to` was counted when the log was opened.
    pub(super) const fn new(to: Seq) -> Self {
        let state = CommittedState { to, late: BTreeSet::new(), is_awaited: false, is_closed: false };
        Self { state: Mutex::new(state), reader: OnceLock::new() }
    }

    /// Captures before `to` are durable and counted. Those in `late` are counted as lost already.
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

    /// Asks for the reader to be woken at the next [`Committed::advance`]. What came just before is for the caller to look for.
    pub(super) fn wake_at_next(&self) {
        self.lock().is_awaited = true;
    }

    /// Whether the sender of a capture was answered 503. Says so once.
    pub(super) fn take_late(&self, seq: Seq) -> bool {
        self.lock().late.remove(&seq)
    }

    /// Nothing is added any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake();
    }

    /// Whether nothing is added any more.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Names the thread that reads.
    pub(super) fn wakes(&self, reader: Thread) {
        // A second reader would be a bug, and would find nothing.
        let _first = self.reader.set(reader);
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, CommittedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
