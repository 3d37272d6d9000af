//! The callbacks that the load is made of.

use std::net::SocketAddr;

use clap::ValueEnum;

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
}

impl Request {
    /// The request of connection `number`: each has an account of its own, so that the records spread over partitions.
    pub(crate) fn new(command: Command, server: SocketAddr, number: usize) -> Self {
        let command = command.name();
        let before_time = format!(
            "{{\"CallbackCommand\":\"{command}\",\"Official_Account\":\"@TOA#_bench_{number:03}\",\
             \"Operator_Account\":\"107867\",\"SubscribeAccountList\":[{{\"Subscriber_Account\":\"jared\"}},\
             {{\"Subscriber_Account\":\"leckie\"}},{{\"Subscriber_Account\":\"subscriber-000107\"}},\
             {{\"Subscriber_Account\":\"subscriber-000108\"}}],\"EventTime\":"
        );
        let length = before_time.len() + TIME_DIGITS + "}".len();
        let head = format!(
            "POST /?SdkAppid=1400000000&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI \
             HTTP/1.1\r\nhost: {server}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let time_at = head.len() + before_time.len();
        let bytes = format!("{head}{before_time}{TIME_FIRST}}}").into_bytes();
        Self { bytes, time_at, time: TIME_FIRST }
    }

    /// The bytes of the next request.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.time += 1;
        let mut rest = self.time;
        for digit in self.bytes.iter_mut().skip(self.time_at).take(TIME_DIGITS).rev() {
            *digit = b"0123456789".get((rest % 10) as usize).copied().unwrap_or(b'0');
            rest /= 10;
        }
        &self.bytes
    }
}
