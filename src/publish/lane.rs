//! The records of one topic, on their way: in order, and as many at a time as one topic may have.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::clock;
use crate::clock::UnixMillis;
use crate::journal::Entry;
use crate::journal::Position;
use crate::record::Topic;

use super::kafka::Failure;
use super::kafka::Verdict;

/// How many records of one topic may be with the client, unreported. A topic that is slow or stuck cannot take all of its queue.
const CREDIT: usize = 10_000;
/// How many captures of one topic are held in memory when they can be read again.
const HELD_MAX: usize = 8_192;
/// And how many bytes of them.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A record whose time is no farther from now names it, whatever Kafka said of others: it may have judged a whole batch.
const NEVER_DOUBTED_MS: u64 = 1000;

/// An entry in the pump, with its place in the order and what Kafka said of it so far.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) order: u64,
    pub(super) entry: Entry,
    /// Its batch will never be taken. It is sent alone next, and then it is known whether it was to blame.
    pub(super) is_suspect: bool,
    /// The batch of one of its records was too large. What to do about it is known when all is reported.
    pub(super) is_refused: bool,
    /// Kafka refused the time of its record. It is sent without.
    pub(super) is_timeless: bool,
    /// Of a batch: those of its records that come before this one are in Kafka, and the client had no room for more.
    pub(super) goes_on_at: Option<usize>,
    /// Set when Kafka will never take its own record: what it said.
    pub(super) poison: Option<String>,
}

/// A record that is with the client.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) load: Load,
    /// The lane's.
    pub(super) topic: Topic,
    /// The record's.
    pub(super) rejection: Option<&'static str>,
    pub(super) sent_at: Instant,
    /// As [`crate::record::Record::bytes`].
    pub(super) bytes: usize,
}

/// What a record was made of.
#[derive(Debug)]
pub(super) enum Load {
    /// All of an item.
    Whole(Item),
    /// One of the parts of an item.
    Part(Rc<Group>),
}

/// An item that became several records. It succeeds or fails as one; what fails is sent again as a whole.
#[derive(Debug)]
pub(super) struct Group {
    item: RefCell<Option<Item>>,
    unreported: Cell<usize>,
    failed: Cell<Option<Verdict>>,
    /// The client had no room for this record and those behind it.
    stopped_at: Cell<Option<usize>>,
}

impl Group {
    /// A group of which nothing has been sent yet.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            item: RefCell::new(None),
            unreported: Cell::new(0),
            failed: Cell::new(None),
            stopped_at: Cell::new(None),
        })
    }

    /// All of it was sent that can be: here is what it was made of. It comes back at once if nothing is with the client.
    pub(super) fn hold(&self, item: Item) -> Option<(Item, Verdict)> {
        *self.item.borrow_mut() = Some(item);
        self.end()
    }

    /// One of its records was sent.
    pub(super) fn sent(&self) {
        self.unreported.set(self.unreported.get() + 1);
    }

    /// The client has no room for its records from this one on.
    pub(super) fn stopped_at(&self, index: usize) {
        self.stopped_at.set(Some(index));
    }

    /// Not all of it was delivered.
    pub(super) fn failed(&self, verdict: Verdict) {
        // A record that was refused takes others down with its producer; what became of those says nothing.
        let is_refusal = |verdict: Verdict| match verdict {
            Verdict::Delivered | Verdict::Unproven => false,
            Verdict::Failed(failure) => failure.is_refusal(),
        };
        if !self.failed.get().is_some_and(is_refusal) {
            self.failed.set(Some(verdict));
        }
    }

    /// One of its records was reported. Returns the item and what became of it when that was the last.
    pub(super) fn reported(&self, verdict: Verdict) -> Option<(Item, Verdict)> {
        self.unreported.set(self.unreported.get() - 1);
        match verdict {
            Verdict::Delivered => {}
            Verdict::Unproven | Verdict::Failed(_) => self.failed(verdict),
        }
        self.end()
    }

    /// The item and what became of it, if nothing of it is with the client.
    fn end(&self) -> Option<(Item, Verdict)> {
        if self.unreported.get() > 0 {
            return None;
        }
        let mut item = self.item.take()?;
        let verdict = self.failed.take().unwrap_or(Verdict::Delivered);
        // What fails is sent again as a whole.
        item.goes_on_at = self.stopped_at.get().filter(|_| verdict == Verdict::Delivered);
        Some((item, verdict))
    }
}

