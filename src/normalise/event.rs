//! The normal forms: what happened, in stable snake_case names and types, whatever shape the sender's pages have this year.

use std::borrow::Cow;

use serde::Serialize;

use crate::body::Account;
use crate::body::AskedFor;
use crate::body::Id;
use crate::body::InfoChanged;
use crate::body::List;
use crate::body::Message;
use crate::body::Subscribers;
use crate::body::Text;
use crate::body::Withdrawn;
use crate::command::Form;

/// The normal form of one callback, `data.event` in the envelope.
#[derive(Debug, Default, Serialize)]
pub struct Event<'a> {
    /// The Official Account it is about; absent where that is only asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    official_account: Option<Cow<'a, str>>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<Cow<'a, str>>,
    /// Who owns it, or did.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Cow<'a, str>>,
    /// Who subscribes, or does no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribers: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    introduction: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    face_url: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<Cow<'a, str>>,
    /// What a message is taken back by.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_key: Option<Cow<'a, str>>,
    /// The messages that were taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_keys: Option<Vec<Cow<'a, str>>>,
    /// When a message was sent, in milliseconds since the Unix epoch; Tencent tells it in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_time_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online_only: Option<bool>,
    /// A message's elements, as they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_body: Option<List<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_data: Option<Cow<'a, str>>,
    /// When, in milliseconds since the Unix epoch; absent where the callback does not say it readably.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time_ms: Option<i64>,
}

impl<'a> Event<'a> {
    /// Reads a body of this form.
    ///
    /// # Errors
    ///
    /// A field that is needed is missing, or one has the wrong shape.
    pub fn parse(form: Form, json: &'a str) -> Result<Self, serde_json::Error> {
        Ok(match form {
            Form::AskedFor => Self::from(serde_json::from_str::<AskedFor<'a>>(json)?),
            Form::Account => Self::from(serde_json::from_str::<Account<'a>>(json)?),
            Form::InfoChanged => Self::from(serde_json::from_str::<InfoChanged<'a>>(json)?),
            Form::Subscribers => Self::from(serde_json::from_str::<Subscribers<'a>>(json)?),
            Form::Message => Self::from(serde_json::from_str::<Message<'a>>(json)?),
            Form::Withdrawn => Self::from(serde_json::from_str::<Withdrawn<'a>>(json)?),
        })
    }

    /// The account it is about; the owner of one that has no id yet.
    pub fn subject(&self) -> Option<&Cow<'a, str>> {
        self.official_account.as_ref().or(self.owner.as_ref())
    }
}

impl<'a> From<AskedFor<'a>> for Event<'a> {
    fn from(body: AskedFor<'a>) -> Self {
        Self {
            operator: plain(body.operator),
            owner: Some(body.owner.0),
            name: plain(body.name),
            event_time_ms: body.event_time.0,
            ..Self::default()
        }
    }
}

impl<'a> From<Account<'a>> for Event<'a> {
    fn from(body: Account<'a>) -> Self {
        Self {
            operator: plain(body.operator),
            owner: plain(body.owner),
            name: plain(body.name),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<InfoChanged<'a>> for Event<'a> {
    fn from(body: InfoChanged<'a>) -> Self {
        Self {
            operator: plain(body.operator),
            name: plain(body.name),
            introduction: plain(body.introduction),
            face_url: plain(body.face_url),
            organization: plain(body.organization),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<Subscribers<'a>> for Event<'a> {
    fn from(body: Subscribers<'a>) -> Self {
        Self {
            operator: plain(body.operator),
            subscribers: Some(body.subscribers.into_iter().map(|subscriber| subscriber.0.account.0).collect()),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<Message<'a>> for Event<'a> {
    fn from(body: Message<'a>) -> Self {
        Self {
            operator: plain(body.operator),
            message_key: plain(body.key),
            message_time_ms: body.time.0,
            online_only: body.online_only.map(|flag| flag.0),
            message_body: body.body,
            custom_data: plain(body.custom_data),
            ..Self::about(body.official_account, body.event_time.0)
        }
    }
}

impl<'a> From<Withdrawn<'a>> for Event<'a> {
    fn from(body: Withdrawn<'a>) -> Self {
        Self {
            operator: plain(body.operator),
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

fn plain(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|text| text.0)
}
