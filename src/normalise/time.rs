//! Times as text.

use crate::clock::UnixMillis;

/// `2006-01-02T15:04:05.000Z`, in ASCII.
pub(super) type Rfc3339 = [u8; 24];

/// The first moment of a year with four digits.
const YEAR_0: jiff::Timestamp = jiff::Timestamp::constant(-62_167_219_200, 0);

/// Formats a time as RFC 3339 in UTC with milliseconds. Times outside its range become the epoch.
///
/// Hand-written, because it is done twice for each record, and the library's printer takes several times as long.
pub(super) fn rfc3339(time: UnixMillis) -> Rfc3339 {
    let timestamp = jiff::Timestamp::from_millisecond(time.0).ok().filter(|timestamp| *timestamp >= YEAR_0);
    let at = jiff::tz::Offset::UTC.to_datetime(timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH));
    let [a, b] = digits((at.year() / 100).unsigned_abs());
    let [c, d] = digits((at.year() % 100).unsigned_abs());
    let [e, f] = digits(at.month().unsigned_abs().into());
    let [g, h] = digits(at.day().unsigned_abs().into());
    let [i, j] = digits(at.hour().unsigned_abs().into());
    let [k, l] = digits(at.minute().unsigned_abs().into());
    let [m, n] = digits(at.second().unsigned_abs().into());
    let [_, o] = digits((at.millisecond() / 100).unsigned_abs());
    let [p, q] = digits((at.millisecond() % 100).unsigned_abs());
    [a, b, c, d, b'-', e, f, b'-', g, h, b'T', i, j, b':', k, l, b':', m, n, b'.', o, p, q, b'Z']
}

/// The two digits of a number below 100.
const fn digits(number: u16) -> [u8; 2] {
    let number = number.to_le_bytes()[0];
    [b'0' + number / 10, b'0' + number % 10]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_library_writes_them() {
        for millis in [
            -62_167_219_200_000,
            -1,
            0,
            1,
            999,
            86_399_999,
            951_782_400_000,
            1_670_574_414_123,
            4_102_444_800_000,
            253_402_207_200_000,
        ] {
            let timestamp = jiff::Timestamp::from_millisecond(millis).unwrap();
            assert_eq!(str::from_utf8(&rfc3339(UnixMillis(millis))), Ok(&*format!("{timestamp:.3}")));
        }
        for beyond in [i64::MAX, i64::MIN, -62_167_219_200_001] {
            assert_eq!(&rfc3339(UnixMillis(beyond)), b"1970-01-01T00:00:00.000Z");
        }
    }
}
