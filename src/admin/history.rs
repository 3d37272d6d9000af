//! The history behind the status page: rates, and when events last happened. The admin thread samples once a second, so that the callback
//! path records nothing for it.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::ledger::Balance;
use crate::metrics::journal::JournalRoom;
use crate::refusal::Reason;

/// The sampling period.
pub(super) const SAMPLE_PERIOD: Duration = Duration::from_secs(1);
/// The age up to which samples are kept.
const RETENTION: Duration = Duration::from_secs(60);
/// The shortest time from which the growth of the journal is estimated.
const GROWTH_SPAN_MIN: Duration = Duration::from_secs(5);

/// A sample of the process at one moment.
#[derive(Debug, Clone)]
pub(super) struct StatusSample {
    pub(super) at: Instant,
    pub(super) balance: Balance,
    /// Records that Kafka has acknowledged.
    pub(super) delivered_records: u64,
    /// Whether the process waits for Kafka: for delivery reports, or for a connection while callbacks are waiting.
    pub(super) awaits_kafka: bool,
    /// All zero without a journal on disk.
    pub(super) room: JournalRoom,
}

/// The samples of the last minute, and the times of the last events.
#[derive(Debug)]
pub(super) struct StatusHistory {
    pub(super) started: Instant,
    /// The oldest first; none is older than [`RETENTION`].
    samples: VecDeque<StatusSample>,
    /// When the count of each reason last grew.
    ended: [Option<Instant>; Reason::ALL.len()],
    /// When Kafka last acknowledged records.
    delivered: Option<Instant>,
    /// When Kafka last acknowledged records, or the process last did not wait for it.
    kafka_progress: Instant,
}

/// Callbacks a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) received: f64,
    pub(super) delivered: f64,
}

