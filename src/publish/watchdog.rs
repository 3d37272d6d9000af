//! Detects topics whose records get no delivery reports although Kafka works.
//!
//! librdkafka retries forever without an event, and it can stop serving a partition for good, for example after a topic was deleted and
//! created again with leaders of a lower epoch. Only a new producer helps then.
//!
//! A topic is overdue if its oldest record without a report stays the same for too long. A slow topic makes progress. Time during which no
//! broker can be reached does not count.

use std::time::Duration;
use std::time::Instant;

/// A topic is unconfirmed after this time without a report: longer than any sender waits.
const UNCONFIRMED_AFTER: Duration = Duration::from_secs(2);
/// The longest limit of a topic. Each restart doubles its limit.
const LIMIT_MAX: Duration = Duration::from_secs(30 * 60);

/// Decides when a new producer is needed. `R` identifies a record.
#[derive(Debug)]
pub(super) struct Watchdog<R> {
    limit: Duration,
    topics: Vec<WatchedTopic<R>>,
}

/// One topic.
#[derive(Debug, Clone)]
struct WatchedTopic<R> {
    oldest: Option<Oldest<R>>,
    /// It is overdue after this time.
    limit: Duration,
}

/// The oldest record without a report.
#[derive(Debug, Clone)]
struct Oldest<R> {
    record: R,
    since: Instant,
    /// It was found overdue, and the answer whether its topic has leaders is outstanding.
    is_asked_about: bool,
    /// [`Watchdog::unconfirmed`] returns its topic after this time.
    unconfirmed_after: Duration,
}

impl<R> Oldest<R> {
    fn new(record: R, now: Instant) -> Self {
        Self { record, since: now, is_asked_about: false, unconfirmed_after: UNCONFIRMED_AFTER }
    }
}

impl<R: Copy + PartialEq> Watchdog<R> {
    /// A watchdog for `topics` topics, with this initial limit.
    pub(super) fn new(limit: Duration, topics: usize) -> Self {
        Self { limit, topics: vec![WatchedTopic { oldest: None, limit }; topics] }
    }

    /// Takes the oldest record without a report of each topic. Returns the topics that are overdue: each once, until
    /// [`Watchdog::restarts_for`] says whether they have leaders.
    pub(super) fn observe(&mut self, oldest: &[Option<R>], is_any_broker_up: bool, now: Instant) -> Vec<usize> {
        let mut overdue = Vec::new();
        for (index, (topic, record)) in self.topics.iter_mut().zip(oldest).enumerate() {
            match &mut topic.oldest {
                Some(oldest) if *record == Some(oldest.record) => {
                    if !is_any_broker_up {
                        (oldest.since, oldest.unconfirmed_after) = (now, UNCONFIRMED_AFTER);
                    }
                    let is_overdue = now.saturating_duration_since(oldest.since) >= topic.limit;
                    if is_overdue && !oldest.is_asked_about {
                        oldest.is_asked_about = true;
                        overdue.push(index);
                    }
                }
                before => {
                    if before.is_some() {
                        // The record was reported, so there are reports.
                        topic.limit = self.limit;
                    }
                    *before = record.map(|record| Oldest::new(record, now));
                }
            }
        }
        overdue
    }

    /// The topics whose oldest record has had no report for [`UNCONFIRMED_AFTER`], and again after each doubling of this time: why there is none
    /// may show later.
    pub(super) fn unconfirmed(&mut self, now: Instant) -> Vec<usize> {
        let mut unconfirmed = Vec::new();
        for (index, topic) in self.topics.iter_mut().enumerate() {
            let Some(oldest) = &mut topic.oldest else { continue };
            if now.saturating_duration_since(oldest.since) >= oldest.unconfirmed_after {
                oldest.unconfirmed_after *= 2;
                unconfirmed.push(index);
            }
        }
        unconfirmed
    }

