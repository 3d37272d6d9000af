//! The pump: the thread that moves captures from the journal to the Kafka client.
//!
//! It reads the journal in order, and offers each capture to [`outgoing`](super::outgoing), where each topic has an *outbox*. A topic that
//! cannot send pauses at a position. Once it can send again, the journal is read again from there, in one pass for all topics that are
//! paused there. So a stuck topic delays only itself, an outage of hours grows the disk and not the process, and the order per key is kept
//! when librdkafka returns records.
//!
//! Nothing is sent to a topic before it has been seen in the cluster: for unknown topics librdkafka uses code paths in which records were
//! lost.

use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::clock;
use crate::journal::Backlog;
use crate::journal::Seq;
use crate::journal::TAKE_BYTES;
use crate::normalise::Normaliser;
use crate::publish::metrics::PublishMetrics;
use crate::record::Topics;

use super::control::Control;
use super::kafka::DeliveryReport;
use super::kafka::Kafka;
use super::outbox::Backoff;
use super::outgoing::Outgoing;
use super::outgoing::OutgoingSetup;
use super::outgoing::SHORT_BACKOFF;
use super::watchdog::Watchdog;

/// Captures read from the journal at a time, so that delivery reports are handled in between.
const READ_MAX: usize = 1024;
/// The period of updating the pump's metrics.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// How long to wait for delivery reports before a producer whose batches are too large is replaced. Records without a report by then are
/// sent again, and may be duplicated.
const SHRINK_LIMIT: Duration = Duration::from_secs(5);
/// How long a dead producer waits for the topics' limits if a batch was too large.
const LIMITS_WITHIN: Duration = Duration::from_secs(3);
/// The longest sleep when nothing wakes the pump.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Pump {
    backlog: Backlog,
    outgoing: Outgoing,
    /// How long captures gather before each pass, where no request waits for them.
    gather: Duration,
    backoff: Backoff,
    watchdog: Watchdog<(Seq, usize)>,
    /// A dead producer is not replaced before this time, or before the topics' limits are known.
    awaits_limits_until: Option<Instant>,
    /// Since when a producer with smaller batches is needed. Nothing is sent until there is one.
    shrinks_since: Option<Instant>,
    replace_at: Option<Instant>,
    /// When a producer was last replaced, and the pause before the next replacement: it doubles each time, until a record is delivered.
    replaced: Option<(Instant, Duration)>,
    observe_at: Instant,
    reports: Vec<DeliveryReport>,
}

/// What a pump needs.
#[derive(Debug)]
pub(crate) struct PumpSetup {
    pub(crate) backlog: Backlog,
    pub(crate) kafka: Kafka,
    pub(crate) normaliser: Normaliser,
    pub(crate) topics: Arc<Topics>,
    pub(crate) metrics: PublishMetrics,
    pub(crate) gather: Duration,
    pub(crate) backoff: Backoff,
    /// The limit of bytes with the client.
    pub(crate) budget_bytes: usize,
    /// How long a record may have no delivery report although Kafka works, before the producer is replaced.
    pub(crate) unreported_max: Duration,
}

impl Pump {
    /// A pump that is not running yet.
    pub(crate) fn new(setup: PumpSetup) -> Self {
        let PumpSetup { backlog, kafka, normaliser, topics, metrics, gather, backoff, budget_bytes, unreported_max } =
            setup;
        let watchdog = Watchdog::new(unreported_max, topics.names().len());
        let keeps_given_up = backlog.keeps_given_up();
        let setup = OutgoingSetup { kafka, normaliser, topics, metrics, backoff, budget_bytes, keeps_given_up };
        Self {
            backlog,
            outgoing: Outgoing::new(setup),
            gather,
            backoff,
            watchdog,
            awaits_limits_until: None,
            shrinks_since: None,
            replace_at: None,
            replaced: None,
            observe_at: clock::monotonic(),
            reports: Vec::new(),
        }
    }

