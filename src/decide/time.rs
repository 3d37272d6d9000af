//! Strict RFC 3339 times, so that other programs parse them as the same moment.

use std::ops::Range;

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
    if !fits(seconds, SHAPE) {
        return None;
    }
    let nanos = nanos_of(fraction)?;
    let year = number(seconds, 0..4);
    let small = |place| i8::try_from(number(seconds, place)).ok();
    let [month, day, hour, minute] = [small(5..7)?, small(8..10)?, small(11..13)?, small(14..16)?];
    // A leap second is read as the one before it.
    let second = small(17..19).map(|second| if second == 60 { 59 } else { second })?;
    // Not jiff's `Timestamp`, which ends a day before the end of 9999: people write that year for "never". Not its parser, which takes a third
    // of the time of a line of a blocklist: the shape is known.
    let since_epoch = DateTime::new(year, month, day, hour, minute, second, nanos).ok()?.duration_since(EPOCH);
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
#[inline]
fn fits(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).fold(true, |fits, (byte, model)| {
            fits & if model == b'0' { byte.is_ascii_digit() } else { byte.eq_ignore_ascii_case(&model) }
        })
}

/// Reads a fraction of a second: nothing, or a point and one to nine digits.
fn nanos_of(fraction: &str) -> Option<i32> {
    if fraction.is_empty() {
        return Some(0);
    }
    let digits = fraction.strip_prefix('.')?;
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10_i32.pow(9 - u32::try_from(digits.len()).ok()?);
    Some(digits.parse::<i32>().ok()? * scale)
}

/// The number that the digits at `place` write: four at most.
fn number(text: &str, place: Range<usize>) -> i16 {
    let digits = text.as_bytes().get(place).unwrap_or_default();
    digits.iter().fold(0, |number, digit| 10 * number + i16::from(digit & 0xf))
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
            ("1970-01-01T00:00:00.0009Z", Some(0)),
            ("1969-12-31T23:59:59.12Z", Some(-880)),
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
            ("2027-00-01T00:00:00Z", None),
            ("2027-13-01T00:00:00Z", None),
            ("2027-04-31T00:00:00Z", None),
            ("2027-01-31T23:60:00Z", None),
            ("2027-01-31T23:59:61Z", None),
            ("2027-01-31T00:00:00.1234567891Z", None),
            ("2027-01-31T00:00:00.1x9Z", None),
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
