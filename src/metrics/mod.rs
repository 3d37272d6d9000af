//! What Prometheus may know. Every metric is registered once, in a struct that is passed down; label values come from closed lists.
//!
//! A module's own metrics stand beside it, in its `metrics`. Here is what several of them share, and what belongs to the whole process.

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

/// Registers the accounts of the ledger, and what the system says of the process. Fails if `registry` already holds one of them.
pub(crate) fn register(registry: &Registry, ledger: &Ledger) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ledger::LedgerCollector::new(ledger.clone())?))?;
    registry.register(Box::new(process::ProcessCollector::new()?))
}

/// A counter, registered.
pub(crate) fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// A gauge, registered.
pub(crate) fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A gauge of seconds, registered.
pub(crate) fn float_gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let gauge = Gauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A histogram with these upper bounds, registered.
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

/// Counters by one label, registered.
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