    /// Handles the answers for overdue topics: whether each has a leader for each partition. Returns the topics that need a new producer.
    /// For the others, the time begins again.
    pub(super) fn restarts_for(&mut self, have_leaders: &[(usize, bool)], now: Instant) -> Vec<usize> {
        let mut restarts = Vec::new();
        for (index, has_leaders) in have_leaders {
            let Some(topic) = self.topics.get_mut(*index) else { continue };
            let Some(oldest) = topic.oldest.as_mut().filter(|oldest| oldest.is_asked_about) else { continue };
            *oldest = Oldest::new(oldest.record, now);
            if *has_leaders {
                topic.limit = (topic.limit * 2).min(LIMIT_MAX.max(self.limit));
                restarts.push(*index);
            }
        }
        restarts
    }

    /// Handles a new producer, to which everything is sent again. That the old records are gone does not prove that there are reports.
    pub(super) fn replaced(&mut self) {
        for topic in &mut self.topics {
            topic.oldest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(120);
    const NONE: Vec<usize> = Vec::new();

    /// A watchdog over two topics, and a clock that begins with it.
    fn watchdog() -> (Watchdog<Instant>, impl Fn(u64) -> Instant) {
        let began = clock::monotonic();
        (Watchdog::new(LIMIT, 2), move |second| began + Duration::from_secs(second))
    }

    #[test]
    fn a_record_without_a_report_makes_a_new_producer_when_its_topic_has_leaders() {
        let (mut watchdog, at) = watchdog();
        let stuck = [None, Some(at(0))];
        assert_eq!(watchdog.observe(&stuck, true, at(0)), NONE);
        assert_eq!(watchdog.observe(&stuck, true, at(119)), NONE);
        assert_eq!(watchdog.observe(&stuck, true, at(120)), [1]);
        assert_eq!(watchdog.observe(&stuck, true, at(121)), NONE, "it is asked about already");
        assert_eq!(watchdog.restarts_for(&[(0, true), (1, true)], at(122)), [1]);
    }

    #[test]
    fn a_topic_is_unconfirmed_after_two_seconds_and_again_after_each_doubling() {
        let (mut watchdog, at) = watchdog();
        let (first, second) = ([None, Some(at(0))], [None, Some(at(2))]);
        watchdog.observe(&first, true, at(0));
        assert_eq!(watchdog.unconfirmed(at(1)), NONE);
        assert_eq!(watchdog.unconfirmed(at(2)), [1]);
        watchdog.observe(&first, true, at(3));
        assert_eq!(watchdog.unconfirmed(at(3)), NONE);
        assert_eq!(watchdog.unconfirmed(at(4)), [1]);
        assert_eq!(watchdog.unconfirmed(at(7)), NONE);
        assert_eq!(watchdog.unconfirmed(at(8)), [1]);
        watchdog.observe(&second, true, at(9));
        assert_eq!(watchdog.unconfirmed(at(10)), NONE);
        assert_eq!(watchdog.unconfirmed(at(11)), [1], "of another record");
    }

    #[test]
    fn a_topic_is_soon_unconfirmed_again_when_its_time_begins_again() {
        let (mut watchdog, at) = watchdog();
        let stuck = [Some(at(0)), None];
        let count = |watchdog: &mut Watchdog<Instant>, from: u64| {
            (from..from + 100).filter(|second| !watchdog.unconfirmed(at(*second)).is_empty()).count()
        };
        watchdog.observe(&stuck, true, at(0));
        assert_eq!(count(&mut watchdog, 0), 6);
        watchdog.observe(&stuck, true, at(120));
        watchdog.restarts_for(&[(0, false)], at(120));
        assert_eq!(count(&mut watchdog, 120), 6);
        watchdog.observe(&stuck, false, at(220));
        assert_eq!(count(&mut watchdog, 220), 6);
    }

    #[test]
    fn a_topic_without_leaders_is_waited_for_and_asked_about_again() {
        let (mut watchdog, at) = watchdog();
        let stuck = [Some(at(0)), None];
        watchdog.observe(&stuck, true, at(0));
        assert_eq!(watchdog.observe(&stuck, true, at(120)), [0]);
        assert_eq!(watchdog.restarts_for(&[(0, false)], at(121)), NONE);
        assert_eq!(watchdog.observe(&stuck, true, at(240)), NONE);
        assert_eq!(watchdog.observe(&stuck, true, at(241)), [0]);
        assert_eq!(watchdog.restarts_for(&[(0, true)], at(242)), [0]);
    }

    #[test]
    fn an_answer_is_for_the_topics_that_were_asked_about() {
        let (mut watchdog, at) = watchdog();
        watchdog.observe(&[Some(at(0)), None], true, at(0));
        watchdog.observe(&[Some(at(0)), Some(at(1))], true, at(1));
        assert_eq!(watchdog.observe(&[Some(at(0)), Some(at(1))], true, at(120)), [0]);
        assert_eq!(watchdog.observe(&[Some(at(0)), Some(at(1))], true, at(121)), [1]);
        assert_eq!(watchdog.restarts_for(&[(0, false)], at(122)), NONE);
        assert_eq!(watchdog.restarts_for(&[(1, true)], at(123)), [1]);
    }

    #[test]
    fn time_without_any_broker_does_not_count() {
        let (mut watchdog, at) = watchdog();
        let stuck = [Some(at(0)), None];
        watchdog.observe(&stuck, true, at(0));
        assert_eq!(watchdog.observe(&stuck, false, at(3600)), NONE);
        assert_eq!(watchdog.observe(&stuck, true, at(3719)), NONE);
        assert_eq!(watchdog.observe(&stuck, true, at(3720)), [0]);
    }

    #[test]
    fn a_slow_topic_that_moves_is_never_overdue() {
        let (mut watchdog, at) = watchdog();
        for second in 0..1000 {
            // Each record waits for ten minutes, and one a minute is reported.
            let oldest = [Some(at(second / 60)), None];
            assert_eq!(watchdog.observe(&oldest, true, at(600 + second)), NONE, "{second}");
        }
    }

    #[test]
    fn the_time_until_the_next_restart_doubles_up_to_half_an_hour() {
        let (mut watchdog, at) = watchdog();
        let (mut now, mut restarts) = (0, Vec::new());
        for _nth in 0..7 {
            let (sent, stuck) = (now, [Some(at(now)), None]);
            while watchdog.observe(&stuck, true, at(now)).is_empty() {
                now += 1;
            }
            assert_eq!(watchdog.restarts_for(&[(0, true)], at(now)), [0]);
            watchdog.replaced();
            assert_eq!(watchdog.observe(&[None, None], true, at(now)), NONE, "nothing is sent yet");
            restarts.push(now - sent);
        }
        assert_eq!(restarts, [120, 240, 480, 960, 1800, 1800, 1800]);
    }

    #[test]
    fn a_report_resets_the_time_of_its_own_topic_only() {
        let (mut watchdog, at) = watchdog();
        watchdog.observe(&[Some(at(0)); 2], true, at(0));
        assert_eq!(watchdog.observe(&[Some(at(0)); 2], true, at(120)), [0, 1]);
        assert_eq!(watchdog.restarts_for(&[(0, true), (1, true)], at(120)), [0, 1]);
        watchdog.replaced();
        watchdog.observe(&[Some(at(121)); 2], true, at(121));
        // The first record of one topic is reported, the other's is not.
        watchdog.observe(&[Some(at(122)), Some(at(121))], true, at(122));
        assert_eq!(watchdog.observe(&[Some(at(122)), Some(at(121))], true, at(242)), [0]);
        assert_eq!(watchdog.observe(&[Some(at(122)), Some(at(121))], true, at(361)), [1]);
    }

    #[test]
    fn what_is_reported_meanwhile_needs_no_new_producer() {
        let (mut watchdog, at) = watchdog();
        watchdog.observe(&[Some(at(0)), None], true, at(0));
        assert_eq!(watchdog.observe(&[Some(at(0)), None], true, at(120)), [0]);
        watchdog.observe(&[Some(at(100)), None], true, at(121));
        assert_eq!(watchdog.restarts_for(&[(0, true)], at(122)), NONE);
    }
}
