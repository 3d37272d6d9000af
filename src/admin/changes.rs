//! Parses the changes of a request: the body of a PUT or DELETE, or a batch of changes as JSON lines. Pure.

use std::error::Error;

use crate::admin::error::ApiError;
use crate::admin::model::ChangeLine;
use crate::admin::model::FieldError;
use crate::admin::model::RuleDetails;
use crate::admin::model::RuleParts;
use crate::admin::routes;
use crate::admin::routes::BadId;
use crate::blocklist::topic::ChangeAction;
use crate::blocklist::topic::RequestedChange;
use crate::clock::UnixMillis;
use crate::decide::rule;
use crate::decide::rule::Rule;
use crate::decide::time;
use crate::decide::topic::key;
use crate::decide::topic::key::Unkeyable;

/// The most changes of one request.
pub(super) const CHANGES_MAX: usize = 10_000;

/// The most errors that a response lists.
const ERRORS_MAX: usize = 100;

/// The longest reason, in bytes. The value of its record stays within [`VALUE_BYTES_MAX`](crate::decide::topic::value::VALUE_BYTES_MAX) even
/// if every character is escaped.
pub(super) const REASON_BYTES_MAX: usize = 8 * 1024;

/// A change and its line number in the batch.
#[derive(Debug)]
pub(crate) struct NumberedChange {
    pub(crate) line: usize,
    pub(crate) change: RequestedChange,
}

/// The change of a PUT: adds or replaces `rule`, with the end and the reason in `body`.
pub(super) fn parse_put(rule: Rule<'static>, body: &[u8]) -> Result<RequestedChange, ApiError> {
    let action = details(body).and_then(|details| put(details.until.as_deref(), details.because));
    checked(rule, action).map_err(|error| ApiError::Invalid(vec![error]))
}

/// The change of a DELETE: removes `rule`, for the reason in `body`.
pub(super) fn parse_delete(rule: Rule<'static>, body: &[u8]) -> Result<RequestedChange, ApiError> {
    let action = details(body).and_then(|details| delete(details.until.as_deref(), details.because));
    checked(rule, action).map_err(|error| ApiError::Invalid(vec![error]))
}

/// A batch of changes, one JSON object a line. Blank lines are ignored.
pub(super) fn parse_lines(body: &[u8]) -> Result<Vec<NumberedChange>, ApiError> {
    let (mut changes, mut errors) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        if changes.len() + errors.len() >= CHANGES_MAX {
            return Err(ApiError::TooLarge("more than 10000 changes; send them in several requests"));
        }
        match read(text).and_then(change_of) {
            Ok(change) => changes.push(NumberedChange { line, change }),
            Err(error) if errors.len() < ERRORS_MAX => errors.push(FieldError { line: Some(line), ..error }),
            Err(_not_listed) => {}
        }
    }
    if errors.is_empty() { Ok(changes) } else { Err(ApiError::Invalid(errors)) }
}

/// The same for lines that are already parsed, numbered from 1.
pub(crate) fn numbered(lines: &[ChangeLine]) -> Result<Vec<NumberedChange>, ApiError> {
    let numbered = (1..).zip(lines).map(|(number, line)| {
        let change = change_of(line.clone());
        let change = change.map_err(|error| ApiError::Invalid(vec![FieldError { line: Some(number), ..error }]))?;
        Ok(NumberedChange { line: number, change })
    });
    numbered.collect()
}

/// The change of one line.
pub(crate) fn change_of(line: ChangeLine) -> Result<RequestedChange, FieldError> {
    let (parts, is_put) = match line {
        ChangeLine::Put(parts) => (parts, true),
        ChangeLine::Delete(parts) => (parts, false),
    };
    let RuleParts { kind, user, account, until, because } = parts;
    let rule = routes::rule(kind.into(), user, account).map_err(of_id)?;
    checked(rule, if is_put { put(until.as_deref(), because) } else { delete(until.as_deref(), because) })
}

fn details(body: &[u8]) -> Result<RuleDetails, FieldError> {
    if body.trim_ascii().is_empty() { Ok(RuleDetails::default()) } else { read(body) }
}

/// Parses a JSON object. The error names the invalid field.
fn read<'b, T: serde::Deserialize<'b>>(json: &'b [u8]) -> Result<T, FieldError> {
    // Serde would also accept an array for a struct.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(FieldError { line: None, field: None, detail: "expected a JSON object".to_owned() });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let detail = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        FieldError { line: None, field: (!matches!(path.as_str(), "." | "?")).then_some(path), detail }
    })?;
    deserializer.end().map_err(|error| FieldError { line: None, field: None, detail: error.to_string() })?;
    Ok(read)
}

