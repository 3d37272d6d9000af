//! The limit of bytes with the Kafka client, for all topics together.

use crate::record::Topic;
use crate::share::SharedRoom;

/// The default limit. With 100 ms from a record to its report it allows 240 MB a second, far more than a bridge receives; in an outage the
/// process grows by this much.
pub(crate) const BUDGET_BYTES: usize = 24 * 1024 * 1024;
/// The overhead of a record: in the client, which allocates each header, and in our maps of records in flight. Measured as the growth of
/// the process while a broker is frozen.
pub(super) const RECORD_BYTES: usize = 1000;
/// A topic that holds less than this may always send its next record, so that stuck topics cannot block it.
const FLOOR_BYTES: usize = 32 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct SendBudget {
    room: SharedRoom,
}

impl SendBudget {
    /// A budget of `bytes` for `topics` topics.
    pub(super) fn new(bytes: usize, topics: usize) -> Self {
        Self { room: SharedRoom::new(bytes, topics) }
    }

    /// The cost of a record, from [`crate::record::Record::bytes`].
    pub(super) const fn cost(record_bytes: usize) -> usize {
        record_bytes + RECORD_BYTES
    }

    /// Whether a topic may send `bytes` more.
    pub(super) fn has_room(&self, topic: Topic, bytes: usize) -> bool {
        self.room.taken_by(topic) < FLOOR_BYTES.min(self.room.capacity()) || self.room.has_room(topic, bytes)
    }

    /// Whether a paused topic may continue: there is room for what it needs, and it holds at most half of its share. So it reads much at a
    /// time.
    pub(super) fn has_much_room(&self, topic: Topic, needed_bytes: usize) -> bool {
        let taken = self.room.taken_by(topic);
        self.has_room(topic, needed_bytes) && self.room.has_room(topic, taken)
            || taken <= FLOOR_BYTES.min(self.room.capacity()) / 2
    }

    /// Takes room for a record that was sent.
    pub(super) fn take(&mut self, topic: Topic, bytes: usize) {
        self.room.take(topic, bytes);
    }

    /// Frees the room of a record that was reported.
    pub(super) fn give(&mut self, topic: Topic, bytes: usize) {
        self.room.give(topic, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Apps;
    use crate::command::Command;
    use crate::record::Topics;

    fn topics() -> Vec<Topic> {
        let (topics, app) = (Topics::new(["t"]), Apps::new([1]).iter().next().unwrap());
        Command::all().map(|command| topics.of(app, Some(command))).collect()
    }

    fn fill(budget: &mut SendBudget, topic: Topic, bytes: usize) -> usize {
        let mut taken = 0;
        while budget.has_room(topic, bytes) {
            budget.take(topic, bytes);
            taken += bytes;
        }
        taken
    }

    #[test]
    fn stuck_topics_leave_each_other_topic_its_share_or_at_least_its_floor() {
        let topics = topics();
        let mut budget = SendBudget::new(BUDGET_BYTES, topics.len());
        let (last, stuck) = topics.split_last().unwrap();
        let mut taken = 0;
        for topic in stuck {
            taken += fill(&mut budget, *topic, 1000);
        }
        assert!(taken < BUDGET_BYTES + topics.len() * (FLOOR_BYTES + 1000), "{taken}");
        for _ in 0..100 {
            let sent = fill(&mut budget, *last, 1000);
            assert!(sent >= FLOOR_BYTES, "{sent}");
            budget.give(*last, sent);
        }
    }

    #[test]
    fn the_longest_record_passes_in_the_smallest_budget_and_beside_stuck_topics() {
        let topics = topics();
        let longest = 1 << 20;
        let mut budget = SendBudget::new(1000, topics.len());
        assert!(budget.has_much_room(topics[0], longest));
        assert_eq!(fill(&mut budget, topics[0], longest), longest, "one at a time");
        assert_eq!(fill(&mut budget, topics[1], longest), longest, "and one of each topic");
        assert!(!budget.has_much_room(topics[0], longest));
        budget.give(topics[0], longest);
        assert!(budget.has_much_room(topics[0], longest));
    }

    #[test]
    fn a_topic_goes_on_once_it_holds_half_of_what_it_may() {
        let topics = topics();
        let mut budget = SendBudget::new(1_000_000, topics.len());
        fill(&mut budget, topics[0], 1000);
        assert!(!budget.has_much_room(topics[0], 1000));
        budget.give(topics[0], 1000);
        assert!(budget.has_room(topics[0], 1000) && !budget.has_much_room(topics[0], 1000));
        budget.give(topics[0], 400_000);
        assert!(budget.has_much_room(topics[0], 1000));
    }
}
