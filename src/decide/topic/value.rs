//! The value of a record: end, reason and origin of a rule, as a JSON object.

use std::borrow::Cow;

use serde::Deserialize;
use serde::Serialize;

use crate::clock::UnixMillis;
use crate::decide::time;
use crate::decide::topic::poison::Poison;

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The fields that this version knows, which a record may require.
const FIELDS: [&str; 6] = ["until", "because", "who", "when", "source", "needs"];

/// The contents of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleValue<'a> {
    /// The rule holds before this: [`UnixMillis::NEVER`] if it has no end.
    pub until: UnixMillis,
    /// The provenance of the rule.
    pub provenance: Provenance<'a>,
}

/// Why a rule exists, and who wrote it, when and by what means. A rule of a file has at most a reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance<'a> {
    /// The text after `because`.
    pub because: Option<Cow<'a, str>>,
    /// Who wrote it.
    pub who: Option<Cow<'a, str>>,
    /// When, by the clock of the writer.
    pub when: Option<UnixMillis>,
    /// Through what: `api`, `cli`, or `import:` and a name.
    pub source: Option<Cow<'a, str>>,
}

impl RuleValue<'_> {
    /// An owned copy.
    pub fn into_owned(self) -> RuleValue<'static> {
        RuleValue { until: self.until, provenance: self.provenance.into_owned() }
    }
}

impl<'a> Provenance<'a> {
    /// The provenance of a rule with at most a reason.
    pub fn of_reason(because: Option<&'a str>) -> Self {
        Self { because: because.map(Cow::Borrowed), ..Self::default() }
    }

    /// An owned copy.
    pub fn into_owned(self) -> Provenance<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Provenance {
            because: self.because.map(owned),
            who: self.who.map(owned),
            when: self.when,
            source: self.source.map(owned),
        }
    }
}

/// The object for writing.
#[derive(Serialize)]
pub(super) struct ValueJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

impl<'a> ValueJson<'a> {
    pub(super) fn of(value: &'a RuleValue<'_>) -> Self {
        let until = (value.until != UnixMillis::NEVER).then(|| time::written(value.until));
        Self { until, ..Self::of_provenance(&value.provenance) }
    }

    fn of_provenance(provenance: &'a Provenance<'_>) -> Self {
        let Provenance { because, who, when, source } = provenance;
        Self {
            until: None,
            because: because.as_deref(),
            who: who.as_deref(),
            when: when.map(time::written),
            source: source.as_deref(),
        }
    }
}

/// The object for reading. Other fields are ignored unless the record requires them.
#[derive(Deserialize)]
struct RawRuleValue<'a> {
    #[serde(borrow)]
    until: Option<BorrowedText<'a>>,
    because: Option<BorrowedText<'a>>,
    who: BorrowedText<'a>,
    when: BorrowedText<'a>,
    source: Option<BorrowedText<'a>>,
    #[serde(default)]
    needs: Vec<BorrowedText<'a>>,
}

/// Borrows if nothing is escaped, also in an [`Option`].
#[derive(Deserialize)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

/// The value of a rule's record.
pub fn encode(value: &RuleValue<'_>) -> String {
    encode_json(&ValueJson::of(value))
}

/// The value for a rule without an end.
pub(crate) fn encode_provenance(provenance: &Provenance<'_>) -> String {
    encode_json(&ValueJson::of_provenance(provenance))
}

fn encode_json(value: &ValueJson<'_>) -> String {
    #[expect(clippy::expect_used, reason = "a struct of strings has no way to fail")]
    serde_json::to_string(value).expect("strings are always JSON")
}

