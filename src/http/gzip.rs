//! Bodies that come as gzip, taken apart under a limit.
//!
//! It is done in one go where the body is complete, so that a worker holds the memory of one body for it, however many requests there are.

use std::io::ErrorKind;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use crate::capture::Raw;
use crate::refusal::Refusal;

/// What is taken from the decompressor at a time.
const PART_BYTES: usize = 8 * 1024;

/// The same request with its body decompressed. Several members behind each other are one body, as gzip has it.
///
/// # Errors
///
/// It is no gzip from its first byte to its last, or it is longer than `bytes_max`. Not more than that is ever held.
pub(super) fn decompress(raw: &Raw, bytes_max: usize) -> Result<Raw, Refusal> {
    // All of it at once: to grow as it comes would take up to twice the limit, and what the body says of its length may be a lie.
    let mut plain = Raw::begin(raw.query(), bytes_max);
    let mut decoder = MultiGzDecoder::new(raw.body());
    let mut part = [0; PART_BYTES];
    loop {
        let count = decoder.read(&mut part).map_err(|error| Refusal::NotGzip(what(error.kind())))?;
        if count == 0 {
            return Ok(plain.end());
        }
        if count > bytes_max - plain.body().len() {
            return Err(Refusal::DecompressedTooLarge { limit: bytes_max });
        }
        plain.push(part.get(..count).unwrap_or_default());
    }
}

/// What is wrong with it. The decompressor's own words are for those who call it.
fn what(kind: ErrorKind) -> &'static str {
    if kind == ErrorKind::UnexpectedEof { "it breaks off" } else { "it is damaged, or something else follows it" }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const QUERY: &str = "CallbackCommand=A.b";

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Refusal> {
        let mut raw = Raw::begin(QUERY, 0);
        raw.push(body);
        decompress(&raw, bytes_max).map(|plain| {
            assert_eq!(plain.query(), QUERY);
            plain.body().to_vec()
        })
    }

    #[test]
    fn members_are_one_body_of_at_most_the_limit() {
        let plain = vec![b'x'; 3 * PART_BYTES];
        let members = [gzip(&plain), gzip(b""), gzip(b"y")].concat();
        let both = [&plain[..], b"y"].concat();
        assert_eq!(decompressed(&members, both.len()), Ok(both.clone()));
        let limit = both.len() - 1;
        assert_eq!(decompressed(&members, limit), Err(Refusal::DecompressedTooLarge { limit }));
        assert_eq!(decompressed(&gzip(b""), 1), Ok(Vec::new()));
    }

    #[test]
    fn what_is_cut_anywhere_is_refused() {
        let (first, second) = (gzip(b"{\"a\":1}"), gzip(b"{}"));
        let whole = [&first[..], &second].concat();
        for end in (0..whole.len()).filter(|end| *end != first.len()) {
            assert_eq!(decompressed(&whole[..end], 100), Err(Refusal::NotGzip("it breaks off")), "{end}");
        }
    }

    #[test]
    fn what_is_no_gzip_or_not_all_of_it_is_refused() {
        let whole = gzip(b"{\"a\":1}");
        let (mut wrong_sum, mut wrong_length) = (whole.clone(), whole.clone());
        wrong_sum[whole.len() - 8] ^= 1;
        wrong_length[whole.len() - 1] ^= 1;
        for body in [
            b"{\"a\":1}, as it stands".to_vec(),
            [&whole[..], b"garbage that follows"].concat(),
            [&whole[..], &[0; 512]].concat(),
            [&whole[..10], &[0xff; 20]].concat(),
            wrong_sum,
            wrong_length,
        ] {
            let refused = decompressed(&body, 100);
            assert_eq!(refused, Err(Refusal::NotGzip("it is damaged, or something else follows it")), "{body:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_longer_than_the_limit() {
        let good = gzip(&[b'x'; 100]);
        proptest::proptest!(|(
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            kept in 0..=good.len(),
            bytes_max in 0..200_usize,
        )| {
            if let Ok(plain) = decompressed(&[&good[..kept], &rest].concat(), bytes_max) {
                assert!(plain.len() <= bytes_max);
            }
        });
    }
}
