//! Sends captures: makes records of them, hands these to the Kafka client through the outbox of their topic, and decides what happens to a
//! capture once its records are reported.
//!
//! Nothing is given up because of an error that may be temporary. A record that Kafka will never accept goes to the dead-letter topic
//! `<prefix>.rejected`. Since Kafka judges whole batches, a record counts as bad only if it failed alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::clock;
use crate::clock::UnixMillis;
use crate::journal::Outcomes;
use crate::journal::Position;
use crate::journal::Seq;
use crate::journal::Undelivered;
use crate::normalise::Normaliser;
use crate::normalise::part::Parts;
use crate::publish::metrics::PublishMetrics;
use crate::publish::metrics::RecordOutcome;
use crate::record::Record;
use crate::record::Topic;
use crate::record::Topics;
use crate::refusal::Reason;
use crate::refusal::Refusal;

use super::batch_size::BatchSize;
use super::budget::SendBudget;
use super::kafka::DeliveryReport;
use super::kafka::Kafka;
use super::kafka::SendError;
use super::kafka::SendFailure;
use super::kafka::Verdict;
use super::outbox::Backoff;
use super::outbox::Outbox;
use super::outbox::OutgoingCapture;
use super::outbox::OversizedRecords;
use super::outbox::ReportedCapture;
use super::outbox::SendOutcome;
use super::unreported::Sent;
use super::unreported::Unreported;

/// One of so many records is timed while it is made: reading the clock twice takes a tenth of the time of making it.
const SAMPLE_EVERY: u64 = 16;
/// The backoff if the client's queue is full, or before a record is retried that was not itself rejected.
pub(super) const SHORT_BACKOFF: Duration = Duration::from_millis(20);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) kafka: Kafka,
    normaliser: Arc<Normaliser>,
    pub(super) topics: Arc<Topics>,
    pub(super) metrics: PublishMetrics,
    backoff: Backoff,
    /// Captures that Kafka will never accept stay in the journal.
    keeps_given_up: bool,
    outboxes: Vec<Outbox>,
    /// Why the last record of each topic failed, until a record is delivered.
    last_failures: Vec<Option<SendFailure>>,
    budget: SendBudget,
    unreported: Unreported,
    /// The state of captures that were sent and not delivered.
    send_states: BTreeMap<Seq, SendState>,
    /// The number of the current pass over the journal.
    pass: u64,
    reread_from: Option<Seq>,
    last_received: Option<UnixMillis>,
    records: u64,
    pub(super) batch_size: BatchSize,
    /// A batch was too large although the known limits allow it: the limits may have changed.
    pub(super) asks_for_limits: bool,
    /// The producer is dead.
    pub(super) needs_producer: bool,
    /// Something was delivered since the last call.
    pub(super) has_delivered: bool,
    outcomes: Outcomes,
}

/// What Kafka has said about a capture so far.
#[derive(Debug, Clone, Default)]
struct SendState {
    /// Its batch was rejected. It is sent alone next, each part by itself, which shows whether it was the cause.
    is_suspect: bool,
    /// Kafka rejected its timestamp. It is sent without one.
    omits_timestamp: bool,
    /// The parts before this one are in Kafka.
    next_part: usize,
    /// The error, if Kafka will never accept its record, or that of the next part.
    poison: Option<String>,
    /// The raw record of the part that is poison was rejected once.
    has_failed_raw: bool,
    /// Kafka does not accept one of its parts in any form.
    lacks_part: bool,
    /// Kafka will not accept it in any form.
    is_given_up: bool,
}

/// Why a record was not handed to the client.
#[derive(Debug, Clone, Copy)]
enum Unsent {
    /// The budget has no room for it, which needs so many bytes.
    NoRoom(usize),
    /// What is in flight must be reported before it.
    MustWait,
    /// The client's queue is full.
    ClientFull,
    /// Its topic was not seen in the cluster yet: the dead-letter topic, for an event of a batch.
    NotSeen,
    Failed(SendFailure),
}

