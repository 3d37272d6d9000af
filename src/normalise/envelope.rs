//! The envelope: CloudEvents 1.0 around a callback, as one JSON value (structured) or as headers and data (binary).

use std::borrow::Cow;

use serde::Serialize;

use crate::clock::UnixMillis;
use crate::decide::Decision;
use crate::record::Header;
use crate::record::Record;
use crate::record::Topic;

use super::event::Event;
use super::id::event_id;
use super::rfc3339;

/// How an envelope is written into a record. (CloudEvents, Kafka protocol binding 1.0.2, section 3.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The whole event is the value.
    #[default]
    Structured,
    /// The attributes are headers, the data is the value.
    Binary,
}

/// The version of the schema that `dataschema` names. It changes only when a consumer could break.
const SCHEMA_VERSION: u32 = 1;

/// What goes into an envelope.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) app_id: &'a str,
    pub(super) source: &'a str,
    pub(super) topic: Topic,
    pub(super) received: UnixMillis,
    pub(super) command: Cow<'a, str>,
    pub(super) client_ip: Option<Cow<'a, str>>,
    pub(super) opt_platform: Option<Cow<'a, str>>,
    pub(super) decision: Option<&'a Decision>,
    /// Absent for a command that is not of the table.
    pub(super) event: Option<Event<'a>>,
    /// The callback's JSON, byte for byte.
    pub(super) callback: &'a str,
}

/// CloudEvents attributes with their names as headers; without `ce_` they are the names in JSON.
type Attributes<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// `data.decision`.
#[derive(Serialize)]
struct Decided<'a> {
    outcome: &'static str,
    refused: &'a [Box<str>],
    rules: &'a [Box<str>],
    generation: u64,
}

impl<'a> Envelope<'a> {
    pub(super) fn into_record(self, mode: Mode) -> Record<'a> {
        let attributes = self.attributes();
        let mut value = Vec::with_capacity(self.callback.len() * 2 + 768);
        let headers = match mode {
            Mode::Structured => {
                value.extend_from_slice(b"{\"specversion\":\"1.0\"");
                for (name, text) in &attributes {
                    push_member(&mut value, name.strip_prefix("ce_").unwrap_or(name), text);
                }
                push_member(&mut value, "datacontenttype", "application/json");
                value.extend_from_slice(b",\"data\":");
                self.push_data(&mut value);
                value.push(b'}');
                let mut headers = vec![header("content-type", Cow::Borrowed("application/cloudevents+json"))];
                let repeated =
                    attributes.into_iter().filter(|(name, _)| matches!(*name, "ce_id" | "ce_type" | "ce_source"));
                headers.extend(repeated.map(|(name, text)| header(name, text)));
                headers
            }
            Mode::Binary => {
                self.push_data(&mut value);
                let mut headers = vec![
                    header("content-type", Cow::Borrowed("application/json")),
                    header("ce_specversion", Cow::Borrowed("1.0")),
                ];
                headers.extend(attributes.into_iter().map(|(name, text)| header(name, text)));
                headers
            }
        };
        Record {
            topic: self.topic,
            key: self.event.map(|event| event.official_account),
            headers,
            value: Cow::Owned(value),
            rejection: None,
            timestamp_ms: self.received.0,
        }
    }

    fn attributes(&self) -> Attributes<'a> {
        let event_time = self.event.as_ref().and_then(|event| event.event_time_ms);
        let (time, time_source) = match event_time {
            Some(millis) => (UnixMillis(millis), "callback"),
            None => (self.received, "receipt"),
        };
        // Nobody but the body knows what a command outside the table is about, so all of it is the dedupe key there. For the table's
        // four the key is account, time and a hash of the body; the body alone says the same, as it holds the other two.
        let id = event_id(self.app_id, &self.command, self.callback.as_bytes());
        let schema = if self.event.is_some() { &*self.command } else { "unknown" };
        let schema = format!("urn:callbridge:schema:{schema}:{SCHEMA_VERSION}");
        let subject = self.event.as_ref().map(|event| event.official_account.clone());
        let operator = self.event.as_ref().and_then(|event| event.operator.clone());
        let mut attributes = Attributes::with_capacity(14);
        let mut push = |name, text: Option<Cow<'a, str>>| {
            // CloudEvents knows no empty attribute.
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                attributes.push((name, text));
            }
        };
        push("ce_id", Some(id.into()));
        push("ce_source", Some(self.source.into()));
        push("ce_type", Some(self.command.clone()));
        push("ce_subject", subject.clone());
        push("ce_time", Some(rfc3339(time).into()));
        push("ce_timesource", Some(time_source.into()));
        push("ce_receivedtime", Some(rfc3339(self.received).into()));
        push("ce_dataschema", Some(schema.into()));
        push("ce_sdkappid", Some(self.app_id.into()));
        push("ce_optplatform", self.opt_platform.clone());
        push("ce_clientip", self.client_ip.clone());
        push("ce_operator", operator);
        push("ce_partitionkey", subject);
        push("ce_decision", self.decision.map(|decision| decision.outcome.as_str().into()));
        attributes
    }

    fn push_data(&self, value: &mut Vec<u8>) {
        value.push(b'{');
        if let Some(decision) = self.decision {
            value.extend_from_slice(b"\"decision\":");
            let decided = Decided {
                outcome: decision.outcome.as_str(),
                refused: &decision.refused,
                rules: &decision.rules,
                generation: decision.generation,
            };
            push_json(value, &decided);
            value.push(b',');
        }
        if let Some(event) = &self.event {
            value.extend_from_slice(b"\"event\":");
            push_json(value, event);
            value.push(b',');
        }
        value.extend_from_slice(b"\"callback\":");
        value.extend_from_slice(self.callback.as_bytes());
        value.push(b'}');
    }
}

fn header<'a>(name: &'static str, text: Cow<'a, str>) -> Header<'a> {
    let value = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    Header { name, value }
}

/// Appends `,"name":"text"`. The name needs no escapes.
fn push_member(json: &mut Vec<u8>, name: &str, text: &str) {
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    push_text(json, text);
}

/// Appends `text` as a JSON string. Most need no escapes, and finding that out costs less than writing with them.
fn push_text(json: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return push_json(json, text);
    }
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

#[expect(
    clippy::expect_used,
    reason = "strings, numbers and structs of them always have a JSON form, and a Vec takes all of it"
)]
fn push_json<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("plain values are always JSON");
}
