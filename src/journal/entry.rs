//! One capture in the journal: as the queue has it, and as the publisher reads it.

use crate::capture::Capture;
use crate::record::Topic;

use super::log::Seq;
use super::log::cursor::FramePosition;
use super::promise::Promise;

/// A capture in the queue.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Behind a pointer, as an entry is moved half a dozen times.
    pub(crate) capture: Box<Capture>,
    /// What it costs. Here, because whoever settles it has no other reason to look at the capture.
    pub(crate) cost_bytes: usize,
    /// Its key in the log, where there is one.
    pub(super) key: u32,
    /// Whose share of the room it takes, if a topic's.
    pub(super) topic: Option<Topic>,
    pub(super) ledger_state: LedgerState,
    pub(super) promise: Option<Promise>,
    /// What its record takes, in bytes, once it is written to the log.
    pub(super) record_bytes: u32,
}

/// What the ledger makes of an entry's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LedgerState {
    /// It waits to be delivered.
    Counted,
    /// It was refused, and that is counted already.
    Uncounted,
}

/// A capture that is not delivered, as the publisher reads it.
#[derive(Debug)]
pub(crate) struct Undelivered<'c> {
    pub(crate) capture: &'c Capture,
    pub(crate) ticket: Ticket,
    /// Whose share of the room it takes, if a topic's.
    pub(crate) share: Option<Topic>,
}

/// What it takes to read a capture again, and to settle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) position: Position,
    pub(super) ledger_state: LedgerState,
    /// What its record takes, in bytes, if it is on disk.
    pub(super) record_bytes: u32,
    /// Whose share of the log it takes, if it is on disk.
    pub(super) share: Option<Share>,
}

/// Whose share of the log a capture takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// That of the topic that its key names; none if this configuration has none for it.
    pub(super) topic: Option<Topic>,
    /// Its dead-letter topic, whose share it takes once it is marked.
    pub(super) dead_letters: Topic,
}

/// Where a capture can be read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its number.
    pub(crate) seq: Seq,
    /// Its frame, if it is on disk.
    pub(super) place: FramePosition,
}

impl Entry {
    pub(super) fn new(capture: Box<Capture>, ledger_state: LedgerState, promise: Option<Promise>) -> Self {
        let cost_bytes = capture.cost_bytes();
        Self { capture, cost_bytes, key: 0, topic: None, ledger_state, promise, record_bytes: 0 }
    }
}

#[cfg(test)]
impl Ticket {
    /// One of a capture with this number.
    pub(crate) fn numbered(seq: Seq) -> Self {
        let position = Position { seq, ..Position::default() };
        Self { position, ledger_state: LedgerState::Counted, record_bytes: 0, share: None }
    }
}
