//! What becomes of an item once the fate of its records is known.

use std::time::Duration;
use std::time::Instant;

use crate::clock;
use crate::metrics::publish::RecordOutcome;
use crate::publish::kafka::Failure;
use crate::publish::kafka::Verdict;
use crate::publish::lane::Item;
use crate::publish::lane::Refused;
use crate::record::Topic;
use crate::refusal::Reason;

use super::Pump;
use super::REST;

impl Pump {
    pub(super) fn ended(&mut self, item: Item, topic: Topic, verdict: Verdict) {
        match verdict {
            Verdict::Delivered if item.goes_on_at.is_some() => self.go_on(item, topic),
            Verdict::Delivered => self.delivered(&item, topic),
            Verdict::Unproven => self.unproven(item, topic),
            Verdict::Failed(failure) => self.failed(item, topic, failure),
        }
    }

    pub(super) fn delivered(&mut self, item: &Item, topic: Topic) {
        self.replaced = None;
        if let Some(lane) = self.lanes.get_mut(topic.index())
            // While a lane is stopped, what was sent before may still arrive; that is no sign that the failure has passed.
            && lane.failed.is_empty()
        {
            lane.backoff = Duration::ZERO;
            lane.has_cost_producer = false;
        }
        self.release(item, topic);
        self.backlog.settle(&item.entry, &mut self.settled);
    }

    /// Part of it is in Kafka, and the client had no room for the rest, which is the next of its lane.
    fn go_on(&mut self, item: Item, topic: Topic) {
        if let Some(lane) = self.lanes.get_mut(topic.index()) {
            lane.waiting.push_front(item);
            lane.rests_until = Some(clock::monotonic() + REST);
        }
    }

    fn unproven(&mut self, item: Item, topic: Topic) {
        self.metrics.ended(RecordOutcome::Unproven);
        tracing::warn!(
            topic = self.topics.name(topic),
            "kafka's client reports a delivery without an offset; the record is sent again"
        );
        self.stop_lane(item, topic, REST);
    }

    pub(super) fn failed(&mut self, mut item: Item, topic: Topic, failure: Failure) {
        let name = self.topics.name(topic);
        match failure {
            Failure::Timestamp(code) if !item.is_timeless => {
                self.metrics.ended(RecordOutcome::Failed);
                tracing::warn!(
                    topic = name,
                    %code,
                    received_ms = item.entry.capture.received.0,
                    "kafka refuses the time of a record; it, and others that are half as far from now, get the time of sending"
                );
                if let Some(lane) = self.lanes.get_mut(topic.index()) {
                    lane.doubt(item.entry.capture.received, clock::wall());
                }
                item.is_timeless = true;
                self.stop_lane(item, topic, REST);
            }
            Failure::Passing(code) | Failure::Timestamp(code) => {
                self.metrics.ended(RecordOutcome::Failed);
                if let Some(lane) = self.lanes.get_mut(topic.index()).filter(|lane| lane.failed.is_empty()) {
                    lane.has_cost_producer = self.kafka.is_fatal();
                    tracing::warn!(topic = name, %code, "kafka did not take a record; it is sent again");
                }
                self.stop_lane(item, topic, self.backoff.first);
            }
            Failure::Fatal(_) => {
                self.metrics.ended(RecordOutcome::Failed);
                self.plan_replacement(clock::monotonic());
                self.stop_lane(item, topic, REST);
            }
            Failure::TooLarge(_) if !item.is_suspect => {
                item.is_refused = true;
                self.plan_replacement(clock::monotonic());
                self.stop_lane(item, topic, REST);
            }
            Failure::Poison(_) if !item.is_suspect => {
                self.metrics.ended(RecordOutcome::Failed);
                item.is_suspect = true;
                self.stop_lane(item, topic, REST);
            }
            Failure::Poison(code) | Failure::TooLarge(code) if item.poison.is_none() => {
                self.metrics.ended(RecordOutcome::Poison);
                tracing::error!(topic = name, %code, "kafka will never take this record; it goes to the rejected topic");
                item.is_suspect = false;
                item.poison = Some(code.to_string());
                self.release(&item, topic);
                self.route(item, true, clock::monotonic());
            }
            Failure::Poison(code) | Failure::TooLarge(code) => {
                self.metrics.ended(RecordOutcome::Poison);
                self.release(&item, topic);
                let stays = self.backlog.give_up(&item.entry, Reason::Unpublishable, &mut self.settled);
                let fate = if stays { "it stays in the journal until the next start" } else { "it is lost" };
                let name = self.topics.name(topic);
                tracing::error!(topic = name, %code, fate, "kafka does not even take the raw bytes of a callback");
            }
        }
    }

    /// Decides what to do about batches that were too large, once all that the dead producer had is reported: a record that had its batch to
    /// itself is too long for its topic; else batches are halved.
    pub(super) fn judge_refused(&mut self, now: Instant) {
        let batch_bytes = self.kafka.batch_bytes();
        let mut too_long = Vec::new();
        for lane in &mut self.lanes {
            let Some(refused) = lane.take_refused() else { continue };
            let Refused { topic, failure, records, bytes, bytes_of_shortest } = refused;
            // Nothing shares a batch with a record that is as long as the longest batch.
            if records == 1 || bytes_of_shortest >= batch_bytes {
                let items = lane.failed.extract_if(.., |_order, item| item.is_refused);
                too_long.extend(items.map(|(_order, item)| (item, topic, failure)));
                continue;
            }
            let name = self.topics.name(topic);
            tracing::warn!(
                topic = name,
                records,
                bytes,
                "kafka refuses a batch as too large; it is sent again in smaller ones"
            );
            self.batch_size.refused(bytes.min(batch_bytes), now);
            for item in lane.failed.values_mut().filter(|item| item.is_refused) {
                item.is_refused = false;
                self.metrics.ended(RecordOutcome::Failed);
            }
        }
        for (mut item, topic, failure) in too_long {
            item.is_refused = false;
            item.is_suspect = true;
            self.failed(item, topic, failure);
        }
    }

    fn release(&mut self, item: &Item, topic: Topic) {
        if let Some(lane) = self.lanes.get_mut(topic.index()) {
            lane.release(item);
        }
    }

    /// Stops the lane until everything it sent is known; then it rests, at first for `rest`.
    pub(super) fn stop_lane(&mut self, item: Item, topic: Topic, rest: Duration) {
        let Some(lane) = self.lanes.get_mut(topic.index()) else { return };
        if lane.failed.is_empty() {
            let max = if lane.has_cost_producer { self.backoff.refused_max } else { self.backoff.max };
            lane.backoff = (lane.backoff * 2).max(rest).min(max);
        }
        lane.failed.insert(item.order, item);
    }
}
