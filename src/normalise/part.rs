//! The parts of a capture: a batch of events is one callback, and becomes one record for each event.

use crate::body::is_blank;
use crate::capture::Capture;
use crate::capture::Outcome;
use crate::command::Command;

use super::field::Members;
use super::field::elements;

/// Where a batch has its events.
const EVENTS: &str = "Events";

/// One event of a capture, as its place in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    start: usize,
    end: usize,
}

impl Part {
    /// All of the body. Of a callback that is no batch it is the only part.
    pub const WHOLE: Self = Self { start: 0, end: usize::MAX };

    /// Its bytes of `body`.
    pub(super) fn of(self, body: &[u8]) -> &[u8] {
        body.get(self.start..self.end.min(body.len())).unwrap_or_default()
    }
}

/// The parts of one capture, in order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// Finds the events of a batch. Anything else is whole, also a batch without events: nothing is lost then either.
    pub fn of(capture: &Capture) -> Self {
        // Nothing is allocated for what has one part.
        if !capture.command.is_some_and(Command::is_batch) || !matches!(capture.outcome, Outcome::Happened) {
            return Self(Vec::new());
        }
        let body = capture.raw.body();
        let json = str::from_utf8(body).unwrap_or_default().trim_matches(is_blank);
        let events = Members::read(json, &[EVENTS]).json(EVENTS).and_then(elements).unwrap_or_default();
        let place = |event: &str| {
            let start = event.as_ptr().addr() - body.as_ptr().addr();
            Part { start, end: start + event.len() }
        };
        Self(events.into_iter().map(place).collect())
    }

    /// Whether they are the events of a batch, if only one; else the one part is all of the body.
    pub const fn is_batch(&self) -> bool {
        !self.0.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len().max(1)
    }

    /// Each part.
    pub fn iter(&self) -> impl Iterator<Item = Part> {
        let whole = self.0.is_empty().then_some(Part::WHOLE);
        self.0.iter().copied().chain(whole)
    }
}
