//! Metrics for Prometheus. Every metric is registered once, in a struct that is passed down; label values come from closed lists.
//!
//! The metrics of a module are next to it, in its `metrics`. This module has what they share, and the metrics of the whole process.

pub(crate) mod build;
pub(crate) mod journal;
mod ledger;
mod process;

use prometheus::Gauge;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;

use crate::ledger::Ledger;

/// Registers the metrics of the ledger and of the process. Fails if `registry` already has one of them.
pub(crate) fn register(registry: &Registry, ledger: &Ledger) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ledger::LedgerCollector::new(ledger.clone())?))?;
    registry.register(Box::new(process::ProcessCollector::new()?))
}

/// Registers a counter.
pub(crate) fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// Registers a gauge.
pub(crate) fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// Registers a gauge of seconds.
pub(crate) fn float_gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let gauge = Gauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// Registers a histogram with these upper bounds.
pub(crate) fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

/// Registers counters with one label.
pub(crate) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}
