//! What Prometheus may know. Every metric is registered once, in a struct that is passed down; label values come from closed lists.

pub(crate) mod blocklist;
pub(crate) mod build;
pub(crate) mod intake;
pub(crate) mod journal;
pub(crate) mod kafka;
pub(crate) mod ledger;
pub(crate) mod lifecycle;
pub(crate) mod log;
mod process;
pub(crate) mod publish;
pub(crate) mod tls;
pub(crate) mod tokens;

use prometheus::Gauge;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;

use crate::ledger::Ledger;

/// All metrics of the process but those of the log, which begins before there is a registry.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) intake: intake::IntakeMetrics,
    pub(crate) publish: publish::PublishMetrics,
    pub(crate) kafka: kafka::KafkaMetrics,
    pub(crate) journal: journal::JournalMetrics,
    pub(crate) blocklist: blocklist::BlocklistMetrics,
    pub(crate) tokens: tokens::TokenMetrics,
    pub(crate) tls: tls::TlsMetrics,
    pub(crate) lifecycle: lifecycle::LifecycleMetrics,
}

impl Metrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry, ledger: &Ledger) -> Result<Self, prometheus::Error> {
        registry.register(Box::new(ledger::LedgerCollector::new(ledger.clone())?))?;
        registry.register(Box::new(process::ProcessCollector::new()?))?;
        Ok(Self {
            intake: intake::IntakeMetrics::register(registry)?,
            publish: publish::PublishMetrics::register(registry)?,
            kafka: kafka::KafkaMetrics::register(registry)?,
            journal: journal::JournalMetrics::register(registry)?,
            blocklist: blocklist::BlocklistMetrics::register(registry)?,
            tokens: tokens::TokenMetrics::register(registry)?,
            tls: tls::TlsMetrics::register(registry)?,
            lifecycle: lifecycle::LifecycleMetrics::register(registry)?,
        })
    }
}

/// A counter, registered.
fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// A gauge, registered.
fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A gauge of seconds, registered.
fn float_gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let gauge = Gauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A histogram with these upper bounds, registered.
fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

/// Counters by one label, registered.
fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}
