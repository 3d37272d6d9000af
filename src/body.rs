//! The bodies of the OfficialAccount family as types that borrow from the JSON.
//!
//! Field names and types: Tencent's pages 60795 to 60805. Their tables do not say which fields are mandatory; here a field is required only
//! if nothing can be done without it. Unknown fields are skipped: the body itself is published verbatim.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de;
use serde::de::value::MapAccessDeserializer;
use serde_json::value::RawValue;

/// `OfficialAccount.CallbackBeforeAddSubscriber`, `OfficialAccount.CallbackAfterAddSubscriber` and
/// `OfficialAccount.CallbackAfterDeleteSubscriber`, for publishing. Decisions parse them more strictly, in `question`.
#[derive(Debug, Deserialize)]
pub struct Subscribers<'a> {
    /// The account that is or was subscribed to.
    #[serde(borrow, rename = "Official_Account")]
    pub official_account: Id<'a>,
    /// Who requested it: the user, or an administrator through the REST API.
    #[serde(borrow, default, rename = "Operator_Account")]
    pub operator: Option<LossyText<'a>>,
    /// Who subscribes or unsubscribes.
    #[serde(borrow, rename = "SubscribeAccountList", deserialize_with = "null_is_empty")]
    pub subscribers: Vec<Object<Subscriber<'a>>>,
    /// When.
    #[serde(default, rename = "EventTime")]
    pub event_time: EventTime,
}

/// One element of `SubscribeAccountList`.
#[derive(Debug, Deserialize)]
pub struct Subscriber<'a> {
    /// The user.
    #[serde(borrow, rename = "Subscriber_Account")]
    pub account: Text<'a>,
}

/// `OfficialAccount.CallbackBeforeCreateOfficialAccount`. The account has no id yet.
#[derive(Debug, Deserialize)]
pub struct AskedFor<'a> {
    /// The future owner.
    #[serde(borrow, rename = "Owner_Account")]
    pub owner: Id<'a>,
    /// Who requests it.
    #[serde(borrow, default, rename = "Operator_Account")]
    pub operator: Option<LossyText<'a>>,
    /// The requested name.
    #[serde(borrow, default, rename = "Name")]
    pub name: Option<LossyText<'a>>,
    /// When.
    #[serde(default, rename = "EventTime")]
    pub event_time: EventTime,
}

/// `OfficialAccount.CallbackAfterCreateOfficialAccount`, `OfficialAccount.CallbackAfterOfficialAccountDestroyed` and
/// `OfficialAccount.CallbackAfterOfficialAccountFull`.
#[derive(Debug, Deserialize)]
pub struct OfficialAccountChange<'a> {
    /// The account that is new, gone or full.
    #[serde(borrow, rename = "Official_Account")]
    pub official_account: Id<'a>,
    /// Who made the change.
    #[serde(borrow, default, rename = "Operator_Account")]
    pub operator: Option<LossyText<'a>>,
    /// The owner.
    #[serde(borrow, default, rename = "Owner_Account")]
    pub owner: Option<LossyText<'a>>,
    /// The name.
    #[serde(borrow, default, rename = "Name")]
    pub name: Option<LossyText<'a>>,
    /// When.
    #[serde(default, rename = "EventTime")]
    pub event_time: EventTime,
}

/// `OfficialAccount.CallbackAfterOfficialAccountInfoChanged`. It has only the changed fields of the profile.
#[derive(Debug, Deserialize)]
pub struct InfoChanged<'a> {
    /// The account whose profile changed.
    #[serde(borrow, rename = "Official_Account")]
    pub official_account: Id<'a>,
    /// Who changed it.
    #[serde(borrow, default, rename = "Operator_Account")]
    pub operator: Option<LossyText<'a>>,
    /// The new introduction.
    #[serde(borrow, default, rename = "Introduction")]
    pub introduction: Option<LossyText<'a>>,
    /// The new name.
    #[serde(borrow, default, rename = "Name")]
    pub name: Option<LossyText<'a>>,
    /// The new picture's URL.
    #[serde(borrow, default, rename = "FaceUrl")]
    pub face_url: Option<LossyText<'a>>,
    /// The new organization.
    #[serde(borrow, default, rename = "Organization")]
    pub organization: Option<LossyText<'a>>,
    /// When.
    #[serde(default, rename = "EventTime")]
    pub event_time: EventTime,
}

