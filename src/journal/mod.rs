//! Where captures wait between intake and Kafka: the one face that both sides know.
//!
//! Intake appends ([`Journal::append`], which the answer waits for) or offers ([`Journal::offer`], which nothing waits for); the
//! publisher takes entries in order from the [`Backlog`] and settles each when every record it became is in Kafka. What an append
//! waits for beside room is the [`Ack`] mode's business, and invisible to both.
//!
//! In this version the journal is in memory: bounded in captures and in bytes, in order, gone with the process.

mod entry;
mod queue;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

use crate::capture::Capture;
use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::refusal::Reason;

pub(crate) use self::entry::Entry;
use self::entry::Promise;
use self::queue::Queue;

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
}

/// The journal as the publisher sees it.
#[derive(Debug)]
pub(crate) struct Backlog {
    queue: Arc<Queue>,
}

/// Makes a journal in memory. It is not open yet: what is appended waits until [`Journal::open`].
pub(crate) fn in_memory(ack: Ack, bounds: Bounds, ledger: Ledger) -> (Journal, Backlog) {
    let queue = Arc::new(Queue::new(bounds, ledger));
    let journal = Journal { queue: Arc::clone(&queue), ack };
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
        let (entry, appended) = self.entry(capture);
        self.queue.append(entry, receipt).map_err(|entry| entry.capture)?;
        Ok(appended)
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
        let place = self.queue.wait(&capture).await?;
        let (entry, appended) = self.entry(capture);
        place.push(entry, receipt).map_err(|_closed| AppendError::Closed)?;
        Ok(appended)
    }

    /// The entry of a capture, and where the mode makes a promise, what waits for it.
    fn entry(&self, capture: Box<Capture>) -> (Entry, Option<Appended>) {
        let promise = match self.ack {
            Ack::Broker => Some(Promise::default()),
            Ack::Memory => None,
        };
        let appended = promise.clone().map(|promise| Appended { promise, ledger: self.queue.ledger.clone() });
        (Entry::new(capture, true, promise), appended)
    }

    /// Takes a capture that no answer waits for, if there is room now. If not, it is gone, and its callback is lost.
    pub(crate) fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        let mut receipt = Some(receipt);
        let refused = self.queue.offer(Entry::new(capture, true, None), &mut receipt).is_err();
        if let Some(receipt) = receipt.filter(|_| refused) {
            receipt.end(Reason::QueueFull);
        }
    }

    /// Takes a capture whose callback has ended already: it was refused, and only its bytes are kept. Returns whether there was room.
    pub(crate) fn keep(&self, capture: Box<Capture>) -> bool {
        self.queue.offer(Entry::new(capture, false, None), &mut None).is_ok()
    }

    /// Lets appends through: the topics are known. Until then they wait as for room.
    pub(crate) fn open(&self) {
        self.queue.open();
    }

    /// Takes nothing more. Those who wait for room are sent away.
    pub(crate) fn close(&self) {
        self.queue.close();
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
        self.queue.wakes(taker);
    }

    /// Moves up to `max` entries to `into`, oldest first.
    pub(crate) fn take(&self, max: usize, into: &mut VecDeque<Entry>) {
        self.queue.take(max, into);
    }

    /// Whether nothing waits to be taken and nothing more will come.
    pub(crate) fn is_at_end(&self) -> bool {
        self.queue.is_at_end()
    }

    /// Settles an entry all of whose records are in Kafka, and keeps the promise made for it. Its room is free at the next
    /// [`Backlog::free`].
    pub(crate) fn settle(&self, entry: &Entry, settled: &mut Settled) {
        settled.add(self.queue.cost_of(entry.cost_bytes));
        if entry.is_counted {
            match &entry.promise {
                Some(promise) if !promise.keep() => self.queue.ledger.late(),
                Some(_) | None => settled.delivered += 1,
            }
        }
    }

    /// Settles an entry that Kafka will never take. Its callback is lost, and its sender, if still there, is told so.
    pub(crate) fn give_up(&self, entry: &Entry, reason: Reason, settled: &mut Settled) {
        settled.add(self.queue.cost_of(entry.cost_bytes));
        let is_ours_to_count = entry.promise.as_ref().is_none_or(Promise::abandon);
        if entry.is_counted && is_ours_to_count {
            self.queue.ledger.lose_queued(reason);
        }
    }

    /// Frees the room of what was settled, and counts what was delivered: once for many.
    pub(crate) fn free(&self, settled: &mut Settled) {
        let Settled { captures, bytes, delivered } = std::mem::take(settled);
        if captures > 0 {
            self.queue.free(captures, bytes);
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
    fn add(&mut self, cost: usize) {
        self.captures += 1;
        self.bytes += cost;
    }
}

#[cfg(test)]
mod tests;
