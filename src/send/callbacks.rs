//! The callbacks to send: samples of every command, each time as another event, or the bodies of the caller.

use std::io;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::auth::Tokens;
use crate::clock;
use crate::command::CommandSet;

use super::destination::Destination;

/// A body of every command, with what tests expect of it.
const SAMPLES: &str = include_str!("samples.json");

/// The placeholder in a template where a number or a text of the same length is written each time. It occurs in no sample.
const MILLIS: &str = "7777777777771";
const SECONDS: &str = "7777777772";
const SERIAL: &str = "777777773";
const KEY: &str = "<k>";
/// The first serial number. All have as many digits as [`SERIAL`].
const SERIAL_FIRST: u64 = 100_000_000;
const SERIALS: u64 = 900_000_000;
/// In milliseconds; smaller times are in seconds.
const MILLIS_MIN: u64 = 100_000_000_000;

/// A command and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackBody {
    /// The `CallbackCommand` of the query.
    pub command: String,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Deserialize)]
struct Sample<'a> {
    command: &'a str,
    #[serde(borrow)]
    callback: &'a RawValue,
}

/// All requests to send, in rotation.
#[derive(Debug)]
pub struct Requests {
    templates: Vec<RequestTemplate>,
    tokens: Option<Tokens>,
    /// The time of the first event. Each later one is a millisecond later, so that no two callbacks are the same.
    first_millis: u64,
}

/// A request without its signature and its varying parts.
#[derive(Debug)]
struct RequestTemplate {
    /// Up to the signature.
    before: Vec<u8>,
    after: Vec<u8>,
    /// The positions in `after` of the varying parts.
    holes: Vec<(usize, Hole)>,
}

#[derive(Debug, Clone, Copy)]
enum Hole {
    Millis,
    Seconds,
    Serial,
    Key,
}

/// A signature as in the query, and its second.
#[derive(Debug, Default)]
pub(super) struct Signature {
    second: u64,
    query: String,
}

/// A sample of each command, to be varied each time.
///
/// # Errors
///
/// The samples are invalid, which tests rule out.
pub fn samples(commands: &CommandSet) -> io::Result<Vec<CallbackBody>> {
    let all: Vec<Sample<'_>> = serde_json::from_str(SAMPLES)?;
    let sample_of = |name: &str| {
        let mut of_command = all.iter().filter(|sample| sample.command == name);
        let first = of_command.clone().next();
        of_command.find(|sample| sample.callback.get().contains("\"EventTime\"")).or(first)
    };
    let samples = commands.iter().filter_map(|command| sample_of(command.name()));
    samples.map(|sample| varied(sample.command, sample.callback.get())).collect()
}

/// A callback whose body is another event each time: with another time, other message numbers, and an account or group for each connection.
/// Users stay the same, since decisions depend on them.
///
/// # Errors
///
/// The body is not JSON.
pub fn varied(command: &str, body: &str) -> io::Result<CallbackBody> {
    let mut body: Value = serde_json::from_str(body)?;
    vary("", &mut body);
    if let Some(body) = body.as_object_mut() {
        // Where Tencent's pages have no time, events would otherwise be equal.
        body.entry("EventTime").or_insert_with(|| number(MILLIS));
    }
    Ok(CallbackBody { command: command.to_owned(), body: serde_json::to_vec(&body)? })
}

/// Inserts placeholders for the varying parts.
fn vary(name: &str, value: &mut Value) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| vary(name, value)),
        Value::Array(elements) => elements.iter_mut().for_each(|element| vary(name, element)),
        Value::Number(old) => match name {
            "EventTime" if old.as_u64() >= Some(MILLIS_MIN) => *value = number(MILLIS),
            "EventTime" | "MsgTime" | "LastReadTime" | "TaskTime" => *value = number(SECONDS),
            "MsgSeq" => *value = number(SERIAL),
            _ => {}
        },
        Value::String(text) => match name {
            "EventTime" => MILLIS.clone_into(text),
            "MsgKey" => *text = format!("{SERIAL}_2837546123_{SECONDS}"),
            "PushID" | "TaskId" => *text = format!("{text}_{SERIAL}"),
            "Official_Account" | "GroupId" => *text = format!("{text}_{KEY}"),
            _ => {}
        },
        Value::Null | Value::Bool(_) => {}
    }
}

fn number(digits: &str) -> Value {
    digits.parse::<u64>().map(Value::from).unwrap_or_default()
}

impl Requests {
    /// Requests to `destination`, signed with the first of `tokens` if there are any. If `is_varied`, the bodies are from [`varied`];
    /// otherwise they are sent unchanged.
    pub fn new(
        destination: &Destination,
        app_id: u64,
        tokens: Option<Tokens>,
        callbacks: &[CallbackBody],
        is_varied: bool,
    ) -> Self {
        let template = |callback: &CallbackBody| RequestTemplate::new(destination, app_id, callback, is_varied);
        let first_millis = clock::wall().0.unsigned_abs();
        Self { templates: callbacks.iter().map(template).collect(), tokens, first_millis }
    }

