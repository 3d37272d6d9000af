//! The sentence at the top of the status page: what the process does, and what is wrong, the worst first.
//!
//! It begins with whether callbacks are taken. Then come, where there are any: a stuck thread, losses of the last hour, a Kafka that takes
//! nothing or topics that are held up, how long the journal lasts, and what else needs a look. Without any of these it says what waits.

use std::fmt;
use std::time::Duration;

use crate::lifecycle::Phase;

/// Kafka has taken nothing, or nothing of a topic, for so long before it counts as trouble: a leader election is over by then.
pub(super) const TROUBLE_AFTER: Duration = Duration::from_secs(10);
/// Losses are in the sentence for so long.
const LOSSES_FOR: Duration = Duration::from_secs(3600);

/// What the sentence is made of.
#[derive(Debug)]
pub(super) struct Situation {
    pub(super) phase: Phase,
    /// As `/livez` and `/readyz` say.
    pub(super) alive: Result<(), String>,
    pub(super) ready: Result<(), String>,
    /// Callbacks that wait for Kafka.
    pub(super) waiting: u64,
    /// All lost callbacks, and how long ago the last was.
    pub(super) lost: Option<(u64, Duration)>,
    /// How long Kafka has taken nothing although there was something to take.
    pub(super) takes_nothing_for: Duration,
    pub(super) is_any_broker_up: bool,
    /// How many topics are held up, and for how long the worst.
    pub(super) held_up: Option<(usize, Duration)>,
    /// At the growth of the last minute; `None` while it does not grow.
    pub(super) journal_lasts: Option<Duration>,
    /// What else needs a look, such as files that cannot be read.
    pub(super) others: Vec<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// Nothing to do.
    Well,
    /// Look when you can.
    Warning,
    /// Callbacks are lost or not taken, or will be.
    Critical,
}

/// The sentence, without a full stop, and how bad it is.
pub(super) fn sentence(situation: &Situation) -> (String, Severity) {
    let (begin, mut severity) = beginning(situation);
    let mut parts = vec![begin];
    let mut add = |part: String, is| {
        parts.push(part);
        severity = if severity == Severity::Critical { severity } else { is };
    };
    if let Err(why) = &situation.alive {
        add(why.clone(), Severity::Critical);
    }
    if let Some((count, ago)) = situation.lost.filter(|(_, ago)| *ago <= LOSSES_FOR) {
        add(format!("{count} lost since the start, the last {} ago", Span(ago)), Severity::Critical);
    }
    let is_kafka_stuck = situation.takes_nothing_for >= TROUBLE_AFTER;
    if is_kafka_stuck {
        add(format!("Kafka has taken nothing for {}", Span(situation.takes_nothing_for)), Severity::Critical);
    } else {
        if situation.phase == Phase::Serving && situation.ready.is_ok() && !situation.is_any_broker_up {
            add("no Kafka broker is connected".to_owned(), Severity::Warning);
        }
        match situation.held_up {
            Some((1, longest)) => add(format!("one topic has been held up for {}", Span(longest)), Severity::Warning),
            Some((topics, longest)) => {
                add(format!("{topics} topics are held up, the longest for {}", Span(longest)), Severity::Warning);
            }
            None => {}
        }
    }
    if let Some(lasts) = situation.journal_lasts.filter(|_| is_kafka_stuck || situation.held_up.is_some()) {
        add(format!("the journal lasts {} more", Span(lasts)), Severity::Warning);
    }
    for other in &situation.others {
        add(other.clone(), Severity::Warning);
    }
    if parts.len() == 1 && situation.phase == Phase::Serving && situation.ready.is_ok() {
        parts.push(match situation.waiting {
            0 => "nothing waits for Kafka".to_owned(),
            waiting => format!("{waiting} on their way to Kafka"),
        });
    }
    (parts.join("; "), severity)
}

fn beginning(situation: &Situation) -> (String, Severity) {
    match (situation.phase, &situation.ready) {
        (Phase::Starting, ready) => {
            let why = ready.as_ref().err().map_or("starting", String::as_str);
            (format!("Not taking callbacks yet: {why}"), Severity::Warning)
        }
        (Phase::Serving, Ok(())) => ("Taking callbacks".to_owned(), Severity::Well),
        (Phase::Serving, Err(why)) => (format!("Not ready: {why}"), Severity::Critical),
        (Phase::KeepAccepting, _) => ("Stopping, and still taking callbacks".to_owned(), Severity::Warning),
        (Phase::Closing | Phase::Draining | Phase::Recording | Phase::Stopped, _) => {
            (format!("Stopping: {} wait for Kafka", situation.waiting), Severity::Warning)
        }
    }
}

