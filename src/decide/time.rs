//! Strict RFC 3339 times, so that other programs parse them as the same moment.

use jiff::SignedDuration;
use jiff::civil;
use jiff::civil::DateTime;

use crate::clock::UnixMillis;

/// The format of a date and time to the second; `0` stands for any digit.
const SHAPE: &str = "0000-00-00T00:00:00";

const EPOCH: DateTime = civil::date(1970, 1, 1).at(0, 0, 0, 0);

/// Parses a time. `None` if it is invalid.
pub fn parse(text: &str) -> Option<UnixMillis> {
    let (local, offset_minutes) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (local, offset_minutes_of(offset)?)
        }
    };
    let (seconds, fraction) = local.split_at_checked(SHAPE.len())?;
    let fraction_fits = fraction.is_empty() || fraction.strip_prefix('.').is_some_and(is_digits);
    if !fits(seconds, SHAPE) || !fraction_fits {
        return None;
    }
    // Not jiff's `Timestamp`, which ends a day before the end of 9999: people write that year for "never".
    let since_epoch = local.parse::<DateTime>().ok()?.duration_since(EPOCH);
    let local_millis = i64::try_from(since_epoch.as_millis()).ok()?;
    Some(UnixMillis(local_millis.checked_sub(offset_minutes * 60_000)?))
}

/// Formats a time in UTC, with milliseconds only if they are not zero. A year outside of RFC 3339 becomes the nearest one within.
pub fn written(time: UnixMillis) -> String {
    const FIRST: DateTime = civil::date(0, 1, 1).at(0, 0, 0, 0);
    const LAST: DateTime = civil::date(9999, 12, 31).at(23, 59, 59, 999_000_000);

    let nearest = if time.0 < 0 { FIRST } else { LAST };
    let at = EPOCH.checked_add(SignedDuration::from_millis(time.0)).unwrap_or(nearest).clamp(FIRST, LAST);
    format!("{at}Z")
}

/// Parses an offset such as `+08:00`.
fn offset_minutes_of(offset: &str) -> Option<i64> {
    let (sign, clock) =
        if let Some(clock) = offset.strip_prefix('+') { (1, clock) } else { (-1, offset.strip_prefix('-')?) };
    let (hours, minutes) = clock.split_once(':')?;
    if !fits(clock, "00:00") || hours > "23" || minutes > "59" {
        return None;
    }
    Some(sign * (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?))
}

/// Whether `text` has a digit where `shape` has `0`, and is otherwise equal to it.
fn fits(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, model)| match model {
            b'0' => byte.is_ascii_digit(),
            letter => byte.eq_ignore_ascii_case(&letter),
        })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_so_that_it_reads_back() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (1_709_251_199_120, "2024-02-29T23:59:59.12Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(written(UnixMillis(millis)), text);
            assert_eq!(parse(text), Some(UnixMillis(millis)));
        }
        let beyond = [
            (i64::MAX, cases[5].1),
            (253_402_343_999_000, cases[5].1),
            (-62_167_219_200_001, cases[4].1),
            (i64::MIN, cases[4].1),
        ];
        for (millis, text) in beyond {
            assert_eq!(written(UnixMillis(millis)), text, "{millis}");
        }
    }

    #[test]
    fn the_times_of_rfc_3339_are_read_and_no_others() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:00.5z", Some(500)),
            ("1970-01-01T00:00:00.123456789+00:00", Some(123)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1969-12-31T16:30:00-07:30", Some(0)),
            ("1970-01-01T00:00:00-00:00", Some(0)),
            ("2024-02-29T23:59:60Z", Some(1_709_251_199_000)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799_000)),
            ("9999-12-31T23:59:59-12:00", Some(253_402_343_999_000)),
            ("", None),
            ("Z", None),
            ("2027", None),
            ("2027-01-31", None),
            ("2027-01-31T00:00Z", None),
            ("2027-01-31T00:00:00", None),
            ("2027-01-31T00:00:00.Z", None),
            ("2027-01-31T00:00:00+08", None),
            ("2027-01-31T00:00:00+0800", None),
            ("2027-01-31T00:00:00+24:00", None),
            ("2027-01-31T00:00:00+08:60", None),
            ("2027-01-31T24:00:00Z", None),
            ("2027-02-29T00:00:00Z", None),
            ("20270131T000000Z", None),
            ("2027-01-31T00:00:00Z[UTC]", None),
            ("+002027-01-31T00:00:00Z", None),
            ("2027-01-31T00:00:0你Z", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), millis.map(UnixMillis), "{text}");
        }
    }
}
