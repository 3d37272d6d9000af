//! The journal: holds captures between intake and Kafka. Both sides use only what this module exports.
//!
//! Intake appends captures with [`Journal::append`], which waits for the acknowledgement, or offers them with [`Journal::offer`], which
//! does not wait. The publisher reads entries in order from the [`Backlog`], and settles each when Kafka has all its records. An append
//! waits for an ack, a one-shot channel that is stored with the entry. Depending on the [`Ack`] mode, the queue, the committer or the
//! publisher completes it.
//!
//! In memory ([`in_memory`]) the journal is one queue that both sides share; it is lost with the process. On disk ([`durable::open`]) the
//! same queue leads to the *committer*, a thread that makes captures durable in the [`log`] and acknowledges them; the publisher reads the
//! log up to what is [`committed`].

mod backlog;
pub(crate) mod codec;
pub(crate) mod commit;
mod committed;
pub(crate) mod durable;
mod entry;
pub(crate) mod inspect;
pub(crate) mod log;
mod queue;
mod room;
mod shares;
mod stored;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time;

use crate::capture::Capture;
use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::refusal::Refusal;

pub(crate) use self::backlog::Backlog;
pub(crate) use self::backlog::Outcomes;
use self::entry::AckSender;
use self::entry::Entry;
use self::entry::LedgerState;
pub(crate) use self::entry::Position;
pub(crate) use self::entry::Ticket;
pub(crate) use self::entry::Undelivered;
pub(crate) use self::log::Seq;
use self::queue::LinePlace;
use self::queue::Queue;
use self::queue::QueueError;
use self::room::Full;
pub(crate) use self::shares::Shares;
pub(crate) use self::stored::TAKE_BYTES;

/// When a callback is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ack {
    /// When it is on disk.
    #[default]
    Journal,
    /// When Kafka has confirmed every record it became.
    Broker,
    /// When it is in the queue in memory.
    Memory,
}

/// The bounds of what is held in memory.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Bounds {
    /// The most captures that may wait for Kafka or for the disk.
    pub(crate) captures_max: usize,
    /// The most bytes that they may take, [`Capture::cost_bytes`] each.
    pub(crate) bytes_max: usize,
    /// The most bytes that may wait for room. Further callbacks are lost at once.
    pub(crate) waiting_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { captures_max: 100_000, bytes_max: 64 * 1024 * 1024, waiting_bytes_max: 16 * 1024 * 1024 }
    }
}

/// The journal as seen by intake.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Arc<Queue>,
    /// The disk is full.
    is_full: Arc<AtomicBool>,
    shares: Arc<Shares>,
}

/// Makes a journal in memory. Appends wait until [`Journal::open`].
pub(crate) fn in_memory(ack: Ack, bounds: Bounds, ledger: Ledger, shares: Shares) -> (Journal, Backlog) {
    let queue = Arc::new(Queue::new(ack, &bounds, None, shares.topics(), ledger.clone()));
    let journal = Journal { queue: Arc::clone(&queue), is_full: Arc::default(), shares: Arc::new(shares) };
    (journal, Backlog::in_memory(queue, ledger))
}

impl Journal {
    /// Appends a capture, waits until it is acknowledged as the [`Ack`] mode says, and records the outcome of its callback in the ledger.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped while the capture waits for room, the capture is dropped and its callback is lost for want of room. If it is
    /// dropped later, the capture will be delivered.
    ///
    /// # Errors
    ///
    /// The capture is not acknowledged by the deadline, or never will be.
    pub(crate) async fn append(
        &self,
        capture: Box<Capture>,
        receipt: Receipt<'_>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let mut pending = self.begin_append(capture, receipt)?;
        match time::timeout_at(deadline.into(), pending.outcome()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => pending.give_up(),
        }
    }

