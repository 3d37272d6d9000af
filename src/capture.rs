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
    /// The query, as it stood in the URL.
    pub query: Box<str>,
    /// The body, byte for byte.
    pub body: Box<[u8]>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a callback at intake.
#[derive(Debug)]
pub enum Outcome {
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
    /// What a capture costs beside its query and body: the structs around it, in memory and in Kafka's client.
    pub const OVERHEAD_BYTES: usize = 512;

    /// The memory it takes, for the bounds of queues.
    pub fn cost_bytes(&self) -> usize {
        self.query.len() + self.body.len() + Self::OVERHEAD_BYTES
    }
}
