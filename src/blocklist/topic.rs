//! A handle to one blocklist topic for the rest of the program: its current rules, and a way to change them.

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

/// Whether this replica is up to date with a topic. Decisions do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// The topic has not been read to its end yet. None of its rules is in force.
    Reading,
    /// The rules are up to date.
    Live,
    /// There may be newer changes: Kafka has not responded for a while, or the topic is being read again. The last rules stay in force.
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

/// A snapshot of a topic at this replica. Immutable: each change makes a new one.
#[derive(Debug)]
pub(crate) struct TopicView {
    /// The rules in force. Empty before the topic has been read to its end.
    pub(crate) rules: Arc<Rules>,
    /// The offset behind the last applied record.
    pub(crate) generation: u64,
    /// Whether it is up to date.
    pub(crate) state: TopicState,
    /// A check is in progress whether the topic is still the one that was read.
    pub(crate) is_in_doubt: bool,
    /// When it was last known that no record is missing; `None` before that.
    pub(crate) fresh: Option<Instant>,
    /// The identity of the topic, the smallest if there are several; `None` if no record declares one.
    pub(crate) identity: Option<TopicIdentity>,
    /// Invalid records since the topic was last read from its start.
    pub(crate) poison: u64,
    /// Why it cannot be read at present, for operators.
    pub(crate) error: Option<Arc<str>>,
}

impl TopicView {
    /// A topic that has not been read.
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

    /// The time since it was last known that no record is missing; `None` before that.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.fresh.map(|fresh| now.saturating_duration_since(fresh))
    }
}

/// A request to change rules.
#[derive(Debug, Clone)]
pub(crate) struct WriteRequest {
    /// The author.
    pub(crate) who: Box<str>,
    /// The means: `api`, `cli`, or `import:` and a name.
    pub(crate) source: Box<str>,
    /// The `X-Request-Id` of the HTTP request.
    pub(crate) request: Option<Box<str>>,
    /// The changes, in order. All are announced on the audit topic before the first is written.
    pub(crate) changes: Vec<RequestedChange>,
}

/// A change of one rule.
#[derive(Debug, Clone)]
pub(crate) struct RequestedChange {
    pub(crate) rule: Rule<'static>,
    pub(crate) action: ChangeAction,
}

/// Adds or removes a rule.
#[derive(Debug, Clone)]
pub(crate) enum ChangeAction {
    /// Adds the rule, or replaces its end and reason.
    Put {
        /// When the rule expires.
        until: UnixMillis,
        /// The reason.
        because: Option<Box<str>>,
    },
    /// Removes the rule.
    Delete {
        /// The reason. It is stored in the audit topic only.
        because: Option<Box<str>>,
    },
}

/// A change that Kafka has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenChange {
    /// The previous value of the rule at this replica; `None` if there was none.
    pub(crate) replaced: Option<RuleValue<'static>>,
    /// Replicas of this generation or a later one have applied the change.
    pub(crate) generation: u64,
}

/// Why not all changes of a request were written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// Nothing was written: a rule has no record key.
    #[error("change {change}: {why}")]
    Unkeyable {
        /// The index of the change, from 0.
        change: usize,
        /// Why the rule has no key.
        why: Unkeyable,
    },
    /// Nothing was written: the value of a record would be longer than readers accept.
    #[error("change {change}: the reason is too long: the record's value would have more than 65536 bytes")]
    TooLong {
        /// The index of the change, from 0.
        change: usize,
    },
    /// Nothing was written: the topic has not been read, so the previous rules are unknown.
    #[error("the topic has not been read to its end yet")]
    NotRead,
    /// Nothing was written: the previous rules may be outdated.
    #[error("the topic is stale: kafka does not respond, or the topic is being read again")]
    Stale,
    /// Nothing was written: the queue of the writer is full.
    #[error("too many changes are waiting for kafka")]
    Busy,
    /// Kafka did not acknowledge all changes in time. Any of them may still be written.
    #[error("kafka has not acknowledged the change in time: {0}")]
    Unacknowledged(String),
    /// Kafka acknowledged a change in another log than the one that was read, so the previous rules are unknown.
    #[error("the topic was truncated or recreated: the change is at offset {offset}, expected {first} or later")]
    LogChanged {
        /// The offset of the change.
        offset: u64,
        /// The first possible offset.
        first: u64,
    },
    /// Kafka refused a change. Earlier changes may have been written.
    #[error("kafka refused the change: {0}")]
    Refused(String),
    /// Nothing was written: the process is stopping.
    #[error("the process is stopping")]
    Stopping,
}

/// A request in the queue of the writer, and the channel for its result.
pub(crate) type WriteJob = (WriteRequest, oneshot::Sender<Result<Vec<WrittenChange>, WriteError>>);

/// How much of a topic this replica has applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AppliedGeneration {
    /// The offset behind the last applied record.
    pub(crate) generation: u64,
    /// How often the topic was read from its start.
    pub(crate) full_reads: u64,
}

/// The topic was read again from its start, so the change may be missing from its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the topic was read again from its start, as it may have been truncated or recreated: repeat the change")]
pub(crate) struct TopicReadAgain;

/// A handle to one topic. Clones are handles to the same topic.
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

    /// The current snapshot.
    pub(crate) fn view(&self) -> Arc<TopicView> {
        self.view.load_full()
    }

    /// Writes the changes of `request`, and waits until Kafka has acknowledged all of them. Kafka has 5 s for it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the writer starts the request, nothing is written.
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

    /// How often the topic was read from its start.
    pub(crate) fn full_reads(&self) -> u64 {
        self.applied.borrow().full_reads
    }

    /// Waits until this replica has applied `generation`. This may never happen, so the caller needs a deadline.
    ///
    /// # Errors
    ///
    /// The topic was read from its start again: the number of full reads is not `full_reads`. Another log may reach the same generation
    /// without the change.
    pub(crate) async fn applied(&self, generation: u64, full_reads: u64) -> Result<(), TopicReadAgain> {
        let mut applied = self.applied.clone();
        let is_over =
            |applied: &AppliedGeneration| applied.full_reads != full_reads || applied.generation >= generation;
        // Never an error, because the sender lives as long as the process.
        let is_read_again = applied.wait_for(is_over).await.is_ok_and(|applied| applied.full_reads != full_reads);
        if is_read_again { Err(TopicReadAgain) } else { Ok(()) }
    }
}
