//! Where captures wait between intake and Kafka: the one face that both sides know.
//!
//! Intake appends ([`Journal::append`], which the answer waits for) or offers ([`Journal::offer`], which nothing waits for); the
//! publisher takes entries in order from the [`Backlog`] and settles each when every record it became is in Kafka. What an append
//! waits for beside room is the [`Ack`] mode's business, and invisible to both.
//!
//! In this version the journal is in memory: bounded in captures and in bytes, in order, gone with the process.

mod entry;
pub(crate) mod log;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::Thread;

use tokio::sync::Semaphore;
use tokio::sync::watch;

use crate::capture::Capture;
use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::refusal::Reason;

pub(crate) use self::entry::Entry;
use self::entry::Promise;

/// When a callback counts as acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// When Kafka has confirmed every record it became.
    Broker,
    /// When it is in the queue in memory.
    Memory,
}

/// The bounds of the journal in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How many captures may wait for Kafka.
    pub(crate) captures_max: usize,
    /// How many bytes they may take, [`Capture::cost_bytes`] each.
    pub(crate) bytes_max: usize,
    /// How many bytes may wait for room. What comes then is lost at once.
    pub(crate) waiting_bytes_max: usize,
}

/// Why the journal did not take a capture. It is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// No room, and no room to wait for it.
    Full,
    /// No more captures are taken.
    Closed,
}

/// The journal as intake sees it.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Arc<Queue>,
    ack: Ack,
    is_open: watch::Sender<bool>,
    /// `is_open`, for those who need not wait for it.
    lets_through: AtomicBool,
    waiting_bytes: Semaphore,
}

/// The journal as the publisher sees it.
#[derive(Debug)]
pub(crate) struct Backlog {
    queue: Arc<Queue>,
}

/// What both share.
#[derive(Debug)]
struct Queue {
    entries: Mutex<Entries>,
    captures: Semaphore,
    bytes: Semaphore,
    bytes_max: usize,
    ledger: Ledger,
    /// Whom to wake when there is something to take.
    taker: OnceLock<Thread>,
}

/// Under one lock, so that nothing comes in behind the end.
#[derive(Debug, Default)]
struct Entries {
    waiting: VecDeque<Entry>,
    is_closed: bool,
}

/// Makes a journal in memory. It is not open yet: what is appended waits until [`Journal::open`].
pub(crate) fn in_memory(ack: Ack, bounds: Bounds, ledger: Ledger) -> (Journal, Backlog) {
    let queue = Arc::new(Queue {
        entries: Mutex::default(),
        captures: semaphore(bounds.captures_max),
        bytes: semaphore(bounds.bytes_max),
        bytes_max: bounds.bytes_max,
        ledger,
        taker: OnceLock::new(),
    });
    let journal = Journal {
        queue: Arc::clone(&queue),
        ack,
        is_open: watch::Sender::new(false),
        lets_through: AtomicBool::new(false),
        waiting_bytes: semaphore(bounds.waiting_bytes_max),
    };
    (journal, Backlog { queue })
}

impl Journal {
    /// Takes a capture if that needs no waiting. It is then as safe as the [`Ack`] mode promises, or, where that takes Kafka's word, will
    /// be once [`Appended::acknowledged`] says so. If not, the capture comes back.
    pub(crate) fn append_now(
        &self,
        capture: Box<Capture>,
        receipt: &mut Option<Receipt<'_>>,
    ) -> Result<Option<Appended>, Box<Capture>> {
        let cost = self.queue.cost_of(&capture);
        if !self.lets_through.load(Ordering::Acquire) || !self.queue.reserve_now(cost) {
            return Err(capture);
        }
        self.push(capture, receipt)
    }

