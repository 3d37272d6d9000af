//! Where a connection is between its requests, and since when: noted by the connection, read by the listener, which ends those that
//! stay in a phase for too long.
//!
//! Both sides change the phase by compare-and-swap, so a connection that the listener has ended never begins a request, and one that
//! has begun a request is never ended.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::clock;

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before HTTP: a header of the PROXY protocol, a TLS handshake.
    Preamble,
    /// HTTP may begin, and no byte of it has come.
    Silent,
    /// Reading a head.
    Head,
    /// The service has the request.
    Service,
    /// A response is on its way.
    Response,
    /// Between two requests.
    Idle,
    /// The response is sent, and what the peer still sends is read and dropped, so that the close is no reset.
    Linger,
    /// The listener has ended it.
    Ended,
}

const PHASES: [Phase; 8] = [
    Phase::Preamble,
    Phase::Silent,
    Phase::Head,
    Phase::Service,
    Phase::Response,
    Phase::Idle,
    Phase::Linger,
    Phase::Ended,
];

/// A phase and since when, in milliseconds on the clock of the connection's [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

const PHASE_BITS: u32 = 3;

impl Moment {
    const fn new(phase: Phase, millis: u64) -> Self {
        Self(millis << PHASE_BITS | phase as u64)
    }

    pub(super) fn phase(self) -> Phase {
        usize::try_from(self.0 & 7).ok().and_then(|index| PHASES.get(index)).copied().unwrap_or(Phase::Ended)
    }

    /// Milliseconds on the clock of the connection's [`Progress`].
    pub(super) const fn since(self) -> u64 {
        self.0 >> PHASE_BITS
    }
}

/// The phase of one connection. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The zero of its clock, the same for all connections of a listener.
    epoch: Instant,
    moment: AtomicU64,
    closes_next: AtomicBool,
    lingers: AtomicBool,
}

impl Progress {
    /// A connection that begins. `epoch` is the zero of the clock.
    pub(super) fn new(epoch: Instant, now: Instant) -> Self {
        let moment = Moment::new(Phase::Preamble, millis_since(epoch, now));
        let (moment, closes_next, lingers) = (AtomicU64::new(moment.0), AtomicBool::new(false), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { epoch, moment, closes_next, lingers }) }
    }

    /// The phase, and since when.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.inner.moment.load(Ordering::Acquire))
    }

    /// Moves on to `phase`. Returns whether it did: one that was ended stays so.
    pub(super) fn enter(&self, phase: Phase) -> bool {
        let next = Moment::new(phase, millis_since(self.inner.epoch, clock::monotonic()));
        let mut moment = self.moment();
        loop {
            if moment.phase() == Phase::Ended {
                return false;
            }
            match self.swap(moment, next) {
                Ok(()) => return true,
                Err(other) => moment = other,
            }
        }
    }

    /// Ends the connection, if it is still where it was at `moment`. Returns whether it was.
    pub(super) fn end(&self, moment: Moment) -> bool {
        self.swap(moment, Moment::new(Phase::Ended, moment.since())).is_ok()
    }

    fn swap(&self, from: Moment, to: Moment) -> Result<(), Moment> {
        let swapped = self.inner.moment.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire);
        swapped.map(|_from| ()).map_err(Moment)
    }

    /// Has the next response end the connection.
    pub(super) fn close_next(&self) {
        self.inner.closes_next.store(true, Ordering::Relaxed);
    }

    /// Whether the next response ends the connection.
    pub(super) fn closes_next(&self) -> bool {
        self.inner.closes_next.load(Ordering::Relaxed)
    }

    /// The connection ends with a request that was not read to its end.
    pub(super) fn leave_unread(&self) {
        self.inner.lingers.store(true, Ordering::Relaxed);
    }

    /// Whether the peer may still be sending when the connection is closed.
    pub(super) fn lingers(&self) -> bool {
        self.inner.lingers.load(Ordering::Relaxed) || self.moment().phase() == Phase::Head
    }
}

/// Milliseconds from `epoch` to `now`.
pub(super) fn millis_since(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.duration_since(epoch).as_millis()).unwrap_or(u64::MAX >> PHASE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_holds_every_phase_and_its_time() {
        for phase in PHASES {
            let moment = Moment::new(phase, 123_456_789);
            assert_eq!((moment.phase(), moment.since()), (phase, 123_456_789));
        }
    }

    #[test]
    fn only_a_connection_that_has_not_moved_is_ended_and_it_stays_so() {
        let now = clock::monotonic();
        let progress = Progress::new(now, now);
        let before = progress.moment();
        assert!(progress.enter(Phase::Head));
        assert!(!progress.end(before), "it has begun a request");
        assert!(progress.end(progress.moment()));
        assert!(!progress.enter(Phase::Service));
        assert_eq!(progress.moment().phase(), Phase::Ended);
    }
}
