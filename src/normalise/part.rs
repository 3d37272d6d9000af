//! The parts of a capture: a batch of events is one callback, and becomes one record for each event.

use crate::body::is_blank;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::command::Command;

use super::field::Members;
use super::field::elements;

/// Where a batch has its events.
const EVENTS: &str = "Events";

/// The most events of one batch; Tencent documents 100. Each becomes a record with an envelope, which is hundreds of times the length of
/// an empty one. A longer batch is dead-lettered as one record.
pub(super) const EVENTS_MAX: usize = 1000;

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

/// Whether it is a batch of more than [`EVENTS_MAX`] events.
pub(super) fn has_too_many_events(capture: &Capture) -> bool {
    events(capture).len() > EVENTS_MAX
}

/// The events of a batch, as they stand in the body: as many as may be, and one more.
fn events(capture: &Capture) -> Vec<&str> {
    // Nothing is allocated for what has one part.
    if !capture.command.is_some_and(Command::is_batch) || !matches!(capture.outcome, CaptureOutcome::Happened) {
        return Vec::new();
    }
    let json = str::from_utf8(capture.raw.body()).unwrap_or_default().trim_matches(is_blank);
    let members = Members::read(json, &[EVENTS]);
    members.json(EVENTS).map(|events| elements(events, EVENTS_MAX + 1)).unwrap_or_default()
}

/// The parts of one capture, in order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// Finds the events of a batch. Anything else is whole, also a batch without events or with too many of them: nothing is lost then either.
    pub fn of(capture: &Capture) -> Self {
        let body = capture.raw.body();
        let place = |event: &str| {
            let start = event.as_ptr().addr() - body.as_ptr().addr();
            Part { start, end: start + event.len() }
        };
        let events = events(capture);
        if events.len() > EVENTS_MAX { Self(Vec::new()) } else { Self(events.into_iter().map(place).collect()) }
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