/// Parses the value of a record.
///
/// # Errors
///
/// It is not the JSON object of a rule, or requires a field that this version does not know.
pub fn decode(value: &[u8]) -> Result<RuleValue<'_>, Poison> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Poison::ValueTooLong(value.len()));
    }
    // Serde would also accept an array of the fields.
    if value.trim_ascii_start().first() != Some(&b'{') {
        return Err(Poison::Value("not a JSON object".into()));
    }
    let RawRuleValue { until, because, who, when, source, needs } =
        serde_json::from_slice(value).map_err(|error| Poison::Value(error.to_string().into()))?;
    if let Some(BorrowedText(unknown)) = needs.into_iter().find(|BorrowedText(name)| !FIELDS.contains(&&**name)) {
        return Err(Poison::Needs(unknown.into()));
    }
    let time = |field, BorrowedText(text): BorrowedText<'_>| time::parse(&text).ok_or(Poison::Time(field));
    Ok(RuleValue {
        until: until.map_or(Ok(UnixMillis::NEVER), |until| time("until", until))?,
        provenance: Provenance {
            because: because.map(|BorrowedText(because)| because),
            who: Some(who.0),
            when: Some(time("when", when)?),
            source: source.map(|BorrowedText(source)| source),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHEN: UnixMillis = UnixMillis(1_780_000_000_123);
    const JANUARY: UnixMillis = UnixMillis(1_801_353_600_000);

    fn value(until: UnixMillis, because: Option<&'static str>, source: Option<&'static str>) -> RuleValue<'static> {
        let provenance = Provenance {
            because: because.map(Into::into),
            who: Some("alice".into()),
            when: Some(WHEN),
            source: source.map(Into::into),
        };
        RuleValue { until, provenance }
    }

    #[test]
    fn golden_values_never_change() {
        let golden = [
            (
                value(JANUARY, Some("spam in May"), Some("api")),
                r#"{"until":"2027-01-31T00:00:00Z","because":"spam in May","who":"alice","when":"2026-05-28T20:26:40.123Z","source":"api"}"#,
            ),
            (
                value(UnixMillis::NEVER, None, Some("import:daily")),
                r#"{"who":"alice","when":"2026-05-28T20:26:40.123Z","source":"import:daily"}"#,
            ),
            (
                value(UnixMillis(JANUARY.0 + 1), Some("a\"b\n\u{4f60}"), None),
                "{\"until\":\"2027-01-31T00:00:00.001Z\",\"because\":\"a\\\"b\\n\u{4f60}\",\"who\":\"alice\",\"when\":\"2026-05-28T20:26:40.123Z\"}",
            ),
        ];
        for (value, json) in golden {
            assert_eq!(encode(&value), json);
            assert_eq!(decode(json.as_bytes()), Ok(value));
        }
    }

    #[test]
    fn unknown_fields_are_ignored_unless_they_are_needed() {
        let read = |rest: &str| {
            decode(format!(r#"{{"who":"alice","when":"2026-05-28T20:26:40.123Z"{rest}}}"#).as_bytes())
                .map(|value| value.until)
                .map_err(|poison| poison.to_string())
        };
        assert_eq!(read(r#","mode":"dry_run","x":[{}]"#), Ok(UnixMillis::NEVER));
        assert_eq!(read(r#","needs":["until"],"until":"2027-01-31T00:00:00Z""#), Ok(JANUARY));
        assert_eq!(read(r#","until":null,"because":null,"needs":[]"#), Ok(UnixMillis::NEVER));
        let unknown = "the value needs `mode`, which this version does not know";
        assert_eq!(read(r#","needs":["until","mode"],"mode":"dry_run""#), Err(unknown.to_owned()));
    }

    #[test]
    fn a_value_of_any_other_form_is_poison_with_a_reason() {
        let cases: [(&[u8], &str); 14] = [
            (b"", "the value is not the JSON object of a rule: not a JSON object"),
            (b"null", "the value is not the JSON object of a rule: not a JSON object"),
            (b"{}", "missing field `who`"),
            (br#"{"who":"a"}"#, "missing field `when`"),
            (br#"{"when":"2027-01-31T00:00:00Z"}"#, "missing field `who`"),
            (br#"{"who":7,"when":"2027-01-31T00:00:00Z"}"#, "invalid type: integer `7`"),
            (br#"{"who":null,"when":"2027-01-31T00:00:00Z"}"#, "invalid type: null"),
            (br#"[null,null,"a","2027-01-31T00:00:00Z",null]"#, "not a JSON object"),
            (br#"{"who":"a","who":"b","when":"2027-01-31T00:00:00Z"}"#, "duplicate field `who`"),
            (br#"{"who":"a","when":"2027-01-31T00:00:00Z"} x"#, "trailing characters"),
            (br#"{"who":"a","when":"yesterday"}"#, "`when` in the value is not a time of RFC 3339"),
            (br#"{"who":"a","when":"2027-01-31T00:00:00Z","until":"soon"}"#, "`until` in the value is not a time"),
            (br#"{"who":"a","when":"2027-01-31T00:00:00Z","needs":"mode"}"#, "invalid type: string"),
            (b"{\"who\":\"\xff\",\"when\":\"2027-01-31T00:00:00Z\"}", "invalid unicode code point"),
        ];
        for (value, reason) in cases {
            let poison = decode(value).expect_err("poison").to_string();
            assert!(poison.contains(reason), "{poison}");
        }
        assert_eq!(decode(&[b'{'; VALUE_BYTES_MAX + 1]), Err(Poison::ValueTooLong(VALUE_BYTES_MAX + 1)));
    }

    proptest! {
        #[test]
        fn every_value_is_read_as_it_was_written(
            until in prop_oneof![Just(UnixMillis::NEVER), (-60_000_000_000_000..250_000_000_000_000_i64).prop_map(UnixMillis)],
            because in proptest::option::of(".*"),
            who in ".*",
            when in 0..250_000_000_000_000_i64,
            source in proptest::option::of(".*"),
        ) {
            let provenance = Provenance {
                because: because.map(Into::into),
                who: Some(who.into()),
                when: Some(UnixMillis(when)),
                source: source.map(Into::into),
            };
            let value = RuleValue { until, provenance };
            let written = encode(&value);
            prop_assert_eq!(decode(written.as_bytes()), Ok(value));
        }
    }
}