/// `OfficialAccount.CallbackBeforeSendMsg` and `OfficialAccount.CallbackAfterSendMsg`.
#[derive(Debug, Deserialize)]
pub struct OfficialAccountMessage<'a> {
    /// The account that writes to its subscribers.
    #[serde(borrow, rename = "Official_Account")]
    pub official_account: Id<'a>,
    /// Who wrote it.
    #[serde(borrow, default, rename = "Operator_Account")]
    pub operator: Option<LossyText<'a>>,
    /// The key by which it can be recalled. A message that is not sent yet has none.
    #[serde(borrow, default, rename = "MsgKey")]
    pub key: Option<Text<'a>>,
    /// When it was sent.
    #[serde(default, rename = "MsgTime")]
    pub time: EventTime,
    /// Whether it is only for users who are online.
    #[serde(default, rename = "OnlineOnlyFlag")]
    pub online_only: Option<Flag>,
    /// Its elements.
    #[serde(borrow, default, rename = "MsgBody")]
    pub body: Option<JsonArray<'a>>,
    /// Custom data of the application.
    #[serde(borrow, default, rename = "CloudCustomData")]
    pub custom_data: Option<LossyText<'a>>,
    /// When.
    #[serde(default, rename = "EventTime")]
    pub event_time: EventTime,
}

/// `OfficialAccount.CallbackAfterMsgWithDraw`.
#[derive(Debug, Deserialize)]
pub struct Withdrawn<'a> {
    /// The account whose messages were recalled.
    #[serde(borrow, rename = "Official_Account")]
    pub official_account: Id<'a>,
    /// Who recalled them.
    #[serde(borrow, default, rename = "Operator_Account")]
    pub operator: Option<LossyText<'a>>,
    /// The messages.
    #[serde(borrow, rename = "WithdrawMsgList", deserialize_with = "null_is_empty")]
    pub messages: Vec<Object<WithdrawnMessage<'a>>>,
    /// When.
    #[serde(default, rename = "EventTime")]
    pub event_time: EventTime,
}

/// One element of `WithdrawMsgList`.
#[derive(Debug, Deserialize)]
pub struct WithdrawnMessage<'a> {
    /// The key that it had when it was sent.
    #[serde(borrow, rename = "MsgKey")]
    pub key: Text<'a>,
}

/// A string that borrows from the JSON unless it has escapes. A lone surrogate (`"\ud83d"`) is an error: the string cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

/// A string that is neither an id nor a key. A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossyText<'a>(pub Cow<'a, str>);

/// A [`Text`] that is an id, so it must not be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id<'a>(pub Cow<'a, str>);

/// A `T` that is written as a JSON object. (Types derived with serde also accept arrays, by position.)
#[derive(Debug)]
pub struct Object<T>(pub T);

/// A number: 0 is false, and any other is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

/// A JSON array, verbatim.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub struct JsonArray<'a>(pub &'a RawValue);

/// `EventTime`, in milliseconds since the Unix epoch; `None` if it is absent or cannot be parsed, which is no reason to reject the
/// callback.
///
/// Tencent's samples have it as a number and as a quoted number, in milliseconds and, for `Push.*`, in seconds. A number below 10^11 counts
/// as seconds: as milliseconds it would be in 1973 or earlier.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct EventTime(pub Option<i64>);

impl EventTime {
    const SECONDS_BELOW: i64 = 100_000_000_000;
    /// 9999-12-30T22:00:00Z, the last time that jiff can represent.
    const MILLIS_MAX: i64 = 253_402_207_200_000;

    /// Parses it from its JSON.
    pub fn read(json: &str) -> Option<i64> {
        let digits = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(json);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: i64 = digits.parse().ok()?;
        let millis = if number < Self::SECONDS_BELOW { number * 1000 } else { number };
        (1..=Self::MILLIS_MAX).contains(&millis).then_some(millis)
    }
}

/// White space in JSON.
pub const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for LossyText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As bytes, the library returns lone surrogates too, encoded in three bytes.
        deserializer.deserialize_bytes(ShownVisitor)
    }
}

/// Parses a list that is required, but may be `null`.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<'de: 'a, 'a> Deserialize<'de> for Id<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = deserializer.deserialize_str(TextVisitor)?;
        if text.is_empty() {
            return Err(de::Error::invalid_value(de::Unexpected::Str(""), &"an id that is not empty"));
        }
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|number| Self(number != 0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonArray<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        if raw.get().starts_with('[') { Ok(Self(raw)) } else { Err(de::Error::custom("expected an array")) }
    }
}

struct TextVisitor;

impl<'de> de::Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

struct ShownVisitor;

impl<'de> de::Visitor<'de> for ShownVisitor {
    type Value = LossyText<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        str::from_utf8(bytes).map(|text| LossyText(Cow::Borrowed(text))).or_else(|_error| self.visit_bytes(bytes))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        let mut bytes = bytes.to_vec();
        replace_surrogates(&mut bytes);
        let text =
            String::from_utf8(bytes).map_err(|_error| E::invalid_value(de::Unexpected::Other("bytes"), &self))?;
        Ok(LossyText(Cow::Owned(text)))
    }
}

