//! Invisible characters: in an id or a token they make a different one that looks the same.

use std::sync::LazyLock;

use regex_syntax::hir::Class;
use regex_syntax::hir::ClassUnicode;
use regex_syntax::hir::Hir;
use regex_syntax::hir::HirKind;

/// By Unicode properties, plus four blank symbols that have none of these properties: the Braille blank, the musical null notehead, and the
/// two blanks of the Egyptian hieroglyphs.
const PATTERN: &str = concat!(
    r"[\p{Default_Ignorable_Code_Point}\p{White_Space}\p{General_Category=Format}\p{General_Category=Control}",
    r"\x{2800}\x{1D159}\x{13441}\x{13442}]"
);

static INVISIBLE: LazyLock<ClassUnicode> = LazyLock::new(|| {
    let Ok(HirKind::Class(Class::Unicode(class))) = regex_syntax::parse(PATTERN).map(Hir::into_kind) else {
        unreachable!("the pattern is one class of characters");
    };
    class
});

/// Whether `character` is invisible by itself: white space, control and format characters, fillers, variation selectors.
pub fn is_invisible(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_graphic();
    }
    let ranges = INVISIBLE.ranges();
    let at = ranges.partition_point(|range| range.end() < character);
    ranges.get(at).is_some_and(|range| range.start() <= character)
}

/// The first invisible character of `text`.
pub fn first_invisible(text: &str) -> Option<char> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    text.chars().find(|character| is_invisible(*character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_control_format_and_filler_characters_are_invisible() {
        let invisible = [
            '\0',
            '\t',
            '\n',
            '\u{b}',
            '\r',
            ' ',
            '\u{7f}', // ASCII
            '\u{85}',
            '\u{a0}',
            '\u{1680}',
            '\u{2003}',
            '\u{2028}',
            '\u{2029}',
            '\u{202f}',
            '\u{205f}',
            '\u{3000}', // blanks
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{2060}',
            '\u{2064}', // joiners
            '\u{200e}',
            '\u{200f}',
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}', // bidirectional marks
            '\u{115f}',
            '\u{1160}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{17b4}',
            '\u{17b5}',
            '\u{2800}',
            '\u{1d159}', // fillers
            '\u{180b}',
            '\u{180f}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{e0100}',
            '\u{e01ef}', // variation selectors
            '\u{feff}',
            '\u{fff9}',
            '\u{fffb}',
            '\u{1bca0}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0020}',
            '\u{e007f}', // format
            '\u{2065}',
            '\u{fff0}',
            '\u{e0fff}', // set aside for more of them
        ];
        let seen = invisible.into_iter().filter(|character| !is_invisible(*character));
        assert_eq!(seen.collect::<Vec<_>>(), []);
    }

    #[test]
    fn letters_digits_marks_symbols_and_emoji_are_visible() {
        let text = "az09!~#@_-.你好éñßЖعא한글ไทยहि€→★😀\u{301}\u{fffd}\u{10ffff}\u{e000}";
        assert_eq!(first_invisible(text), None);
        assert_eq!(first_invisible("mallory\u{200b}"), Some('\u{200b}'));
    }

    #[test]
    fn every_white_space_and_control_character_of_the_standard_library_is_invisible() {
        let missed = (char::MIN..=char::MAX).find(|c| (c.is_whitespace() || c.is_control()) && !is_invisible(*c));
        assert_eq!(missed, None);
    }
}
