//! Bodies, read within their limits.
//!
//! There is a budget for those that are on their way: bytes set aside before they come, so that many slow senders cannot fill the memory.
//! A body that has come with its head becomes a capture before it waits for anything, and takes none of this room; nor does it cost
//! anything to tell. Questions have a part to themselves.

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

/// One of so many parts is for questions alone.
const PARTS: usize = 4;
/// How often the same complaint is made.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The limits of bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    pub(crate) bytes_max: usize,
    /// From a head to the last byte of its body.
    pub(crate) timeout: Duration,
    pub(crate) budget: BodyBudget,
}

impl Bodies {
    /// Reads the body of a request that began then, behind a copy of its query. If it has to be waited for, there must be room in the
    /// budget. That is given back with the last byte: from there on the journal's bounds hold.
    pub(super) async fn read(
        &self,
        admitted: &AuthorizedRequest<'_>,
        body: Option<&mut Incoming>,
        began: Instant,
    ) -> Result<Raw, Refusal> {
        let read = self.read_all(admitted, body);
        time::timeout_at((began + self.timeout).into(), read).await.unwrap_or(Err(Refusal::BodyTimeout))
    }

    /// Whether a body is white space or `{}`. Reads it only until that is known.
    pub(super) async fn is_blank(&self, body: &mut Incoming, began: Instant) -> Result<bool, Refusal> {
        let read = is_blank(body, self.bytes_max);
        time::timeout_at((began + self.timeout).into(), read).await.unwrap_or(Err(Refusal::BodyTimeout))
    }

    /// Reads a body that nobody wants and drops it, so that the connection can be used on. Returns whether it came to its end: it has
    /// the limits of any body, and one that waits for a `100 Continue` is not asked for.
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

    /// Does so without a limit of time.
    async fn read_all(&self, admitted: &AuthorizedRequest<'_>, body: Option<&mut Incoming>) -> Result<Raw, Refusal> {
        let Some(body) = body else { return Ok(Raw::begin(admitted.query(), 0)) };
        let limit = self.bytes_max;
        let hint = body.size_hint();
        let expected = usize::try_from(hint.lower()).ok().filter(|expected| *expected <= limit);
        let Some(expected) = expected else { return Err(Refusal::BodyTooLarge { limit }) };
        // What comes in chunks may be as long as any.
        let awaited = if hint.exact().is_some() { expected } else { limit };
        let mut room = None;
        // Copied: what comes is a part of the connection's buffer, and would hold all of it for as long as it waits. In small
        // chunks, that would be many times the body.
        let mut raw = Raw::begin(admitted.query(), expected);
        loop {
            let frame = poll_fn(|cx| {
                let frame = poll_frame(body, cx);
                if frame.is_pending() && room.is_none() && !body.is_end_stream() {
                    room = self.budget.reserve(awaited, admitted.kind());
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

/// Room for the bodies that are on their way.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    bytes_max: usize,
    taken: AtomicUsize,
    /// What is taken, to be seen.
    gauge: IntGauge,
    complaints: Throttle,
}

/// Room for one body. Given back when dropped.
#[derive(Debug)]
struct Reserved<'b> {
    budget: &'b BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    /// Room for so many bytes.
    pub(crate) const fn new(bytes_max: usize, gauge: IntGauge) -> Self {
        Self { bytes_max, taken: AtomicUsize::new(0), gauge, complaints: Throttle::new(COMPLAIN_EVERY) }
    }

    /// Sets room aside for a body of so many bytes, if there is some for its kind.
    fn reserve(&self, bytes: usize, kind: Kind) -> Option<Reserved<'_>> {
        let limit = match kind {
            Kind::After => self.bytes_max - self.bytes_max / PARTS,
            Kind::Before => self.bytes_max,
        };
        let add = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= limit);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            self.complain(kind);
            return None;
        }
        self.gauge.add(signed(bytes));
        Some(Reserved { budget: self, bytes })
    }

    fn complain(&self, kind: Kind) {
        if self.complaints.permits(clock::monotonic()) {
            let bytes_max = self.bytes_max;
            tracing::warn!(
                bytes_max,
                is_question = kind == Kind::Before,
                "the budget for bodies in transit is used up; some callbacks are refused"
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

/// No memory holds more.
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
    fn news_gets_three_quarters_and_questions_all_of_it() {
        let budget = budget(100);
        let news = budget.reserve(75, Kind::After).unwrap();
        assert!(budget.reserve(1, Kind::After).is_none());
        let question = budget.reserve(25, Kind::Before).unwrap();
        assert!(budget.reserve(1, Kind::Before).is_none(), "their part has an end too");
        assert_eq!(budget.gauge.get(), 100);
        drop(question);
        assert!(budget.reserve(1, Kind::After).is_none(), "what is free is for questions");
        drop(news);
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
