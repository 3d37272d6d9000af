//! Where captures wait between intake and Kafka: the one face that both sides know.
//!
//! Intake appends ([`Journal::append`], which the answer waits for) or offers ([`Journal::offer`], which nothing waits for); the
//! publisher takes entries in order from the [`Backlog`] and settles each when every record it became is in Kafka. An append waits for its
//! ack, a one-shot channel that goes with the entry. The [`Ack`] mode says who completes it: the queue, the committer or the publisher.
//!
//! In memory ([`in_memory`]) the journal is one queue, which both sides share; it is gone with the process. On disk
//! ([`durable::open`]) the same queue leads to the *committer*, a thread that makes what waits durable in the [`log`] and acknowledges
//! it; the publisher reads the log, as far as it is [`committed`].

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
use crate::refusal::Reason;
use crate::refusal::Refusal;

pub(crate) use self::backlog::Backlog;
pub(crate) use self::backlog::Settled;
use self::entry::AckSender;
use self::entry::Entry;
use self::entry::LedgerState;
pub(crate) use self::entry::Position;
pub(crate) use self::entry::Ticket;
pub(crate) use self::entry::Undelivered;
pub(crate) use self::log::Seq;
use self::queue::LineTicket;
use self::queue::NotTaken;
use self::queue::Queue;
use self::room::Full;
pub(crate) use self::shares::Shares;
pub(crate) use self::stored::TAKE_BYTES;

/// When a callback counts as acknowledged.
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

/// The bounds of what is in memory only.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Bounds {
    /// How many captures may wait, for Kafka or for the disk.
    pub(crate) captures_max: usize,
    /// How many bytes they may take, [`Capture::cost_bytes`] each.
    pub(crate) bytes_max: usize,
    /// How many bytes may wait for room. What comes then is lost at once.
    pub(crate) waiting_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { captures_max: 100_000, bytes_max: 64 * 1024 * 1024, waiting_bytes_max: 16 * 1024 * 1024 }
    }
}

/// The journal as intake sees it.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Arc<Queue>,
    /// The disk has no room.
    is_full: Arc<AtomicBool>,
    shares: Arc<Shares>,
}

/// Makes a journal in memory. It is not open yet: what is appended waits until [`Journal::open`].
pub(crate) fn in_memory(ack: Ack, bounds: Bounds, ledger: Ledger, shares: Shares) -> (Journal, Backlog) {
    let queue = Arc::new(Queue::new(ack, &bounds, None, shares.topics(), ledger.clone()));
    let journal = Journal { queue: Arc::clone(&queue), is_full: Arc::default(), shares: Arc::new(shares) };
    (journal, Backlog::in_memory(queue, ledger))
}

impl Journal {
    /// Takes a capture, waits until it is as safe as the [`Ack`] mode promises, and counts what becomes of its callback.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the capture is gone and its callback is counted as broken off. Dropped later, it will be delivered.
    ///
    /// # Errors
    ///
    /// It is not acknowledged at the deadline, or never will be.
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

    /// Hands a capture to the queue.
    fn begin_append(&self, capture: Box<Capture>, receipt: Receipt<'_>) -> Result<PendingAck<'_>, Refusal> {
        let (sender, outcome) = oneshot::channel();
        let is_given_up = Arc::new(AtomicBool::new(false));
        let ack = AckSender { sender, is_given_up: Arc::clone(&is_given_up) };
        match self.queue.append(self.entry(capture, LedgerState::Counted, Some(ack))) {
            Ok(ticket) => {
                receipt.hand_over();
                Ok(PendingAck { journal: self, outcome, is_given_up, ticket })
            }
            Err(not_taken) => {
                let refusal = match not_taken {
                    NotTaken::Closed => Refusal::Stopping,
                    NotTaken::Full(full) => self.refuse_for(full),
                };
                receipt.end(refusal.reason());
                Err(refusal)
            }
        }
    }

    fn entry(&self, capture: Box<Capture>, ledger_state: LedgerState, ack: Option<AckSender>) -> Entry {
        let (key, topic) = self.shares.of(&capture);
        let cost_bytes = capture.cost_bytes();
        Entry { capture, cost_bytes, key, topic, ledger_state, ack, record_bytes: 0 }
    }

    /// How a capture is refused that finds no room.
    fn refuse_for(&self, full: Full) -> Refusal {
        match full {
            Full::Topic(topic) => {
                self.shares.refused(topic);
                Refusal::TopicFull
            }
            Full::Log => Refusal::JournalFull,
            Full::Queue if self.is_full() => Refusal::JournalFull,
            Full::Queue => Refusal::QueueFull,
        }
    }

    /// Whether a capture would find no room in the share of its dead-letter topic, should it turn out to go there.
    pub(crate) fn lacks_dead_letter_share(&self, capture: &Capture) -> bool {
        self.queue.lacks_share(self.shares.dead_letters(capture.app), capture.cost_bytes())
    }

    /// Counts a callback as refused for want of that.
    pub(crate) fn refuse_dead_letter(&self, capture: &Capture) {
        self.shares.refused(self.shares.dead_letters(capture.app));
    }

    /// Takes a capture that no answer waits for, if there is room now. If not, it is gone, and its callback is lost.
    pub(crate) fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        match self.queue.offer(self.entry(capture, LedgerState::Counted, None)) {
            Ok(()) => receipt.hand_over(),
            Err(full) => receipt.end(self.refuse_for(full).reason()),
        }
    }

    /// Takes a capture whose callback has ended already: it was refused, and only its bytes are kept. Returns whether there was room.
    pub(crate) fn keep(&self, capture: Box<Capture>) -> bool {
        self.queue.offer(self.entry(capture, LedgerState::Uncounted, None)).is_ok()
    }

    /// Whether the disk has no room.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Lets appends through: what they wait for will come. Until then they wait as for room.
    pub(crate) fn open(&self) {
        self.queue.open();
    }

    /// Takes nothing more. Those who wait for room are sent away.
    pub(crate) fn close(&self) {
        self.queue.close();
    }
}

/// A capture that a request waits for.
#[derive(Debug)]
struct PendingAck<'j> {
    journal: &'j Journal,
    outcome: oneshot::Receiver<Result<(), Refusal>>,
    is_given_up: Arc<AtomicBool>,
    /// Its place among those that wait for room, if it has to.
    ticket: Option<LineTicket>,
}

impl PendingAck<'_> {
    async fn outcome(&mut self) -> Result<(), Refusal> {
        let outcome = (&mut self.outcome).await;
        self.ticket = None;
        // An entry is dropped without an outcome only when the process ends.
        outcome.unwrap_or(Err(Refusal::Stopping))
    }

    /// Stops waiting. An outcome that came in that very moment counts. If none did, the callback is lost, and counted as late should its
    /// capture be delivered.
    fn give_up(&mut self) -> Result<(), Refusal> {
        // Before it is closed: whoever finds it closed must know why.
        self.is_given_up.store(true, Ordering::Release);
        self.outcome.close();
        let ticket = self.ticket.take();
        if let Ok(outcome) = self.outcome.try_recv() {
            return outcome;
        }
        let ledger = &self.journal.queue.ledger;
        let too_late = if self.journal.is_full() { Refusal::JournalFull } else { Refusal::Deadline };
        let Some(full) = ticket.and_then(|ticket| self.journal.queue.leave_line(ticket)) else {
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
        let left = self.ticket.take().and_then(|ticket| self.journal.queue.leave_line(ticket));
        if left.is_some() {
            self.journal.queue.ledger.end_waiting(Reason::BrokenOff);
        }
    }
}

#[cfg(test)]
mod tests;
