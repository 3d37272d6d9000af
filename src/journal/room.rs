//! The room that captures take: in the queue, and in the log until they are delivered.

use crate::record::Topic;
use crate::share::NoRoom;
use crate::share::SharedRoom;

use super::Bounds;

/// The room that one or more captures take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Captures in the queue.
    pub(super) captures: usize,
    /// Bytes in the queue.
    pub(super) bytes: usize,
    /// Bytes of their items in the log, or their upper bound before they are written.
    pub(super) log_bytes: usize,
}

impl Held {
    /// The room of a capture in the queue: its cost, which is also the upper bound in the log.
    pub(super) const fn queued(cost_bytes: usize) -> Self {
        Self { captures: 1, bytes: cost_bytes, log_bytes: cost_bytes }
    }

    /// The room of items of so many bytes in the log.
    pub(super) const fn stored(log_bytes: usize) -> Self {
        Self { captures: 0, bytes: 0, log_bytes }
    }
}

/// What has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The whole queue.
    Queue,
    /// The whole log.
    Log,
    /// The share of the topic.
    Topic(Topic),
}

/// The room in the queue and, with a journal on disk, in the log. Topics have shares of whichever holds captures until they are delivered:
/// the log if there is one, else the queue.
#[derive(Debug)]
pub(super) struct Room {
    captures: SharedRoom,
    bytes: SharedRoom,
    log: Option<SharedRoom>,
}

impl Room {
    /// Empty room. `log_bytes_max`: how many bytes may be undelivered in the log.
    pub(super) fn new(bounds: &Bounds, log_bytes_max: Option<usize>, topics: usize) -> Self {
        let topics_of_queue = if log_bytes_max.is_some() { 0 } else { topics };
        Self {
            captures: SharedRoom::new(bounds.captures_max, topics_of_queue),
            bytes: SharedRoom::new(bounds.bytes_max, topics_of_queue),
            log: log_bytes_max.map(|bytes_max| SharedRoom::new(bytes_max, topics)),
        }
    }

    /// Whether there is room for `more`.
    pub(super) fn check(&self, topic: Option<Topic>, more: Held) -> Result<(), Full> {
        let full = |total: Full| {
            move |no_room: NoRoom| match (no_room, topic) {
                (NoRoom::Topic, Some(topic)) => Full::Topic(topic),
                (NoRoom::Topic, None) | (NoRoom::Total, _) => total,
            }
        };
        self.captures.check(topic, more.captures).map_err(full(Full::Queue))?;
        self.bytes.check(topic, self.bytes.clamp(more.bytes)).map_err(full(Full::Queue))?;
        let Some(log) = &self.log else { return Ok(()) };
        log.check(topic, log.clamp(more.log_bytes)).map_err(full(Full::Log))
    }

    /// Takes room, even if there is none.
    pub(super) fn take(&mut self, topic: Option<Topic>, more: Held) {
        self.captures.take(topic, more.captures);
        self.bytes.take(topic, self.bytes.clamp(more.bytes));
        if let Some(log) = &mut self.log {
            log.take(topic, more.log_bytes);
        }
    }

    /// Returns room that was taken for the same topic.
    pub(super) fn give(&mut self, topic: Option<Topic>, freed: Held) {
        self.captures.give(topic, freed.captures);
        self.bytes.give(topic, self.bytes.clamp(freed.bytes));
        if let Some(log) = &mut self.log {
            log.give(topic, freed.log_bytes);
        }
    }

    /// The room in the log.
    pub(super) const fn log(&self) -> Option<&SharedRoom> {
        self.log.as_ref()
    }
}
