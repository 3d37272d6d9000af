//! The attributes of a callback: subject, operator, time, and the basis of its id.

use std::borrow::Cow;

use serde::Serialize;

use crate::body::EventTime;
use crate::command::Command;
use crate::command::Dedupe;
use crate::command::SubjectKey;

use super::event::Event;
use super::field::Members;

const OPERATOR: &str = "Operator_Account";
const EVENT_TIME: &str = "EventTime";

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The subject, which is also the key of the record.
    pub(super) subject: Option<Cow<'a, str>>,
    /// Who did it.
    pub(super) operator: Option<Cow<'a, str>>,
    /// When, in milliseconds since the Unix epoch, if the callback has a valid time.
    pub(super) event_time_ms: Option<i64>,
    /// What distinguishes it from other callbacks.
    pub(super) identity: Identity<'a>,
}

/// The basis of the id.
#[derive(Debug)]
pub(super) struct Identity<'a> {
    /// Two callbacks of one application and command are the same if this is equal.
    pub(super) dedupe_key: Cow<'a, [u8]>,
    pub(super) basis: IdBasis,
}

/// Whether callbacks with the same id are the same event. (`idbasis`)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdBasis {
    /// The dedupe key identifies the event.
    SubjectKey,
    /// The key is the whole body, which has the time of the event.
    Body,
    /// There is no time: the same thing happening again has the same id.
    Content,
}

impl IdBasis {
    /// The word in the envelope.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::SubjectKey => "key",
            Self::Body => "body",
            Self::Content => "content",
        }
    }
}

impl<'a> Facts<'a> {
    /// For a command that is not in the table: only the body itself is known.
    pub(super) fn unknown(json: &'a str) -> Self {
        let event_time_ms = Members::read(json, &[EVENT_TIME]).json(EVENT_TIME).and_then(EventTime::read);
        let identity = Identity::of_body(json, event_time_ms);
        Self { subject: None, operator: None, event_time_ms, identity }
    }

    /// For a body with a type.
    pub(super) fn of_event(command: Command, event: &Event<'a>, json: &'a str) -> Self {
        let identity = match command.dedupe() {
            Dedupe::Body => Identity::of_body(json, event.event_time_ms),
            Dedupe::Fields(paths) => Identity::of(&Members::read(json, paths), paths, json, event.event_time_ms),
        };
        Self {
            subject: event.subject().cloned(),
            // An id with a lone surrogate, which is U+FFFD in the event, identifies nobody.
            operator: event.operator.clone().filter(|operator| !operator.contains(char::REPLACEMENT_CHARACTER)),
            event_time_ms: event.event_time_ms,
            identity,
        }
    }

    /// For a body without a type, from the fields that the table names.
    pub(super) fn read(command: Command, json: &'a str, app_id: &'a str) -> Self {
        let mut paths = Vec::with_capacity(12);
        paths.extend([OPERATOR, EVENT_TIME]);
        match command.key() {
            SubjectKey::Field(path) => paths.push(path),
            SubjectKey::First(first, second) | SubjectKey::Pair(first, second) => paths.extend([first, second]),
            SubjectKey::App => {}
        }
        if let Dedupe::Fields(fields) = command.dedupe() {
            paths.extend(fields);
        }
        let members = Members::read(json, &paths);
        let event_time_ms = members.json(EVENT_TIME).and_then(EventTime::read);
        let identity = match command.dedupe() {
            Dedupe::Body => Identity::of_body(json, event_time_ms),
            Dedupe::Fields(paths) => Identity::of(&members, paths, json, event_time_ms),
        };
        Self {
            subject: subject(command.key(), &members, app_id),
            operator: members.text(OPERATOR),
            event_time_ms,
            identity,
        }
    }
}

impl<'a> Identity<'a> {
    fn of_body(json: &'a str, event_time_ms: Option<i64>) -> Self {
        let basis = if event_time_ms.is_some() { IdBasis::Body } else { IdBasis::Content };
        Self { dedupe_key: Cow::Borrowed(json.as_bytes()), basis }
    }

    /// The fields, or the whole body if one is missing.
    fn of(members: &Members<'_>, paths: &[&'static str], json: &'a str, event_time_ms: Option<i64>) -> Self {
        let Some(key) = dedupe_key(members, paths) else { return Self::of_body(json, event_time_ms) };
        // If the time is a part of the key but has no valid value (such as 0), the key does not identify an event.
        let is_timeless = event_time_ms.is_none() && paths.contains(&EVENT_TIME);
        let basis = if is_timeless { IdBasis::Content } else { IdBasis::SubjectKey };
        Self { dedupe_key: Cow::Owned(key), basis }
    }
}

fn subject<'a>(key: SubjectKey, members: &Members<'a>, app_id: &'a str) -> Option<Cow<'a, str>> {
    match key {
        SubjectKey::Field(path) => members.text(path),
        SubjectKey::First(first, second) => members.text(first).or_else(|| members.text(second)),
        SubjectKey::Pair(one, other) => {
            let mut pair = [members.text(one)?, members.text(other)?];
            pair.sort();
            Some(Cow::Owned(pair.join("|")))
        }
        SubjectKey::App => Some(Cow::Borrowed(app_id)),
    }
}

/// The value of one field of a dedupe key.
#[derive(Serialize)]
#[serde(untagged)]
enum KeyPart<'a> {
    One(Option<Cow<'a, str>>),
    Each(Vec<Cow<'a, str>>),
}

/// The fields as a JSON array, which no body is; `None` if a required one is missing.
fn dedupe_key(members: &Members<'_>, paths: &[&'static str]) -> Option<Vec<u8>> {
    let parts = paths.iter().map(|path| {
        if path.contains("[]") {
            return Some(members.texts(path)).filter(|texts| !texts.is_empty()).map(KeyPart::Each);
        }
        let text = members.text(path);
        (text.is_some() || path.ends_with(['?', '+'])).then_some(KeyPart::One(text))
    });
    let mut parts: Vec<KeyPart<'_>> = parts.collect::<Option<_>>()?;
    for _absent in paths.iter().rev().take_while(|path| path.ends_with('+')) {
        if parts.pop_if(|part| matches!(part, KeyPart::One(None))).is_none() {
            break;
        }
    }
    serde_json::to_vec(&parts).ok()
}
