//! Writes JSON into a buffer. Rare values are written by serde_json. Texts are written here: most need no escapes, and checking that is
//! faster than writing them with escapes.

use std::borrow::Cow;

use serde::Serialize;

/// Appends `text`, which needs no escapes, as a JSON string.
pub(super) fn push_plain(json: &mut Vec<u8>, text: &str) {
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

/// Appends `text` as a JSON string.
pub(super) fn push_text(json: &mut Vec<u8>, text: &str) {
    // Without an early exit, so that the compiler can vectorize it.
    let needs_escapes =
        text.bytes().fold(false, |needs, byte| needs | (byte < 0x20) | (byte == b'"') | (byte == b'\\'));
    if needs_escapes {
        return push_json(json, text);
    }
    push_plain(json, text);
}

/// Appends `value` as JSON.
#[expect(
    clippy::expect_used,
    reason = "strings, numbers and structs of them always have a JSON form, and a Vec takes all of it"
)]
pub(super) fn push_json<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("plain values are always JSON");
}

/// An object that is being written, without absent members.
#[derive(Debug)]
pub(super) struct ObjectWriter<'j> {
    json: &'j mut Vec<u8>,
    is_empty: bool,
}

impl<'j> ObjectWriter<'j> {
    /// Begins an object at the end of `json`.
    pub(super) fn begin(json: &'j mut Vec<u8>) -> Self {
        json.push(b'{');
        Self { json, is_empty: true }
    }

    /// Appends a text member.
    pub(super) fn text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            push_text(self.member(name), text);
        }
    }

    /// Appends a member with a list of texts.
    pub(super) fn texts(&mut self, name: &'static str, texts: Option<&[Cow<'_, str>]>) {
        let Some(texts) = texts else { return };
        let json = self.member(name);
        json.push(b'[');
        for (place, text) in texts.iter().enumerate() {
            if place > 0 {
                json.push(b',');
            }
            push_text(json, text);
        }
        json.push(b']');
    }

    /// Appends any other member.
    pub(super) fn value<T: Serialize>(&mut self, name: &'static str, value: Option<T>) {
        if let Some(value) = value {
            push_json(self.member(name), &value);
        }
    }

    /// Ends the object.
    pub(super) fn end(self) {
        self.json.push(b'}');
    }

    /// Appends the name of a member, which needs no escapes. Its value must follow.
    fn member(&mut self, name: &'static str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.json.push(b',');
        }
        self.is_empty = false;
        push_plain(self.json, name);
        self.json.push(b':');
        self.json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn absent_members_leave_no_trace() {
        let mut json = b"[".to_vec();
        let mut object = ObjectWriter::begin(&mut json);
        object.text("a", None);
        object.value("b", Some(7));
        object.texts("c", None);
        object.texts("d", Some(&[]));
        object.value("e", None::<bool>);
        object.texts("f", Some(&["x".into(), "\"".into()]));
        object.text("g", Some(""));
        object.end();
        assert_eq!(str::from_utf8(&json), Ok(r#"[{"b":7,"d":[],"f":["x","\""],"g":""}"#));
    }

    proptest! {
        #[test]
        fn a_text_is_written_as_the_library_writes_it(text in any::<String>()) {
            let mut json = Vec::new();
            push_text(&mut json, &text);
            prop_assert_eq!(json, serde_json::to_vec(&text).unwrap());
        }
    }
}
