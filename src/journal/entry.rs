//! One capture in the journal, and the promise that somebody may wait for.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::Notify;

use crate::capture::Capture;
use crate::clock;

use super::log::Seq;
use super::log::cursor::Place;

/// A capture on its way to Kafka.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What is on its way. Behind a pointer, as an entry is moved half a dozen times.
    pub(crate) capture: Box<Capture>,
    /// When it was taken, for measuring.
    pub(crate) taken_at: Instant,
    /// What it costs. Here, because whoever settles it has no other reason to look at the capture.
    pub(crate) cost_bytes: usize,
    pub(super) standing: Standing,
    pub(super) promise: Option<Promise>,
    /// Where it can be read again, if it is on disk.
    pub(crate) position: Option<Position>,
}

/// What the ledger makes of an entry's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits to be delivered.
    Counted,
    /// It was refused, and that is counted already.
    Uncounted,
    /// Its sender was told that it is lost.
    Late,
}

/// Where a capture is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its number.
    pub(crate) seq: Seq,
    /// Its frame.
    pub(crate) place: Place,
}

impl Entry {
    pub(super) fn new(capture: Box<Capture>, standing: Standing, promise: Option<Promise>) -> Self {
        let cost_bytes = capture.cost_bytes();
        Self { capture, taken_at: clock::monotonic(), cost_bytes, standing, promise, position: None }
    }
}

const OPEN: u8 = 0;
const KEPT: u8 = 1;
const ABANDONED: u8 = 2;

/// The promise that a capture is safe. Kept by whoever makes it so or abandoned by the request, whichever comes first; never both.
#[derive(Debug, Clone, Default)]
pub(super) struct Promise {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    ended: Notify,
}

impl Promise {
    /// Waits until it is kept, or abandoned by whoever was to keep it. Returns whether it was kept. One waiter at a time.
    pub(super) async fn ended(&self) -> bool {
        self.shared.ended.notified().await;
        self.is_kept()
    }

    /// Keeps it. Returns false when it was abandoned before.
    pub(super) fn keep(&self) -> bool {
        self.end(KEPT)
    }

    /// Abandons it. Returns false when it was kept before.
    pub(super) fn abandon(&self) -> bool {
        self.end(ABANDONED)
    }

    /// Whether it was abandoned.
    pub(super) fn is_abandoned(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == ABANDONED
    }

    /// Whether it was kept.
    pub(super) fn is_kept(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == KEPT
    }

    fn end(&self, state: u8) -> bool {
        let is_first = self.shared.state.compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_first {
            // Remembered if nobody waits yet.
            self.shared.ended.notify_one();
        }
        is_first
    }
}
