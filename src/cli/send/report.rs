//! The report of `send`, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::send::LoadPlan;
use crate::send::RunTime;
use crate::send::measurements::Measurements;

const PERCENTILES: [(&str, f64); 5] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];
/// If more than this fraction of the callbacks was sent late, the latencies are not those of the server.
const LATE_STARTS_PART: u64 = 100;

/// All results. `due` is `answered` plus `unanswered`; `answered` is the sum of `status_codes`, and `unanswered` that of `failures`.
#[derive(Debug, Serialize)]
pub(super) struct SendReport {
    /// Without its path, which may be a secret.
    url: String,
    model: &'static str,
    connections: u16,
    /// Absent in the closed model.
    wanted_rate: Option<f64>,
    /// Until the last response.
    seconds: f64,
    /// Until the last callback was sent.
    sending_seconds: f64,
    /// Sent a second, during sending.
    rate: f64,
    /// Valid responses a second.
    throughput: f64,
    due: u64,
    sent: u64,
    answered: u64,
    unanswered: u64,
    errors: u64,
    late: u64,
    late_starts: u64,
    latencies_ms: BTreeMap<&'static str, f64>,
    status_codes: BTreeMap<u16, u64>,
    error_codes: BTreeMap<i64, u64>,
    failures: BTreeMap<String, u64>,
}

impl SendReport {
    pub(super) fn new(url: &str, plan: &LoadPlan, connections: u16, took: RunTime, seen: &Measurements) -> Self {
        let latency = |(name, percent)| (name, seen.percentile(percent).as_micros() as f64 / 1e3);
        Self {
            url: origin(url),
            model: if plan.rate.is_some() { "open" } else { "closed" },
            connections,
            wanted_rate: plan.rate,
            seconds: took.all.as_secs_f64(),
            sending_seconds: took.sending.as_secs_f64(),
            rate: seen.sent as f64 / took.sending.as_secs_f64(),
            throughput: seen.accepted as f64 / took.all.as_secs_f64(),
            due: seen.due(),
            sent: seen.sent,
            answered: seen.answered,
            unanswered: seen.unanswered(),
            errors: seen.errors(),
            late: seen.late,
            late_starts: seen.late_starts,
            latencies_ms: PERCENTILES.map(latency).into(),
            status_codes: seen.statuses.clone(),
            error_codes: seen.error_codes.clone(),
            failures: seen.failures.clone(),
        }
    }

    pub(super) fn json(&self) -> String {
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{json}\n")
    }
}

impl fmt::Display for SendReport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url, connections, sending_seconds, rate, sent, answered, unanswered, errors, late, late_starts, ..
        } = self;
        match self.wanted_rate {
            Some(wanted) => writeln!(to, "open model: {wanted} callbacks a second, {connections} connections, {url}")?,
            None => writeln!(
                to,
                "closed model: as fast as answered, {connections} connections, {url}; its latencies hide stalls"
            )?,
        }
        writeln!(
            to,
            "sent {sent} in {sending_seconds:.2} s ({rate:.1} a second), answered {answered}, not answered {unanswered}"
        )?;
        let latencies = PERCENTILES.map(|(name, _)| {
            let ms = self.latencies_ms.get(name).copied().unwrap_or_default();
            format!("{name} {}", shown(Duration::from_secs_f64(ms / 1e3)))
        });
        writeln!(to, "latency: {}", latencies.join(", "))?;
        writeln!(to, "answered after 2 s: {late}")?;
        writeln!(to, "errors: {errors}")?;
        writeln!(to, "statuses: {}", counts(&self.status_codes))?;
        writeln!(to, "ErrorCodes: {}", counts(&self.error_codes))?;
        for (why, count) in &self.failures {
            writeln!(to, "  {count} without a response: {why}")?;
        }
        if *late_starts > 0 {
            let is_void = *late_starts > self.due / LATE_STARTS_PART;
            let void = if is_void { ": the latencies are not the server's, lower the rate" } else { "" };
            writeln!(to, "late starts: this machine sent {late_starts} callbacks later than they were due{void}")?;
        }
        Ok(())
    }
}

/// The progress line.
pub(super) fn progress(seen: &Measurements) -> String {
    let ended = seen.answered + seen.failures.values().sum::<u64>();
    format!(
        "sent {}, under way {}, p99 {}, answered after 2 s {}, errors {}",
        seen.sent,
        seen.sent.saturating_sub(ended),
        shown(seen.percentile(99.0)),
        seen.late,
        ended.saturating_sub(seen.accepted),
    )
}

/// Scheme, host and port of a URL: the rest may be a secret.
pub(super) fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

/// A latency with about three digits.
pub(super) fn shown(latency: Duration) -> String {
    let ms = latency.as_secs_f64() * 1e3;
    match ms {
        1000.0.. => format!("{:.2} s", ms / 1e3),
        10.0.. => format!("{ms:.1} ms"),
        _ => format!("{ms:.3} ms"),
    }
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}
