//! The callbacks that the load is made of.

use std::fmt::Write;
use std::net::SocketAddr;

use callbridge::clock;
use clap::ValueEnum;
use sha2::Digest;
use sha2::Sha256;

use crate::slow::Trickle;

/// What signs the callbacks of the load, where they are signed.
pub(crate) const TOKEN: &str = "the-token-of-the-benchmark";

/// A signature before it is made: of the token and the time in seconds, as Tencent does it.
const SIGNATURE: &str = "&Sign=0000000000000000000000000000000000000000000000000000000000000000&RequestTime=0000000000";

/// Digits of an event's time in milliseconds.
const TIME_DIGITS: usize = 13;

/// The first event's time; each later one is a millisecond on, so that no connection sends the same callback twice.
const TIME_FIRST: u64 = 1_700_000_000_000;

/// Which of the commands is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Command {
    /// Tells of a subscription.
    After,
    /// Asks for one.
    Before,
}

impl Command {
    /// Its name on the command line.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Before => "before",
        }
    }

    /// The `CallbackCommand`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::After => "OfficialAccount.CallbackAfterAddSubscriber",
            Self::Before => "OfficialAccount.CallbackBeforeAddSubscriber",
        }
    }
}

/// One connection's request, whole, as bytes. Made once; only the event's time changes.
pub(crate) struct Request {
    bytes: Vec<u8>,
    time_at: usize,
    time: u64,
    signature: Option<Signature>,
}

/// Where the signature is, and of which second.
struct Signature {
    at: usize,
    second: i64,
}

impl Request {
    /// The request of connection `number`: each has an account of its own, so that the records spread over partitions.
    pub(crate) fn new(command: Command, server: SocketAddr, number: usize, is_signed: bool) -> Self {
        let command = command.name();
        let before_time = format!(
            "{{\"CallbackCommand\":\"{command}\",\"Official_Account\":\"@TOA#_bench_{number:03}\",\
             \"Operator_Account\":\"107867\",\"SubscribeAccountList\":[{{\"Subscriber_Account\":\"jared\"}},\
             {{\"Subscriber_Account\":\"leckie\"}},{{\"Subscriber_Account\":\"subscriber-000107\"}},\
             {{\"Subscriber_Account\":\"subscriber-000108\"}}],\"EventTime\":"
        );
        let length = before_time.len() + TIME_DIGITS + "}".len();
        let line = format!(
            "POST /?SdkAppid=1400000000&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
        );
        let signature = if is_signed { SIGNATURE } else { "" };
        let head = format!(
            "{line}{signature} HTTP/1.1\r\nhost: {server}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let signature = is_signed.then_some(Signature { at: line.len(), second: 0 });
        let time_at = head.len() + before_time.len();
        let bytes = format!("{head}{before_time}{TIME_FIRST}}}").into_bytes();
        Self { bytes, time_at, time: TIME_FIRST, signature }
    }

    /// The same as somebody slow sends it: of the head only the beginning at once, or all of it.
    pub(crate) fn trickle(mut self, of_head: bool) -> Trickle {
        let head_bytes = self.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_default();
        if of_head {
            // One that never ends.
            self.bytes.truncate(head_bytes);
            self.bytes.extend_from_slice(b"\r\nx-slow: ");
            return Trickle { at_once: self.bytes, slowly: b"x".to_vec() };
        }
        let slowly = self.bytes.split_off(head_bytes + 4);
        Trickle { at_once: self.bytes, slowly }
    }

    /// The bytes of the next request.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.sign();
        self.time += 1;
        let mut rest = self.time;
        for digit in self.bytes.iter_mut().skip(self.time_at).take(TIME_DIGITS).rev() {
            *digit = b"0123456789".get((rest % 10) as usize).copied().unwrap_or(b'0');
            rest /= 10;
        }
        &self.bytes
    }

    /// Signs it anew, once a second.
    fn sign(&mut self) {
        let Some(signature) = &mut self.signature else { return };
        let second = clock::wall().0 / 1000;
        if signature.second == second {
            return;
        }
        signature.second = second;
        let mut signed = String::from("&Sign=");
        for byte in Sha256::digest(format!("{TOKEN}{second}")) {
            // Writing to a string never fails.
            let _ = write!(signed, "{byte:02x}");
        }
        let _ = write!(signed, "&RequestTime={second}");
        for (to, from) in self.bytes.iter_mut().skip(signature.at).zip(signed.bytes()) {
            *to = from;
        }
    }
}