impl Load {
    /// A record was reported. Returns the item and what became of it, once that is known.
    pub(super) fn reported(self, verdict: Verdict) -> Option<(Item, Verdict)> {
        match self {
            Self::Whole(item) => Some((item, verdict)),
            Self::Part(group) => group.reported(verdict),
        }
    }
}

/// What was sent and not reported. A record's number is its place, which another takes once it is reported.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    places: Vec<Option<Sent>>,
    free: Vec<usize>,
}

impl Unreported {
    /// The number for the next record.
    pub(super) fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    /// Keeps a record that was sent under [`Unreported::next`].
    pub(super) fn insert(&mut self, sent: Sent) {
        match self.free.pop().and_then(|place| self.places.get_mut(place)) {
            Some(place) => *place = Some(sent),
            None => self.places.push(Some(sent)),
        }
    }

    pub(super) fn remove(&mut self, sequence: usize) -> Option<Sent> {
        let sent = self.places.get_mut(sequence).and_then(Option::take);
        if sent.is_some() {
            self.free.push(sequence);
        }
        sent
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// When the record that has waited longest was sent, for each of so many topics. Looks at every place.
    pub(super) fn oldest(&self, topics: usize) -> Vec<Option<Instant>> {
        let mut oldest: Vec<Option<Instant>> = vec![None; topics];
        for sent in self.places.iter().flatten() {
            if let Some(oldest) = oldest.get_mut(sent.topic.index()) {
                *oldest = Some(oldest.map_or(sent.sent_at, |before| before.min(sent.sent_at)));
            }
        }
        oldest
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = Sent> {
        self.places.into_iter().flatten()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Its topic has been seen in the cluster.
    is_open: bool,
    /// In order.
    pub(super) waiting: VecDeque<Item>,
    /// Failed since the lane stopped, by their place in the order.
    pub(super) failed: BTreeMap<u64, Item>,
    in_flight: usize,
    /// What is in flight is one suspect, or something else that nothing may follow before it is known.
    is_proving: bool,
    pub(super) rests_until: Option<Instant>,
    pub(super) backoff: Duration,
    /// Its last failure ended the producer. Until a record is delivered, one at a time is sent: librdkafka still sends a batch that it has
    /// made when the one before is refused.
    pub(super) has_cost_producer: bool,
    /// All that is here: waiting, in flight, failed.
    held: usize,
    held_bytes: usize,
    /// The first capture of this topic that was let go, to be read again when there is room. Until then all that follow are let go too.
    pub(super) parked: Option<Position>,
    /// How far a record's time may be from now, in milliseconds, if Kafka has refused one. Beyond it no time is named: Kafka refuses one
    /// record at a time, and each of them costs a producer.
    distance_ms_max: Option<u64>,
    /// What brokers refused as too large since the producer was made.
    refused: Option<Refused>,
}

/// Records of batches that were too large.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused {
    pub(super) topic: Topic,
    /// Why, as it was said of one of them.
    pub(super) failure: Failure,
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) bytes_of_shortest: usize,
}

impl Lane {
    /// The batch of a record was too large.
    pub(super) fn refuse(&mut self, topic: Topic, failure: Failure, bytes: usize) {
        let none = Refused { topic, failure, records: 0, bytes: 0, bytes_of_shortest: bytes };
        let refused = self.refused.get_or_insert(none);
        refused.records += 1;
        refused.bytes += bytes;
        refused.bytes_of_shortest = refused.bytes_of_shortest.min(bytes);
    }

    /// What was too large since this was asked last.
    pub(super) const fn take_refused(&mut self) -> Option<Refused> {
        self.refused.take()
    }

    /// Kafka refused the time of a record that was received at `received`. What is half as far from now is doubted from here on.
    pub(super) fn doubt(&mut self, received: UnixMillis, now: UnixMillis) {
        let doubted = (now.0.abs_diff(received.0) / 2).max(NEVER_DOUBTED_MS);
        self.distance_ms_max = Some(self.distance_ms_max.map_or(doubted, |max| max.min(doubted)));
    }

