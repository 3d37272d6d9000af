//! The queue between intake and the publisher: entries in order, and the room they take, under one lock.
//!
//! Room is counted in captures and in bytes. It is taken when an entry is pushed and free again once the entry is settled, so what the
//! publisher has taken still counts. Who waits for room stands in line, and nobody who comes later is before them. Who would wait for
//! longer than the deadline allows, as far as the [`Pace`] tells, is sent away at once.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread::Thread;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::capture::Capture;
use crate::clock;
use crate::ledger::Ledger;
use crate::ledger::Receipt;

use super::AppendError;
use super::Bounds;
use super::entry::Entry;
use super::pace::Pace;
use super::turn;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    entries: Mutex<Entries>,
    bounds: Bounds,
    /// What a turn takes of it at most, in bytes of bodies and queries, where that is known.
    turn_bytes: Option<usize>,
    pub(super) ledger: Ledger,
    /// Whom to wake when there is something to take.
    taker: OnceLock<Thread>,
}

/// Under one lock, so that nothing comes in behind the end.
#[derive(Debug, Default)]
struct Entries {
    waiting: VecDeque<Entry>,
    /// Until then appends stand in line, whatever room there is.
    is_open: bool,
    is_closed: bool,
    /// The room that is taken.
    captures: usize,
    bytes: usize,
    /// Who waits for room, in order of arrival.
    line: VecDeque<Waiter>,
    /// What those in line wait with.
    line_bytes: usize,
    next_ticket: u64,
    pace: Pace,
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    cost: usize,
    has_room: oneshot::Sender<()>,
}

/// A place in line, and then the room that was given to it. Dropped before it is used, both go to others.
#[derive(Debug)]
pub(super) struct Place<'q> {
    queue: &'q Queue,
    ticket: u64,
    cost: usize,
    is_used: bool,
}

impl Queue {
    /// An empty queue. It is not open yet. Of `turn_bytes`, see [`Queue`].
    pub(super) fn new(bounds: Bounds, turn_bytes: Option<usize>, ledger: Ledger) -> Self {
        Self { entries: Mutex::default(), bounds, turn_bytes, ledger, taker: OnceLock::new() }
    }

    /// Lines up an entry if it is open and has room, nobody waits for that, and it does not come too late for `deadline`. If not, the
    /// entry comes back and the receipt is left alone.
    pub(super) fn append(
        &self,
        entry: Entry,
        receipt: &mut Option<Receipt<'_>>,
        deadline: Instant,
    ) -> Result<(), Entry> {
        let cost = self.cost_of(entry.cost_bytes);
        let mut entries = self.lock();
        // Where turns are not known, only who finds no room may be too late.
        let is_late = || self.turn_bytes.is_some() && entries.is_late(entry.taken_at, deadline, self.turn_bytes);
        if !entries.is_open || is_late() || !entries.reserve(cost, self.bounds, entry.taken_at) {
            return Err(entry);
        }
        self.push(entries, entry, receipt);
        Ok(())
    }

    /// Does as [`Queue::append`], and before it is open too.
    pub(super) fn offer(&self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Entry> {
        let cost = self.cost_of(entry.cost_bytes);
        let mut entries = self.lock();
        if !entries.reserve(cost, self.bounds, entry.taken_at) {
            return Err(entry);
        }
        self.push(entries, entry, receipt);
        Ok(())
    }

    /// Waits until it is open and has room, in order of arrival.
    pub(super) async fn wait(&self, capture: &Capture, deadline: Instant) -> Result<Place<'_>, AppendError> {
        let (place, has_room) = self.line_up(self.cost_of(capture.cost_bytes()), deadline)?;
        // Whoever is not told that there is room has been sent away.
        has_room.await.map_err(|_closed| AppendError::Closed)?;
        Ok(place)
    }

    /// Takes the last place in line, as long as those who wait are within their bound and there is hope.
    fn line_up(&self, cost: usize, deadline: Instant) -> Result<(Place<'_>, oneshot::Receiver<()>), AppendError> {
        let (has_room, receiver) = oneshot::channel();
        let now = clock::monotonic();
        let (ticket, given) = {
            let mut entries = self.lock();
            if entries.is_closed {
                return Err(AppendError::Closed);
            }
            if cost > self.bounds.waiting_bytes_max - entries.line_bytes {
                return Err(AppendError::Full);
            }
            let is_late = entries.is_open && entries.is_late(now, deadline, self.turn_bytes);
            if is_late && !entries.pace.is_probe(now) {
                return Err(hopeless(entries, now, self.turn_bytes));
            }
            entries.line_bytes += cost;
            let ticket = entries.next_ticket;
            entries.next_ticket += 1;
            entries.line.push_back(Waiter { ticket, cost, has_room });
            // There may have come room since it was asked for.
            (ticket, entries.give_room(self.bounds))
        };
        tell(given);
        Ok((Place { queue: self, ticket, cost, is_used: false }, receiver))
    }

    /// Moves up to `max` entries to `into`, oldest first. Their room stays taken.
    pub(super) fn take(&self, max: usize, into: &mut VecDeque<Entry>) {
        let mut entries = self.lock();
        let count = entries.waiting.len().min(max);
        if count == entries.waiting.len() && into.is_empty() {
            std::mem::swap(&mut entries.waiting, into);
        } else {
            into.extend(entries.waiting.drain(..count));
        }
    }

    /// Frees the room of so many settled captures.
    pub(super) fn free(&self, captures: usize, bytes: usize) {
        let now = clock::monotonic();
        let given = {
            let mut entries = self.lock();
            entries.captures -= captures;
            entries.bytes -= bytes;
            let is_left = entries.captures > 0;
            entries.pace.end_turn(now, is_left);
            entries.give_room(self.bounds)
        };
        tell(given);
    }