/// What an [`Outgoing`] needs.
#[derive(Debug)]
pub(super) struct OutgoingSetup {
    pub(super) kafka: Kafka,
    pub(super) normaliser: Normaliser,
    pub(super) topics: Arc<Topics>,
    pub(super) metrics: PublishMetrics,
    pub(super) backoff: Backoff,
    pub(super) budget_bytes: usize,
    pub(super) keeps_given_up: bool,
}

impl Outgoing {
    /// Nothing is being sent yet.
    pub(super) fn new(setup: OutgoingSetup) -> Self {
        let OutgoingSetup { kafka, normaliser, topics, mut metrics, backoff, budget_bytes, keeps_given_up } = setup;
        let count = topics.names().len();
        metrics.show_topics(topics.names());
        Self {
            batch_size: BatchSize::new(kafka.batch_bytes()),
            kafka,
            normaliser: Arc::new(normaliser),
            topics,
            metrics,
            backoff,
            keeps_given_up,
            outboxes: (0..count).map(|_| Outbox::default()).collect(),
            last_failures: vec![None; count],
            budget: SendBudget::new(budget_bytes, count),
            unreported: Unreported::default(),
            send_states: BTreeMap::new(),
            pass: 0,
            reread_from: None,
            last_received: None,
            records: 0,
            asks_for_limits: false,
            needs_producer: false,
            has_delivered: false,
            outcomes: Outcomes::default(),
        }
    }

    /// Lets the outbox of a topic send.
    pub(super) fn open(&mut self, topic: usize) {
        if let Some(outbox) = self.outboxes.get_mut(topic) {
            outbox.open();
        }
    }

