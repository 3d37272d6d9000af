//! The metrics of intake: responses, decisions and connections.

use std::time::Duration;

use prometheus::Histogram;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;

use crate::decide;
use crate::decide::Refuser;
use crate::metrics::counter;
use crate::metrics::counters;
use crate::metrics::gauge;
use crate::metrics::histogram;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct IntakeMetrics {
    /// Requests that name no command.
    pub(crate) probes: IntCounter,
    /// Bodies of refused callbacks that were dropped because the queue had no room.
    pub(crate) rejected_dropped: IntCounter,
    /// Bytes reserved for bodies that are being received.
    pub(crate) bodies_bytes: IntGauge,
    /// Open connections.
    pub(crate) connections: IntGauge,
    /// Connections beyond a cap, answered with 503 and closed.
    pub(crate) connections_refused: IntCounter,
    /// Connections that were closed to make room for a new one.
    pub(crate) connections_evicted: IntCounter,
    /// Failed attempts to accept a connection.
    pub(crate) accept_errors: IntCounter,
    /// Connections that were closed because of a request that is not HTTP, or too large.
    pub(crate) not_http: IntCounter,
    /// Connections of a proxy without a valid PROXY protocol header.
    pub(crate) unopened_header: IntCounter,
    /// Connections whose TLS handshake failed.
    pub(crate) unopened_tls: IntCounter,
    /// Connections from outside the configured senders and proxies.
    pub(crate) unopened_sender: IntCounter,
    /// Connections whose preamble timed out.
    pub(crate) unopened_late: IntCounter,
    /// Callbacks that were lost because their topic's share of the queue was full, by topic.
    pub(crate) topic_full: IntCounterVec,
    answer_before: Histogram,
    answer_after: Histogram,
    decisions: IntCounterVec,
    allowed: IntCounter,
}

impl IntakeMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let decisions = decisions(registry)?;
        let unopened = counters(
            registry,
            "callbridge_connections_unopened_total",
            "Connections closed before HTTP, by reason: no PROXY header, failed TLS handshake, timeout, or not from a configured sender.",
            "reason",
        )?;
        let (answer_before, answer_after) = answers(registry)?;
        Ok(Self {
            probes: counter(
                registry,
                "callbridge_probes_total",
                "Requests that name no command, such as a console's check of the URL.",
            )?,
            rejected_dropped: counter(
                registry,
                "callbridge_rejected_dropped_total",
                "Refused bodies that did not reach the dead-letter topic because the queue had no room.",
            )?,
            bodies_bytes: gauge(
                registry,
                "callbridge_bodies_awaited_bytes",
                "Bytes reserved for bodies that are still being received.",
            )?,
            connections: gauge(registry, "callbridge_connections", "Open connections on the callback listener.")?,
            connections_refused: counter(
                registry,
                "callbridge_connections_refused_total",
                "Connections beyond the cap, or that of their peer, answered with 503 and closed.",
            )?,
            connections_evicted: counter(
                registry,
                "callbridge_connections_evicted_total",
                "Silent, idle or stalled connections that were closed at the cap to make room for a new one.",
            )?,
            accept_errors: counter(
                registry,
                "callbridge_accept_errors_total",
                "Failed attempts to accept connections, for example without free file descriptors; tried ten times a second.",
            )?,
            not_http: counter(
                registry,
                "callbridge_not_http_total",
                "Connections closed because of a request that is not valid HTTP/1.1: answered with 400, 414 or 431, if at all.",
            )?,
            unopened_header: unopened.with_label_values(&["proxy_header"]),
            unopened_tls: unopened.with_label_values(&["tls"]),
            unopened_sender: unopened.with_label_values(&["sender"]),
            unopened_late: unopened.with_label_values(&["late"]),
            allowed: decisions.with_label_values(&[decide::Outcome::Allow.as_str(), Refuser::Nobody.as_str()]),
            decisions,
            topic_full: counters(
                registry,
                "callbridge_topic_full_total",
                "Callbacks lost because their topic held its share of the queue.",
                "topic",
            )?,
            answer_before,
            answer_after,
        })
    }

    /// Counts a response to a before-callback.
    pub(crate) fn decided(&self, outcome: decide::Outcome, refuser: Refuser, took: Duration) {
        match outcome {
            decide::Outcome::Allow => self.allowed.inc(),
            // Rare enough for a lookup.
            decide::Outcome::Partial | decide::Outcome::Refuse => {
                self.decisions.with_label_values(&[outcome.as_str(), refuser.as_str()]).inc();
            }
        }
        self.answer_before.observe(took.as_secs_f64());
    }

    /// Counts a response to an after-callback, acknowledged or lost.
    pub(crate) fn answered(&self, took: Duration) {
        self.answer_after.observe(took.as_secs_f64());
    }
}

/// Decisions by outcome and source. Every possible pair exists from the start.
fn decisions(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let help = "Before-callbacks answered, by outcome (all may, some may not, none may) and by what refused them: rules of files, of the \
                topic, of both, or the policy before a list is loaded.";
    let decisions = IntCounterVec::new(Opts::new("callbridge_decisions_total", help), &["outcome", "source"])?;
    registry.register(Box::new(decisions.clone()))?;
    decisions.with_label_values(&[decide::Outcome::Allow.as_str(), Refuser::Nobody.as_str()]);
    for outcome in [decide::Outcome::Partial, decide::Outcome::Refuse] {
        for refuser in [Refuser::File, Refuser::Topic, Refuser::Both] {
            decisions.with_label_values(&[outcome.as_str(), refuser.as_str()]);
        }
    }
    decisions.with_label_values(&[decide::Outcome::Refuse.as_str(), Refuser::Policy.as_str()]);
    Ok(decisions)
}

/// The durations of responses to before- and to after-callbacks.
fn answers(registry: &Registry) -> Result<(Histogram, Histogram), prometheus::Error> {
    // Microseconds in normal operation.
    let answer_before = histogram(
        registry,
        "callbridge_answer_before_duration_seconds",
        "Time from reading a before-callback's head to its response.",
        &[0.000_025, 0.000_05, 0.0001, 0.00025, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 1.5],
    )?;
    // From microseconds in memory mode to the 1.5 s after which the response is 503, and the sender's 2 s.
    let answer_after = histogram(
        registry,
        "callbridge_answer_after_duration_seconds",
        "Time from reading an after-callback's head to its response.",
        &[0.000_05, 0.0001, 0.00025, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 1.5, 2.0],
    )?;
    Ok((answer_before, answer_after))
}
