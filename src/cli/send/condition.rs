//! The conditions of `--fail-if`: `p99>100ms`, `late>0`, `errors>=0.1%`.

use std::fmt;
use std::time::Duration;

use crate::send::measurements::Measurements;

use super::report::shown;

type CountOf = fn(&Measurements) -> u64;

/// The named counts, as in the JSON report.
const COUNTS: [(&str, CountOf); 7] = [
    ("due", Measurements::due),
    ("sent", |seen| seen.sent),
    ("answered", |seen| seen.answered),
    ("unanswered", Measurements::unanswered),
    ("errors", Measurements::errors),
    ("late", |seen| seen.late),
    ("late_starts", |seen| seen.late_starts),
];
const UNITS: [(&str, f64); 3] = [("us", 1e6), ("ms", 1e3), ("s", 1.0)];

/// A quantity, a comparison and a bound.
#[derive(Debug, Clone)]
pub(super) struct FailCondition {
    text: String,
    quantity: Quantity,
    comparison: Comparison,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Quantity {
    Percentile(f64),
    Count(CountOf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    Seconds(f64),
    Count(f64),
    Percent(f64),
}

impl FailCondition {
    /// Parses a condition.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or("expected a comparison by >, >=, < or <=, such as p99>100ms")?;
        let (name, rest) = text.split_at(at);
        let operators = [
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Above),
            ("<", Comparison::Below),
        ];
        let found = operators.iter().find_map(|(word, meant)| rest.strip_prefix(word).map(|rest| (*meant, rest)));
        let (comparison, bound) = found.ok_or("expected >, >=, < or <=")?;
        let quantity = quantity(name.trim())?;
        let bound = match quantity {
            Quantity::Percentile(_) => latency(bound.trim())?,
            Quantity::Count(_) => count(bound.trim())?,
        };
        Ok(Self { text: text.to_owned(), quantity, comparison, bound })
    }

    /// Whether the condition holds.
    pub(super) fn holds(&self, measurements: &Measurements) -> bool {
        let value = match self.quantity {
            Quantity::Percentile(percent) => measurements.percentile(percent).as_secs_f64(),
            Quantity::Count(of) => of(measurements) as f64,
        };
        let bound = match self.bound {
            Bound::Seconds(bound) | Bound::Count(bound) => bound,
            Bound::Percent(percent) => measurements.due() as f64 * percent / 100.0,
        };
        match self.comparison {
            Comparison::Above => value > bound,
            Comparison::AtLeast => value >= bound,
            Comparison::Below => value < bound,
            Comparison::AtMost => value <= bound,
        }
    }

    /// The value of the quantity.
    pub(super) fn found(&self, measurements: &Measurements) -> String {
        match self.quantity {
            Quantity::Percentile(percent) => shown(measurements.percentile(percent)),
            Quantity::Count(of) => format!("{} of {}", of(measurements), measurements.due()),
        }
    }
}

impl fmt::Display for FailCondition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

fn quantity(name: &str) -> Result<Quantity, String> {
    if let Some((_, of)) = COUNTS.iter().find(|(count, _)| *count == name) {
        return Ok(Quantity::Count(*of));
    }
    let percent = if name == "max" { Some("100") } else { name.strip_prefix('p') };
    let percent = percent.and_then(number).filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.map(Quantity::Percentile).ok_or_else(|| {
        let counts = COUNTS.map(|(name, _)| name).join(", ");
        format!("there is no {name:?}; there are {counts}, max, and percentiles such as p50 or p99.9")
    })
}

fn latency(text: &str) -> Result<Bound, String> {
    let wrong = || format!("{text:?} is no latency: expected a number with a unit, us, ms or s, such as 100ms");
    let digits = text.trim_end_matches(|letter: char| letter.is_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let (_, per_second) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let seconds = number(digits.trim_end()).ok_or_else(wrong)? / per_second;
    Duration::try_from_secs_f64(seconds).map(|_in_range| Bound::Seconds(seconds)).map_err(|_beyond| wrong())
}

fn count(text: &str) -> Result<Bound, String> {
    let bound = match text.strip_suffix('%') {
        Some(percent) => number(percent.trim_end()).map(Bound::Percent),
        None => number(text).map(Bound::Count),
    };
    bound.ok_or_else(|| format!("{text:?} is no count: expected a number, or a share such as 0.1%"))
}

/// A plain number: without sign, exponent or infinity.
fn number(text: &str) -> Option<f64> {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_latencies_counts_and_shares() {
        let mut seen = Measurements::new().unwrap();
        (seen.sent, seen.answered, seen.accepted, seen.late) = (1000, 990, 980, 3);
        for (text, expected) in [
            ("errors>0", true),
            ("errors > 20", false),
            ("errors>=20", true),
            ("errors>1.9%", true),
            ("errors>2 %", false),
            ("unanswered<=10", true),
            ("late<3", false),
            ("late_starts>0", false),
            ("answered<100%", true),
            ("sent<1000", false),
            ("due>=1000", true),
            // Nothing has been measured.
            ("p99>100ms", false),
            ("p99.9<=0s", true),
            ("p50 < 1 us", true),
            ("max>1.5s", false),
        ] {
            assert_eq!(FailCondition::parse(text).unwrap().holds(&seen), expected, "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_an_expression() {
        for (text, expected) in [
            ("", "expected a comparison"),
            ("p99", "expected a comparison"),
            ("p99=1s", "expected a comparison"),
            (">1", "there is no \"\""),
            ("p99>", "is no latency"),
            ("p99>100", "expected a number with a unit"),
            ("p99>100m", "is no latency"),
            ("p99>-1ms", "is no latency"),
            ("p99>1e3ms", "is no latency"),
            ("p99>>1ms", "is no latency"),
            ("p0>1ms", "there is no \"p0\""),
            ("p101>1ms", "there is no \"p101\""),
            ("pinf>1ms", "there is no \"pinf\""),
            ("p>1ms", "there is no \"p\""),
            ("P99>1ms", "there is no \"P99\""),
            ("error>0", "there are due, sent, answered, unanswered, errors, late"),
            ("errors>1ms", "is no count"),
            ("errors>", "is no count"),
            ("errors>some", "is no count"),
        ] {
            let said = FailCondition::parse(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