    /// Runs until the journal is closed and everything in it is in Kafka, or until `control` says to stop. Returns the last error of each
    /// topic that does not accept its records, in the order of the names.
    pub(crate) fn run(mut self, control: &Control) -> Vec<Option<String>> {
        loop {
            let now = clock::monotonic();
            let orders = control.take();
            for topic in orders.opened {
                self.outgoing.open(topic);
            }
            if let Some(smallest) = orders.limit {
                self.outgoing.batch_size.set_topic_limit(smallest);
                self.awaits_limits_until = None;
            }
            self.take_reports(now);
            if std::mem::take(&mut self.outgoing.asks_for_limits) && control.ask_for_limits() {
                self.awaits_limits_until = Some(now + LIMITS_WITHIN);
            }
            self.replace_if_dead(now);
            self.replace_if_silent(&orders.have_leaders, now);
            self.resize_batches(now);
            if orders.is_applying && self.shrinks_since.is_none() {
                control.limit_is_applied();
            }
            self.outgoing.update_backoffs(now);
            let has_more = !self.is_held_up() && (self.read_again(now) | self.read(now));
            self.observe(control, now);
            let give_up_at = orders.give_up_at;
            if self.is_at_end() || give_up_at.is_some_and(|deadline| deadline <= now || self.is_only_unseen_left()) {
                break;
            }
            if has_more {
                continue;
            }
            let wait = give_up_at.map_or(IDLE_WAIT, |deadline| IDLE_WAIT.min(deadline.saturating_duration_since(now)));
            thread::park_timeout(wait.min(self.until_next(now)));
            if give_up_at.is_none() && !self.gather.is_zero() {
                thread::sleep(self.gather);
            }
        }
        self.outgoing.kafka.stop();
        let now = clock::monotonic();
        let mut reports = std::mem::take(&mut self.reports);
        self.outgoing.kafka.reports(&mut reports);
        self.outgoing.take_last_reports(reports, now);
        self.backlog.settle(self.outgoing.outcomes());
        self.observe_at = now;
        self.observe(control, now);
        self.outgoing.last_failures()
    }

    fn is_at_end(&mut self) -> bool {
        self.outgoing.is_empty() && self.backlog.is_at_end()
    }

    /// Whether only captures of topics that were never seen are left. During a stop nobody looks for topics any more.
    fn is_only_unseen_left(&mut self) -> bool {
        !self.outgoing.is_any_open() || self.outgoing.is_only_unseen_left() && self.backlog.is_at_end()
    }

    /// Reads new captures from the journal, while some topic accepts them. Returns whether there may be more.
    fn read(&mut self, now: Instant) -> bool {
        if !self.outgoing.is_any_live() {
            return false;
        }
        let Self { backlog, outgoing, .. } = self;
        let wall = clock::wall();
        outgoing.begin_pass(None);
        let has_more = backlog.read(READ_MAX, |undelivered| {
            outgoing.metrics.queued(wall.since(undelivered.capture.received));
            outgoing.offer(undelivered, now);
        });
        backlog.settle(outgoing.outcomes());
        has_more
    }

    /// Reads the journal again for topics that have paused and can continue. Returns whether there may be more.
    fn read_again(&mut self, now: Instant) -> bool {
        let Self { backlog, outgoing, .. } = self;
        let (mut count, mut read_bytes) = (0, 0);
        while count < READ_MAX && read_bytes < TAKE_BYTES {
            let Some(from) = outgoing.resumes() else { return false };
            outgoing.begin_pass(Some(from.seq));
            let read = backlog.read_again(from, |undelivered| {
                count += 1;
                outgoing.offer(undelivered, now);
            });
            if let Some((next, bytes)) = read {
                if next == from {
                    // The disk cannot be read now.
                    return false;
                }
                read_bytes += bytes;
            }
            count += 1;
            let read_to = backlog.read_to();
            outgoing.end_pass(read.map(|(next, _bytes)| next).filter(|next| next.seq < read_to));
            backlog.settle(outgoing.outcomes());
        }
        true
    }

    /// Whether nothing may be sent before the producer is replaced.
    const fn is_held_up(&self) -> bool {
        self.replace_at.is_some() || self.shrinks_since.is_some()
    }

    fn take_reports(&mut self, now: Instant) {
        self.outgoing.kafka.reports(&mut self.reports);
        self.outgoing.take_reports(self.reports.drain(..), now);
        self.backlog.settle(self.outgoing.outcomes());
        if std::mem::take(&mut self.outgoing.has_delivered) {
            self.replaced = None;
        }
    }