    /// Whether no outbox has anything to send or in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.outboxes.iter().all(Outbox::is_empty)
    }

    /// Whether some topic has been seen in the cluster.
    pub(super) fn is_any_open(&self) -> bool {
        self.outboxes.iter().any(Outbox::is_open)
    }

    /// Whether only outboxes of topics that have not been seen have anything to send, and none has anything in flight.
    pub(super) fn is_only_unseen_left(&self) -> bool {
        self.outboxes.iter().all(|it| it.is_empty() || !it.is_open() && it.oldest_in_flight().is_none())
    }

    /// Whether some topic accepts new captures from the journal.
    pub(super) fn is_any_live(&self) -> bool {
        self.outboxes.iter().any(Outbox::is_live)
    }

    /// The number of records without a report.
    pub(super) fn unreported(&self) -> usize {
        self.unreported.len()
    }

    /// The outcomes of captures, for the journal to settle.
    pub(super) const fn outcomes(&mut self) -> &mut Outcomes {
        &mut self.outcomes
    }

    /// Updates the backoff of every outbox.
    pub(super) fn update_backoffs(&mut self, now: Instant) {
        self.outboxes.iter_mut().for_each(|outbox| outbox.update_backoff(now));
    }

    /// When the next backoff of an outbox ends.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        self.outboxes.iter().filter_map(Outbox::resume_at).min()
    }

    /// The position from which to read the journal again: that of the outbox farthest behind, among those that can continue.
    pub(super) fn resumes(&self) -> Option<Position> {
        if self.needs_producer {
            return None;
        }
        let each = self.topics.all().zip(&self.outboxes);
        let resumes = each.filter_map(|(topic, outbox)| {
            let (position, needed_bytes) = outbox.resumes()?;
            self.budget.has_much_room(topic, needed_bytes).then_some(position)
        });
        resumes.min_by_key(|position| position.seq)
    }

    /// Begins a pass: over new captures, or again from `reread_from` on.
    pub(super) const fn begin_pass(&mut self, reread_from: Option<Seq>) {
        self.pass += 1;
        self.reread_from = reread_from;
        self.last_received = None;
    }

    /// Ends a pass that read again: up to `next`, or to the end if that is `None`.
    pub(super) fn end_pass(&mut self, next: Option<Position>) {
        let (pass, last) = (self.pass, self.last_received);
        let Some(from) = self.reread_from else { return };
        self.outboxes.iter_mut().for_each(|outbox| outbox.passed(from, next, last, pass));
    }

    /// Sends a capture, if its topic takes part in this pass. If it cannot be sent now, the topic pauses there.
    pub(super) fn offer(&mut self, undelivered: &Undelivered<'_>, now: Instant) {
        let Undelivered { capture, ticket, share_topic } = undelivered;
        let item = OutgoingCapture { ticket: *ticket, received: capture.received, is_batch: false };
        self.last_received = Some(capture.received);
        let state = self.send_states.get(&item.seq()).cloned().unwrap_or_default();
        if state.is_given_up || !self.may_be_in_pass(capture, item) {
            return;
        }
        let parts = Parts::of(capture);
        if parts.is_batch() {
            self.offer_batch(capture, &parts, (OutgoingCapture { is_batch: true, ..item }, &state), now);
            return;
        }
        let normaliser = Arc::clone(&self.normaliser);
        self.records += 1;
        let sample_began = self.records.is_multiple_of(SAMPLE_EVERY).then(clock::monotonic);
        let record = match &state.poison {
            None => normaliser.record(capture),
            Some(what) => normaliser.dead_letter(capture, Reason::Unpublishable.word(), what),
        };
        if let Some(began) = sample_began {
            self.metrics.normalised(clock::monotonic().duration_since(began));
        }
        let topic = record.topic;
        // Captures that are not sent now also count for the share of their actual topic.
        if share_topic.is_some_and(|share_topic| share_topic != topic) {
            self.outcomes.moved(item.ticket, topic);
        }
        if self.first_part(topic, item, &state).is_none() {
            return;
        }
        match self.send(topic, &record, (item, 0, &state), now) {
            Ok(()) => self.all_sent(topic, item),
            Err(unsent) => self.unsent(unsent, topic, (item, 0), now),
        }
    }

    /// The same for a capture that becomes several records. They share the outbox of their command, even those that go to the dead-letter
    /// topic.
    fn offer_batch(
        &mut self,
        capture: &Capture,
        parts: &Parts,
        (item, state): (OutgoingCapture, &SendState),
        now: Instant,
    ) {
        let topic = self.topics.of(capture.app, capture.command);
        let Some(first) = self.first_part(topic, item, state) else { return };
        let normaliser = Arc::clone(&self.normaliser);
        for (index, part) in parts.iter().enumerate().skip(first) {
            let record = match &state.poison {
                Some(what) if index == state.next_part => {
                    normaliser.dead_letter_of(capture, part, Reason::Unpublishable.word(), what)
                }
                Some(_) | None => normaliser.record_of(capture, part),
            };
            let must_wait = index > first && !self.can_send(topic, state);
            let sent =
                if must_wait { Err(Unsent::MustWait) } else { self.send(topic, &record, (item, index, state), now) };
            if let Err(unsent) = sent {
                self.unsent(unsent, topic, (item, index), now);
                return;
            }
        }
        self.all_sent(topic, item);
    }

    /// Whether a topic that the capture may belong to takes part in this pass. Its topic is known only once it is normalised.
    fn may_be_in_pass(&self, capture: &Capture, item: OutgoingCapture) -> bool {
        let is_usable = match capture.outcome {
            CaptureOutcome::Happened | CaptureOutcome::Decided(_) => true,
            CaptureOutcome::Refused { .. } => false,
        };
        self.is_in_pass(self.topics.dead_letters(capture.app), item)
            || is_usable && self.is_in_pass(self.topics.of(capture.app, capture.command), item)
    }

    fn is_in_pass(&self, topic: Topic, item: OutgoingCapture) -> bool {
        let outbox = self.outboxes.get(topic.index());
        outbox.is_some_and(|outbox| outbox.is_in_pass(item.seq(), self.reread_from, self.pass))
    }

    /// The first part of a capture to send now. If it has one that cannot be sent, the topic pauses there.
    fn first_part(&mut self, topic: Topic, item: OutgoingCapture, state: &SendState) -> Option<usize> {
        if !self.is_in_pass(topic, item) {
            return None;
        }
        let outbox = self.outboxes.get_mut(topic.index())?;
        let first = outbox.next_part(item.seq())?.max(state.next_part);
        if self.needs_producer || !outbox.can_send(state.is_suspect) {
            outbox.pause_at(item, 0, self.pass);
            if state.is_suspect {
                outbox.wait_for_reports();
            }
            return None;
        }
        Some(first)
    }

    /// Hands a record to the client, through the outbox of `topic`.
    fn send(
        &mut self,
        topic: Topic,
        record: &Record<'_>,
        (item, part, state): (OutgoingCapture, usize, &SendState),
        now: Instant,
    ) -> Result<(), Unsent> {
        let is_seen = self.outboxes.get(record.topic.index()).is_some_and(Outbox::is_open);
        let Some(outbox) = self.outboxes.get_mut(topic.index()).filter(|_| is_seen) else {
            return Err(Unsent::NotSeen);
        };
        let cost = SendBudget::cost(record.bytes());
        if !self.budget.has_room(topic, cost) {
            return Err(Unsent::NoRoom(cost));
        }
        if !outbox.fits_batch(record.bytes(), self.kafka.batch_bytes()) {
            return Err(Unsent::MustWait);
        }
        let timestamp_ms = if state.omits_timestamp { None } else { outbox.timestamp_ms(item.received, clock::wall) };
        let record_number = self.unreported.next_number();
        self.kafka.send(self.topics.name(record.topic), record, timestamp_ms, record_number).map_err(|error| {
            match error {
                SendError::QueueFull => Unsent::ClientFull,
                SendError::Failed(failure) => Unsent::Failed(failure),
            }
        })?;
        outbox.sent(item, record.bytes(), state.is_suspect);
        self.budget.take(topic, cost);
        let (seq, dead_letter_reason, bytes) = (item.seq(), record.dead_letter_reason, record.bytes());
        self.unreported.insert(Sent { topic, seq, part, dead_letter_reason, sent_at: now, bytes });
        Ok(())
    }

    /// Whether another part of a capture may be sent now.
    fn can_send(&self, topic: Topic, state: &SendState) -> bool {
        self.outboxes.get(topic.index()).is_some_and(|outbox| outbox.can_send(state.is_suspect))
    }

    fn all_sent(&mut self, topic: Topic, item: OutgoingCapture) {
        if let Some(ended) = self.outboxes.get_mut(topic.index()).and_then(|outbox| outbox.all_sent(item)) {
            self.ended(ended, topic);
        }
    }

    /// Handles a part that was not sent: nothing behind it in the capture is sent either.
    fn unsent(&mut self, unsent: Unsent, topic: Topic, (item, part): (OutgoingCapture, usize), now: Instant) {
        let Some(outbox) = self.outboxes.get_mut(topic.index()) else { return };
        let unsent = match unsent {
            // A capture has one failure, that of its first part that failed: a part in flight must not get the failure of this one.
            Unsent::Failed(_) if item.is_batch && !outbox.can_send(true) => Unsent::MustWait,
            Unsent::NoRoom(_) | Unsent::MustWait | Unsent::ClientFull | Unsent::NotSeen | Unsent::Failed(_) => unsent,
        };
        let ended = match unsent {
            Unsent::NoRoom(bytes) => {
                outbox.pause_at(item, bytes, self.pass);
                outbox.stop_before(item, part)
            }
            Unsent::MustWait => {
                outbox.pause_at(item, 0, self.pass);
                outbox.wait_for_reports();
                outbox.stop_before(item, part)
            }
            Unsent::ClientFull => {
                outbox.pause_at(item, 0, self.pass);
                outbox.back_off_until(now + SHORT_BACKOFF);
                outbox.stop_before(item, part)
            }
            Unsent::NotSeen => {
                outbox.pause_at(item, 0, self.pass);
                // The topic may be missing for weeks, and each attempt reads the journal again.
                outbox.back_off_until(now + self.backoff.first);
                outbox.stop_before(item, part)
            }
            Unsent::Failed(failure) => {
                // The client judges each record separately.
                if matches!(failure, SendFailure::Poison(_)) {
                    self.send_states.entry(item.seq()).or_default().is_suspect = true;
                }
                // The following captures must not overtake the parts that were sent before.
                outbox.pause_at(item, 0, self.pass);
                outbox.wait_for_reports();
                outbox.failed(item, part, failure)
            }
        };
        if let Some(ended) = ended {
            self.ended(ended, topic);
        }
    }

    /// Handles delivery reports.
    pub(super) fn take_reports(&mut self, reports: impl IntoIterator<Item = DeliveryReport>, now: Instant) {
        for report in reports {
            let Some(sent) = self.unreported.remove(report.record_number) else {
                tracing::error!(
                    record_number = report.record_number,
                    "a delivery report names no record that was sent"
                );
                continue;
            };
            if let Verdict::Failed(failure @ SendFailure::TooLarge(_)) = report.verdict {
                self.asks_for_limits |= !self.batch_size.explains(sent.bytes);
                if let Some(outbox) = self.outboxes.get_mut(sent.topic.index()) {
                    outbox.add_oversized(failure, sent.bytes);
                }
            }
            let topic = sent.topic;
            if let Some(ended) = self.reported(&sent, report.verdict, now) {
                self.ended(ended, topic);
            }
        }
    }

    /// Handles the last reports before the end: settles what is in Kafka. Nothing is sent again.
    pub(super) fn take_last_reports(&mut self, reports: impl IntoIterator<Item = DeliveryReport>, now: Instant) {
        for report in reports {
            let Some(sent) = self.unreported.remove(report.record_number) else { continue };
            if let Some(ReportedCapture { item, outcome: SendOutcome::Delivered }) =
                self.reported(&sent, report.verdict, now)
            {
                self.delivered(item, sent.topic);
            }
        }
    }

    /// Handles the end of the producer: records without a report are treated as unproven, and sent again by the next producer.
    pub(super) fn lose_producer(&mut self, now: Instant) {
        for sent in self.unreported.take_all() {
            self.metrics.ended(RecordOutcome::Failed);
            let Some(ReportedCapture { item, outcome }) = self.reported(&sent, Verdict::Unproven, now) else {
                continue;
            };
            match outcome {
                SendOutcome::Failed(part, verdict) => {
                    self.set_next_part(item, part);
                    match verdict {
                        Verdict::Failed(failure) if failure.is_by_broker() => self.failed(item, sent.topic, failure),
                        Verdict::Failed(_) | Verdict::Unproven | Verdict::Delivered => {
                            self.stop(item, sent.topic, SHORT_BACKOFF);
                        }
                    }
                }
                // Impossible: one of its records has just failed.
                SendOutcome::Delivered | SendOutcome::DeliveredTo(_) => {}
            }
        }
        self.outboxes.iter_mut().for_each(Outbox::lost_producer);
        self.handle_oversized(now);
        self.needs_producer = false;
    }

    fn reported(&mut self, sent: &Sent, verdict: Verdict, now: Instant) -> Option<ReportedCapture> {
        self.budget.give(sent.topic, SendBudget::cost(sent.bytes));
        if verdict == Verdict::Delivered {
            self.metrics.delivered(now.saturating_duration_since(sent.sent_at), sent.dead_letter_reason);
        }
        self.outboxes.get_mut(sent.topic.index())?.reported((sent.seq, sent.part), sent.bytes, verdict)
    }

    fn ended(&mut self, ReportedCapture { item, outcome }: ReportedCapture, topic: Topic) {
        match outcome {
            SendOutcome::Delivered => self.delivered(item, topic),
            // The outbox has already paused there.
            SendOutcome::DeliveredTo(part) => {
                self.set_next_part(item, part);
                self.succeeded(topic);
            }
            SendOutcome::Failed(part, verdict) => {
                self.set_next_part(item, part);
                match verdict {
                    Verdict::Failed(failure) => self.failed(item, topic, failure),
                    Verdict::Unproven | Verdict::Delivered => self.unproven(item, topic),
                }
            }
        }
    }

    /// Records that the parts of a capture before this one need not be sent again.
    fn set_next_part(&mut self, item: OutgoingCapture, part: usize) {
        if part == 0 {
            return;
        }
        let state = self.send_states.entry(item.seq()).or_default();
        if part > state.next_part {
            (state.next_part, state.poison) = (part, None);
            self.has_delivered = true;
        }
    }

    /// Handles a delivery of a capture, or of parts of one.
    fn succeeded(&mut self, topic: Topic) {
        if let Some(outbox) = self.outboxes.get_mut(topic.index()) {
            outbox.succeeded();
        }
        if let Some(failure) = self.last_failures.get_mut(topic.index()) {
            *failure = None;
        }
    }

    fn delivered(&mut self, item: OutgoingCapture, topic: Topic) {
        self.has_delivered = true;
        self.succeeded(topic);
        if self.send_states.remove(&item.seq()).is_some_and(|state| state.lacks_part) {
            self.give_up(item);
        } else {
            self.outcomes.delivered(item.ticket);
        }
    }

    fn unproven(&mut self, item: OutgoingCapture, topic: Topic) {
        self.metrics.ended(RecordOutcome::Unproven);
        tracing::warn!(topic = self.topics.name(topic), "a delivery report has no offset; the record is retried");
        self.stop(item, topic, SHORT_BACKOFF);
    }

    fn failed(&mut self, item: OutgoingCapture, topic: Topic, failure: SendFailure) {
        let topics = Arc::clone(&self.topics);
        let name = topics.name(topic);
        // A fatal error also fails records of topics that work.
        if let Some(last) = self.last_failures.get_mut(topic.index())
            && !matches!(failure, SendFailure::Fatal(_))
        {
            *last = Some(failure);
        }
        let state = self.send_states.get(&item.seq()).cloned().unwrap_or_default();
        match failure {
            SendFailure::Timestamp(code) if !state.omits_timestamp => {
                self.metrics.ended(RecordOutcome::Failed);
                tracing::warn!(
                    topic = name,
                    %code,
                    received_ms = item.received.0,
                    "kafka rejects the timestamp of a record; records at least half as far from now are sent with the time of sending"
                );
                if let Some(outbox) = self.outboxes.get_mut(topic.index()) {
                    outbox.distrust_timestamps(item.received, clock::wall());
                }
                self.send_states.entry(item.seq()).or_default().omits_timestamp = true;
                self.stop(item, topic, SHORT_BACKOFF);
            }
            SendFailure::Passing(code) | SendFailure::Timestamp(code) => {
                self.metrics.ended(RecordOutcome::Failed);
                if self.outboxes.get(topic.index()).is_some_and(|outbox| !outbox.is_stopped()) {
                    tracing::warn!(topic = name, %code, "kafka did not accept a record; it is retried");
                }
                self.stop(item, topic, self.backoff.first);
                if let Some(outbox) = self.outboxes.get_mut(topic.index()) {
                    outbox.failed_itself();
                }
            }
            SendFailure::Fatal(_) => {
                self.metrics.ended(RecordOutcome::Failed);
                self.needs_producer = true;
                self.stop(item, topic, SHORT_BACKOFF);
            }
            SendFailure::TooLarge(_) if !state.is_suspect => {
                if let Some(outbox) = self.outboxes.get_mut(topic.index()) {
                    outbox.add_oversized_capture(item);
                }
                self.needs_producer = true;
                self.stop(item, topic, SHORT_BACKOFF);
            }
            SendFailure::Poison(_) if !state.is_suspect => {
                self.metrics.ended(RecordOutcome::Failed);
                self.send_states.entry(item.seq()).or_default().is_suspect = true;
                self.stop(item, topic, SHORT_BACKOFF);
            }
            SendFailure::Poison(_) | SendFailure::TooLarge(_) => self.dead_letter(item, topic, failure),
        }
    }

    /// Handles a record that failed alone: it goes to the dead-letter topic. If Kafka does not accept that either, it is given up. Either
    /// costs only this part of a capture.
    fn dead_letter(&mut self, item: OutgoingCapture, topic: Topic, failure: SendFailure) {
        let (name, code) = (self.topics.name(topic), failure.code());
        let state = self.send_states.entry(item.seq()).or_default();
        if item.is_batch && state.poison.is_some() && !state.has_failed_raw {
            // In the dead-letter topic it is not alone: it may have failed for another record of its Kafka batch.
            state.has_failed_raw = true;
            self.metrics.ended(RecordOutcome::Failed);
            self.stop(item, topic, SHORT_BACKOFF);
            return;
        }
        self.metrics.ended(RecordOutcome::Poison);
        if state.poison.is_some() {
            let consequence =
                if self.keeps_given_up { "it stays in the journal until the next start" } else { "it is lost" };
            tracing::error!(topic = name, %code, consequence, "kafka rejects the raw bytes of a callback as well");
            if !item.is_batch {
                self.give_up(item);
                return;
            }
            state.next_part += 1;
            (state.poison, state.lacks_part) = (None, true);
        } else {
            tracing::error!(topic = name, %code, "kafka rejects this record for good; it goes to the dead-letter topic");
            let poison = Some(code.to_string());
            *state = if item.is_batch {
                SendState { poison, has_failed_raw: false, ..state.clone() }
            } else {
                SendState { poison, ..SendState::default() }
            };
        }
        let next = if item.is_batch { topic } else { self.topics.dead_letters_beside(topic) };
        if let Some(outbox) = self.outboxes.get_mut(next.index()) {
            outbox.go_back_to(item, self.pass);
        }
    }

    /// Handles a capture that Kafka does not accept in any form.
    fn give_up(&mut self, item: OutgoingCapture) {
        if self.keeps_given_up {
            self.send_states.insert(item.seq(), SendState { is_given_up: true, ..SendState::default() });
        } else {
            self.send_states.remove(&item.seq());
        }
        self.outcomes.given_up(item.ticket, Refusal::Unpublishable);
    }

    /// Handles batches that were too large, once all records of the dead producer are reported: a record that had a batch to itself is too
    /// long for its topic; otherwise the batch size is halved.
    fn handle_oversized(&mut self, now: Instant) {
        let batch_bytes = self.kafka.batch_bytes();
        let mut too_long = Vec::new();
        for (topic, outbox) in self.topics.all().zip(&mut self.outboxes) {
            let Some(oversized) = outbox.take_oversized() else { continue };
            let OversizedRecords { failure, records, bytes, bytes_of_shortest, items } = oversized;
            // A record as long as the longest batch does not share its batch.
            if records == 1 || bytes_of_shortest >= batch_bytes {
                too_long.extend(items.into_iter().map(|item| (item, topic, failure)));
                continue;
            }
            let name = self.topics.name(topic);
            tracing::warn!(
                topic = name,
                records,
                bytes,
                "kafka rejects a batch as too large; it is retried in smaller batches"
            );
            self.batch_size.add_oversized(bytes.min(batch_bytes), now);
            items.iter().for_each(|_item| self.metrics.ended(RecordOutcome::Failed));
        }
        for (item, topic, failure) in too_long {
            self.send_states.entry(item.seq()).or_default().is_suspect = true;
            if item.is_batch {
                // The record may be that of another part than the first that failed.
                self.metrics.ended(RecordOutcome::Failed);
            } else {
                self.failed(item, topic, failure);
            }
        }
    }

    /// Stops the outbox until everything that it sent is reported; then it backs off, at first for `rest`.
    fn stop(&mut self, item: OutgoingCapture, topic: Topic, rest: Duration) {
        if let Some(outbox) = self.outboxes.get_mut(topic.index()) {
            outbox.stop(item, self.pass, rest, self.backoff);
        }
    }

    /// For each topic, the oldest capture with the client, and the number of its records without a report.
    pub(super) fn oldest_in_flight(&self) -> Vec<Option<(Seq, usize)>> {
        self.outboxes.iter().map(Outbox::oldest_in_flight).collect()
    }

    /// The last error of each topic that does not accept its records.
    pub(super) fn last_failures(&self) -> Vec<Option<String>> {
        self.last_failures.iter().map(|failure| failure.map(|failure| failure.code().to_string())).collect()
    }

    /// Updates the ages of the oldest records and captures.
    pub(super) fn observe(&mut self, now: Instant) {
        let wall = clock::wall();
        let oldest = self.unreported.oldest().map(|sent_at| now.saturating_duration_since(sent_at));
        self.metrics.turned(self.unreported.len(), oldest.unwrap_or_default());
        let ages = self.outboxes.iter().map(|outbox| outbox.oldest().map(|received| wall.since(received)));
        self.metrics.show_oldest(ages.map(Option::unwrap_or_default));
    }
}
