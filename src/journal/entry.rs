//! One capture in the journal: as the queue has it, and as the publisher reads it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::capture::Capture;
use crate::ledger::Ledger;
use crate::record::Topic;
use crate::refusal::Refusal;

use super::log::Seq;
use super::log::cursor::FramePosition;

/// Tells a request what became of its capture: it is as safe as the mode promises, or is refused.
#[derive(Debug)]
pub(super) struct AckSender {
    pub(super) sender: oneshot::Sender<Result<(), Refusal>>,
    /// Says of a request that is gone why: it has stopped waiting, and counts its callback as lost. If not, its sender has broken it off, and
    /// what becomes of the capture counts.
    pub(super) is_given_up: Arc<AtomicBool>,
}

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
    /// Tells the request what became of it, if one waits for that.
    pub(super) ack: Option<AckSender>,
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
    /// Tells the request that its capture is safe, if it waits for that. Returns false if it has given up.
    pub(super) fn acknowledge(&mut self) -> bool {
        self.ack.take().is_none_or(|ack| ack.send(Ok(())))
    }

    /// Whether the request has given up.
    pub(super) fn is_given_up(&self) -> bool {
        self.ack.as_ref().is_some_and(AckSender::is_given_up)
    }

    /// Ends it without Kafka: its callback is lost, and its request refused. One that has given up has counted that itself.
    pub(super) fn lose(self, refusal: Refusal, ledger: &Ledger) {
        let reason = refusal.reason();
        let is_ours_to_count = self.ack.is_none_or(|ack| ack.send(Err(refusal)));
        if self.ledger_state == LedgerState::Counted && is_ours_to_count {
            ledger.lose_queued(reason);
        }
    }
}

impl AckSender {
    /// Returns false if the request has given up.
    fn send(self, outcome: Result<(), Refusal>) -> bool {
        self.sender.send(outcome).is_ok() || !self.is_given_up.load(Ordering::Acquire)
    }

    /// Whether the request has given up, and nothing can reach it any more.
    fn is_given_up(&self) -> bool {
        self.sender.is_closed() && self.is_given_up.load(Ordering::Acquire)
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
