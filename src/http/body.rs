//! Reads bodies within their limits.
//!
//! Bodies that are still being received share a budget: their bytes are reserved in advance, so that many slow senders cannot fill the
//! memory. A body that arrived together with its head needs no reservation: it becomes a capture before anything waits. A part of the
//! budget is reserved for before-callbacks.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderMap;
use prometheus::IntGauge;
use tokio::time;

use crate::capture::Raw;
use crate::clock;
use crate::command::Kind;
use crate::intake::AuthorizedRequest;
use crate::refusal::Refusal;
use crate::throttle::Throttle;

/// A quarter of the budget is reserved for before-callbacks.
const PARTS: usize = 4;
/// The shortest time between two log lines about an exhausted budget.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The limits of bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    pub(crate) bytes_max: usize,
    /// From the head to the last byte of the body.
    pub(crate) timeout: Duration,
    pub(crate) budget: BodyBudget,
}

impl Bodies {
    /// Reads the body of a request that began at `began`, and appends it to a copy of the query. A body that has not arrived yet needs room
    /// in the budget until its last byte: from there on the bounds of the journal hold.
    pub(super) async fn read(
        &self,
        request: &AuthorizedRequest<'_>,
        body: Option<&mut Incoming>,
        began: Instant,
    ) -> Result<Raw, Refusal> {
        let read = self.read_all(request, body);
        time::timeout_at((began + self.timeout).into(), read).await.unwrap_or(Err(Refusal::BodyTimeout))
    }

    /// Whether a body is white space or `{}`. Reads no more of it than that takes.
    pub(super) async fn is_blank(&self, body: &mut Incoming, began: Instant) -> Result<bool, Refusal> {
        let read = is_blank(body, self.bytes_max);
        time::timeout_at((began + self.timeout).into(), read).await.unwrap_or(Err(Refusal::BodyTimeout))
    }

