//! The phase of a connection, and since when it is in it. The connection records it; the listener reads it, and ends connections that stay
//! in a phase for too long.
//!
//! Both sides change the phase by compare-and-swap. So a connection that the listener has ended never begins a request, and a connection
//! whose request is being handled is never ended.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::clock;

/// The phases of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// Before HTTP: a PROXY protocol header, a TLS handshake.
    Preamble,
    /// Ready for HTTP, but no byte has arrived.
    Silent,
    /// Reading a head.
    Head,
    /// The service handles the request.
    Service,
    /// A response is being sent.
    Response,
    /// Between two requests.
    Idle,
    /// The response is sent; what the peer still sends is read and discarded, so that the close is not a reset.
    Linger,
    /// The listener has ended it.
    Ended,
}

const PHASES: [ConnectionPhase; 8] = [
    ConnectionPhase::Preamble,
    ConnectionPhase::Silent,
    ConnectionPhase::Head,
    ConnectionPhase::Service,
    ConnectionPhase::Response,
    ConnectionPhase::Idle,
    ConnectionPhase::Linger,
    ConnectionPhase::Ended,
];

/// A phase, and its beginning in milliseconds on the clock of the connection's [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

const PHASE_BITS: u32 = 3;
const PHASE_MASK: u64 = (1 << PHASE_BITS) - 1;

impl Moment {
    const fn new(phase: ConnectionPhase, millis: u64) -> Self {
        Self(millis << PHASE_BITS | phase as u64)
    }

    pub(super) fn phase(self) -> ConnectionPhase {
        usize::try_from(self.0 & PHASE_MASK)
            .ok()
            .and_then(|index| PHASES.get(index))
            .copied()
            .unwrap_or(ConnectionPhase::Ended)
    }

    /// The beginning of the phase, in milliseconds on the clock of the connection's [`Progress`].
    pub(super) const fn since(self) -> u64 {
        self.0 >> PHASE_BITS
    }
}

/// The state of one connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    inner: Arc<ConnectionState>,
}

#[derive(Debug)]
struct ConnectionState {
    /// The zero of its clock, which is the same for all connections of a listener.
    epoch: Instant,
    moment: AtomicU64,
    closes_next: AtomicBool,
    lingers: AtomicBool,
    is_used: AtomicBool,
    /// How long the first request waited for this process; 0 after that request.
    waited_millis: AtomicU32,
}

impl Progress {
    /// The state of a new connection. `epoch` is the zero of the clock.
    pub(super) fn new(epoch: Instant, now: Instant) -> Self {
        let moment = Moment::new(ConnectionPhase::Preamble, millis_since(epoch, now));
        let (closes_next, lingers, is_used) = <(AtomicBool, AtomicBool, AtomicBool)>::default();
        let (moment, waited_millis) = (AtomicU64::new(moment.0), AtomicU32::new(0));
        let state = ConnectionState { epoch, moment, closes_next, lingers, is_used, waited_millis };
        Self { inner: Arc::new(state) }
    }

    /// The current phase and its beginning.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.inner.moment.load(Ordering::Acquire))
    }

    /// Enters `phase`. Returns whether it did: an ended connection stays ended.
    pub(super) fn enter(&self, phase: ConnectionPhase) -> bool {
        let next = Moment::new(phase, millis_since(self.inner.epoch, clock::monotonic()));
        let mut moment = self.moment();
        loop {
            if moment.phase() == ConnectionPhase::Ended {
                return false;
            }
            match self.swap(moment, next) {
                Ok(()) => return true,
                Err(other) => moment = other,
            }
        }
    }

    /// Ends the connection if its phase is still the one of `moment`. Returns whether it was.
    pub(super) fn end(&self, moment: Moment) -> bool {
        self.swap(moment, Moment::new(ConnectionPhase::Ended, moment.since())).is_ok()
    }

    fn swap(&self, from: Moment, to: Moment) -> Result<(), Moment> {
        let swapped = self.inner.moment.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire);
        swapped.map(|_from| ()).map_err(Moment)
    }

    /// Makes the connection close after its next response.
    pub(super) fn close_next(&self) {
        self.inner.closes_next.store(true, Ordering::Relaxed);
    }

    /// Whether the connection closes after its next response.
    pub(super) fn closes_next(&self) -> bool {
        self.inner.closes_next.load(Ordering::Relaxed)
    }

    /// Records that a valid callback came over the connection.
    pub(super) fn mark_used(&self) {
        self.inner.is_used.store(true, Ordering::Relaxed);
    }

    /// Whether a valid callback came over the connection.
    pub(super) fn is_used(&self) -> bool {
        self.inner.is_used.load(Ordering::Relaxed)
    }

    /// Records how long the first request has waited for this process.
    pub(super) fn note_wait(&self, waited: Duration) {
        let millis = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        self.inner.waited_millis.store(millis, Ordering::Relaxed);
    }

    /// How long the request that begins now has waited for this process: zero for all but the first.
    pub(super) fn take_wait(&self) -> Duration {
        let millis = self.inner.waited_millis.load(Ordering::Relaxed);
        if millis > 0 {
            self.inner.waited_millis.store(0, Ordering::Relaxed);
        }
        Duration::from_millis(millis.into())
    }

    /// Records that the connection closes before its last request was read to the end.
    pub(super) fn leave_unread(&self) {
        self.inner.lingers.store(true, Ordering::Relaxed);
    }

    /// Whether the peer may still be sending when the connection is closed.
    pub(super) fn lingers(&self) -> bool {
        self.inner.lingers.load(Ordering::Relaxed) || self.moment().phase() == ConnectionPhase::Head
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
        assert!(progress.enter(ConnectionPhase::Head));
        assert!(!progress.end(before), "it has begun a request");
        assert!(progress.end(progress.moment()));
        assert!(!progress.enter(ConnectionPhase::Service));
        assert_eq!(progress.moment().phase(), ConnectionPhase::Ended);
    }
}
