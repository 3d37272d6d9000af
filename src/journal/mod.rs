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
mod stored;
mod turn;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus::IntCounterVec;

use crate::capture::Capture;
use crate::capture::Outcome;
use crate::clock;
use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::record::Topic;
use crate::record::Topics;
use crate::refusal::Reason;
use crate::throttle::Throttle;

pub(crate) use self::backlog::Backlog;
pub(crate) use self::backlog::Settled;
use self::bell::Ring;
use self::entry::Entry;
pub(crate) use self::entry::Position;
use self::entry::Standing;
pub(crate) use self::entry::Ticket;
pub(crate) use self::entry::Undelivered;
pub(crate) use self::log::Seq;
use self::promise::Promise;
use self::queue::Full;
use self::queue::Queue;
use self::queue::WaitError;
pub(crate) use self::stored::TAKE_BYTES;

/// When a callback counts as acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// When it is on disk.
    Journal,
    /// When Kafka has confirmed every record it became.
    Broker,
    /// When it is in the queue in memory.
    Memory,
}

/// The bounds of what is in memory only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How many captures may wait, for Kafka or for the disk.
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

/// The journal as intake sees it.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Arc<Queue>,
    ack: Ack,
    /// The disk has no room.
    is_full: Arc<AtomicBool>,
    /// Where captures stay in the queue until Kafka has them.
    shares: Option<Shares>,
}

/// The shares of topics in the queue.
#[derive(Debug)]
pub(crate) struct Shares {
    topics: Arc<Topics>,
    /// Callbacks that were lost because their topic held its whole share, by topic.
    refused: IntCounterVec,
    log: Throttle,
}

/// How often it is logged at most that a topic holds its whole share.
const SHARE_LOG_PERIOD: Duration = Duration::from_secs(10);

impl Shares {
    /// Of these topics. `refused` counts by topic.
    pub(crate) fn new(topics: Arc<Topics>, refused: IntCounterVec) -> Self {
        for name in topics.names() {
            refused.with_label_values(&[name]);
        }
        Self { topics, refused, log: Throttle::new(SHARE_LOG_PERIOD) }
    }

    /// Where a capture goes, as far as that is known before it is normalised.
    fn topic_of(&self, capture: &Capture) -> Topic {
        match capture.outcome {
            Outcome::Happened | Outcome::Decided(_) => self.topics.of(capture.app, capture.command),
            Outcome::Refused { .. } => self.topics.rejected(capture.app),
        }
    }

    fn refused(&self, topic: Topic) {
        let topic = self.topics.name(topic);
        self.refused.with_label_values(&[topic]).inc();
        if self.log.permits(clock::monotonic()) {
            tracing::warn!(topic, "a topic holds its whole share of the queue; callbacks for it are refused");
        }
    }
}

/// Makes a journal in memory. It is not open yet: what is appended waits until [`Journal::open`].
pub(crate) fn in_memory(ack: Ack, bounds: Bounds, ledger: Ledger, shares: Shares) -> (Journal, Backlog) {
    let queue = Arc::new(Queue::new(bounds, shares.topics.names().len(), ledger.clone()));
    let journal = Journal { queue: Arc::clone(&queue), ack, is_full: Arc::default(), shares: Some(shares) };
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
        let place = self.queue.wait(self.topic_of(&capture), capture.cost_bytes()).await;
        let place = place.map_err(|error| match error {
            WaitError::Closed => AppendError::Closed,
            WaitError::Full(Full::Queue) => AppendError::Full,
            WaitError::Full(Full::Topic(topic)) => {
                self.refused(topic);
                AppendError::TopicFull
            }
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
        (self.new_entry(capture, Standing::Counted, promise), appended)
    }

    fn new_entry(&self, capture: Box<Capture>, standing: Standing, promise: Option<Promise>) -> Entry {
        let topic = self.topic_of(&capture);
        Entry { topic, ..Entry::new(capture, standing, promise) }
    }

    /// Whose share a capture takes.
    pub(crate) fn topic_of(&self, capture: &Capture) -> Option<Topic> {
        self.shares.as_ref().map(|shares| shares.topic_of(capture))
    }

    /// Whether a capture that waits for room waits for the share of its topic. That is counted.
    pub(crate) fn is_refused_for(&self, topic: Option<Topic>) -> bool {
        match self.queue.fullness(topic) {
            Full::Queue => false,
            Full::Topic(topic) => {
                self.refused(topic);
                true
            }
        }
    }

    fn refused(&self, topic: Topic) {
        if let Some(shares) = &self.shares {
            shares.refused(topic);
        }
    }

    /// Takes a capture that no answer waits for, if there is room now. If not, it is gone, and its callback is lost.
    pub(crate) fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        let mut receipt = Some(receipt);
        let offered = self.queue.offer(self.new_entry(capture, Standing::Counted, None), &mut receipt);
        let (Err(full), Some(receipt)) = (offered, receipt) else { return };
        receipt.end(match full {
            Full::Topic(topic) => {
                self.refused(topic);
                Reason::TopicFull
            }
            Full::Queue if self.is_full() => Reason::JournalFull,
            Full::Queue => Reason::QueueFull,
        });
    }

    /// Takes a capture whose callback has ended already: it was refused, and only its bytes are kept. Returns whether there was room.
    pub(crate) fn keep(&self, capture: Box<Capture>) -> bool {
        self.queue.offer(self.new_entry(capture, Standing::Uncounted, None), &mut None).is_ok()
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
