//! The envelope: a CloudEvents 1.0 event with the callback, as one JSON value (structured) or as headers and data (binary).

use std::borrow::Cow;

use serde::Deserialize;
use serde::Serialize;

use crate::clock::UnixMillis;
use crate::decide::Decision;
use crate::record::Header;
use crate::record::Record;
use crate::record::Topic;

use super::attribute;
use super::event::Event;
use super::facts::Facts;
use super::id::event_id;
use super::json::push_json;
use super::json::push_plain;
use super::json::push_text;
use super::time::Rfc3339;
use super::time::rfc3339;

/// How an envelope is written into a record. (CloudEvents, Kafka protocol binding 1.0.2, section 3.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The value is the whole event.
    #[default]
    Structured,
    /// Attributes are headers; the value is the data.
    Binary,
}

/// The contents of an envelope.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) app_id: &'a str,
    pub(super) source: &'a str,
    /// `dataschema`.
    pub(super) schema: &'a str,
    pub(super) topic: Topic,
    pub(super) received: UnixMillis,
    pub(super) command: Cow<'a, str>,
    pub(super) client_ip: Option<Cow<'a, str>>,
    pub(super) opt_platform: Option<Cow<'a, str>>,
    pub(super) request_id: Option<Cow<'a, str>>,
    pub(super) decision: Option<&'a Decision>,
    pub(super) facts: Facts<'a>,
    /// Absent for a command without a normalised event.
    pub(super) event: Option<Event<'a>>,
    /// The callback's JSON, verbatim.
    pub(super) callback: &'a str,
}

/// `data.decision`.
#[derive(Serialize)]
struct Decided<'a> {
    outcome: &'static str,
    refused: &'a [Box<str>],
    rules: Vec<RuleOfSource<'a>>,
    generation: u64,
    /// Only if it is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<bool>,
}

/// A rule that refused somebody.
#[derive(Serialize)]
struct RuleOfSource<'a> {
    rule: &'a str,
    /// Only if it is known.
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
}

/// Values that are computed for an envelope, on the stack.
struct Computed {
    id: [u8; 32],
    time: Rfc3339,
    received: Rfc3339,
}

/// The name of an attribute, as each mode writes it.
#[derive(Clone, Copy)]
struct Name {
    header: &'static str,
    /// The text before its value in JSON.
    member: &'static str,
    /// Its value never needs escapes.
    is_plain: bool,
}

/// The names of an attribute with an arbitrary value.
macro_rules! name {
    ($name:literal) => {
        Name { header: concat!("ce_", $name), member: concat!(",\"", $name, "\":"), is_plain: false }
    };
}

/// The names of an attribute whose value needs no escapes.
macro_rules! plain {
    ($name:literal) => {
        Name { is_plain: true, ..name!($name) }
    };
}

impl<'a> Envelope<'a> {
    pub(super) fn into_record(self, mode: Mode) -> Record<'a> {
        let computed = Computed {
            id: event_id(self.app_id, &self.command, &self.facts.identity.dedupe_key),
            time: rfc3339(self.facts.event_time_ms.map_or(self.received, UnixMillis)),
            received: rfc3339(self.received),
        };
        let mut value = Vec::with_capacity(self.callback.len() * 2 + 768);
        let headers = match mode {
            Mode::Structured => {
                value.extend_from_slice(b"{\"specversion\":\"1.0\"");
                self.each_attribute(&computed, |name, text| {
                    value.extend_from_slice(name.member.as_bytes());
                    if name.is_plain {
                        push_plain(&mut value, text);
                    } else {
                        push_text(&mut value, text);
                    }
                });
                value.extend_from_slice(b",\"datacontenttype\":\"application/json\",\"data\":");
                self.push_data(&mut value);
                value.push(b'}');
                vec![
                    fixed("content-type", "application/cloudevents+json"),
                    Header { name: "ce_id", value: Cow::Owned(computed.id.to_vec()) },
                    fixed("ce_source", self.source),
                    header("ce_type", self.command),
                ]
            }
            Mode::Binary => {
                self.push_data(&mut value);
                let mut headers = Vec::with_capacity(18);
                headers.push(fixed("content-type", "application/json"));
                headers.push(fixed("ce_specversion", "1.0"));
                self.each_attribute(&computed, |name, text| {
                    headers.push(Header { name: name.header, value: Cow::Owned(text.as_bytes().to_vec()) });
                });
                headers
            }
        };
        Record {
            topic: self.topic,
            key: self.facts.subject,
            headers,
            value: Cow::Owned(value),
            dead_letter_reason: None,
        }
    }

    /// Calls `put` with the name and the value of each attribute except `specversion` and `datacontenttype`. Values that CloudEvents
    /// forbids are left out. Such a subject is still the key of the record, so the order per key is kept.
    fn each_attribute(&self, computed: &Computed, mut put: impl FnMut(Name, &str)) {
        let mut put_some = |name, text: Option<&str>| {
            if let Some(text) = text.filter(|text| attribute::is_allowed(text)) {
                put(name, text);
            }
        };
        let ascii = |bytes| str::from_utf8(bytes).ok();
        let facts = &self.facts;
        let subject = facts.subject.as_deref();
        put_some(plain!("id"), ascii(&computed.id));
        put_some(plain!("idbasis"), Some(facts.identity.basis.word()));
        put_some(plain!("source"), Some(self.source));
        put_some(name!("type"), Some(&self.command));
        put_some(name!("subject"), subject);
        put_some(plain!("time"), ascii(&computed.time));
        put_some(plain!("timesource"), Some(if facts.event_time_ms.is_some() { "callback" } else { "receipt" }));
        put_some(plain!("receivedtime"), ascii(&computed.received));
        put_some(plain!("dataschema"), Some(self.schema));
        put_some(plain!("sdkappid"), Some(self.app_id));
        put_some(name!("optplatform"), self.opt_platform.as_deref());
        put_some(name!("clientip"), self.client_ip.as_deref());
        put_some(name!("requestid"), self.request_id.as_deref());
        put_some(name!("operator"), facts.operator.as_deref());
        put_some(name!("partitionkey"), subject);
        put_some(plain!("decision"), self.decision.map(|decision| decision.outcome.as_str()));
    }

    fn push_data(&self, value: &mut Vec<u8>) {
        value.push(b'{');
        if let Some(decision) = self.decision {
            value.extend_from_slice(b"\"decision\":");
            let decided = Decided {
                outcome: decision.outcome.as_str(),
                refused: &decision.refused,
                rules: decision.rules.iter().map(|it| RuleOfSource { rule: &it.rule, source: &it.source }).collect(),
                generation: decision.generation,
                enforced: (!decision.enforced).then_some(false),
            };
            push_json(value, &decided);
            value.push(b',');
        }
        if let Some(event) = &self.event {
            value.extend_from_slice(b"\"event\":");
            event.push(value);
            value.push(b',');
        }
        value.extend_from_slice(b"\"callback\":");
        value.extend_from_slice(self.callback.as_bytes());
        value.push(b'}');
    }
}

fn fixed<'a>(name: &'static str, text: &'a str) -> Header<'a> {
    Header { name, value: Cow::Borrowed(text.as_bytes()) }
}

fn header<'a>(name: &'static str, text: Cow<'a, str>) -> Header<'a> {
    let value = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    Header { name, value }
}
