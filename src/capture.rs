//! What the journal keeps of a callback: everything that came, and what was answered.

use std::net::SocketAddr;

use crate::auth::VerifiedApp;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::decide::Decision;
use crate::refusal::Reason;

/// A callback as it came, raw, so that a fault in a normal form can be mended by the next version and never costs an event.
#[derive(Debug)]
pub struct Capture {
    /// When its head had been read.
    pub received: UnixMillis,
    /// The other end of the connection: Tencent, or a proxy.
    pub peer: SocketAddr,
    /// The application it was sent for.
    pub app: VerifiedApp,
    /// The command, if it is of the table.
    pub command: Option<Command>,
    /// What was sent.
    pub raw: Raw,
    /// What became of it.
    pub outcome: CaptureOutcome,
}

/// A callback's query and body as they came, in one piece of memory: it is made by one thread and freed by another for each callback.
#[derive(Debug)]
pub struct Raw {
    bytes: Vec<u8>,
    query_bytes: usize,
}

impl Raw {
    /// A callback with this query whose body is yet to come, and expected to have so many bytes.
    pub fn begin(query: &str, body_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(query.len() + body_bytes);
        bytes.extend_from_slice(query.as_bytes());
        Self { bytes, query_bytes: query.len() }
    }

    /// The next part of the body came.
    pub fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// The body has come. Gives back what was expected and did not come.
    #[must_use]
    pub fn end(mut self) -> Self {
        self.bytes.shrink_to_fit();
        self
    }

    /// A callback that was kept as these bytes: the query, of so many bytes, and the body. `None` if the query is not text.
    pub fn restore(bytes: Vec<u8>, query_bytes: usize) -> Option<Self> {
        str::from_utf8(bytes.get(..query_bytes)?).ok()?;
        Some(Self { bytes, query_bytes })
    }

    /// The query and the body, as one.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many of them are the query's.
    pub const fn query_bytes(&self) -> usize {
        self.query_bytes
    }

    /// The query, as it stood in the URL.
    pub fn query(&self) -> &str {
        let query = self.bytes.get(..self.query_bytes).unwrap_or_default();
        // It was text when it came.
        str::from_utf8(query).unwrap_or_default()
    }

    /// The body, byte for byte.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.query_bytes..).unwrap_or_default()
    }
}

/// What became of a callback at intake.
#[derive(Debug)]
pub enum CaptureOutcome {
    /// It told what happened, and was taken.
    Happened,
    /// It asked, and this was answered.
    Decided(Decision),
    /// It was refused; the raw bytes are kept in quarantine.
    Refused {
        /// Why, as a word of a closed list.
        reason: Reason,
        /// Why, in full.
        detail: Box<str>,
    },
}

impl Capture {
    /// What a capture costs beside its texts: the structs around it, in memory and in Kafka's client.
    pub const OVERHEAD_BYTES: usize = 512;

    /// The memory it takes, for the bounds of queues; in the journal it takes less.
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

/// The most that a text costs: as a string in memory, with what the allocator adds, or as one of JSON, with its escapes.
fn text_cost(text: &str) -> usize {
    const STRING_BYTES: usize = 32;
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    STRING_BYTES + escaped.sum::<usize>()
}
