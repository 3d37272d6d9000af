//! One blocklist topic as the rest of the program sees it: what was read of it last, and a way to change rules.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rules::Rules;
use crate::decide::topic::key::TopicIdentity;
use crate::decide::topic::key::Unkeyable;
use crate::decide::topic::value::RuleValue;

/// The audit topic of a blocklist topic.
pub(crate) fn changes_topic(topic: &str) -> String {
    format!("{topic}-changes")
}

/// How far this replica is with reading a topic. None of it changes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// Not read to its end yet: no rule of it holds.
    Reading,
    /// Every change is applied as it comes.
    Live,
    /// Kafka has shown nothing of the topic for a while, or it is being read again: the rules last read hold.
    Stale,
}

impl TopicState {
    /// Every state, in the order of the metrics.
    pub(crate) const ALL: [Self; 3] = [Self::Reading, Self::Live, Self::Stale];

    /// The word for it in metrics and responses.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Live => "live",
            Self::Stale => "stale",
        }
    }
}

/// A topic as it was read last. Immutable: each change makes another.
#[derive(Debug)]
pub(crate) struct TopicView {
    /// The rules that are in force. Empty while the topic was never read to its end.
    pub(crate) rules: Arc<Rules>,
    /// The offset behind the last record applied.
    pub(crate) generation: u64,
    /// How far it is with reading.
    pub(crate) state: TopicState,
    /// It is being checked whether the topic is still the one that was read.
    pub(crate) is_in_doubt: bool,
    /// When Kafka last showed that nothing is missing here; `None` before it did.
    pub(crate) fresh: Option<Instant>,
    /// The identity of the topic; `None` where no record has declared one. Of several the smallest.
    pub(crate) identity: Option<TopicIdentity>,
    /// Records that cannot be used, since the topic was last read from its start.
    pub(crate) poison: u64,
    /// What last kept it from reading, as an operator should read it, while it does.
    pub(crate) error: Option<Arc<str>>,
}

impl TopicView {
    /// Nothing was read yet.
    pub(crate) fn unread() -> Self {
        Self {
            rules: Arc::default(),
            generation: 0,
            state: TopicState::Reading,
            is_in_doubt: false,
            fresh: None,
            identity: None,
            poison: 0,
            error: None,
        }
    }

    /// How long ago Kafka last showed that nothing is missing here; `None` before it did.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.fresh.map(|fresh| now.saturating_duration_since(fresh))
    }
}

/// What one request changes.
#[derive(Debug, Clone)]
pub(crate) struct WriteRequest {
    /// Who asks for it.
    pub(crate) who: Box<str>,
    /// Through what: `api`, `cli`, or `import:` and a name.
    pub(crate) source: Box<str>,
    /// The request, as its sender names it.
    pub(crate) request: Option<Box<str>>,
    /// The changes, in order. Each is announced on the audit topic before any of them is written.
    pub(crate) changes: Vec<WantedChange>,
}

/// A rule, and what shall become of it.
#[derive(Debug, Clone)]
pub(crate) struct WantedChange {
    /// The rule.
    pub(crate) rule: Rule<'static>,
    /// Whether it shall be there.
    pub(crate) to: WantedRule,
}

/// What shall become of a rule.
#[derive(Debug, Clone)]
pub(crate) enum WantedRule {
    /// It is there, with this end and this reason, whatever it had before.
    Put {
        /// The rule holds before this.
        until: UnixMillis,
        /// Why.
        because: Option<Box<str>>,
    },
    /// It is gone.
    Delete {
        /// Why. Only the audit topic has it.
        because: Option<Box<str>>,
    },
}

/// A change that Kafka has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenChange {
    /// What this replica knew of the rule when it wrote; `None`: it was not there.
    pub(crate) replaced: Option<RuleValue<'static>>,
    /// A replica whose generation is at least this has applied the change.
    pub(crate) generation: u64,
}

