//! Normalised events: what happened, with stable snake_case names and types, independent of changes in Tencent's formats.

use std::borrow::Cow;

use crate::body::AskedFor;
use crate::body::Id;
use crate::body::InfoChanged;
use crate::body::JsonArray;
use crate::body::LossyText;
use crate::body::OfficialAccountChange;
use crate::body::OfficialAccountMessage;
use crate::body::Subscribers;
use crate::body::Withdrawn;
use crate::command::Form;

use super::json::ObjectWriter;

/// The normalised event of a callback, `data.event` in the envelope.
#[derive(Debug, Default)]
pub struct Event<'a> {
    /// The Official Account; absent if it is only being requested.
    official_account: Option<Cow<'a, str>>,
    /// Who did it.
    pub operator: Option<Cow<'a, str>>,
    /// The owner, present or past.
    owner: Option<Cow<'a, str>>,
    /// Who subscribes or unsubscribes.
    subscribers: Option<Vec<Cow<'a, str>>>,
    name: Option<Cow<'a, str>>,
    introduction: Option<Cow<'a, str>>,
    face_url: Option<Cow<'a, str>>,
    organization: Option<Cow<'a, str>>,
    /// The key by which a message can be recalled.
    message_key: Option<Cow<'a, str>>,
    /// The messages that were recalled.
    message_keys: Option<Vec<Cow<'a, str>>>,
    /// When a message was sent, in milliseconds since the Unix epoch; Tencent sends seconds.
    message_time_ms: Option<i64>,
    online_only: Option<bool>,
    /// The elements of a message, verbatim.
    message_body: Option<JsonArray<'a>>,
    custom_data: Option<Cow<'a, str>>,
    /// When, in milliseconds since the Unix epoch; absent if the callback has no valid time.
    pub event_time_ms: Option<i64>,
}

impl<'a> Event<'a> {
    /// Parses a body of this form.
    ///
    /// # Errors
    ///
    /// A required field is missing, or a field has the wrong type.
    pub fn parse(form: Form, json: &'a str) -> Result<Self, serde_json::Error> {
        Ok(match form {
            Form::AskedFor => Self::from(serde_json::from_str::<AskedFor<'a>>(json)?),
            Form::Account => Self::from(serde_json::from_str::<OfficialAccountChange<'a>>(json)?),
            Form::InfoChanged => Self::from(serde_json::from_str::<InfoChanged<'a>>(json)?),
            Form::Subscribers => Self::from(serde_json::from_str::<Subscribers<'a>>(json)?),
            Form::Message => Self::from(serde_json::from_str::<OfficialAccountMessage<'a>>(json)?),
            Form::Withdrawn => Self::from(serde_json::from_str::<Withdrawn<'a>>(json)?),
        })
    }

    /// Appends the JSON of the event, without absent fields.
    pub fn push(&self, json: &mut Vec<u8>) {
        let mut object = ObjectWriter::begin(json);
        object.text("official_account", self.official_account.as_deref());
        object.text("operator", self.operator.as_deref());
        object.text("owner", self.owner.as_deref());
        object.texts("subscribers", self.subscribers.as_deref());
        object.text("name", self.name.as_deref());
        object.text("introduction", self.introduction.as_deref());
        object.text("face_url", self.face_url.as_deref());
        object.text("organization", self.organization.as_deref());
        object.text("message_key", self.message_key.as_deref());
        object.texts("message_keys", self.message_keys.as_deref());
        object.value("message_time_ms", self.message_time_ms);
        object.value("online_only", self.online_only);
        object.value("message_body", self.message_body);
        object.text("custom_data", self.custom_data.as_deref());
        object.value("event_time_ms", self.event_time_ms);
        object.end();
    }

    /// The account that it is about; for a new account without an id, the owner.
    pub fn subject(&self) -> Option<&Cow<'a, str>> {
        self.official_account.as_ref().or(self.owner.as_ref())
    }
}

impl<'a> From<AskedFor<'a>> for Event<'a> {
    fn from(body: AskedFor<'a>) -> Self {
        Self {
            operator: shown(body.operator),
            owner: Some(body.owner.0),
            name: shown(body.name),
            event_time_ms: body.event_time.0,
            ..Self::default()
        }
    }
}

impl<'a> From<OfficialAccountChange<'a>> for Event<'a> {
    fn from(body: OfficialAccountChange<'a>) -> Self {
        Self {
            operator: shown(body.operator),
            owner: shown(body.owner),
            name: shown(body.name),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<InfoChanged<'a>> for Event<'a> {
    fn from(body: InfoChanged<'a>) -> Self {
        Self {
            operator: shown(body.operator),
            name: shown(body.name),
            introduction: shown(body.introduction),
            face_url: shown(body.face_url),
            organization: shown(body.organization),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<Subscribers<'a>> for Event<'a> {
    fn from(body: Subscribers<'a>) -> Self {
        Self {
            operator: shown(body.operator),
            subscribers: Some(body.subscribers.into_iter().map(|subscriber| subscriber.0.account.0).collect()),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<OfficialAccountMessage<'a>> for Event<'a> {
    fn from(body: OfficialAccountMessage<'a>) -> Self {
        Self {
            operator: shown(body.operator),
            message_key: body.key.map(|key| key.0),
            message_time_ms: body.time.0,
            online_only: body.online_only.map(|flag| flag.0),
            message_body: body.body,
            custom_data: shown(body.custom_data),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<Withdrawn<'a>> for Event<'a> {
    fn from(body: Withdrawn<'a>) -> Self {
        Self {
            operator: shown(body.operator),
            message_keys: Some(body.messages.into_iter().map(|message| message.0.key.0).collect()),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> Event<'a> {
    fn about(official_account: Id<'a>, event_time_ms: Option<i64>) -> Self {
        Self { official_account: Some(official_account.0), event_time_ms, ..Self::default() }
    }
}

fn shown(text: Option<LossyText<'_>>) -> Option<Cow<'_, str>> {
    text.map(|text| text.0)
}
