//! Turns a capture into Kafka records: one, or one for each event of a batch. It runs after the response. A callback that cannot become an
//! event is not lost: it goes to the dead-letter topic `<prefix>.rejected`.

mod attribute;
mod depth;
pub mod envelope;
pub mod event;
mod facts;
mod field;
pub mod id;
mod json;
pub mod part;
mod time;

use std::borrow::Cow;
use std::sync::Arc;

use crate::auth::Apps;
use crate::body::is_blank;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::command::Command;
use crate::record::Header;
use crate::record::Record;
use crate::record::Topics;
use crate::request::Query;

use self::depth::DEPTH_MAX;
use self::envelope::Envelope;
use self::envelope::Mode;
use self::event::Event;
use self::facts::Facts;
use self::part::EVENTS_MAX;
use self::part::Part;
use self::part::Parts;
use self::time::rfc3339;

/// `callbridge-reason` of a callback whose fields have the wrong type.
pub const WRONG_SHAPE: &str = "wrong_shape";

/// `callbridge-reason` of a batch with too many events.
const TOO_MANY_EVENTS: &str = "too_many_events";

/// `callbridge-reason` of JSON that is nested too deep for the parsers of consumers.
const TOO_DEEP: &str = "too_deep";

/// The values of `callbridge-reason` that normalising finds. The other values are [`Reason::word`](crate::refusal::Reason::word)'s.
pub const REJECTIONS: [&str; 3] = [WRONG_SHAPE, TOO_MANY_EVENTS, TOO_DEEP];

/// The longest `callbridge-detail` header, in bytes: it may quote the sender.
const DETAIL_BYTES_MAX: usize = 1024;

/// The longest value of the query that becomes an attribute, in bytes. Every record of a batch repeats it; the longest that Tencent sends
/// is a UUID or an IPv6 address.
const QUERY_VALUE_BYTES_MAX: usize = 128;

/// Makes records of captures, for the configured applications.
#[derive(Debug, Clone)]
pub struct Normaliser {
    apps: Arc<Apps>,
    topics: Arc<Topics>,
    mode: Mode,
    /// The CloudEvents `source` of each application.
    sources: Vec<String>,
    /// The `dataschema` of each command; the last is for all other commands.
    schemas: Vec<String>,
}

/// The version of the schema in `dataschema`. It changes only for breaking changes.
const SCHEMA_VERSION: u32 = 1;

impl Normaliser {
    /// A normaliser that writes envelopes in `mode`.
    pub fn new(apps: Arc<Apps>, topics: Arc<Topics>, mode: Mode) -> Self {
        let sources = apps.iter().map(|app| format!("/tencent-chat/{}", apps.id(app))).collect();
        let schema = |what: &str| format!("urn:callbridge:schema:{what}:{SCHEMA_VERSION}");
        let schemas = Command::all().map(Command::name).chain(["unknown"]).map(schema).collect();
        Self { apps, topics, mode, sources, schemas }
    }

    /// The record of `capture` as a whole. It is deterministic.
    pub fn record<'a>(&'a self, capture: &'a Capture) -> Record<'a> {
        self.record_of(capture, Part::WHOLE)
    }

    /// Whether `capture` goes to `<prefix>.rejected` as a whole.
    pub fn is_dead_letter(&self, capture: &Capture) -> bool {
        !Parts::of(capture).is_batch() && self.record(capture).dead_letter_reason.is_some()
    }

