//! Any body is taken or refused with a place in it, and read as every command without a panic.

use callbridge::clock::UnixMillis;
use callbridge::command::Command;
use callbridge::command::Kind;
use callbridge::decide::Policy;
use callbridge::decide::blocklist::Blocklist;
use callbridge::normalise::event::Event;
use callbridge::parse;
use callbridge::question;
use callbridge::question::Judge;
use callbridge::refusal::Refusal;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Holds of any bytes.
pub fn check(input: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(input).ok();
    let named = value.as_ref().and_then(|value| value.get("CallbackCommand")).and_then(Value::as_str);
    let name = named.unwrap_or("Future.Command");
    match parse::check_body(input, name) {
        Ok(checked) => {
            let json = checked.json();
            assert!(json.starts_with('{') && json.ends_with('}'), "{json:?}");
            assert!(serde_json::from_slice::<IgnoredAny>(input).is_ok(), "taken, but no JSON: {json:?}");
            read(json);
        }
        Err(refusal) => {
            // An object may still name another command beside this one, or something that is none.
            let is_right = match &value {
                Some(Value::Object(_)) => matches!(refusal, Refusal::CommandMismatch { .. }),
                Some(_) => matches!(refusal, Refusal::NotObject { .. }),
                None => true,
            };
            assert!(is_right, "{refusal}: {}", String::from_utf8_lossy(input));
            assert_place(&refusal, input);
        }
    }
}

/// As every command that it could have come under.
fn read(json: &str) {
    let blocklist = Blocklist::unloaded();
    for command in Command::all() {
        if let Some(form) = command.form() {
            let event = Event::parse(form, json);
            assert!(
                event.is_err() || event.is_ok_and(|event| event.subject().is_some_and(|subject| !subject.is_empty()))
            );
        }
        if command.kind() == Kind::After {
            continue;
        }
        let Ok(checked) = parse::check_body(json.as_bytes(), command.name()) else { continue };
        let judge = Judge { blocklist: &blocklist, policy: Policy::default(), now: UnixMillis(0) };
        for judge in [None, Some(judge)] {
            match question::answer(command, checked, judge) {
                Ok((_decision, body)) => {
                    let answer: Value = serde_json::from_slice(&body).unwrap();
                    assert_eq!(answer["ActionStatus"], "OK", "{answer}");
                }
                Err(refusal) => {
                    assert!(judge.is_some(), "what is not judged is allowed: {refusal}");
                    assert_place(&refusal, json.as_bytes());
                }
            }
        }
    }
}

/// The place that the sender is told is in the body, or just behind it.
fn assert_place(refusal: &Refusal, body: &[u8]) {
    let (Refusal::NotJson { line, column, .. }
    | Refusal::NotObject { line, column }
    | Refusal::CommandMismatch { line, column, .. }
    | Refusal::Undecidable { line, column, .. }) = refusal
    else {
        panic!("not refused for its body: {refusal}");
    };
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    // The parser begins a line at column 0.
    let length = line.checked_sub(1).and_then(|index| lines.get(index)).map(|line| line.len());
    assert!(length.is_some_and(|length| *column <= length + 1), "line {line} column {column} of {body:?}");
}
