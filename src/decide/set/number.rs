//! Unsigned numbers in LEB128: seven bits a byte, lowest first; the top bit is set in all bytes but the last.

/// The most bytes of a number.
pub(crate) const BYTES_MAX: usize = 10;

/// Appends `number`: one byte below 128.
pub(crate) fn push(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

/// Decodes a number from the front of `bytes`. `None` if there is none.
#[inline]
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    match bytes.split_first() {
        // Nearly all numbers have one byte.
        Some((byte, rest)) if *byte < 0x80 => {
            *bytes = rest;
            Some(u64::from(*byte))
        }
        _ => take_long(bytes),
    }
}

fn take_long(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_every_number(small in 0..300_u64, any in any::<u64>(), after in any::<u8>()) {
            for number in [small, any, u64::MAX] {
                let mut bytes = Vec::new();
                push(&mut bytes, number);
                prop_assert!(bytes.len() == 1 || number >= 128);
                bytes.push(after);
                let mut rest = bytes.as_slice();
                prop_assert_eq!(take(&mut rest), Some(number));
                prop_assert_eq!(rest, [after]);
            }
        }
    }
}