    /// Writes one request for the connection with this number.
    pub(super) fn write(&self, number: u64, connection: usize, signature: &mut Signature, request: &mut Vec<u8>) {
        request.clear();
        let turn = usize::try_from(number).unwrap_or_default() % self.templates.len().max(1);
        let Some(template) = self.templates.get(turn) else { return };
        request.extend_from_slice(&template.before);
        if let Some(tokens) = &self.tokens {
            signature.renew(tokens);
            request.extend_from_slice(signature.query.as_bytes());
        }
        let start = request.len();
        request.extend_from_slice(&template.after);
        for (at, hole) in &template.holes {
            let (digits, value) = match hole {
                Hole::Millis => (MILLIS.len(), self.first_millis + number),
                Hole::Seconds => (SECONDS.len(), (self.first_millis + number) / 1000),
                Hole::Serial => (SERIAL.len(), SERIAL_FIRST + number % SERIALS),
                Hole::Key => (KEY.len(), connection as u64),
            };
            write_digits(request.get_mut(start + at..start + at + digits).unwrap_or_default(), value);
        }
    }

    /// The first request of the connection with this number.
    pub fn first(&self, connection: usize) -> Vec<u8> {
        let mut request = Vec::new();
        self.write(connection as u64, connection, &mut Signature::default(), &mut request);
        request
    }
}

impl RequestTemplate {
    fn new(destination: &Destination, app_id: u64, callback: &CallbackBody, is_varied: bool) -> Self {
        let CallbackBody { command, body } = callback;
        let (target, host) = (destination.target(), destination.host());
        let before = format!(
            "POST {target}SdkAppid={app_id}&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
        );
        let length = body.len();
        let head =
            format!(" HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        let after = [head.as_bytes(), body].concat();
        let kinds = [(MILLIS, Hole::Millis), (SECONDS, Hole::Seconds), (SERIAL, Hole::Serial), (KEY, Hole::Key)];
        let kinds = if is_varied { &kinds[..] } else { &[] };
        let holes = kinds.iter().flat_map(|(mark, hole)| {
            memchr::memmem::find_iter(&after, mark.as_bytes()).map(|at| (at, *hole)).collect::<Vec<_>>()
        });
        Self { before: before.into_bytes(), holes: holes.collect(), after }
    }
}

impl Signature {
    /// Makes a new signature once a second, as Tencent does for each callback.
    fn renew(&mut self, tokens: &Tokens) {
        let second = clock::wall().0.unsigned_abs() / 1000;
        if self.second != second {
            self.second = second;
            let sign = tokens.signature(&second.to_string()).unwrap_or_default();
            self.query = format!("&Sign={sign}&RequestTime={second}");
        }
    }
}

/// Writes the last digits of a number.
fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789".get((number % 10) as usize).copied().unwrap_or(b'0');
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use crate::command::Command;

    use super::*;

    fn bodies(requests: &Requests, count: u64) -> Vec<Value> {
        let body = |number| {
            let mut request = Vec::new();
            requests.write(number, 7, &mut Signature::default(), &mut request);
            let at = memchr::memmem::find(&request, b"\r\n\r\n").unwrap();
            serde_json::from_slice(&request[at + 4..]).unwrap()
        };
        (0..count).map(body).collect()
    }

    #[test]
    fn every_command_has_a_sample_and_no_two_callbacks_are_the_same() {
        let samples = samples(&CommandSet::ALL).unwrap();
        let commands: BTreeSet<&str> = samples.iter().map(|sample| sample.command.as_str()).collect();
        assert_eq!((samples.len(), commands.len()), (Command::COUNT, Command::COUNT));
        for sample in &samples {
            let destination = Destination::of_address((Ipv4Addr::LOCALHOST, 1).into());
            let requests = Requests::new(&destination, 1, None, std::slice::from_ref(sample), true);
            let bodies = bodies(&requests, 3);
            assert!(bodies[0] != bodies[1] && bodies[1] != bodies[2] && bodies[0] != bodies[2], "{}", sample.command);
            let text = bodies[2].to_string();
            for mark in [MILLIS, SECONDS, SERIAL, KEY] {
                assert!(!text.contains(mark), "{text}");
            }
            assert_eq!(
                text.contains("_007"),
                ["\"Official_Account\"", "\"GroupId\""].iter().any(|name| text.contains(name)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_varied_is_sent_byte_for_byte() {
        let callback = CallbackBody { command: "A.B".to_owned(), body: format!("[{MILLIS}, \"{KEY}\" ]").into_bytes() };
        let destination = Destination::of_address((Ipv4Addr::LOCALHOST, 1).into());
        let requests = Requests::new(&destination, 14, None, std::slice::from_ref(&callback), false);
        let request = String::from_utf8(requests.first(0)).unwrap();
        let expected = "POST /?SdkAppid=14&CallbackCommand=A.B&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI HTTP/1.1\r\n\
                        host: 127.0.0.1:1\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n[7777777777771, \"<k>\" ]";
        assert_eq!(request, expected.replace("22", &callback.body.len().to_string()));
    }
}
