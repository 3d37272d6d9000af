//! The pump: one thread that owns everything between the journal and Kafka's client.
//!
//! It takes entries in order, normalises them, and hands each record to its topic's *lane*. A lane sends in order; when a record fails,
//! the lane stops, waits until the fate of everything it sent is known, and sends what failed again, first and in order. So a topic that
//! cannot be written to holds up only itself, and the order per key survives what librdkafka gives back.
//!
//! A lane sends nothing before its topic has been seen in the cluster: records for a topic that the client does not know take paths in
//! librdkafka on which records were lost.
//!
//! What can be read again from disk is not piled up in memory: a lane that is full is *parked*, lets go of what follows, and reads it
//! again when it moves on. So an outage of hours grows the disk and not the process.
//!
//! Nothing is ever given up because of an error that may pass. A record that Kafka will never take goes to `<prefix>.rejected`. But Kafka
//! judges whole batches, so a record is believed to be bad only when it failed alone.

mod again;
mod fate;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::clock;
use crate::journal::Backlog;
use crate::journal::Entry;
use crate::journal::Settled;
use crate::metrics::publish::PublishMetrics;
use crate::metrics::publish::RecordOutcome;
use crate::normalise::Normaliser;
use crate::normalise::part::Parts;
use crate::record::Topics;
use crate::refusal::Reason;

use super::batch_size::BatchSize;
use super::control::Control;
use super::kafka::Failure;
use super::kafka::Kafka;
use super::kafka::Report;
use super::kafka::SendError;
use super::kafka::Verdict;
use super::lane::Group;
use super::lane::Item;
use super::lane::Lane;
use super::lane::Load;
use super::lane::Sent;
use super::lane::Unreported;
use super::watchdog::Watchdog;

/// Entries taken from the journal at a time, so that reports are looked at in between.
const TAKE_MAX: usize = 1024;
/// Of how many records one is timed while it is made: reading the clock twice costs a tenth of making it.
const SAMPLE_EVERY: u64 = 16;
/// How long a lane rests when the client's queue is full, or when a record is sent again that has not itself been refused.
const REST: Duration = Duration::from_millis(20);
/// How often the metrics of the pump are brought up to date, under load; otherwise at each turn.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// How long what is with the client is waited for before a producer is replaced that makes too large batches. What is not reported by then
/// is sent again, and may be in Kafka twice.
const SHRINK_LIMIT: Duration = Duration::from_secs(5);
/// How long a dead producer waits for the topics' limits if a batch was too large.
const LIMITS_WITHIN: Duration = Duration::from_secs(3);
/// How long the pump sleeps at most when nothing wakes it.
const NAP: Duration = Duration::from_millis(100);

/// How long a lane rests after a failure: doubled each time, until a record is delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
    /// Where the failure has cost a producer, and so the other topics a repeat: when a topic is forbidden, for example.
    pub(crate) refused_max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60), refused_max: Duration::from_secs(600) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pump {
    backlog: Backlog,
    kafka: Kafka,
    normaliser: Normaliser,
    topics: Arc<Topics>,
    metrics: PublishMetrics,
    /// How long entries gather before a turn. Nobody waits for them then.
    gather: Duration,
    backoff: Backoff,
    watchdog: Watchdog,
    lanes: Vec<Lane>,
    unreported: Unreported,
    next_order: u64,
    /// Some topic may be published to.
    may_publish: bool,
    batch_size: BatchSize,
    /// A batch was too large although the known limits allow it: perhaps they have changed.
    asks_for_limits: bool,
    /// A dead producer is not replaced until then, or until the topics' limits are told.
    awaits_limits_until: Option<Instant>,
    /// Since when a producer with smaller batches is wanted. Nothing is sent until it is there.
    shrinks_since: Option<Instant>,
    replace_at: Option<Instant>,
    /// When the last one was replaced, and how long must pass until the next is: doubled each time, until a record is delivered.
    replaced: Option<(Instant, Duration)>,
    observe_at: Instant,
    taken: VecDeque<Entry>,
    /// Behind the entry of the journal on disk that was taken last.
    next_seq: u64,
    reports: Vec<Report>,
    settled: Settled,
}

