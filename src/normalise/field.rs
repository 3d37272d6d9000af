//! Reads single fields of a body without a type, by the paths in the command table.
//!
//! Nothing here fails: a field that is missing, or is neither text nor a number, is absent.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de;
use serde::de::DeserializeSeed;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::body::Text;

/// The raw members of an object with which paths begin.
#[derive(Debug, Default)]
pub(super) struct Members<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Members<'a> {
    /// Reads the members with which `paths` begin, in one pass. Of a repeated member the last counts. Anything but an object has none.
    pub(super) fn read(json: &'a str, paths: &[&'static str]) -> Self {
        let mut members = Self(Vec::with_capacity(paths.len()));
        let wanted = Wanted { paths, found: &mut members.0 };
        let ended = wanted.deserialize(&mut serde_json::Deserializer::from_str(json));
        if ended.is_ok() { members } else { Self::default() }
    }

    /// The text or number at the end of `path`. An empty text counts as absent.
    pub(super) fn text(&self, path: &'static str) -> Option<Cow<'a, str>> {
        let mut texts = self.texts(path);
        texts.truncate(1);
        texts.pop()
    }

    /// All texts and numbers at the end of a path through lists.
    pub(super) fn texts(&self, path: &'static str) -> Vec<Cow<'a, str>> {
        let mut texts = Vec::new();
        if let Some(json) = self.json(path) {
            collect(json, rest_of(path), &mut texts);
        }
        texts
    }

    /// The raw value of the first name of `path`.
    pub(super) fn json(&self, path: &str) -> Option<&'a str> {
        let wanted = name_of(path);
        self.0.iter().find(|(name, _)| *name == wanted).map(|(_, json)| *json)
    }
}

/// The raw elements of a JSON array, at most `count_max`; none for anything else.
pub(super) fn elements(json: &str, count_max: usize) -> Vec<&str> {
    let mut elements = Vec::new();
    let wanted = Elements { found: &mut elements, count_max };
    // An error means that more elements follow, or that it is not an array.
    let _ended = wanted.deserialize(&mut serde_json::Deserializer::from_str(json));
    elements
}

/// The first name of a path.
fn name_of(path: &str) -> &str {
    path.split(['.', '[', '?', '+']).next().unwrap_or_default()
}

/// The path behind the first name.
fn rest_of(path: &'static str) -> &'static str {
    path.strip_prefix(name_of(path)).unwrap_or_default()
}

/// Follows the rest of a path. The recursion is as deep as the paths in the table.
fn collect<'a>(json: &'a str, rest: &'static str, texts: &mut Vec<Cow<'a, str>>) {
    if let Some(rest) = rest.strip_prefix("[]") {
        for element in elements(json, usize::MAX) {
            collect(element, rest, texts);
        }
    } else if let Some(rest) = rest.strip_prefix("[0]") {
        if let Some(first) = elements(json, 1).first() {
            collect(first, rest, texts);
        }
    } else if let Some(path) = rest.strip_prefix('.') {
        if let Some(json) = Members::read(json, &[path]).json(path) {
            collect(json, rest_of(path), texts);
        }
    } else {
        texts.extend(scalar(json));
    }
}

/// A number is taken verbatim: counters may exceed 32 bits, and some are quoted in one place and not in another.
fn scalar(json: &str) -> Option<Cow<'_, str>> {
    match json.as_bytes().first()? {
        b'"' => {
            let Text(text) = serde_json::from_str(json).ok()?;
            (!text.is_empty()).then_some(text)
        }
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(json)),
        _ => None,
    }
}

/// Parses an object to its end, and keeps the wanted members.
struct Wanted<'w, 'a> {
    paths: &'w [&'static str],
    found: &'w mut Vec<(&'static str, &'a str)>,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> de::Visitor<'de> for Wanted<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let Some(name) = self.paths.iter().map(|path| name_of(path)).find(|name| *name == key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let json = map.next_value::<&RawValue>()?.get();
            match self.found.iter_mut().find(|(found, _)| *found == name) {
                Some((_, earlier)) => *earlier = json,
                None => self.found.push((name, json)),
            }
        }
        Ok(())
    }
}

/// Parses an array up to the last wanted element.
struct Elements<'w, 'a> {
    found: &'w mut Vec<&'a str>,
    count_max: usize,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> de::Visitor<'de> for Elements<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while self.found.len() < self.count_max
            && let Some(element) = elements.next_element::<&RawValue>()?
        {
            self.found.push(element.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str, path: &'static str) -> Vec<String> {
        Members::read(json, &["Other", path]).texts(path).into_iter().map(Cow::into_owned).collect()
    }

    #[test]
    fn a_path_leads_through_objects_and_lists() {
        let json =
            r#"{"x":{"a":0},"a":"1","Other":2,"b":{"a":"3","c":[{"a":"4"},{"a":5},{"z":6}]},"e\u0073c":"\u0037"}"#;
        let cases: [(&'static str, &[&str]); 10] = [
            ("a", &["1"]),
            ("a?", &["1"]),
            ("a+", &["1"]),
            ("b.a", &["3"]),
            ("b.c[0].a", &["4"]),
            ("b.c[].a", &["4", "5"]),
            ("b.c[0].z", &[]),
            ("b.a[0]", &[]),
            ("a.b", &[]),
            ("esc", &["7"]),
        ];
        for (path, expected) in cases {
            assert_eq!(texts(json, path), expected, "{path}");
        }
    }

    #[test]
    fn only_texts_and_numbers_count_and_empty_texts_do_not() {
        for (json, expected) in [
            (r#""x""#, Some("x")),
            ("4294967295", Some("4294967295")),
            ("18446744073709551616", Some("18446744073709551616")),
            ("-1.50", Some("-1.50")),
            (r#""""#, None),
            (r#""\ud800""#, None),
            ("null", None),
            ("true", None),
            ("[]", None),
            ("{}", None),
        ] {
            let object = format!(r#"{{"a":{json}}}"#);
            assert_eq!(Members::read(&object, &["a"]).text("a").as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn the_later_of_two_members_counts_and_what_is_no_object_has_none() {
        assert_eq!(texts(r#"{"a":"1","a":"2"}"#, "a"), ["2"]);
        for json in ["[]", "1", "null", r#""a""#, ""] {
            assert!(texts(json, "a").is_empty(), "{json}");
        }
    }
}
