//! The check of every body before the response: it must be a JSON object that does not contradict the command of the URL.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de;
use serde::de::DeserializeSeed;
use serde::de::IgnoredAny;
use serde_json::error::Category;

use crate::body::is_blank;
use crate::refusal::Refusal;

/// A body that has passed [`check_body`], which alone makes one.
#[derive(Debug, Clone, Copy)]
pub struct CheckedBody<'a> {
    json: &'a str,
}

impl<'a> CheckedBody<'a> {
    /// The text of the object, without white space around it.
    pub const fn json(self) -> &'a str {
        self.json
    }
}

/// Checks in one pass that `body` is a JSON object and does not name another command than `command`.
///
/// A body without a command is accepted, as the URL has it: `Push.*` bodies have none.
///
/// # Errors
///
/// It is not UTF-8, not JSON, not an object, or of another command; with line and column.
pub fn check_body<'a>(body: &'a [u8], command: &str) -> Result<CheckedBody<'a>, Refusal> {
    let text = str::from_utf8(body).map_err(|error| {
        let (line, column) = place(body.get(..error.valid_up_to()).unwrap_or_default());
        Refusal::NotJson { what: "a byte that is not UTF-8".into(), line, column }
    })?;
    let json = text.trim_matches(is_blank);
    if !json.starts_with('{') {
        return Err(not_an_object(text));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    HeadOf(command).deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| {
        let what = what(&error);
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Data => Refusal::CommandMismatch { what, line, column },
            Category::Syntax | Category::Eof | Category::Io => Refusal::NotJson { what, line, column },
        }
    })?;
    Ok(CheckedBody { json })
}

fn not_an_object(text: &str) -> Refusal {
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => Refusal::NotJson { what: what(&error), line: error.line(), column: error.column() },
        Ok(_) => {
            let blanks = text.len() - text.trim_start_matches(is_blank).len();
            let (line, column) = place(text.as_bytes().get(..blanks).unwrap_or_default());
            Refusal::NotObject { line, column }
        }
    }
}

/// Line and column, from 1, of the byte after `before`.
fn place(before: &[u8]) -> (usize, usize) {
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    (line, before.len() - line_start + 1)
}

/// The message of the parser without its position, which a [`Refusal`] has separately.
pub fn what(error: &serde_json::Error) -> Box<str> {
    let text = error.to_string();
    let suffix = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&suffix).unwrap_or(&text);
    // It may quote the body at any length.
    text.get(..text.floor_char_boundary(WHAT_BYTES_MAX)).unwrap_or(text).into()
}

/// The most bytes of a parser's message.
const WHAT_BYTES_MAX: usize = 512;

/// Parses an object to its end, and compares its command.
struct HeadOf<'n>(&'n str);

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Field {
    CallbackCommand,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for HeadOf<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> de::Visitor<'de> for HeadOf<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                Field::CallbackCommand => map.next_value_seed(SameAs(self.0))?,
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Accepts exactly this string.
struct SameAs<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for SameAs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl de::Visitor<'_> for SameAs<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text == self.0 { Ok(()) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;

    const COMMAND: &str = "Some.Command";

    fn refused(body: &[u8]) -> (Reason, String) {
        let refusal = check_body(body, COMMAND).unwrap_err();
        (refusal.reason(), refusal.to_string())
    }

    #[test]
    fn an_object_of_the_command_is_taken_without_the_blanks_around_it() {
        for body in [
            r#"{"CallbackCommand":"Some.Command"}"#,
            r#"{"a":[1,{"b":null}],"CallbackCommand":"Some\u002eCommand","c":"\ud800"}"#,
            r#"{"Events":[]}"#,
            "{}",
        ] {
            let padded = format!(" \r\n\t{body}\n ");
            assert_eq!(check_body(padded.as_bytes(), COMMAND).unwrap().json(), body);
        }
    }

    #[test]
    fn a_mistake_is_told_in_few_words_however_long_what_was_found() {
        let (_, detail) = refused(format!(r#"{{"CallbackCommand":"{}"}}"#, "y".repeat(100_000)).as_bytes());
        assert!(detail.len() < 1000 && detail.contains("yyy") && detail.ends_with("line 1 column 100021"), "{detail}");
    }

    #[test]
    fn what_is_not_json_is_told_with_line_and_column() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "line 1 column 0"),
            (b"{", "line 1 column 1"),
            (b"{\n \"a\": tru}", "line 2 column 10"),
            (b"{} x", "line 1 column 4"),
            (b"nonsense", "line 1 column 2"),
            (b"{\"a\":1,}", "line 1 column 8"),
            (b"\xef\xbb\xbf{}", "line 1 column 1"),
            (b"{\"a\":\n\"\xff\"}", "line 2 column 2"),
            (b"{\"a\":\"\n\"}", "line 1 column 6"),
        ];
        for (body, place) in cases {
            let (reason, text) = refused(body);
            assert_eq!(reason, Reason::NotJson, "{text}");
            assert!(text.ends_with(place), "{text:?} does not end with {place:?}");
        }
    }

    #[test]
    fn other_json_is_not_an_object() {
        for body in ["[]", "[{}]", "1", "\"{\"", "null", " true"] {
            assert_eq!(refused(body.as_bytes()).0, Reason::NotObject, "{body}");
        }
        assert_eq!(refused(b"\n  []").1, "the body is not a JSON object at line 2 column 3");
    }

    #[test]
    fn another_command_in_the_body_is_a_mismatch() {
        for body in [
            r#"{"CallbackCommand":"Some.Other"}"#,
            r#"{"CallbackCommand":"some.command"}"#,
            r#"{"CallbackCommand":null}"#,
            r#"{"CallbackCommand":7}"#,
            r#"{"CallbackCommand":"Some.Command","CallbackCommand":"Some.Other"}"#,
        ] {
            assert_eq!(refused(body.as_bytes()).0, Reason::CommandMismatch, "{body}");
        }
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_is_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(check_body(deep.as_bytes(), COMMAND).is_ok());
    }
}
