//! One capture in the journal: in the queue, and as the publisher reads it.

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

/// Sends a request the outcome of its capture: acknowledged or refused.
#[derive(Debug)]
pub(super) struct AckSender {
    pub(super) sender: oneshot::Sender<Result<(), Refusal>>,
    /// The request timed out, and its callback was counted as lost. If this is unset and the channel is closed, the sender has
    /// disconnected, and the outcome of the capture counts.
    pub(super) has_timed_out: Arc<AtomicBool>,
}

/// A capture in the queue.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Boxed: an entry is moved several times.
    pub(crate) capture: Box<Capture>,
    /// Its [`Capture::cost_bytes`], kept here because settling needs nothing else of the capture.
    pub(crate) cost_bytes: usize,
    /// Its key in the log, if there is a log.
    pub(super) kind_key: u32,
    /// The topic whose share it takes, if any.
    pub(super) share_topic: Option<Topic>,
    pub(super) ledger_state: LedgerState,
    /// The request that waits for the outcome, if any.
    pub(super) ack: Option<AckSender>,
    /// The bytes of its item in the log, once it is written to the log.
    pub(super) stored_bytes: u32,
}

/// Whether the ledger still expects the outcome of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LedgerState {
    /// It is counted as waiting.
    Counted,
    /// Its callback was refused, which is counted already.
    Uncounted,
}

/// An undelivered capture, as the publisher reads it.
#[derive(Debug)]
pub(crate) struct Undelivered<'c> {
    pub(crate) capture: &'c Capture,
    pub(crate) ticket: Ticket,
    /// The topic whose share it takes, if any.
    pub(crate) share_topic: Option<Topic>,
}

/// What is needed to read a capture again, and to settle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) position: Position,
    pub(super) ledger_state: LedgerState,
    /// The bytes of its item in the log, if it is on disk.
    pub(super) stored_bytes: u32,
    /// Its share of the log, if it is on disk.
    pub(super) share: Option<Share>,
}

/// The share of the log that a capture takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The topic of its key; `None` if this configuration has none for it.
    pub(super) topic: Option<Topic>,
    /// Its dead-letter topic, whose share it takes once it is counted as a dead letter.
    pub(super) dead_letters: Topic,
}

/// Where a capture can be read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its sequence number.
    pub(crate) seq: Seq,
    /// The position of its frame, if it is on disk.
    pub(super) place: FramePosition,
}

impl Entry {
    /// Acknowledges the capture to its request, if one waits. Returns false if the request has timed out.
    pub(super) fn acknowledge(&mut self) -> bool {
        self.ack.take().is_none_or(|ack| ack.send(Ok(())))
    }

    /// Whether the request has timed out.
    pub(super) fn has_timed_out(&self) -> bool {
        self.ack.as_ref().is_some_and(AckSender::has_timed_out)
    }

    /// Ends the entry without delivery: its request is refused, and its callback is lost. A request that has timed out has counted that
    /// itself.
    pub(super) fn lose(self, refusal: Refusal, ledger: &Ledger) {
        let reason = refusal.reason();
        let is_ours_to_count = self.ack.is_none_or(|ack| ack.send(Err(refusal)));
        if self.ledger_state == LedgerState::Counted && is_ours_to_count {
            ledger.lose_queued(reason);
        }
    }
}

impl AckSender {
    /// Returns false if the request has timed out.
    fn send(self, outcome: Result<(), Refusal>) -> bool {
        self.sender.send(outcome).is_ok() || !self.has_timed_out.load(Ordering::Acquire)
    }

    /// Whether the request has timed out, so that no outcome can reach it.
    fn has_timed_out(&self) -> bool {
        self.sender.is_closed() && self.has_timed_out.load(Ordering::Acquire)
    }
}

#[cfg(test)]
impl Ticket {
    /// A ticket with this sequence number.
    pub(crate) fn numbered(seq: Seq) -> Self {
        let position = Position { seq, ..Position::default() };
        Self { position, ledger_state: LedgerState::Counted, stored_bytes: 0, share: None }
    }
}