    /// Reads and discards the body of a refused request, so that the connection can be reused. Returns whether it reached the end. The
    /// usual limits hold, and no `100 Continue` is sent.
    pub(super) async fn drain(&self, headers: &HeaderMap, mut body: Incoming, began: Instant) -> bool {
        if body.is_end_stream() {
            return true;
        }
        let limit = self.bytes_max as u64;
        if body.size_hint().lower() > limit || headers.contains_key(header::EXPECT) {
            return false;
        }
        let drained = async {
            let mut bytes = 0;
            while bytes <= limit {
                match next_frame(&mut body).await {
                    Ok(Some(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                    Ok(None) => return true,
                    Err(_broken_off) => return false,
                }
            }
            false
        };
        time::timeout_at((began + self.timeout).into(), drained).await.unwrap_or(false)
    }

    /// The same without a timeout.
    async fn read_all(&self, request: &AuthorizedRequest<'_>, body: Option<&mut Incoming>) -> Result<Raw, Refusal> {
        let Some(body) = body else { return Ok(Raw::begin(request.query(), 0)) };
        let limit = self.bytes_max;
        let hint = body.size_hint();
        let expected = usize::try_from(hint.lower()).ok().filter(|expected| *expected <= limit);
        let Some(expected) = expected else { return Err(Refusal::BodyTooLarge { limit }) };
        // A chunked body may be as long as the limit.
        let reserved_bytes = if hint.exact().is_some() { expected } else { limit };
        let mut room = None;
        // Copied: a frame is a slice of the connection's buffer, and would keep all of it allocated. With small chunks that would be many
        // times the size of the body.
        let mut raw = Raw::begin(request.query(), expected);
        loop {
            let frame = poll_fn(|cx| {
                let frame = poll_frame(body, cx);
                if frame.is_pending() && room.is_none() && !body.is_end_stream() {
                    room = self.budget.reserve(reserved_bytes, request.kind());
                    if room.is_none() {
                        return Poll::Ready(Err(Refusal::BodiesFull));
                    }
                }
                frame
            });
            let Some(frame) = frame.await? else { break };
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > limit - raw.body().len() {
                return Err(Refusal::BodyTooLarge { limit });
            }
            raw.push(&data);
        }
        Ok(raw.end())
    }
}

/// Reads no more than `limit` bytes.
async fn is_blank(body: &mut Incoming, limit: usize) -> Result<bool, Refusal> {
    let mut rest = EMPTY_OBJECT;
    let mut bytes = 0;
    while let Some(frame) = next_frame(body).await? {
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        if bytes > limit {
            return Err(Refusal::BodyTooLarge { limit });
        }
        for byte in data.iter().filter(|byte| !byte.is_ascii_whitespace()) {
            match rest.split_first() {
                Some((expected, behind)) if expected == byte => rest = behind,
                _other => return Ok(false),
            }
        }
    }
    Ok(rest.is_empty() || rest == EMPTY_OBJECT)
}

const EMPTY_OBJECT: &[u8] = b"{}";

/// The next part of a body; `None` at its end.
async fn next_frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Refusal> {
    poll_fn(|cx| poll_frame(body, cx)).await
}

fn poll_frame(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Refusal>> {
    Pin::new(body).poll_frame(cx).map(|frame| frame.transpose().map_err(|_broken_off| Refusal::BrokenOff))
}

/// The memory budget for bodies that are still being received.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    bytes_max: usize,
    taken: AtomicUsize,
    /// The reserved bytes, as a metric.
    gauge: IntGauge,
    warnings: Throttle,
}

/// A reservation for one body, released when dropped.
#[derive(Debug)]
struct Reserved<'b> {
    budget: &'b BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of `bytes_max` bytes.
    pub(crate) const fn new(bytes_max: usize, gauge: IntGauge) -> Self {
        Self { bytes_max, taken: AtomicUsize::new(0), gauge, warnings: Throttle::new(WARN_EVERY) }
    }

    /// Reserves `bytes`, if the budget has room for a callback of this kind.
    fn reserve(&self, bytes: usize, kind: Kind) -> Option<Reserved<'_>> {
        let limit = match kind {
            Kind::After => self.bytes_max - self.bytes_max / PARTS,
            Kind::Before => self.bytes_max,
        };
        let add = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= limit);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            self.warn(kind);
            return None;
        }
        self.gauge.add(signed(bytes));
        Some(Reserved { budget: self, bytes })
    }

    fn warn(&self, kind: Kind) {
        if self.warnings.permits(clock::monotonic()) {
            let bytes_max = self.bytes_max;
            tracing::warn!(
                bytes_max,
                is_before_callback = kind == Kind::Before,
                "the budget for bodies that are being received is exhausted; some callbacks are refused"
            );
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.gauge.sub(signed(self.bytes));
    }
}

/// A size that fits in memory also fits in an `i64`.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes_max: usize) -> BodyBudget {
        BodyBudget::new(bytes_max, IntGauge::new("taken", "Bytes.").unwrap())
    }

    #[test]
    fn after_callbacks_get_three_quarters_and_before_callbacks_all_of_it() {
        let budget = budget(100);
        let after = budget.reserve(75, Kind::After).unwrap();
        assert!(budget.reserve(1, Kind::After).is_none());
        let before = budget.reserve(25, Kind::Before).unwrap();
        assert!(budget.reserve(1, Kind::Before).is_none(), "the whole budget is a limit too");
        assert_eq!(budget.gauge.get(), 100);
        drop(before);
        assert!(budget.reserve(1, Kind::After).is_none(), "what is free is for before-callbacks");
        drop(after);
        assert_eq!(budget.gauge.get(), 0);
        assert!(budget.reserve(75, Kind::After).is_some());
    }

    #[test]
    fn a_number_beyond_all_measure_is_just_too_much() {
        let budget = budget(100);
        let _room = budget.reserve(1, Kind::Before).unwrap();
        assert!(budget.reserve(usize::MAX, Kind::Before).is_none());
    }
}