    /// The record of one of its [`Parts`].
    pub fn record_of<'a>(&'a self, capture: &'a Capture, part: Part) -> Record<'a> {
        let decision = match &capture.outcome {
            CaptureOutcome::Happened => None,
            CaptureOutcome::Decided(decision) => Some(decision),
            CaptureOutcome::Refused { reason, detail } => {
                return self.dead_letter_of(capture, part, reason.word(), detail);
            }
        };
        let reject = |detail: &str| self.dead_letter_of(capture, part, WRONG_SHAPE, detail);
        let Some(callback) = str::from_utf8(part.of(capture.raw.body())).ok().map(|text| text.trim_matches(is_blank))
        else {
            return reject("not UTF-8");
        };
        if !callback.starts_with('{') {
            return reject("an event that is no JSON object");
        }
        if part == Part::WHOLE && part::has_too_many_events(capture) {
            let detail = format!("more than {EVENTS_MAX} events in one batch");
            return self.dead_letter_of(capture, part, TOO_MANY_EVENTS, &detail);
        }
        if depth::is_too_deep(callback) {
            return self.dead_letter_of(capture, part, TOO_DEEP, &format!("nested deeper than {DEPTH_MAX}"));
        }
        let form = capture.command.and_then(Command::form);
        let event = match form.map(|form| Event::parse(form, callback)).transpose() {
            Ok(event) => event,
            Err(error) => return reject(&error.to_string()),
        };
        let app_id = self.apps.id(capture.app);
        let facts = match (capture.command, &event) {
            (None, _) => Facts::unknown(callback),
            (Some(command), Some(event)) => Facts::of_event(command, event, callback),
            (Some(command), None) => Facts::read(command, callback, app_id),
        };
        // Intake has parsed the query already. An invalid one counts as empty.
        let query = Query::parse(capture.raw.query()).unwrap_or_default();
        let command = query.command.unwrap_or_default();
        if !attribute::is_allowed(&command) {
            return reject("a CallbackCommand with a character that CloudEvents forbids in `type`");
        }
        let short = |value: Option<Cow<'a, str>>| value.filter(|value| value.len() <= QUERY_VALUE_BYTES_MAX);
        Envelope {
            app_id,
            source: self.sources.get(capture.app.index()).map_or("", |source| source),
            schema: self
                .schemas
                .get(capture.command.map_or(Command::COUNT, Command::index))
                .map_or("", |schema| schema),
            topic: self.topics.of(capture.app, capture.command),
            received: capture.received,
            command,
            client_ip: short(query.client_ip),
            opt_platform: short(query.opt_platform),
            request_id: short(query.request_id),
            decision,
            facts,
            event,
            callback,
        }
        .into_record(self.mode)
    }

    /// The dead-letter record of `capture`: its raw bytes, with the reason in headers.
    pub fn dead_letter<'a>(&'a self, capture: &'a Capture, reason: &'static str, detail: &str) -> Record<'a> {
        self.dead_letter_of(capture, Part::WHOLE, reason, detail)
    }

    /// The same for one of its [`Parts`].
    pub fn dead_letter_of<'a>(
        &'a self,
        capture: &'a Capture,
        part: Part,
        reason: &'static str,
        detail: &str,
    ) -> Record<'a> {
        let command = Query::parse(capture.raw.query()).unwrap_or_default().command.unwrap_or_default();
        let text = |name, value: String| Header { name, value: Cow::Owned(value.into_bytes()) };
        Record {
            topic: self.topics.dead_letters(capture.app),
            key: None,
            headers: vec![
                Header { name: "callbridge-reason", value: Cow::Borrowed(reason.as_bytes()) },
                text("callbridge-detail", truncated(detail, DETAIL_BYTES_MAX).to_owned()),
                text("callbridge-command", command.into_owned()),
                Header { name: "callbridge-sdkappid", value: Cow::Borrowed(self.apps.id(capture.app).as_bytes()) },
                Header { name: "callbridge-received", value: Cow::Owned(rfc3339(capture.received).to_vec()) },
                text("callbridge-peer", capture.peer.to_string()),
            ],
            value: Cow::Borrowed(part.of(capture.raw.body())),
            dead_letter_reason: Some(reason),
        }
    }
}

/// As much of `text` as fits, cut between characters.
fn truncated(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod quirk_tests;

#[cfg(test)]
mod bounds_tests;

#[cfg(test)]
mod identity_tests;