/// Replaces each surrogate by U+FFFD. Both take three bytes, and nothing else begins like a surrogate.
fn replace_surrogates(wtf8: &mut [u8]) {
    let mut rest = wtf8;
    while let [first, behind @ ..] = rest {
        if let (0xed, [second @ 0xa0..=0xbf, third, ..]) = (*first, &mut *behind) {
            (*first, *second, *third) = (0xef, 0xbf, 0xbd);
        }
        rest = behind;
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Raw, because the value may be anything, even a number that no type can hold.
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(Self::read(raw.get())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_time_is_read_as_number_quoted_number_or_seconds() {
        let cases = [
            ("1670574414123", Some(1_670_574_414_123)),
            ("\"1670574414123\"", Some(1_670_574_414_123)),
            ("1670574414", Some(1_670_574_414_000)),
            ("\"1670574414\"", Some(1_670_574_414_000)),
            ("253402207200000", Some(253_402_207_200_000)),
        ];
        for (json, expected) in cases {
            assert_eq!(serde_json::from_str::<EventTime>(json).unwrap().0, expected, "{json}");
        }
    }

    #[test]
    fn an_event_time_that_cannot_be_read_is_no_error() {
        for json in [
            "null",
            "true",
            "0",
            "-1",
            "1.5",
            "1e999",
            "\"\"",
            "\"soon\"",
            "\"+5\"",
            "[1]",
            "{\"a\":1}",
            "253402207200001",
            "18446744073709551615",
            "-9223372036854775808",
        ] {
            assert_eq!(serde_json::from_str::<EventTime>(json).map(|time| time.0).ok(), Some(None), "{json}");
        }
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let body: Subscribers<'_> =
            serde_json::from_str(r#"{"Official_Account":"a","SubscribeAccountList":[{"Subscriber_Account":"b\n"}]}"#)
                .unwrap();
        assert!(matches!(body.official_account.0, Cow::Borrowed("a")));
        assert_eq!(body.subscribers.first().unwrap().0.account.0, "b\n");
        assert_eq!(body.operator, None);
    }

    #[test]
    fn lone_surrogates_of_what_is_only_shown_become_u_fffd() {
        for (json, expected) in [
            (r#""plain 新""#, "plain 新"),
            (r#""\n\u00e9""#, "\né"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ude00b""#, "\u{fffd}b"),
            (r#""\ud83d\ud83d\ude00\udfff""#, "\u{fffd}\u{1f600}\u{fffd}"),
            (r#""\ud83d\n\ud7ff新\ue000""#, "\u{fffd}\n\u{d7ff}新\u{e000}"),
        ] {
            assert_eq!(serde_json::from_str::<LossyText<'_>>(json).unwrap().0, expected, "{json}");
            assert_eq!(serde_json::from_str::<Text<'_>>(json).is_err(), expected.contains('\u{fffd}'), "{json}");
        }
        for json in ["7", "null", "[]", "[97]", "{}", "true"] {
            assert!(serde_json::from_str::<LossyText<'_>>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_list_that_is_null_is_empty_and_one_that_is_missing_is_an_error() {
        let null = r#"{"Official_Account":"a","SubscribeAccountList":null,"WithdrawMsgList":null}"#;
        assert!(serde_json::from_str::<Subscribers<'_>>(null).unwrap().subscribers.is_empty());
        assert!(serde_json::from_str::<Withdrawn<'_>>(null).unwrap().messages.is_empty());
        let missing = r#"{"Official_Account":"a"}"#;
        assert!(serde_json::from_str::<Subscribers<'_>>(missing).is_err());
        assert!(serde_json::from_str::<Withdrawn<'_>>(missing).is_err());
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        for json in [
            r#"{"SubscribeAccountList":[]}"#,
            r#"{"Official_Account":"","SubscribeAccountList":[]}"#,
            r#"{"Official_Account":7,"SubscribeAccountList":[]}"#,
            r#"{"Official_Account":"a"}"#,
            r#"{"Official_Account":"a","SubscribeAccountList":"b"}"#,
            r#"{"Official_Account":"a","SubscribeAccountList":["b"]}"#,
            r#"{"Official_Account":"a","SubscribeAccountList":[["b"]]}"#,
            r#"{"Official_Account":"a","SubscribeAccountList":[{"Subscriber_Account":1}]}"#,
            r#"{"Official_Account":"a","Operator_Account":1,"SubscribeAccountList":[]}"#,
        ] {
            assert!(serde_json::from_str::<Subscribers<'_>>(json).is_err(), "{json}");
        }
    }
}
