//! The newest captures of the log, still in memory: from who makes them durable to who publishes them.
//!
//! When the publisher falls behind, the tail lets go of it: what comes then is only on disk, and is read from there.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread::Thread;

use super::entry::Entry;
use super::log::Seq;
use super::log::cursor::Place;

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    state: Mutex<State>,
    bytes_max: usize,
    /// Whom to wake when there is something to take.
    taker: OnceLock<Thread>,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// From where on to read from disk.
    detached: Option<Place>,
    /// What comes before this was read from disk.
    next_seq: Seq,
    /// What comes from here on is not counted as stored yet, and must not be delivered.
    told_to: Seq,
    /// On disk, and lost by the word that their senders got.
    late: BTreeSet<Seq>,
    is_closed: bool,
}

impl Tail {
    /// A tail whose publisher has everything on disk, which is before `durable_to`, still before it.
    pub(super) fn new(bytes_max: usize, durable_to: Seq) -> Self {
        let state = State {
            entries: VecDeque::new(),
            bytes: 0,
            detached: Some(Place::default()),
            next_seq: 0,
            told_to: durable_to,
            late: BTreeSet::new(),
            is_closed: false,
        };
        Self { state: Mutex::new(state), bytes_max, taker: OnceLock::new() }
    }

    /// Adds captures that have just become durable, all of one frame.
    pub(super) fn push(&self, place: Place, fresh: &mut Vec<Entry>, late: impl Iterator<Item = Seq>) {
        let wakes = {
            let mut state = self.lock();
            state.late.extend(late);
            let last = fresh.last().and_then(|entry| entry.position);
            state.told_to = last.map_or(state.told_to, |position| position.seq + 1);
            let bytes: usize = fresh.iter().map(|entry| entry.cost_bytes).sum();
            let was_empty = state.entries.is_empty();
            if state.detached.is_none() && state.bytes + bytes > self.bytes_max && !was_empty {
                state.detached = Some(place);
            }
            if state.detached.is_none() {
                let next_seq = state.next_seq;
                let unread = |entry: &Entry| entry.position.is_some_and(|position| position.seq >= next_seq);
                state.entries.extend(fresh.drain(..).filter(unread));
                state.bytes += bytes;
            }
            was_empty
        };
        // Also when it has let go: there is something to read.
        if wakes {
            self.wake();
        }
    }

    /// Moves up to `max` entries to `into`, oldest first. If there are none: from where to read on from disk, if so.
    pub(super) fn take(&self, max: usize, into: &mut VecDeque<Entry>) -> Option<Place> {
        let mut state = self.lock();
        let count = state.entries.len().min(max);
        let before = into.len();
        into.extend(state.entries.drain(..count));
        let taken: usize = into.range(before..).map(|entry| entry.cost_bytes).sum();
        // What was read from disk meanwhile was counted and not added.
        state.bytes = if state.entries.is_empty() { 0 } else { state.bytes.saturating_sub(taken) };
        if count == 0 { state.detached } else { None }
    }

    /// Takes the publisher on again, if `has_all` says that it has read everything on disk, up to before `next_seq`. Nothing is added
    /// meanwhile.
    pub(super) fn attach(&self, next_seq: Seq, has_all: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        let attaches = has_all();
        if attaches {
            state.detached = None;
            state.next_seq = next_seq;
        }
        attaches
    }

    /// What comes before this may be delivered.
    pub(super) fn told_to(&self) -> Seq {
        self.lock().told_to
    }

    /// Whether the sender of this one was told that it is lost.
    pub(super) fn is_late(&self, seq: Seq) -> bool {
        self.lock().late.contains(&seq)
    }

    /// These have ended.
    pub(super) fn forget_late(&self, seqs: &[Seq]) {
        if !seqs.is_empty() {
            let mut state = self.lock();
            for seq in seqs {
                state.late.remove(seq);
            }
        }
    }

    /// Nothing is added any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake();
    }

    /// Whether everything was taken from here and nothing more will come.
    pub(super) fn is_at_end(&self) -> bool {
        let state = self.lock();
        state.is_closed && state.detached.is_none() && state.entries.is_empty()
    }

    /// Names the thread that takes.
    pub(super) fn wakes(&self, taker: Thread) {
        // A second taker would be a bug, and would find nothing.
        let _first = self.taker.set(taker);
    }

    fn wake(&self) {
        if let Some(taker) = self.taker.get() {
            taker.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
