//! What the status page knows of the past: rates, and how long ago something happened. The admin thread takes one reading a second, so
//! that nothing is noted while a callback is answered.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::ledger::Balance;
use crate::metrics::journal::JournalRoom;
use crate::refusal::Reason;

/// How often a reading is taken.
pub(super) const READ_EVERY: Duration = Duration::from_secs(1);
/// How far back readings are kept.
const KEPT: Duration = Duration::from_secs(60);
/// The growth of the journal is not known from readings that are closer together.
const GROWTH_OVER: Duration = Duration::from_secs(5);

/// The process at one moment.
#[derive(Debug, Clone)]
pub(super) struct StatusReading {
    pub(super) at: Instant,
    pub(super) balance: Balance,
    /// Records that are in Kafka.
    pub(super) delivered_records: u64,
    /// Whether records are with Kafka's client, or callbacks wait and no broker is connected.
    pub(super) is_kafka_due: bool,
    /// All zero without a journal on disk.
    pub(super) room: JournalRoom,
}

/// The readings of the last minute, and the times of what is older.
#[derive(Debug)]
pub(super) struct StatusHistory {
    pub(super) started: Instant,
    /// The oldest first; never more than [`KEPT`] of them.
    readings: VecDeque<StatusReading>,
    /// When the count of each reason was last seen to grow.
    ended: [Option<Instant>; Reason::ALL.len()],
    /// When records were last seen to arrive in Kafka.
    delivered: Option<Instant>,
    /// When Kafka had last taken something, or there was nothing to take.
    kafka_was_well: Instant,
}

/// Callbacks a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) received: f64,
    pub(super) delivered: f64,
}