    /// Takes a capture as [`Journal::append_now`] does, and waits for room, in order of arrival. There is no timeout here: the caller
    /// holds the deadline for the whole request.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the capture is gone and its callback is counted as broken off, unless the caller ends it
    /// otherwise.
    ///
    /// # Errors
    ///
    /// The capture was not taken.
    pub(crate) async fn append(
        &self,
        capture: Box<Capture>,
        receipt: &mut Option<Receipt<'_>>,
    ) -> Result<Option<Appended>, AppendError> {
        self.wait_for_room(self.queue.cost_of(&capture)).await?;
        self.push(capture, receipt).map_err(|_capture| AppendError::Closed)
    }

    /// Lines up a capture that has room, with a promise where the mode makes one.
    fn push(&self, capture: Box<Capture>, receipt: &mut Option<Receipt<'_>>) -> Result<Option<Appended>, Box<Capture>> {
        let promise = match self.ack {
            Ack::Broker => Some(Promise::default()),
            Ack::Memory => None,
        };
        let appended = promise.clone().map(|promise| Appended { promise, ledger: self.queue.ledger.clone() });
        self.queue.push(Entry::new(capture, true, promise), receipt).map_err(|entry| entry.capture)?;
        Ok(appended)
    }

    /// Takes a capture that no answer waits for, if there is room now. If not, it is gone, and its callback is lost.
    pub(crate) fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        let mut receipt = Some(receipt);
        let has_room = self.queue.reserve_now(self.queue.cost_of(&capture));
        let is_taken = has_room && self.queue.push(Entry::new(capture, true, None), &mut receipt).is_ok();
        if let Some(receipt) = receipt.filter(|_| !is_taken) {
            receipt.end(Reason::QueueFull);
        }
    }

    /// Takes a capture whose callback has ended already: it was refused, and only its bytes are kept. Returns whether there was room.
    pub(crate) fn keep(&self, capture: Box<Capture>) -> bool {
        let has_room = self.queue.reserve_now(self.queue.cost_of(&capture));
        has_room && self.queue.push(Entry::new(capture, false, None), &mut None).is_ok()
    }

    /// Lets appends through: the topics are known. Until then they wait as for room.
    pub(crate) fn open(&self) {
        self.lets_through.store(true, Ordering::Release);
        self.is_open.send_replace(true);
    }

    /// Takes nothing more. Those who wait for room are sent away.
    pub(crate) fn close(&self) {
        self.queue.lock().is_closed = true;
        self.queue.captures.close();
        self.queue.bytes.close();
        self.is_open.send_replace(true);
        self.queue.wake();
    }

    /// Waits until it is open and has room, holding a place among those who may wait.
    async fn wait_for_room(&self, cost: u32) -> Result<(), AppendError> {
        let Ok(_place) = self.waiting_bytes.try_acquire_many(cost) else {
            return Err(AppendError::Full);
        };
        let mut is_open = self.is_open.subscribe();
        // It cannot fail: the sender is `self`.
        drop(is_open.wait_for(|is_open| *is_open).await);
        // Always captures before bytes, so that two who wait cannot hold what the other needs.
        let capture = self.queue.captures.acquire().await.map_err(|_closed| AppendError::Closed)?;
        let bytes = self.queue.bytes.acquire_many(cost).await.map_err(|_closed| AppendError::Closed)?;
        capture.forget();
        bytes.forget();
        Ok(())
    }
}

/// A capture that was taken, and is not acknowledged before Kafka says so. Dropped, it stays and will be delivered.
#[derive(Debug)]
pub(crate) struct Appended {
    promise: Promise,
    ledger: Ledger,
}

impl Appended {
    /// Waits for Kafka's word. Returns false when it will never take the capture.
    pub(crate) async fn acknowledged(&self) -> bool {
        self.promise.ended().await
    }

    /// Gives up waiting. Returns whether the capture was acknowledged in that very moment, and 200 is true after all; if not, its
    /// callback is lost and its sender must be told so.
    pub(crate) fn abandon(&self, reason: Reason) -> bool {
        if self.promise.abandon() {
            self.ledger.lose_queued(reason);
        }
        self.promise.is_kept()
    }
}

