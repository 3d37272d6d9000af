//! The format of a blocklist file.
//!
//! UTF-8, one sentence a line. A byte order mark, CRLF, blank lines and white space at the ends of lines are allowed; a line that begins
//! with `#` is a comment. One invalid line makes the whole file invalid, since an incomplete list lets somebody through.

use std::mem;
use std::str;

use crate::clock::UnixMillis;
use crate::decide::mistake::Mistake;
use crate::decide::rule::BLANKS;
use crate::decide::rule::KEYWORDS;
use crate::decide::rule::Rule;
use crate::decide::rule::Sentence;
use crate::decide::rule::refuse_hidden_lines;
use crate::decide::rules::Rules;
use crate::decide::rules::gathered::Gathered;

/// An invalid line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {mistake}")]
pub struct BadLine {
    /// The line number, from 1.
    pub line: usize,
    /// The error.
    pub mistake: Mistake,
}

/// The most invalid lines that are kept: in a file that is not a blocklist every line is invalid.
const BAD_LINES_MAX: usize = 1000;

/// The invalid lines of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadLines {
    /// The first thousand, in order.
    pub first: Vec<BadLine>,
    /// Their number.
    pub count: usize,
}

/// The longest line, so that a file without line breaks needs no more memory than others.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Parses a whole text.
///
/// # Errors
///
/// The invalid lines.
pub fn parse(text: &[u8]) -> Result<Rules, BadLines> {
    let mut reading = Reading::default();
    reading.push(text);
    reading.finish()
}

/// The parser of a file, which is fed in chunks of any size.
#[derive(Debug, Default)]
pub struct Reading {
    rules: Gathered,
    bad_lines: BadLines,
    /// The number of complete lines.
    lines: usize,
    /// The incomplete last line, or a part of it if it is too long.
    begun: Vec<u8>,
}

impl Reading {
    /// Parses the next chunk.
    pub fn push(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((line, after)) = memchr::memchr(b'\n', rest).and_then(|end| rest.split_at_checked(end)) {
            if self.begun.is_empty() {
                self.take(line);
            } else {
                self.begin(line);
                let mut line = mem::take(&mut self.begun);
                self.take(&line);
                line.clear();
                self.begun = line;
            }
            rest = after.get(1..).unwrap_or_default();
        }
        self.begin(rest);
    }

    /// The rules of all chunks.
    ///
    /// # Errors
    ///
    /// The invalid lines.
    pub fn finish(mut self) -> Result<Rules, BadLines> {
        let last = mem::take(&mut self.begun);
        self.take(&last);
        if self.bad_lines.count == 0 { Ok(self.rules.finish()) } else { Err(self.bad_lines) }
    }

    /// Stores a part of a line, as far as needed to detect that it is too long.
    fn begin(&mut self, part: &[u8]) {
        let room = (LINE_BYTES_MAX + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    /// Handles a complete line.
    fn take(&mut self, line: &[u8]) {
        let line = if self.lines == 0 { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line) } else { line };
        self.lines += 1;
        if let Err(mistake) = take_line(line, &mut self.rules) {
            self.bad_lines.count += 1;
            if self.bad_lines.first.len() < BAD_LINES_MAX {
                self.bad_lines.first.push(BadLine { line: self.lines, mistake });
            }
        }
    }
}

/// Adds the rule of one line to `rules`.
fn take_line(line: &[u8], rules: &mut Gathered) -> Result<(), Mistake> {
    if line.len() > LINE_BYTES_MAX {
        return Err(Mistake::TooLong);
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(user) = plain_id(line) {
        rules.put(&Rule::Block { user: user.into(), account: None }, UnixMillis::NEVER, None);
        return Ok(());
    }
    let line = str::from_utf8(line).map_err(|_error| Mistake::NotUtf8)?;
    // In comments too: after a lone carriage return, the rest of a file with old Mac line ends would be a comment.
    // Without an early exit, so that the compiler can vectorize it.
    let is_plain =
        line.bytes().fold(true, |is_plain, byte| is_plain & (byte == b'\t' || (b' '..=b'~').contains(&byte)));
    if !is_plain && let Some(control) = line.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(Mistake::Control(control));
    }
    let line = line.trim_matches(BLANKS);
    if line.starts_with('#') {
        return refuse_hidden_lines(line);
    }
    if !line.is_empty() {
        let Sentence { rule, until, because } = Sentence::parse(line)?;
        rules.put(&rule, until, because);
    }
    Ok(())
}

/// The line, if it is an id in plain ASCII, as are nearly all lines of a large list. A faster way to the same result as a sentence.
fn plain_id(line: &[u8]) -> Option<&str> {
    let is_plain = line.iter().fold(true, |is_plain, byte| is_plain & byte.is_ascii_graphic() & (*byte != b'"'));
    let is_id = is_plain && !line.is_empty() && !line.starts_with(b"#");
    let id = str::from_utf8(line).ok().filter(|_line| is_id)?;
    (!KEYWORDS.contains(&id)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_line_of_a_mebibyte_is_read_and_a_longer_one_is_a_mistake() {
        let long = "a".repeat(LINE_BYTES_MAX);
        assert!(parse(format!("{long}\nbob").as_bytes()).expect("good").blocks(&long, NOW));
        for text in [format!("bob\n{long}a\neve"), format!("bob\n{}", long.repeat(3))] {
            let bad_lines = parse(text.as_bytes()).expect_err("bad");
            let first: Vec<String> = bad_lines.first.iter().map(ToString::to_string).collect();
            assert_eq!(first, ["line 2: more than 1048576 bytes in one line; expected one rule a line"]);
        }
    }

    #[test]
    fn a_plain_line_means_what_it_means_as_a_sentence() {
        for line in [
            "a",
            "@TOA#_1",
            "a\"b",
            "#a",
            "\"",
            "on",
            "block",
            "pardon",
            "until",
            "~!$%&'()*+,-./:;<=>?[\\]^_`{|}",
            "\u{7f}",
            "é",
        ] {
            let as_line = parse(line.as_bytes()).map(|rules| rules.len()).map_err(|bad| bad.first[0].mistake.clone());
            let as_sentence = parse(format!(" {line}").as_bytes()).map(|rules| rules.len());
            assert_eq!(as_line, as_sentence.map_err(|bad| bad.first[0].mistake.clone()), "{line}");
            assert_eq!(plain_id(line.as_bytes()).is_some(), as_line == Ok(1) && line.is_ascii(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_text_means_the_same_in_pieces_of_any_size(
            text in "(\u{feff}|)(([a-c]|block [a-c]|close @a|#x|block|é)(\n|\r\n|)){0,12}",
            sizes in proptest::collection::vec(1..9_usize, 1..5),
        ) {
            let mut reading = Reading::default();
            let (mut rest, mut sizes) = (text.as_bytes(), sizes.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(sizes.next().expect("endless").min(rest.len()));
                reading.push(piece);
                rest = after;
            }
            let outcome = |read: Result<Rules, BadLines>| read.map(|rules| {
                (rules.len(), ["a", "b", "c"].map(|user| rules.blocks(user, NOW)), rules.on("@a").is_some())
            });
            prop_assert_eq!(outcome(reading.finish()), outcome(parse(text.as_bytes())));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _rules_or_bad_lines = parse(&text);
        }
    }
}
