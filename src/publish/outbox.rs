//! One topic on its way to Kafka: what is with the client, and from where the journal must be read again. It keeps the order.
//!
//! An outbox holds no captures. It sends records as the journal is read. If it cannot send, it *pauses* at that capture, and takes part
//! again when the journal is read from there. When a record fails, it is *stopped* until everything that it sent is reported, and pauses at
//! the first capture that failed. Captures that are delivered or in flight are skipped when they are read again.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::clock::UnixMillis;
use crate::journal::Position;
use crate::journal::Seq;
use crate::journal::Ticket;

use super::kafka::SendFailure;
use super::kafka::Verdict;

/// A timestamp this close to now is always sent, whatever Kafka has rejected before: it may have judged a whole batch.
const TRUSTED_MS: u64 = 1000;

/// The most bytes that a record takes in a batch beside its texts: lengths, deltas of timestamp and offset, checksum.
const IN_BATCH_BYTES: usize = 100;

const fn in_batch(bytes: usize) -> usize {
    bytes + IN_BATCH_BYTES
}

/// The pause of a topic after a failure: doubled each time, until a record is delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
    /// The limit if the failure has cost a producer, and so made other topics repeat records, for example if a topic is forbidden.
    pub(crate) lost_producer_max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(60),
            lost_producer_max: Duration::from_secs(600),
        }
    }
}

/// A capture that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutgoingCapture {
    pub(super) ticket: Ticket,
    pub(super) received: UnixMillis,
    /// It is a batch of events, and becomes a record for each.
    pub(super) is_batch: bool,
}

impl OutgoingCapture {
    pub(super) const fn seq(self) -> Seq {
        self.ticket.position.seq
    }
}

/// The position from which the journal must be read again.
#[derive(Debug, Clone, Copy)]
struct Pause {
    position: Position,
    /// When the oldest capture from there on was received.
    received: UnixMillis,
    /// The bytes that the next record needs in the budget, as far as they are known.
    needed_bytes: usize,
    /// The pass in which the pause was set.
    pass: u64,
}

/// The state of a capture whose records are with the client.
#[derive(Debug)]
struct InFlight {
    item: OutgoingCapture,
    unreported: usize,
    /// The first part that was not sent, if any.
    unsent_part: Option<usize>,
    failed: Option<(usize, Verdict)>,
}

/// A capture all of whose sent records are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReportedCapture {
    pub(super) item: OutgoingCapture,
    pub(super) outcome: SendOutcome,
}

/// The outcome of sending a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendOutcome {
    /// All parts are in Kafka.
    Delivered,
    /// The parts before this one are in Kafka; the others were not sent.
    DeliveredTo(usize),
    /// The parts before the given one are in Kafka; the given one failed.
    Failed(usize, Verdict),
}

/// Records in batches that were too large.
#[derive(Debug)]
pub(super) struct OversizedRecords {
    /// The error of one of them.
    pub(super) failure: SendFailure,
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) bytes_of_shortest: usize,
    /// Their captures, as far as these are completely reported.
    pub(super) items: Vec<OutgoingCapture>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The topic has been seen in the cluster.
    is_open: bool,
    in_flight: BTreeMap<Seq, InFlight>,
    unreported: usize,
    paused: Option<Pause>,
    is_stopped: bool,
    /// The last failure was that of its own record, and not a consequence of the producer's death.
    has_failed_itself: bool,
    /// Its failures kill producers, and so make other topics repeat records. Until a record is delivered, it sends one at a time:
    /// librdkafka sends a batch that is ready even when the batch before it is rejected.
    kills_producers: bool,
    /// A batch of it was too large. Until a record is delivered, at most one batch is with the client. Otherwise the client would send the
    /// next batch, a partition that is new to the producer would accept it, and it would overtake the rejected one.
    sends_one_batch: bool,
    /// The bytes in flight, as counted in a batch.
    unreported_bytes: usize,
    /// The capture that was reported last, and how many of its records were reported without one of another capture between them.
    last_reports: Option<(Seq, usize)>,
    /// Nothing may be sent before everything in flight is reported.
    waits_for_reports: bool,
    resume_at: Option<Instant>,
    backoff: Duration,
    /// How far, in milliseconds, a timestamp may be from now, if Kafka has rejected one. Records beyond that are sent without one: Kafka
    /// rejects them one at a time, and each rejection costs a producer.
    distance_ms_max: Option<u64>,
    oversized: Option<OversizedRecords>,
}

