//! The room that captures take: in the queue, and until they are delivered in the log.

use crate::record::Topic;
use crate::share::NoRoom;
use crate::share::SharedRoom;

use super::Bounds;

/// What one capture takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// In the queue, how many there are.
    pub(super) captures: usize,
    /// In the queue, in bytes.
    pub(super) bytes: usize,
    /// In the log, in bytes of their records. Before those are written, what they take at most.
    pub(super) log_bytes: usize,
}

impl Held {
    /// What it takes while it waits in the queue: its cost, and no more than that in the log.
    pub(super) const fn queued(cost_bytes: usize) -> Self {
        Self { captures: 1, bytes: cost_bytes, log_bytes: cost_bytes }
    }

    /// What takes so many bytes in the log.
    pub(super) const fn stored(log_bytes: usize) -> Self {
        Self { captures: 0, bytes: 0, log_bytes }
    }
}

/// What there is no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// In the whole queue.
    Queue,
    /// In the whole log.
    Log,
    /// In the share of the topic.
    Topic(Topic),
}

/// Room in the queue and, where captures go to disk, in the log. Topics have shares of what holds captures until Kafka has them: of the
/// log if there is one, else of the queue.
#[derive(Debug)]
pub(super) struct Room {
    captures: SharedRoom,
    bytes: SharedRoom,
    log: Option<SharedRoom>,
}

impl Room {
    /// All of it free. `log_bytes_max` is what may be undelivered in the log.
    pub(super) fn new(bounds: &Bounds, log_bytes_max: Option<usize>, topics: usize) -> Self {
        let topics_of_queue = if log_bytes_max.is_some() { 0 } else { topics };
        Self {
            captures: SharedRoom::new(bounds.captures_max, topics_of_queue),
            bytes: SharedRoom::new(bounds.bytes_max, topics_of_queue),
            log: log_bytes_max.map(|bytes_max| SharedRoom::new(bytes_max, topics)),
        }
    }

    /// Whether there is room for this much more.
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

    /// Takes room, whether there is some or not.
    pub(super) fn take(&mut self, topic: Option<Topic>, more: Held) {
        self.captures.take(topic, more.captures);
        self.bytes.take(topic, self.bytes.clamp(more.bytes));
        if let Some(log) = &mut self.log {
            log.take(topic, more.log_bytes);
        }
    }

    /// Gives back what was taken for the same topic.
    pub(super) fn give(&mut self, topic: Option<Topic>, freed: Held) {
        self.captures.give(topic, freed.captures);
        self.bytes.give(topic, self.bytes.clamp(freed.bytes));
        if let Some(log) = &mut self.log {
            log.give(topic, freed.log_bytes);
        }
    }

    /// What is held of the log.
    pub(super) const fn log(&self) -> Option<&SharedRoom> {
        self.log.as_ref()
    }
}
