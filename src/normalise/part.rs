//! The parts of a capture: a batch of events is one callback, and becomes one record for each event.

use crate::body::is_blank;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::command::Command;

use super::field::Members;
use super::field::elements;

/// The member of the body that holds the events of a batch.
const EVENTS: &str = "Events";

/// The most events of a batch; Tencent documents 100. Each becomes a record with an envelope, hundreds of times as long as a minimal event.
/// A longer batch goes to the dead-letter topic as one record.
pub(super) const EVENTS_MAX: usize = 1000;

/// One event of a capture, as its range in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    start: usize,
    end: usize,
}

impl Part {
    /// The whole body: the only part of a callback that is not a batch.
    pub const WHOLE: Self = Self { start: 0, end: usize::MAX };

    /// Its bytes in `body`.
    pub(super) fn of(self, body: &[u8]) -> &[u8] {
        body.get(self.start..self.end.min(body.len())).unwrap_or_default()
    }
}

/// Whether it stands for a batch of more than [`EVENTS_MAX`] events.
pub(super) fn has_too_many_events(capture: &Capture) -> bool {
    events(capture).len() > EVENTS_MAX
}

/// The raw events of a batch, at most one more than [`EVENTS_MAX`].
fn events(capture: &Capture) -> Vec<&str> {
    // Does not allocate if there is only one part.
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
    /// Finds the events of a batch. Anything else is one part, also a batch without events or with too many.
    pub fn of(capture: &Capture) -> Self {
        let body = capture.raw.body();
        let place = |event: &str| {
            let start = event.as_ptr().addr() - body.as_ptr().addr();
            Part { start, end: start + event.len() }
        };
        let events = events(capture);
        if events.len() > EVENTS_MAX { Self(Vec::new()) } else { Self(events.into_iter().map(place).collect()) }
    }

    /// Whether the parts are events of a batch.
    pub const fn is_batch(&self) -> bool {
        !self.0.is_empty()
    }

    /// The number of parts.
    pub fn count(&self) -> usize {
        self.0.len().max(1)
    }

    /// The parts.
    pub fn iter(&self) -> impl Iterator<Item = Part> {
        let whole = self.0.is_empty().then_some(Part::WHOLE);
        self.0.iter().copied().chain(whole)
    }
}
