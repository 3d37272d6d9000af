//! Room that topics share, in any unit, so that a stuck topic cannot take all of it.
//!
//! A topic may hold at most four times the free room. So a single topic gets four fifths of it, and k topics that fill up at the same time
//! leave 1/(4k+1). Topics that get stuck one after the other would leave a fifth of a fifth and so on, since room that is held cannot be
//! revoked. So each topic is also guaranteed a part that no other topic can take: a sixteenth of the room, divided by the number of topics.

use crate::record::Topic;

/// A topic may hold this many times the free room.
const SHARE: usize = 4;
/// The guaranteed parts together are this fraction (one sixteenth) of the room.
const SURE_PART: usize = 16;

/// See the [module](self).
#[derive(Debug)]
pub struct SharedRoom {
    capacity: usize,
    taken: usize,
    /// The room held by each topic. Room may also be held without a topic.
    by_topic: Vec<usize>,
    /// The guaranteed part of each topic.
    sure: usize,
    /// The guaranteed room that topics do not hold.
    unclaimed: usize,
}

/// What has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The whole room.
    Total,
    /// The share of the topic; other topics may have room.
    Topic,
}

impl SharedRoom {
    /// Room for `capacity`, shared by `topics` topics.
    pub fn new(capacity: usize, topics: usize) -> Self {
        let sure = capacity / (SURE_PART * topics.max(1));
        Self { capacity, taken: 0, by_topic: vec![0; topics], sure, unclaimed: sure * topics }
    }

    /// The whole room.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The free room.
    pub const fn free(&self) -> usize {
        self.capacity.saturating_sub(self.taken)
    }

    /// The room that is held.
    pub const fn taken(&self) -> usize {
        self.taken
    }

    /// The room that `topic` holds.
    pub fn taken_by(&self, topic: Topic) -> usize {
        self.by_topic.get(topic.index()).copied().unwrap_or(0)
    }

    /// The amount to count for `amount`: more than the capacity counts as the capacity, so that it can pass.
    pub fn clamp(&self, amount: usize) -> usize {
        amount.min(self.capacity)
    }

    /// Checks whether there is room for `amount`. Without a topic only the whole room counts.
    ///
    /// # Errors
    ///
    /// What has no room.
    pub fn check(&self, topic: impl Into<Option<Topic>>, amount: usize) -> Result<(), NoRoom> {
        let free = self.free();
        // An amount larger than the whole room takes all of it, once nothing else is held.
        let held = topic.into().and_then(|topic| self.by_topic.get(topic.index())).copied();
        if let Some(held) = held
            && held.saturating_add(amount) > self.sure
            && self.taken > 0
        {
            let others_are_sure_of = self.unclaimed - self.sure.saturating_sub(held);
            let exceeds_share = held.saturating_add(amount) > free.saturating_mul(SHARE);
            if exceeds_share || amount > free.saturating_sub(others_are_sure_of) {
                // An entry that waits for the whole room blocks all others. So that is only for an entry that fits into no share: nothing
                // is free, or less than the first entry of a topic.
                let is_for_want_of_all = free == 0 || held == 0 && amount > free;
                return Err(if is_for_want_of_all { NoRoom::Total } else { NoRoom::Topic });
            }
        }
        if amount > free { Err(NoRoom::Total) } else { Ok(()) }
    }

    /// Whether there is room for `amount`, see [`SharedRoom::check`].
    pub fn has_room(&self, topic: impl Into<Option<Topic>>, amount: usize) -> bool {
        self.check(topic, amount).is_ok()
    }

    /// Takes `amount` even without room: acknowledged callbacks can no longer be refused.
    pub fn take(&mut self, topic: impl Into<Option<Topic>>, amount: usize) {
        self.taken += amount;
        self.change(topic.into(), |held| held + amount);
    }

    /// Returns room that was taken for the same topic.
    pub fn give(&mut self, topic: impl Into<Option<Topic>>, amount: usize) {
        self.taken -= amount;
        self.change(topic.into(), |held| held - amount);
    }