impl Backlog {
    /// Names the thread that takes, so that it is woken (`unpark`) when there is something to take.
    pub(crate) fn wakes(&self, taker: Thread) {
        // A second taker would be a bug, and would find nothing.
        let _first = self.queue.taker.set(taker);
    }

    /// Moves up to `max` entries to `into`, oldest first.
    pub(crate) fn take(&self, max: usize, into: &mut VecDeque<Entry>) {
        let mut entries = self.queue.lock();
        let count = entries.waiting.len().min(max);
        into.extend(entries.waiting.drain(..count));
    }

    /// Whether nothing waits to be taken and nothing more will come.
    pub(crate) fn is_at_end(&self) -> bool {
        let entries = self.queue.lock();
        entries.is_closed && entries.waiting.is_empty()
    }

    /// Settles an entry all of whose records are in Kafka, and keeps the promise made for it. Its room is free at the next
    /// [`Backlog::free`].
    pub(crate) fn settle(&self, entry: &Entry, settled: &mut Settled) {
        settled.add(self.queue.cost_of(&entry.capture));
        if entry.is_counted {
            match &entry.promise {
                Some(promise) if !promise.keep() => self.queue.ledger.late(),
                Some(_) | None => settled.delivered += 1,
            }
        }
    }

    /// Settles an entry that Kafka will never take. Its callback is lost, and its sender, if still there, is told so.
    pub(crate) fn give_up(&self, entry: &Entry, reason: Reason, settled: &mut Settled) {
        settled.add(self.queue.cost_of(&entry.capture));
        let is_ours_to_count = entry.promise.as_ref().is_none_or(Promise::abandon);
        if entry.is_counted && is_ours_to_count {
            self.queue.ledger.lose_queued(reason);
        }
    }

    /// Frees the room of what was settled, and counts what was delivered: once for many.
    pub(crate) fn free(&self, settled: &mut Settled) {
        let Settled { captures, bytes, delivered } = std::mem::take(settled);
        if captures > 0 {
            self.queue.captures.add_permits(captures);
            self.queue.bytes.add_permits(bytes);
            self.queue.ledger.deliver(delivered);
        }
    }
}

/// Entries that were settled, and whose room is not free yet.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    captures: usize,
    bytes: usize,
    delivered: u64,
}

impl Settled {
    fn add(&mut self, cost: u32) {
        self.captures += 1;
        self.bytes += cost as usize;
    }
}

impl Queue {
    /// Takes room without waiting, if there is some.
    fn reserve_now(&self, cost: u32) -> bool {
        let Ok(capture) = self.captures.try_acquire() else { return false };
        let Ok(bytes) = self.bytes.try_acquire_many(cost) else { return false };
        capture.forget();
        bytes.forget();
        true
    }

    /// Lines up an entry that has room. It comes back when the journal was closed meanwhile; the receipt is then left alone.
    fn push(&self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Entry> {
        {
            let mut entries = self.lock();
            if entries.is_closed {
                return Err(entry);
            }
            // Before the entry can be taken: it must not be delivered before it was accepted.
            if let Some(receipt) = receipt.take() {
                receipt.accept();
            }
            entries.waiting.push_back(entry);
            if entries.waiting.len() > 1 {
                // Whoever brought the first has woken the taker, who takes all.
                return Ok(());
            }
        }
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        if let Some(taker) = self.taker.get() {
            taker.unpark();
        }
    }

    /// What a capture takes of the room for bytes. The longest body takes all of it, however little that is.
    fn cost_of(&self, capture: &Capture) -> u32 {
        u32::try_from(capture.cost_bytes().min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A semaphore for as much as there may be; beyond what it can count there is no bound to reach.
fn semaphore(permits: usize) -> Semaphore {
    Semaphore::new(permits.min(Semaphore::MAX_PERMITS))
}

#[cfg(test)]
mod tests;
