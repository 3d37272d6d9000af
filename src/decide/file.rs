//! The text of a blocklist file.
//!
//! UTF-8, one sentence a line. A byte order mark, CRLF, blank lines and blanks at the ends are taken; a line that
//! begins with `#` is a comment. One bad line makes the file bad, since a list with a hole in it lets somebody through.

use std::str;

use crate::decide::blocklist::Rules;
use crate::decide::mistake::Mistake;
use crate::decide::rule::BLANKS;
use crate::decide::rule::Rule;
use crate::decide::rule::refuse_hidden_lines;

/// A line that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {mistake}")]
pub struct BadLine {
    /// Its number; the first line is 1.
    pub line: usize,
    /// What is wrong with it.
    pub mistake: Mistake,
}

/// How many bad lines are kept: of a file that is no blocklist at all, every line is one.
const BAD_LINES_MAX: usize = 1000;

/// The bad lines of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadLines {
    /// The first thousand, in order.
    pub first: Vec<BadLine>,
    /// How many there are.
    pub count: usize,
}

/// Reads a whole file.
///
/// # Errors
///
/// Its bad lines. There is at least one.
pub fn parse(text: &[u8]) -> Result<Rules, BadLines> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut rules = Rules::default();
    let mut bad_lines = BadLines::default();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if let Err(mistake) = take_line(line, &mut rules) {
            bad_lines.count += 1;
            if bad_lines.first.len() < BAD_LINES_MAX {
                bad_lines.first.push(BadLine { line: index + 1, mistake });
            }
        }
    }
    if bad_lines.count == 0 { Ok(rules) } else { Err(bad_lines) }
}

/// Adds to `rules` what one line says.
fn take_line(line: &[u8], rules: &mut Rules) -> Result<(), Mistake> {
    let line = str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).map_err(|_error| Mistake::NotUtf8)?;
    // Of comments too: after a lone carriage return the rest of an old Mac's file would look like one.
    if let Some(control) = line.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(Mistake::Control(control));
    }
    let line = line.trim_matches(BLANKS);
    if line.starts_with('#') {
        return refuse_hidden_lines(line);
    }
    if !line.is_empty() {
        let (rule, until) = Rule::parse(line)?;
        rules.insert(&rule, until);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use proptest::prelude::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_plain_list_of_ids_is_a_blocklist() {
        let rules = parse(b"mallory\neve").expect("good");
        assert_eq!(rules.len(), 2);
        assert!(rules.blocks("mallory", NOW));
        assert!(rules.blocks("eve", NOW));
        assert!(!rules.blocks("bob", NOW));
    }

    #[test]
    fn files_from_other_systems_mean_the_same() {
        let texts: [&[u8]; 6] = [
            b"mallory\n",
            b"mallory",
            b"\xef\xbb\xbfmallory\n",
            b"mallory\r\n",
            b"\r\n\t \r\n \tmallory \t\r\n\n",
            b" # comment\xe4\xbd\xa0\n#\n#mallory2\nmallory\r",
        ];
        for text in texts {
            let rules = parse(text).expect("good");
            assert_eq!(rules.len(), 1, "{text:?}");
            assert!(rules.blocks("mallory", NOW), "{text:?}");
        }
    }

    #[test]
    fn a_file_without_rules_is_good() {
        for text in ["", "\n", "\u{feff}", "# only\n#comments"] {
            assert_eq!(parse(text.as_bytes()).expect("good").len(), 0);
        }
    }

    #[test]
    fn every_bad_line_is_told_by_number() {
        let text = b"good\nblock\n# fine\n\xff\xfe\nclose @a @b\r\nmal\0lory\n#a\rmallory\n\xef\xbb\xbfbob\n\
            block bob on @a\xe2\x80\x8b\n# a\xe2\x80\xa9mallory\n\"a\xc2\x85\"";
        let bad_lines = parse(text).expect_err("bad");
        let told: Vec<String> = bad_lines.first.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "line 2: the line ends; expected a user",
                "line 4: bytes that are not UTF-8; expected a text file in UTF-8",
                "line 5: found `@b`; expected `until`, `because` or the end of the line",
                "line 6: control character U+0000; expected visible text in lines that end in LF or CRLF",
                "line 7: control character U+000D; expected visible text in lines that end in LF or CRLF",
                "line 8: invisible character U+FEFF; expected visible characters, or an id written as a JSON string",
                "line 9: invisible character U+200B; expected visible characters, or an id written as a JSON string",
                "line 10: invisible character U+2029; expected visible characters, or an id written as a JSON string",
                "line 11: control character U+0085; expected visible text in lines that end in LF or CRLF",
            ]
        );
    }

    #[test]
    fn of_a_file_that_is_no_blocklist_only_the_first_lines_are_kept() {
        let bad_lines = parse("block\n".repeat(5000).as_bytes()).expect_err("bad");
        assert_eq!((bad_lines.first.len(), bad_lines.count), (BAD_LINES_MAX, 5000));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _rules_or_bad_lines = parse(&text);
        }
    }
}