    /// Queues a capture, or lets it wait for room.
    fn begin_append(&self, capture: Box<Capture>, receipt: Receipt<'_>) -> Result<PendingAck<'_>, Refusal> {
        let (sender, outcome) = oneshot::channel();
        let has_timed_out = Arc::new(AtomicBool::new(false));
        let ack = AckSender { sender, has_timed_out: Arc::clone(&has_timed_out) };
        match self.queue.append(self.entry(capture, LedgerState::Counted, Some(ack))) {
            Ok(line_place) => {
                receipt.hand_over();
                Ok(PendingAck { journal: self, outcome, has_timed_out, line_place })
            }
            Err(error) => {
                let refusal = match error {
                    QueueError::Closed => Refusal::Stopping,
                    QueueError::Full(full) => self.refuse_for(full),
                };
                receipt.end(refusal.reason());
                Err(refusal)
            }
        }
    }

    fn entry(&self, capture: Box<Capture>, ledger_state: LedgerState, ack: Option<AckSender>) -> Entry {
        let (kind_key, share_topic) = self.shares.of(&capture);
        let cost_bytes = capture.cost_bytes();
        Entry { capture, cost_bytes, kind_key, share_topic, ledger_state, ack, stored_bytes: 0 }
    }

    /// The refusal of a capture that found no room.
    fn refuse_for(&self, full: Full) -> Refusal {
        match full {
            Full::Topic(topic) => {
                self.shares.count_full(topic);
                Refusal::TopicFull
            }
            Full::Log => Refusal::JournalFull,
            Full::Queue if self.is_full() => Refusal::JournalFull,
            Full::Queue => Refusal::QueueFull,
        }
    }

    /// Whether the share of the application's dead-letter topic has no room for a capture, should it have to go there.
    pub(crate) fn lacks_dead_letter_share(&self, capture: &Capture) -> bool {
        self.queue.lacks_share(self.shares.dead_letters(capture.app), capture.cost_bytes())
    }

    /// Counts a callback that is lost for that reason.
    pub(crate) fn count_full_dead_letters(&self, capture: &Capture) {
        self.shares.count_full(self.shares.dead_letters(capture.app));
    }

    /// Appends a capture that nothing waits for, if there is room now. Otherwise its callback is lost.
    pub(crate) fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        match self.queue.offer(self.entry(capture, LedgerState::Counted, None)) {
            Ok(()) => receipt.hand_over(),
            Err(full) => receipt.end(self.refuse_for(full).reason()),
        }
    }

    /// Keeps the body of a refused callback, if there is room now. Returns whether there was.
    pub(crate) fn keep(&self, capture: Box<Capture>) -> bool {
        self.queue.offer(self.entry(capture, LedgerState::Uncounted, None)).is_ok()
    }

    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Opens the queue. Until then appends wait.
    pub(crate) fn open(&self) {
        self.queue.open();
    }

    /// Closes the queue. Appends that wait for room are refused.
    pub(crate) fn close(&self) {
        self.queue.close();
    }
}

/// A request's wait for its ack.
#[derive(Debug)]
struct PendingAck<'j> {
    journal: &'j Journal,
    outcome: oneshot::Receiver<Result<(), Refusal>>,
    has_timed_out: Arc<AtomicBool>,
    /// Its place in the waiting line, if it waits for room.
    line_place: Option<LinePlace>,
}

impl PendingAck<'_> {
    async fn outcome(&mut self) -> Result<(), Refusal> {
        let outcome = (&mut self.outcome).await;
        self.line_place = None;
        // The sender is dropped without an outcome only when the process ends.
        outcome.unwrap_or(Err(Refusal::Stopping))
    }

    /// Stops waiting. An outcome that arrived in the same moment counts. Otherwise the callback is lost; if its capture is delivered after
    /// all, it is counted as late.
    fn give_up(&mut self) -> Result<(), Refusal> {
        // Before the channel is closed: whoever finds it closed reads this flag to learn why.
        self.has_timed_out.store(true, Ordering::Release);
        self.outcome.close();
        let place = self.line_place.take();
        if let Ok(outcome) = self.outcome.try_recv() {
            return outcome;
        }
        let ledger = &self.journal.queue.ledger;
        let too_late = if self.journal.is_full() { Refusal::JournalFull } else { Refusal::Deadline };
        let Some(full) = place.and_then(|place| self.journal.queue.leave_line(place)) else {
            ledger.lose_queued(too_late.reason());
            return Err(too_late);
        };
        let refusal = match full {
            Full::Topic(_) | Full::Log => self.journal.refuse_for(full),
            Full::Queue => too_late,
        };
        ledger.end_waiting(refusal.reason());
        Err(refusal)
    }
}

impl Drop for PendingAck<'_> {
    fn drop(&mut self) {
        // The callback is valid: it is lost for want of room.
        if let Some(full) = self.line_place.take().and_then(|place| self.journal.queue.leave_line(place)) {
            self.journal.queue.ledger.end_waiting(self.journal.refuse_for(full).reason());
        }
    }
}

#[cfg(test)]
mod tests;
