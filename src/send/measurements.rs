//! The results of a load generator: latencies, statuses, error codes, failures.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::RESPONSE_TIMEOUT;
use super::connection::CallbackResponse;
use super::schedule::CallbackStart;

/// How long Tencent waits for a response.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// The range of latencies, and their significant digits.
const NANOS_MIN: u64 = 1_000;
const NANOS_MAX: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// The most different failures that are counted separately.
const FAILURES_MAX: usize = 20;

/// Counts since the start.
#[derive(Debug, Clone)]
pub struct Measurements {
    /// Latencies of callbacks with a response, and of those that timed out.
    latencies: Histogram<u64>,
    last_start: Option<Instant>,
    /// Callbacks that were sent, or would have been if their connection had not failed.
    pub sent: u64,
    /// Callbacks with a response of any status.
    pub answered: u64,
    /// Callbacks with the response that Tencent expects: 200, and a JSON object with the three required fields.
    pub accepted: u64,
    /// Callbacks with a response after [`DEADLINE`].
    pub late: u64,
    /// Callbacks that were due, but found no free connection until the end of the run.
    pub unsent: u64,
    /// Callbacks that this process sent late although a connection was free.
    pub late_starts: u64,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Responses by `ErrorCode`, if they have one.
    pub error_codes: BTreeMap<i64, u64>,
    /// Callbacks without a response, by reason.
    pub failures: BTreeMap<String, u64>,
}

impl Measurements {
    /// No results yet.
    ///
    /// # Errors
    ///
    /// The constants for the histogram are inconsistent.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            latencies: Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, DIGITS).map_err(io::Error::other)?,
            last_start: None,
            sent: 0,
            answered: 0,
            accepted: 0,
            late: 0,
            unsent: 0,
            late_starts: 0,
            statuses: BTreeMap::new(),
            error_codes: BTreeMap::new(),
            failures: BTreeMap::new(),
        })
    }

    /// The latency at a percentile; the maximum for 100.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_percentile(percent))
    }

    /// Callbacks that were due.
    pub const fn due(&self) -> u64 {
        self.sent + self.unsent
    }

    /// Callbacks without a response.
    pub const fn unanswered(&self) -> u64 {
        self.due().saturating_sub(self.answered)
    }

    /// Callbacks that failed from Tencent's point of view, whatever their latency: without a response, with another status than 200, or
    /// with an unusable body.
    pub const fn errors(&self) -> u64 {
        self.due().saturating_sub(self.accepted)
    }

    /// When the last callback was sent.
    pub(super) const fn last_start(&self) -> Option<Instant> {
        self.last_start
    }

    pub(super) fn begin(&mut self, start: CallbackStart) {
        self.last_start = self.last_start.max(Some(start.at));
        self.sent += 1;
        self.late_starts += u64::from(start.is_late);
    }

    pub(super) fn end(&mut self, outcome: &io::Result<CallbackResponse>, latency: Duration) {
        match outcome {
            Ok(response) => {
                self.answered += 1;
                self.accepted += u64::from(response.status == 200 && response.error_code.is_some());
                self.late += u64::from(latency > DEADLINE);
                *self.statuses.entry(response.status).or_default() += 1;
                if let Some(code) = response.error_code {
                    *self.error_codes.entry(code).or_default() += 1;
                }
                self.record(latency, 1);
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.fail(&format!("no response within {} s", RESPONSE_TIMEOUT.as_secs()), 1);
                self.record(latency, 1);
            }
            // It was not sent: a latency would make the percentiles look better than they are.
            Err(error) => self.fail(&error.to_string(), 1),
        }
    }

    /// Ends the run: of `total` callbacks, those without an outcome will get none. Each was due at least [`RESPONSE_TIMEOUT`] ago.
    pub(super) fn give_up(&mut self, total: Option<u64>) {
        let under_way = self.sent - self.answered - self.failures.values().sum::<u64>();
        self.unsent = total.map_or(0, |total| total.saturating_sub(self.sent));
        self.fail("no response until the end of the run", under_way);
        self.fail("not sent: no connection was free until the end of the run", self.unsent);
        self.record(RESPONSE_TIMEOUT, under_way + self.unsent);
    }

    fn record(&mut self, latency: Duration, count: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record_n(nanos, count);
    }

    fn fail(&mut self, why: &str, count: u64) {
        let is_new = !self.failures.contains_key(why);
        let why = if is_new && self.failures.len() >= FAILURES_MAX { "other" } else { why };
        if count > 0 {
            *self.failures.entry(why.to_owned()).or_default() += count;
        }
    }
}
