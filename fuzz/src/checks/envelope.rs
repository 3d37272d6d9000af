//! Whatever is taken comes out as valid JSON that its schema allows, with the body in it byte for byte; what is not comes out as it came.
//!
//! The input is a query, a line break, and a body.

use std::net::SocketAddr;
use std::sync::Arc;

use callbridge::auth::Apps;
use callbridge::capture::Capture;
use callbridge::capture::CaptureOutcome;
use callbridge::capture::Raw;
use callbridge::clock::UnixMillis;
use callbridge::command::Command;
use callbridge::command::Kind;
use callbridge::decide::Policy;
use callbridge::decide::blocklist::Blocklist;
use callbridge::decide::blocklist::Source;
use callbridge::decide::blocklist::SourceKind;
use callbridge::decide::file;
use callbridge::normalise::Normaliser;
use callbridge::normalise::envelope::Mode;
use callbridge::normalise::part::Parts;
use callbridge::parse;
use callbridge::question;
use callbridge::question::Judge;
use callbridge::record::Record;
use callbridge::record::Topics;
use callbridge::refusal::Refusal;
use callbridge::request::Query;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::support::schema;

const NOW: UnixMillis = UnixMillis(1_670_574_414_456);
const RULES: &[u8] = b"jared\nclose @TOA#_closed\nallow leckie on @TOA#_staff\n";

/// Holds of any bytes.
pub fn check(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (query, body) = input.split_at(end);
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let Ok(query) = str::from_utf8(query) else { return };
    let Some(command) = Query::parse(query).ok().and_then(|query| query.command) else { return };

    let apps = Arc::new(Apps::new([1_400_000_000]));
    let Some(app) = apps.iter().next() else { return };
    let known = Command::find(&command);
    let mut raw = Raw::begin(query, body.len());
    raw.push(body);
    let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
    let outcome = outcome(&command, known, body);
    let is_refused = matches!(outcome, CaptureOutcome::Refused { .. });
    let capture = Capture { received: NOW, peer, app, command: known, raw: raw.end(), outcome };
    let topics = Arc::new(Topics::new(["t"]));
    let [structured, binary] =
        [Mode::Structured, Mode::Binary].map(|mode| Normaliser::new(Arc::clone(&apps), Arc::clone(&topics), mode));

    let parts = Parts::of(&capture);
    assert!(!is_refused || parts.count() == 1, "what was refused is one record");
    let mut rest = body;
    for part in parts.iter() {
        let [whole, split] = [&structured, &binary].map(|normaliser| normaliser.record_of(&capture, part));
        assert_eq!(
            (whole.topic, &whole.key, whole.dead_letter_reason),
            (split.topic, &split.key, split.dead_letter_reason)
        );
        assert!(!is_refused || whole.dead_letter_reason.is_some());
        let kept = if whole.dead_letter_reason.is_some() {
            assert_eq!((whole.topic, &whole.headers), (topics.dead_letters(app), &split.headers));
            assert_eq!(whole.value, split.value);
            whole.value.to_vec()
        } else {
            assert_eq!(whole.topic, topics.of(app, known));
            judge(&whole);
            judge(&split);
            let callback = callback_of(&whole);
            assert_eq!(callback, callback_of(&split));
            callback
        };
        // In order, and each byte for byte.
        let at = rest.windows(kept.len().max(1)).position(|window| window == kept);
        assert!(at.is_some() || kept.is_empty(), "{} is not in the body", String::from_utf8_lossy(&kept));
        rest = rest.get(at.unwrap_or_default() + kept.len()..).unwrap_or_default();
        if parts.count() == 1 && whole.dead_letter_reason.is_some() {
            assert_eq!(kept, body, "what could not be used is kept whole");
        } else if parts.count() == 1 {
            assert_eq!(kept, without_blanks(body), "only blanks around it may go");
        }
    }
}

/// A body without what JSON calls white space around it.
fn without_blanks(mut body: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] | [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = body {
        body = rest;
    }
    body
}

/// What intake makes of it.
fn outcome(command: &str, known: Option<Command>, body: &[u8]) -> CaptureOutcome {
    let rules = Arc::new(file::parse(RULES).unwrap());
    let blocklist = Blocklist::of([Source::new(SourceKind::File, "list", rules)], 7);
    let judge = Judge { blocklist: &blocklist, policy: Policy::default(), now: NOW };
    let judged = parse::check_body(body, command).and_then(|checked| match known {
        Some(command) if command.kind() == Kind::Before => question::answer(command, checked, Some(judge)).map(Some),
        _ => Ok(None),
    });
    match judged {
        Ok(None) => CaptureOutcome::Happened,
        Ok(Some((decision, _body))) => CaptureOutcome::Decided(decision),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> CaptureOutcome {
    CaptureOutcome::Refused { reason: refusal.reason(), detail: refusal.to_string().into() }
}

/// Valid JSON, and what its schema says.
fn judge(record: &Record<'_>) {
    let text = String::from_utf8_lossy(&record.value);
    assert!(serde_json::from_slice::<IgnoredAny>(&record.value).is_ok(), "not JSON: {text}");
    let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|header| (header.name, &*header.value)).collect();
    let judged = schema::judge(record.key.as_deref().map(str::as_bytes), &headers, &record.value);
    assert_eq!(judged, Ok(()), "{text}");
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(borrow)]
    callback: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    callback: &'a RawValue,
}

/// The callback in a record, as it stands there.
fn callback_of(record: &Record<'_>) -> Vec<u8> {
    let envelope: Envelope<'_> = serde_json::from_slice(&record.value).unwrap();
    let raw = envelope.data.map(|data| data.callback).or(envelope.callback).unwrap();
    raw.get().as_bytes().to_vec()
}
