//! The summary at the top of the status page, in one sentence: whether callbacks are accepted, then the problems, the worst first.
//!
//! The problems are a stuck thread, losses of the last hour, a stuck Kafka or stuck topics, how soon the journal is full, and other
//! warnings. Without problems the summary states the backlog.

use std::fmt;
use std::time::Duration;

use crate::lifecycle::Phase;

/// Kafka counts as stuck once it has acknowledged nothing for this long while callbacks wait for it, a topic once its oldest undelivered
/// callback is of this age: longer than a leader election.
pub(super) const DELIVERY_STUCK_AFTER: Duration = Duration::from_secs(10);
/// How long the summary mentions the last loss.
const LOSSES_SHOWN_FOR: Duration = Duration::from_secs(3600);

/// The input of the summary.
#[derive(Debug)]
pub(super) struct SummaryInput {
    pub(super) phase: Phase,
    /// The results of `/livez` and `/readyz`.
    pub(super) alive: Result<(), String>,
    pub(super) ready: Result<(), String>,
    /// The number of callbacks waiting for Kafka.
    pub(super) waiting: u64,
    /// The number of lost callbacks, and how long ago the last one was lost.
    pub(super) lost: Option<(u64, Duration)>,
    /// How long the process has waited for Kafka while it acknowledged nothing.
    pub(super) kafka_stuck_for: Duration,
    pub(super) is_any_broker_up: bool,
    /// The number of stuck topics, and for how long the worst has been.
    pub(super) stuck_topics: Option<(usize, Duration)>,
    /// When the journal will be full, at the growth of the last minute; `None` while it does not grow.
    pub(super) journal_full_in: Option<Duration>,
    /// Other problems, such as files that cannot be used.
    pub(super) warnings: Vec<String>,
}

/// How urgent the problems are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// There is no problem.
    Healthy,
    /// Not urgent.
    Warning,
    /// Callbacks are lost or not accepted, or soon will be.
    Critical,
}

/// The summary, without a full stop, and its severity.
pub(super) fn summary(input: &SummaryInput) -> (String, Severity) {
    let (state, mut severity) = state(input);
    let mut parts = vec![state];
    let mut add = |part: String, is| {
        parts.push(part);
        severity = if severity == Severity::Critical { severity } else { is };
    };
    if let Err(why) = &input.alive {
        add(why.clone(), Severity::Critical);
    }
    if let Some((count, ago)) = input.lost.filter(|(_, ago)| *ago <= LOSSES_SHOWN_FOR) {
        add(format!("{count} lost since the start, the last {} ago", Span(ago)), Severity::Critical);
    }
    let is_kafka_stuck = input.kafka_stuck_for >= DELIVERY_STUCK_AFTER;
    if is_kafka_stuck {
        add(format!("Kafka has acknowledged nothing for {}", Span(input.kafka_stuck_for)), Severity::Critical);
    } else {
        if input.phase == Phase::Serving && input.ready.is_ok() && !input.is_any_broker_up {
            add("no Kafka broker is connected".to_owned(), Severity::Warning);
        }
        match input.stuck_topics {
            Some((1, longest)) => add(format!("one topic has been stuck for {}", Span(longest)), Severity::Warning),
            Some((topics, longest)) => {
                add(format!("{topics} topics are stuck, the longest for {}", Span(longest)), Severity::Warning);
            }
            None => {}
        }
    }
    if let Some(full_in) = input.journal_full_in.filter(|_| is_kafka_stuck || input.stuck_topics.is_some()) {
        add(format!("the journal will be full in {}", Span(full_in)), Severity::Warning);
    }
    for warning in &input.warnings {
        add(warning.clone(), Severity::Warning);
    }
    if parts.len() == 1 && input.phase == Phase::Serving && input.ready.is_ok() {
        parts.push(match input.waiting {
            0 => "none waiting for Kafka".to_owned(),
            waiting => format!("{waiting} waiting for Kafka"),
        });
    }
    (parts.join("; "), severity)
}

/// Whether callbacks are accepted.
fn state(input: &SummaryInput) -> (String, Severity) {
    match (input.phase, &input.ready) {
        (Phase::Starting, ready) => {
            let why = ready.as_ref().err().map_or("starting", String::as_str);
            (format!("Not accepting callbacks yet: {why}"), Severity::Warning)
        }
        (Phase::Serving, Ok(())) => ("Accepting callbacks".to_owned(), Severity::Healthy),
        (Phase::Serving, Err(why)) => (format!("Not ready: {why}"), Severity::Critical),
        (Phase::KeepAccepting, _) => ("Stopping, and still accepting callbacks".to_owned(), Severity::Warning),
        (Phase::Closing | Phase::Draining | Phase::Recording | Phase::Stopped, _) => {
            (format!("Stopping: {} waiting for Kafka", input.waiting), Severity::Warning)
        }
    }
}

