//! The deterministic id of an event: the same callback sent twice has the same id, so consumers can deduplicate.

use sha2::Digest;
use sha2::Sha256;

/// 32 hex digits from the SdkAppid, the command and the command's dedupe key.
///
/// The parts are hashed with their lengths, so two callbacks have the same id exactly if all three are equal (up to a collision of half a
/// SHA-256). `Sign` and `RequestTime` are not part of it: they differ when a callback is sent again.
pub fn event_id(app_id: &str, command: &str, dedupe_key: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [app_id.as_bytes(), command.as_bytes(), dedupe_key] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut id = [b'0'; 32];
    for (digits, byte) in id.chunks_exact_mut(2).zip(digest) {
        for (digit, nibble) in digits.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) };
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_never_changes_from_version_to_version() {
        // sha256 of three little-endian u64 lengths, each before its part, computed with another tool.
        assert_eq!(event_id("14", "A.b", b"{}"), *b"b37506ff88328f9d067d7628295e27df");
    }

    proptest! {
        #[test]
        fn ids_are_the_same_exactly_when_all_parts_are(
            a in ("[0-9]{1,3}", "[A-C.]{0,3}", "[a-c{}]{0,3}"),
            b in ("[0-9]{1,3}", "[A-C.]{0,3}", "[a-c{}]{0,3}"),
        ) {
            let id = |(app, command, key): &(String, String, String)| event_id(app, command, key.as_bytes());
            prop_assert_eq!(id(&a) == id(&b), a == b);
        }
    }
}
