//! What the envelope says of a callback beside its data: subject, operator, time, and what tells it from others.

use std::borrow::Cow;

use serde::Serialize;

use crate::body::EventTime;
use crate::command::Command;
use crate::command::Dedupe;
use crate::command::Key;

use super::event::Event;
use super::field::Members;

const OPERATOR: &str = "Operator_Account";
const EVENT_TIME: &str = "EventTime";

/// See the module.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// What it is about, which is also the message key.
    pub(super) subject: Option<Cow<'a, str>>,
    /// Who did it.
    pub(super) operator: Option<Cow<'a, str>>,
    /// When, in milliseconds since the Unix epoch, if the callback says it readably.
    pub(super) event_time_ms: Option<i64>,
    /// Two callbacks of one application and command are the same if this is.
    pub(super) dedupe_key: Cow<'a, [u8]>,
}

impl<'a> Facts<'a> {
    /// Of a command that is not of the table. Nobody but the body knows what it is about, so all of it is the dedupe key.
    pub(super) fn unknown(json: &'a str) -> Self {
        Self { subject: None, operator: None, event_time_ms: None, dedupe_key: Cow::Borrowed(json.as_bytes()) }
    }

    /// Of a body that was read as its normal form.
    pub(super) fn of_event(command: Command, event: &Event<'a>, json: &'a str) -> Self {
        let dedupe_key = match command.dedupe() {
            Dedupe::Body => None,
            Dedupe::Fields(paths) => dedupe_key(&Members::read(json, paths), paths),
        };
        Self {
            subject: event.subject().cloned(),
            operator: event.operator.clone(),
            event_time_ms: event.event_time_ms,
            dedupe_key: dedupe_key.map_or(Cow::Borrowed(json.as_bytes()), Cow::Owned),
        }
    }

    /// Of a body that has no type, as far as it has the fields that the table names.
    pub(super) fn read(command: Command, json: &'a str, app_id: &'a str) -> Self {
        let mut paths = Vec::with_capacity(8);
        paths.extend([OPERATOR, EVENT_TIME]);
        match command.key() {
            Key::Field(path) => paths.push(path),
            Key::First(first, second) | Key::Pair(first, second) => paths.extend([first, second]),
            Key::App => {}
        }
        if let Dedupe::Fields(fields) = command.dedupe() {
            paths.extend(fields);
        }
        let members = Members::read(json, &paths);
        let dedupe_key = match command.dedupe() {
            Dedupe::Body => None,
            Dedupe::Fields(paths) => dedupe_key(&members, paths),
        };
        Self {
            subject: subject(command.key(), &members, app_id),
            operator: members.text(OPERATOR),
            event_time_ms: members.json(EVENT_TIME).and_then(EventTime::read),
            dedupe_key: dedupe_key.map_or(Cow::Borrowed(json.as_bytes()), Cow::Owned),
        }
    }
}

fn subject<'a>(key: Key, members: &Members<'a>, app_id: &'a str) -> Option<Cow<'a, str>> {
    match key {
        Key::Field(path) => members.text(path),
        Key::First(first, second) => members.text(first).or_else(|| members.text(second)),
        Key::Pair(one, other) => {
            let mut pair = [members.text(one)?, members.text(other)?];
            pair.sort();
            Some(Cow::Owned(pair.join("|")))
        }
        Key::App => Some(Cow::Borrowed(app_id)),
    }
}

/// What stands in one field of a dedupe key.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    One(Option<Cow<'a, str>>),
    Each(Vec<Cow<'a, str>>),
}

/// The fields as a JSON array, which no body is; `None` where one is missing that must be there.
fn dedupe_key(members: &Members<'_>, paths: &[&'static str]) -> Option<Vec<u8>> {
    let parts = paths.iter().map(|path| {
        if path.contains("[]") {
            return Some(members.texts(path)).filter(|texts| !texts.is_empty()).map(Part::Each);
        }
        let text = members.text(path);
        (text.is_some() || path.ends_with('?')).then_some(Part::One(text))
    });
    let parts: Vec<Part<'_>> = parts.collect::<Option<_>>()?;
    serde_json::to_vec(&parts).ok()
}
