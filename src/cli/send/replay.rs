//! The input of `--replay`: a callback a line, in any form that callbridge and kcat print.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::request::Query;
use crate::send::callbacks::CallbackBody;

/// The header of a dead letter with the command of the raw body in its value.
const COMMAND_HEADER: &str = "callbridge-command";
/// The header of an event in binary mode.
const TYPE_HEADER: &str = "ce_type";

/// The members that distinguish the forms. Members of a body have Tencent's names, which begin with capitals.
#[derive(Default, Deserialize)]
struct ReplayLine<'a> {
    #[serde(rename = "CallbackCommand")]
    command: Option<String>,
    /// An event in structured mode.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// The value of an event in binary mode.
    #[serde(borrow)]
    callback: Option<&'a RawValue>,
    /// A line of `callbridge journal export`.
    query: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
    /// A record of `callbridge journal export --form envelopes` or, with `payload`, of `kcat -J`.
    headers: Option<RecordHeaders>,
    value: Option<String>,
    value_base64: Option<String>,
    payload: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RecordHeaders {
    Named(BTreeMap<String, Option<String>>),
    /// Alternating names and values.
    InTurn(Vec<Option<String>>),
}

/// The callbacks of a file; `command` is the command of bodies without one.
///
/// # Errors
///
/// The file cannot be read, has no callback, or has an invalid line.
pub(super) fn read(path: &Path, command: Option<&str>) -> Result<Vec<CallbackBody>, String> {
    let bytes = if super::is_stream(path) {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_read| bytes)
    } else {
        fs::read(path)
    };
    let bytes = bytes.map_err(|error| error.to_string())?;
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
    let callbacks = lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| callback(line, command).map_err(|why| format!("line {}: {why}", index + 1)));
    let callbacks = callbacks.collect::<Result<Vec<_>, _>>()?;
    if callbacks.is_empty() { Err("holds no callback".to_owned()) } else { Ok(callbacks) }
}

fn callback(line: &[u8], command: Option<&str>) -> Result<CallbackBody, String> {
    let read: ReplayLine<'_> = serde_json::from_slice(line).unwrap_or_default();
    if read.command.is_some() {
        return body(line, read.command.as_deref());
    }
    if let Some(query) = &read.query {
        let query = Query::parse(query).map_err(|error| error.to_string())?;
        let bytes = bytes(read.body, read.body_base64)?.unwrap_or_default();
        return body(&bytes, query.command.as_deref().or(command));
    }
    if let Some(value) = bytes(read.value.or(read.payload), read.value_base64)? {
        let headers = read.headers.as_ref();
        return match headers.and_then(|headers| headers.get(COMMAND_HEADER)) {
            Some(command) => body(&value, Some(command)),
            None => event(&value, headers.and_then(|headers| headers.get(TYPE_HEADER)).or(command)),
        };
    }
    event(line, command)
}

/// An event, its data, or otherwise a body.
fn event(line: &[u8], command: Option<&str>) -> Result<CallbackBody, String> {
    let read: ReplayLine<'_> = serde_json::from_slice(line).unwrap_or_default();
    let data: ReplayLine<'_> =
        read.data.map(|data| serde_json::from_str(data.get()).unwrap_or_default()).unwrap_or_default();
    let Some(callback) = data.callback.or(read.callback) else {
        return body(line, read.command.as_deref().or(command));
    };
    let of_body: ReplayLine<'_> = serde_json::from_str(callback.get()).unwrap_or_default();
    body(callback.get().as_bytes(), read.kind.or(of_body.command).as_deref().or(command))
}

fn body(body: &[u8], command: Option<&str>) -> Result<CallbackBody, String> {
    let command = command.ok_or("does not name its command: give --command")?;
    // It is inserted into a query unchanged.
    let is_word = |byte: u8| byte.is_ascii_graphic() && !b"&#%+?=\"<>".contains(&byte);
    if command.is_empty() || !command.bytes().all(is_word) {
        return Err(format!("{command:?} cannot be a command"));
    }
    Ok(CallbackBody { command: command.to_owned(), body: body.to_vec() })
}

fn bytes(text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match base64 {
        Some(base64) => BASE64_STANDARD.decode(base64).map(Some).map_err(|error| format!("base64: {error}")),
        None => Ok(text.map(String::into_bytes)),
    }
}

impl RecordHeaders {
    fn get(&self, name: &str) -> Option<&str> {
        match self {
            Self::Named(headers) => headers.get(name)?.as_deref(),
            // The last one: earlier ones may be in what the sender wrote.
            Self::InTurn(words) => {
                let mut pairs = words.as_chunks::<2>().0.iter().rev();
                pairs.find(|[found, _]| found.as_deref() == Some(name)).and_then(|[_, value]| value.as_deref())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str, command: Option<&str>) -> Result<(String, String), String> {
        let callback = callback(line.as_bytes(), command)?;
        Ok((callback.command, String::from_utf8(callback.body).unwrap()))
    }

    #[test]
    fn reads_every_form_that_a_callback_is_printed_in() {
        let named = r#"{"CallbackCommand":"A.B", "x": 1}"#;
        let unnamed = r#"{"Events":[{"y": 2}]}"#;
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let event = format!(r#"{{"specversion":"1.0","type":"A.B","data":{{"event":{{}},"callback":{named}}}}}"#);
        let data = format!(r#"{{"callback":{unnamed}}}"#);
        let cases = [
            (named.to_owned(), None, named),
            (unnamed.to_owned(), Some("A.B"), unnamed),
            ("not json".to_owned(), Some("A.B"), "not json"),
            (event.clone(), None, named),
            (format!(r#"{{"callback":{named}}}"#), None, named),
            (data.clone(), Some("A.B"), unnamed),
            (
                format!(r#"{{"seq":1,"query":"SdkAppid=1&CallbackCommand=A.B&Sign=0","body":{}}}"#, quoted(unnamed)),
                None,
                unnamed,
            ),
            (r#"{"seq":1,"query":"CallbackCommand=A.B","body_base64":"bm90IGpzb24="}"#.to_owned(), None, "not json"),
            (
                format!(r#"{{"topic":"t","key":null,"headers":{{"ce_type":"A.B"}},"value":{}}}"#, quoted(&event)),
                None,
                named,
            ),
            (format!(r#"{{"topic":"t","headers":["ce_type","A.B"],"payload":{}}}"#, quoted(&data)), None, unnamed),
            (
                format!(r#"{{"topic":"t","headers":{{"callbridge-command":"A.B"}},"value":{}}}"#, quoted("not json")),
                None,
                "not json",
            ),
            (
                format!(
                    r#"{{"headers":["callbridge-command","C.D","x",null,"callbridge-command","A.B"],"payload":{}}}"#,
                    quoted(&event)
                ),
                None,
                &event,
            ),
        ];
        for (line, command, expected) in cases {
            assert_eq!(read_line(&line, command), Ok(("A.B".to_owned(), expected.to_owned())), "{line}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_line() {
        for (line, command, expected) in [
            (r#"{"x":1}"#, None, "does not name its command: give --command"),
            ("not json", None, "does not name its command: give --command"),
            ("{}", Some("A&Sign=1"), r#""A&Sign=1" cannot be a command"#),
            (r#"{"CallbackCommand":""}"#, None, r#""" cannot be a command"#),
            (
                r#"{"query":"CallbackCommand=A&callbackcommand=B"}"#,
                None,
                "CallbackCommand is given more than once in the query",
            ),
        ] {
            assert_eq!(read_line(line, command), Err(expected.to_owned()), "{line}");
        }
    }
}
