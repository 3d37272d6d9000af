//! Times as text.

use crate::clock::UnixMillis;

/// `2006-01-02T15:04:05.000Z`, in ASCII.
pub(super) type Rfc3339 = [u8; 24];

/// RFC 3339 in UTC with milliseconds. Times beyond what it can write become the epoch.
///
/// By hand, because it is done twice for each record and the library's printer takes several times as long.
pub(super) fn rfc3339(time: UnixMillis) -> Rfc3339 {
    let timestamp = jiff::Timestamp::from_millisecond(time.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let at = jiff::tz::Offset::UTC.to_datetime(timestamp);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let fields = [
        (0..4, i32::from(at.year())),
        (5..7, i32::from(at.month())),
        (8..10, i32::from(at.day())),
        (11..13, i32::from(at.hour())),
        (14..16, i32::from(at.minute())),
        (17..19, i32::from(at.second())),
        (20..23, i32::from(at.millisecond())),
    ];
    for (place, mut value) in fields {
        for digit in text.get_mut(place).into_iter().flatten().rev() {
            // Of a number from 0 to 9.
            *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_library_writes_them() {
        for millis in
            [0, 1, 999, 86_399_999, 951_782_400_000, 1_670_574_414_123, 4_102_444_800_000, 253_402_207_200_000]
        {
            let timestamp = jiff::Timestamp::from_millisecond(millis).unwrap();
            assert_eq!(str::from_utf8(&rfc3339(UnixMillis(millis))), Ok(&*format!("{timestamp:.3}")));
        }
        assert_eq!(&rfc3339(UnixMillis(i64::MAX)), b"1970-01-01T00:00:00.000Z");
    }
}