/// A time span as people say it, in at most two units.
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

    fn well() -> Situation {
        Situation {
            phase: Phase::Serving,
            alive: Ok(()),
            ready: Ok(()),
            waiting: 0,
            lost: None,
            takes_nothing_for: Duration::ZERO,
            is_any_broker_up: true,
            held_up: None,
            journal_lasts: None,
            others: Vec::new(),
        }
    }

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn the_sentence_says_what_is_wrong_and_the_worst_first() {
        use Severity::{Critical, Warning, Well};
        let stuck = Situation { takes_nothing_for: minutes(4), waiting: 9, ..well() };
        let cases = [
            (well(), "Taking callbacks; nothing waits for Kafka", Well),
            (Situation { waiting: 12, ..well() }, "Taking callbacks; 12 on their way to Kafka", Well),
            // A journal that grows for a moment is no news while Kafka takes what comes.
            (
                Situation { journal_lasts: Some(minutes(9)), ..well() },
                "Taking callbacks; nothing waits for Kafka",
                Well,
            ),
            (
                Situation { journal_lasts: Some(minutes(190)), ..stuck },
                "Taking callbacks; Kafka has taken nothing for 4 min; the journal lasts 3 h 10 min more",
                Critical,
            ),
            (
                Situation { takes_nothing_for: Duration::from_secs(9), ..well() },
                "Taking callbacks; nothing waits for Kafka",
                Well,
            ),
            (
                Situation { held_up: Some((1, minutes(70))), journal_lasts: Some(minutes(2880)), ..well() },
                "Taking callbacks; one topic has been held up for 1 h 10 min; the journal lasts 2 d more",
                Warning,
            ),
            (
                Situation { held_up: Some((3, minutes(1))), ..well() },
                "Taking callbacks; 3 topics are held up, the longest for 1 min",
                Warning,
            ),
            (
                Situation { is_any_broker_up: false, ..well() },
                "Taking callbacks; no Kafka broker is connected",
                Warning,
            ),
            (
                Situation { lost: Some((7, minutes(59))), ..well() },
                "Taking callbacks; 7 lost since the start, the last 59 min ago",
                Critical,
            ),
            (Situation { lost: Some((7, minutes(61))), ..well() }, "Taking callbacks; nothing waits for Kafka", Well),
        ];
        assert_sentences(&cases);
    }

    #[test]
    fn the_sentence_begins_with_whether_callbacks_are_taken() {
        use Severity::{Critical, Warning};
        let cases = [
            (
                Situation {
                    ready: Err("the journal is full".to_owned()),
                    is_any_broker_up: false,
                    others: vec!["token files cannot be used".to_owned()],
                    ..well()
                },
                "Not ready: the journal is full; token files cannot be used",
                Critical,
            ),
            (
                Situation { alive: Err("the pump has not turned for 12 s".to_owned()), ..well() },
                "Taking callbacks; the pump has not turned for 12 s",
                Critical,
            ),
            (
                Situation { phase: Phase::Starting, ready: Err("the journal is being read".to_owned()), ..well() },
                "Not taking callbacks yet: the journal is being read",
                Warning,
            ),
            (
                Situation { phase: Phase::KeepAccepting, ready: Err("stopping".to_owned()), ..well() },
                "Stopping, and still taking callbacks",
                Warning,
            ),
            (
                Situation { phase: Phase::Draining, ready: Err("stopping".to_owned()), waiting: 5, ..well() },
                "Stopping: 5 wait for Kafka",
                Warning,
            ),
        ];
        assert_sentences(&cases);
    }

    fn assert_sentences(cases: &[(Situation, &str, Severity)]) {
        for (situation, text, severity) in cases {
            assert_eq!(sentence(situation), ((*text).to_owned(), *severity), "{situation:?}");
        }
    }

    #[test]
    fn a_time_span_has_at_most_two_units() {
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
