//! Where captures wait between intake and Kafka: the one face that both sides know.
//!
//! Intake appends ([`Journal::append`], which the answer waits for) or offers ([`Journal::offer`], which nothing waits for); the
//! publisher takes entries in order from the [`Backlog`] and settles each when every record it became is in Kafka. What an append
//! waits for beside room is the [`Ack`] mode's business, and invisible to both.
//!
//! In memory ([`in_memory`]) the journal is one queue, which both sides share; it is gone with the process. On disk
//! ([`durable::open`]) the same queue leads to the *committer*, a thread that makes what waits durable in the [`log`] and keeps the
//! promises; the publisher reads the log, as far as it is [`committed`].

mod backlog;
mod bell;
pub(crate) mod codec;
pub(crate) mod commit;
mod committed;
pub(crate) mod durable;
mod entry;
pub(crate) mod inspect;
pub(crate) mod log;
mod promise;
mod queue;
mod room;
mod shares;
mod stored;
mod turn;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde::Deserialize;

use crate::capture::Capture;
use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::record::Topic;
use crate::refusal::Reason;

pub(crate) use self::backlog::Backlog;
pub(crate) use self::backlog::Settled;
use self::bell::Ring;
use self::entry::Entry;
use self::entry::LedgerState;
pub(crate) use self::entry::Position;
pub(crate) use self::entry::Ticket;
pub(crate) use self::entry::Undelivered;
pub(crate) use self::log::Seq;
use self::promise::Promise;
use self::queue::Queue;
use self::queue::WaitError;
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

/// Why the journal did not take a capture. It is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// No room, and no room to wait for it.
    QueueFull,
    /// No room on disk, or in what of it may be undelivered.
    JournalFull,
    /// Its topic holds its whole share of the room.
    TopicFull,
    /// No more captures are taken.
    Closed,
    /// Kafka will never take it.
    Unpublishable,
    /// The disk has failed.
    Failed,
}

/// What a thread that serves callbacks does for the journal, for ever.
pub(crate) async fn attend() {
    #[expect(clippy::disallowed_methods, reason = "no stop has to wait for it: it ends with the thread's runtime")]
    drop(tokio::spawn(turn::end_turns()));
    bell::attend().await;
}

/// The room that a capture takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    topic: Option<Topic>,
    cost_bytes: usize,
}

/// The journal as intake sees it.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Arc<Queue>,
    ack: Ack,
    /// The disk has no room.
    is_full: Arc<AtomicBool>,
    shares: Arc<Shares>,
}

/// Makes a journal in memory. It is not open yet: what is appended waits until [`Journal::open`].
pub(crate) fn in_memory(ack: Ack, bounds: Bounds, ledger: Ledger, shares: Shares) -> (Journal, Backlog) {
    let queue = Arc::new(Queue::new(&bounds, None, shares.topics(), ledger.clone()));
    let journal = Journal { queue: Arc::clone(&queue), ack, is_full: Arc::default(), shares: Arc::new(shares) };
    (journal, Backlog::in_memory(queue, ledger))
}

impl Journal {
    /// Takes a capture if that needs no waiting for room. It is then as safe as the [`Ack`] mode promises, or, where that takes Kafka's
    /// word, will be once [`Appended::acknowledged`] says so. If not, the capture comes back.
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
        let Claim { topic, cost_bytes } = self.claim_of(&capture);
        let place = self.queue.wait(topic, cost_bytes).await;
        let place = place.map_err(|error| match error {
            WaitError::Closed => AppendError::Closed,
            WaitError::Full(full) => self.refuse_for(full).unwrap_or(AppendError::QueueFull),
        })?;
        let (entry, appended) = self.entry(capture);
        place.push(entry, receipt).map_err(|_closed| AppendError::Closed)?;
        Ok(appended)
    }

    /// The entry of a capture, and where the mode makes a promise, what waits for it.
    fn entry(&self, capture: Box<Capture>) -> (Entry, Option<Appended>) {
        let (promise, broken) = match self.ack {
            Ack::Journal => (Some(Promise::new()), AppendError::Failed),
            Ack::Broker => (Some(Promise::new()), AppendError::Unpublishable),
            Ack::Memory => (None, AppendError::Closed),
        };
        let appended = promise.clone().map(|promise| Appended { promise, broken, ledger: self.queue.ledger.clone() });
        (self.new_entry(capture, LedgerState::Counted, promise), appended)
    }

    fn new_entry(&self, capture: Box<Capture>, ledger_state: LedgerState, promise: Option<Promise>) -> Entry {
        let (key, topic) = self.shares.of(&capture);
        Entry { key, topic, ..Entry::new(capture, ledger_state, promise) }
    }

    /// What room a capture takes.
    pub(crate) fn claim_of(&self, capture: &Capture) -> Claim {
        Claim { topic: self.shares.of(capture).1, cost_bytes: capture.cost_bytes() }
    }

    /// Why a capture is refused that has waited for this room in vain; nothing if it was only slow.
    pub(crate) fn refuse_waiting(&self, claim: Claim) -> Option<AppendError> {
        self.refuse_for(self.queue.fullness(claim.topic, claim.cost_bytes))
    }

    fn refuse_for(&self, full: Full) -> Option<AppendError> {
        match full {
            Full::Topic(topic) => {
                self.shares.refused(topic);
                Some(AppendError::TopicFull)
            }
            Full::Log => Some(AppendError::JournalFull),
            Full::Queue => self.is_full().then_some(AppendError::JournalFull),
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
        let mut receipt = Some(receipt);
        let offered = self.queue.offer(self.new_entry(capture, LedgerState::Counted, None), &mut receipt);
        let (Err(full), Some(receipt)) = (offered, receipt) else { return };
        receipt.end(match self.refuse_for(full) {
            Some(AppendError::TopicFull) => Reason::TopicFull,
            Some(AppendError::JournalFull) => Reason::JournalFull,
            Some(_) | None => Reason::QueueFull,
        });
    }

    /// Takes a capture whose callback has ended already: it was refused, and only its bytes are kept. Returns whether there was room.
    pub(crate) fn keep(&self, capture: Box<Capture>) -> bool {
        self.queue.offer(self.new_entry(capture, LedgerState::Uncounted, None), &mut None).is_ok()
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

/// A capture that was taken, and is not acknowledged yet. Dropped, it stays and will be delivered.
#[derive(Debug)]
pub(crate) struct Appended {
    promise: Promise,
    /// What it means if the promise is not kept.
    broken: AppendError,
    ledger: Ledger,
}

impl Appended {
    /// Waits until it is as safe as the mode promises.
    ///
    /// # Errors
    ///
    /// It never will be.
    pub(crate) async fn acknowledged(&self) -> Result<(), AppendError> {
        if self.promise.ended().await { Ok(()) } else { Err(self.broken) }
    }

    /// Gives up waiting. Returns whether the capture was acknowledged in that very moment, and 200 is true after all; if not, its
    /// callback is lost and its sender must be told so.
    pub(crate) fn abandon(&self, reason: Reason) -> bool {
        // Nobody is to be woken: it is this one who waited.
        if self.promise.abandon(&mut Ring::default()) {
            self.ledger.lose_queued(reason);
        }
        self.promise.is_kept()
    }
}

#[cfg(test)]
mod tests;
