//! A minimal DER reader: the validity of certificates, and elements of keys.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::clock::UnixMillis;

/// The tag of a sequence.
pub(super) const SEQUENCE: u8 = 0x30;
/// The tag of an integer.
pub(super) const INTEGER: u8 = 0x02;
/// The tag of an octet string, which may hold DER again.
pub(super) const OCTET_STRING: u8 = 0x04;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The validity of certificates, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    from: i64,
    until: i64,
}

/// Why a certificate is not valid now. Clients reject it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// Its validity has ended.
    #[error("a certificate in the file has expired, at {}", rfc3339(*.0))]
    Expired(i64),
    /// Its validity has not begun.
    #[error("a certificate in the file is not valid before {}", rfc3339(*.0))]
    NotYet(i64),
}

impl Validity {
    /// The time in which all certificates of a PEM file are valid; `None` if none states a validity.
    pub(crate) fn of_pem(pem: &[u8]) -> Option<Self> {
        let all = CertificateDer::pem_slice_iter(pem).filter_map(|certificate| Self::of_der(&certificate.ok()?));
        all.reduce(|one, other| Self { from: one.from.max(other.from), until: one.until.min(other.until) })
    }

    /// A certificate begins with its version, which is optional, serial number, algorithm, issuer, and validity.
    fn of_der(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = element(certificate, Some(SEQUENCE))?;
        let (signed, _) = element(certificate, Some(SEQUENCE))?;
        let begin = element(signed, Some(VERSION)).map_or(signed, |(_version, rest)| rest);
        let (_serial_number, rest) = element(begin, None)?;
        let (_algorithm, rest) = element(rest, Some(SEQUENCE))?;
        let (_issuer, rest) = element(rest, Some(SEQUENCE))?;
        let (validity, _) = element(rest, Some(SEQUENCE))?;
        let (_from, until) = element(validity, None)?;
        Some(Self { from: time(validity)?, until: time(until)? })
    }

    /// When the first certificate expires.
    pub(crate) const fn until(self) -> i64 {
        self.until
    }

    /// That they are valid at `now`, and not `ahead` of it any more.
    pub(crate) fn expiring(self, now: UnixMillis, ahead: Duration) -> Option<String> {
        let left = self.until.saturating_sub(now.0.div_euclid(1000));
        let is_soon = u64::try_from(left).is_ok_and(|left| left <= ahead.as_secs());
        is_soon.then(|| format!("a certificate in the file expires soon, at {}", rfc3339(self.until)))
    }

    /// Why they are not valid at `now`, if they are not.
    pub(crate) const fn invalid(self, now: UnixMillis) -> Option<Invalid> {
        let now = now.0.div_euclid(1000);
        if now > self.until {
            Some(Invalid::Expired(self.until))
        } else if now < self.from {
            Some(Invalid::NotYet(self.from))
        } else {
            None
        }
    }
}

fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_far| seconds.to_string(), |time| time.to_string())
}

/// Parses a time: digits up to the seconds and `Z`; the year has two or four digits.
fn time(element_bytes: &[u8]) -> Option<i64> {
    let tag = *element_bytes.first()?;
    let (text, _) = element(element_bytes, None)?;
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The contents of the element at the beginning of `bytes`, and what follows it, if it has that tag.
pub(super) fn element(bytes: &[u8], tag: Option<u8>) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let is_wanted = tag.is_none_or(|tag| tag == found);
    rest.split_at_checked(length).filter(|_element| is_wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        assert_eq!(time(b"\x17\x0d300102030405Z"), Some(1_893_553_445));
        assert_eq!(time(b"\x17\x0d500102030405Z"), Some(-631_054_555));
        assert_eq!(time(b"\x18\x0f20300102030405Z"), Some(1_893_553_445));
        for bad in
            [&b"\x17\x0d301302030405Z"[..], b"\x17\x0b3001020304Z", b"\x18\x0d300102030405Z", b"\x17\x0e", b"", b"\x04"]
        {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn says_why_a_certificate_is_of_no_use_now() {
        let validity = Validity { from: 10, until: 20 };
        let at = |millis: i64| validity.invalid(UnixMillis(millis)).map(|invalid| invalid.to_string());
        assert_eq!([at(10_000), at(20_999)], [None, None]);
        assert_eq!(at(21_000).unwrap(), "a certificate in the file has expired, at 1970-01-01T00:00:20Z");
        assert_eq!(at(9_999).unwrap(), "a certificate in the file is not valid before 1970-01-01T00:00:10Z");
        let soon = |millis: i64| validity.expiring(UnixMillis(millis), Duration::from_secs(5));
        assert_eq!([soon(14_999), soon(21_000)], [None, None]);
        assert_eq!(soon(15_000).unwrap(), "a certificate in the file expires soon, at 1970-01-01T00:00:20Z");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200))| {
            let _validity = Validity::of_der(&bytes);
            let _validity = Validity::of_der(&[&[SEQUENCE, 0x50, SEQUENCE, 0x4e, 2, 1, 1, SEQUENCE, 0, SEQUENCE, 0, SEQUENCE], &bytes[..]].concat());
        });
    }
}
