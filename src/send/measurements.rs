//! What a load generator saw: latencies, statuses, error codes, failures.

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

/// The shortest and the longest latency told apart from others, and the digits that are kept.
const NANOS_MIN: u64 = 1_000;
const NANOS_MAX: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// How many different failures are told apart.
const FAILURES_MAX: usize = 20;

/// Counts since the start.
#[derive(Debug, Clone)]
pub struct Measurements {
    /// Of the callbacks that were answered, and of those that waited for a response in vain.
    latencies: Histogram<u64>,
    last_start: Option<Instant>,
    /// Callbacks that were sent, or would have been if their connection had not failed.
    pub sent: u64,
    /// Callbacks that were answered with any status.
    pub answered: u64,
    /// Callbacks that got what Tencent wants: 200, and a JSON object with the three mandatory fields.
    pub accepted: u64,
    /// Callbacks that were answered after [`DEADLINE`].
    pub late: u64,
    /// Callbacks that came due while no connection was free until the end of the run.
    pub unsent: u64,
    /// Callbacks that this process sent late although a connection was free.
    pub late_starts: u64,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Responses by `ErrorCode`, where they have one.
    pub error_codes: BTreeMap<i64, u64>,
    /// Callbacks without a response, by reason.
    pub failures: BTreeMap<String, u64>,
}

impl Measurements {
    /// Nothing seen yet.
    ///
    /// # Errors
    ///
    /// The bounds of the histogram do not go together; they are constants.
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

    /// The latency that so many percent of the callbacks did not exceed; that of the slowest for 100.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_percentile(percent))
    }

    /// Callbacks that came due.
    pub const fn due(&self) -> u64 {
        self.sent + self.unsent
    }

    /// Callbacks without a response.
    pub const fn unanswered(&self) -> u64 {
        self.due().saturating_sub(self.answered)
    }

    /// Callbacks that failed for Tencent, whenever they were answered: without a response, with another status than 200, or with a body that it
    /// cannot use.
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
            // It did not wait: a latency would make the percentiles look better than they are.
            Err(error) => self.fail(&error.to_string(), 1),
        }
    }

    /// The run is over: of `total` callbacks those that have no outcome will have none. Each came due at least [`RESPONSE_TIMEOUT`] ago.
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