/// Why a request was not written, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// Nothing was written: a rule cannot be written to a topic.
    #[error("change {change}: {why}")]
    Unkeyable {
        /// Its place among the changes, from 0.
        change: usize,
        /// Why not.
        why: Unkeyable,
    },
    /// Nothing was written: the value of a rule would be longer than readers take.
    #[error("change {change}: the reason is too long: the record's value would have more than 65536 bytes")]
    TooLong {
        /// Its place among the changes, from 0.
        change: usize,
    },
    /// Nothing was written: what a change replaces is not known before the topic was read.
    #[error("the topic has not been read to its end yet")]
    NotRead,
    /// Nothing was written: the topic may have been made again, and what was read last need not be in it.
    #[error("kafka shows nothing of the topic at present, or it is being read again")]
    Stale,
    /// Nothing was written: as many requests as may wait do so already.
    #[error("too many requests wait for kafka")]
    Busy,
    /// Kafka did not acknowledge all of it in time: any of the changes may still come.
    #[error("kafka has not acknowledged the change in time: {0}")]
    Unacknowledged(String),
    /// Kafka acknowledged it in another log than was read: what it replaces there is not known.
    #[error("the topic was cut or made again meanwhile: the change is at offset {offset}, and the next was {first}")]
    LogChanged {
        /// Where it is.
        offset: u64,
        /// The least that it could have been.
        first: u64,
    },
    /// Kafka refused it: changes before the refused one may have been written.
    #[error("kafka refuses the change: {0}")]
    Refused(String),
    /// Nothing was written: the process stops.
    #[error("the process is stopping")]
    Stopping,
}

/// A request on its way to the writer, and where its outcome goes.
pub(crate) type WriteJob = (WriteRequest, oneshot::Sender<Result<Vec<WrittenChange>, WriteError>>);

/// How far this replica is with a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AppliedGeneration {
    /// The offset behind the last record applied.
    pub(crate) generation: u64,
    /// How often the topic was read from its start.
    pub(crate) readings: u64,
}

/// The log may be another than the change was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the topic was read again from its start meanwhile, as it may have been cut or made again: repeat the change")]
pub(crate) struct TopicReadAgain;

/// A handle to one topic. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(crate) struct BlocklistTopic {
    name: Arc<str>,
    view: Arc<ArcSwap<TopicView>>,
    applied: watch::Receiver<AppliedGeneration>,
    writes: mpsc::Sender<WriteJob>,
}

impl BlocklistTopic {
    pub(crate) fn new(
        name: Arc<str>,
        view: Arc<ArcSwap<TopicView>>,
        applied: watch::Receiver<AppliedGeneration>,
        writes: mpsc::Sender<WriteJob>,
    ) -> Self {
        Self { name, view, applied, writes }
    }

    /// The name of the topic.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The topic as it was read last.
    pub(crate) fn view(&self) -> Arc<TopicView> {
        self.view.load_full()
    }

    /// Writes the changes of `request`, and waits until Kafka has acknowledged all of them, 5 s at most.
    ///
    /// # Cancel safety
    ///
    /// A request whose future is dropped is not written any more, unless the writer has begun to.
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
    pub(crate) async fn write(&self, request: WriteRequest) -> Result<Vec<WrittenChange>, WriteError> {
        let (done, outcome) = oneshot::channel();
        match self.writes.try_send((request, done)) {
            Ok(()) => outcome.await.unwrap_or(Err(WriteError::Stopping)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(WriteError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(WriteError::Stopping),
        }
    }

    /// The number of the last reading of the topic from its start.
    pub(crate) fn reading(&self) -> u64 {
        self.applied.borrow().readings
    }

    /// Waits until this replica is at `generation` or beyond. It may never be: the caller has a deadline.
    ///
    /// # Errors
    ///
    /// The topic was read from its start since it was at `reading`. Another log may have as many records, and not that of the change.
    pub(crate) async fn applied(&self, generation: u64, reading: u64) -> Result<(), TopicReadAgain> {
        let mut applied = self.applied.clone();
        let is_over = |applied: &AppliedGeneration| applied.readings != reading || applied.generation >= generation;
        // No error: the sender lives as long as the process.
        let is_read_again = applied.wait_for(is_over).await.is_ok_and(|applied| applied.readings != reading);
        if is_read_again { Err(TopicReadAgain) } else { Ok(()) }
    }
}
