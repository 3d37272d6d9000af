//! What the journal keeps of a callback: the raw request, and its outcome.

use std::net::SocketAddr;

use crate::auth::VerifiedApp;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::decide::Decision;
use crate::refusal::Reason;

/// A raw callback: an error in a normaliser can be fixed in the next version, and costs no event.
#[derive(Debug)]
pub struct Capture {
    /// When its head had been read.
    pub received: UnixMillis,
    /// The other end of the connection: Tencent, or a proxy.
    pub peer: SocketAddr,
    /// The application that it was sent for.
    pub app: VerifiedApp,
    /// The command, if it is in the table.
    pub command: Option<Command>,
    /// The query and the body.
    pub raw: Raw,
    /// The outcome at intake.
    pub outcome: CaptureOutcome,
}

/// The query and the body of a callback in one allocation: each is allocated by one thread and freed by another.
#[derive(Debug)]
pub struct Raw {
    bytes: Vec<u8>,
    query_bytes: usize,
}

impl Raw {
    /// A callback with this query, whose body is expected to have `body_bytes`.
    pub fn begin(query: &str, body_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(query.len() + body_bytes);
        bytes.extend_from_slice(query.as_bytes());
        Self { bytes, query_bytes: query.len() }
    }

    /// Appends a part of the body.
    pub fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// Ends the body, and releases memory that was reserved and not used.
    #[must_use]
    pub fn end(mut self) -> Self {
        self.bytes.shrink_to_fit();
        self
    }

    /// A callback from its stored bytes: the query, which has `query_bytes`, and the body. `None` if the query is not UTF-8.
    pub fn restore(bytes: Vec<u8>, query_bytes: usize) -> Option<Self> {
        str::from_utf8(bytes.get(..query_bytes)?).ok()?;
        Some(Self { bytes, query_bytes })
    }

    /// The query followed by the body.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length of the query.
    pub const fn query_bytes(&self) -> usize {
        self.query_bytes
    }

    /// The query, as it is in the URL.
    pub fn query(&self) -> &str {
        let query = self.bytes.get(..self.query_bytes).unwrap_or_default();
        // It was checked when it was stored.
        str::from_utf8(query).unwrap_or_default()
    }

    /// The body, byte for byte.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.query_bytes..).unwrap_or_default()
    }
}

/// The outcome of a callback at intake.
#[derive(Debug)]
pub enum CaptureOutcome {
    /// The callback was accepted without a decision: an after-callback, or a before-callback of an unknown command.
    Happened,
    /// A before-callback was answered with this decision.
    Decided(Decision),
    /// The callback was refused; its raw bytes go to the dead-letter topic.
    Refused {
        /// The reason.
        reason: Reason,
        /// The text of the refusal.
        detail: Box<str>,
    },
}

impl Capture {
    /// What a capture costs beside its texts: its structs, in memory and in the Kafka client.
    pub const OVERHEAD_BYTES: usize = 512;

    /// The memory that it takes, for the bounds of queues; in the journal it takes less.
    pub fn cost_bytes(&self) -> usize {
        let outcome = match &self.outcome {
            CaptureOutcome::Happened => 0,
            CaptureOutcome::Decided(decision) => {
                let rules = decision.rules.iter().flat_map(|decisive| [&*decisive.rule, &*decisive.source]);
                decision.refused.iter().map(|user| &**user).chain(rules).map(text_cost).sum()
            }
            CaptureOutcome::Refused { detail, .. } => text_cost(detail),
        };
        self.raw.bytes.len() + outcome + Self::OVERHEAD_BYTES
    }
}

/// The most that a text costs: as a string with the allocator's overhead, or as escaped JSON.
fn text_cost(text: &str) -> usize {
    const STRING_BYTES: usize = 32;
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    STRING_BYTES + escaped.sum::<usize>()
}