    fn replace_if_dead(&mut self, now: Instant) {
        if self.outgoing.needs_producer || self.outgoing.kafka.is_fatal() {
            self.plan_replacement(now);
        }
        if self.replace_at.is_none_or(|at| at > now) || self.awaits_limits_until.is_some_and(|until| until > now) {
            return;
        }
        self.awaits_limits_until = None;
        let rest = self.replaced.map_or(SHORT_BACKOFF, |(_, rest)| (rest * 2).min(self.backoff.max));
        self.replaced = Some((now, rest));
        self.outgoing.kafka.count_dead();
        self.replace_producer(now);
    }

    /// Replaces a producer that has no delivery reports for some records although their topics have leaders.
    fn replace_if_silent(&mut self, have_leaders: &[(usize, bool)], now: Instant) {
        let silent = self.watchdog.restarts_for(have_leaders, now);
        if silent.is_empty() || self.replace_at.is_some() {
            return;
        }
        let names = silent.iter().filter_map(|topic| self.outgoing.topics.names().get(*topic)).map(String::as_str);
        tracing::warn!(
            topics = names.collect::<Vec<_>>().join(", "),
            "records have no delivery report although their topics have leaders; a new producer sends them again"
        );
        self.outgoing.kafka.count_watchdog_restart();
        self.replace_producer(now);
    }

    fn replace_producer(&mut self, now: Instant) {
        self.watchdog.replaced();
        self.outgoing.kafka.stop();
        self.take_reports(now);
        self.outgoing.lose_producer(now);
        self.backlog.settle(self.outgoing.outcomes());
        let (from, to) = (self.outgoing.kafka.batch_bytes(), self.outgoing.batch_size.bytes(now));
        if from != to {
            tracing::info!(from, to, "the producer's batch.size follows the topics' limits");
        }
        self.replace_at = match self.outgoing.kafka.replace(to) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "the kafka producer could not be replaced; it is retried");
                Some(now + self.backoff.first)
            }
        };
    }

    /// Replaces a producer whose batches are too large, once all its records are reported; and one whose batches could be twice as large,
    /// while it is idle.
    fn resize_batches(&mut self, now: Instant) {
        if self.replace_at.is_some() {
            // The successor of a dead producer gets the right size anyway.
            self.shrinks_since = None;
            return;
        }
        let (wanted, in_force) = (self.outgoing.batch_size.bytes(now), self.outgoing.kafka.batch_bytes());
        let is_idle = self.outgoing.unreported() == 0;
        self.shrinks_since = (wanted < in_force).then(|| self.shrinks_since.unwrap_or(now));
        let shrinks = self.shrinks_since.is_some_and(|since| is_idle || now.duration_since(since) >= SHRINK_LIMIT);
        let grows = is_idle && wanted / 2 >= in_force;
        if shrinks || grows {
            self.replace_producer(now);
            self.shrinks_since = None;
        }
    }

    /// Schedules the replacement of a dead producer. It is delayed if the producer was new and nothing was delivered: otherwise the cause
    /// would kill one producer after the other.
    fn plan_replacement(&mut self, now: Instant) {
        let earliest = self.replaced.map_or(now, |(at, rest)| at + rest);
        // The error that killed it is reported a moment later.
        self.replace_at.get_or_insert(earliest.max(now + SHORT_BACKOFF));
    }

    /// The time until the next scheduled work, without regard to reports and orders.
    fn until_next(&self, now: Instant) -> Duration {
        let next =
            if self.is_held_up() { self.awaits_limits_until.max(self.replace_at) } else { self.outgoing.resume_at() };
        next.map_or(IDLE_WAIT, |next| next.saturating_duration_since(now))
    }

    fn observe(&mut self, control: &Control, now: Instant) {
        if now < self.observe_at {
            return;
        }
        self.observe_at = now + OBSERVE_EVERY;
        let is_any_broker_up = self.outgoing.kafka.is_any_broker_up();
        let overdue = self.watchdog.observe(&self.outgoing.oldest_in_flight(), is_any_broker_up, now);
        if !overdue.is_empty() {
            control.ask_for_leaders(overdue);
        }
        let unconfirmed = self.watchdog.unconfirmed(now);
        if !unconfirmed.is_empty() {
            control.report_unconfirmed(unconfirmed);
        }
        self.outgoing.observe(now);
    }
}