impl StatusHistory {
    /// The history of a process that starts now.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            samples: VecDeque::new(),
            ended: [None; Reason::ALL.len()],
            delivered: None,
            kafka_progress: started,
        }
    }

    /// Adds a sample.
    pub(super) fn add(&mut self, sample: StatusSample) {
        let (now, before) = (sample.at, self.samples.back());
        let ended = before.map_or([0; Reason::ALL.len()], |before| before.balance.ended);
        for ((last, before), count) in self.ended.iter_mut().zip(ended).zip(sample.balance.ended) {
            if count > before {
                *last = Some(now);
            }
        }
        let has_delivered = sample.delivered_records > before.map_or(0, |before| before.delivered_records);
        if has_delivered {
            self.delivered = Some(now);
        }
        if has_delivered || !sample.awaits_kafka {
            self.kafka_progress = now;
        }
        self.samples.push_back(sample);
        while self.samples.front().is_some_and(|oldest| now.duration_since(oldest.at) > RETENTION) {
            self.samples.pop_front();
        }
    }

    /// How long ago the count of `reason` last grew.
    pub(super) fn ended_ago(&self, reason: Reason, now: Instant) -> Option<Duration> {
        self.ended.get(reason.index())?.map(|at| now.duration_since(at))
    }

    /// How long ago Kafka last acknowledged a record.
    pub(super) fn delivered_ago(&self, now: Instant) -> Option<Duration> {
        self.delivered.map(|at| now.duration_since(at))
    }

    /// How long the process has waited for Kafka while it acknowledged nothing.
    pub(super) fn kafka_stuck_for(&self, now: Instant) -> Duration {
        now.duration_since(self.kafka_progress)
    }

    /// The rates over the last `span`, or since the start if that is shorter. `None` with fewer than two samples.
    pub(super) fn rates(&self, span: Duration) -> Option<Rates> {
        let (first, last) = self.first_and_last(span)?;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let rate = |before: u64, after: u64| (seconds > 0.0).then(|| float(after.saturating_sub(before)) / seconds);
        Some(Rates {
            received: rate(first.balance.received_total(), last.balance.received_total())?,
            delivered: rate(first.balance.delivered, last.balance.delivered)?,
        })
    }

    /// When the journal will be full at its current growth; `None` if it does not grow.
    pub(super) fn journal_full_in(&self) -> Option<Duration> {
        let (first, last) = self.first_and_last(RETENTION)?;
        let span = last.at.duration_since(first.at);
        let grown = last.room.undelivered_bytes.checked_sub(first.room.undelivered_bytes).filter(|grown| *grown > 0)?;
        if span < GROWTH_SPAN_MIN || last.room.quota_bytes == 0 {
            return None;
        }
        Duration::try_from_secs_f64(float(last.room.free_bytes()) / float(grown) * span.as_secs_f64()).ok()
    }

    /// The oldest sample of the last `span`, and the newest.
    fn first_and_last(&self, span: Duration) -> Option<(&StatusSample, &StatusSample)> {
        let last = self.samples.back()?;
        let first = self.samples.iter().find(|sample| last.at.duration_since(sample.at) <= span)?;
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

    fn sample(delivered: u64, lost: u64, awaits_kafka: bool, undelivered_bytes: u64) -> StatusSample {
        let mut balance = Balance { delivered, recovered: delivered * 2, ..Balance::default() };
        balance.ended[Reason::Deadline.index()] = lost;
        balance.received[0] = delivered * 3;
        let room = JournalRoom { undelivered_bytes, held_bytes: undelivered_bytes, quota_bytes: 8000 };
        StatusSample { at: clock::monotonic(), balance, delivered_records: delivered, awaits_kafka, room }
    }

    /// One sample a second; `of` makes the nth.
    fn history(seconds: u64, of: impl Fn(u64) -> StatusSample) -> (StatusHistory, Instant) {
        let started = clock::monotonic();
        let mut history = StatusHistory::new(started);
        let times = (0..=seconds).map(|second| (second, started + Duration::from_secs(second)));
        times.for_each(|(second, at)| history.add(StatusSample { at, ..of(second) }));
        (history, started + Duration::from_secs(seconds))
    }

    #[test]
    fn rates_cover_the_requested_span() {
        let (history, _now) = history(200, |second| sample(if second < 190 { second } else { 190 }, 0, false, 0));
        assert_eq!(history.samples.len(), 61);
        assert_eq!(history.rates(Duration::from_secs(10)), Some(Rates { received: 0.0, delivered: 0.0 }));
        let minute = history.rates(RETENTION).expect("two samples");
        assert!((minute.delivered - 50.0 / 60.0).abs() < 1e-9 && (minute.received - 2.5).abs() < 1e-9, "{minute:?}");
        assert_eq!(StatusHistory::new(clock::monotonic()).rates(RETENTION), None);
    }

    #[test]
    fn each_reason_has_the_time_when_its_count_last_grew() {
        let (history, now) = history(30, |second| sample(0, second.min(20), false, 0));
        assert_eq!(history.ended_ago(Reason::Deadline, now), Some(Duration::from_secs(10)));
        assert_eq!(history.ended_ago(Reason::QueueFull, now), None);
    }

    #[test]
    fn kafka_is_stuck_only_while_the_process_waits_for_it() {
        let (idle, now) = history(30, |second| sample(second.min(5), 0, false, 0));
        assert_eq!(idle.kafka_stuck_for(now), Duration::ZERO);
        assert_eq!(idle.delivered_ago(now), Some(Duration::from_secs(25)));
        let (stuck, now) = history(30, |second| sample(second.min(5), 0, true, 0));
        assert_eq!(stuck.kafka_stuck_for(now), Duration::from_secs(25));
        let (never, now) = history(30, |_second| sample(0, 0, true, 0));
        assert_eq!((never.kafka_stuck_for(now), never.delivered_ago(now)), (Duration::from_secs(30), None));
    }

    #[test]
    fn the_time_until_the_journal_is_full_follows_the_growth_of_the_last_minute() {
        // 7000 bytes may be undelivered, seven eighths of the quota. 4000 are, and 40 are added each second.
        let (growing, _now) = history(100, |second| sample(0, 0, true, second * 40));
        assert_eq!(growing.journal_full_in(), Some(Duration::from_secs(75)));
        let (shrinking, _now) = history(100, |second| sample(0, 0, true, 5000 - second));
        assert_eq!(shrinking.journal_full_in(), None);
        let (short, _now) = history(4, |second| sample(0, 0, true, second * 40));
        assert_eq!(short.journal_full_in(), None, "four seconds are too short");
    }
}
