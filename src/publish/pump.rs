//! The pump: one thread that owns everything between the journal and Kafka's client.
//!
//! It reads the journal in order and offers each capture to what is [`outgoing`](super::outgoing), where each topic has an *outbox*. A topic
//! that cannot send pauses, and takes part again when the journal is read again from there, once for all that are equally far. So a topic
//! that cannot be written to holds up only itself, an outage of hours grows the disk and not the process, and the order per key survives
//! what librdkafka gives back.
//!
//! Nothing is sent to a topic before it has been seen in the cluster: records for a topic that the client does not know take paths in
//! librdkafka on which records were lost.

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
use super::outgoing::REST;
use super::watchdog::Watchdog;

/// Captures read from the journal at a time, so that reports are looked at in between.
const READ_MAX: usize = 1024;
/// How often the metrics of the pump are brought up to date, under load; otherwise at each turn.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// How long what is with the client is waited for before a producer is replaced that makes too large batches. What is not reported by then
/// is sent again, and may be in Kafka twice.
const SHRINK_LIMIT: Duration = Duration::from_secs(5);
/// How long a dead producer waits for the topics' limits if a batch was too large.
const LIMITS_WITHIN: Duration = Duration::from_secs(3);
/// How long the pump sleeps at most when nothing wakes it.
const NAP: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pump {
    backlog: Backlog,
    outgoing: Outgoing,
    /// How long captures gather before a turn. Nobody waits for them then.
    gather: Duration,
    backoff: Backoff,
    watchdog: Watchdog<(Seq, usize)>,
    /// Some topic may be published to.
    may_publish: bool,
    /// A dead producer is not replaced until then, or until the topics' limits are told.
    awaits_limits_until: Option<Instant>,
    /// Since when a producer with smaller batches is wanted. Nothing is sent until it is there.
    shrinks_since: Option<Instant>,
    replace_at: Option<Instant>,
    /// When the last one was replaced, and how long must pass until the next is: doubled each time, until a record is delivered.
    replaced: Option<(Instant, Duration)>,
    observe_at: Instant,
    reports: Vec<DeliveryReport>,
}

/// What a pump works with.
#[derive(Debug)]
pub(crate) struct PumpSetup {
    pub(crate) backlog: Backlog,
    pub(crate) kafka: Kafka,
    pub(crate) normaliser: Normaliser,
    pub(crate) topics: Arc<Topics>,
    pub(crate) metrics: PublishMetrics,
    pub(crate) gather: Duration,
    pub(crate) backoff: Backoff,
    /// What may be with the client.
    pub(crate) budget_bytes: usize,
    /// How long a record may have no delivery report while Kafka is well, before there is a new producer.
    pub(crate) unreported_max: Duration,
}