    /// When an item's record is to have happened in Kafka's eyes; `None`: when it is sent.
    pub(super) fn timestamp_ms(&self, item: &Item) -> Option<i64> {
        let received = item.entry.capture.received;
        let is_believed = |max| clock::wall().0.abs_diff(received.0) <= max;
        (!item.is_timeless && self.distance_ms_max.is_none_or(is_believed)).then_some(received.0)
    }

    /// Lets a new item in, unless it can be read again and there is no room for it now; then the lane is parked.
    pub(super) fn lets_in(&mut self, item: &Item) -> bool {
        let can_be_read_again = item.entry.position.filter(|_| item.poison.is_none());
        if let Some(position) = can_be_read_again
            && (self.parked.is_some() || !self.has_room())
        {
            self.parked.get_or_insert(position);
            return false;
        }
        self.hold(item);
        true
    }

    /// Whether there is room for another capture that could be read again instead.
    pub(super) const fn has_room(&self) -> bool {
        self.held < HELD_MAX && self.held_bytes < HELD_BYTES_MAX
    }

    /// From where it wants to read again: it was parked, is not held up, and much of its room is free.
    pub(super) fn wants(&self) -> Option<Position> {
        let is_moving = self.failed.is_empty() && self.rests_until.is_none();
        let has_much_room = self.held <= HELD_MAX / 2 && self.held_bytes <= HELD_BYTES_MAX / 2;
        self.parked.filter(|_| is_moving && has_much_room)
    }

    /// An item comes in, with all that follows from it.
    pub(super) fn hold(&mut self, item: &Item) {
        self.held += 1;
        self.held_bytes += item.entry.cost_bytes;
    }

    /// An item leaves.
    pub(super) fn release(&mut self, item: &Item) {
        self.held -= 1;
        self.held_bytes -= item.entry.cost_bytes;
    }

    /// Whether the item may be sent, if it is the next.
    pub(super) fn takes(&self, item: &Item) -> bool {
        let credit = if item.is_suspect || self.has_cost_producer { 1 } else { CREDIT };
        self.is_open
            && self.failed.is_empty()
            && self.rests_until.is_none()
            && !self.is_proving
            && self.in_flight < credit
    }

    /// Its topic is there.
    pub(super) const fn open(&mut self) {
        self.is_open = true;
    }

    pub(super) const fn sent(&mut self, is_suspect: bool) {
        self.in_flight += 1;
        self.is_proving = is_suspect;
    }

    pub(super) const fn reported(&mut self) {
        self.in_flight -= 1;
        // A suspect may be several records.
        self.is_proving &= self.in_flight > 0;
    }

    /// Lets nothing follow before all that is in flight is known.
    pub(super) const fn wait_for_reports(&mut self) {
        self.is_proving = self.in_flight > 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0 && self.parked.is_none()
    }

    /// Once everything sent is known, puts what failed first in line and rests.
    pub(super) fn regroup(&mut self, now: Instant) {
        if !self.failed.is_empty() && self.in_flight == 0 {
            for (_, item) in std::mem::take(&mut self.failed).into_iter().rev() {
                self.waiting.push_front(item);
            }
            self.rests_until = Some(now + self.backoff);
        }
        self.rests_until = self.rests_until.filter(|until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_of_several_records_is_alone_until_all_are_reported() {
        let mut lane = Lane::default();
        lane.sent(true);
        lane.sent(true);
        lane.reported();
        assert!(lane.is_proving);
        lane.reported();
        assert!(!lane.is_proving);
    }

    #[test]
    fn a_refused_record_decides_for_its_whole_batch_of_events() {
        use rdkafka::error::RDKafkaErrorCode as Code;
        let (refused, down) = (Failure::TooLarge(Code::MessageSizeTooLarge), Failure::Fatal(Code::GaplessGuarantee));
        for verdicts in [[refused, down], [down, refused]] {
            let group = Group::new();
            verdicts.into_iter().for_each(|failure| group.failed(Verdict::Failed(failure)));
            assert_eq!(group.failed.get(), Some(Verdict::Failed(refused)));
        }
    }

    #[test]
    fn who_waits_for_reports_that_are_all_there_waits_for_nothing() {
        let mut lane = Lane::default();
        lane.wait_for_reports();
        assert!(!lane.is_proving);
    }
}