impl Outbox {
    /// Allows it to send: its topic exists.
    pub(super) const fn open(&mut self) {
        self.is_open = true;
    }

    /// Whether its topic has been seen in the cluster.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether it has nothing to send and nothing in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.paused.is_none()
    }

    /// Whether it accepts new captures from the journal.
    pub(super) const fn is_live(&self) -> bool {
        self.paused.is_none()
    }

    /// The oldest capture with the client, and how many of its records were reported one after the other. It changes when one of them is
    /// reported, also where the next is sent only then.
    pub(super) fn oldest_in_flight(&self) -> Option<(Seq, usize)> {
        let reports_of = |seq| self.last_reports.filter(|(last, _)| *last == seq).map_or(0, |(_, reports)| reports);
        self.in_flight.first_key_value().map(|(seq, _)| (*seq, reports_of(*seq)))
    }

    /// When the oldest undelivered capture was received.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        let in_flight = self.in_flight.first_key_value().map(|(_, in_flight)| in_flight.item.received);
        in_flight.into_iter().chain(self.paused.map(|pause| pause.received)).min()
    }

    /// Whether it takes part in a pass: it is live; or, in a pass that reads again from `reread_from`, it is paused no later than `seq` and
    /// has not paused in this pass.
    pub(super) fn is_in_pass(&self, seq: Seq, reread_from: Option<Seq>, pass: u64) -> bool {
        match (self.paused, reread_from) {
            (None, None) => true,
            (Some(pause), Some(from)) => pause.pass != pass && (from..=seq).contains(&pause.position.seq),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether a record may be sent now. A suspect is sent only when nothing is in flight.
    pub(super) fn can_send(&self, is_suspect: bool) -> bool {
        self.is_ready() && (!is_suspect || self.unreported == 0)
    }

    fn is_ready(&self) -> bool {
        self.is_open && !self.is_stopped && !self.waits_for_reports && self.resume_at.is_none()
    }

    /// Whether a record of `bytes` fits into the batch in flight, if only one batch may be sent.
    pub(super) const fn fits_batch(&self, bytes: usize, batch_bytes: usize) -> bool {
        !self.sends_one_batch || self.unreported == 0 || self.unreported_bytes + in_batch(bytes) <= batch_bytes
    }

    /// The first part of a capture that must be sent; `None`: it is in flight.
    pub(super) fn next_part(&self, seq: Seq) -> Option<usize> {
        match self.in_flight.get(&seq) {
            None => Some(0),
            Some(in_flight) => in_flight.unsent_part,
        }
    }

    /// The position from which to read the journal again now, and the bytes that the next record needs.
    pub(super) fn resumes(&self) -> Option<(Position, usize)> {
        self.paused.filter(|_| self.is_ready()).map(|pause| (pause.position, pause.needed_bytes))
    }

    /// Pauses at a capture of a pass in which it takes part.
    pub(super) fn pause_at(&mut self, item: OutgoingCapture, needed_bytes: usize, pass: u64) {
        let (position, received) = (item.ticket.position, item.received);
        self.paused = Some(Pause { position, received, needed_bytes, pass });
    }

    /// Goes back to a capture, unless it is paused at an earlier one.
    pub(super) fn go_back_to(&mut self, item: OutgoingCapture, pass: u64) {
        match &mut self.paused {
            Some(pause) if pause.position.seq < item.seq() => pause.pass = pass,
            Some(_) | None => self.pause_at(item, 0, pass),
        }
    }

    /// Ends a pass that has read from `from` to before `next`, or, if that is `None`, to the end. Its last capture was received at `last`.
    pub(super) fn passed(&mut self, from: Seq, next: Option<Position>, last: Option<UnixMillis>, pass: u64) {
        let Some(pause) = &mut self.paused else { return };
        let is_within = |seq: Seq| seq == from || next.is_none_or(|next| (from..next.seq).contains(&seq));
        if pause.pass == pass || pause.position.seq < from || !is_within(pause.position.seq) {
            return;
        }
        match next {
            Some(position) => {
                let received = last.unwrap_or(pause.received);
                *pause = Pause { position, received, needed_bytes: 0, pass: pause.pass };
            }
            None => self.paused = None,
        }
    }

    /// Records that a record of `bytes` was sent.
    pub(super) fn sent(&mut self, item: OutgoingCapture, bytes: usize, is_suspect: bool) {
        self.unreported += 1;
        self.unreported_bytes += in_batch(bytes);
        self.has_failed_itself = false;
        self.waits_for_reports |= is_suspect || self.kills_producers;
        self.of(item).unreported += 1;
    }

    /// Records that this part of a capture and the parts behind it are not sent for now.
    pub(super) fn stop_before(&mut self, item: OutgoingCapture, part: usize) -> Option<ReportedCapture> {
        // If no part before it is in flight, nothing was delivered, and a failure before is not over.
        self.in_flight.get_mut(&item.seq())?.unsent_part = Some(part);
        self.ended(item.seq())
    }

    /// Records that a part could not be handed to the client, and never can be as it is.
    pub(super) fn failed(
        &mut self,
        item: OutgoingCapture,
        part: usize,
        failure: SendFailure,
    ) -> Option<ReportedCapture> {
        self.of(item).fail(part, Verdict::Failed(failure));
        self.ended(item.seq())
    }

    /// Records that all parts of a capture were sent.
    pub(super) fn all_sent(&mut self, item: OutgoingCapture) -> Option<ReportedCapture> {
        self.of(item).unsent_part = None;
        self.ended(item.seq())
    }

    /// Handles the report of a record of `bytes`.
    pub(super) fn reported(
        &mut self,
        (seq, part): (Seq, usize),
        bytes: usize,
        verdict: Verdict,
    ) -> Option<ReportedCapture> {
        self.unreported -= 1;
        self.unreported_bytes -= in_batch(bytes);
        let before = self.last_reports.filter(|(last, _)| *last == seq).map_or(0, |(_, reports)| reports);
        self.last_reports = Some((seq, before + 1));
        self.waits_for_reports &= self.unreported > 0;
        let in_flight = self.in_flight.get_mut(&seq)?;
        in_flight.unreported -= 1;
        match verdict {
            Verdict::Delivered => {}
            Verdict::Unproven | Verdict::Failed(_) => {
                in_flight.fail(part, verdict);
                // The following records must not overtake it, even while its capture has parts in flight.
                self.waits_for_reports = self.unreported > 0;
            }
        }
        self.ended(seq)
    }

    /// Pauses sending until everything in flight is reported, without a failure.
    pub(super) const fn wait_for_reports(&mut self) {
        self.waits_for_reports = self.unreported > 0;
    }

    /// Stops at a capture that failed, until everything in flight is reported; then it backs off, at first for `rest`.
    pub(super) fn stop(&mut self, item: OutgoingCapture, pass: u64, rest: Duration, backoff: Backoff) {
        if !self.is_stopped {
            self.is_stopped = true;
            let max = if self.kills_producers { backoff.lost_producer_max } else { backoff.max };
            self.backoff = (self.backoff * 2).max(rest).min(max);
        }
        self.go_back_to(item, pass);
    }

    /// Whether it waits for reports after a failure.
    pub(super) const fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Records that Kafka rejected its own record.
    pub(super) const fn failed_itself(&mut self) {
        self.has_failed_itself = true;
    }

    /// Handles the death of the producer. If this topic was the cause, its backoff may grow further, to spare the other topics.
    pub(super) const fn lost_producer(&mut self) {
        self.kills_producers |= self.has_failed_itself;
    }

    /// Handles a delivery. If the capture was sent after the last failure, that failure is over.
    pub(super) const fn succeeded(&mut self) {
        if !self.is_stopped {
            self.backoff = Duration::ZERO;
            self.kills_producers = false;
            self.sends_one_batch = false;
        }
    }

    /// Sends nothing until `until`.
    pub(super) const fn back_off_until(&mut self, until: Instant) {
        self.resume_at = Some(until);
    }

    /// When its backoff ends.
    pub(super) const fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// Begins the backoff once it is stopped and everything is reported; ends a backoff that is over.
    pub(super) fn update_backoff(&mut self, now: Instant) {
        if self.is_stopped && self.unreported == 0 {
            self.is_stopped = false;
            self.resume_at = Some(now + self.backoff);
        }
        self.resume_at = self.resume_at.filter(|until| *until > now);
    }

    /// Records a record whose batch was too large.
    pub(super) fn add_oversized(&mut self, failure: SendFailure, bytes: usize) {
        self.sends_one_batch = true;
        let oversized = self.oversized.get_or_insert(OversizedRecords {
            failure,
            records: 0,
            bytes: 0,
            bytes_of_shortest: bytes,
            items: Vec::new(),
        });
        oversized.records += 1;
        oversized.bytes += bytes;
        oversized.bytes_of_shortest = oversized.bytes_of_shortest.min(bytes);
    }

    /// Records a capture that failed because the batch of one of its records was too large.
    pub(super) fn add_oversized_capture(&mut self, item: OutgoingCapture) {
        if let Some(oversized) = &mut self.oversized {
            oversized.items.push(item);
        }
    }

    /// The records in batches that were too large, since the last call.
    pub(super) const fn take_oversized(&mut self) -> Option<OversizedRecords> {
        self.oversized.take()
    }

    /// Records that Kafka rejected the timestamp of a record. Timestamps at least half as far from now are no longer sent.
    pub(super) fn distrust_timestamps(&mut self, received: UnixMillis, now: UnixMillis) {
        let distrusted = (now.0.abs_diff(received.0) / 2).max(TRUSTED_MS);
        self.distance_ms_max = Some(self.distance_ms_max.map_or(distrusted, |max| max.min(distrusted)));
    }

    /// The timestamp of a record; `None`: Kafka uses the time of sending.
    pub(super) fn timestamp_ms(&self, received: UnixMillis, now: impl FnOnce() -> UnixMillis) -> Option<i64> {
        let is_believed = |max| now().0.abs_diff(received.0) <= max;
        self.distance_ms_max.is_none_or(is_believed).then_some(received.0)
    }

    fn of(&mut self, item: OutgoingCapture) -> &mut InFlight {
        self.in_flight.entry(item.seq()).or_insert(InFlight { item, unreported: 0, unsent_part: Some(0), failed: None })
    }

    fn ended(&mut self, seq: Seq) -> Option<ReportedCapture> {
        let in_flight = self.in_flight.get(&seq)?;
        if in_flight.unreported > 0 {
            return None;
        }
        let outcome = match (in_flight.failed, in_flight.unsent_part) {
            (Some((part, verdict)), _) => SendOutcome::Failed(part, verdict),
            (None, Some(part)) => SendOutcome::DeliveredTo(part),
            (None, None) => SendOutcome::Delivered,
        };
        let item = in_flight.item;
        self.in_flight.remove(&seq);
        Some(ReportedCapture { item, outcome })
    }
}

impl InFlight {
    fn fail(&mut self, part: usize, verdict: Verdict) {
        let (first, before) = self.failed.unwrap_or((part, verdict));
        // Records of the same producer fail with a rejected one; their errors say nothing about them.
        self.failed = Some((first.min(part), if is_by_broker(before) { before } else { verdict }));
    }
}

const fn is_by_broker(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Delivered | Verdict::Unproven => false,
        Verdict::Failed(failure) => failure.is_by_broker(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use rdkafka::error::RDKafkaErrorCode as Code;

    const SHORT_BACKOFF: Duration = Duration::from_secs(1);
    const PASSING: Verdict = Verdict::Failed(SendFailure::Passing(Code::TopicAuthorizationFailed));

    fn item(seq: Seq) -> OutgoingCapture {
        let received = UnixMillis(i64::try_from(seq).unwrap());
        OutgoingCapture { ticket: Ticket::numbered(seq), received, is_batch: false }
    }

    fn position(seq: Seq) -> Position {
        item(seq).ticket.position
    }

    fn open() -> Outbox {
        let mut outbox = Outbox::default();
        outbox.open();
        outbox
    }

    fn send(outbox: &mut Outbox, seq: Seq) {
        outbox.sent(item(seq), 10, false);
        outbox.all_sent(item(seq));
    }

    /// Sends the first `parts` parts of a capture that has one more.
    fn send_parts(outbox: &mut Outbox, seq: Seq, parts: usize) {
        (0..parts).for_each(|_part| outbox.sent(item(seq), 10, false));
        assert_eq!(outbox.stop_before(item(seq), parts), None);
    }

    fn ended(seq: Seq, outcome: SendOutcome) -> Option<ReportedCapture> {
        Some(ReportedCapture { item: item(seq), outcome })
    }

    fn resumes_at(outbox: &Outbox) -> Option<Seq> {
        outbox.resumes().map(|(position, _)| position.seq)
    }

    #[test]
    fn after_a_failure_it_waits_for_all_reports_and_resumes_at_the_first_that_failed() {
        let (mut outbox, now) = (open(), clock::monotonic());
        (1..=4).for_each(|seq| send(&mut outbox, seq));
        assert_eq!(outbox.reported((3, 0), 10, PASSING), ended(3, SendOutcome::Failed(0, PASSING)));
        outbox.stop(item(3), 1, SHORT_BACKOFF, Backoff::default());
        assert!(!outbox.is_live() && !outbox.can_send(false));
        assert_eq!(outbox.reported((1, 0), 10, Verdict::Delivered), ended(1, SendOutcome::Delivered));
        assert_eq!(outbox.reported((2, 0), 10, PASSING), ended(2, SendOutcome::Failed(0, PASSING)));
        outbox.stop(item(2), 1, SHORT_BACKOFF, Backoff::default());
        outbox.update_backoff(now);
        assert_eq!((resumes_at(&outbox), outbox.resume_at()), (None, None), "one is not reported");

        assert_eq!(outbox.reported((4, 0), 10, Verdict::Delivered), ended(4, SendOutcome::Delivered));
        outbox.update_backoff(now);
        assert_eq!((resumes_at(&outbox), outbox.resume_at()), (None, Some(now + SHORT_BACKOFF)));
        outbox.update_backoff(now + SHORT_BACKOFF);
        assert_eq!(resumes_at(&outbox), Some(2));
        assert_eq!(outbox.oldest(), Some(UnixMillis(2)));
    }

    #[test]
    fn the_oldest_in_flight_changes_with_each_report_also_of_parts_sent_one_by_one() {
        let mut outbox = open();
        let mut seen = Vec::new();
        for part in 0..3 {
            outbox.sent(item(1), 10, true);
            assert_eq!(outbox.stop_before(item(1), part + 1), None);
            seen.push(outbox.oldest_in_flight());
            outbox.reported((1, part), 10, Verdict::Delivered);
        }
        assert_eq!(seen, [Some((1, 0)), Some((1, 1)), Some((1, 2))]);
        (2..=9).for_each(|seq| send(&mut outbox, seq));
        let stuck = outbox.oldest_in_flight();
        (3..=9).for_each(|seq| assert!(outbox.reported((seq, 0), 10, Verdict::Delivered).is_some()));
        assert_eq!(
            (stuck, outbox.oldest_in_flight()),
            (Some((2, 0)), Some((2, 0))),
            "the reports of others do not count"
        );
    }

    #[test]
    fn a_rest_doubles_until_something_is_delivered_after_the_failure() {
        let (mut outbox, mut now) = (open(), clock::monotonic());
        let mut rest = |outbox: &mut Outbox| {
            send(outbox, 1);
            outbox.reported((1, 0), 10, PASSING);
            outbox.stop(item(1), 1, SHORT_BACKOFF, Backoff::default());
            outbox.update_backoff(now);
            let rest = outbox.resume_at().unwrap() - now;
            now += rest;
            outbox.update_backoff(now);
            rest.as_secs()
        };
        assert_eq!([0; 8].map(|_| rest(&mut outbox)), [1, 2, 4, 8, 16, 32, 60, 60]);
        outbox.succeeded();
        assert_eq!(rest(&mut outbox), 1);
    }

    #[test]
    fn only_a_topic_that_kills_producers_backs_off_for_up_to_ten_minutes() {
        let (mut cause, mut beside, now) = (open(), open(), clock::monotonic());
        let rest = |outbox: &mut Outbox, has_failed_itself: bool| {
            send(outbox, 1);
            outbox.reported((1, 0), 10, PASSING);
            outbox.stop(item(1), 1, SHORT_BACKOFF, Backoff::default());
            if has_failed_itself {
                outbox.failed_itself();
            }
            outbox.lost_producer();
            outbox.update_backoff(now);
            let rest = outbox.resume_at().unwrap() - now;
            outbox.update_backoff(now + rest);
            rest.as_secs()
        };
        let rests = [0; 12].map(|_| (rest(&mut cause, true), rest(&mut beside, false)));
        assert_eq!(rests[5..], [(32, 32), (64, 60), (128, 60), (256, 60), (512, 60), (600, 60), (600, 60)]);
        cause.succeeded();
        assert_eq!(rest(&mut cause, false), 1);
    }

    #[test]
    fn where_it_paused_it_takes_part_again_in_a_later_pass_until_it_has_caught_up() {
        let mut outbox = open();
        assert!(outbox.is_in_pass(5, None, 1));
        outbox.pause_at(item(5), 100, 1);
        assert!(!outbox.is_in_pass(6, None, 1) && !outbox.is_in_pass(7, None, 2), "what is new is read again");
        assert_eq!(outbox.resumes().map(|(position, bytes)| (position.seq, bytes)), Some((5, 100)));

        // It is at hand when another reads from before, and passes over what was not its own.
        assert!(
            !outbox.is_in_pass(4, Some(3), 3) && outbox.is_in_pass(5, Some(3), 3) && outbox.is_in_pass(9, Some(3), 3)
        );
        outbox.passed(3, Some(position(10)), Some(UnixMillis(9)), 3);
        assert_eq!((resumes_at(&outbox), outbox.oldest()), (Some(10), Some(UnixMillis(9))));
        // It pauses in the middle of a pass, and goes no further in it.
        assert!(outbox.is_in_pass(12, Some(10), 4));
        outbox.pause_at(item(12), 100, 4);
        assert!(!outbox.is_in_pass(13, Some(10), 4));
        outbox.passed(10, Some(position(20)), None, 4);
        assert_eq!(outbox.resumes().map(|(position, bytes)| (position.seq, bytes)), Some((12, 100)));
        assert!(!outbox.is_in_pass(25, Some(20), 5), "it is still before that");
        outbox.passed(20, Some(position(30)), None, 5);
        assert_eq!(resumes_at(&outbox), Some(12));
        // Something that was sent before fails: it goes back, and on from there.
        outbox.go_back_to(item(14), 5);
        assert_eq!(resumes_at(&outbox), Some(12));
        outbox.go_back_to(item(2), 5);
        assert_eq!(resumes_at(&outbox), Some(2));
        outbox.passed(2, None, None, 6);
        assert!(outbox.is_live() && outbox.is_empty());
    }

    #[test]
    fn a_capture_in_flight_is_passed_over_when_it_is_read_again() {
        let mut outbox = open();
        assert_eq!(outbox.next_part(1), Some(0));
        send(&mut outbox, 1);
        assert_eq!(outbox.next_part(1), None);
        send_parts(&mut outbox, 2, 3);
        assert_eq!(outbox.next_part(2), Some(3));
    }

    #[test]
    fn a_capture_that_pauses_before_anything_of_it_is_sent_is_not_a_delivery() {
        let mut outbox = open();
        for part in [0, 3] {
            assert_eq!(outbox.stop_before(item(1), part), None);
            assert_eq!((outbox.next_part(1), outbox.oldest_in_flight()), (Some(0), None));
        }
    }

    #[test]
    fn a_batch_of_events_goes_on_at_the_first_part_that_was_not_delivered() {
        let mut outbox = open();
        send_parts(&mut outbox, 1, 2);
        assert_eq!(outbox.reported((1, 0), 10, Verdict::Delivered), None);
        assert_eq!(outbox.reported((1, 1), 10, Verdict::Delivered), ended(1, SendOutcome::DeliveredTo(2)));

        send_parts(&mut outbox, 2, 4);
        for (part, verdict) in [(0, Verdict::Delivered), (3, PASSING), (1, Verdict::Unproven)] {
            assert_eq!(outbox.reported((2, part), 10, verdict), None);
        }
        let failed = outbox.reported((2, 2), 10, Verdict::Delivered);
        assert_eq!(failed, ended(2, SendOutcome::Failed(1, Verdict::Unproven)));
        // More of it may follow while some is in flight.
        send_parts(&mut outbox, 3, 1);
        outbox.sent(item(3), 10, false);
        outbox.all_sent(item(3));
        assert_eq!(outbox.reported((3, 0), 10, Verdict::Delivered), None);
        assert_eq!(outbox.reported((3, 1), 10, Verdict::Delivered), ended(3, SendOutcome::Delivered));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_refused_record_decides_for_its_whole_batch_of_events() {
        let refused = Verdict::Failed(SendFailure::TooLarge(Code::MessageSizeTooLarge));
        let down = Verdict::Failed(SendFailure::Fatal(Code::GaplessGuarantee));
        for verdicts in [[refused, down], [down, refused]] {
            let mut outbox = open();
            send_parts(&mut outbox, 1, 2);
            assert_eq!(outbox.reported((1, 1), 10, verdicts[0]), None);
            assert_eq!(outbox.reported((1, 0), 10, verdicts[1]), ended(1, SendOutcome::Failed(0, refused)));
        }
    }

    #[test]
    fn a_suspect_is_sent_alone_until_all_its_records_are_reported() {
        let mut outbox = open();
        send(&mut outbox, 1);
        assert!(outbox.can_send(false) && !outbox.can_send(true));
        outbox.reported((1, 0), 10, Verdict::Delivered);
        assert!(outbox.can_send(true));
        outbox.sent(item(2), 10, true);
        outbox.sent(item(2), 10, true);
        outbox.all_sent(item(2));
        assert!(!outbox.can_send(false));
        assert_eq!(outbox.reported((2, 0), 10, Verdict::Delivered), None);
        assert!(!outbox.can_send(false));
        assert_eq!(outbox.reported((2, 1), 10, Verdict::Delivered), ended(2, SendOutcome::Delivered));
        assert!(outbox.can_send(true));
    }

    #[test]
    fn waiting_for_reports_that_are_all_there_is_no_wait() {
        let mut outbox = open();
        outbox.wait_for_reports();
        assert!(outbox.can_send(true));
    }

    #[test]
    fn a_part_that_fails_holds_what_follows_before_its_capture_has_ended() {
        let mut outbox = open();
        send_parts(&mut outbox, 1, 3);
        outbox.pause_at(item(1), 0, 1);
        assert!(outbox.resumes().is_some());
        assert_eq!(outbox.reported((1, 0), 10, PASSING), None);
        assert_eq!(outbox.resumes(), None, "the fourth part must not overtake the first");
        assert_eq!(outbox.reported((1, 1), 10, Verdict::Delivered), None);
        assert_eq!(outbox.reported((1, 2), 10, Verdict::Delivered), ended(1, SendOutcome::Failed(0, PASSING)));
    }

    #[test]
    fn after_a_too_large_batch_one_batch_at_a_time_is_sent_until_it_is_delivered() {
        let mut outbox = open();
        let batch_bytes = 2 * in_batch(10);
        send(&mut outbox, 1);
        send(&mut outbox, 2);
        assert!(outbox.fits_batch(10, batch_bytes), "nothing was refused");
        outbox.add_oversized(SendFailure::TooLarge(Code::MessageSizeTooLarge), 20);
        assert!(!outbox.fits_batch(10, batch_bytes));
        outbox.reported((1, 0), 10, Verdict::Unproven);
        assert!(outbox.fits_batch(10, batch_bytes), "it is one batch with what is left");
        outbox.reported((2, 0), 10, Verdict::Delivered);
        assert!(outbox.fits_batch(1000, batch_bytes), "what is longer has its own");
        send(&mut outbox, 3);
        assert!(!outbox.fits_batch(1000, batch_bytes));
        outbox.reported((3, 0), 10, Verdict::Delivered);
        outbox.succeeded();
        send(&mut outbox, 4);
        assert!(outbox.fits_batch(1000, batch_bytes));
    }
}