    /// Lets appends through.
    pub(super) fn open(&self) {
        let now = clock::monotonic();
        let given = {
            let mut entries = self.lock();
            entries.is_open = true;
            // Nobody was at work so far.
            entries.pace.restart(now);
            entries.give_room(self.bounds)
        };
        tell(given);
    }

    /// Takes nothing more. Those in line are sent away.
    pub(super) fn close(&self) {
        let line = {
            let mut entries = self.lock();
            entries.is_closed = true;
            entries.line_bytes = 0;
            std::mem::take(&mut entries.line)
        };
        // Without the lock: this wakes them.
        drop(line);
        self.wake();
    }

    /// Whether nothing waits to be taken and nothing more will come.
    pub(super) fn is_at_end(&self) -> bool {
        let entries = self.lock();
        entries.is_closed && entries.waiting.is_empty()
    }

    /// Names the thread that takes.
    pub(super) fn wakes(&self, taker: Thread) {
        // A second taker would be a bug, and would find nothing.
        let _first = self.taker.set(taker);
    }

    /// What a capture takes of the room for bytes. The longest body takes all of it, however little that is.
    pub(super) fn cost_of(&self, bytes: usize) -> usize {
        bytes.min(self.bounds.bytes_max)
    }

    /// Lines up an entry that has its room.
    fn push(&self, mut entries: MutexGuard<'_, Entries>, entry: Entry, receipt: &mut Option<Receipt<'_>>) {
        // Before the entry can be taken: it must not be delivered before it was accepted.
        if let Some(receipt) = receipt.take() {
            receipt.accept();
        }
        entries.waiting.push_back(entry);
        let is_first = entries.waiting.len() == 1;
        drop(entries);
        // Whoever brought the first wakes the taker, who takes all.
        if is_first && let Some(taker) = self.taker.get() {
            turn::wake_at_end(taker);
        }
    }

    fn wake(&self) {
        if let Some(taker) = self.taker.get() {
            taker.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Takes room, if there is some that nobody in line is to have. Before it is open they are to have none.
    fn reserve(&mut self, cost: usize, bounds: Bounds, now: Instant) -> bool {
        let is_free = !self.is_closed && (self.line.is_empty() || !self.is_open) && self.fits(cost, bounds);
        if is_free {
            self.captures += 1;
            self.bytes += cost;
            self.pace.begin(|| now);
        }
        is_free
    }

    /// Whether what comes now would wait beyond `deadline`.
    fn is_late(&self, now: Instant, deadline: Instant, turn_bytes: Option<usize>) -> bool {
        self.expected_wait(now, turn_bytes) > deadline.saturating_duration_since(now)
    }

    fn expected_wait(&self, now: Instant, turn_bytes: Option<usize>) -> Duration {
        // What captures cost beside this is not written.
        let overhead = (self.captures + self.line.len()) * Capture::OVERHEAD_BYTES;
        let ahead = (self.bytes + self.line_bytes).saturating_sub(overhead);
        self.pace.wait(now, turn_bytes.map_or(0, |turn_bytes| ahead / turn_bytes))
    }

    fn fits(&self, cost: usize, bounds: Bounds) -> bool {
        self.captures < bounds.captures_max && cost <= bounds.bytes_max - self.bytes
    }

    /// Gives what room there is to those in line. They are to be told once the lock is free.
    fn give_room(&mut self, bounds: Bounds) -> Vec<Waiter> {
        let mut given = Vec::new();
        while self.is_open
            && self.line.front().is_some_and(|first| self.fits(first.cost, bounds))
            && let Some(first) = self.line.pop_front()
        {
            self.line_bytes -= first.cost;
            self.captures += 1;
            self.bytes += first.cost;
            self.pace.begin(clock::monotonic);
            given.push(first);
        }
        given
    }
}

/// Says now and then that somebody is sent away. Not under the lock.
fn hopeless(mut entries: MutexGuard<'_, Entries>, now: Instant, turn_bytes: Option<usize>) -> AppendError {
    let wait = entries.expected_wait(now, turn_bytes);
    let complains = entries.pace.complains(now);
    drop(entries);
    if complains {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(wait_ms, "what comes now would not be acknowledged in time; it is refused at once");
    }
    AppendError::Hopeless
}

/// Tells those who were given room.
fn tell(given: Vec<Waiter>) {
    for waiter in given {
        // Gone meanwhile: then its `Place` gives the room back.
        let _told = waiter.has_room.send(());
    }
}

impl Place<'_> {
    /// Lines up the entry that this room was given for. It comes back when the queue was closed meanwhile; the receipt is then left alone.
    pub(super) fn push(mut self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Entry> {
        let entries = self.queue.lock();
        if entries.is_closed {
            drop(entries);
            return Err(entry);
        }
        self.is_used = true;
        self.queue.push(entries, entry, receipt);
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let given = {
            let mut entries = self.queue.lock();
            match entries.line.binary_search_by_key(&self.ticket, |waiter| waiter.ticket) {
                Ok(place) => {
                    drop(entries.line.remove(place));
                    entries.line_bytes -= self.cost;
                }
                // Behind the end nobody needs room, and those in line never had any.
                Err(_) if entries.is_closed => {}
                Err(_) => {
                    entries.captures -= 1;
                    entries.bytes -= self.cost;
                    if entries.captures == 0 {
                        entries.pace.stop();
                    }
                }
            }
            // Also when it stood first: what was too little for it may be enough for the next.
            entries.give_room(self.queue.bounds)
        };
        tell(given);
    }
}