impl StatusHistory {
    /// Of a process that starts.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            readings: VecDeque::new(),
            ended: [None; Reason::ALL.len()],
            delivered: None,
            kafka_was_well: started,
        }
    }

    /// Adds a reading.
    pub(super) fn add(&mut self, reading: StatusReading) {
        let (now, before) = (reading.at, self.readings.back());
        let ended = before.map_or([0; Reason::ALL.len()], |before| before.balance.ended);
        for ((last, before), count) in self.ended.iter_mut().zip(ended).zip(reading.balance.ended) {
            if count > before {
                *last = Some(now);
            }
        }
        let has_delivered = reading.delivered_records > before.map_or(0, |before| before.delivered_records);
        if has_delivered {
            self.delivered = Some(now);
        }
        if has_delivered || !reading.is_kafka_due {
            self.kafka_was_well = now;
        }
        self.readings.push_back(reading);
        while self.readings.front().is_some_and(|oldest| now.duration_since(oldest.at) > KEPT) {
            self.readings.pop_front();
        }
    }

    /// How long ago the count of `reason` last grew.
    pub(super) fn ended_ago(&self, reason: Reason, now: Instant) -> Option<Duration> {
        self.ended.get(reason.index())?.map(|at| now.duration_since(at))
    }

    /// How long ago Kafka last took a record.
    pub(super) fn delivered_ago(&self, now: Instant) -> Option<Duration> {
        self.delivered.map(|at| now.duration_since(at))
    }

    /// How long Kafka has taken nothing although there was something to take.
    pub(super) fn kafka_takes_nothing_for(&self, now: Instant) -> Duration {
        now.duration_since(self.kafka_was_well)
    }

    /// The rates over the last `span`, or over what there is of it. Without two readings there are none.
    pub(super) fn rates(&self, span: Duration) -> Option<Rates> {
        let (first, last) = self.ends(span)?;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let rate = |before: u64, after: u64| (seconds > 0.0).then(|| float(after.saturating_sub(before)) / seconds);
        Some(Rates {
            received: rate(first.balance.received_total(), last.balance.received_total())?,
            delivered: rate(first.balance.delivered, last.balance.delivered)?,
        })
    }

    /// How long the journal has room for, when it goes on to grow as it did. `None`: it does not grow.
    pub(super) fn journal_lasts(&self) -> Option<Duration> {
        let (first, last) = self.ends(KEPT)?;
        let span = last.at.duration_since(first.at);
        let grown = last.room.undelivered_bytes.checked_sub(first.room.undelivered_bytes).filter(|grown| *grown > 0)?;
        if span < GROWTH_OVER || last.room.quota_bytes == 0 {
            return None;
        }
        Duration::try_from_secs_f64(float(last.room.free_bytes()) / float(grown) * span.as_secs_f64()).ok()
    }

    /// The oldest reading of the last `span`, and the newest.
    fn ends(&self, span: Duration) -> Option<(&StatusReading, &StatusReading)> {
        let last = self.readings.back()?;
        let first = self.readings.iter().find(|reading| last.at.duration_since(reading.at) <= span)?;
        Some((first, last))
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53; shown to three digits")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn reading(delivered: u64, lost: u64, is_kafka_due: bool, undelivered_bytes: u64) -> StatusReading {
        let mut balance = Balance { delivered, recovered: delivered * 2, ..Balance::default() };
        balance.ended[Reason::Deadline.index()] = lost;
        balance.received[0] = delivered * 3;
        let room = JournalRoom { undelivered_bytes, held_bytes: undelivered_bytes, quota_bytes: 8000 };
        StatusReading { at: clock::monotonic(), balance, delivered_records: delivered, is_kafka_due, room }
    }

    /// One reading a second; `of` makes the nth.
    fn history(seconds: u64, of: impl Fn(u64) -> StatusReading) -> (StatusHistory, Instant) {
        let started = clock::monotonic();
        let mut history = StatusHistory::new(started);
        let times = (0..=seconds).map(|second| (second, started + Duration::from_secs(second)));
        times.for_each(|(second, at)| history.add(StatusReading { at, ..of(second) }));
        (history, started + Duration::from_secs(seconds))
    }

    #[test]
    fn rates_are_those_of_the_span_that_is_asked_for() {
        let (history, _now) = history(200, |second| reading(if second < 190 { second } else { 190 }, 0, false, 0));
        assert_eq!(history.readings.len(), 61);
        assert_eq!(history.rates(Duration::from_secs(10)), Some(Rates { received: 0.0, delivered: 0.0 }));
        let minute = history.rates(KEPT).expect("two readings");
        assert!((minute.delivered - 50.0 / 60.0).abs() < 1e-9 && (minute.received - 2.5).abs() < 1e-9, "{minute:?}");
        assert_eq!(StatusHistory::new(clock::monotonic()).rates(KEPT), None);
    }

    #[test]
    fn each_reason_has_the_time_of_its_last_growth() {
        let (history, now) = history(30, |second| reading(0, second.min(20), false, 0));
        assert_eq!(history.ended_ago(Reason::Deadline, now), Some(Duration::from_secs(10)));
        assert_eq!(history.ended_ago(Reason::QueueFull, now), None);
    }

    #[test]
    fn kafka_takes_nothing_only_while_there_is_something_to_take() {
        let (idle, now) = history(30, |second| reading(second.min(5), 0, false, 0));
        assert_eq!(idle.kafka_takes_nothing_for(now), Duration::ZERO);
        assert_eq!(idle.delivered_ago(now), Some(Duration::from_secs(25)));
        let (stuck, now) = history(30, |second| reading(second.min(5), 0, true, 0));
        assert_eq!(stuck.kafka_takes_nothing_for(now), Duration::from_secs(25));
        let (never, now) = history(30, |_second| reading(0, 0, true, 0));
        assert_eq!((never.kafka_takes_nothing_for(now), never.delivered_ago(now)), (Duration::from_secs(30), None));
    }

    #[test]
    fn the_journal_lasts_as_long_as_its_room_at_the_growth_of_the_last_minute() {
        // 7000 may be undelivered: seven eighths of the quota. 4000 are, and 40 come each second.
        let (growing, _now) = history(100, |second| reading(0, 0, true, second * 40));
        assert_eq!(growing.journal_lasts(), Some(Duration::from_secs(75)));
        let (shrinking, _now) = history(100, |second| reading(0, 0, true, 5000 - second));
        assert_eq!(shrinking.journal_lasts(), None);
        let (short, _now) = history(4, |second| reading(0, 0, true, second * 40));
        assert_eq!(short.journal_lasts(), None, "four seconds say too little");
    }
}