impl Pump {
    /// A pump that has not begun.
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
            may_publish: false,
            awaits_limits_until: None,
            shrinks_since: None,
            replace_at: None,
            replaced: None,
            observe_at: clock::monotonic(),
            reports: Vec::new(),
        }
    }

    /// Runs until the journal is closed and everything in it is in Kafka, or until `control` says to give up. Returns what Kafka said last of
    /// each topic that does not take its records, by its place among the names.
    pub(crate) fn run(mut self, control: &Control) -> Vec<Option<String>> {
        loop {
            let now = clock::monotonic();
            let orders = control.take();
            for topic in orders.opened {
                self.outgoing.open(topic);
                self.may_publish = true;
            }
            if let Some(smallest) = orders.limit {
                self.outgoing.batch_size.topics_take(smallest);
                self.awaits_limits_until = None;
            }
            self.take_reports(now);
            if std::mem::take(&mut self.outgoing.asks_for_limits) && control.ask_for_limits() {
                self.awaits_limits_until = Some(now + LIMITS_WITHIN);
            }
            self.replace_if_dead(now);
            if let Some(topics) = orders.with_leaders {
                self.replace_if_silent(&topics, now);
            }
            self.resize_batches(now);
            if orders.is_applying && self.shrinks_since.is_none() {
                control.limit_is_applied();
            }
            self.outgoing.turn(now);
            let has_more = !self.is_held_up() && (self.read_again(now) | self.read(now));
            self.observe(control, now);
            let give_up_at = orders.give_up_at;
            // What came before the topics were there has no way to go any more.
            if self.is_at_end() || give_up_at.is_some_and(|deadline| deadline <= now || !self.may_publish) {
                break;
            }
            if has_more {
                continue;
            }
            let nap = give_up_at.map_or(NAP, |deadline| NAP.min(deadline.saturating_duration_since(now)));
            thread::park_timeout(nap.min(self.until_next(now)));
            if give_up_at.is_none() && !self.gather.is_zero() {
                thread::sleep(self.gather);
            }
        }
        self.outgoing.kafka.stop();
        let now = clock::monotonic();
        let mut reports = std::mem::take(&mut self.reports);
        self.outgoing.kafka.reports(&mut reports);
        self.outgoing.take_last_reports(reports, now);
        self.backlog.settle(self.outgoing.settled());
        self.observe_at = now;
        self.observe(control, now);
        self.outgoing.last_failures()
    }

    fn is_at_end(&mut self) -> bool {
        self.outgoing.is_empty() && self.backlog.is_at_end()
    }

    /// Offers what is new in the journal, as long as some topic takes it. Returns whether there may be more.
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
        backlog.settle(outgoing.settled());
        has_more
    }

    /// Reads again from where topics have paused that can go on. Returns whether there may be more.
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
                    // The disk does not read now.
                    return false;
                }
                read_bytes += bytes;
            }
            count += 1;
            let read_to = backlog.read_to();
            outgoing.end_pass(read.map(|(next, _bytes)| next).filter(|next| next.seq < read_to));
            backlog.settle(outgoing.settled());
        }
        true
    }

    /// Nothing is sent before there is another producer.
    const fn is_held_up(&self) -> bool {
        self.replace_at.is_some() || self.shrinks_since.is_some()
    }

    fn take_reports(&mut self, now: Instant) {
        self.outgoing.kafka.reports(&mut self.reports);
        self.outgoing.take_reports(self.reports.drain(..), now);
        self.backlog.settle(self.outgoing.settled());
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
        let rest = self.replaced.map_or(REST, |(_, rest)| (rest * 2).min(self.backoff.max));
        self.replaced = Some((now, rest));
        self.outgoing.kafka.count_dead();
        self.replace_producer(now);
    }

    /// Replaces a producer that reports nothing of some records, although their topics have leaders.
    fn replace_if_silent(&mut self, with_leaders: &[usize], now: Instant) {
        let silent = self.watchdog.restarts_for(with_leaders, now);
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
        self.backlog.settle(self.outgoing.settled());
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

    /// Replaces a producer whose batches are larger than they may be, once all that is with it is reported; and one whose batches could be
    /// twice as large, when nothing is with it.
    fn resize_batches(&mut self, now: Instant) {
        if self.replace_at.is_some() {
            // The successor of a dead one has the right size.
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

    /// The producer is dead. It is replaced soon, unless it died young and nothing was delivered: whatever kills them would be fed new
    /// ones without end.
    fn plan_replacement(&mut self, now: Instant) {
        let earliest = self.replaced.map_or(now, |(at, rest)| at + rest);
        // What has killed it is reported a moment after its death.
        self.replace_at.get_or_insert(earliest.max(now + REST));
    }

    /// How long there is nothing to do, unless a report or an order comes.
    fn until_next(&self, now: Instant) -> Duration {
        let next =
            if self.is_held_up() { self.awaits_limits_until.max(self.replace_at) } else { self.outgoing.resume_at() };
        next.map_or(NAP, |next| next.saturating_duration_since(now))
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
