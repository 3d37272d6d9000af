//! Until when certificates are good: the one field of X.509 that is of use to who watches.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first of the certificates in a file of PEM ends, in seconds since the Unix epoch; `None` when none says so.
pub(crate) fn of_pem(pem: &[u8]) -> Option<i64> {
    CertificateDer::pem_slice_iter(pem).filter_map(|certificate| of_der(&certificate.ok()?)).min()
}

/// A certificate begins with its version, which may be absent, serial number, algorithm, issuer, and validity: from, until.
fn of_der(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = element(certificate, Some(SEQUENCE))?;
    let (signed, _) = element(certificate, Some(SEQUENCE))?;
    let begin = element(signed, Some(VERSION)).map_or(signed, |(_version, rest)| rest);
    let (_serial_number, rest) = element(begin, None)?;
    let (_algorithm, rest) = element(rest, Some(SEQUENCE))?;
    let (_issuer, rest) = element(rest, Some(SEQUENCE))?;
    let (validity, _) = element(rest, Some(SEQUENCE))?;
    let (_from, until) = element(validity, None)?;
    time(until)
}

/// What the element at the beginning of `bytes` holds, and what is behind it, if it has that tag.
fn element(bytes: &[u8], tag: Option<u8>) -> Option<(&[u8], &[u8])> {
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

/// Digits up to seconds and `Z`; of the year there are two or four.
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
    fn no_bytes_make_it_panic() {
        proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200))| {
            let _end = of_der(&bytes);
            let _end = of_der(&[&[SEQUENCE, 0x50, SEQUENCE, 0x4e, 2, 1, 1, SEQUENCE, 0, SEQUENCE, 0, SEQUENCE], &bytes[..]].concat());
        });
    }
}