fn put(until: Option<&str>, because: Option<String>) -> Result<ChangeAction, FieldError> {
    let invalid = || of_field("until", "is not an RFC 3339 time, such as 2027-01-31T00:00:00Z");
    let until = until.map_or(Ok(UnixMillis::NEVER), |text| time::parse(text).ok_or_else(invalid))?;
    Ok(ChangeAction::Put { until, because: reason(because)? })
}

fn delete(until: Option<&str>, because: Option<String>) -> Result<ChangeAction, FieldError> {
    match until {
        Some(_) => Err(of_field("until", "is not allowed when a rule is removed")),
        None => Ok(ChangeAction::Delete { because: reason(because)? }),
    }
}

/// Checks that the reason can be part of a sentence, and trims it.
fn reason(because: Option<String>) -> Result<Option<Box<str>>, FieldError> {
    let Some(because) = because else { return Ok(None) };
    let text = because.trim_matches(rule::BLANKS);
    if text.is_empty() {
        return Err(of_field("because", "is empty; leave it out if there is no reason"));
    }
    if text.len() > REASON_BYTES_MAX {
        return Err(of_field("because", "is longer than 8192 bytes"));
    }
    let has_control = text.chars().any(|character| character.is_control() && character != '\t');
    if has_control || rule::refuse_hidden_lines(text).is_err() {
        return Err(of_field("because", "must be one line of text, without control characters"));
    }
    Ok(Some(text.into()))
}

/// Checks that the rule has a record key.
fn checked(rule: Rule<'static>, action: Result<ChangeAction, FieldError>) -> Result<RequestedChange, FieldError> {
    match key::encode(&rule) {
        Ok(_key) => Ok(RequestedChange { rule, action: action? }),
        Err(error @ Unkeyable::Empty(field)) => Err(of_unkeyable(field, &error)),
        Err(error @ Unkeyable::Separator(field)) => Err(of_unkeyable(field, &error)),
        Err(error @ Unkeyable::TooLong) => {
            Err(of_unkeyable(if rule.user().is_some() { "user" } else { "account" }, &error))
        }
    }
}

fn of_unkeyable(field: &str, error: &Unkeyable) -> FieldError {
    FieldError { line: None, field: Some(field.to_owned()), detail: error.to_string() }
}

pub(super) fn of_id(BadId { field, why }: BadId) -> FieldError {
    of_field(field, why)
}