    fn change(&mut self, topic: Option<Topic>, to: impl FnOnce(usize) -> usize) {
        let Some(held) = topic.and_then(|topic| self.by_topic.get_mut(topic.index())) else { return };
        self.unclaimed -= self.sure.saturating_sub(*held);
        *held = to(*held);
        self.unclaimed += self.sure.saturating_sub(*held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Apps;
    use crate::command::Command;
    use crate::record::Topics;

    fn topics(count: usize) -> Vec<Topic> {
        let (topics, app) = (Topics::new(["t"]), Apps::new([1]).iter().next().unwrap());
        Command::all().take(count).map(|command| topics.of(app, Some(command))).collect()
    }

    fn fill(room: &mut SharedRoom, topic: Topic) {
        while room.has_room(topic, 1) {
            room.take(topic, 1);
        }
    }

    #[test]
    fn a_lone_topic_gets_four_fifths() {
        let mut room = SharedRoom::new(1000, Command::COUNT);
        let topic = topics(1)[0];
        fill(&mut room, topic);
        assert_eq!((room.taken_by(topic), room.check(topic, 1)), (800, Err(NoRoom::Topic)));
        room.give(topic, 800);
        assert_eq!((room.taken(), room.free()), (0, 1000));
    }

    #[test]
    fn topics_that_fill_side_by_side_leave_their_share_to_the_others() {
        let topics = topics(11);
        for stuck in 1..=10 {
            let mut room = SharedRoom::new((4 * stuck + 1) * 100, Command::COUNT);
            let stuck = &topics[..stuck];
            while stuck.iter().any(|topic| room.has_room(*topic, 1)) {
                stuck.iter().for_each(|topic| {
                    if room.has_room(*topic, 1) {
                        room.take(*topic, 1);
                    }
                });
            }
            assert!(room.free() >= 100, "{}", room.free());
            room.check(topics[10], 1).unwrap();
        }
    }

    #[test]
    fn topics_that_fill_one_after_the_other_leave_the_others_what_they_are_sure_of() {
        let topics = topics(Command::COUNT);
        let sure = 1000;
        for (stuck, amount) in [(10, 1), (60, 1), (60, 700), (63, 3000)] {
            let mut room = SharedRoom::new(SURE_PART * Command::COUNT * sure, Command::COUNT);
            for topic in &topics[..stuck] {
                while room.has_room(*topic, amount) {
                    room.take(*topic, amount);
                }
            }
            for topic in &topics[stuck..] {
                while room.taken_by(*topic) < sure {
                    room.check(*topic, sure / 4).unwrap();
                    room.take(*topic, sure / 4);
                }
            }
        }
    }

    #[test]
    fn what_topics_are_sure_of_adds_up_whatever_is_taken_and_given() {
        let topics = topics(3);
        let mut room = SharedRoom::new(3 * SURE_PART * 10, 3);
        let changes = [(0, 4), (1, 25), (0, 9), (2, 10)];
        changes.iter().for_each(|(topic, amount)| room.take(topics[*topic], *amount));
        assert_eq!(room.unclaimed, 0);
        changes.iter().for_each(|(topic, amount)| room.give(topics[*topic], *amount));
        assert_eq!((room.unclaimed, room.taken()), (30, 0));
    }

    #[test]
    fn a_topic_that_wants_more_than_it_is_sure_of_waits_for_its_share_only() {
        let mut room = SharedRoom::new(64_000, 64);
        let topics = topics(4);
        fill(&mut room, topics[0]);
        fill(&mut room, topics[1]);
        assert_eq!(room.check(topics[2], 200), Err(NoRoom::Topic), "the others are not to wait behind it");
        room.check(topics[3], 60).unwrap();
    }

    #[test]
    fn what_belongs_to_no_topic_may_take_all() {
        let mut room = SharedRoom::new(10, 1);
        assert!(room.has_room(None, 10));
        room.take(None, 1);
        assert!(room.has_room(None, 9));
        room.take(None, 9);
        assert_eq!(room.check(None, 1), Err(NoRoom::Total));
        room.give(None, 10);
        assert_eq!(room.free(), 10);
    }

    #[test]
    fn what_is_larger_than_all_of_it_passes_alone() {
        let mut room = SharedRoom::new(10, Command::COUNT);
        let topics = topics(2);
        let cost = room.clamp(262_144);
        room.check(topics[0], cost).unwrap();
        room.take(topics[0], cost);
        assert_eq!(room.check(topics[1], 1), Err(NoRoom::Total));
    }

    #[test]
    fn what_must_be_taken_may_exceed_the_room_and_comes_back() {
        let mut room = SharedRoom::new(10, 1);
        room.take(None, 25);
        assert_eq!((room.free(), room.taken()), (0, 25));
        room.give(None, 25);
        assert_eq!(room.free(), 10);
    }
}
