//! The normal forms: what happened, in stable snake_case names and types, whatever shape the sender's pages have this year.

use std::borrow::Cow;

use serde::Serialize;

use crate::body::AddSubscriber;
use crate::body::Destroyed;
use crate::body::Id;
use crate::body::InfoChanged;
use crate::body::Text;
use crate::command::Command;

/// The normal form of one callback, `data.event` in the envelope.
#[derive(Debug, Default, Serialize)]
pub struct Event<'a> {
    /// The Official Account it is about; also the subject and the message key.
    pub official_account: Cow<'a, str>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<Cow<'a, str>>,
    /// Who owned it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Cow<'a, str>>,
    /// Who subscribes.
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
    /// When, in milliseconds since the Unix epoch; absent where the callback does not say it readably.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time_ms: Option<i64>,
}

impl<'a> Event<'a> {
    /// Reads the body of `command`.
    ///
    /// # Errors
    ///
    /// A field that is needed is missing, or one has the wrong shape.
    pub fn parse(command: Command, json: &'a str) -> Result<Self, serde_json::Error> {
        Ok(match command {
            Command::BeforeAddSubscriber | Command::AfterAddSubscriber => {
                Self::from(serde_json::from_str::<AddSubscriber<'a>>(json)?)
            }
            Command::AfterOfficialAccountDestroyed => Self::from(serde_json::from_str::<Destroyed<'a>>(json)?),
            Command::AfterOfficialAccountInfoChanged => Self::from(serde_json::from_str::<InfoChanged<'a>>(json)?),
        })
    }
}

impl<'a> From<AddSubscriber<'a>> for Event<'a> {
    fn from(body: AddSubscriber<'a>) -> Self {
        let Id(official_account) = body.official_account;
        Self {
            official_account,
            operator: plain(body.operator),
            subscribers: Some(body.subscribers.into_iter().map(|subscriber| subscriber.0.account.0).collect()),
            event_time_ms: body.event_time.0,
            ..Self::default()
        }
    }
}

impl<'a> From<Destroyed<'a>> for Event<'a> {
    fn from(body: Destroyed<'a>) -> Self {
        let Id(official_account) = body.official_account;
        Self {
            official_account,
            owner: plain(body.owner),
            name: plain(body.name),
            event_time_ms: body.event_time.0,
            ..Self::default()
        }
    }
}

impl<'a> From<InfoChanged<'a>> for Event<'a> {
    fn from(body: InfoChanged<'a>) -> Self {
        let Id(official_account) = body.official_account;
        Self {
            official_account,
            operator: plain(body.operator),
            name: plain(body.name),
            introduction: plain(body.introduction),
            face_url: plain(body.face_url),
            organization: plain(body.organization),
            event_time_ms: body.event_time.0,
            ..Self::default()
        }
    }
}

fn plain(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|text| text.0)
}