/// A duration in at most two units, for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(formatter, "{seconds} s"),
            (0, 0, _) => write!(formatter, "{minutes} min"),
            (0, _, _) if minutes % 60 == 0 => write!(formatter, "{hours} h"),
            (0, _, _) => write!(formatter, "{hours} h {} min", minutes % 60),
            _ if hours % 24 == 0 => write!(formatter, "{days} d"),
            _ => write!(formatter, "{days} d {} h", hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> SummaryInput {
        SummaryInput {
            phase: Phase::Serving,
            alive: Ok(()),
            ready: Ok(()),
            waiting: 0,
            lost: None,
            kafka_stuck_for: Duration::ZERO,
            is_any_broker_up: true,
            stuck_topics: None,
            journal_full_in: None,
            warnings: Vec::new(),
        }
    }

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn the_summary_lists_problems_with_the_worst_first() {
        use Severity::{Critical, Healthy, Warning};
        let stuck = SummaryInput { kafka_stuck_for: minutes(4), waiting: 9, ..healthy() };
        let cases = [
            (healthy(), "Accepting callbacks; none waiting for Kafka", Healthy),
            (SummaryInput { waiting: 12, ..healthy() }, "Accepting callbacks; 12 waiting for Kafka", Healthy),
            // While Kafka acknowledges records, a growing journal is not a problem.
            (
                SummaryInput { journal_full_in: Some(minutes(9)), ..healthy() },
                "Accepting callbacks; none waiting for Kafka",
                Healthy,
            ),
            (
                SummaryInput { journal_full_in: Some(minutes(190)), ..stuck },
                "Accepting callbacks; Kafka has acknowledged nothing for 4 min; the journal will be full in 3 h 10 min",
                Critical,
            ),
            (
                SummaryInput { kafka_stuck_for: Duration::from_secs(9), ..healthy() },
                "Accepting callbacks; none waiting for Kafka",
                Healthy,
            ),
            (
                SummaryInput {
                    stuck_topics: Some((1, minutes(70))),
                    journal_full_in: Some(minutes(2880)),
                    ..healthy()
                },
                "Accepting callbacks; one topic has been stuck for 1 h 10 min; the journal will be full in 2 d",
                Warning,
            ),
            (
                SummaryInput { stuck_topics: Some((3, minutes(1))), ..healthy() },
                "Accepting callbacks; 3 topics are stuck, the longest for 1 min",
                Warning,
            ),
            (
                SummaryInput { is_any_broker_up: false, ..healthy() },
                "Accepting callbacks; no Kafka broker is connected",
                Warning,
            ),
            (
                SummaryInput { lost: Some((7, minutes(59))), ..healthy() },
                "Accepting callbacks; 7 lost since the start, the last 59 min ago",
                Critical,
            ),
            (
                SummaryInput { lost: Some((7, minutes(61))), ..healthy() },
                "Accepting callbacks; none waiting for Kafka",
                Healthy,
            ),
        ];
        assert_summaries(&cases);
    }

    #[test]
    fn the_summary_begins_with_whether_callbacks_are_accepted() {
        use Severity::{Critical, Warning};
        let cases = [
            (
                SummaryInput {
                    ready: Err("the journal is full".to_owned()),
                    is_any_broker_up: false,
                    warnings: vec!["token files cannot be used".to_owned()],
                    ..healthy()
                },
                "Not ready: the journal is full; token files cannot be used",
                Critical,
            ),
            (
                SummaryInput { alive: Err("the pump has not run for 12 s".to_owned()), ..healthy() },
                "Accepting callbacks; the pump has not run for 12 s",
                Critical,
            ),
            (
                SummaryInput {
                    phase: Phase::Starting,
                    ready: Err("the journal is being read".to_owned()),
                    ..healthy()
                },
                "Not accepting callbacks yet: the journal is being read",
                Warning,
            ),
            (
                SummaryInput { phase: Phase::KeepAccepting, ready: Err("stopping".to_owned()), ..healthy() },
                "Stopping, and still accepting callbacks",
                Warning,
            ),
            (
                SummaryInput { phase: Phase::Draining, ready: Err("stopping".to_owned()), waiting: 5, ..healthy() },
                "Stopping: 5 waiting for Kafka",
                Warning,
            ),
        ];
        assert_summaries(&cases);
    }

    fn assert_summaries(cases: &[(SummaryInput, &str, Severity)]) {
        for (input, text, severity) in cases {
            assert_eq!(summary(input), ((*text).to_owned(), *severity), "{input:?}");
        }
    }

    #[test]
    fn a_duration_is_shown_in_at_most_two_units() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (11_400, "3 h 10 min"),
            (86_400, "1 d"),
            (90_000, "1 d 1 h"),
            (8_640_000, "100 d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(Span(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
