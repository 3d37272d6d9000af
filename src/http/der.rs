//! The little of DER that is read here: one element after the other.

/// A list of elements.
pub(super) const SEQUENCE: u8 = 0x30;
/// A number.
pub(super) const INTEGER: u8 = 0x02;
/// Bytes, which may be DER again.
pub(super) const OCTET_STRING: u8 = 0x04;

/// What the element at the beginning of `bytes` holds, and what is behind it, if it has that tag.
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
