//! A body of every command, and what callbridge publishes of it, made by its own stages without a process.

use std::net::SocketAddr;
use std::sync::Arc;

use callbridge::auth::Apps;
use callbridge::capture::Capture;
use callbridge::capture::CaptureOutcome;
use callbridge::capture::Raw;
use callbridge::clock::UnixMillis;
use callbridge::command::Command;
use callbridge::command::Kind;
use callbridge::decide::Decision;
use callbridge::normalise::Normaliser;
use callbridge::normalise::envelope::Mode;
use callbridge::normalise::part::Parts;
use callbridge::record::Topics;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The time of receipt that is told: 2022-12-09T08:26:54.456Z.
const RECEIVED: UnixMillis = UnixMillis(1_670_574_414_456);

/// A body, and what must come of it.
#[derive(Deserialize)]
pub(crate) struct Sample<'a> {
    pub(crate) command: &'a str,
    /// Subject and key.
    pub(crate) key: Option<&'a str>,
    /// Where it is absent, the time of receipt is told.
    pub(crate) time: Option<&'a str>,
    pub(crate) operator: Option<&'a str>,
    /// What is special about it.
    pub(crate) says: &'a str,
    #[serde(borrow)]
    pub(crate) callback: &'a RawValue,
}

/// All of them: one or more of each command.
pub(crate) fn all() -> Vec<Sample<'static>> {
    serde_json::from_str(include_str!("../../../src/send/samples.json")).unwrap()
}

/// The first of a command.
pub(crate) fn first_of(command: Command) -> Sample<'static> {
    all().into_iter().find(|sample| sample.command == command.name()).unwrap()
}

/// The query of a callback as Tencent sends it.
pub(crate) fn query(command: &str) -> String {
    format!(
        "SdkAppid=1400000000&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI\
         &RequestID=6b1f0c1e-5f0a-4c57-9f0e-0d5f6f1c2a3b"
    )
}

/// Records as values with their headers: what becomes of a body in structured mode. A question is allowed.
pub(crate) fn published(command: &str, body: &str) -> Vec<Vec<u8>> {
    let apps = Arc::new(Apps::new([1_400_000_000]));
    let app = apps.iter().next().unwrap();
    let normaliser = Normaliser::new(apps, Arc::new(Topics::new(["tencent-chat"])), Mode::Structured);
    let query = query(command);
    let mut raw = Raw::begin(&query, body.len());
    raw.push(body.as_bytes());
    let known = Command::find(command);
    let is_question = known.is_some_and(|command| command.kind() == Kind::Before);
    let outcome = if is_question { CaptureOutcome::Decided(Decision::unjudged()) } else { CaptureOutcome::Happened };
    let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
    let capture = Capture { received: RECEIVED, peer, app, command: known, raw: raw.end(), outcome };
    let record = |part| normaliser.record_of(&capture, part);
    Parts::of(&capture)
        .iter()
        .map(record)
        .map(|record| {
            assert_eq!(record.dead_letter_reason, None, "{command} {body}");
            record.value.into_owned()
        })
        .collect()
}
