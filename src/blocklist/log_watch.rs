//! Watches whether the log of a blocklist topic is still the one that was read, and not that of a topic that was deleted and created again.
//!
//! A suspicion leads to a check: a second client reads a record again that was in the log before.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::blocklist::consumer::DESCRIBED_EVERY;
use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::consumer::TopicDescribed;
use crate::blocklist::properties;
use crate::decide::fold::LogMark;
use crate::decide::fold::StartOver;

/// How long one poll waits for a record. librdkafka spins for fractions of a millisecond, so this is slightly more than whole ones.
pub(super) const POLL_WAIT: Duration = Duration::from_micros(100_050);

/// If the topic was described again so soon, the reason is a failed fetch.
const DESCRIBED_EARLY: Duration = DESCRIBED_EVERY.saturating_sub(Duration::from_secs(5));

/// The timeout of a check.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// What is known about the identity of the log.
#[derive(Default)]
pub(super) struct LogWatch {
    /// A record that was in the log at the last check, or when it was read.
    pub(super) mark: Option<LogMark>,
    /// When the brokers last described the topic.
    described: Option<i64>,
    /// A check is needed: something has happened since the last one began.
    pub(super) is_due: bool,
    /// The log may have been replaced: records are not applied before the check has ended.
    pub(super) is_in_doubt: bool,
    pub(super) check: Option<LogCheck>,
}

impl LogWatch {
    /// Watches a log that has this record.
    pub(super) fn new(mark: Option<LogMark>) -> Self {
        Self { mark, ..Self::default() }
    }

    /// Records that the log may have been replaced.
    pub(super) const fn doubt(&mut self) {
        (self.is_due, self.is_in_doubt) = (true, true);
    }

    /// Takes the last description of the topic. Returns whether it is a new one.
    pub(super) fn describe(&mut self, described: TopicDescribed) -> bool {
        // The same description may differ by two milliseconds, because its clock is rounded twice.
        if self.described.is_some_and(|before| described.at - before <= 2) {
            return false;
        }
        let early = i64::try_from(DESCRIBED_EARLY.as_millis()).unwrap_or(i64::MAX);
        let is_early = self.described.is_some_and(|before| described.at - before < early);
        self.described = Some(described.at);
        self.is_due = true;
        self.is_in_doubt |= is_early;
        true
    }
}

/// A check whether a record is still where it was read. It has a client of its own: the client that follows the topic would not notice a
/// truncation if it were assigned again.
pub(super) struct LogCheck {
    consumer: TopicConsumer,
    mark: LogMark,
    /// The last record that was applied when the check began.
    last: Option<LogMark>,
    /// The log ends at or before the record, or its leader does not know yet that it is longer.
    is_short: bool,
    deadline: Instant,
}

/// The result of a check so far.
pub(super) enum LogCheckResult {
    Waiting,
    /// Kafka does not let the record be read now, for this reason.
    Unreadable(String),
    /// The record is there. With the last record that was applied when the check began.
    Same(Option<LogMark>),
    Changed(StartOver),
    /// Kafka has not answered in time.
    Unknown,
}

impl LogCheck {
    /// Begins a check that `mark` is in the topic; `None` if no client can be made. `last` is the last record that was applied.
    pub(super) fn start(
        configured: &BTreeMap<String, String>,
        topic: &str,
        (mark, last): (LogMark, Option<LogMark>),
        now: Instant,
    ) -> Option<Self> {
        let consumer = TopicConsumer::new(&properties::of_follower(configured), topic).ok()?;
        consumer.read_from(Some(mark.offset)).ok()?;
        Some(Self { consumer, mark, last, is_short: false, deadline: now + CHECK_LIMIT })
    }

    /// Continues the check; `waits`: there is nothing else to do meanwhile.
    pub(super) fn poll(&mut self, waits: bool, now: Instant) -> LogCheckResult {
        let mut found = None;
        let polled = self.consumer.poll(if waits { POLL_WAIT } else { Duration::ZERO }, |record| {
            found = Some(LogMark::of(record));
        });
        self.is_short |= polled == Polled::End;
        let is_late = now >= self.deadline;
        match polled {
            Polled::Record if found == Some(self.mark) => LogCheckResult::Same(self.last),
            Polled::Record | Polled::LogChanged => LogCheckResult::Changed(StartOver::Replaced(self.mark)),
            Polled::Nothing | Polled::End if is_late && self.is_short => {
                LogCheckResult::Changed(StartOver::Replaced(self.mark))
            }
            Polled::Unreadable(why) if !is_late => LogCheckResult::Unreadable(why),
            Polled::Nothing | Polled::End if !is_late => LogCheckResult::Waiting,
            Polled::Nothing | Polled::End | Polled::Unreadable(_) | Polled::Dead(_) => LogCheckResult::Unknown,
        }
    }
}