/// What a pump works with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) backlog: Backlog,
    pub(crate) kafka: Kafka,
    pub(crate) normaliser: Normaliser,
    pub(crate) topics: Arc<Topics>,
    pub(crate) metrics: PublishMetrics,
    pub(crate) gather: Duration,
    pub(crate) backoff: Backoff,
    /// How long a record may have no delivery report while Kafka is well, before there is a new producer.
    pub(crate) unreported_max: Duration,
}

impl Pump {
    /// A pump that has not begun.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { backlog, kafka, normaliser, topics, metrics, gather, backoff, unreported_max } = setup;
        let batch_size = BatchSize::new(kafka.batch_bytes());
        let topics_count = topics.names().len();
        let lanes = (0..topics_count).map(|_nth| Lane::default()).collect();
        Self {
            backlog,
            kafka,
            normaliser,
            topics,
            metrics,
            gather,
            backoff,
            watchdog: Watchdog::new(unreported_max, topics_count),
            lanes,
            unreported: Unreported::default(),
            next_order: 0,
            may_publish: false,
            batch_size,
            asks_for_limits: false,
            awaits_limits_until: None,
            shrinks_since: None,
            replace_at: None,
            replaced: None,
            observe_at: clock::monotonic(),
            taken: VecDeque::new(),
            next_seq: 0,
            reports: Vec::new(),
            settled: Settled::default(),
        }
    }

    /// Runs until the journal is closed and everything in it is in Kafka, or until `control` says to give up.
    pub(crate) fn run(mut self, control: &Control) {
        loop {
            let now = clock::monotonic();
            let orders = control.take();
            self.open(&orders.opened);
            if let Some(smallest) = orders.limit {
                self.batch_size.topics_take(smallest);
                self.awaits_limits_until = None;
            }
            self.take_reports(now);
            if std::mem::take(&mut self.asks_for_limits) && control.ask_for_limits() {
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
            let has_more = self.may_publish && (self.take_entries(now) | self.read_again());
            self.send_waiting(now);
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
        self.kafka.stop();
        let now = clock::monotonic();
        self.take_last_reports(now);
        self.observe_at = now;
        self.observe(control, now);
    }

    /// Lets the lanes of these topics send.
    fn open(&mut self, topics: &[usize]) {
        for topic in topics {
            if let Some(lane) = self.lanes.get_mut(*topic) {
                lane.open();
                self.may_publish = true;
            }
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.taken.is_empty() && self.lanes.iter().all(Lane::is_empty) && self.backlog.is_at_end()
    }

    /// Takes up some of what waits in the journal. Returns whether there may be more.
    fn take_entries(&mut self, now: Instant) -> bool {
        let mut taken = std::mem::take(&mut self.taken);
        let has_more = self.backlog.take(TAKE_MAX, &mut taken);
        let wall = clock::wall();
        for entry in taken.drain(..) {
            self.metrics.queued(wall.since(entry.capture.received));
            self.next_seq = entry.position.map_or(0, |position| position.seq + 1);
            let item = self.item(entry);
            self.route(item, true, now);
        }
        self.taken = taken;
        has_more
    }

    fn item(&mut self, entry: Entry) -> Item {
        let order = self.next_order;
        self.next_order += 1;
        Item { order, entry, is_suspect: false, is_refused: false, is_timeless: false, goes_on_at: None, poison: None }
    }

    /// Sends an item's record, or lines it up behind those of its topic. One that is new to its lane may be let go instead, if it can be
    /// read again.
    fn route(&mut self, mut item: Item, is_new: bool, now: Instant) {
        let parts = Parts::of(&item.entry.capture);
        if parts.is_batch() && item.poison.is_none() {
            self.route_parts(item, &parts, is_new, now);
            return;
        }
        let sample_began = item.order.is_multiple_of(SAMPLE_EVERY).then(clock::monotonic);
        let record = match &item.poison {
            None => self.normaliser.record(&item.entry.capture),
            Some(what) => self.normaliser.rejected(&item.entry.capture, Reason::Unpublishable.word(), what),
        };
        if let Some(began) = sample_began {
            self.metrics.normalised(clock::monotonic().duration_since(began));
        }
        let (topic, rejection) = (record.topic, record.rejection);
        let is_held_up = self.is_held_up();
        // Also what is let go takes the share of the topic that it goes to.
        self.backlog.moves_to(&item.entry, topic);
        let Some(lane) = self.lanes.get_mut(topic.index()) else { return };
        if is_new && !lane.lets_in(&item) {
            return;
        }
        if is_held_up || !lane.takes(&item) || !lane.waiting.is_empty() {
            lane.waiting.push_back(item);
            return;
        }
        let (sequence, bytes) = (self.unreported.next(), record.bytes());
        let sent = self.kafka.send(self.topics.name(topic), &record, lane.timestamp_ms(&item), sequence);
        match sent {
            Ok(()) => {
                lane.sent(item.is_suspect);
                let load = Load::Whole(item);
                self.unreported.insert(Sent { load, topic, rejection, sent_at: now, bytes });
            }
            Err(SendError::QueueFull) => {
                lane.waiting.push_back(item);
                lane.rests_until = Some(now + REST);
            }
            Err(SendError::Failed(failure)) => {
                // The client judges each record by itself.
                item.is_suspect |= matches!(failure, Failure::Poison(_));
                self.failed(item, topic, failure);
            }
        }
    }

    /// Does the same for an item that becomes several records. They share the lane of its command, also those that go to the rejected
    /// topic.
    fn route_parts(&mut self, item: Item, parts: &Parts, is_new: bool, now: Instant) {
        let capture = &item.entry.capture;
        let topic = self.topics.of(capture.app, capture.command);
        let is_held_up = self.is_held_up();
        // Also what is let go takes the share of the topic that it goes to.
        self.backlog.moves_to(&item.entry, topic);
        let Some(lane) = self.lanes.get_mut(topic.index()) else { return };
        if is_new && !lane.lets_in(&item) {
            return;
        }
        if is_held_up || !lane.takes(&item) || !lane.waiting.is_empty() {
            lane.waiting.push_back(item);
            return;
        }
        let group = Group::new();
        for (index, part) in parts.iter().enumerate().skip(item.goes_on_at.unwrap_or(0)) {
            let record = self.normaliser.record_of(&item.entry.capture, part);
            let rejection = record.rejection;
            let sequence = self.unreported.next();
            match self.kafka.send(self.topics.name(record.topic), &record, lane.timestamp_ms(&item), sequence) {
                Ok(()) => {
                    lane.sent(item.is_suspect);
                    group.sent();
                    let load = Load::Part(Rc::clone(&group));
                    self.unreported.insert(Sent { load, topic, rejection, sent_at: now, bytes: record.bytes() });
                }
                // The rest follows once these are known.
                Err(SendError::QueueFull) => {
                    group.stopped_at(index);
                    lane.wait_for_reports();
                    break;
                }
                Err(SendError::Failed(failure)) => {
                    group.failed(Verdict::Failed(failure));
                    break;
                }
            }
        }
        if let Some((item, verdict)) = group.hold(item) {
            self.ended(item, topic, verdict);
        }
    }

    /// Nothing is sent before there is another producer.
    const fn is_held_up(&self) -> bool {
        self.replace_at.is_some() || self.shrinks_since.is_some()
    }

    /// Sends what waits in lanes that may go on.
    fn send_waiting(&mut self, now: Instant) {
        if self.is_held_up() {
            return;
        }
        for index in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(index) else { return };
            lane.regroup(now);
            if lane.waiting.is_empty() {
                continue;
            }
            // Taken out whole: an item that cannot be sent lines up again, in order.
            let mut waiting = std::mem::take(&mut lane.waiting);
            while let (Some(lane), Some(item)) = (self.lanes.get(index), waiting.front())
                && lane.takes(item)
                && let Some(item) = waiting.pop_front()
            {
                self.route(item, false, now);
            }
            if let Some(lane) = self.lanes.get_mut(index) {
                lane.waiting.append(&mut waiting);
            }
        }
    }

    fn take_reports(&mut self, now: Instant) {
        let mut reports = std::mem::take(&mut self.reports);
        self.kafka.reports(&mut reports);
        for report in reports.drain(..) {
            let Some(Sent { load, topic, rejection, sent_at, bytes }) = self.unreported.remove(report.sequence) else {
                tracing::error!(sequence = report.sequence, "a delivery report names no record that was sent");
                continue;
            };
            if let Some(lane) = self.lanes.get_mut(topic.index()) {
                lane.reported();
                if let Verdict::Failed(failure @ Failure::TooLarge(_)) = report.verdict {
                    lane.refuse(topic, failure, bytes);
                    self.asks_for_limits |= !self.batch_size.explains(bytes);
                }
            }
            if report.verdict == Verdict::Delivered {
                self.metrics.delivered(now.saturating_duration_since(sent_at), rejection);
            }
            if let Some((item, verdict)) = load.reported(report.verdict) {
                self.ended(item, topic, verdict);
            }
        }
        self.reports = reports;
        self.backlog.free(&mut self.settled);
    }

    /// Settles what is in Kafka after all. The rest is not sent again: this is the end.
    fn take_last_reports(&mut self, now: Instant) {
        let mut reports = std::mem::take(&mut self.reports);
        self.kafka.reports(&mut reports);
        for report in reports.into_iter().filter(|report| report.verdict == Verdict::Delivered) {
            if let Some(sent) = self.unreported.remove(report.sequence) {
                self.metrics.delivered(now.saturating_duration_since(sent.sent_at), sent.rejection);
                if let Some((item, Verdict::Delivered)) = sent.load.reported(report.verdict)
                    && item.goes_on_at.is_none()
                {
                    self.delivered(&item, sent.topic);
                }
            }
        }
        self.backlog.free(&mut self.settled);
    }

    fn replace_if_dead(&mut self, now: Instant) {
        if self.kafka.is_fatal() {
            self.plan_replacement(now);
        }
        if self.replace_at.is_none_or(|at| at > now) || self.awaits_limits_until.is_some_and(|until| until > now) {
            return;
        }
        self.awaits_limits_until = None;
        let rest = self.replaced.map_or(REST, |(_, rest)| (rest * 2).min(self.backoff.max));
        self.replaced = Some((now, rest));
        self.kafka.count_dead();
        self.replace_producer(now);
    }

    /// Replaces a producer that reports nothing of some records, although their topics have leaders.
    fn replace_if_silent(&mut self, with_leaders: &[usize], now: Instant) {
        let silent = self.watchdog.restarts_for(with_leaders, now);
        if silent.is_empty() || self.replace_at.is_some() {
            return;
        }
        let names = silent.iter().filter_map(|topic| self.topics.names().get(*topic)).map(String::as_str);
        tracing::warn!(
            topics = names.collect::<Vec<_>>().join(", "),
            "kafka's client reports nothing of records although their topics have leaders; a new producer sends them again"
        );
        self.kafka.count_watchdog_restart();
        self.replace_producer(now);
    }

    fn replace_producer(&mut self, now: Instant) {
        self.watchdog.replaced();
        self.kafka.stop();
        self.take_reports(now);
        // What was never reported is not in Kafka, or nobody will ever say so.
        for Sent { load, topic, .. } in std::mem::take(&mut self.unreported).into_all() {
            if let Some(lane) = self.lanes.get_mut(topic.index()) {
                lane.reported();
            }
            self.metrics.ended(RecordOutcome::Failed);
            match load.reported(Verdict::Unproven) {
                Some((item, Verdict::Failed(failure))) if failure.is_refusal() => self.failed(item, topic, failure),
                Some((item, _)) => self.stop_lane(item, topic, REST),
                None => {}
            }
        }
        self.judge_refused(now);
        let (from, to) = (self.kafka.batch_bytes(), self.batch_size.bytes(now));
        if from != to {
            tracing::info!(from, to, "the producer's batch.size follows what the topics take");
        }
        self.replace_at = match self.kafka.replace(to) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "the kafka producer could not be replaced; it is tried again");
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
        let (wanted, in_force) = (self.batch_size.bytes(now), self.kafka.batch_bytes());
        let is_idle = self.unreported.len() == 0;
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
        let next = if self.is_held_up() {
            self.awaits_limits_until.or(self.replace_at)
        } else {
            self.lanes.iter().filter_map(|lane| lane.rests_until).min()
        };
        next.map_or(NAP, |next| next.saturating_duration_since(now))
    }

    fn observe(&mut self, control: &Control, now: Instant) {
        if now < self.observe_at {
            return;
        }
        self.observe_at = now + OBSERVE_EVERY;
        let oldest = self.unreported.oldest(self.lanes.len());
        let overdue = self.watchdog.observe(&oldest, self.kafka.is_any_broker_up(), now);
        if !overdue.is_empty() {
            control.ask_for_leaders(overdue);
        }
        let longest = oldest.into_iter().flatten().min().map(|sent_at| now.saturating_duration_since(sent_at));
        self.metrics.turned(self.unreported.len(), longest.unwrap_or_default());
    }
}
