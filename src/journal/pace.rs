//! How long what comes now would wait, as far as that is known, so that what cannot be in time is refused at once.
//!
//! Room comes free in *turns*: of a journal on disk, with each frame that is synced. Two things are known of them: how long they take,
//! and how long the one under way has taken. Where nothing is known, nothing is refused: an empty queue waits for nobody, a turn has
//! been measured once it has ended, and what is not measured takes no time. The measure falls at once and rises slowly, so one slow turn
//! says little. Recovery needs nobody who tries: what is in the queue ends its turns by itself. Some are let through all the same.

use std::time::Duration;
use std::time::Instant;

/// A turn that has taken so long is expected to take a half of that still. (Of waits of every length, most of those that took long take
/// longer.)
const STILL: u32 = 2;
/// By which part of the difference the measure rises.
const RISE: u32 = 8;
/// No turn counts for more than so many times what was measured before.
const OUTLIER: u32 = 8;
/// How often somebody is let through who would wait for too long.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How often the same complaint is made.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// See the module. All times are those of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the turn under way began; `None` while there is none.
    since: Option<Instant>,
    /// What a turn takes; zero until one was measured.
    turn: Duration,
    probe_at: Option<Instant>,
    complain_at: Option<Instant>,
}

impl Pace {
    /// Something is to be done.
    pub(super) fn begin(&mut self, now: impl FnOnce() -> Instant) {
        self.since.get_or_insert_with(now);
    }

    /// A turn has ended; the next begins, if something `is_left` to do.
    pub(super) fn end_turn(&mut self, now: Instant, is_left: bool) {
        if let Some(since) = self.since {
            self.measure(now.saturating_duration_since(since));
        }
        self.since = is_left.then_some(now);
    }

    /// What there is to do is begun only now.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since = self.since.map(|_earlier| now);
    }

    /// Nothing is to be done any more, and nothing was.
    pub(super) fn stop(&mut self) {
        self.since = None;
    }

    fn measure(&mut self, took: Duration) {
        if self.turn.is_zero() || took < self.turn {
            self.turn = took;
        } else {
            self.turn += (took.min(self.turn * OUTLIER) - self.turn) / RISE;
        }
    }

    /// How long what comes now would wait behind so many turns.
    pub(super) fn wait(&self, now: Instant, turns: usize) -> Duration {
        let Some(since) = self.since else { return Duration::ZERO };
        let still = now.saturating_duration_since(since) / STILL;
        if turns == 0 {
            return still;
        }
        self.turn.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX)).saturating_add(still)
    }

    /// Whether one who would be too late is let through, to see.
    pub(super) fn is_probe(&mut self, now: Instant) -> bool {
        is_due(&mut self.probe_at, now, PROBE_EVERY)
    }

    /// Whether it is time to say that some are refused.
    pub(super) fn complains(&mut self, now: Instant) -> bool {
        is_due(&mut self.complain_at, now, COMPLAIN_EVERY)
    }
}

fn is_due(at: &mut Option<Instant>, now: Instant, every: Duration) -> bool {
    let is_due = at.is_none_or(|at| now >= at);
    if is_due {
        *at = Some(now + every);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const MILLI: Duration = Duration::from_millis(1);

    /// Turns of so many milliseconds, one after the other, with more to do behind the last.
    fn paced(began: Instant, turns: &[u32]) -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), began);
        pace.begin(|| now);
        for millis in turns {
            now += MILLI * *millis;
            pace.end_turn(now, true);
        }
        (pace, now)
    }

    #[test]
    fn where_nothing_is_known_nobody_is_expected_to_wait() {
        let now = clock::monotonic();
        assert_eq!(Pace::default().wait(now, usize::MAX), Duration::ZERO);
        let (pace, now) = paced(now, &[]);
        assert_eq!(pace.wait(now, usize::MAX), Duration::ZERO, "a first turn that has just begun");
        let (mut pace, now) = paced(now, &[1000, 1000]);
        pace.end_turn(now, false);
        assert_eq!(pace.wait(now + 1000 * MILLI, 1000), Duration::ZERO, "nothing is to be done");
    }

    #[test]
    fn who_comes_waits_for_those_ahead_and_for_half_of_what_the_turn_under_way_has_taken() {
        let (pace, now) = paced(clock::monotonic(), &[10, 10]);
        assert_eq!(pace.wait(now, 0), Duration::ZERO);
        assert_eq!(pace.wait(now, 20), 200 * MILLI);
        assert_eq!(pace.wait(now + 3000 * MILLI, 20), 1700 * MILLI);
    }

    #[test]
    fn one_slow_turn_says_little_many_say_all_and_one_quick_one_ends_it() {
        let (pace, now) = paced(clock::monotonic(), &[10, 10, 3000]);
        assert!(pace.wait(now, 64) < 1500 * MILLI, "{pace:?}");
        let (pace, now) = paced(now, &[&[10][..], &[100; 60]].concat());
        assert!(pace.wait(now, 64) > 6000 * MILLI, "{pace:?}");
        let (pace, now) = paced(now, &[&[10][..], &[100; 60], &[10]].concat());
        assert_eq!(pace.wait(now, 64), 640 * MILLI);
    }

    #[test]
    fn what_lay_there_before_the_work_began_says_nothing() {
        let (mut pace, now) = paced(clock::monotonic(), &[]);
        pace.restart(now + 9000 * MILLI);
        assert_eq!(pace.wait(now + 9000 * MILLI, 0), Duration::ZERO);
    }

    #[test]
    fn of_those_who_would_be_late_one_in_a_while_is_let_through() {
        let (mut pace, now) = paced(clock::monotonic(), &[]);
        let let_through = (0..1000).filter(|millis| pace.is_probe(now + MILLI * *millis)).count();
        assert_eq!(let_through, 10);
    }

    proptest! {
        #[test]
        fn a_measure_lies_between_the_quickest_and_the_slowest_turn(turns in prop::collection::vec(1..5000_u32, 1..50)) {
            let (pace, _now) = paced(clock::monotonic(), &turns);
            let (least, most) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
            prop_assert!((MILLI * *least..=MILLI * *most).contains(&pace.turn));
        }
    }
}