fn of_field(field: &str, detail: &str) -> FieldError {
    FieldError { line: None, field: Some(field.to_owned()), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::admin::model::KindWord;

    fn bob() -> Rule<'static> {
        Rule::Block { user: "bob".into(), account: None }
    }

    /// The line and the field of each error.
    fn errors<T: std::fmt::Debug>(result: Result<T, ApiError>) -> Vec<(Option<usize>, Option<String>)> {
        let ApiError::Invalid(errors) = result.expect_err("invalid") else { panic!("another error") };
        errors.into_iter().map(|error| (error.line, error.field)).collect()
    }

    #[test]
    fn end_and_reason_of_a_put_are_optional() {
        let cases = [
            ("", UnixMillis::NEVER, None),
            (" \r\n", UnixMillis::NEVER, None),
            ("{}", UnixMillis::NEVER, None),
            (r#"{"until":null,"because":null}"#, UnixMillis::NEVER, None),
            (r#"{"until":"1970-01-01T00:00:01Z"}"#, UnixMillis(1000), None),
            (r#"{"because":" spam on #1 "}"#, UnixMillis::NEVER, Some("spam on #1")),
        ];
        for (body, end, reason) in cases {
            let ChangeAction::Put { until, because } = parse_put(bob(), body.as_bytes()).expect("valid").action else {
                panic!()
            };
            assert_eq!((until, because.as_deref()), (end, reason), "{body}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_field() {
        let long = format!(r#"{{"because":"{}"}}"#, "a".repeat(REASON_BYTES_MAX + 1));
        let cases = [
            ("[]", None),
            ("\"bob\"", None),
            ("{", None),
            ("{}x", None),
            (r#"{"until":"tomorrow"}"#, Some("until")),
            (r#"{"until":1}"#, Some("until")),
            (r#"{"because":""}"#, Some("because")),
            (r#"{"because":"a\nb"}"#, Some("because")),
            (r#"{"because":"a\u2028b"}"#, Some("because")),
            (r#"{"because":"a\u0000b"}"#, Some("because")),
            (long.as_str(), Some("because")),
            (r#"{"reason":"x"}"#, Some("reason")),
        ];
        for (body, field) in cases {
            assert_eq!(errors(parse_put(bob(), body.as_bytes())), [(None, field.map(str::to_owned))], "{body}");
        }
        assert_eq!(
            errors(parse_delete(bob(), br#"{"until":"2027-01-31T00:00:00Z"}"#)),
            [(None, Some("until".to_owned()))]
        );
    }

    #[test]
    fn a_rule_without_a_record_key_is_invalid() {
        let of = |user: &str| parse_put(Rule::Block { user: user.to_owned().into(), account: None }, b"");
        assert_eq!(errors(of("a\u{1f}b")), [(None, Some("user".to_owned()))]);
        assert_eq!(errors(of(&"a".repeat(20_000))), [(None, Some("user".to_owned()))]);
    }

    #[test]
    fn every_invalid_line_of_a_batch_is_reported() {
        let body = concat!(
            r#"{"put":{"kind":"block","user":"bob"}}"#,
            "\n\n",
            r#"{"put":{"kind":"blocks","user":"bob"}}"#,
            "\r\n",
            r#"{"put":{"kind":"allow","user":"bob"}}"#,
            "\n",
            r#"{"put":{"kind":"close","user":"bob","account":"@a"}}"#,
            "\n",
            r#"{"remove":{"kind":"block","user":"bob"}}"#,
            "\n",
            r#"{"delete":{"kind":"block","user":""}}"#,
            "\n",
            r#"{"delete":{"kind":"close","account":"@a","because":"moved"}}"#,
            "\nblock bob",
        );
        let lines = errors(parse_lines(body.as_bytes())).into_iter().map(|(line, _)| line.expect("a line"));
        assert_eq!(lines.collect::<Vec<_>>(), [3, 4, 5, 6, 7, 9]);
    }

    #[test]
    fn a_batch_has_at_most_ten_thousand_changes() {
        let line = "{\"put\":{\"kind\":\"block\",\"user\":\"bob\"}}\n";
        assert_eq!(parse_lines(line.repeat(CHANGES_MAX).as_bytes()).expect("good").len(), CHANGES_MAX);
        assert!(matches!(parse_lines(line.repeat(CHANGES_MAX + 1).as_bytes()), Err(ApiError::TooLarge(_))));
        let ApiError::Invalid(errors) = parse_lines("x\n".repeat(CHANGES_MAX).as_bytes()).expect_err("bad") else {
            panic!()
        };
        assert_eq!(errors.len(), ERRORS_MAX);
    }

    proptest! {
        #[test]
        fn serialized_changes_are_parsed_as_the_same_changes(
            parts in prop::collection::vec((0..4_usize, "[^\u{1f}]{1,8}", "[^\u{1f}]{1,8}", any::<bool>()), 0..6),
        ) {
            let parts: Vec<(RuleParts, bool)> = parts
                .into_iter()
                .map(|(kind, user, account, is_put)| {
                    let kind = [KindWord::Block, KindWord::Pardon, KindWord::Allow, KindWord::Close][kind];
                    let user = (kind != KindWord::Close).then_some(user);
                    (RuleParts { kind, user, account: Some(account), until: None, because: None }, is_put)
                })
                .collect();
            let text: String = parts
                .iter()
                .map(|(parts, is_put)| {
                    let line = if *is_put { ChangeLine::Put(parts.clone()) } else { ChangeLine::Delete(parts.clone()) };
                    format!("{}\n", serde_json::to_string(&line).expect("JSON"))
                })
                .collect();
            let read = parse_lines(text.as_bytes()).expect("good");
            prop_assert_eq!(read.len(), parts.len());
            for (NumberedChange { change, .. }, (parts, is_put)) in read.iter().zip(&parts) {
                prop_assert_eq!(change.rule.user(), parts.user.as_deref());
                prop_assert_eq!(change.rule.account(), parts.account.as_deref());
                prop_assert_eq!(matches!(change.action, ChangeAction::Put { .. }), *is_put);
            }
        }
    }
}
