//! The texts that CloudEvents allows as the value of an attribute.

/// Whether `text` is allowed as an attribute: not empty, without control characters and noncharacters. (CloudEvents 1.0, "Type System",
/// `String`. It also forbids surrogates, which a `str` cannot hold.)
pub(super) fn is_allowed(text: &str) -> bool {
    // Without an early exit, so that the compiler can vectorize it.
    let is_printable_ascii = text.bytes().fold(true, |all, byte| all & (0x20..0x7f).contains(&byte));
    !text.is_empty() && (is_printable_ascii || text.chars().all(is_allowed_character))
}

/// The last two code points of each plane are noncharacters, and 32 in the first plane.
fn is_allowed_character(character: char) -> bool {
    let is_noncharacter = matches!(character, '\u{fdd0}'..='\u{fdef}') || u32::from(character) & 0xfffe == 0xfffe;
    !character.is_control() && !is_noncharacter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_noncharacters_and_empty_texts_are_no_attributes() {
        for character in
            ['\0', '\t', '\n', '\x1f', '\x7f', '\u{80}', '\u{9f}', '\u{fdd0}', '\u{fdef}', '\u{fffe}', '\u{10ffff}']
        {
            assert!(!is_allowed(&format!("a{character}b")), "{character:?}");
        }
        assert!(!is_allowed(""));
    }

    #[test]
    fn all_other_characters_are_allowed() {
        for character in
            [' ', '~', '\u{a0}', 'é', '新', '\u{200b}', '\u{fdcf}', '\u{fdf0}', '\u{fffd}', '\u{1f600}', '\u{10fffd}']
        {
            assert!(is_allowed(&format!("a{character}b")), "{character:?}");
        }
    }
}
