//! All metrics of the process.

use prometheus::Registry;

use crate::admin::metrics::LifecycleMetrics;
use crate::blocklist::metrics::BlocklistMetrics;
use crate::follow::tls::metrics::TlsMetrics;
use crate::follow::tokens::metrics::TokenMetrics;
use crate::intake::metrics::IntakeMetrics;
use crate::ledger::Ledger;
use crate::metrics;
use crate::metrics::journal::JournalMetrics;
use crate::publish::kafka::metrics::KafkaMetrics;
use crate::publish::metrics::PublishMetrics;

/// All metrics except those of the log, which starts before there is a registry.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) intake: IntakeMetrics,
    pub(super) publish: PublishMetrics,
    pub(super) kafka: KafkaMetrics,
    pub(super) journal: JournalMetrics,
    pub(super) blocklist: BlocklistMetrics,
    pub(super) tokens: TokenMetrics,
    pub(super) tls: TlsMetrics,
    pub(super) lifecycle: LifecycleMetrics,
}

impl Metrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(super) fn register(registry: &Registry, ledger: &Ledger) -> Result<Self, prometheus::Error> {
        metrics::register(registry, ledger)?;
        Ok(Self {
            intake: IntakeMetrics::register(registry)?,
            publish: PublishMetrics::register(registry)?,
            kafka: KafkaMetrics::register(registry)?,
            journal: JournalMetrics::register(registry)?,
            blocklist: BlocklistMetrics::register(registry)?,
            tokens: TokenMetrics::register(registry)?,
            tls: TlsMetrics::register(registry)?,
            lifecycle: LifecycleMetrics::register(registry)?,
        })
    }
}
